//! The registrar of the fault server: a careful client passes, and each carelessness is seen.

use std::collections::BTreeMap;

use dcr_operator::dcr::{
    ClientAuthentication, ClientCredentials, ClientInformation, Deleted, Outcome, UpdateSemantics,
    client_configuration_endpoint, update_document,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use crate::fault_server::{Answer, FaultServer, Registrar};
use crate::{client, object, secret};

async fn initial_token(server: &FaultServer) -> SecretString {
    let grant = ClientCredentials {
        client_id: "server".to_owned(),
        authentication: ClientAuthentication::ClientSecretBasic(secret("server-secret")),
        scope: Some("dcr".to_owned()),
        parameters: BTreeMap::new(),
    };
    client().access_token(&server.url("/token"), &grant).await.unwrap().token
}

async fn registered(server: &FaultServer) -> ClientInformation {
    let token = initial_token(server).await;
    client().register(&server.url("/reg"), Some(&token), &object(json!({"scope": "openid"}))).await.unwrap()
}

#[tokio::test]
async fn a_client_lives_from_discovery_to_deletion() {
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let metadata = client().discover(&server.url("")).await.unwrap();
    assert_eq!(metadata.registration_endpoint, Some(server.url("/reg")));
    let first = registered(&server).await;
    let uri =
        client_configuration_endpoint(&server.url("/reg"), first.registration_client_uri.as_ref().unwrap()).unwrap();

    let token = first.registration_access_token.clone().unwrap();
    assert_eq!(client().read(&uri, &token, &first.client_id).await.unwrap(), first);
    let (previous, desired) = (object(json!({"scope": "openid"})), object(json!({"client_name": "Shop"})));
    let body = update_document(&first, &previous, &desired, UpdateSemantics::Replace);
    let second = client().update(&uri, &token, &first.client_id, &body).await.unwrap();
    assert_eq!(second.metadata["client_name"], "Shop");
    assert!(!second.metadata.contains_key("scope"));

    assert_eq!(client().read(&uri, &token, &first.client_id).await.unwrap_err().reason(), "RegistrationLost");
    let token = second.registration_access_token.unwrap();
    assert_eq!(client().delete(&uri, &token).await, Ok(Deleted::Now));
    assert_eq!(client().delete(&uri, &token).await, Ok(Deleted::TokenRefused));
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 0);
}

#[tokio::test]
async fn a_lost_answer_leaves_a_client_behind_and_a_failed_one_does_not() {
    for (answer, count) in [(Answer::reset().carried_out(), 1), (Answer::reset(), 0)] {
        let server = FaultServer::start_registrar(Registrar::default()).await;
        let token = initial_token(&server).await;
        server.answer_once("POST", "/reg", answer);
        let error = client().register(&server.url("/reg"), Some(&token), &object(json!({}))).await.unwrap_err();
        assert_eq!(error.outcome(), Outcome::Unknown);
        assert_eq!(server.registrar(|registrar| registrar.client_count()), count);
        registered(&server).await;
    }
}

#[tokio::test]
async fn an_initial_token_that_is_sent_twice_is_a_misuse_even_after_a_failure() {
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let token = initial_token(&server).await;
    server.answer_once("POST", "/reg", Answer::empty(503));
    for reason in ["ServerUnavailable", "InitialAccessTokenRejected"] {
        let error = client().register(&server.url("/reg"), Some(&token), &object(json!({}))).await.unwrap_err();
        assert_eq!(error.reason(), reason);
    }
    assert_eq!(server.take_misuses(), [format!("{} was sent twice", token.expose_secret())]);
}

#[tokio::test]
async fn a_token_for_another_client_and_two_calls_at_once_are_misuses() {
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let (first, second) = (registered(&server).await, registered(&server).await);
    let token = first.registration_access_token.unwrap();
    client().read(&second.registration_client_uri.unwrap(), &token, &second.client_id).await.unwrap_err();
    assert_eq!(server.take_misuses().len(), 1);

    let uri = first.registration_client_uri.unwrap();
    let path = format!("/reg/{}", first.client_id);
    server.answer_once("GET", &path, Answer::never());
    let before = server.requests().len();
    let reading = tokio::spawn({
        let (uri, token, client_id) = (uri.clone(), token.clone(), first.client_id.clone());
        async move { client().read(&uri, &token, &client_id).await }
    });
    server.wait_for_requests(before + 1).await;
    client().read(&uri, &token, &first.client_id).await.unwrap();
    assert_eq!(server.take_misuses(), [format!("two management calls at once: GET {path}")]);
    reading.abort();
}

#[tokio::test]
async fn a_server_may_rotate_on_reads_or_have_no_management() {
    let server = FaultServer::start_registrar(Registrar::rotating_on_read()).await;
    let first = registered(&server).await;
    let uri = first.registration_client_uri.clone().unwrap();
    let second =
        client().read(&uri, first.registration_access_token.as_ref().unwrap(), &first.client_id).await.unwrap();
    assert_ne!(
        second.registration_access_token.unwrap().expose_secret(),
        first.registration_access_token.unwrap().expose_secret()
    );
    assert_ne!(second.client_secret.unwrap().expose_secret(), first.client_secret.unwrap().expose_secret());

    let server = FaultServer::start_registrar(Registrar::without_management()).await;
    let client = registered(&server).await;
    assert!(client.registration_access_token.is_none() && client.registration_client_uri.is_none());
}

#[tokio::test]
async fn a_server_that_is_down_comes_back() {
    let server = FaultServer::start_registrar(Registrar::default()).await;
    server.set_down(true);
    assert_eq!(client().discover(&server.url("")).await.unwrap_err().reason(), "ServerUnavailable");
    server.set_down(false);
    client().discover(&server.url("")).await.unwrap();
}

//! The registrar of the fault server: a careful client passes, and each carelessness is seen.

use std::collections::BTreeMap;
use std::time::Duration;

use dcr_operator::dcr::{
    ClientAuthentication, ClientCredentials, ClientInformation, Deleted, Error, KeyAlgorithm, KeyPair, Outcome,
    UpdateSemantics, client_configuration_endpoint, client_configuration_endpoint_of, update_document,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use crate::fault_server::{Answer, FaultServer, Registrar, RegistrarOptions};
use crate::{client, object, secret};

fn grant(client_id: &str, client_secret: &str, scope: Option<&str>) -> ClientCredentials {
    ClientCredentials {
        client_id: client_id.to_owned(),
        authentication: ClientAuthentication::ClientSecretBasic(secret(client_secret)),
        scope: scope.map(str::to_owned),
        parameters: BTreeMap::new(),
    }
}

async fn token(server: &FaultServer, grant: &ClientCredentials) -> Result<SecretString, Error> {
    client().access_token(&server.url("/token"), grant).await.map(|answer| answer.token)
}

async fn initial_token(server: &FaultServer) -> SecretString {
    token(server, &grant("server", "server-secret", Some("dcr"))).await.unwrap()
}

async fn registered(server: &FaultServer) -> ClientInformation {
    registered_as(server, json!({"scope": "openid"})).await
}

async fn registered_as(server: &FaultServer, metadata: Value) -> ClientInformation {
    let token = initial_token(server).await;
    client().register(&server.url("/reg"), Some(&token), &object(metadata)).await.unwrap()
}

async fn with(options: RegistrarOptions) -> FaultServer {
    FaultServer::start_registrar(Registrar::new(options)).await
}

async fn read(server: &FaultServer, last: &ClientInformation) -> Result<ClientInformation, Error> {
    let uri = server.url(&format!("/reg/{}", last.client_id));
    client().read(&uri, last.registration_access_token.as_ref().unwrap(), &last.client_id).await
}

async fn update(server: &FaultServer, last: &ClientInformation, metadata: Value) -> Result<ClientInformation, Error> {
    let uri = server.url(&format!("/reg/{}", last.client_id));
    let token = last.registration_access_token.as_ref().unwrap();
    client().update(&uri, token, &last.client_id, &object(metadata)).await
}

/// Whether the token endpoint takes a client's secret.
async fn works(server: &FaultServer, information: &ClientInformation) -> bool {
    let client_secret = information.client_secret.as_ref().unwrap().expose_secret();
    token(server, &grant(&information.client_id, client_secret, None)).await.is_ok()
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

const SERVICE: &str = "client_credentials";

#[tokio::test]
async fn a_registered_clients_secret_works_until_it_is_replaced_or_ends_or_the_client_is_gone() {
    let lifetime = Duration::from_hours(1);
    let server = with(RegistrarOptions { secret_lifetime: Some(lifetime), ..RegistrarOptions::default() }).await;
    let information = registered_as(&server, json!({"grant_types": [SERVICE]})).await;
    assert!(works(&server, &information).await);
    let (client_id, end) = (information.client_id.as_str(), information.client_secret_expires_at.unwrap());
    let now = server.registrar(|registrar| registrar.now().as_secs());
    assert!((3500..=3600).contains(&(u64::try_from(end).unwrap() - now)), "{end} {now}");
    assert_eq!(token(&server, &grant(client_id, "wrong", None)).await.unwrap_err().reason(), "TokenRequestRejected");

    server.registrar(|registrar| registrar.advance(lifetime));
    assert!(!works(&server, &information).await);

    let other = registered_as(&server, json!({"grant_types": [SERVICE]})).await;
    let uri = server.url(&format!("/reg/{}", other.client_id));
    client().delete(&uri, other.registration_access_token.as_ref().unwrap()).await.unwrap();
    assert!(!works(&server, &other).await);
}

#[tokio::test]
async fn a_client_without_the_grant_gets_no_token_but_its_secret_is_known() {
    let server = with(RegistrarOptions::default()).await;
    let information = registered(&server).await;
    let client_secret = information.client_secret.as_ref().unwrap().expose_secret();
    let error = token(&server, &grant(&information.client_id, client_secret, None)).await.unwrap_err();
    assert!(error.to_string().ends_with("answered 400 unauthorized_client"), "{error}");
    assert!(server.registrar(|registrar| registrar.accepts(&information.client_id, client_secret)));
}

#[tokio::test]
async fn the_strict_server_renews_everything_and_registers_more_than_was_asked_for() {
    let server = FaultServer::start_registrar(Registrar::strict()).await;
    let first = registered(&server).await;
    assert_eq!(first.metadata["grant_types"], json!(["authorization_code", "refresh_token"]));
    assert_eq!(first.metadata["registration_access_token_expires_in"], 28 * 24 * 3600);
    let second = read(&server, &first).await.unwrap();
    let third = update(&server, &second, json!({"client_name": "Shop", "registration_access_token_expires_in": 1}))
        .await
        .unwrap();
    let secrets = [&first, &second, &third].map(|answer| answer.client_secret.as_ref().unwrap().expose_secret());
    assert!(secrets[0] != secrets[1] && secrets[1] != secrets[2]);
    let accepted = secrets.map(|secret| server.registrar(|registrar| registrar.accepts(&first.client_id, secret)));
    assert_eq!(accepted, [false, false, true]);
    assert_eq!(read(&server, &second).await.unwrap_err().reason(), "RegistrationLost");
}

#[tokio::test]
async fn a_token_that_is_too_old_only_deletes() {
    let server = FaultServer::start_registrar(Registrar::strict()).await;
    let first = registered(&server).await;
    server.registrar(|registrar| registrar.advance(Duration::from_hours(27 * 24)));
    let second = read(&server, &first).await.unwrap();
    server.registrar(|registrar| registrar.advance(Duration::from_hours(28 * 24)));
    assert_eq!(read(&server, &second).await.unwrap_err().reason(), "RegistrationLost");
    assert_eq!(update(&server, &second, json!({})).await.unwrap_err().reason(), "RegistrationLost");
    let uri = server.url(&format!("/reg/{}", first.client_id));
    assert_eq!(client().delete(&uri, second.registration_access_token.as_ref().unwrap()).await, Ok(Deleted::Now));
}

#[tokio::test]
async fn the_previous_secret_works_during_its_grace() {
    let grace = Duration::from_mins(10);
    let server = with(RegistrarOptions {
        rotates_secret_on_update: true,
        previous_secret_works_for: grace,
        ..RegistrarOptions::default()
    })
    .await;
    let first = registered_as(&server, json!({"grant_types": [SERVICE]})).await;
    let second = update(&server, &first, json!({"grant_types": [SERVICE]})).await.unwrap();
    assert!(works(&server, &first).await && works(&server, &second).await);
    server.registrar(|registrar| registrar.advance(grace));
    assert!(!works(&server, &first).await && works(&server, &second).await);
}

#[tokio::test]
async fn a_server_may_merge_updates_add_scopes_and_keep_secrets_and_tokens_to_itself() {
    let server = with(RegistrarOptions {
        merges: true,
        keeps_token_on_update: true,
        without_secrets: true,
        adds_scope: Some("openid profile".to_owned()),
        ..RegistrarOptions::default()
    })
    .await;
    let first = registered_as(&server, json!({"scope": "openid", "client_name": "Shop", "contacts": ["a"]})).await;
    assert!(first.client_secret.is_none());
    assert_eq!(first.metadata["scope"], "openid profile");
    let second =
        update(&server, &first, json!({"contacts": [], "logo_uri": "https://x", "client_name": null})).await.unwrap();
    let metadata = Value::from(second.metadata);
    assert_eq!((&metadata["client_name"], &metadata["logo_uri"]), (&json!("Shop"), &json!("https://x")));
    assert_eq!((&metadata["scope"], metadata.get("contacts")), (&json!("openid profile"), None));
    read(&server, &first).await.unwrap();
}

#[tokio::test]
async fn a_manager_reads_changes_and_deletes_any_client() {
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let first = registered(&server).await;
    let manager = token(&server, &grant("manager", "manager-secret", Some("dcrm"))).await.unwrap();
    let uri = client_configuration_endpoint_of(&server.url("/reg"), &first.client_id).unwrap();
    assert!(client().read(&uri, &manager, &first.client_id).await.unwrap().registration_access_token.is_none());
    client().update(&uri, &manager, &first.client_id, &object(json!({"client_name": "Shop"}))).await.unwrap();
    assert_eq!(read(&server, &first).await.unwrap().metadata["client_name"], "Shop");
    assert_eq!(client().delete(&uri, &manager).await, Ok(Deleted::Now));
    assert_eq!(client().delete(&uri, &manager).await, Ok(Deleted::AlreadyGone));
    assert!(client().read(&uri, &manager, &first.client_id).await.unwrap_err().is_client_not_found());

    server.registrar(|registrar| registrar.advance(Duration::from_mins(5)));
    assert_eq!(client().delete(&uri, &manager).await, Ok(Deleted::TokenRefused));
    for (client_id, client_secret, scope) in [("manager", "manager-secret", "dcr"), ("server", "server-secret", "dcrm")]
    {
        let error = token(&server, &grant(client_id, client_secret, Some(scope))).await.unwrap_err();
        assert!(error.to_string().ends_with("answered 400 invalid_scope"), "{error}");
    }
}

#[tokio::test]
async fn a_lost_client_and_a_lost_token_look_the_same() {
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let (first, second) = (registered(&server).await, registered(&server).await);
    server.registrar(|registrar| registrar.forget(&first.client_id));
    server.registrar(|registrar| registrar.forget_token(&second.client_id));
    for lost in [&first, &second] {
        assert_eq!(read(&server, lost).await.unwrap_err().reason(), "RegistrationLost");
    }
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 1);
}

fn signing(client_id: &str, key: &KeyPair, audience: &str, scope: Option<&str>) -> ClientCredentials {
    let authentication = ClientAuthentication::PrivateKeyJwt { key: key.clone(), audience: audience.to_owned() };
    ClientCredentials { authentication, ..grant(client_id, "", scope) }
}

#[tokio::test]
async fn assertions_are_verified() {
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let issuer = server.url("");
    let [key, other] = [KeyAlgorithm::ES256, KeyAlgorithm::ES256].map(|kind| KeyPair::generate(kind).unwrap());
    let public = Value::from(key.public_jwk().clone());
    server.registrar(|registrar| registrar.trusted_keys.insert("server".to_owned(), vec![public.clone()]));
    let initial = token(&server, &signing("server", &key, &issuer, Some("dcr"))).await.unwrap();
    let metadata = json!({"grant_types": [SERVICE], "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": [public]}});
    let information = client().register(&server.url("/reg"), Some(&initial), &object(metadata)).await.unwrap();
    assert!(information.client_secret.is_none());

    let client_id = information.client_id.as_str();
    for audience in [issuer.clone(), server.url("/token")] {
        token(&server, &signing(client_id, &key, &audience, None)).await.unwrap();
    }
    for wrong in [
        signing(client_id, &other, &issuer, None),
        signing(client_id, &key, "https://elsewhere.example.com", None),
        signing("client-0", &key, &issuer, None),
    ] {
        assert_eq!(token(&server, &wrong).await.unwrap_err().reason(), "TokenRequestRejected");
    }
}

#[tokio::test]
async fn an_assertion_that_is_sent_twice_and_a_redirect_that_is_followed_are_misuses() {
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let key = KeyPair::generate(KeyAlgorithm::ES256).unwrap();
    let public = Value::from(key.public_jwk().clone());
    server.registrar(|registrar| registrar.trusted_keys.insert("server".to_owned(), vec![public]));
    token(&server, &signing("server", &key, &server.url(""), Some("dcr"))).await.unwrap();
    let body = server.requests()[0].body.clone();
    let again = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
    let request = again.post(server.url("/token")).header("content-type", "application/x-www-form-urlencoded");
    assert_eq!(request.body(body).send().await.unwrap().status(), 401);
    assert!(server.take_misuses()[0].ends_with("was sent twice"));

    server.answer("GET", "/reg/c", Answer::redirect(302, "/elsewhere"));
    again.get(server.url("/reg/c")).send().await.unwrap();
    assert_eq!(server.take_misuses(), ["a redirect was followed: GET /elsewhere"]);
}

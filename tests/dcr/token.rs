use std::collections::BTreeMap;
use std::time::Duration;

use dcr_operator::dcr::{AccessToken, ClientAuthMethod, ClientCredentials, Error, Outcome};
use dcr_operator::retry::Retry;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::fault_server::{Answer, FaultServer};
use crate::{client, secret, verdict};

fn grant() -> ClientCredentials {
    ClientCredentials {
        client_id: "server".to_owned(),
        client_secret: secret("p@ss:w+rd 100%"),
        scope: Some("dcr".to_owned()),
        auth_method: ClientAuthMethod::ClientSecretBasic,
        parameters: BTreeMap::new(),
    }
}

fn token() -> Answer {
    Answer::json(200, &json!({"access_token": "87f7", "scope": "dcr", "token_type": "Bearer", "expires_in": 300}))
}

async fn fetch(answer: Answer, grant: &ClientCredentials) -> (FaultServer, Result<AccessToken, Error>) {
    let server = FaultServer::start().await;
    server.answer("POST", "/token", answer);
    let result = client().initial_access_token(&server.url("/token"), grant).await;
    (server, result)
}

#[tokio::test]
async fn basic_authentication_form_encodes_identifier_and_secret() {
    let grant = ClientCredentials { client_id: "a:b c".to_owned(), ..grant() };
    let (server, token) = fetch(token(), &grant).await;
    let token = token.unwrap();
    assert_eq!((token.token.expose_secret(), token.expires_in), ("87f7", Some(Duration::from_mins(5))));
    let request = &server.requests()[0];
    // base64 of a%3Ab+c:p%40ss%3Aw%2Brd+100%25
    assert_eq!(request.header("authorization"), Some("Basic YSUzQWIrYzpwJTQwc3MlM0F3JTJCcmQrMTAwJTI1"));
    assert_eq!(request.header("content-type"), Some("application/x-www-form-urlencoded"));
    assert_eq!(request.body, b"grant_type=client_credentials&scope=dcr");
}

#[tokio::test]
async fn post_authentication_puts_identifier_and_secret_into_the_form() {
    let grant = ClientCredentials { auth_method: ClientAuthMethod::ClientSecretPost, ..grant() };
    let (server, token) = fetch(token(), &grant).await;
    token.unwrap();
    let request = &server.requests()[0];
    assert_eq!(request.header("authorization"), None);
    let form = request.form();
    assert_eq!((form["client_id"].as_str(), form["client_secret"].as_str()), ("server", "p@ss:w+rd 100%"));
}

#[tokio::test]
async fn further_parameters_are_sent_but_replace_nothing_and_an_empty_scope_asks_for_none() {
    let parameters = [("audience", "https://reg"), ("grant_type", "password"), ("client_id", "x"), ("scope", "admin")];
    let parameters = BTreeMap::from(parameters.map(|(name, value)| (name.to_owned(), value.to_owned())));
    for scope in [None, Some(String::new())] {
        let grant = ClientCredentials { parameters: parameters.clone(), scope, ..grant() };
        let (server, _) = fetch(token(), &grant).await;
        assert_eq!(server.requests()[0].body, b"grant_type=client_credentials&audience=https%3A%2F%2Freg");
    }
}

#[tokio::test]
async fn a_refused_token_request_keeps_the_servers_words_without_the_secret() {
    for (status, code) in [(400, "invalid_scope"), (401, "invalid_client"), (400, "unauthorized_client"), (404, "x")] {
        let words =
            json!({"error": code, "error_description": "server / p@ss:w+rd 100% / YSUz / p%40ss%3Aw%2Brd+100%25"});
        let (_, result) = fetch(Answer::json(status, &words), &grant()).await;
        let error = result.unwrap_err();
        assert_eq!(verdict(&error), ("TokenRequestRejected", Retry::Backoff, Outcome::NotRegistered));
        let text = error.to_string();
        assert!(
            text.ends_with(&format!("answered {status} {code}: \"server / [redacted] / YSUz / [redacted]\"")),
            "{text}"
        );
    }
}

#[tokio::test]
async fn the_basic_credentials_themselves_are_redacted_too() {
    let words =
        json!({"error": "invalid_client", "error_description": "bad: c2VydmVyOnAlNDBzcyUzQXclMkJyZCsxMDAlMjU="});
    let (_, result) = fetch(Answer::json(401, &words), &grant()).await;
    assert!(result.unwrap_err().to_string().ends_with("\"bad: [redacted]\""));
}

#[tokio::test]
async fn only_a_200_with_a_bearer_token_is_a_token() {
    for answer in [
        Answer::json(201, &json!({"access_token": "t", "token_type": "bearer"})),
        Answer::json(200, &json!({"access_token": "t", "token_type": "DPoP"})),
        Answer::json(200, &json!({"access_token": "t"})),
        Answer::json(200, &json!({"access_token": 7, "token_type": "bearer"})),
        Answer::json(200, &json!({"token_type": "bearer"})),
        Answer::json(200, &json!("t")),
        Answer::new(200, "text/html", "<html>"),
        Answer::redirect(302, "/login"),
        Answer::empty(429),
        Answer::empty(500),
        Answer::reset(),
    ] {
        let (server, result) = fetch(answer, &grant()).await;
        let error = result.unwrap_err();
        assert_eq!((error.reason(), error.retry()), ("ServerUnavailable", Retry::Backoff), "{error}");
        assert_eq!(server.requests().len(), 1);
    }
}

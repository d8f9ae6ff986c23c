use std::collections::BTreeMap;
use std::time::Duration;

use dcr_operator::dcr::{AccessToken, ClientAuthentication, ClientCredentials, Error, KeyAlgorithm, KeyPair, Outcome};
use dcr_operator::retry::Retry;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, Header, Validation};
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};

use crate::fault_server::{Answer, FaultServer};
use crate::{client, secret, verdict};

fn grant() -> ClientCredentials {
    ClientCredentials {
        client_id: "server".to_owned(),
        authentication: ClientAuthentication::ClientSecretBasic(secret("p@ss:w+rd 100%")),
        scope: Some("dcr".to_owned()),
        parameters: BTreeMap::new(),
    }
}

fn token() -> Answer {
    Answer::json(200, &json!({"access_token": "87f7", "scope": "dcr", "token_type": "Bearer", "expires_in": 300}))
}

async fn fetch(answer: Answer, grant: &ClientCredentials) -> (FaultServer, Result<AccessToken, Error>) {
    let server = FaultServer::start().await;
    server.answer("POST", "/token", answer);
    let result = client().access_token(&server.url("/token"), grant).await;
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
    let authentication = ClientAuthentication::ClientSecretPost(secret("p@ss:w+rd 100%"));
    let grant = ClientCredentials { authentication, ..grant() };
    let (server, token) = fetch(token(), &grant).await;
    token.unwrap();
    let request = &server.requests()[0];
    assert_eq!(request.header("authorization"), None);
    let form = request.form();
    assert_eq!((form["client_id"].as_str(), form["client_secret"].as_str()), ("server", "p@ss:w+rd 100%"));
}

/// The header and the claims of an assertion whose signature the public key of the pair confirms.
fn verified(assertion: &str, key: &KeyPair, audience: &str) -> (Header, Map<String, Value>) {
    let jwk: Jwk = serde_json::from_value(Value::from(key.public_jwk().clone())).unwrap();
    let header = jsonwebtoken::decode_header(assertion).unwrap();
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&[audience]);
    let token = jsonwebtoken::decode(assertion, &DecodingKey::from_jwk(&jwk).unwrap(), &validation).unwrap();
    (token.header, token.claims)
}

fn signing(key: KeyPair) -> ClientCredentials {
    let audience = "https://login.example.com/token".to_owned();
    ClientCredentials { authentication: ClientAuthentication::PrivateKeyJwt { key, audience }, ..grant() }
}

#[tokio::test]
async fn a_signed_assertion_names_the_client_and_the_audience_and_ends_soon() {
    for algorithm in [KeyAlgorithm::ES256, KeyAlgorithm::RS256, KeyAlgorithm::EdDSA] {
        let key = KeyPair::generate(algorithm).unwrap();
        let before = jiff::Timestamp::now().as_second();
        let (server, token) = fetch(token(), &signing(key.clone())).await;
        token.unwrap();
        let request = &server.requests()[0];
        assert_eq!(request.header("authorization"), None);
        let form = request.form();
        assert_eq!(
            form.keys().collect::<Vec<_>>(),
            ["client_assertion", "client_assertion_type", "client_id", "grant_type", "scope"]
        );
        assert_eq!(form["client_assertion_type"], "urn:ietf:params:oauth:client-assertion-type:jwt-bearer");
        assert_eq!(form["client_id"], "server");

        let (header, claims) = verified(&form["client_assertion"], &key, "https://login.example.com/token");
        assert_eq!(header.kid.as_deref(), Some(key.kid()));
        assert_eq!(claims.keys().collect::<Vec<_>>(), ["aud", "exp", "iat", "iss", "jti", "sub"]);
        assert_eq!((&claims["iss"], &claims["sub"]), (&json!("server"), &json!("server")));
        let (iat, exp) = (claims["iat"].as_i64().unwrap(), claims["exp"].as_i64().unwrap());
        assert!((before..=before + 60).contains(&iat) && exp == iat + 60, "{iat} {exp}");
    }
}

#[tokio::test]
async fn each_assertion_has_an_identifier_of_its_own() {
    let server = FaultServer::start().await;
    server.answer("POST", "/token", token());
    let key = KeyPair::generate(KeyAlgorithm::ES256).unwrap();
    let identifiers = async || {
        client().access_token(&server.url("/token"), &signing(key.clone())).await.unwrap();
        let form = server.requests().last().unwrap().form();
        verified(&form["client_assertion"], &key, "https://login.example.com/token").1["jti"].clone()
    };
    assert_ne!(identifiers().await, identifiers().await);
}

#[tokio::test]
async fn an_assertion_that_the_server_echoes_is_shown_in_no_error() {
    let server = FaultServer::start().await;
    server.handle("POST", "/token", |request| {
        let assertion = &request.form()["client_assertion"];
        Answer::json(401, &json!({"error": "invalid_client", "error_description": format!("bad: {assertion} ({}…)", &assertion[..40])}))
    });
    let key = KeyPair::generate(KeyAlgorithm::ES256).unwrap();
    let error = client().access_token(&server.url("/token"), &signing(key)).await.unwrap_err();
    assert_eq!(verdict(&error), ("TokenRequestRejected", Retry::Backoff, Outcome::NotRegistered));
    assert!(error.to_string().ends_with("invalid_client: \"bad: [redacted] ([redacted]…)\""), "{error}");
}

#[tokio::test]
async fn a_client_that_shows_its_certificate_sends_its_identifier_alone() {
    let (server, token) =
        fetch(token(), &ClientCredentials { authentication: ClientAuthentication::TlsClientAuth, ..grant() }).await;
    token.unwrap();
    let request = &server.requests()[0];
    assert_eq!(request.header("authorization"), None);
    assert_eq!(request.body, b"grant_type=client_credentials&scope=dcr&client_id=server");
}

#[tokio::test]
async fn further_parameters_are_sent_but_replace_nothing_and_an_empty_scope_asks_for_none() {
    let parameters = [
        ("audience", "https://reg"),
        ("grant_type", "password"),
        ("client_id", "x"),
        ("scope", "admin"),
        ("client_assertion", "x"),
        ("client_assertion_type", "x"),
    ];
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

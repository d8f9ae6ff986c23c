//! What the other tests rely on when they look into Keycloak: it registers, changes and removes clients by the standards,
//! and tells what it has.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::keycloak::Keycloak;

/// A request to a registration or management endpoint.
async fn request(method: Method, url: &str, token: &str, body: Option<&Value>) -> (StatusCode, Value) {
    let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
    let mut request = client.request(method, url).bearer_auth(token).header("content-type", "application/json");
    if let Some(body) = body {
        request = request.body(body.to_string());
    }
    let response = request.send().await.unwrap();
    let (status, body) = (response.status(), response.bytes().await.unwrap());
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

fn text<'a>(answer: &'a Value, name: &str) -> &'a str {
    answer[name].as_str().unwrap_or_else(|| panic!("no {name} in {answer}"))
}

async fn registered(keycloak: &Keycloak, metadata: &Value) -> Value {
    let token = keycloak.bearer(Keycloak::REGISTRAR, Keycloak::REGISTRAR_SECRET).await;
    let (status, client) = request(Method::POST, &keycloak.registration_endpoint(), &token, Some(metadata)).await;
    assert_eq!(status, StatusCode::CREATED, "{client}");
    client
}

#[tokio::test]
async fn a_client_lives_from_registration_to_deletion() {
    let keycloak = Keycloak::shared();
    let metadata = json!({"client_name": "Shop", "redirect_uris": ["https://shop.example.com/callback"],
        "grant_types": ["client_credentials", "password"]});
    let client = registered(keycloak, &metadata).await;
    let (client_id, secret) = (text(&client, "client_id"), text(&client, "client_secret"));
    let uri = text(&client, "registration_client_uri");
    assert_eq!(uri, format!("{}/{client_id}", keycloak.registration_endpoint()));

    // The server's own view, and its credentials at work.
    assert_eq!(keycloak.client(client_id).await.unwrap()["name"], "Shop");
    assert_eq!(keycloak.token(client_id, secret).await.0, StatusCode::OK);
    assert_eq!(keycloak.token(client_id, "wrong").await.0, StatusCode::UNAUTHORIZED);
    let (status, login) = keycloak.log_in(client_id, secret).await;
    assert_eq!(status, StatusCode::OK, "{login}");
    assert!(login["id_token"].is_string());

    // An update rotates the registration access token.
    let token = text(&client, "registration_access_token");
    let update = json!({"client_id": client_id, "client_name": "Store", "redirect_uris": ["https://shop.example.com/callback"],
        "grant_types": ["client_credentials"]});
    let (status, updated) = request(Method::PUT, uri, token, Some(&update)).await;
    assert_eq!(status, StatusCode::OK, "{updated}");
    assert_eq!(keycloak.client(client_id).await.unwrap()["name"], "Store");
    assert_eq!(request(Method::GET, uri, token, None).await.0, StatusCode::UNAUTHORIZED);

    let token = text(&updated, "registration_access_token");
    assert_eq!(request(Method::DELETE, uri, token, None).await.0, StatusCode::NO_CONTENT);
    assert_eq!(keycloak.client(client_id).await, None);
    assert_eq!(request(Method::GET, uri, token, None).await.0, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn what_happens_behind_the_back_of_a_client_is_seen() {
    let keycloak = Keycloak::shared();
    let client = registered(keycloak, &json!({"client_name": "Shop", "grant_types": ["client_credentials"]})).await;
    let (client_id, uri) = (text(&client, "client_id"), text(&client, "registration_client_uri"));
    let token = text(&client, "registration_access_token");

    keycloak.change(client_id, json!({"name": "Drifted"})).await;
    assert_eq!(request(Method::GET, uri, token, None).await.1["client_name"], "Drifted");

    let secret = keycloak.change_secret(client_id).await;
    assert_eq!(keycloak.token(client_id, text(&client, "client_secret")).await.0, StatusCode::UNAUTHORIZED);
    assert_eq!(keycloak.token(client_id, &secret).await.0, StatusCode::OK);

    keycloak.forget_registration_token(client_id).await;
    assert_eq!(request(Method::GET, uri, token, None).await.0, StatusCode::UNAUTHORIZED);
    // The manager's token still finds it.
    let manager = keycloak.bearer(Keycloak::MANAGER, Keycloak::MANAGER_SECRET).await;
    assert_eq!(request(Method::GET, uri, &manager, None).await.0, StatusCode::OK);

    keycloak.forget(client_id).await;
    assert_eq!(keycloak.client(client_id).await, None);
    assert_eq!(request(Method::GET, uri, &manager, None).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_restart_keeps_the_clients() {
    let keycloak = Keycloak::start().await;
    let client = registered(&keycloak, &json!({"client_name": "Shop"})).await;
    let (client_id, secret) = (text(&client, "client_id"), text(&client, "client_secret"));
    keycloak.restart().await;
    assert!(keycloak.client(client_id).await.is_some());
    assert!(keycloak.accepts(client_id, secret).await);
    assert!(!keycloak.accepts(client_id, "wrong").await);
}

//! What the other tests rely on when they look into Keycloak: it registers, changes and removes clients by the standards,
//! and tells what it has.

use std::collections::BTreeMap;

use dcr_operator::dcr::{
    ClientAuthentication, ClientCredentials, ClientInformation, KeyAlgorithm, KeyPair, Server, UpdateSemantics,
    update_document,
};
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};

use crate::{authorization_server::options, support::keycloak::Keycloak};

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

fn dcr() -> Server {
    Server::new(&options()).unwrap()
}

fn object(value: Value) -> Map<String, Value> {
    serde_json::from_value(value).unwrap()
}

async fn update(last: &ClientInformation, previous: &Value, desired: &Value) -> ClientInformation {
    let body = update_document(last, &object(previous.clone()), &object(desired.clone()), UpdateSemantics::Merge);
    let token = last.registration_access_token.as_ref().unwrap();
    let uri = last.registration_client_uri.as_ref().unwrap();
    dcr().update(uri, token, &last.client_id, &body).await.unwrap()
}

#[tokio::test]
async fn an_update_of_a_server_that_merges_removes_what_is_no_longer_asked_for() {
    let keycloak = Keycloak::shared();
    let first = json!({"client_name": "Shop", "client_uri": "https://shop.example.com", "scope": "phone",
        "redirect_uris": ["https://shop.example.com/callback"], "grant_types": ["client_credentials"],
        "require_pushed_authorization_requests": true, "backchannel_logout_uri": "https://shop.example.com/out"});
    let client = ClientInformation::from_json(object(registered(keycloak, &first).await)).unwrap();
    let second = json!({"client_name": "Shop", "redirect_uris": ["https://shop.example.com/callback"]});
    let client = update(&client, &first, &second).await;
    for (name, gone) in [("client_uri", json!("")), ("scope", json!("")), ("backchannel_logout_uri", json!(""))] {
        let value = client.metadata.get(name).cloned().unwrap_or(gone.clone());
        assert_eq!(value, gone, "{name}");
    }
    assert_eq!(client.metadata["grant_types"], json!(["authorization_code"]));
    assert_eq!(client.metadata["client_name"], "Shop");
    assert_eq!(client.metadata.get("require_pushed_authorization_requests"), Some(&json!(false)));
}

#[tokio::test]
async fn a_client_may_sign_instead_of_showing_a_secret() {
    let keycloak = Keycloak::shared();
    for algorithm in [KeyAlgorithm::ES256, KeyAlgorithm::RS256, KeyAlgorithm::EdDSA] {
        let keys = [(); 2].map(|()| KeyPair::generate(algorithm).unwrap());
        let metadata = json!({"client_name": "Shop", "grant_types": ["client_credentials"],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks": {"keys": keys.iter().map(KeyPair::public_jwk).collect::<Vec<_>>()}});
        let client = registered(keycloak, &metadata).await;
        assert_eq!(client["jwks"], metadata["jwks"], "both keys are kept, as a rotation with an overlap needs it");
        for key in keys {
            let grant = ClientCredentials {
                client_id: text(&client, "client_id").to_owned(),
                authentication: ClientAuthentication::PrivateKeyJwt { key, audience: keycloak.issuer().to_owned() },
                scope: None,
                parameters: BTreeMap::new(),
            };
            dcr().access_token(&keycloak.token_endpoint(), &grant).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_registration_secret_that_is_lost_is_read_anew_by_the_management_client() {
    use crate::fixtures::*;
    let (home, server) = (Home::new("reread").await, Keycloak::shared());
    let mut manager = registrar_secret(Keycloak::MANAGER_SECRET);
    manager["metadata"]["name"] = json!("manager");
    let mut profile = profile(server.issuer());
    profile["spec"]["initialAccessToken"]["clientCredentials"]["clientId"] = json!(Keycloak::REGISTRAR);
    profile["spec"]["server"] = json!({
        "type": "Keycloak",
        "managementClient": {"clientId": Keycloak::MANAGER, "secretRef": {"name": "manager"}},
    });
    for object in [registrar_secret(Keycloak::REGISTRAR_SECRET), manager, profile] {
        home.apply(&object).await;
    }
    home.until_profile_ready().await;
    home.register("shop").await;
    let before = home.secret("shop").await;
    let finalizers = json!({"metadata": {"finalizers": null}});
    home.patch(SECRETS, "shop-registration", finalizers).await;
    home.delete(SECRETS, "shop-registration").await;
    home.until_condition(CLIENTS, "shop", ["Registered", "True", "Adopted"]).await;
    assert_eq!(home.registration("shop").await["client_id"], before["client-id"].as_str());
    assert_eq!(home.secret("shop").await, before);
}

//! Clients that exist before their OAuthClient.

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        fault_server::FaultServer,
    },
};

/// Registers a client as people do without an operator.
async fn registered_by_hand(server: &AuthorizationServer, name: &str) -> Value {
    let http = server.http();
    let form = [("grant_type", "client_credentials"), ("scope", "dcr")];
    let token = http
        .post(format!("{}/token", server.issuer()))
        .basic_auth(AuthorizationServer::REGISTRAR, Some(AuthorizationServer::REGISTRAR_SECRET))
        .form(&form);
    let token: Value = serde_json::from_slice(&token.send().await.unwrap().bytes().await.unwrap()).unwrap();
    let metadata = json!({"client_name": name, "redirect_uris": [REDIRECT_URI], "scope": "openid"});
    let answer = http
        .post(format!("{}/reg", server.issuer()))
        .bearer_auth(token["access_token"].as_str().unwrap())
        .header("content-type", "application/json")
        .body(metadata.to_string());
    serde_json::from_slice(&answer.send().await.unwrap().bytes().await.unwrap()).unwrap()
}

fn text<'a>(client: &'a Value, name: &str) -> &'a str {
    client[name].as_str().unwrap_or_else(|| panic!("no {name} in {client}"))
}

fn credentials(data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "old", "labels": {"dcr-operator.dev/credentials": "true"}},
        "stringData": data,
    })
}

#[tokio::test]
async fn a_client_is_adopted_with_its_token_read_first_and_then_made_what_the_spec_asks_for() {
    let (home, server) = (Home::new("adopt").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let by_hand = registered_by_hand(server, "by hand").await;
    home.apply(&credentials(json!({"registration-access-token": text(&by_hand, "registration_access_token")}))).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["adopt"] = json!({
        "clientId": text(&by_hand, "client_id"),
        "registrationClientUri": text(&by_hand, "registration_client_uri"),
        "secretRef": {"name": "old"},
    });
    home.apply(&client).await;
    assert_says(&home.until_event("Drifted").await, &["client_name", "scope"]);
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    let adopted = home.until_ready("shop").await;
    assert_eq!(verdict(&adopted, "Registered"), "True Adopted");
    assert_eq!(adopted["status"]["clientId"], by_hand["client_id"]);
    assert_eq!(home.registered(server, "shop").await.len(), 1, "under its new name");
    let secret = home.secret("shop").await;
    assert_eq!(secret["client-secret"], text(&by_hand, "client_secret"));
    server.log_in(application(&secret)).await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty());
}

#[tokio::test]
async fn a_client_without_management_is_adopted_as_it_was_given() {
    let home = Home::new("given").await;
    let options = AuthorizationServerOptions { unmanaged: true, ..AuthorizationServerOptions::default() };
    let server = AuthorizationServer::start(options).await;
    home.profile(server.issuer()).await;
    let by_hand = registered_by_hand(&server, "by hand").await;
    home.apply(&credentials(json!({"client-secret": text(&by_hand, "client_secret")}))).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["adopt"] = json!({"clientId": text(&by_hand, "client_id"), "secretRef": {"name": "old"}});
    home.apply(&client).await;
    let adopted = home.until_ready("shop").await;
    assert_eq!(verdict(&adopted, "InSync"), "Unknown NotCompared");
    let secret = home.secret("shop").await;
    assert_eq!(
        (secret["client-id"].as_str(), secret["client-secret"].as_str()),
        (text(&by_hand, "client_id"), text(&by_hand, "client_secret"))
    );
    assert_eq!(server.clients().await.len(), 1, "nothing was registered");
}

#[tokio::test]
async fn what_an_adoption_lacks_is_told_and_it_goes_on_when_it_is_there() {
    let (home, server) = (Home::new("lacks").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let by_hand = registered_by_hand(server, "by hand").await;
    let mut client = home.oauth_client("shop");
    client["spec"]["adopt"] = json!({
        "clientId": text(&by_hand, "client_id"),
        "registrationClientUri": text(&by_hand, "registration_client_uri"),
        "secretRef": {"name": "old"},
    });
    home.apply(&client).await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "SecretNotFound"]).await;
    assert_says(&message, &["Secret", "/old does not exist"]);
    home.apply(&credentials(json!({"registration-access-token": "wrong"}))).await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "RegistrationLost"]).await;
    assert_says(&message, &["401", "spec.adopt.secretRef"]);
    home.apply(&credentials(json!({"registration-access-token": text(&by_hand, "registration_access_token")}))).await;
    home.until_condition(CLIENTS, "shop", ["Registered", "True", "Adopted"]).await;
    home.until_ready("shop").await;
}

#[tokio::test]
async fn a_registration_client_uri_of_another_origin_is_not_called() {
    let (home, server) = (Home::new("origin").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let elsewhere = FaultServer::start().await;
    let by_hand = registered_by_hand(server, "by hand").await;
    let client_id = text(&by_hand, "client_id");
    home.apply(&credentials(json!({"registration-access-token": text(&by_hand, "registration_access_token")}))).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["adopt"] = json!({
        "clientId": client_id,
        "registrationClientUri": elsewhere.url(&format!("/reg/{client_id}")),
        "secretRef": {"name": "old"},
    });
    home.apply(&client).await;
    let adopted = home.until_ready("shop").await;
    assert_eq!(adopted["status"]["registrationClientUri"], format!("{}/reg/{client_id}", server.issuer()));
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn a_client_is_adopted_by_one_and_two_do_not_share_a_secret() {
    let (home, server) = (Home::new("twice").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let by_hand = registered_by_hand(server, "by hand").await;
    home.apply(&credentials(json!({"registration-access-token": text(&by_hand, "registration_access_token")}))).await;
    let adopting = |name: &str| {
        let mut client = home.oauth_client(name);
        client["spec"]["adopt"] = json!({
            "clientId": text(&by_hand, "client_id"),
            "registrationClientUri": text(&by_hand, "registration_client_uri"),
            "secretRef": {"name": "old"},
        });
        client
    };
    home.apply(&adopting("first")).await;
    home.until_ready("first").await;
    home.apply(&adopting("second")).await;
    let message = home.until_condition(CLIENTS, "second", ["Registered", "False", "ClientConflict"]).await;
    assert_says(&message, &["/first", text(&by_hand, "client_id")]);

    let mut third = home.oauth_client("third");
    third["spec"]["secret"] = json!({"name": "first"});
    home.apply(&third).await;
    home.until_condition(CLIENTS, "third", ["SecretSynced", "False", "SecretConflict"]).await;
    assert_eq!(home.secret("first").await["client-id"], text(&by_hand, "client_id"));
}

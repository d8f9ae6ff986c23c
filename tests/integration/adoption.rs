//! Clients that exist before their OAuthClient.

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        fault_server::{Answer, FaultServer, Registrar},
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

/// The registration Secret is lost. The management client can read the client, and is not told its secret.
async fn without_its_secret(prefix: &str) -> (Home, FaultServer, String) {
    let (home, server) = (Home::new(prefix).await, FaultServer::start_registrar(Registrar::default()).await);
    let mut manager = registrar_secret("manager-secret");
    manager["metadata"]["name"] = json!("manager");
    home.apply(&manager).await;
    let mut profile = profile(&server.url(""));
    profile["spec"]["server"] =
        json!({"managementClient": {"clientId": "manager", "scope": "dcrm", "secretRef": {"name": "manager"}}});
    home.apply(&registrar_secret("server-secret")).await;
    home.apply(&profile).await;
    home.until_profile_ready().await;
    let client_id = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    let told = Answer::json(200, &json!({"client_id": client_id, "client_name": "shop"}));
    server.answer("GET", &format!("/reg/{client_id}"), told);
    home.patch(SECRETS, "shop-registration", json!({"metadata": {"finalizers": null}})).await;
    home.delete(SECRETS, "shop-registration").await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "RegistrationLost"]).await;
    assert_says(&message, &["spec.adopt", "client-secret", "spec.replacement.when: [RegistrationLost]"]);
    (home, server, client_id)
}

#[tokio::test]
async fn a_client_whose_secret_was_lost_is_kept_if_somebody_knows_the_secret() {
    let (home, _server, client_id) = without_its_secret("regiven").await;
    let secret = home.secret("shop").await["client-secret"].clone();
    home.apply(&credentials(json!({"client-secret": secret}))).await;
    let adopt = json!({"clientId": client_id, "secretRef": {"name": "old"}});
    home.patch(CLIENTS, "shop", json!({"spec": {"adopt": adopt}})).await;
    home.until_condition(CLIENTS, "shop", ["Registered", "True", "Adopted"]).await;
    assert_eq!(home.until_ready("shop").await["status"]["clientId"], client_id.as_str());
    assert_eq!(home.secret("shop").await["client-secret"], secret);
}

#[tokio::test]
async fn a_client_whose_secret_was_lost_is_replaced_if_the_spec_allows_it() {
    let (home, _server, client_id) = without_its_secret("unknown").await;
    home.patch(CLIENTS, "shop", json!({"spec": {"replacement": {"when": ["RegistrationLost"]}}})).await;
    home.until_condition(CLIENTS, "shop", ["Registered", "True", "Replaced"]).await;
    assert_ne!(home.until_ready("shop").await["status"]["clientId"], client_id.as_str());
}

//! A spec that changes, and a server that has its own mind.

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        fault_server::{Answer, FaultServer, Registrar},
        process::wait_until,
    },
};

#[tokio::test]
async fn a_changed_spec_reaches_the_server_with_the_token_that_the_last_change_gave() {
    let (home, server) = (Home::new("changed").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.register("shop").await;
    let secret = home.secret("shop").await;
    let mut client = home.oauth_client("shop");
    let mut token = home.registration("shop").await["registration_access_token"].clone();
    for uri in ["https://shop.example.com/second", "https://shop.example.com/third"] {
        client["spec"]["clientMetadata"]["redirect_uris"] = json!([REDIRECT_URI, uri]);
        client["spec"]["clientMetadata"]["client_uri"] = json!("https://shop.example.com/");
        home.apply(&client).await;
        home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
        let registered = home.registered(server, "shop").await;
        assert_eq!(registered.len(), 1);
        assert_eq!(registered[0]["redirect_uris"], json!([REDIRECT_URI, uri]));
        assert_eq!(home.secret("shop").await["redirect-uris"], format!("{REDIRECT_URI},{uri}"));
        let rotated = home.registration("shop").await["registration_access_token"].clone();
        assert_ne!(rotated, token);
        token = rotated;
    }

    client["spec"]["clientMetadata"].as_object_mut().unwrap().remove("client_uri");
    home.apply(&client).await;
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    assert_eq!(
        home.registered(server, "shop").await[0]["client_uri"],
        Value::Null,
        "what was removed is gone there too"
    );
    let now = home.secret("shop").await;
    assert_eq!((&now["client-id"], &now["client-secret"]), (&secret["client-id"], &secret["client-secret"]));
    server.log_in(application(&now)).await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty());
}

#[tokio::test]
async fn what_the_server_registered_differently_is_told() {
    let (home, server) = (Home::new("differs").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["additionalMetadata"] = json!({"template_area": "eu"});
    home.apply(&client).await;
    home.until_ready("shop").await;
    let message = home.until_condition(CLIENTS, "shop", ["InSync", "True", "MetadataReplaced"]).await;
    assert_says(&message, &["template_area", "status.serverChanges"]);
    let client = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(client["status"]["serverChanges"], json!([{"name": "template_area", "requested": "eu"}]));
}

#[tokio::test]
async fn a_value_that_the_server_replaced_is_shown_beside_the_one_that_was_asked_for() {
    let (home, server) = (Home::new("replaced").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let mut answer = home.oauth_client("shop")["spec"]["clientMetadata"].clone();
    answer["client_id"] = json!("client-of-test");
    answer["scope"] = json!("openid");
    server.answer_once("POST", "/reg", Answer::json(201, &answer));
    let client = home.register("shop").await;
    assert_eq!(
        client["status"]["serverChanges"],
        json!([{"name": "scope", "requested": "openid email", "registered": "openid"}])
    );
    assert_eq!(home.secret("shop").await["scope"], "openid", "the application learns what it has");
}

#[tokio::test]
async fn a_refused_change_leaves_the_credentials_as_they_are() {
    let (home, server) = (Home::new("refused").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let ready = home.register("shop").await;
    let secret = home.secret("shop").await;
    let path = format!("/reg/{}", ready["status"]["clientId"].as_str().unwrap());
    let refusal = json!({"error": "invalid_client_metadata", "error_description": "scope is not for you"});
    server.answer_once("PUT", &path, Answer::json(400, &refusal));
    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"]["scope"] = json!("openid admin");
    home.apply(&client).await;
    let message = home.until_condition(CLIENTS, "shop", ["InSync", "False", "UpdateRejected"]).await;
    assert_says(&message, &["invalid_client_metadata", "scope is not for you"]);
    let object = home.until("Stalled", CLIENTS, "shop", |c| verdict(c, "Stalled") == "True UpdateRejected").await;
    assert_eq!(verdict(&object, "Ready"), "True Ready");
    home.annotate("shop", "team", "shop").await;
    home.register("barrier").await;
    assert_eq!(server.requests_to("PUT", &path).len(), 1, "the same is not tried again");
    assert_eq!(home.secret("shop").await, secret);

    client["spec"]["clientMetadata"]["scope"] = json!("openid profile");
    home.apply(&client).await;
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    assert_eq!(home.secret("shop").await["scope"], "openid,profile");
}

#[tokio::test]
async fn an_outage_leaves_a_registered_client_ready() {
    let (home, server) = (Home::new("outage").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.register("shop").await;
    server.set_down(true);
    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"]["scope"] = json!("openid");
    home.apply(&client).await;
    let message = home.until_condition(CLIENTS, "shop", ["InSync", "Unknown", "ServerUnavailable"]).await;
    assert_says(&message, &["PUT http://127.0.0.1"]);
    let object = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&object, "Ready"), "True Ready");
    home.delete(SECRETS, "shop").await;
    home.until("restored without the server", SECRETS, "shop", |secret| secret["data"]["client-id"].is_string()).await;
    server.set_down(false);
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    let metadata = server.registrar(|registrar| registrar.clients.values().next().unwrap().metadata.clone());
    assert_eq!(metadata["scope"], "openid");
}

#[tokio::test]
async fn a_server_without_management_is_told_of_and_leaves_an_orphan() {
    let home = Home::without_operator("unmanaged").await;
    let operator = home.operator(&[]).await;
    let options = AuthorizationServerOptions { unmanaged: true, ..AuthorizationServerOptions::default() };
    let server = AuthorizationServer::start(options).await;
    home.profile(server.issuer()).await;
    home.register("shop").await;
    let secret = home.secret("shop").await;

    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"]["scope"] = json!("openid");
    home.apply(&client).await;
    let message = home.until_condition(CLIENTS, "shop", ["InSync", "False", "UpdateUnsupported"]).await;
    assert_says(&message, &["no registration access token", "Revert the spec", &secret["client-id"]]);
    let object = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&object, "Stalled"), "True UpdateUnsupported");
    assert_eq!(verdict(&object, "Ready"), "True Ready");
    assert_eq!(home.secret("shop").await, secret);
    server.log_in(application(&secret)).await;

    home.apply(&home.oauth_client("shop")).await;
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;

    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_says(&home.until_event("Orphaned").await, &[&secret["client-id"], PROFILE, "no registration access token"]);
    assert_eq!(metric(&operator, "dcr_operator_orphans_total").await, 1);
    assert_eq!(home.registered(&server, "shop").await.len(), 1);
    home.until_gone(SECRETS, "shop").await;
    home.until_gone(SECRETS, "shop-registration").await;
}

#[tokio::test]
async fn a_server_that_answers_405_to_updates_gets_a_new_client_where_the_spec_allows_it() {
    let home = Home::new("no-updates").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    let first = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    let path = format!("/reg/{first}");
    server.answer("PUT", &path, Answer::empty(405));
    home.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    home.until_condition(CLIENTS, "shop", ["InSync", "False", "UpdateUnsupported"]).await;
    assert_eq!(verdict(&home.until_ready("shop").await, "Stalled"), "True UpdateUnsupported");
    assert_eq!(server.requests_to("PUT", &path).len(), 1, "not asked for again");

    home.patch(CLIENTS, "shop", json!({"spec": {"replacement": {"when": ["UpdateUnsupported"], "overlap": "0s"}}}))
        .await;
    let replaced =
        home.until("replaced", CLIENTS, "shop", |client| verdict(client, "Registered") == "True Replaced").await;
    assert_ne!(replaced["status"]["clientId"], first.as_str());
    wait_until("the former client is gone", WAIT, async || server.registrar(|registrar| registrar.client_count()) == 1)
        .await;
    let rest = home.until("in order", CLIENTS, "shop", |client| verdict(client, "InSync") == "True InSync").await;
    assert_eq!(verdict(&rest, "Ready"), "True Ready");
}

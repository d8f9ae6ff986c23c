//! Clients and profiles find each other, in whatever order and namespace.

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::AuthorizationServer,
        fault_server::{FaultServer, Registrar},
    },
};

#[tokio::test]
async fn a_client_waits_for_its_profile_and_finds_it_when_it_appears() {
    let (home, server) = (Home::new("early").await, AuthorizationServer::shared());
    home.apply(&home.oauth_client("shop")).await;
    let message = home.until_condition(CLIENTS, "shop", ["Accepted", "False", "ProfileNotFound"]).await;
    assert_says(&message, &[&format!("TokenProfile {}/{PROFILE} does not exist", home.name)]);
    let object = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&object, "Stalled"), "", "the profile may still come");
    assert!(home.get(SECRETS, "shop").await.is_none());
    home.profile(server.issuer()).await;
    home.until_ready("shop").await;
    assert_eq!(home.registered(server, "shop").await.len(), 1);
}

/// A client in `home` of the profile in `identity`.
fn client_of(identity: &Home, home: &Home) -> Value {
    let mut client = home.oauth_client("shop");
    client["spec"]["profileRef"] = json!({"name": PROFILE, "namespace": identity.name});
    client
}

#[tokio::test]
async fn a_profile_of_another_namespace_must_allow_it() {
    let (identity, server) = (Home::new("identity").await, AuthorizationServer::shared());
    identity.profile(server.issuer()).await;
    let home = identity.neighbour("tenant").await;
    home.apply(&client_of(&identity, &home)).await;
    let message = home.until_condition(CLIENTS, "shop", ["Accepted", "False", "RefNotPermitted"]).await;
    assert_says(&message, &[&identity.name, &home.name, "spec.allowedNamespaces"]);
    assert!(home.registered(server, "shop").await.is_empty());
    identity.patch(PROFILES, PROFILE, json!({"spec": {"allowedNamespaces": {"from": "All"}}})).await;
    home.until_ready("shop").await;

    // Taken away again: what is registered stays, and nothing new is registered.
    identity.patch(PROFILES, PROFILE, json!({"spec": {"allowedNamespaces": {"from": "Same"}}})).await;
    home.until_condition(CLIENTS, "shop", ["Accepted", "False", "RefNotPermitted"]).await;
    let client = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&client, "Ready"), "True Ready");
    server.log_in(application(&home.secret("shop").await)).await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty());
}

#[tokio::test]
async fn of_a_profile_where_the_operator_does_not_look_it_does_not_say_that_there_is_none() {
    let home = Home::without_operator("tenant").await;
    let identity = home.neighbour("identity").await;
    identity.apply(&profile("https://login.example.com")).await;
    let _operator = home.operator(&[]).await;
    home.apply(&client_of(&identity, &home)).await;
    let message = home.until_condition(CLIENTS, "shop", ["Accepted", "False", "ProfileNotFound"]).await;
    let profile = format!("TokenProfile {}/{PROFILE} can't be seen", identity.name);
    assert_says(&message, &[&profile, "the operator does not watch its namespace (--namespaces)"]);
}

#[tokio::test]
async fn a_namespace_is_allowed_by_its_labels_once_it_has_them() {
    let (identity, server) = (Home::new("identity").await, AuthorizationServer::shared());
    let mut selective = profile(server.issuer());
    let labels = json!({"matchLabels": {"may-register": "yes"}});
    selective["spec"]["allowedNamespaces"] = json!({"from": "Selector", "selector": labels});
    identity.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    identity.apply(&selective).await;
    let home = identity.neighbour("labelled").await;
    home.apply(&client_of(&identity, &home)).await;
    home.until_condition(CLIENTS, "shop", ["Accepted", "False", "RefNotPermitted"]).await;
    home.label_namespace("may-register", "yes").await;
    home.until_ready("shop").await;
    assert_eq!(home.registered(server, "shop").await.len(), 1);
}

#[tokio::test]
async fn a_suspended_profile_is_waited_for_but_not_by_deletions() {
    let (home, server) = (Home::new("suspended").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.register("former").await;
    home.patch(PROFILES, PROFILE, json!({"spec": {"suspend": true}})).await;
    let seen = home.until("seen", PROFILES, PROFILE, |profile| profile["status"]["observedGeneration"] == 2).await;
    assert_eq!(verdict(&seen, "Ready"), "True Ready", "a suspended object keeps its conditions");
    home.apply(&home.oauth_client("shop")).await;
    let message = home.until_condition(CLIENTS, "shop", ["Accepted", "Unknown", "ProfileNotReady"]).await;
    assert_says(&message, &[PROFILE, "suspended"]);
    home.delete(CLIENTS, "former").await;
    home.until_gone(CLIENTS, "former").await;
    assert!(home.registered(server, "former").await.is_empty());
    home.patch(PROFILES, PROFILE, json!({"spec": {"suspend": false}})).await;
    home.until_ready("shop").await;
}

#[tokio::test]
async fn a_suspended_client_is_left_as_it_is() {
    let (home, server) = (Home::new("paused").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.register("shop").await;
    home.annotate("shop", "dcr-operator.dev/paused", "true").await;
    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"]["scope"] = json!("openid");
    home.apply(&client).await;
    home.until("seen", CLIENTS, "shop", |c| c["status"]["observedGeneration"] == 2).await;
    assert_eq!(home.registered(server, "shop").await[0]["scope"], "openid email");
    home.annotate("shop", "dcr-operator.dev/paused", "false").await;
    let scope = json!(k8s_openapi::ByteString(b"openid".to_vec()));
    home.until("the scope", SECRETS, "shop", |secret| secret["data"]["scope"] == scope).await;
    assert_eq!(home.registered(server, "shop").await[0]["scope"], "openid");
}

#[tokio::test]
async fn a_server_that_is_down_is_told_of_and_waited_for() {
    let (home, server) = (Home::new("down").await, FaultServer::start_registrar(Registrar::default()).await);
    server.set_down(true);
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    home.apply(&profile(&server.url(""))).await;
    home.apply(&home.oauth_client("shop")).await;
    let object = home
        .until("told why", CLIENTS, "shop", |client| {
            let accepted = condition(client, "Accepted");
            let message = accepted["message"].as_str().unwrap_or_default();
            accepted["reason"] == "ProfileNotReady"
                && [PROFILE, "ServerUnavailable", "GET http://127.0.0.1"].iter().all(|word| message.contains(word))
        })
        .await;
    assert_eq!(
        (verdict(&object, "Ready"), verdict(&object, "Stalled")),
        ("Unknown ProfileNotReady".into(), String::new())
    );
    server.set_down(false);
    home.until_ready("shop").await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 1);
}

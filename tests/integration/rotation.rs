//! New credentials: on demand, in place or by a new client, and the workloads that are restarted for them.

use std::collections::BTreeMap;

use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        fault_server::{FaultServer, Registrar},
        process::wait_until,
    },
};

const ROTATE: &str = "dcr-operator.dev/rotate-requested-at";

async fn until_rotated(home: &Home, asked: &'static str) -> Value {
    let handled = move |client: &Value| client["status"]["lastHandledRotateAt"] == asked;
    home.until("the rotation is echoed", CLIENTS, "shop", handled).await
}

/// Whether the server still knows these credentials.
async fn work(server: &AuthorizationServer, secret: &BTreeMap<String, String>) -> bool {
    let (status, answer) = server.token(&secret["client-id"], &secret["client-secret"]).await;
    status == StatusCode::OK || answer["error"] != "invalid_client"
}

#[tokio::test]
async fn a_server_that_rotates_by_reading_does_it_in_place() {
    let home = Home::new("inplace").await;
    let server = FaultServer::start_registrar(Registrar::rotating_on_read()).await;
    home.profile(&server.url("")).await;
    home.patch(PROFILES, PROFILE, json!({"spec": {"server": {"readRotatesCredentials": true}}})).await;
    home.until_profile_ready().await;
    let client_id = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    let before = home.secret("shop").await;
    home.annotate("shop", ROTATE, "1").await;
    let client = until_rotated(&home, "1").await;
    let after = home.secret("shop").await;
    assert_eq!(after["client-id"], client_id);
    assert_ne!(after["client-secret"], before["client-secret"]);
    assert_eq!(after["client-secret"], server.registrar(|registrar| registrar.clients[&client_id].secret.clone()));
    assert!(client["status"]["credentialsRotatedAt"].is_string());
    assert_says(&home.until_event("SecretRotated").await, &[&client_id]);
    assert_eq!(server.requests_to("GET", &format!("/reg/{client_id}")).len(), 1, "one read, and never again by itself");
    // Its token has changed as well, and is the one that the operator has.
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 0);
}

#[tokio::test]
async fn elsewhere_a_new_client_takes_the_place_and_both_work_during_the_overlap() {
    let (home, server) = (Home::new("overlap").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.register("shop").await;
    let before = home.secret("shop").await;
    home.annotate("shop", ROTATE, "1").await;
    let message = home.until_condition(CLIENTS, "shop", ["InSync", "False", "UpdateUnsupported"]).await;
    assert_says(&message, &["spec.replacement.when: [Rotation]"]);
    assert_eq!(verdict(&home.get(CLIENTS, "shop").await.unwrap(), "Ready"), "True Ready");

    home.patch(CLIENTS, "shop", json!({"spec": {"replacement": {"when": ["Rotation"], "overlap": "1h"}}})).await;
    let client = until_rotated(&home, "1").await;
    let after = home.secret("shop").await;
    assert_ne!(after["client-id"], before["client-id"]);
    assert_eq!(client["status"]["clientId"], after["client-id"].as_str());
    assert_eq!(client["status"]["retiring"][0]["clientId"], before["client-id"].as_str());
    assert!(work(server, &before).await && work(server, &after).await);
    server.log_in(application(&after)).await;

    // Its time is up.
    home.patch(CLIENTS, "shop", json!({"spec": {"replacement": {"overlap": "0s"}}})).await;
    home.annotate("shop", ROTATE, "2").await;
    until_rotated(&home, "2").await;
    let newest = home.secret("shop").await;
    wait_until("the second client is gone, and the first has its hour", WAIT, async || {
        let mut registered: Vec<String> = home
            .registered(server, "shop")
            .await
            .iter()
            .map(|client| client["client_id"].as_str().unwrap().to_owned())
            .collect();
        registered.sort();
        let mut expected = vec![before["client-id"].clone(), newest["client-id"].clone()];
        expected.sort();
        if registered == expected { Ok(()) } else { Err(format!("{registered:?}")) }
    })
    .await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty(), "with all its former clients");
}

#[tokio::test]
async fn where_a_client_can_not_be_changed_a_new_one_takes_its_place_and_the_old_one_is_reported() {
    let home = Home::new("replace").await;
    let server = AuthorizationServer::start(AuthorizationServerOptions {
        unmanaged: true,
        ..AuthorizationServerOptions::default()
    })
    .await;
    home.profile(server.issuer()).await;
    home.register("shop").await;
    let before = home.secret("shop").await;
    let uri = "https://shop.example.com/second";
    let change = json!({"spec": {"clientMetadata": {"redirect_uris": [REDIRECT_URI, uri]}}});
    home.patch(CLIENTS, "shop", change).await;
    home.until_condition(CLIENTS, "shop", ["InSync", "False", "UpdateUnsupported"]).await;
    assert_eq!(home.secret("shop").await, before, "the credentials that work stay");

    home.patch(CLIENTS, "shop", json!({"spec": {"replacement": {"when": ["UpdateUnsupported"], "overlap": "2s"}}}))
        .await;
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    let after = home.secret("shop").await;
    assert_ne!(after["client-id"], before["client-id"]);
    assert_eq!(after["redirect-uris"], format!("{REDIRECT_URI},{uri}"));
    server.log_in(application(&after)).await;
    assert_says(&home.until_event("Orphaned").await, &[&before["client-id"], "no registration access token"]);
}

#[tokio::test]
async fn workloads_are_restarted_for_new_credentials_and_what_can_not_be_restarted_is_told() {
    let home = Home::new("restart").await;
    let server = FaultServer::start_registrar(Registrar::rotating_on_read()).await;
    home.profile(&server.url("")).await;
    home.patch(PROFILES, PROFILE, json!({"spec": {"server": {"type": "Curity"}}})).await;
    home.until_profile_ready().await;
    home.apply_any(
        "/apis/apps/v1",
        "deployments",
        &json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "shop"},
            "spec": {
                "selector": {"matchLabels": {"app": "shop"}},
                "template": {
                    "metadata": {"labels": {"app": "shop"}},
                    "spec": {"containers": [{"name": "shop", "image": "shop"}]},
                },
            },
        }),
    )
    .await;
    let mut client = home.oauth_client("shop");
    client["spec"]["rolloutRestartTargets"] =
        json!([{"kind": "Deployment", "name": "shop"}, {"kind": "StatefulSet", "name": "missing"}]);
    home.apply(&client).await;
    home.until_ready("shop").await;
    let template = async || {
        let deployment = home.get_any("/apis/apps/v1", "deployments", "shop").await;
        (
            deployment["metadata"]["generation"].clone(),
            deployment["spec"]["template"]["metadata"]["annotations"].clone(),
        )
    };
    let (generation, annotations) = template().await;
    assert_eq!((generation, annotations), (json!(1), Value::Null), "not for the first credentials");

    home.annotate("shop", ROTATE, "1").await;
    let client = until_rotated(&home, "1").await;
    let (generation, annotations) = template().await;
    assert_eq!(generation, 2, "once");
    assert_eq!(annotations["dcr-operator.dev/credentials-rotated-at"], client["status"]["credentialsRotatedAt"]);
    assert_says(&home.until_event("RolloutRestartFailed").await, &["StatefulSet", "missing"]);
    home.annotate("shop", "dcr-operator.dev/reconcile-requested-at", "1").await;
    let handled = |client: &Value| client["status"]["lastHandledReconcileAt"] == "1";
    home.until("looked at again", CLIENTS, "shop", handled).await;
    assert_eq!(template().await.0, 2, "and never again");
}

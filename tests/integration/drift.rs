//! Somebody changes a client on the server, behind the operator's back.

use serde_json::json;

use crate::{
    fixtures::*,
    support::{
        fault_server::{FaultServer, Registrar},
        process::wait_until,
    },
};

#[tokio::test]
async fn what_was_changed_on_the_server_is_found_in_time_and_put_right() {
    let (home, server) = (Home::new("drift").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.patch(PROFILES, PROFILE, json!({"spec": {"resyncInterval": "10s"}})).await;
    home.until_profile_ready().await;
    let client_id = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    let before = home.secret("shop").await;
    server.registrar(|registrar| {
        let metadata = &mut registrar.clients.get_mut(&client_id).unwrap().metadata;
        metadata.insert("scope".into(), json!("openid email admin"));
        metadata.insert("logo_uri".into(), json!("https://added.example.com/by-somebody"));
    });
    assert_says(&home.until_event("DriftCorrected").await, &[&client_id, "scope"]);
    let metadata = server.registrar(|registrar| registrar.clients[&client_id].metadata.clone());
    assert_eq!(metadata["scope"], "openid email");
    assert_eq!(metadata["logo_uri"], "https://added.example.com/by-somebody", "nobody asked for its removal");
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    assert_eq!(home.secret("shop").await, before);
}

#[tokio::test]
async fn a_comparison_that_is_asked_for_is_one_read_and_changes_nothing() {
    let (home, server) = (Home::new("compare").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let before = home.register("shop").await;
    home.annotate("shop", "dcr-operator.dev/reconcile-requested-at", "1").await;
    let handled = |client: &serde_json::Value| client["status"]["lastHandledReconcileAt"] == "1";
    let after = home.until("the request is echoed", CLIENTS, "shop", handled).await;
    let path = format!("/reg/{}", before["status"]["clientId"].as_str().unwrap());
    assert_eq!(server.requests_to("GET", &path).len(), 1);
    assert_eq!(server.requests_to("PUT", &path).len(), 0);
    assert_eq!(verdict(&after, "InSync"), "True InSync");
}

#[tokio::test]
async fn a_server_whose_reads_change_credentials_is_not_read_to_compare() {
    let (home, server) = (Home::new("noread").await, FaultServer::start_registrar(Registrar::rotating_on_read()).await);
    home.profile(&server.url("")).await;
    home.patch(PROFILES, PROFILE, json!({"spec": {"resyncInterval": "10s", "server": {"type": "Curity"}}})).await;
    home.until_profile_ready().await;
    home.register("shop").await;
    home.annotate("shop", "dcr-operator.dev/reconcile-requested-at", "1").await;
    let handled = |client: &serde_json::Value| client["status"]["lastHandledReconcileAt"] == "1";
    home.until("the request is echoed", CLIENTS, "shop", handled).await;
    assert!(server.requests().iter().all(|request| request.method != "GET" || !request.path.starts_with("/reg/")));
}

#[tokio::test]
async fn a_client_that_is_gone_on_the_server_is_lost_and_comes_back_only_if_the_spec_allows_it() {
    let (home, server) = (Home::new("gone").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let before = home.register("shop").await;
    let client_id = before["status"]["clientId"].as_str().unwrap().to_owned();
    server.registrar(|registrar| registrar.clients.get_mut(&client_id).unwrap().is_deleted = true);
    home.annotate("shop", "dcr-operator.dev/reconcile-requested-at", "1").await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "RegistrationLost"]).await;
    assert_says(&message, &["401", "spec.replacement.when: [RegistrationLost]", "managementClient"]);
    assert_eq!(home.secret("shop").await["client-id"], client_id, "the Secret stays as it is");

    home.patch(CLIENTS, "shop", json!({"spec": {"replacement": {"when": ["RegistrationLost"], "overlap": "0s"}}}))
        .await;
    home.until_condition(CLIENTS, "shop", ["Registered", "True", "Replaced"]).await;
    let ready = home.until_ready("shop").await;
    assert_ne!(ready["status"]["clientId"], client_id.as_str());
    assert_eq!(home.secret("shop").await["client-id"], ready["status"]["clientId"]);
    assert_says(&home.until_event("Orphaned").await, &[&client_id]);
    wait_until("the former client is no longer listed", WAIT, async || {
        let client = home.get(CLIENTS, "shop").await.unwrap();
        if client["status"]["retiring"].is_null() { Ok(()) } else { Err(client["status"].to_string()) }
    })
    .await;
}

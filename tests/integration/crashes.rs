//! The operator dies, or is asked to stop, at the worst moment.

use std::time::Duration;

use serde_json::json;

use crate::{
    fixtures::*,
    support::{
        fault_server::{Answer, FaultServer, Registrar},
        process::wait_until,
    },
};

#[tokio::test]
async fn a_crash_before_the_answer_is_kept_leaves_a_possible_orphan_that_is_reported() {
    let home = Home::without_operator("killed").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let operator = home.operator(&[]).await;
    home.profile(&server.url("")).await;
    server.answer_once("POST", "/reg", Answer::never().carried_out());
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    let intent = home.get(CLIENTS, "shop").await.unwrap();
    let attempt = intent["metadata"]["annotations"]["dcr-operator.dev/registration-attempt"].as_str().unwrap();
    let attempt: serde_json::Value = serde_json::from_str(attempt).unwrap();
    assert_eq!(intent["metadata"]["finalizers"], json!(["dcr-operator.dev/deregister"]));

    operator.kill();
    operator.restart().await;
    let ready = home.until_ready("shop").await;
    assert_eq!(ready["status"]["possibleOrphans"][0]["attempt"], attempt["id"]);
    assert_says(&home.until_event("PossibleOrphan").await, &[attempt["id"].as_str().unwrap()]);
    assert_eq!(metric(&operator, "dcr_operator_possible_orphans_total").await, 1);
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 2, "the one that is held, and the reported one");
    server.assert_no_misuse();
}

#[tokio::test]
async fn an_operator_that_is_asked_to_stop_finishes_what_it_has_begun() {
    let home = Home::without_operator("stopped").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let operator = home.operator(&[]).await;
    home.profile(&server.url("")).await;
    server.handle("POST", "/reg", |_| {
        Answer::json(201, &json!({"client_id": "c", "client_secret": "secret-of-c"})).after(Duration::from_secs(2))
    });
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    let status = operator.terminate().await;
    assert!(status.success(), "{status}\n{}", operator.log());
    assert_eq!(home.registration("shop").await["client_id"], "c", "kept before the end");

    operator.restart().await;
    home.until_ready("shop").await;
    assert_eq!(server.requests_to("POST", "/reg").len(), 1);
    assert_eq!(home.secret("shop").await["client-secret"], "secret-of-c");
}

/// Registers client `c`, and takes its time to say so.
fn register_slowly(server: &FaultServer) {
    let uri = server.url("/reg/c");
    server.handle("POST", "/reg", move |_| {
        let answer = json!({"client_id": "c", "client_secret": "secret-of-c", "client_secret_expires_at": 0,
            "registration_access_token": "token-of-c", "registration_client_uri": uri});
        Answer::json(201, &answer).after(Duration::from_secs(1))
    });
    server.answer("DELETE", "/reg/c", Answer::empty(204));
}

#[tokio::test]
async fn an_answer_that_can_never_be_kept_is_given_back() {
    let home = Home::without_operator("unkept").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let operator = home.operator(&[]).await;
    home.profile(&server.url("")).await;
    register_slowly(&server);
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    // Before the answer comes, the namespace begins to go, and takes nothing new.
    home.delete_namespace().await;
    home.until_gone(CLIENTS, "shop").await;
    let deleted = server.requests_to("DELETE", "/reg/c");
    assert_eq!(deleted.len(), 1, "{}", operator.log());
    assert_eq!(deleted[0].bearer(), Some("token-of-c"));
    assert_eq!(metric(&operator, "dcr_operator_orphans_total").await, 0);
    assert_eq!(metric(&operator, "dcr_operator_possible_orphans_total").await, 0);
}

#[tokio::test]
async fn a_client_that_is_deleted_while_it_is_registered_is_removed_again() {
    let home = Home::new("hasty").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    register_slowly(&server);
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_eq!(server.requests_to("DELETE", "/reg/c").len(), 1);
    home.until_gone(SECRETS, "shop-registration").await;
    assert!(home.events("PossibleOrphan").await.is_empty());
}

#[tokio::test]
async fn an_api_server_that_goes_away_loses_no_answer() {
    // A control plane of its own: everybody else needs the shared one.
    let home = Home::with_a_plane_of_its_own("outage").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let operator = home.operator(&[]).await;
    home.profile(&server.url("")).await;
    server.handle("POST", "/reg", |_| {
        Answer::json(201, &json!({"client_id": "c", "client_secret": "secret-of-c"})).after(Duration::from_secs(1))
    });
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    home.plane.api_server().kill();
    wait_until("the answer waits in memory", WAIT, async || operator.log().contains("kept in memory")).await;
    home.plane.restart_api_server().await;
    home.until_ready("shop").await;
    assert_eq!(server.requests_to("POST", "/reg").len(), 1);
    assert_eq!(home.secret("shop").await["client-id"], "c");
}

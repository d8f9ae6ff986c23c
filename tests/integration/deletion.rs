//! What becomes of a registration when its OAuthClient goes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::AuthorizationServer,
        fault_server::{Answer, FaultServer, Registrar},
        process::wait_until,
    },
};

async fn until_all_is_gone(home: &Home, client: &str) {
    home.until_gone(CLIENTS, client).await;
    home.until_gone(SECRETS, client).await;
    home.until_gone(SECRETS, &format!("{client}-registration")).await;
}

#[tokio::test]
async fn a_deleted_client_is_removed_on_the_server() {
    let (home, server) = (Home::new("delete").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.register("shop").await;
    home.delete(CLIENTS, "shop").await;
    until_all_is_gone(&home, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty());
    assert_says(&home.until_event("Deregistered").await, &["removed client"]);
}

#[tokio::test]
async fn a_client_that_was_never_registered_goes_at_once() {
    let home = Home::new("never").await;
    home.apply(&home.oauth_client("shop")).await;
    home.until_condition(CLIENTS, "shop", ["Ready", "False", "ProfileNotFound"]).await;
    assert_eq!(home.get(CLIENTS, "shop").await.unwrap()["metadata"]["finalizers"], Value::Null);
    home.delete(CLIENTS, "shop").await;
    assert!(home.get(CLIENTS, "shop").await.is_none());
}

#[tokio::test]
async fn a_client_that_the_server_has_lost_can_be_deleted() {
    let (home, server) = (Home::new("lost").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.register("shop").await;
    server.forget(&home.secret("shop").await["client-id"]).await;
    home.delete(CLIENTS, "shop").await;
    until_all_is_gone(&home, "shop").await;
    assert_says(&home.until_event("Deregistered").await, &["gone on the server already"]);
}

#[tokio::test]
async fn a_registration_that_has_lost_its_owner_is_not_held_for_ever() {
    let (home, server) = (Home::new("stray").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    // The owner reference is taken off, and the client goes.
    let client_id = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    home.patch(SECRETS, "shop-registration", json!({"metadata": {"ownerReferences": null}})).await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    home.until_gone(SECRETS, "shop-registration").await;
    assert_says(&home.until_event("Orphaned").await, &[&client_id]);
    // The owner is another object of the same name: it may be removed, by the garbage collector too.
    home.register("bank").await;
    let mut owner = home.get(SECRETS, "bank-registration").await.unwrap()["metadata"]["ownerReferences"].clone();
    owner[0]["uid"] = json!("00000000-0000-0000-0000-000000000000");
    home.patch(SECRETS, "bank-registration", json!({"metadata": {"ownerReferences": owner}})).await;
    home.until_gone(SECRETS, "bank-registration").await;
    home.until_condition(CLIENTS, "bank", ["Registered", "False", "RegistrationLost"]).await;
}

/// What people do when a deletion takes too long.
async fn delete_by_force(home: &Home, name: &str) {
    home.delete(CLIENTS, name).await;
    home.until("deleted", CLIENTS, name, |client| client["metadata"]["deletionTimestamp"].is_string()).await;
    home.patch(CLIENTS, name, json!({"metadata": {"finalizers": null}})).await;
    home.until_gone(CLIENTS, name).await;
}

#[tokio::test]
async fn a_client_whose_finalizer_was_taken_off_is_reported_and_holds_up_nothing() {
    let home = Home::without_operator("forced").await;
    let (operator, server) = (home.operator(&[]).await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let of = async |name| home.register(name).await["status"]["clientId"].as_str().unwrap().to_owned();
    let (shop, bank) = (of("shop").await, of("bank").await);
    server.answer("DELETE", &format!("/reg/{shop}"), Answer::json(503, &json!({})));
    delete_by_force(&home, "shop").await;
    home.until_gone(SECRETS, "shop-registration").await;
    let event = home.until_event("Orphaned").await;
    assert_says(&event, &[&shop, &server.url(""), "finalizer", &format!("{}/shop", home.name)]);
    assert_eq!(metric(&operator, "dcr_operator_orphans_total").await, 1);

    // Nobody was there to see it.
    operator.terminate().await;
    delete_by_force(&home, "bank").await;
    operator.restart().await;
    home.until_gone(SECRETS, "bank-registration").await;
    assert_eq!(metric(&operator, "dcr_operator_orphans_total").await, 1, "of this process");
    let told = operator.log();
    assert!(told.contains(&bank), "{told}");
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 2, "nobody has asked for their removal");
    server.assert_no_misuse();
}

#[tokio::test]
async fn an_answer_that_comes_when_the_client_has_gone_is_told() {
    let (home, server) = (Home::new("late").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    server.handle("POST", "/reg", |_| {
        Answer::json(201, &json!({"client_id": "late", "client_secret": "secret-of-late"}))
            .after(Duration::from_secs(3))
    });
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    delete_by_force(&home, "shop").await;
    assert_says(&home.until_event("Orphaned").await, &["client late", &server.url(""), "has gone without removing it"]);
    home.until_gone(SECRETS, "shop-registration").await;
}

#[tokio::test]
async fn a_deleted_namespace_takes_its_clients_off_the_server() {
    let (home, server) = (Home::new("namespace").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    for name in ["shop", "bank"] {
        home.register(name).await;
    }
    home.delete_namespace().await;
    wait_until("both clients are removed on the server", WAIT, async || {
        let left = [home.registered(server, "shop").await, home.registered(server, "bank").await].concat();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
    let plane = home.plane;
    let wait = ["wait", "--for=delete", "--timeout=60s", &format!("namespace/{}", home.name)];
    plane.kubectl_ok(&wait, None).await;
}

#[tokio::test]
async fn a_client_outlives_its_profile_and_is_removed_on_the_server_all_the_same() {
    let (home, server) = (Home::new("orphaned").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.register("shop").await;
    home.delete(PROFILES, PROFILE).await;
    home.delete(SECRETS, "registrar").await;
    home.until_condition(CLIENTS, "shop", ["Accepted", "False", "ProfileNotFound"]).await;
    let client = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&client, "Ready"), "True Ready");
    server.log_in(application(&home.secret("shop").await)).await;
    home.delete(CLIENTS, "shop").await;
    until_all_is_gone(&home, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty());
}

#[tokio::test]
async fn a_client_is_retained_on_the_server_if_the_spec_says_so() {
    let (home, server) = (Home::new("retain").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["deletionPolicy"] = json!("Retain");
    home.apply(&client).await;
    home.until_ready("shop").await;
    home.delete(CLIENTS, "shop").await;
    until_all_is_gone(&home, "shop").await;
    assert_says(&home.until_event("Retained").await, &["stays registered", "Retain"]);
    assert_eq!(home.registered(server, "shop").await.len(), 1);
}

#[tokio::test]
async fn a_deletion_waits_for_the_server_unless_it_is_forced() {
    let (home, server) = (Home::new("force").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    for name in ["patient", "forced"] {
        home.register(name).await;
    }
    server.set_down(true);
    for name in ["patient", "forced"] {
        home.delete(CLIENTS, name).await;
        let message = home.until_condition(CLIENTS, name, ["Registered", "False", "ServerUnavailable"]).await;
        assert_says(&message, &["DELETE http://127.0.0.1"]);
    }
    home.annotate("forced", "dcr-operator.dev/force-delete", "true").await;
    until_all_is_gone(&home, "forced").await;
    assert_says(&home.until_event("Orphaned").await, &["forced by annotation", PROFILE]);
    assert!(home.get(CLIENTS, "patient").await.is_some());
    server.set_down(false);
    until_all_is_gone(&home, "patient").await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 1, "the forced one");
}

#[tokio::test]
async fn a_server_that_does_not_delete_leaves_an_orphan_that_is_reported() {
    let (home, server) = (Home::new("refuses").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let client = home.register("shop").await;
    let client_id = client["status"]["clientId"].as_str().unwrap();
    server.answer("DELETE", &format!("/reg/{client_id}"), Answer::empty(405));
    home.delete(CLIENTS, "shop").await;
    until_all_is_gone(&home, "shop").await;
    assert_says(&home.until_event("Orphaned").await, &[client_id, "405"]);
}

#[tokio::test]
async fn a_server_can_hold_up_a_deletion_only_for_the_time_that_is_set() {
    let home = Home::without_operator("timeout").await;
    let operator = home.operator(&["--deletion-timeout", "5s"]).await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    let client = home.register("shop").await;
    server.set_down(true);
    home.delete(CLIENTS, "shop").await;
    until_all_is_gone(&home, "shop").await;
    let client_id = client["status"]["clientId"].as_str().unwrap();
    assert_says(&home.until_event("Orphaned").await, &[client_id, "did not remove it in time", "DELETE http"]);
    assert_eq!(metric(&operator, "dcr_operator_orphans_total").await, 1);
}

#[tokio::test]
async fn a_lost_answer_to_a_deletion_is_asked_for_again() {
    let (home, server) = (Home::new("lostdelete").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let client = home.register("shop").await;
    let path = format!("/reg/{}", client["status"]["clientId"].as_str().unwrap());
    server.answer_once("DELETE", &path, Answer::reset().carried_out());
    home.delete(CLIENTS, "shop").await;
    until_all_is_gone(&home, "shop").await;
    assert_eq!(server.requests_to("DELETE", &path).len(), 2);
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 0);
}

#[tokio::test]
async fn a_gateways_refusal_of_a_deletion_is_not_the_servers_last_word() {
    let (home, server) = (Home::new("gateway").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    let client = home.register("shop").await;
    let path = format!("/reg/{}", client["status"]["clientId"].as_str().unwrap());
    server.answer_once("DELETE", &path, Answer::new(403, "text/html", "<html>blocked</html>"));
    home.delete(CLIENTS, "shop").await;
    until_all_is_gone(&home, "shop").await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 0);
}

#[tokio::test]
async fn a_former_client_whose_removal_is_refused_is_reported_when_the_time_is_over() {
    let home = Home::without_operator("former").await;
    let _operator = home.operator(&["--deletion-timeout", "3s"]).await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    let client = home.register("shop").await;
    let former = client["status"]["clientId"].as_str().unwrap();
    let path = format!("/reg/{former}");
    server.answer("DELETE", &path, Answer::empty(403));
    home.patch(CLIENTS, "shop", json!({"spec": {"replacement": {"when": ["Rotation"], "overlap": "0s"}}})).await;
    home.annotate("shop", "dcr-operator.dev/rotate-requested-at", "now").await;
    assert_says(&home.until_event("Orphaned").await, &[former, "did not remove it in time", "403"]);
    assert!(server.requests_to("DELETE", &path).len() > 1);
    home.until("done with it", CLIENTS, "shop", |client| {
        client["status"]["retiring"].as_array().is_none_or(Vec::is_empty)
    })
    .await;
}

#[tokio::test]
async fn a_server_that_refuses_to_delete_a_client_has_it_whatever_it_says_to_the_token_before() {
    let home = Home::new("refusing").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    let client_id = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    // An update changes the token; the one before it is kept until the new one has worked.
    home.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    home.until_ready("shop").await;
    server.answer_once("DELETE", &format!("/reg/{client_id}"), Answer::empty(405));
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_says(&home.until_event("Orphaned").await, &[&client_id]);
}

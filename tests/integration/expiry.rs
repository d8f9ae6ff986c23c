//! What ends is renewed before it ends; where that can't be done, people are told while there is time.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::fault_server::{FaultServer, Registrar, RegistrarOptions},
};

/// Long enough for the first look, short enough to be renewed within a test.
const LIFE: Duration = Duration::from_secs(12);

async fn server(rotates_on_read: bool) -> FaultServer {
    let options = RegistrarOptions { rotates_on_read, secret_lifetime: Some(LIFE), ..RegistrarOptions::default() };
    FaultServer::start_registrar(Registrar::new(options)).await
}

#[tokio::test]
async fn a_secret_is_renewed_in_place_before_it_ends() {
    let (home, server) = (Home::new("ends").await, server(true).await);
    home.profile(&server.url("")).await;
    home.patch(PROFILES, PROFILE, json!({"spec": {"server": {"readRotatesCredentials": true}}})).await;
    home.until_profile_ready().await;
    let before = home.register("shop").await;
    let first = home.secret("shop").await["client-secret"].clone();
    let ends = before["status"]["clientSecretExpiresAt"].as_str().unwrap().to_owned();
    let renewed = move |client: &Value| {
        client["status"]["clientSecretExpiresAt"].as_str().is_some_and(|now| *now > *ends)
            && client["status"]["credentialsRotatedAt"].is_string()
    };
    let client = home.until("renewed", CLIENTS, "shop", renewed).await;
    let secret = home.secret("shop").await;
    assert_ne!(secret["client-secret"], first);
    assert!(server.registrar(|registrar| registrar.accepts(&secret["client-id"], &secret["client-secret"])));
    assert_eq!(verdict(&client, "Ready"), "True Ready");
}

#[tokio::test]
async fn a_secret_that_nobody_renews_is_warned_of_in_time_and_not_ready_when_it_has_ended() {
    let (home, server) = (Home::new("expires").await, server(false).await);
    home.profile(&server.url("")).await;
    home.register("shop").await;
    let message = home.until_condition(CLIENTS, "shop", ["InSync", "False", "SecretExpiring"]).await;
    assert_says(&message, &["the client secret ends at", "spec.replacement.when: [Rotation]"]);
    let warned = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&warned, "Ready"), "True Ready", "it still works");
    assert_says(&home.until_event("SecretExpiring").await, &["ends at"]);
    home.until_condition(CLIENTS, "shop", ["Ready", "False", "SecretExpired"]).await;

    home.patch(CLIENTS, "shop", json!({"spec": {"replacement": {"when": ["Rotation"], "overlap": "0s"}}})).await;
    home.until_ready("shop").await;
    let secret = home.secret("shop").await;
    assert!(server.registrar(|registrar| registrar.accepts(&secret["client-id"], &secret["client-secret"])));
}

#[tokio::test]
async fn a_registration_access_token_is_renewed_while_it_still_may_update() {
    let home = Home::new("window").await;
    let options = RegistrarOptions { read_write_window: Some(Duration::from_mins(1)), ..RegistrarOptions::default() };
    let server = FaultServer::start_registrar(Registrar::new(options)).await;
    home.profile(&server.url("")).await;
    home.patch(PROFILES, PROFILE, json!({"spec": {"server": {"registrationAccessTokenLifetime": "1m"}}})).await;
    home.until_profile_ready().await;
    let client = home.register("shop").await;
    assert!(client["status"]["registrationAccessTokenExpiresAt"].is_string());
    let token = home.registration("shop").await["registration_access_token"].clone();
    let ends = client["status"]["registrationAccessTokenExpiresAt"].as_str().unwrap().to_owned();
    let renewed = move |client: &Value| {
        client["status"]["registrationAccessTokenExpiresAt"].as_str().is_some_and(|now| *now > *ends)
    };
    let waiting = format!("oauthclients {}/shop: the token is renewed", home.name);
    crate::support::process::wait_until(&waiting, Duration::from_mins(1), async || {
        let client = home.get(CLIENTS, "shop").await.unwrap();
        if renewed(&client) { Ok(()) } else { Err(client["status"].to_string()) }
    })
    .await;
    assert_ne!(home.registration("shop").await["registration_access_token"], token);
    let secret = home.secret("shop").await;
    assert!(server.registrar(|registrar| registrar.accepts(&secret["client-id"], &secret["client-secret"])));
}

#[tokio::test]
async fn a_server_that_renews_no_token_is_asked_once_and_people_are_told() {
    let home = Home::new("stays").await;
    let options = RegistrarOptions { keeps_token_on_update: true, ..RegistrarOptions::default() };
    let server = FaultServer::start_registrar(Registrar::new(options)).await;
    home.profile(&server.url("")).await;
    home.patch(PROFILES, PROFILE, json!({"spec": {"server": {"registrationAccessTokenLifetime": "1m"}}})).await;
    home.until_profile_ready().await;
    home.register("shop").await;
    let waiting = format!("oauthclients {}/shop: the end is told", home.name);
    crate::support::process::wait_until(&waiting, Duration::from_mins(1), async || {
        let client = home.get(CLIENTS, "shop").await.unwrap();
        let in_sync = verdict(&client, "InSync");
        if in_sync == "False RegistrationAccessTokenExpiring" { Ok(()) } else { Err(in_sync) }
    })
    .await;
    let updates = server.requests().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(updates, 1);
    assert_eq!(verdict(&home.get(CLIENTS, "shop").await.unwrap(), "Ready"), "True Ready");
}

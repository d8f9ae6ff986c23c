//! The Secret with which the operator gets initial access tokens: what is wrong with it is said, and cured at once.

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::authorization_server::{AuthorizationServer, AuthorizationServerOptions},
};

/// Both the profile and its client tell.
async fn until_told(home: &Home, reason: &'static str, words: &[&str]) {
    let expected = words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    home.until("it tells what is wrong", PROFILES, PROFILE, move |profile| {
        let valid = condition(profile, "CredentialsValid");
        let message = valid["message"].as_str().unwrap_or_default();
        valid["status"] == "False" && valid["reason"] == reason && expected.iter().all(|word| message.contains(word))
    })
    .await;
    let words = words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let client = home.until("it tells of its profile", CLIENTS, "shop", move |client| {
        let accepted = condition(client, "Accepted");
        let message = accepted["message"].as_str().unwrap_or_default().to_owned();
        accepted["reason"] == "ProfileNotReady" && words.iter().all(|word| message.contains(word))
    });
    assert_eq!(verdict(&client.await, "Ready"), "Unknown ProfileNotReady");
}

async fn cured_by(defect: &str, secret: Option<Value>, reason: &'static str, words: &[&str], cure: Value) {
    let (home, server) = (Home::new(defect).await, AuthorizationServer::shared());
    home.apply(&profile(server.issuer())).await;
    if let Some(secret) = secret {
        home.apply(&secret).await;
    }
    home.apply(&home.oauth_client("shop")).await;
    until_told(&home, reason, words).await;
    assert!(home.get(SECRETS, "shop").await.is_none());
    assert!(home.registered(server, "shop").await.is_empty());
    home.apply(&cure).await;
    home.until_ready("shop").await;
    assert_eq!(home.registered(server, "shop").await.len(), 1);
}

const SECRET: &str = AuthorizationServer::REGISTRAR_SECRET;

#[tokio::test]
async fn a_missing_secret_is_named_and_found_when_it_appears() {
    cured_by("missing", None, "SecretNotFound", &["/registrar does not exist"], registrar_secret(SECRET)).await;
}

#[tokio::test]
async fn a_secret_without_consent_is_not_read_until_it_carries_the_label() {
    let mut secret = registrar_secret(SECRET);
    secret["metadata"].as_object_mut().unwrap().remove("labels");
    let words = ["/registrar", "dcr-operator.dev/credentials: \"true\""];
    cured_by("unlabelled", Some(secret), "SecretNotLabelled", &words, registrar_secret(SECRET)).await;
}

#[tokio::test]
async fn a_secret_without_the_key_is_told_and_cured() {
    let mut secret = registrar_secret(SECRET);
    secret["stringData"] = json!({"password": SECRET});
    let words = ["/registrar", "\"client-secret\""];
    cured_by("keyless", Some(secret), "SecretNotFound", &words, registrar_secret(SECRET)).await;
}

#[tokio::test]
async fn a_wrong_secret_is_told_in_the_server_s_words_and_cured() {
    let words = ["invalid_client", "401"];
    let wrong = registrar_secret("wrong");
    cured_by("wrong", Some(wrong), "TokenRequestRejected", &words, registrar_secret(SECRET)).await;
}

#[tokio::test]
async fn a_secret_that_changes_counts_from_the_next_registration_on() {
    let home = Home::new("rotated").await;
    let options = AuthorizationServerOptions { registrar_secret: Some("first".into()), ..Default::default() };
    let server = AuthorizationServer::start(options).await;
    home.apply(&registrar_secret("first")).await;
    home.apply(&profile(server.issuer())).await;
    home.until_profile_ready().await;
    server.set_registrar_secret("second").await;
    home.apply(&home.oauth_client("shop")).await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "TokenRequestRejected"]).await;
    assert_says(&message, &["invalid_client"]);
    home.apply(&registrar_secret("second")).await;
    home.until_ready("shop").await;
    assert_eq!(home.registered(&server, "shop").await.len(), 1);
}

#[tokio::test]
async fn a_secret_that_goes_leaves_registered_clients_alone() {
    let (home, server) = (Home::new("gone").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.register("shop").await;
    home.delete(SECRETS, "registrar").await;
    home.until_condition(PROFILES, PROFILE, ["Ready", "False", "SecretNotFound"]).await;
    let client = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&client, "Ready"), "True Ready");
    // What needs no initial access token still works.
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty());
}

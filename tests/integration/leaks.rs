//! Nothing secret is said where people and machines can read it.

use serde_json::json;

use crate::{
    fixtures::*,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        fault_server::{Answer, FaultServer, Registrar},
    },
};

#[tokio::test]
async fn no_secret_is_in_log_events_objects_or_metrics() {
    let home = Home::without_operator("leaks").await;
    let operator = home.operator(&["--log-level", "trace"]).await;
    let registrar = "registrar-secret-4711".to_owned();
    let server = AuthorizationServer::start(AuthorizationServerOptions {
        registrar_secret: Some(registrar.clone()),
        ..AuthorizationServerOptions::default()
    })
    .await;
    home.apply(&registrar_secret(&registrar)).await;
    home.apply(&profile(server.issuer())).await;
    home.until_profile_ready().await;
    home.register("shop").await;
    let answer = home.registration("shop").await;
    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"]["scope"] = json!("openid");
    home.apply(&client).await;
    home.until("updated", CLIENTS, "shop", |c| c["status"]["observedGeneration"] == 2).await;
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    let updated = home.registration("shop").await;

    let secrets: Vec<String> = ["client_secret", "registration_access_token"]
        .iter()
        .flat_map(|name| [answer[name].clone(), updated[name].clone()])
        .map(|secret| secret.as_str().expect("a secret").to_owned())
        .chain([registrar])
        .collect();
    let mut said = operator.log() + &operator.metrics().await;
    for kind in ["oauthclients,tokenprofiles,dcrpolicies", "events"] {
        said += &home.plane.kubectl_ok(&["get", kind, "--namespace", &home.name, "--output", "yaml"], None).await;
    }
    assert!(said.contains("registered"), "the log is there");
    for secret in secrets {
        assert!(!said.contains(&secret), "a secret is told");
    }
}

#[tokio::test]
async fn a_server_that_repeats_a_token_in_its_words_is_not_quoted() {
    let (home, server) = (Home::new("echo").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    server.handle("POST", "/reg", |request| {
        let token = request.bearer().unwrap_or_default();
        let words = format!("the token {token} is not for this");
        Answer::json(400, &json!({"error": "invalid_client_metadata", "error_description": words}))
    });
    home.apply(&home.oauth_client("shop")).await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "InvalidClientMetadata"]).await;
    let token = server.requests_to("POST", "/reg")[0].bearer().unwrap().to_owned();
    assert!(!message.contains(&token), "{message}");
    assert_says(&message, &["is not for this"]);
    let said = shared_operator().log() + &home.events("InvalidClientMetadata").await.join(" ");
    assert!(!said.contains(&token), "a token is told");
}

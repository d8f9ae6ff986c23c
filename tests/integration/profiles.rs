//! Ways to describe an authorization server.

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
async fn a_server_of_a_private_authority_is_trusted_once_its_bundle_is_there() {
    let home = Home::new("tls").await;
    let options = AuthorizationServerOptions { tls: true, ..AuthorizationServerOptions::default() };
    let server = AuthorizationServer::start(options).await;
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    home.apply(&profile(server.issuer())).await;
    home.apply(&home.oauth_client("shop")).await;
    let profile_condition = ["Ready", "False", "ServerUnavailable"];
    let message = home.until_condition(PROFILES, PROFILE, profile_condition).await;
    assert_says(&message, &["certificate", server.issuer()]);
    home.until("told why", CLIENTS, "shop", |client| {
        let accepted = condition(client, "Accepted");
        accepted["reason"] == "ProfileNotReady" && accepted["message"].as_str().unwrap().contains("certificate")
    })
    .await;

    home.apply(&json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority"},
        "data": {"ca.crt": server.ca_pem()}}))
        .await;
    let mut trusting = profile(server.issuer());
    trusting["spec"]["tls"] = json!({"caBundleRef": {"name": "authority"}});
    home.apply(&trusting).await;
    home.until_ready("shop").await;
    let secret = home.secret("shop").await;
    assert!(secret["token-uri"].starts_with("https://"));
    server.log_in(application(&secret)).await;
    // The bundle goes with the registration: the profile is not needed for its end.
    home.delete(PROFILES, PROFILE).await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert!(home.registered(&server, "shop").await.is_empty());
}

#[tokio::test]
async fn the_registrar_may_authenticate_by_post() {
    let (home, server) = (Home::new("post").await, AuthorizationServer::shared());
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    let mut by_post = profile(server.issuer());
    by_post["spec"]["initialAccessToken"]["clientCredentials"] =
        json!({"clientId": "server-post", "secretRef": {"name": "registrar"}, "authMethod": "client_secret_post"});
    home.apply(&by_post).await;
    home.register("shop").await;
}

#[tokio::test]
async fn a_token_that_was_issued_beforehand_registers_clients() {
    let home = Home::new("bearer").await;
    let token = Some("issued-beforehand".to_owned());
    let options = AuthorizationServerOptions { static_initial_access_token: token, ..Default::default() };
    let server = AuthorizationServer::start(options).await;
    let mut secret = registrar_secret("");
    secret["stringData"] = json!({"token": "issued-beforehand"});
    home.apply(&secret).await;
    let mut bearer = profile(server.issuer());
    bearer["spec"]["initialAccessToken"] = json!({"bearerToken": {"secretRef": {"name": "registrar"}}});
    home.apply(&bearer).await;
    home.register("shop").await;
    assert_eq!(home.registered(&server, "shop").await.len(), 1);
    assert_eq!(server.requests().await["token"], 0);
}

#[tokio::test]
async fn open_registration_needs_no_token() {
    let home = Home::new("open").await;
    let options = AuthorizationServerOptions { open_registration: true, ..AuthorizationServerOptions::default() };
    let server = AuthorizationServer::start(options).await;
    let mut open = profile(server.issuer());
    open["spec"].as_object_mut().unwrap().remove("initialAccessToken");
    home.apply(&open).await;
    home.until_condition(PROFILES, PROFILE, ["CredentialsValid", "True", "NotRequired"]).await;
    home.register("shop").await;
    assert_eq!(home.registered(&server, "shop").await.len(), 1);
    assert_eq!(server.requests().await["token"], 0);
}

#[tokio::test]
async fn given_endpoints_need_no_discovery() {
    let (home, server) = (Home::new("endpoints").await, FaultServer::start_registrar(Registrar::default()).await);
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    home.apply(&profile_with_endpoints(&server)).await;
    home.until_condition(PROFILES, PROFILE, ["DiscoveryResolved", "True", "EndpointsGiven"]).await;
    home.register("shop").await;
    assert!(server.requests().iter().all(|request| request.method != "GET"), "no discovery");
    let secret = home.secret("shop").await;
    assert_eq!(secret["token-uri"], server.url("/token"));
    assert!(!secret.contains_key("issuer-uri"), "{:?}", secret.keys());
}

#[tokio::test]
async fn a_given_endpoint_overrides_the_discovered_one() {
    let (home, server) = (Home::new("override").await, FaultServer::start_registrar(Registrar::default()).await);
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    let mut overriding = profile(&server.url(""));
    overriding["spec"]["endpoints"] = json!({"registration": server.url("/elsewhere")});
    home.apply(&overriding).await;
    let endpoint = server.url("/elsewhere");
    home.until("it uses the given one", PROFILES, PROFILE, move |p| {
        p["status"]["registrationEndpoint"] == endpoint.as_str()
    })
    .await;
}

/// What is wrong with a server that discovery finds.
async fn undiscoverable(metadata: impl Fn(&FaultServer) -> Answer, reason: &'static str, words: &[&str]) {
    let (home, server) = (Home::new("undiscoverable").await, FaultServer::start().await);
    server.answer("GET", "/.well-known/openid-configuration", metadata(&server));
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    home.apply(&profile(&server.url(""))).await;
    let message = home.until_condition(PROFILES, PROFILE, ["DiscoveryResolved", "False", reason]).await;
    assert_says(&message, words);
    let object = home.get(PROFILES, PROFILE).await.unwrap();
    assert_eq!(verdict(&object, "Ready"), format!("False {reason}"));
}

#[tokio::test]
async fn metadata_of_another_issuer_are_refused() {
    let metadata = |server: &FaultServer| {
        Answer::json(200, &json!({"issuer": "http://other.example.com", "registration_endpoint": server.url("/reg")}))
    };
    undiscoverable(metadata, "IssuerMismatch", &["http://other.example.com", "equal to the letter"]).await;
}

#[tokio::test]
async fn a_server_without_registration_is_told() {
    let metadata = |server: &FaultServer| {
        Answer::json(200, &json!({"issuer": server.url(""), "token_endpoint": server.url("/token")}))
    };
    let words = ["registration_endpoint", "spec.endpoints.registration"];
    undiscoverable(metadata, "NoRegistrationEndpoint", &words).await;
}

#[tokio::test]
async fn an_address_that_is_no_authorization_server_is_told() {
    undiscoverable(|_| Answer::empty(404), "DiscoveryFailed", &["no authorization server metadata", "404"]).await;
}

#[tokio::test]
async fn a_profile_that_is_edited_moves_on_without_a_restart() {
    let (home, server) = (Home::new("edited").await, AuthorizationServer::shared());
    let nowhere = FaultServer::start().await;
    nowhere.set_down(true);
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    home.apply(&profile(&nowhere.url(""))).await;
    home.apply(&home.oauth_client("shop")).await;
    let words = ["ServerUnavailable".to_owned(), nowhere.url("")];
    home.until("told why", CLIENTS, "shop", move |client| {
        let message = condition(client, "Accepted")["message"].as_str().unwrap_or_default().to_owned();
        words.iter().all(|word| message.contains(word))
    })
    .await;
    home.apply(&profile(server.issuer())).await;
    home.until_ready("shop").await;
}

#[tokio::test]
async fn plain_http_is_refused_unless_it_is_allowed() {
    let home = Home::without_operator("insecure").await;
    let _operator = home.operator(&["--allow-insecure-http=false"]).await;
    let server = AuthorizationServer::shared();
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    home.apply(&profile(server.issuer())).await;
    let object = home.until("refused", PROFILES, PROFILE, |p| condition(p, "Ready")["status"] == "False").await;
    let ready = condition(&object, "Ready");
    assert_says(ready["message"].as_str().unwrap(), &[server.issuer(), "not called", "http"]);
    assert_ne!(condition(&object, "Stalled"), Value::Null, "only a change helps");
}

#[tokio::test]
async fn a_profile_that_comes_to_describe_another_server_takes_no_client_there_and_loses_none_in_silence() {
    let home = Home::new("moved").await;
    let former = FaultServer::start_registrar(Registrar::default()).await;
    let other = FaultServer::start_registrar(Registrar::default()).await;
    other.registrar(|registrar| registrar.skip(1000));
    home.profile(&former.url("")).await;
    let mut replaceable = home.oauth_client("replaceable");
    replaceable["spec"]["replacement"] = json!({"when": ["RegistrationLost"], "overlap": "0s"});
    home.apply(&replaceable).await;
    for name in ["shop", "bank"] {
        home.register(name).await;
    }
    home.until_ready("replaceable").await;
    let before = home.secret("shop").await;

    home.apply(&profile(&other.url(""))).await;
    for name in ["shop", "bank"] {
        let message = home.until_condition(CLIENTS, name, ["Registered", "False", "RegistrationLost"]).await;
        assert_says(&message, &["registered at", &former.url(""), "Point the TokenProfile back"]);
    }
    assert_eq!(home.secret("shop").await, before, "credentials and endpoints of one server");
    wait_until("there is a new client on the other server", WAIT, async || {
        home.secret("replaceable").await["issuer-uri"] == other.url("")
    })
    .await;
    assert_says(&home.until_event("Orphaned").await, &["stays on", &former.url(""), "former server"]);

    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    let told = home.events("Orphaned").await;
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().any(|note| note.contains(&before["client-id"])), "{told:?}");

    // The status still knows where it is.
    home.delete(PROFILES, PROFILE).await;
    home.until_condition(CLIENTS, "bank", ["Accepted", "False", "ProfileNotFound"]).await;
    home.delete(CLIENTS, "bank").await;
    home.until_gone(CLIENTS, "bank").await;
    assert_eq!(former.registrar(|registrar| registrar.client_count()), 2, "the two that were reported");
    assert_eq!(other.registrar(|registrar| registrar.client_count()), 1, "the replacement");
}

#[tokio::test]
async fn a_server_that_is_given_another_name_keeps_its_clients() {
    let (home, server) = (Home::new("renamed").await, FaultServer::start_registrar(Registrar::default()).await);
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    home.apply(&profile_with_endpoints(&server)).await;
    home.until_profile_ready().await;
    home.register("shop").await;

    let renamed = |path: &str| server.url(path).replace("127.0.0.1", "localhost");
    let mut profile = profile_with_endpoints(&server);
    profile["spec"]["endpoints"] = json!({"token": renamed("/token"), "registration": renamed("/reg")});
    home.apply(&profile).await;
    let uri = renamed("/reg/");
    let moved = home
        .until("managed under the new name", CLIENTS, "shop", move |client| {
            client["status"]["registrationClientUri"].as_str().is_some_and(|known| known.starts_with(&uri))
        })
        .await;
    assert_eq!(verdict(&moved, "Registered"), "True Registered");
    assert_eq!(home.secret("shop").await["token-uri"], renamed("/token"));
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 0);
    assert!(home.events("Orphaned").await.is_empty());
}

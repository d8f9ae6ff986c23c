//! Clients that exist before their OAuthClient.

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        fault_server::{Answer, FaultServer, Registrar},
    },
};

/// Registers a client as people do without an operator.
async fn registered_by_hand(server: &AuthorizationServer, name: &str) -> Value {
    registered_at(server.issuer(), &server.http(), name).await
}

async fn registered_at(issuer: &str, http: &reqwest::Client, name: &str) -> Value {
    let form = [("grant_type", "client_credentials"), ("scope", "dcr")];
    let token = http
        .post(format!("{issuer}/token"))
        .basic_auth(AuthorizationServer::REGISTRAR, Some(AuthorizationServer::REGISTRAR_SECRET))
        .form(&form);
    let token: Value = serde_json::from_slice(&token.send().await.unwrap().bytes().await.unwrap()).unwrap();
    let metadata = json!({"client_name": name, "redirect_uris": [REDIRECT_URI], "scope": "openid"});
    let answer = http
        .post(format!("{issuer}/reg"))
        .bearer_auth(token["access_token"].as_str().unwrap())
        .header("content-type", "application/json")
        .body(metadata.to_string());
    serde_json::from_slice(&answer.send().await.unwrap().bytes().await.unwrap()).unwrap()
}

pub fn text<'a>(client: &'a Value, name: &str) -> &'a str {
    client[name].as_str().unwrap_or_else(|| panic!("no {name} in {client}"))
}

fn credentials(data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "old", "labels": {"dcr-operator.dev/credentials": "true"}},
        "stringData": data,
    })
}

/// An OAuthClient that adopts a client that was registered by hand, with what Secret `old` has.
fn adopting(home: &Home, name: &str, by_hand: &Value) -> Value {
    let mut client = home.oauth_client(name);
    client["spec"]["adopt"] = json!({
        "clientId": text(by_hand, "client_id"),
        "registrationClientUri": text(by_hand, "registration_client_uri"),
        "secretRef": {"name": "old"},
    });
    client
}

#[tokio::test]
async fn a_client_is_adopted_with_its_token_read_first_and_then_made_what_the_spec_asks_for() {
    let (home, server) = (Home::new("adopt").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let by_hand = registered_by_hand(server, "by hand").await;
    home.apply(&credentials(json!({"registration-access-token": text(&by_hand, "registration_access_token")}))).await;
    home.apply(&adopting(&home, "shop", &by_hand)).await;
    assert_says(&home.until_event("Drifted").await, &["client_name", "scope"]);
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    let adopted = home.until_ready("shop").await;
    assert_eq!(verdict(&adopted, "Registered"), "True Adopted");
    assert_eq!(adopted["status"]["clientId"], by_hand["client_id"]);
    assert_eq!(home.registered(server, "shop").await.len(), 1, "under its new name");
    let secret = home.secret("shop").await;
    assert_eq!(secret["client-secret"], text(&by_hand, "client_secret"));
    server.log_in(application(&secret)).await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty());
}

#[tokio::test]
async fn a_client_without_management_is_adopted_as_it_was_given() {
    let home = Home::new("given").await;
    let options = AuthorizationServerOptions { unmanaged: true, ..AuthorizationServerOptions::default() };
    let server = AuthorizationServer::start(options).await;
    home.profile(server.issuer()).await;
    let by_hand = registered_by_hand(&server, "by hand").await;
    home.apply(&credentials(json!({"client-secret": text(&by_hand, "client_secret")}))).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["adopt"] = json!({"clientId": text(&by_hand, "client_id"), "secretRef": {"name": "old"}});
    home.apply(&client).await;
    let adopted = home.until_ready("shop").await;
    assert_eq!(verdict(&adopted, "InSync"), "Unknown NotCompared");
    let secret = home.secret("shop").await;
    assert_eq!(
        (secret["client-id"].as_str(), secret["client-secret"].as_str()),
        (text(&by_hand, "client_id"), text(&by_hand, "client_secret"))
    );
    assert_eq!(server.clients().await.len(), 1, "nothing was registered");
}

#[tokio::test]
async fn what_an_adoption_lacks_is_told_and_it_goes_on_when_it_is_there() {
    let (home, server) = (Home::new("lacks").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let by_hand = registered_by_hand(server, "by hand").await;
    home.apply(&adopting(&home, "shop", &by_hand)).await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "SecretNotFound"]).await;
    assert_says(&message, &["Secret", "/old does not exist"]);
    home.apply(&credentials(json!({"registration-access-token": "wrong"}))).await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "RegistrationLost"]).await;
    assert_says(&message, &["401", "spec.adopt.secretRef"]);
    home.apply(&credentials(json!({"registration-access-token": text(&by_hand, "registration_access_token")}))).await;
    home.until_condition(CLIENTS, "shop", ["Registered", "True", "Adopted"]).await;
    home.until_ready("shop").await;
}

#[tokio::test]
async fn a_registration_client_uri_of_another_origin_is_not_called() {
    let (home, server) = (Home::new("origin").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let elsewhere = FaultServer::start().await;
    let by_hand = registered_by_hand(server, "by hand").await;
    let client_id = text(&by_hand, "client_id");
    home.apply(&credentials(json!({"registration-access-token": text(&by_hand, "registration_access_token")}))).await;
    let mut client = adopting(&home, "shop", &by_hand);
    client["spec"]["adopt"]["registrationClientUri"] = json!(elsewhere.url(&format!("/reg/{client_id}")));
    home.apply(&client).await;
    let adopted = home.until_ready("shop").await;
    assert_eq!(adopted["status"]["registrationClientUri"], format!("{}/reg/{client_id}", server.issuer()));
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn a_client_is_adopted_by_one_and_two_do_not_share_a_secret() {
    let (home, server) = (Home::new("twice").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    let by_hand = registered_by_hand(server, "by hand").await;
    home.apply(&credentials(json!({"registration-access-token": text(&by_hand, "registration_access_token")}))).await;
    home.apply(&adopting(&home, "first", &by_hand)).await;
    home.until_ready("first").await;
    home.apply(&adopting(&home, "second", &by_hand)).await;
    let message = home.until_condition(CLIENTS, "second", ["Registered", "False", "ClientConflict"]).await;
    assert_says(&message, &["/first", text(&by_hand, "client_id")]);

    let mut third = home.oauth_client("third");
    third["spec"]["secret"] = json!({"name": "first"});
    home.apply(&third).await;
    home.until_condition(CLIENTS, "third", ["SecretSynced", "False", "SecretConflict"]).await;
    assert_eq!(home.secret("first").await["client-id"], text(&by_hand, "client_id"));
}

// --- by the profile's management client

/// A server with a management client, and a client there that nobody's OAuthClient has.
pub async fn managed_server() -> (FaultServer, Value) {
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let http = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().unwrap();
    let by_hand = registered_at(&server.url(""), &http, "by hand").await;
    (server, by_hand)
}

/// A profile of that server for every namespace.
pub async fn managed_profile(home: &Home, server: &FaultServer) {
    let mut profile = profile(&server.url(""));
    profile["spec"]["allowedNamespaces"] = json!({"from": "All"});
    profile["spec"]["server"] = json!({"managementClient": {"clientId": "manager", "secretRef": {"name": "manager"}}});
    let mut manager = registrar_secret("manager-secret");
    manager["metadata"]["name"] = json!("manager");
    for object in [registrar_secret(AuthorizationServer::REGISTRAR_SECRET), manager, profile] {
        home.apply(&object).await;
    }
    home.until_profile_ready().await;
}

/// An OAuthClient that adopts without a token.
fn adopting_by_manager(home: &Home, identity: &Home, by_hand: &Value) -> Value {
    let mut client = adopting(home, "shop", by_hand);
    client["spec"]["profileRef"] = json!({"name": PROFILE, "namespace": identity.name});
    client["spec"]["adopt"].as_object_mut().unwrap().remove("secretRef");
    client
}

/// How often the server was asked for a token, and about this client.
pub fn calls(server: &FaultServer, client: &Value) -> [usize; 2] {
    let path = format!("/reg/{}", text(client, "client_id"));
    let requests = server.requests();
    [requests.iter().filter(|r| r.path == "/token").count(), requests.iter().filter(|r| r.path == path).count()]
}

#[tokio::test]
async fn the_management_client_adopts_for_the_profiles_own_namespace() {
    let (home, (server, by_hand)) = (Home::new("manager").await, managed_server().await);
    managed_profile(&home, &server).await;
    home.apply(&adopting_by_manager(&home, &home, &by_hand)).await;
    let adopted = home.until_ready("shop").await;
    assert_eq!(adopted["status"]["clientId"], by_hand["client_id"]);
    assert_eq!(home.secret("shop").await["client-secret"], text(&by_hand, "client_secret"));
}

#[tokio::test]
async fn the_management_client_adopts_for_another_namespace_only_if_the_profile_says_so() {
    let (identity, (server, by_hand)) = (Home::new("identity").await, managed_server().await);
    managed_profile(&identity, &server).await;
    let tenant = identity.neighbour("tenant").await;
    let before = calls(&server, &by_hand);
    tenant.apply(&adopting_by_manager(&tenant, &identity, &by_hand)).await;
    let message = tenant.until_condition(CLIENTS, "shop", ["Accepted", "False", "RefNotPermitted"]).await;
    let field = "spec.server.managementClient.adoptionNamespaces";
    assert_says(&message, &[field, &tenant.name, &identity.name, "spec.adopt.secretRef"]);
    assert_eq!(calls(&server, &by_hand), before, "nobody was asked");
    assert!(tenant.get(SECRETS, "shop").await.is_none());

    // Judged anew when the profile changes, and when the labels of the namespace do.
    let labels = json!({"from": "Selector", "selector": {"matchLabels": {"adopts": "yes"}}});
    let allow = |namespaces: Value| {
        let manager = json!({"adoptionNamespaces": namespaces});
        identity.patch(PROFILES, PROFILE, json!({"spec": {"server": {"managementClient": manager}}}))
    };
    allow(labels).await;
    tenant.label_namespace("adopts", "yes").await;
    tenant.until_ready("shop").await;
    assert_eq!(tenant.secret("shop").await["client-secret"], text(&by_hand, "client_secret"));

    // Taken away again: what is adopted stays, and its registration is looked after.
    allow(json!({"from": "Same", "selector": null})).await;
    tenant.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    tenant.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    tenant.patch(SECRETS, "shop-registration", json!({"metadata": {"finalizers": null}})).await;
    tenant.delete(SECRETS, "shop-registration").await;
    tenant.until("read anew", SECRETS, "shop-registration", |_| true).await;
    let client = tenant.until_ready("shop").await;
    assert_eq!(verdict(&client, "Accepted"), "True Accepted");
    tenant.delete(CLIENTS, "shop").await;
    tenant.until_gone(CLIENTS, "shop").await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 0);
}

#[tokio::test]
async fn a_client_is_adopted_with_its_own_token_from_wherever_the_profile_may_be_used() {
    let (identity, (server, by_hand)) = (Home::new("identity").await, managed_server().await);
    managed_profile(&identity, &server).await;
    let tenant = identity.neighbour("tenant").await;
    let mut client = adopting(&tenant, "shop", &by_hand);
    client["spec"]["profileRef"] = json!({"name": PROFILE, "namespace": identity.name});
    let [tokens, _] = calls(&server, &by_hand);
    // One that is wrong opens no other way.
    tenant.apply(&credentials(json!({"registration-access-token": "wrong"}))).await;
    tenant.apply(&client).await;
    tenant.until_condition(CLIENTS, "shop", ["Registered", "False", "RegistrationLost"]).await;
    tenant.apply(&credentials(json!({"registration-access-token": text(&by_hand, "registration_access_token")}))).await;
    tenant.until_ready("shop").await;
    assert_eq!(tenant.secret("shop").await["client-secret"], text(&by_hand, "client_secret"));
    assert_eq!(calls(&server, &by_hand)[0], tokens, "the management client has not been used");
}

#[tokio::test]
async fn a_change_of_an_adopted_client_that_the_server_refuses_is_asked_for_once() {
    let home = Home::without_operator("refused").await;
    let (operator, (server, by_hand)) = (home.operator(&[]).await, managed_server().await);
    home.profile(&server.url("")).await;
    home.apply(&credentials(json!({"registration-access-token": text(&by_hand, "registration_access_token")}))).await;
    let refusal = json!({"error": "invalid_client_metadata", "error_description": "not like this"});
    let path = format!("/reg/{}", text(&by_hand, "client_id"));
    server.answer("PUT", &path, Answer::json(400, &refusal));
    home.apply(&adopting(&home, "shop", &by_hand)).await;
    assert_says(
        &home.until_condition(CLIENTS, "shop", ["InSync", "False", "UpdateRejected"]).await,
        &["not like this"],
    );
    operator.terminate().await;
    operator.restart().await;
    // Another thing altogether.
    home.patch(CLIENTS, "shop", json!({"spec": {"secret": {"labels": {"team": "shop"}}}})).await;
    let is_observed = |client: &Value| client["status"]["observedGeneration"] == client["metadata"]["generation"];
    let client = home.until("looked at", CLIENTS, "shop", is_observed).await;
    assert_eq!(verdict(&client, "InSync"), "False UpdateRejected");
    assert_eq!(server.requests_to("PUT", &path).len(), 1);
}

/// The registration Secret is lost. The management client can read the client, and is not told its secret.
async fn without_its_secret(prefix: &str) -> (Home, FaultServer, String) {
    let (home, server) = (Home::new(prefix).await, FaultServer::start_registrar(Registrar::default()).await);
    let mut manager = registrar_secret("manager-secret");
    manager["metadata"]["name"] = json!("manager");
    home.apply(&manager).await;
    let mut profile = profile(&server.url(""));
    profile["spec"]["server"] =
        json!({"managementClient": {"clientId": "manager", "scope": "dcrm", "secretRef": {"name": "manager"}}});
    home.apply(&registrar_secret("server-secret")).await;
    home.apply(&profile).await;
    home.until_profile_ready().await;
    let client_id = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    let told = Answer::json(200, &json!({"client_id": client_id, "client_name": "shop"}));
    server.answer("GET", &format!("/reg/{client_id}"), told);
    home.patch(SECRETS, "shop-registration", json!({"metadata": {"finalizers": null}})).await;
    home.delete(SECRETS, "shop-registration").await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "RegistrationLost"]).await;
    assert_says(&message, &["spec.adopt", "client-secret", "spec.replacement.when: [RegistrationLost]"]);
    (home, server, client_id)
}

#[tokio::test]
async fn a_client_whose_secret_was_lost_is_kept_if_somebody_knows_the_secret() {
    let (home, _server, client_id) = without_its_secret("regiven").await;
    let secret = home.secret("shop").await["client-secret"].clone();
    home.apply(&credentials(json!({"client-secret": secret}))).await;
    let adopt = json!({"clientId": client_id, "secretRef": {"name": "old"}});
    home.patch(CLIENTS, "shop", json!({"spec": {"adopt": adopt}})).await;
    home.until_condition(CLIENTS, "shop", ["Registered", "True", "Adopted"]).await;
    let client = home.until_ready("shop").await;
    assert_eq!(client["status"]["clientId"], client_id.as_str());
    assert_eq!(client["status"]["credentialsRotatedAt"], Value::Null, "it is the secret that workloads have");
    assert_eq!(home.secret("shop").await["client-secret"], secret);
}

#[tokio::test]
async fn another_secret_than_the_published_one_is_new_to_the_workloads() {
    let (home, server, client_id) = without_its_secret("renewed").await;
    let told = Answer::json(200, &json!({"client_id": client_id, "client_name": "shop"}));
    server.answer("PUT", &format!("/reg/{client_id}"), told);
    home.apply(&credentials(json!({"client-secret": "another-secret"}))).await;
    let adopt = json!({"clientId": client_id, "secretRef": {"name": "old"}});
    home.patch(CLIENTS, "shop", json!({"spec": {"adopt": adopt}})).await;
    home.until_condition(CLIENTS, "shop", ["Registered", "True", "Adopted"]).await;
    let client = home.until_ready("shop").await;
    assert!(client["status"]["credentialsRotatedAt"].is_string(), "{client}");
    assert_eq!(home.secret("shop").await["client-secret"], "another-secret");
}

#[tokio::test]
async fn a_client_whose_secret_was_lost_is_replaced_if_the_spec_allows_it() {
    let (home, _server, client_id) = without_its_secret("unknown").await;
    home.patch(CLIENTS, "shop", json!({"spec": {"replacement": {"when": ["RegistrationLost"]}}})).await;
    home.until_condition(CLIENTS, "shop", ["Registered", "True", "Replaced"]).await;
    assert_ne!(home.until_ready("shop").await["status"]["clientId"], client_id.as_str());
}

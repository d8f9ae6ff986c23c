//! What a DcrPolicy forbids never reaches the server.

use serde_json::json;

use crate::{
    fixtures::*,
    support::fault_server::{FaultServer, Registrar},
};

#[tokio::test]
async fn a_denial_names_policy_field_and_every_value_and_ends_when_the_policy_is_loosened() {
    let (home, server) = (Home::new("denied").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.apply(&policy("web", &json!({"allowedScopes": ["openid"], "allowedGrantTypes": ["authorization_code"]})))
        .await;
    home.apply(&policy("other", &json!({"profileRef": {"name": "other"}, "allowedGrantTypes": []}))).await;
    home.until_condition(POLICIES, "web", ["Ready", "True", "Ready"]).await;
    home.until_condition(POLICIES, "other", ["Ready", "True", "Ready"]).await;
    let calls = server.requests().len();

    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"]["scope"] = json!("openid email admin");
    home.apply(&client).await;
    let message = home.until_condition(CLIENTS, "shop", ["Accepted", "False", "PolicyDenied"]).await;
    for forbidden in ["grant_types: refresh_token", "scope: email", "scope: admin"] {
        assert_says(&message, &[&format!("DcrPolicy web forbids {forbidden}")]);
    }
    assert!(!message.contains("openid") && !message.contains("authorization_code"), "{message}");
    assert!(!message.contains("DcrPolicy other"), "{message}");
    let object = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&object, "Ready"), "False PolicyDenied");
    assert_eq!(verdict(&object, "Stalled"), "True PolicyDenied");
    assert_says(&home.until_event("PolicyDenied").await, &["DcrPolicy web"]);
    assert_eq!(server.requests().len(), calls, "no call is made for what is forbidden");
    let counted = json!({"matching": 1, "violating": 1});
    home.until("it counts", POLICIES, "web", move |policy| policy["status"]["clients"] == counted).await;

    let loose = json!({"allowedScopes": ["openid", "email", "admin"], "allowedGrantTypes": null});
    home.patch(POLICIES, "web", json!({"spec": loose})).await;
    let object = home.until_ready("shop").await;
    assert_eq!(verdict(&object, "Stalled"), "");
    let counted = json!({"matching": 1, "violating": 0});
    home.until("it counts", POLICIES, "web", move |policy| policy["status"]["clients"] == counted).await;
}

#[tokio::test]
async fn a_client_without_grant_types_counts_as_authorization_code() {
    let (home, server) = (Home::new("default").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.apply(&policy("machines", &json!({"allowedGrantTypes": ["client_credentials"]}))).await;
    home.until_condition(POLICIES, "machines", ["Ready", "True", "Ready"]).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"].as_object_mut().unwrap().remove("grant_types");
    home.apply(&client).await;
    let message = home.until_condition(CLIENTS, "shop", ["Accepted", "False", "PolicyDenied"]).await;
    assert_says(&message, &["DcrPolicy machines forbids grant_types: authorization_code"]);
    client["spec"]["clientMetadata"]["grant_types"] = json!(["client_credentials"]);
    home.apply(&client).await;
    home.until_ready("shop").await;
}

#[tokio::test]
async fn a_stricter_policy_stops_changes_and_leaves_what_is_registered() {
    let (home, server) = (Home::new("stricter").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.register("shop").await;
    let (secret, calls) = (home.secret("shop").await, server.requests().len());
    home.apply(&policy("strict", &json!({"allowedScopes": ["openid"]}))).await;
    home.until_condition(CLIENTS, "shop", ["Accepted", "False", "PolicyDenied"]).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"]["scope"] = json!("openid profile");
    home.apply(&client).await;
    let message = home.until_condition(CLIENTS, "shop", ["InSync", "False", "PolicyDenied"]).await;
    assert_says(&message, &["stays as it is registered"]);
    let object = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&object, "Ready"), "True Ready");
    assert_eq!((home.secret("shop").await, server.requests().len()), (secret, calls));
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 0, "a policy does not hold up a deletion");
}

#[tokio::test]
async fn a_deleted_policy_forbids_nothing() {
    let (home, server) = (Home::new("lifted").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.apply(&policy("none", &json!({"allowedGrantTypes": []}))).await;
    home.until_condition(POLICIES, "none", ["Ready", "True", "Ready"]).await;
    home.apply(&home.oauth_client("shop")).await;
    home.until_condition(CLIENTS, "shop", ["Ready", "False", "PolicyDenied"]).await;
    home.delete(POLICIES, "none").await;
    home.until_ready("shop").await;
}

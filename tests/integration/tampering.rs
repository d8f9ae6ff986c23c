//! An application team that may write Secrets edits `<name>-registration`. It gets at nobody else's client by that, not even
//! where the profile has a management client, whose token would do for any.

use serde_json::{Value, json};

use crate::{
    adoption::{calls, managed_profile, managed_server, text},
    fixtures::*,
    support::fault_server::FaultServer,
};

/// A client `shop`, registered at a server with a management client, and somebody else's client there.
async fn victim_and_shop(prefix: &str) -> (Home, FaultServer, Value, String) {
    let (home, (server, victim)) = (Home::new(prefix).await, managed_server().await);
    managed_profile(&home, &server).await;
    let shop = home.register("shop").await;
    let own = shop["status"]["clientId"].as_str().expect("a client id").to_owned();
    (home, server, victim, own)
}

async fn write(home: &Home, key: &str, value: &Value) {
    home.patch(SECRETS, "shop-registration", json!({"stringData": {key: value.to_string()}})).await;
}

/// What the Secret of a client says that has no token of its own: only a management client could help.
fn tokenless(client: &Value) -> Value {
    json!({"client_id": client["client_id"], "registration_client_uri": client["registration_client_uri"]})
}

/// Nobody has asked the server about the client, and it is there.
fn assert_untouched(server: &FaultServer, victim: &Value) {
    assert_eq!(calls(server, victim)[1], 0, "{:?}", server.requests());
    assert!(!server.registrar(|registrar| registrar.clients[text(victim, "client_id")].is_deleted));
}

/// The OAuthClient is deleted, and its own client on the server with it, but nobody else's.
async fn shop_goes_alone(home: &Home, server: &FaultServer, victim: &Value, own: &str) {
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_untouched(server, victim);
    assert!(server.registrar(|registrar| registrar.clients[own].is_deleted));
}

#[tokio::test]
async fn another_client_in_the_registration_secret_is_neither_read_nor_changed_and_the_own_one_can_be_had_back() {
    let (home, server, victim, own) = victim_and_shop("tamper").await;
    let before = home.secret("shop").await;
    write(&home, "client-information.json", &tokenless(&victim)).await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "RegistrationLost"]).await;
    assert_says(&message, &["shop-registration", &own, text(&victim, "client_id")]);
    home.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    home.annotate("shop", "dcr-operator.dev/reconcile-requested-at", "now").await;
    home.until("seen", CLIENTS, "shop", |client| client["status"]["lastHandledReconcileAt"] == "now").await;
    home.until_condition(CLIENTS, "shop", ["Registered", "False", "RegistrationLost"]).await;
    assert_untouched(&server, &victim);
    assert_eq!(home.secret("shop").await, before);

    home.patch(SECRETS, "shop-registration", json!({"metadata": {"finalizers": null}})).await;
    home.delete(SECRETS, "shop-registration").await;
    let back = home.until_ready("shop").await;
    assert_eq!(back["status"]["clientId"], own);
    assert_eq!(home.secret("shop").await["client-secret"], before["client-secret"]);
    assert_untouched(&server, &victim);
}

#[tokio::test]
async fn another_client_in_the_registration_secret_is_not_deleted_and_the_own_one_is_reported() {
    let (home, server, victim, own) = victim_and_shop("tamper").await;
    write(&home, "client-information.json", &tokenless(&victim)).await;
    home.until_condition(CLIENTS, "shop", ["Registered", "False", "RegistrationLost"]).await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_says(&home.until_event("Orphaned").await, &[&own, "shop-registration"]);
    assert_untouched(&server, &victim);
}

#[tokio::test]
async fn another_uri_in_the_registration_secret_leads_nowhere() {
    let (home, server, victim, own) = victim_and_shop("tamper").await;
    let elsewhere = json!({"client_id": own, "registration_client_uri": victim["registration_client_uri"]});
    write(&home, "client-information.json", &elsewhere).await;
    home.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    shop_goes_alone(&home, &server, &victim, &own).await;
}

#[tokio::test]
async fn another_client_among_the_former_ones_is_not_deleted_and_it_is_said() {
    let (home, server, victim, own) = victim_and_shop("tamper").await;
    // Not at once: the status has the time to name it.
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(3);
    let former = json!([{"information": tokenless(&victim), "deleteAfter": soon.to_string()}]);
    write(&home, "retiring.json", &former).await;
    assert_says(&home.until_event("Orphaned").await, &[text(&victim, "client_id")]);
    shop_goes_alone(&home, &server, &victim, &own).await;
}

#[tokio::test]
async fn a_registration_secret_that_was_there_before_its_client_opens_no_other_one() {
    let (home, server, victim, _) = victim_and_shop("tamper").await;
    let mut planted = home.oauth_client("planted");
    planted["spec"]["suspend"] = json!(true);
    home.apply(&planted).await;
    let uid = home.get(CLIENTS, "planted").await.unwrap()["metadata"]["uid"].clone();
    // As the operator writes it, but for the client.
    let mut data = home.secret("shop-registration").await;
    data.insert("client-information.json".into(), tokenless(&victim).to_string());
    let owner =
        json!([{"apiVersion": "dcr-operator.dev/v1alpha1", "kind": "OAuthClient", "name": "planted", "uid": uid}]);
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "type": "dcr-operator.dev/registration",
        "metadata": {"name": "planted-registration", "ownerReferences": owner}, "stringData": data,
    });
    home.apply(&secret).await;
    home.patch(CLIENTS, "planted", json!({"spec": {"suspend": false}})).await;
    home.until("seen", CLIENTS, "planted", |client| client["status"]["clientId"] == victim["client_id"]).await;
    for (name, scope) in [("first", "openid"), ("second", "email")] {
        home.patch(CLIENTS, "planted", json!({"spec": {"clientMetadata": {"scope": scope}}})).await;
        home.annotate("planted", "dcr-operator.dev/reconcile-requested-at", name).await;
        home.until("seen", CLIENTS, "planted", |client| client["status"]["lastHandledReconcileAt"] == name).await;
    }
    home.delete(SECRETS, "planted-registration").await;
    home.annotate("planted", "dcr-operator.dev/reconcile-requested-at", "gone").await;
    home.until_condition(CLIENTS, "planted", ["Registered", "False", "RegistrationLost"]).await;
    home.delete(CLIENTS, "planted").await;
    home.until_gone(CLIENTS, "planted").await;
    assert_says(&home.until_event("Orphaned").await, &[text(&victim, "client_id")]);
    assert_untouched(&server, &victim);
}

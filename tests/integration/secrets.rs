//! The application's Secret: restored when it is lost, left alone when it is somebody else's.

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::AuthorizationServer,
        fault_server::{FaultServer, Registrar},
        process::wait_until,
    },
};

#[tokio::test]
async fn a_deleted_secret_comes_back_with_the_same_credentials() {
    let (home, server) = (Home::new("deleted").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.register("shop").await;
    let (secret, uid) =
        (home.secret("shop").await, home.get(SECRETS, "shop").await.unwrap()["metadata"]["uid"].clone());
    home.delete(SECRETS, "shop").await;
    home.until("another one", SECRETS, "shop", move |secret| secret["metadata"]["uid"] != uid).await;
    assert_eq!(home.secret("shop").await, secret);
    assert_eq!(home.registered(server, "shop").await.len(), 1);
}

#[tokio::test]
async fn an_edited_secret_is_put_right_and_what_others_added_stays() {
    let home = Home::new("edited").await;
    home.profile(AuthorizationServer::shared().issuer()).await;
    home.register("shop").await;
    let data = home.get(SECRETS, "shop").await.unwrap()["data"].clone();
    let edit = json!({
        "data": {"client-secret": "c3BvaWx0", "scope": null, "added": "eWVz"},
        "metadata": {"labels": {"team": "shop", "dcr-operator.dev/client": null}, "annotations": {"note": "kept"}},
    });
    home.patch(SECRETS, "shop", edit).await;
    let restored = home.until("put right", SECRETS, "shop", {
        let data = data.clone();
        move |secret| {
            ["client-secret", "scope"].iter().all(|key| secret["data"][*key] == data[*key])
                && secret["metadata"]["labels"]["dcr-operator.dev/client"] == "shop"
        }
    });
    let restored = restored.await;
    assert_eq!(restored["data"]["added"], "eWVz");
    assert_eq!(restored["metadata"]["labels"]["team"], "shop");
    assert_eq!(restored["metadata"]["annotations"]["note"], "kept");
}

#[tokio::test]
async fn a_secret_whose_label_was_taken_off_gets_it_back() {
    let home = Home::new("unlabelled").await;
    home.profile(AuthorizationServer::shared().issuer()).await;
    home.register("shop").await;
    let label = "app.kubernetes.io/managed-by";
    home.patch(SECRETS, "shop", json!({"metadata": {"labels": {label: null}}})).await;
    home.until("labelled again", SECRETS, "shop", |secret| {
        secret["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "dcr-operator"
    })
    .await;
    assert_eq!(verdict(&home.until_ready("shop").await, "SecretSynced"), "True SecretSynced");
}

#[tokio::test]
async fn a_secret_follows_the_spec_to_another_name_and_format() {
    let (home, server) = (Home::new("renamed").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.register("shop").await;
    let client_id = home.secret("shop").await["client-id"].clone();
    let mut client = home.oauth_client("shop");
    client["spec"]["secret"] = json!({"name": "other", "format": "Env"});
    home.apply(&client).await;
    home.until_gone(SECRETS, "shop").await;
    assert_eq!(home.secret("other").await["CLIENT_ID"], client_id);
    let ready = home.until("bound to the other", CLIENTS, "shop", |c| c["status"]["binding"]["name"] == "other").await;
    assert_eq!(ready["status"]["clientId"], client_id.as_str());
    client["spec"]["secret"] = json!({"name": "other", "format": "Rfc7591"});
    home.apply(&client).await;
    home.until("other keys", SECRETS, "other", |secret| {
        secret["data"]["client_id"].is_string() && secret["data"]["CLIENT_ID"].is_null()
    })
    .await;
    assert_eq!(home.registered(server, "shop").await.len(), 1);
}

/// A Secret of the application team, of the name that the operator would use.
fn foreign(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {"mine": "yes"}})
}

#[tokio::test]
async fn a_secret_of_somebody_else_is_never_touched() {
    let home = Home::new("foreign").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    for (client, secret) in [("shop", "shop"), ("bank", "bank-registration")] {
        home.apply(&foreign(secret)).await;
        let before = home.get(SECRETS, secret).await;
        home.apply(&home.oauth_client(client)).await;
        let message = home.until_condition(CLIENTS, client, ["SecretSynced", "False", "SecretConflict"]).await;
        assert_says(&message, &[&format!("Secret {secret}"), "not touched", "Remove it, or"]);
        let object = home.get(CLIENTS, client).await.unwrap();
        assert_eq!(verdict(&object, "Ready"), "False SecretConflict");
        assert_eq!(object["status"]["binding"], Value::Null);
        let words = format!("Secret {secret} ");
        let told = async || home.events("SecretConflict").await.into_iter().find(|note| note.contains(&words));
        wait_until("an event about the conflict", WAIT, told).await;
        assert_eq!(home.get(SECRETS, secret).await, before);
    }
    assert_eq!(server.requests_to("POST", "/reg").len(), 0, "nothing is registered that could not be stored");

    // Another name, and all is well.
    let mut client = home.oauth_client("shop");
    client["spec"]["secret"] = json!({"name": "shop-oauth"});
    home.apply(&client).await;
    home.until_ready("shop").await;
    home.delete(CLIENTS, "bank").await;
    home.until_gone(CLIENTS, "bank").await;
    assert_eq!(home.secret("bank-registration").await["mine"], "yes");
}

#[tokio::test]
async fn a_conflict_that_is_removed_is_over_soon() {
    let (home, server) = (Home::new("cleared").await, AuthorizationServer::shared());
    home.profile(server.issuer()).await;
    home.apply(&foreign("shop")).await;
    home.apply(&home.oauth_client("shop")).await;
    home.until_condition(CLIENTS, "shop", ["Ready", "False", "SecretConflict"]).await;
    home.delete(SECRETS, "shop").await;
    home.annotate("shop", "dcr-operator.dev/reconcile-requested-at", "now").await;
    let client = home.until_ready("shop").await;
    assert_eq!(client["status"]["lastHandledReconcileAt"], "now");
}

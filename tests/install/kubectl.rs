//! What a person sees with nothing but kubectl.

use serde_json::json;

use crate::{
    fixtures::*,
    support::{authorization_server::AuthorizationServer, process::wait_until},
};

#[tokio::test]
async fn kubectl_tells_a_person_what_to_do_next() {
    let home = Home::without_operator("people").await;
    let _operator = home.operator(&[]).await;
    let kubectl = async |args: &[&str]| {
        let args = [args, &["--namespace", &home.name]].concat();
        home.plane.kubectl_ok(&args, None).await
    };
    home.profile(AuthorizationServer::shared().issuer()).await;
    home.apply(&json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy", "metadata": {"name": "web"},
        "spec": {"allowedScopes": ["openid", "email"]},
    }))
    .await;
    home.until_condition(POLICIES, "web", ["Ready", "True", "Ready"]).await;
    home.apply(&home.oauth_client("shop")).await;
    kubectl(&["wait", "--for=condition=Ready", "--timeout=30s", "oauthclient/shop"]).await;
    kubectl(&["wait", "--for=jsonpath={.status.clientId}", "--timeout=30s", "oauthclient/shop"]).await;

    let mut greedy = home.oauth_client("greedy");
    greedy["spec"]["clientMetadata"]["scope"] = json!("openid admin");
    home.apply(&greedy).await;
    home.until_condition(CLIENTS, "greedy", ["Ready", "False", "PolicyDenied"]).await;

    // Everything in one list, and why.
    let list = kubectl(&["get", "dcr"]).await;
    let line = |name: &str| {
        list.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name} in {list}")).to_owned()
    };
    assert_says(&line("oauthclient.dcr-operator.dev/shop"), &["True", "Ready"]);
    assert_says(&line("oauthclient.dcr-operator.dev/greedy"), &["False", "PolicyDenied"]);
    assert_says(&line("tokenprofile.dcr-operator.dev/token-service"), &["True"]);
    assert_says(&line("dcrpolicy.dcr-operator.dev/web"), &["True"]);
    // Policy, field and value.
    let described = kubectl(&["describe", "oauthclient", "greedy"]).await;
    assert_says(&described, &["PolicyDenied", "web", "scope", "admin"]);

    // Events are transitions: looking again makes no more of them.
    let events = async || home.events("PolicyDenied").await.len();
    wait_until("the event is there", WAIT, async || events().await == 1).await;
    for value in ["1", "2"] {
        home.annotate("greedy", "dcr-operator.dev/reconcile-requested-at", value).await;
        home.until("looked at", CLIENTS, "greedy", move |client| client["status"]["lastHandledReconcileAt"] == value)
            .await;
    }
    assert_eq!(events().await, 1);
    let events = kubectl(&["events", "--for", "oauthclient/shop"]).await;
    assert_eq!(events.matches("Registered").count(), 1, "{events}");
}

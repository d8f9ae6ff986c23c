//! What Flux, Helm and Argo CD see, in their own words: kstatus by its library, Argo CD's health check in a Lua
//! interpreter; and that they never find a difference that the operator made.

use std::fs;

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    release,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        control_plane::ControlPlane,
        repository,
    },
    tools::{Helm, id, manifests, verdicts},
};

/// What they see of an object in a state.
fn seen(states: &[(&str, Value, &str, &str)]) {
    let objects: Vec<Value> = states.iter().map(|(_, object, ..)| object.clone()).collect();
    let script = repository("deploy/argocd/health.lua");
    let argocd = verdicts(&["argocd", script.to_str().expect("a UTF-8 path")], &objects);
    let kstatus = verdicts(&["kstatus"], &objects);
    for (((state, object, expected_kstatus, expected_argocd), argocd), kstatus) in
        states.iter().zip(argocd).zip(kstatus)
    {
        let what = format!("{}, {state}: {}", id(object), object["status"]);
        assert_eq!(kstatus["status"], *expected_kstatus, "kstatus of {what}");
        assert_eq!(argocd["status"], *expected_argocd, "Argo CD of {what}");
        assert!(argocd["message"].as_str().is_some_and(|message| !message.is_empty()), "{what}: {argocd}");
    }
}

#[tokio::test]
async fn flux_and_argo_cd_see_what_state_an_object_is_in() {
    let home = Home::without_operator("gitops").await;
    let server = AuthorizationServer::start(AuthorizationServerOptions::default()).await;
    let policy = json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy", "metadata": {"name": "web"},
        "spec": {"allowedScopes": ["openid", "email"]},
    });
    let mut early = home.oauth_client("early");
    early["spec"]["profileRef"] = json!({"name": "comes-later"});
    for object in [&registrar_secret(AuthorizationServer::REGISTRAR_SECRET), &profile(server.issuer()), &policy, &early]
    {
        home.apply(object).await;
    }
    let mut states = Vec::new();
    // Nobody has looked yet: the hole that the default of `status` closes.
    for (plural, name) in [(PROFILES, PROFILE), (POLICIES, "web"), (CLIENTS, "early")] {
        let object = home.get(plural, name).await.expect("an object");
        states.push(("untouched", object, "InProgress", "Progressing"));
    }

    let operator = home.operator(&[]).await;
    home.until_profile_ready().await;
    home.until_condition(POLICIES, "web", ["Ready", "True", "Ready"]).await;
    states.push(("at work", home.get(PROFILES, PROFILE).await.expect("a profile"), "Current", "Healthy"));
    states.push(("at work", home.get(POLICIES, "web").await.expect("a policy"), "Current", "Healthy"));
    states.push(("registered", home.register("shop").await, "Current", "Healthy"));

    // What may come by itself is in progress, and what needs a person has failed.
    home.until_condition(CLIENTS, "early", ["Accepted", "False", "ProfileNotFound"]).await;
    let waiting = home.get(CLIENTS, "early").await.expect("a client");
    states.push(("without its profile", waiting, "InProgress", "Progressing"));
    let mut greedy = home.oauth_client("greedy");
    greedy["spec"]["clientMetadata"]["scope"] = json!("openid admin");
    home.apply(&greedy).await;
    home.until_condition(CLIENTS, "greedy", ["Ready", "False", "PolicyDenied"]).await;
    states.push(("forbidden", home.get(CLIENTS, "greedy").await.expect("a client"), "Failed", "Degraded"));

    // Suspended: as it was, to kstatus; Argo CD has a word for it.
    home.patch(CLIENTS, "shop", json!({"spec": {"suspend": true}})).await;
    let suspended = home.until_ready("shop").await;
    states.push(("suspended", suspended, "Current", "Suspended"));
    home.patch(CLIENTS, "shop", json!({"spec": {"suspend": false}})).await;
    home.until_ready("shop").await;
    home.annotate("shop", "dcr-operator.dev/paused", "true").await;
    states.push(("paused", home.get(CLIENTS, "shop").await.expect("a client"), "Current", "Suspended"));
    home.annotate("shop", "dcr-operator.dev/paused", "false").await;
    home.until_ready("shop").await;

    // The server is away: what is registered stays ready; what is to be registered or removed is in progress.
    server.stop();
    home.apply(&home.oauth_client("late")).await;
    let late =
        home.until("retrying", CLIENTS, "late", |client| condition(client, "Reconciling")["status"] == "True").await;
    states.push(("while the server is away", late, "InProgress", "Progressing"));
    states.push(("while the server is away", home.get(CLIENTS, "shop").await.expect("a client"), "Current", "Healthy"));
    home.delete(CLIENTS, "shop").await;
    let deleted =
        home.until("deleting", CLIENTS, "shop", |client| client["metadata"]["deletionTimestamp"].is_string()).await;
    // Argo CD does not ask the script about deleted objects: they are Progressing.
    let verdict = verdicts(&["kstatus"], &[deleted])[0].clone();
    assert_eq!(verdict["status"], "Terminating");

    // A new generation that nobody has looked at: the operator is gone.
    operator.kill();
    home.patch(POLICIES, "web", json!({"spec": {"allowedScopes": ["openid"]}})).await;
    states.push(("changed", home.get(POLICIES, "web").await.expect("a policy"), "InProgress", "Progressing"));
    seen(&states);
}

#[test]
fn the_health_check_survives_objects_that_are_not_complete() {
    let states: Vec<Value> = [
        json!({"metadata": {}}),
        json!({"metadata": {"generation": 1}, "spec": {}, "status": {}}),
        json!({"metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": []}}),
        json!({"metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}}),
    ]
    .to_vec();
    let script = repository("deploy/argocd/health.lua");
    for answer in verdicts(&["argocd", script.to_str().expect("a UTF-8 path")], &states) {
        assert_eq!(answer["status"], "Progressing", "{answer}");
    }
}

#[test]
fn the_examples_install_the_chart_with_values_that_it_has() {
    let read = |path: &str| fs::read_to_string(repository(path)).expect("an example");
    let flux = manifests(&read("deploy/flux/shop.yaml"));
    let release = flux.iter().find(|object| object["kind"] == "HelmRelease").expect("a HelmRelease");
    assert!(repository(release["spec"]["chart"]["spec"]["chart"].as_str().expect("a path")).is_dir());
    let values = release["spec"]["values"].to_string();
    let rendered = Helm::offline().template("dcr-operator", "dcr-operator", &values);
    assert!(rendered.iter().any(|object| object["kind"] == "PodMonitor"), "{values}");
    let waiting = flux.iter().filter(|object| object["kind"] == "Kustomization");
    assert!(waiting.clone().count() == 2 && waiting.clone().all(|object| object["spec"]["wait"] == true));

    let argocd = manifests(&read("deploy/argocd/application.yaml"));
    assert!(repository(argocd[0]["spec"]["source"]["path"].as_str().expect("a path")).is_dir());
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(argocd[0]["spec"]["source"]["targetRevision"], version);
    assert_eq!(flux[0]["spec"]["ref"]["tag"], version);
}

/// Applies as Argo CD and Flux do, and returns what came of it, without the status: controllers write that at any time.
async fn apply(plane: &ControlPlane, manager: &str, objects: &[Value]) -> Vec<Value> {
    let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
    let manager = format!("--field-manager={manager}");
    let args = ["apply", "--server-side", "--force-conflicts", &manager, "--output=json", "--filename=-"];
    let applied: Value = serde_json::from_str(&plane.kubectl_ok(&args, Some(&list)).await).expect("JSON");
    let items = applied["items"].as_array().cloned().unwrap_or_else(|| vec![applied]);
    items.into_iter().map(without_status).collect()
}

/// An object without its status, and without what a write of the status changes besides.
fn without_status(mut object: Value) -> Value {
    object.as_object_mut().expect("an object").remove("status");
    let metadata = object["metadata"].as_object_mut().expect("metadata");
    metadata.retain(|field, _| field != "resourceVersion" && field != "managedFields");
    object
}

#[tokio::test]
async fn applying_the_same_again_changes_nothing() {
    let bare = release::BarePlane::start().await;
    let (plane, server) = (bare.plane(), AuthorizationServer::shared());
    let rendered = Helm::offline().template("dcr-operator", "operators", "allowInsecureHttp: true");
    plane.kubectl_ok(&["create", "namespace", "operators"], None).await;
    for manager in ["argocd-controller", "kustomize-controller"] {
        let (first, second) = (apply(plane, manager, &rendered).await, apply(plane, manager, &rendered).await);
        assert_eq!(first.len(), rendered.len());
        assert_eq!(first, second, "the chart, applied by {manager}");
    }

    let _operator = release::start(plane, "operators", "dcr-operator").await;
    let home = release::home(plane, "shop").await;
    let mut objects = vec![
        profile(server.issuer()),
        home.oauth_client("shop"),
        json!({
            "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy", "metadata": {"name": "web"},
            "spec": {"allowedScopes": ["openid", "email"]},
        }),
    ];
    for object in &mut objects {
        object["metadata"]["namespace"] = json!(home.name);
    }
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    for manager in ["argocd-controller", "kustomize-controller"] {
        apply(plane, manager, &objects).await;
        home.until_ready("shop").await;
        home.until("counted", POLICIES, "web", |policy| policy["status"]["clients"]["matching"] == 1).await;
        home.until("counted", PROFILES, PROFILE, |profile| profile["status"]["clients"] == 1).await;
        let now = live(&home).await;
        assert_eq!(now, apply(plane, manager, &objects).await, "applied by {manager}");
    }
}

/// The profile, the client and the policy, in the order in which they are applied.
async fn live(home: &Home) -> Vec<Value> {
    let mut found = Vec::new();
    for (plural, name) in [(PROFILES, PROFILE), (CLIENTS, "shop"), (POLICIES, "web")] {
        found.push(without_status(home.get(plural, name).await.expect("an object")));
    }
    found
}

//! What Flux, Helm and Argo CD see, in their own words: kstatus by its library, Argo CD's health check in a Lua
//! interpreter; and what the engines of Flux and Argo CD do: they install, wait, prune, and never find a difference that
//! the operator made.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    release,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        process::wait_until,
        repository,
    },
    tools::{Helm, engine, id, manifests, verdicts},
};

/// What they see of an object in a state.
fn seen(states: &[(&str, Value, &str, &str)]) {
    let objects: Vec<Value> = states.iter().map(|(_, object, ..)| object.clone()).collect();
    let script = repository("deploy/argocd/health.lua");
    let argocd = verdicts(&["health", script.to_str().expect("a UTF-8 path")], &objects);
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
        json!({"kind": "OAuthClient", "metadata": {}}),
        json!({"kind": "OAuthClient", "metadata": {"generation": 1}, "spec": {}, "status": {}}),
        json!({"kind": "OAuthClient", "metadata": {"generation": 1}, "status": {"observedGeneration": 1, "conditions": []}}),
        json!({"kind": "OAuthClient", "metadata": {"generation": 2}, "status": {"observedGeneration": 1, "conditions": [{"type": "Ready", "status": "True"}]}}),
    ]
    .to_vec();
    let script = repository("deploy/argocd/health.lua");
    for answer in verdicts(&["health", script.to_str().expect("a UTF-8 path")], &states) {
        assert_eq!(answer["status"], "Progressing", "{answer}");
    }
}

/// On any cluster: the image has a registry, and nothing is of a kind that another operator brings.
fn assert_pulls_and_needs_no_crds_of_others(rendered: &[Value]) {
    let deployment = rendered.iter().find(|object| object["kind"] == "Deployment").expect("a Deployment");
    let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().expect("an image");
    assert!(image.starts_with("registry.example.com/"), "{image}");
    let others = rendered.iter().filter(|object| object["apiVersion"].as_str().unwrap().starts_with("monitoring."));
    assert_eq!(others.count(), 0, "{rendered:?}");
}

#[test]
fn the_examples_install_the_chart_with_values_that_it_has() {
    let read = |path: &str| fs::read_to_string(repository(path)).expect("an example");
    let flux = manifests(&read("deploy/flux/shop.yaml"));
    let release = flux.iter().find(|object| object["kind"] == "HelmRelease").expect("a HelmRelease");
    assert!(repository(release["spec"]["chart"]["spec"]["chart"].as_str().expect("a path")).is_dir());
    let values = release["spec"]["values"].to_string();
    let rendered = Helm::offline().template("dcr-operator", "dcr-operator", &values);
    assert_pulls_and_needs_no_crds_of_others(&rendered);
    let waiting = flux.iter().filter(|object| object["kind"] == "Kustomization");
    assert!(waiting.clone().count() == 2 && waiting.clone().all(|object| object["spec"]["wait"] == true));
    // The CRDs come with the HelmRelease, on which a Kustomization can't wait.
    let first = waiting.clone().find(|object| object["spec"]["dependsOn"].is_null()).expect("the first");
    assert_eq!(first["spec"]["retryInterval"], "1m");

    let argocd = manifests(&read("deploy/argocd/application.yaml"));
    assert!(repository(argocd[0]["spec"]["source"]["path"].as_str().expect("a path")).is_dir());
    let values = argocd[0]["spec"]["source"]["helm"]["valuesObject"].to_string();
    assert_pulls_and_needs_no_crds_of_others(&Helm::offline().template("dcr-operator", "dcr-operator", &values));
    let version = format!("v{}", env!("CARGO_PKG_VERSION"));
    assert_eq!(argocd[0]["spec"]["source"]["targetRevision"], version);
    assert_eq!(flux[0]["spec"]["ref"]["tag"], version);
}

/// The chart's objects, and those of the platform team and of the application team in the namespace of `home`. Of the
/// second client, the policy has one too many.
fn teams(home: &Home, issuer: &str) -> [Vec<Value>; 3] {
    let waves = |mut object: Value, wave: &str| {
        object["metadata"]["namespace"] = json!(home.name);
        object["metadata"]["annotations"] = json!({"argocd.argoproj.io/sync-wave": wave});
        object
    };
    let one = policy("web", &json!({"allowedScopes": ["openid", "email"], "maxClientsPerNamespace": 1}));
    let mut shop = home.oauth_client("shop");
    shop["spec"]["replacement"] = json!({"when": ["Rotation"]});
    let platform = [registrar_secret(AuthorizationServer::REGISTRAR_SECRET), profile(issuer), one];
    [
        platform.map(|object| waves(object, "-1")).to_vec(),
        vec![waves(shop, "0")],
        vec![waves(home.oauth_client("too-many"), "0")],
    ]
}

/// Asserts that all objects have this state.
fn assert_all(states: &BTreeMap<String, String>, state: &str, objects: &[Value]) {
    assert_eq!(states.len(), objects.len(), "{states:#?}");
    assert!(states.values().all(|found| found == state), "not all are {state}: {states:#?}");
}

/// Lets the operator look again, and change the credentials.
async fn rotate(home: &Home, value: &'static str) {
    home.annotate("shop", "dcr-operator.dev/rotate-requested-at", value).await;
    home.until("rotated", CLIENTS, "shop", |client| client["status"]["lastHandledRotateAt"] == value).await;
    home.until_ready("shop").await;
}

#[tokio::test]
async fn flux_applies_waits_finds_no_drift_and_prunes() {
    let bare = release::BarePlane::start().await;
    let (plane, server) = (bare.plane(), AuthorizationServer::shared());
    let try_flux = |command: &str, objects: &[Value]| engine(plane, &["flux", command], objects);
    let flux = |command: &str, objects: &[Value]| {
        try_flux(command, objects).unwrap_or_else(|error| panic!("flux {command}: {error}"))
    };
    let rendered = Helm::offline().template("dcr-operator", "operators", "allowInsecureHttp: true");
    plane.kubectl_ok(&["create", "namespace", "operators"], None).await;
    assert_all(&flux("apply", &rendered), "created", &rendered);
    assert_all(&flux("apply", &rendered), "unchanged", &rendered);

    let _operator = release::start(plane, "operators", "dcr-operator").await;
    let home = release::home(plane, "shop").await;
    let [platform, shop, too_many] = teams(&home, server.issuer());
    for objects in [&platform, &shop] {
        assert_all(&flux("apply", objects), "created", objects);
        flux("wait", objects);
    }
    assert_eq!(verdict(&home.get(CLIENTS, "shop").await.expect("a client"), "Ready"), "True Ready");
    assert_eq!(server.log_in(application(&home.secret("shop").await)).await["refreshed"], true);

    for pass in ["1", "2"] {
        for objects in [&rendered, &platform, &shop] {
            assert_all(&flux("diff", objects), "unchanged", objects);
            assert_all(&flux("apply", objects), "unchanged", objects);
        }
        rotate(&home, pass).await;
    }
    // What somebody else has changed is seen and undone, and what needs a person ends the waiting at once.
    home.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    assert_all(&flux("diff", &shop), "configured", &shop);
    assert_all(&flux("apply", &shop), "configured", &shop);
    flux("wait", &shop);
    flux("apply", &too_many);
    assert_says(&try_flux("wait", &too_many).expect_err("one client too many"), &["too-many", "Failed"]);

    assert_all(&flux("prune", &shop), "deleted", &shop);
    assert!(home.registered(server, "shop").await.is_empty());
    home.until_gone(SECRETS, "shop").await;
}

#[tokio::test]
async fn argo_cd_syncs_wave_by_wave_finds_no_drift_and_prunes() {
    let bare = release::BarePlane::start().await;
    let (plane, server) = (bare.plane(), AuthorizationServer::shared());
    let script = repository("deploy/argocd/health.lua");
    let argocd = |command: &str, application: &str, objects: &[Value]| {
        let args = ["argocd", command, application, script.to_str().expect("a UTF-8 path")];
        engine(plane, &args, objects).unwrap_or_else(|error| panic!("argocd {command}: {error}"))
    };
    let rendered = Helm::offline().template("dcr-operator", "operators", "allowInsecureHttp: true");
    plane.kubectl_ok(&["create", "namespace", "operators"], None).await;
    assert_all(&argocd("sync", "dcr-operator", &rendered), "Synced", &rendered);

    let _operator = release::start(plane, "operators", "dcr-operator").await;
    let home = release::home(plane, "shop").await;
    let [platform, shop, too_many] = teams(&home, server.issuer());
    let both = [platform.clone(), shop].concat();
    assert_all(&argocd("sync", "shop", &both), "Synced", &both);
    let status = |objects: &[Value], kind: &str, name: &str| {
        let found = argocd("status", "shop", objects);
        found[&format!("{kind}/{}/{name}", home.name)].clone()
    };
    let until = async |objects: &[Value], kind: &str, name: &str, state: &str| {
        let look = async || {
            let found = status(objects, kind, name);
            if found == state { Ok(()) } else { Err(found) }
        };
        wait_until(&format!("{kind} {name} is {state}"), WAIT, look).await;
    };
    // The second wave has waited for the first one.
    let client = home.get(CLIENTS, "shop").await.expect("a client");
    let profile = home.get(PROFILES, PROFILE).await.expect("a profile");
    let ready = condition(&profile, "Ready")["lastTransitionTime"].as_str().map(str::to_owned);
    assert!(ready.as_deref() <= client["metadata"]["creationTimestamp"].as_str(), "{ready:?}, then {client}");
    until(&both, "OAuthClient", "shop", "Synced, Healthy").await;
    assert_eq!(server.log_in(application(&home.secret("shop").await)).await["refreshed"], true);

    for pass in ["1", "2"] {
        let (chart, both_now) = (argocd("status", "dcr-operator", &rendered), argocd("status", "shop", &both));
        assert_eq!((chart.len(), both_now.len()), (rendered.len(), both.len()), "{chart:#?} {both_now:#?}");
        let drifted = chart.iter().chain(&both_now).filter(|(_, state)| !state.starts_with("Synced"));
        assert_eq!(drifted.count(), 0, "{chart:#?} {both_now:#?}");
        assert_all(&argocd("sync", "dcr-operator", &rendered), "Synced", &rendered);
        assert_all(&argocd("sync", "shop", &both), "Synced", &both);
        rotate(&home, pass).await;
    }
    // What somebody else has changed is seen and undone, and what needs a person is degraded.
    home.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    assert_says(&status(&both, "OAuthClient", "shop"), &["OutOfSync"]);
    let all = [both.clone(), too_many].concat();
    assert_all(&argocd("sync", "shop", &all), "Synced", &all);
    until(&all, "OAuthClient", "shop", "Synced, Healthy").await;
    until(&all, "OAuthClient", "too-many", "Synced, Degraded").await;

    let pruned = argocd("sync", "shop", &platform);
    assert_eq!(pruned.values().filter(|state| *state == "Pruned").count(), 2, "{pruned:#?}");
    home.until_gone(CLIENTS, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty());
    home.until_gone(SECRETS, "shop").await;
}

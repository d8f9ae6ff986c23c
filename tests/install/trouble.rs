//! What is missing when the operator starts, or is taken from it while it runs; and replicas that die.

use std::time::{Duration, Instant};

use crate::{
    fixtures::*,
    release::{BarePlane, as_deployed, home, start},
    support::{
        authorization_server::AuthorizationServer,
        control_plane::{ControlPlane, project_crds},
        operator::Operator,
        process::wait_until,
    },
    tools::{Helm, chart},
};

const NAMESPACE: &str = "operators";

fn install(plane: &ControlPlane, values: &str) {
    let install = ["install", "dcr-operator", &chart(), "--namespace", NAMESPACE, "--create-namespace"];
    Helm::on(plane).ok(&install, values);
}

/// Waits for what `/readyz` says.
async fn until_readyz(operator: &Operator, status: u16, words: &str) {
    wait_until(&format!("/readyz says {status} {words}"), WAIT, async || match operator.get("/readyz").await {
        Ok((found, text)) if found == status && text.contains(words) => Ok(()),
        other => Err(format!("{other:?}\n{}", operator.process().tail())),
    })
    .await;
}

#[tokio::test]
async fn without_its_crds_it_says_so_and_is_ready_once_they_are_there() {
    let bare = BarePlane::start().await;
    let plane = bare.plane();
    install(plane, "{crds: {enabled: false}, allowInsecureHttp: true}");
    let (kubeconfig, options) = as_deployed(plane, NAMESPACE, "dcr-operator").await;
    let operator = Operator::spawn(&kubeconfig, &options);
    until_readyz(&operator, 503, "the cluster lacks the CRDs tokenprofiles.dcr-operator.dev, dcrpolicies").await;
    assert_eq!(operator.get("/livez").await.unwrap().0, 200, "a restart would not help");
    // It looks again and again, and says it once.
    let looks = || plane.audit().service_account(NAMESPACE, "dcr-operator").count();
    let before = looks();
    wait_until("it has looked again", WAIT, async || looks() >= before + 6).await;
    assert_eq!(operator.log().matches("the cluster lacks the CRDs").count(), 1, "{}", operator.log());

    for crd in project_crds() {
        let args = ["apply", "--server-side", "--filename", crd.to_str().unwrap()];
        plane.kubectl_ok(&args, None).await;
    }
    until_readyz(&operator, 200, "leader").await;
    assert!(operator.process().exited().is_none());
    let home = home(plane, "shop").await;
    home.profile(AuthorizationServer::shared().issuer()).await;
    home.register("shop").await;
}

#[tokio::test]
async fn a_lease_that_it_may_not_write_is_named_with_the_right_that_is_missing() {
    let bare = BarePlane::start().await;
    let plane = bare.plane();
    install(plane, "");
    let roles = ["delete", "rolebinding", "dcr-operator-lease", "--namespace", NAMESPACE];
    plane.kubectl_ok(&roles, None).await;
    let (kubeconfig, options) = as_deployed(plane, NAMESPACE, "dcr-operator").await;
    let operator = Operator::spawn(&kubeconfig, &options);
    until_readyz(&operator, 503, "cannot get resource \"leases\"").await;
    let (_, text) = operator.get("/readyz").await.unwrap();
    assert_says(&text, &["Lease dcr-operator", "in the namespace \"operators\"", "--lease-namespace operators"]);

    // The same release again puts the binding back; nothing needs a restart.
    Helm::on(plane).ok(&["upgrade", "dcr-operator", &chart(), "--namespace", NAMESPACE], "");
    until_readyz(&operator, 200, "leader").await;
}

#[tokio::test]
async fn a_namespace_that_it_may_not_read_is_named_with_the_right_that_is_missing() {
    let bare = BarePlane::start().await;
    let plane = bare.plane();
    let (shop, bank) = (home(plane, "shop").await, home(plane, "bank").await);
    let values = format!("namespaces: [{}, {}]", shop.name, bank.name);
    install(plane, &values);
    plane.kubectl_ok(&["delete", "rolebinding", "dcr-operator", "--namespace", &bank.name], None).await;
    let (kubeconfig, options) = as_deployed(plane, NAMESPACE, "dcr-operator").await;
    let operator = Operator::spawn(&kubeconfig, &options);
    until_readyz(&operator, 503, "cannot get resource \"namespaces\"").await;
    let (_, text) = operator.get("/readyz").await.unwrap();
    assert_says(&text, &[&format!("can't read namespace {} of --namespaces", bank.name)]);

    // The Role lacks a kind.
    let names = ["--verb=get", "--resource=namespaces"];
    for (what, args) in [("role", &names[..]), ("rolebinding", &["--role=names", "--user", &user(NAMESPACE)])] {
        let create = [&["create", what, "names", "--namespace", &bank.name], args].concat();
        plane.kubectl_ok(&create, None).await;
    }
    until_readyz(&operator, 503, "cannot list resource \"tokenprofiles\"").await;

    Helm::on(plane).ok(&["upgrade", "dcr-operator", &chart(), "--namespace", NAMESPACE], &values);
    until_readyz(&operator, 200, "leader").await;
}

/// The user that the operator's ServiceAccount is.
fn user(namespace: &str) -> String {
    format!("system:serviceaccount:{namespace}:dcr-operator")
}

#[tokio::test]
async fn a_right_that_is_taken_away_is_named_by_verb_and_resource_and_missed_no_longer_than_needed() {
    let bare = BarePlane::start().await;
    let plane = bare.plane();
    install(plane, "allowInsecureHttp: true");
    let operator = start(plane, NAMESPACE, "dcr-operator").await;
    let home = home(plane, "shop").await;
    home.profile(AuthorizationServer::shared().issuer()).await;
    plane.kubectl_ok(&["delete", "clusterrolebinding", "dcr-operator"], None).await;
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the log names what is refused", WAIT, async || {
        let log = operator.log();
        // Which comes first depends on whether the watch is cut before it shows the client.
        let named = [r#"cannot get resource \"secrets\""#, r#"cannot watch resource \"oauthclients\""#];
        if named.iter().any(|named| log.contains(named)) { Ok(()) } else { Err(log) }
    })
    .await;
    assert_eq!(home.registered(AuthorizationServer::shared(), "shop").await.len(), 0, "no intent, no call");
    assert!(operator.metrics().await.contains("status=\"403\""));

    Helm::on(plane).ok(&["upgrade", "dcr-operator", &chart(), "--namespace", NAMESPACE], "allowInsecureHttp: true");
    wait_until("it is registered after all", Duration::from_secs(90), async || {
        let client = home.get(CLIENTS, "shop").await.unwrap_or_default();
        if condition(&client, "Ready")["status"] == "True" { Ok(()) } else { Err(client["status"].to_string()) }
    })
    .await;
    assert_eq!(home.registered(AuthorizationServer::shared(), "shop").await.len(), 1);
}

#[tokio::test]
async fn a_killed_leader_is_replaced_within_20_seconds_and_one_that_is_asked_to_stop_within_3() {
    let bare = BarePlane::start().await;
    let plane = bare.plane();
    install(plane, "allowInsecureHttp: true");
    let first = start(plane, NAMESPACE, "dcr-operator").await;
    until_readyz(&first, 200, "leader").await;
    let second = start(plane, NAMESPACE, "dcr-operator").await;
    until_readyz(&second, 200, "standby").await;

    let killed = Instant::now();
    first.kill();
    until_readyz(&second, 200, "leader").await;
    assert!(killed.elapsed() < Duration::from_secs(20), "{:?}", killed.elapsed());

    first.restart().await;
    until_readyz(&first, 200, "standby").await;
    let asked = Instant::now();
    let (ended, ()) = tokio::join!(second.terminate(), until_readyz(&first, 200, "leader"));
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert!(ended.success());
}

#[tokio::test]
async fn a_leader_that_was_frozen_gives_up_when_it_wakes_and_leaves_the_work_to_the_other() {
    let bare = BarePlane::start().await;
    let (plane, server) = (bare.plane(), AuthorizationServer::shared());
    install(plane, "allowInsecureHttp: true");
    let first = start(plane, NAMESPACE, "dcr-operator").await;
    until_readyz(&first, 200, "leader").await;
    let second = start(plane, NAMESPACE, "dcr-operator").await;
    let home = home(plane, "shop").await;
    home.profile(server.issuer()).await;

    first.process().stop();
    until_readyz(&second, 200, "leader").await;
    home.register("shop").await;
    first.process().cont();
    let ended = first.process().wait(WAIT).await;
    assert_eq!(ended.code(), Some(1), "{}", first.log());
    assert_says(&first.log(), &["the lease"]);
    assert_eq!(second.get("/readyz").await.unwrap(), (200, "leader\n".to_owned()));
    assert_eq!(home.registered(server, "shop").await.len(), 1);
}

//! What the people who run it see: flags, health, metrics, two replicas.

use std::{fs, process::Stdio};

use serde_json::json;

use crate::{
    fixtures::*,
    support::{
        authorization_server::AuthorizationServer,
        operator::{Operator, OperatorOptions, command},
        process::wait_until,
        repository,
    },
};

#[test]
fn without_a_cluster_it_says_what_to_set_and_exits_2() {
    let output = command().args(["run", "--log-format", "text"]).env("HOME", "/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_says(&String::from_utf8_lossy(&output.stderr), &["KUBECONFIG"]);
}

#[test]
fn a_wrong_flag_is_named_and_exits_2() {
    let output = command().args(["run", "--deletion-timeout", "soon"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert_says(&String::from_utf8_lossy(&output.stderr), &["--deletion-timeout", "soon", "30s"]);
}

#[test]
fn the_crds_are_printed_as_they_are_committed() {
    let output = command().arg("crds").stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    let committed = ["tokenprofiles", "dcrpolicies", "oauthclients"]
        .map(|plural| fs::read_to_string(repository(&format!("crds/{plural}.yaml"))).unwrap());
    let printed: Vec<&str> = printed.split("---\n").filter(|document| !document.is_empty()).map(str::trim).collect();
    assert_eq!(printed, committed.iter().map(|document| document.trim()).collect::<Vec<_>>());
}

#[test]
fn the_admission_policy_is_printed_as_it_is_committed() {
    let output = command().arg("admission-policy").stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success());
    let committed = fs::read_to_string(repository("deploy/base/admission-policy.yaml")).unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_start_matches("---\n"), committed);
}

#[tokio::test]
async fn health_and_metrics_are_served() {
    let operator = shared_operator();
    assert_eq!(operator.get("/livez").await.unwrap(), (200, "ok\n".to_owned()));
    // It may have started just now: what it has done shows that it leads, and is in the metrics.
    let home = Home::new("metrics").await;
    home.apply(&policy("any", &json!({}))).await;
    home.until_condition(POLICIES, "any", ["Ready", "True", "Ready"]).await;
    assert_eq!(operator.get("/readyz").await.unwrap(), (200, "leader\n".to_owned()));
    let page = operator.metrics().await;
    for name in ["dcr_operator_reconciles", "dcr_operator_kubernetes_requests", "dcr_operator_orphans", "# EOF"] {
        assert!(page.contains(name), "{name} is not in:\n{page}");
    }
}

#[tokio::test]
async fn of_two_replicas_one_works_and_the_other_takes_over_at_once_when_it_stops() {
    let home = Home::without_operator("replicas").await;
    let kubeconfig = home.plane.service_account_kubeconfig(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT).await;
    let replica = async || {
        let options = OperatorOptions {
            args: vec!["--allow-insecure-http".into()],
            watch: vec![home.name.clone()],
            ..OperatorOptions::default()
        };
        Operator::start_with_kubeconfig(kubeconfig.clone(), options).await
    };
    let first = replica().await;
    wait_until("it leads", WAIT, async || first.get("/readyz").await.is_ok_and(|(_, text)| text == "leader\n")).await;
    let second = replica().await;
    assert_eq!(second.get("/readyz").await.unwrap(), (200, "standby\n".to_owned()));
    home.profile(AuthorizationServer::shared().issuer()).await;
    home.register("shop").await;
    assert!(first.terminate().await.success());
    home.register("bank").await;
    assert_eq!(second.get("/readyz").await.unwrap().1, "leader\n");
    for client in ["shop", "bank"] {
        assert_eq!(home.registered(AuthorizationServer::shared(), client).await.len(), 1);
    }
}

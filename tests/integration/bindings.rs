//! A cluster with everything installed: policies are in force at `kubectl apply` as soon as they are there.

use std::sync::OnceLock;

use dcr_operator::policy::admission;
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyBinding;
use kube::{Api, ResourceExt, api::PostParams};
use serde_json::{Value, json};

use crate::{
    admission::install_admission_policy,
    fixtures::*,
    support::{
        control_plane::{ControlPlane, project_crds},
        operator::{Operator, OperatorOptions, install_rbac},
        process::{once_per_process, wait_until},
        repository,
    },
};

/// A control plane with all of `deploy/base` but the Deployment, and the operator at work.
pub fn complete_plane() -> &'static ControlPlane {
    static COMPLETE: OnceLock<Result<(ControlPlane, Operator), String>> = OnceLock::new();
    let (plane, _) = once_per_process(&COMPLETE, || async {
        let plane = ControlPlane::start_with_crds(&project_crds()).await;
        install_rbac(&plane).await;
        install_admission_policy(&plane).await;
        let roles = repository("deploy/base/roles.yaml");
        plane.kubectl_ok(&["apply", "--server-side", "--filename", roles.to_str().expect("UTF-8")], None).await;
        let args = ["--allow-insecure-http".to_owned(), "--leader-elect=false".to_owned()].to_vec();
        let operator = Operator::start(&plane, OperatorOptions { args, ..OperatorOptions::default() }).await;
        (plane, operator)
    });
    plane
}

fn bindings(home: &Home) -> Api<ValidatingAdmissionPolicyBinding> {
    Api::all(home.client.clone())
}

async fn until_bound(home: &Home, bound: bool) {
    wait_until(&format!("bound: {bound}"), WAIT, async || {
        let found = bindings(home).get_opt(&admission::binding_name(&home.name)).await.expect("an answer");
        (found.is_some() == bound).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_binding_comes_with_the_first_policy_and_goes_with_the_last() {
    let home = Home::on(complete_plane(), "bound").await;
    home.apply(&policy("web", &json!({"allowedScopes": ["openid"]}))).await;
    until_bound(&home, true).await;
    home.apply(&policy("other", &json!({}))).await;

    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"]["scope"] = json!("openid admin");
    let apply = ["apply", "--namespace", &home.name, "--filename", "-"];
    let message = wait_until("the API server refuses it", WAIT, async || {
        let text = client.to_string();
        let dry = ["apply", "--dry-run=server", "--namespace", &home.name, "--filename", "-"];
        let output = home.plane.kubectl_output(&dry, Some(&text)).await;
        (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
    })
    .await;
    assert_says(&message, &["forbidden", "DcrPolicy web forbids scope: admin (allowed: openid)"]);
    assert!(!message.contains('\n') || message.trim().lines().count() == 1, "{message}");
    client["spec"]["clientMetadata"]["scope"] = json!("openid");
    home.plane.kubectl_ok(&apply, Some(&client.to_string())).await;

    let uid = async || bindings(&home).get(&admission::binding_name(&home.name)).await.expect("a binding").uid();
    let first = uid().await;
    home.delete(POLICIES, "web").await;
    // The policy that is left is still in force, by the same binding.
    client["metadata"]["name"] = json!("another");
    client["spec"]["clientMetadata"]["scope"] = json!("openid admin");
    wait_until("what the first policy forbade is allowed", WAIT, async || {
        let dry = ["apply", "--dry-run=server", "--namespace", &home.name, "--filename", "-"];
        let output = home.plane.kubectl_output(&dry, Some(&client.to_string())).await;
        output.status.success()
    })
    .await;
    assert_eq!(uid().await, first);
    home.delete(POLICIES, "other").await;
    until_bound(&home, false).await;
}

#[tokio::test]
async fn a_binding_that_was_left_over_is_removed_at_the_start_and_others_are_not_touched() {
    let home = Home::without_operator("leftover").await;
    install_admission_policy(home.plane).await;
    let create = async |name: &str, labels: bool| {
        let mut binding = admission::binding(&home.name);
        binding.metadata.name = Some(name.to_owned());
        if !labels {
            binding.metadata.labels = None;
        }
        bindings(&home).create(&PostParams::default(), &binding).await.expect("a binding");
    };
    let people = format!("people-{}", home.name);
    create(&admission::binding_name(&home.name), true).await;
    create(&people, false).await;
    let elsewhere = home.neighbour("leftover").await;
    bindings(&home).create(&PostParams::default(), &admission::binding(&elsewhere.name)).await.expect("a binding");

    let _operator = home.operator(&[]).await;
    until_bound(&home, false).await;
    assert!(bindings(&home).get_opt(&people).await.expect("an answer").is_some(), "somebody else's");
    until_bound(&elsewhere, true).await;
}

#[tokio::test]
async fn a_binding_that_somebody_has_changed_is_made_anew_and_one_that_is_well_is_left_alone() {
    let plane = complete_plane();
    let (home, other) = (Home::on(plane, "changed").await, Home::on(plane, "well").await);
    for home in [&home, &other] {
        home.apply(&policy("web", &json!({}))).await;
        until_bound(home, true).await;
    }
    let position = plane.audit_position();
    let name = admission::binding_name(&home.name);
    let change = json!({"spec": {"validationActions": ["Audit"], "matchResources": {"namespaceSelector": {}}}});
    let change = ["patch", "validatingadmissionpolicybinding", &name, "--type=merge", "--patch", &change.to_string()];
    plane.kubectl_ok(&change, None).await;
    // The operator looks when a policy comes to another namespace; else within a minute.
    home.neighbour("occasion").await.apply(&policy("web", &json!({}))).await;
    wait_until("it is as it was", WAIT, async || {
        let found = bindings(&home).get_opt(&name).await.expect("an answer");
        let spec = found.map(|found| found.spec);
        if spec == Some(admission::binding(&home.name).spec) { Ok(()) } else { Err(format!("{spec:?}")) }
    })
    .await;
    let log = plane.audit_since(position).writes().name(&admission::binding_name(&other.name));
    assert_eq!(log.count(), 0, "{}", log.summary());
}

#[tokio::test]
async fn bindings_can_be_turned_off() {
    let home = Home::without_operator("unbound").await;
    install_admission_policy(home.plane).await;
    let _operator = home.operator(&["--admission-bindings=false"]).await;
    let position = home.plane.audit_position();
    home.apply(&policy("web", &json!({}))).await;
    home.until_condition(POLICIES, "web", ["Ready", "True", "Ready"]).await;
    let about = |resource: &str| {
        let log = home.plane.audit_since(position).resource(resource);
        log.filter(|event| event["objectRef"]["name"].as_str().is_some_and(|name| name.contains(&home.name))).count()
    };
    assert_eq!(about("validatingadmissionpolicybindings"), 0);
    until_bound(&home, false).await;
}

#[tokio::test]
async fn an_operator_that_may_not_bind_says_what_it_lacks_and_enforces_all_the_same() {
    let home = Home::without_operator("limited").await;
    let plane = home.plane;
    install_admission_policy(plane).await;
    let role = plane.kubectl_ok(&["get", "clusterrole", "dcr-operator", "-o", "json"], None).await;
    let mut role: Value = serde_json::from_str(&role).expect("JSON");
    role["metadata"] = json!({"name": home.name});
    let rules = role["rules"].as_array_mut().expect("rules");
    let all = rules.len();
    rules.retain(|rule| rule["apiGroups"][0] != "admissionregistration.k8s.io");
    assert_eq!(rules.len(), all - 2);
    plane.kubectl_ok(&["create", "--filename", "-"], Some(&role.to_string())).await;
    plane.kubectl_ok(&["create", "serviceaccount", "limited", "--namespace", &home.name], None).await;
    let account = format!("--serviceaccount={}:limited", home.name);
    let role = format!("--clusterrole={}", home.name);
    plane.kubectl_ok(&["create", "clusterrolebinding", &home.name, &role, &account], None).await;

    let args = ["--leader-elect=false".to_owned()].to_vec();
    let options = OperatorOptions { args, watch: vec![home.name.clone()], ..OperatorOptions::default() };
    let kubeconfig = plane.service_account_kubeconfig(&home.name, "limited").await;
    let operator = Operator::start_with_kubeconfig(kubeconfig, options).await;
    home.apply(&policy("web", &json!({}))).await;
    home.until_condition(POLICIES, "web", ["Ready", "True", "Ready"]).await;
    wait_until("the log says what is missing", WAIT, async || {
        let log = operator.log();
        let line = log.lines().find(|line| line.contains("enforced by the operator alone"));
        line.filter(|line| line.contains("deploy/base/rbac.yaml") && line.contains("forbidden")).map(str::to_owned)
    })
    .await;
}

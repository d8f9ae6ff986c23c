//! A release, from install to uninstall, on a real control plane; and the operator as that release would run it.

use std::{collections::BTreeMap, fs, path::PathBuf, process::Command};

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::AuthorizationServer,
        control_plane::{ControlPlane, ControlPlaneOptions},
        operator::{Operator, OperatorOptions},
        process::{Folder, wait_until},
        repository,
    },
    tools::{Helm, chart, id},
};

/// A control plane of one test, without CRDs.
pub struct BarePlane(&'static ControlPlane);

impl BarePlane {
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With further flags of kube-apiserver.
    async fn start_with(flags: &[&str]) -> Self {
        let api_server_flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let options = ControlPlaneOptions { api_server_flags, ..ControlPlaneOptions::default() };
        // `Home` wants one that lives as long as the process; its servers need not.
        Self(Box::leak(Box::new(ControlPlane::start(options).await)))
    }

    pub fn plane(&self) -> &'static ControlPlane {
        self.0
    }
}

impl Drop for BarePlane {
    fn drop(&mut self) {
        for process in [self.0.controller_manager(), self.0.api_server(), self.0.etcd()] {
            process.kill();
        }
    }
}

pub async fn home(plane: &'static ControlPlane, prefix: &str) -> Home {
    Home { plane, name: plane.namespace(prefix).await, client: plane.client() }
}

async fn read(plane: &ControlPlane, namespace: &str, what: &[&str]) -> Value {
    let args = [&["get", "--namespace", namespace, "--output", "json"], what].concat();
    serde_json::from_str(&plane.kubectl_ok(&args, None).await).expect("JSON")
}

/// The ServiceAccount, the arguments and the environment of the Deployment that a release made, for the operator.
pub async fn as_deployed(plane: &ControlPlane, namespace: &str, deployment: &str) -> (PathBuf, OperatorOptions) {
    let deployment = read(plane, namespace, &["deployment", deployment]).await;
    let pod = &deployment["spec"]["template"]["spec"];
    let container = &pod["containers"][0];
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let mut args: Vec<String> = container["args"].as_array().expect("arguments").iter().map(text).collect();
    assert_eq!(args.remove(0), "run");
    let env = container["env"].as_array().expect("an environment").iter().map(|variable| {
        let value = match &variable["valueFrom"]["fieldRef"]["fieldPath"] {
            Value::Null => text(&variable["value"]),
            field => {
                assert_eq!(field, "metadata.name");
                "dcr-operator-0".to_owned()
            }
        };
        (text(&variable["name"]), value)
    });
    let env = env.collect();
    let account = text(&pod["serviceAccountName"]);
    let kubeconfig = plane.service_account_kubeconfig(namespace, &account).await;
    (kubeconfig, OperatorOptions { args, env, watch: Vec::new(), namespace: namespace.to_owned(), binary: None })
}

/// Starts the operator as the Deployment of a release would, and waits until it is ready.
pub async fn start(plane: &ControlPlane, namespace: &str, deployment: &str) -> Operator {
    let (kubeconfig, options) = as_deployed(plane, namespace, deployment).await;
    Operator::start_with_kubeconfig(kubeconfig, options).await
}

/// The chart as an older version had it, without one field of a CRD.
fn older_chart(folder: &Folder) -> String {
    let copied = Command::new("cp").args(["-R", &chart()]).arg(folder.path()).status();
    assert!(copied.expect("cp starts").success());
    let chart = folder.join("dcr-operator");
    let path = chart.join("files/crds/oauthclients.yaml");
    let mut crd: Value = serde_saphyr::from_str(&fs::read_to_string(&path).expect("a CRD")).expect("YAML");
    let spec = "/spec/versions/0/schema/openAPIV3Schema/properties/spec/properties";
    let properties = crd.pointer_mut(spec).and_then(Value::as_object_mut).expect("properties");
    assert!(properties.remove("deletionPolicy").is_some());
    fs::write(&path, crd.to_string()).expect("a CRD");
    chart.to_str().expect("a UTF-8 path").to_owned()
}

#[tokio::test]
async fn a_release_is_installed_upgraded_rolled_back_and_uninstalled_and_the_clients_stay() {
    let bare = BarePlane::start().await;
    let (plane, server) = (bare.plane(), AuthorizationServer::shared());
    let helm = Helm::on(plane);
    let folder = Folder::new("older");
    let older = older_chart(&folder);
    let install = ["install", "dcr-operator", &older, "--namespace", "operators", "--create-namespace"];
    let notes = helm.ok(&install, "{allowInsecureHttp: true, workers: 4}");
    assert_says(&notes, &["STATUS: deployed", "looks after all namespaces", "travel in clear"]);

    let operator = start(plane, "operators", "dcr-operator").await;
    wait_until("it says what the CRDs lack", WAIT, async || {
        let log = operator.log();
        if log.contains("older than this operator: they lack oauthclients.spec.deletionPolicy,") {
            Ok(())
        } else {
            Err(log)
        }
    })
    .await;

    // The main job.
    let home = home(plane, "shop").await;
    home.profile(server.issuer()).await;
    home.register("shop").await;
    let secret = home.secret("shop").await;
    assert_eq!(server.log_in(application(&secret)).await["refreshed"], true);

    // An upgrade upgrades the CRDs too.
    let upgrade = ["upgrade", "dcr-operator", &chart(), "--namespace", "operators", "--reuse-values"];
    helm.ok(&upgrade, "{workers: 8, namespaces: []}");
    assert!(operator.terminate().await.success());
    assert_eq!(workers(plane).await, "8");
    let operator = start(plane, "operators", "dcr-operator").await;
    let mut retained = home.oauth_client("bank");
    retained["spec"]["deletionPolicy"] = json!("Retain");
    home.apply(&retained).await;
    home.until_ready("bank").await;

    helm.ok(&["rollback", "dcr-operator", "1", "--namespace", "operators"], "");
    assert_eq!(workers(plane).await, "4");
    home.until_ready("bank").await;

    // Uninstalled: the CRDs and the clients stay, and a new release takes them over.
    assert!(operator.terminate().await.success());
    let said = helm.ok(&["uninstall", "dcr-operator", "--namespace", "operators"], "");
    assert_says(&said, &["kept due to the resource policy", "oauthclients.dcr-operator.dev"]);
    assert_eq!(home.secret("shop").await, secret);
    let install = ["install", "dcr-operator", &chart(), "--namespace", "operators"];
    helm.ok(&install, "{allowInsecureHttp: true, crds: {keep: false}}");
    let operator = start(plane, "operators", "dcr-operator").await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty());
    home.patch(CLIENTS, "bank", json!({"spec": {"suspend": true}})).await;
    home.delete(CLIENTS, "bank").await;
    home.until_gone(CLIENTS, "bank").await;
    assert_eq!(home.registered(server, "bank").await.len(), 1, "Retain");

    // Nothing but the namespace stays without `keep`, if the DcrPolicies go first, as docs/install.md says.
    home.apply(&policy("web", &json!({}))).await;
    let bindings = async || {
        let found = read(plane, "operators", &["validatingadmissionpolicybindings"]).await;
        found["items"].as_array().expect("a list").len()
    };
    wait_until("the policy is bound", WAIT, async || bindings().await == 1).await;
    let page = fs::read_to_string(repository("docs/install.md")).expect("the page");
    let commands: Vec<&str> =
        page.lines().filter(|line| line.starts_with("kubectl ") && line.contains("polic")).collect();
    assert_eq!(commands.len(), 3, "{commands:?}");
    for command in &commands[..2] {
        let output = plane.shell().args(["-c", command]).output().await.expect("bash starts");
        assert!(output.status.success(), "{command}: {output:?}");
    }
    assert_eq!(bindings().await, 0);
    assert!(operator.terminate().await.success());
    helm.ok(&["uninstall", "dcr-operator", "--namespace", "operators"], "");
    wait_until("the CRDs are gone", WAIT, async || {
        let crds = read(plane, "operators", &["crds"]).await;
        crds["items"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
}

async fn workers(plane: &ControlPlane) -> String {
    let deployment = read(plane, "operators", &["deployment", "dcr-operator"]).await;
    let env = deployment["spec"]["template"]["spec"]["containers"][0]["env"].as_array().cloned().unwrap_or_default();
    let workers = env.iter().find(|variable| variable["name"] == "DCR_OPERATOR_WORKERS").expect("DCR_OPERATOR_WORKERS");
    workers["value"].as_str().expect("a value").to_owned()
}

#[tokio::test]
async fn a_release_for_one_namespace_does_the_main_job_there_and_nothing_elsewhere() {
    let (plane, server) = (ControlPlane::shared(), AuthorizationServer::shared());
    let (home, elsewhere) = (home(plane, "scoped").await, self::home(plane, "elsewhere").await);
    let helm = Helm::on(plane);
    let release = home.name.as_str();
    let values =
        format!("{{allowInsecureHttp: true, crds: {{enabled: false}}, namespaces: [{release}], fullnameOverride: op}}");
    helm.ok(&["install", release, &chart(), "--namespace", release], &values);
    let roles = read(plane, release, &["clusterroles,clusterrolebindings"]).await;
    for object in roles["items"].as_array().expect("a list") {
        assert_ne!(object["metadata"]["labels"]["app.kubernetes.io/instance"], release, "{}", id(object));
    }

    let operator = start(plane, release, "op").await;
    elsewhere.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    elsewhere.apply(&profile(server.issuer())).await;
    home.profile(server.issuer()).await;
    home.register("shop").await;
    let secret = home.secret("shop").await;
    assert_eq!(server.log_in(application(&secret)).await["refreshed"], true);
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert!(home.registered(server, "shop").await.is_empty());
    let untouched = elsewhere.get(PROFILES, PROFILE).await.expect("a profile");
    assert_eq!(untouched["status"]["observedGeneration"], -1, "{untouched}");

    let refused = plane.audit().service_account(release, "op").code(403);
    assert_eq!(refused.count(), 0, "{}", refused.summary());
    assert!(operator.terminate().await.success());
    helm.ok(&["uninstall", release, "--namespace", release], "");
}

#[tokio::test]
async fn profiles_and_policies_come_from_the_values() {
    let plane = ControlPlane::shared();
    let home = home(plane, "bootstrap").await;
    let helm = Helm::on(plane);
    let values = "{crds: {enabled: false}, fullnameOverride: bootstrap-test, admissionPolicy: {enabled: false}, \
                  tokenProfiles: {token-service: {spec: {issuer: https://login.example.com}}}, \
                  dcrPolicies: {web: {spec: {allowedScopes: [openid]}}}}";
    helm.ok(&["install", &home.name, &chart(), "--namespace", &home.name], values);
    let profile = home.get(PROFILES, "token-service").await.expect("a profile");
    assert_eq!(profile["spec"]["issuer"], "https://login.example.com");
    let policy = home.get(POLICIES, "web").await.expect("a policy");
    assert_eq!(policy["spec"]["allowedScopes"], json!(["openid"]));
    helm.ok(&["uninstall", &home.name, "--namespace", &home.name], "");
    assert!(home.get(PROFILES, "token-service").await.is_none());
}

#[tokio::test]
async fn a_namespace_that_does_not_exist_is_named_by_helm_and_by_the_operator() {
    let plane = ControlPlane::shared();
    let home = home(plane, "missing").await;
    let values = "{crds: {enabled: false}, fullnameOverride: missing-test, namespaces: [no-such-namespace]}";
    let error = Helm::on(plane).run(&["install", &home.name, &chart(), "--namespace", &home.name], values).unwrap_err();
    assert_says(&error, &["namespaces \"no-such-namespace\" not found"]);

    let args = vec!["--leader-elect=false".to_owned()];
    let options = OperatorOptions { args, watch: vec!["no-such-namespace".into()], ..OperatorOptions::default() };
    let operator = Operator::start(plane, options).await;
    assert_says(&operator.log(), &["Namespace no-such-namespace does not exist"]);
}

/// All that the operator asks for, by verb and resource as RBAC writes them.
type Rights = BTreeMap<(String, String, String), Vec<String>>;

fn granted(objects: &[Value], account: &str) -> Rights {
    let mut rights = Rights::new();
    let bindings = objects.iter().filter(|object| {
        let subjects = object["subjects"].as_array().into_iter().flatten();
        subjects.into_iter().any(|subject| subject["name"] == account)
    });
    for binding in bindings {
        let of = |object: &&Value| {
            object["kind"] == binding["roleRef"]["kind"] && object["metadata"]["name"] == binding["roleRef"]["name"]
        };
        let role = objects.iter().find(of).expect("the role of a binding");
        for rule in role["rules"].as_array().expect("rules") {
            let list = |name: &str| {
                rule[name].as_array().into_iter().flatten().map(|v| v.as_str().expect("a text").to_owned())
            };
            for (group, resource) in list("apiGroups")
                .flat_map(|group| list("resources").map(move |r| (group.clone(), r)).collect::<Vec<_>>())
            {
                for verb in list("verbs") {
                    rights.insert((group.clone(), resource.clone(), verb), list("resourceNames").collect());
                }
            }
        }
    }
    rights
}

/// Rights that no request of the scenario shows, and why they are needed all the same.
const NOT_IN_THE_LOG: &[(&str, &str, &str)] = &[
    // Checked by an admission plug-in, which is on in this test, when an owner reference blocks the owner's deletion.
    ("oauthclients/finalizers", "update", "OwnerReferencesPermissionEnforcement"),
    // Checked beside `patch` when an apply creates the object.
    ("secrets", "create", "server-side apply"),
    ("oauthclients", "get", "only while the watch lags behind the operator's own last write"),
    ("namespaces", "get", "only with --namespaces"),
    // Checked when a binding of the admission policy is created.
    ("dcrpolicies", "get", "whoever binds a policy must be allowed to read its parameters"),
    // Of a series of the same event, the next ones are patches.
    ("events", "patch", "a series of events"),
];

#[tokio::test]
async fn the_operator_is_allowed_what_it_does_and_nothing_more() {
    let bare = BarePlane::start_with(&["--enable-admission-plugins=OwnerReferencesPermissionEnforcement"]).await;
    let plane = bare.plane();
    let server = AuthorizationServer::start(crate::support::authorization_server::AuthorizationServerOptions {
        tls: true,
        ..Default::default()
    })
    .await;
    let helm = Helm::on(plane);
    helm.ok(&["install", "dcr-operator", &chart(), "--namespace", "operators", "--create-namespace"], "");
    let operator = start(plane, "operators", "dcr-operator").await;
    let home = home(plane, "shop").await;
    home.apply(&json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "idp-ca"}, "data": {"ca.crt": server.ca_pem()},
    }))
    .await;
    home.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
    let mut trusting = profile(server.issuer());
    trusting["spec"]["tls"] = json!({"caBundleRef": {"kind": "ConfigMap", "name": "idp-ca"}});
    home.apply(&trusting).await;
    home.until_profile_ready().await;
    home.apply(&json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy", "metadata": {"name": "web"},
        "spec": {"allowedScopes": ["openid", "email"]},
    }))
    .await;
    home.until_condition(POLICIES, "web", ["Ready", "True", "Ready"]).await;
    home.register("shop").await;
    // Another name for the Secret: the old one is removed.
    home.patch(CLIENTS, "shop", json!({"spec": {"secret": {"name": "other"}}})).await;
    home.until("the new Secret", CLIENTS, "shop", |client| client["status"]["binding"]["name"] == "other").await;
    home.until_gone(SECRETS, "shop").await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert!(operator.terminate().await.success());

    let done = plane.audit().service_account("operators", "dcr-operator");
    let refused = done.clone().code(403);
    assert_eq!(refused.count(), 0, "{}", refused.summary());
    let rights = granted(&helm.template("dcr-operator", "operators", ""), "dcr-operator");
    let used: Vec<(String, String, String)> = done
        .0
        .iter()
        .filter(|event| event["objectRef"].is_object())
        .map(|event| {
            let object = &event["objectRef"];
            let text = |name: &str| object[name].as_str().unwrap_or_default().to_owned();
            let subresource = object["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
            (text("apiGroup"), text("resource") + &subresource, event["verb"].as_str().unwrap_or_default().to_owned())
        })
        .collect();
    assert!(used.len() > 30, "{}", done.summary());
    for right in &used {
        assert!(rights.contains_key(right), "{right:?} was used, but no rule allows it");
    }
    let unused: Vec<_> = rights
        .keys()
        .filter(|right| !used.contains(right))
        .filter(|(_, resource, verb)| {
            !NOT_IN_THE_LOG.iter().any(|(r, v, _)| (r, v) == (&resource.as_str(), &verb.as_str()))
        })
        // Kept for the bindings of the admission policy, which other tests go through.
        .filter(|(group, ..)| group != "admissionregistration.k8s.io")
        .collect();
    assert!(unused.is_empty(), "allowed, but not needed: {unused:?}");
    for (group, resource, verb) in rights.keys() {
        assert!(!["deletecollection", "*"].contains(&verb.as_str()) && resource != "*" && group != "*");
    }
}

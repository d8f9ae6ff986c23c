//! What the tests apply, and how they look at what became of it.

use std::{collections::BTreeMap, future::Future, sync::OnceLock, time::Duration};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::support::{
    authorization_server::{Application, AuthorizationServer},
    control_plane::{AuditLog, AuditPosition, ControlPlane},
    fault_server::FaultServer,
    operator::{Operator, OperatorOptions, install_rbac},
    process::{once_per_process, wait_until},
};

/// How long a test waits for what should happen at once, on a machine that is busy with the other tests.
pub const WAIT: Duration = Duration::from_secs(30);

pub const CLIENTS: &str = "oauthclients";
pub const PROFILES: &str = "tokenprofiles";
pub const POLICIES: &str = "dcrpolicies";
pub const SECRETS: &str = "secrets";

/// A namespace of one test.
pub struct Home {
    pub plane: &'static ControlPlane,
    pub name: String,
    pub client: Client,
}

/// The operator that watches every namespace of the shared control plane.
pub fn shared_operator() -> &'static Operator {
    static SHARED: OnceLock<Result<Operator, String>> = OnceLock::new();
    once_per_process(&SHARED, || async {
        let args = ["--allow-insecure-http", "true"].map(str::to_owned).to_vec();
        Operator::start(ControlPlane::shared(), OperatorOptions { args, ..OperatorOptions::default() }).await
    })
}

/// A control plane for operators of one test each.
fn separate_plane() -> &'static ControlPlane {
    static SEPARATE: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
    once_per_process(&SEPARATE, || async {
        let plane = ControlPlane::start_with_crds(&crate::support::control_plane::project_crds()).await;
        install_rbac(&plane).await;
        plane
    })
}

impl Home {
    /// A namespace that the shared operator looks after.
    pub async fn new(prefix: &str) -> Self {
        shared_operator();
        Self::on(ControlPlane::shared(), prefix).await
    }

    /// A namespace where no operator works, unless the test starts its own with `operator`.
    pub async fn without_operator(prefix: &str) -> Self {
        Self::on(separate_plane(), prefix).await
    }

    /// A namespace of a control plane that the test may take down.
    pub async fn with_a_plane_of_its_own(prefix: &str) -> Self {
        let plane = ControlPlane::start_with_crds(&crate::support::control_plane::project_crds()).await;
        install_rbac(&plane).await;
        // It ends with the process, as the shared ones do.
        Self::on(Box::leak(Box::new(plane)), prefix).await
    }

    /// Another namespace beside this one.
    pub async fn neighbour(&self, prefix: &str) -> Self {
        Self::on(self.plane, prefix).await
    }

    /// A namespace of that control plane.
    pub async fn on(plane: &'static ControlPlane, prefix: &str) -> Self {
        let name = plane.namespace(prefix).await;
        Self { plane, name, client: plane.client() }
    }

    /// An operator for this namespace alone.
    pub async fn operator(&self, args: &[&str]) -> Operator {
        self.operator_with(args, &[]).await
    }

    /// `operator` with an environment.
    pub async fn operator_with(&self, args: &[&str], env: &[(&str, &str)]) -> Operator {
        let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let allow = (!args.iter().any(|arg| arg.contains("insecure"))).then_some("--allow-insecure-http=true");
        let args = ["--leader-elect=false"].iter().chain(allow.as_slice()).chain(args);
        let args = args.map(|arg| (*arg).to_owned()).collect();
        let options = OperatorOptions { args, env, watch: vec![self.name.clone()], ..OperatorOptions::default() };
        let kubeconfig = self.plane.service_account_kubeconfig(&options.namespace, Operator::SERVICE_ACCOUNT).await;
        Operator::start_with_kubeconfig(kubeconfig, options).await
    }

    // --- objects

    pub fn path(&self, plural: &str, name: &str) -> String {
        let group = match plural {
            "secrets" | "configmaps" => "/api/v1",
            "events" => "/apis/events.k8s.io/v1",
            _ => "/apis/dcr-operator.dev/v1alpha1",
        };
        format!("{group}/namespaces/{}/{plural}/{name}", self.name)
    }

    pub async fn request(
        &self,
        method: &str,
        path: &str,
        content_type: &str,
        body: &Value,
    ) -> Result<Value, kube::Error> {
        let request = http::Request::builder().method(method).uri(path).header("content-type", content_type);
        self.client.request(request.body(body.to_string().into_bytes()).expect("a request")).await
    }

    /// What `kubectl apply --server-side` does.
    pub async fn apply(&self, object: &Value) {
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let plural = match object["kind"].as_str() {
            Some("OAuthClient") => CLIENTS,
            Some("TokenProfile") => PROFILES,
            Some("DcrPolicy") => POLICIES,
            Some("Secret") => SECRETS,
            Some("ConfigMap") => "configmaps",
            other => panic!("{other:?} is no kind that the tests apply"),
        };
        let path = self.path(plural, &text(&object["metadata"]["name"]));
        let path = format!("{path}?fieldManager=test&force=true&fieldValidation=Strict");
        let applied = self.request("PATCH", &path, "application/apply-patch+yaml", object).await;
        applied.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// What `kubectl apply --server-side` does with an object of another group.
    pub async fn apply_any(&self, group: &str, plural: &str, object: &Value) {
        let name = object["metadata"]["name"].as_str().expect("a name");
        let path = format!("{group}/namespaces/{}/{plural}/{name}?fieldManager=test&force=true", self.name);
        let applied = self.request("PATCH", &path, "application/apply-patch+yaml", object).await;
        applied.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    pub async fn get_any(&self, group: &str, plural: &str, name: &str) -> Value {
        let path = format!("{group}/namespaces/{}/{plural}/{name}", self.name);
        self.request("GET", &path, "application/json", &Value::Null).await.unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub async fn patch(&self, plural: &str, name: &str, merge: Value) {
        let path = self.path(plural, name);
        let patched = self.request("PATCH", &path, "application/merge-patch+json", &merge).await;
        patched.unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    pub async fn annotate(&self, client: &str, annotation: &str, value: &str) {
        self.patch(CLIENTS, client, json!({"metadata": {"annotations": {annotation: value}}})).await;
    }

    pub async fn label_namespace(&self, key: &str, value: &str) {
        let (path, labels) =
            (format!("/api/v1/namespaces/{}", self.name), json!({"metadata": {"labels": {key: value}}}));
        self.request("PATCH", &path, "application/merge-patch+json", &labels).await.expect("a namespace");
    }

    /// Asks for the deletion and does not wait for it.
    pub async fn delete(&self, plural: &str, name: &str) {
        let path = self.path(plural, name);
        self.request("DELETE", &path, "application/json", &json!({})).await.unwrap_or_else(|e| panic!("{path}: {e}"));
    }

    pub async fn delete_namespace(&self) {
        let path = format!("/api/v1/namespaces/{}", self.name);
        self.request("DELETE", &path, "application/json", &json!({})).await.expect("a namespace");
    }

    pub async fn get(&self, plural: &str, name: &str) -> Option<Value> {
        match self.request("GET", &self.path(plural, name), "application/json", &Value::Null).await {
            Ok(object) => Some(object),
            Err(kube::Error::Api(status)) if status.is_not_found() => None,
            Err(error) => panic!("{plural} {name}: {error}"),
        }
    }

    /// The data of a Secret that is there.
    pub async fn secret(&self, name: &str) -> BTreeMap<String, String> {
        let secret = Api::<Secret>::namespaced(self.client.clone(), &self.name).get(name).await;
        let secret = secret.unwrap_or_else(|error| panic!("Secret {name}: {error}"));
        let data = secret.data.unwrap_or_default().into_iter();
        data.map(|(key, value)| (key, String::from_utf8(value.0).expect("UTF-8"))).collect()
    }

    /// The answer of the server that is kept for a client.
    pub async fn registration(&self, client: &str) -> Value {
        let data = self.secret(&format!("{client}-registration")).await;
        serde_json::from_str(&data["client-information.json"]).expect("JSON")
    }

    /// The notes of the events with this reason about an object of this namespace.
    pub async fn events(&self, reason: &str) -> Vec<String> {
        let list =
            self.request("GET", &self.path("events", ""), "application/json", &Value::Null).await.expect("events");
        let events = list["items"].as_array().expect("a list").iter();
        let notes =
            events.filter(|event| event["reason"] == reason).map(|event| event["note"].as_str().expect("a note"));
        notes.map(str::to_owned).collect()
    }

    // --- waiting

    /// Waits until the object is as asked, and returns it.
    #[track_caller]
    pub fn until<T: Fn(&Value) -> bool>(
        &self,
        what: &str,
        plural: &'static str,
        name: &str,
        is: T,
    ) -> impl Future<Output = Value> + use<T> {
        let waiting = format!("{plural} {}/{name}: {what}", self.name);
        wait_until(&waiting, WAIT, {
            let (client, path) = (self.client.clone(), self.path(plural, name));
            let is = std::sync::Arc::new(is);
            move || {
                let (client, path, is) = (client.clone(), path.clone(), is.clone());
                async move {
                    let request = http::Request::get(&path).body(Vec::new()).expect("a request");
                    let object: Value = client.request(request).await.map_err(|error| error.to_string())?;
                    if is(&object) { Ok(object) } else { Err(shown(&object)) }
                }
            }
        })
    }

    /// Waits for a condition of the current generation, and returns its message.
    #[track_caller]
    pub fn until_condition(
        &self,
        plural: &'static str,
        name: &str,
        [type_, status, reason]: [&'static str; 3],
    ) -> impl Future<Output = String> {
        let found = self.until(&format!("{type_}={status} {reason}"), plural, name, move |object| {
            let condition = condition(object, type_);
            condition["status"] == status
                && condition["reason"] == reason
                && condition["observedGeneration"] == object["metadata"]["generation"]
        });
        async move { condition(&found.await, type_)["message"].as_str().expect("a message").to_owned() }
    }

    #[track_caller]
    pub fn until_ready(&self, client: &str) -> impl Future<Output = Value> {
        self.until("Ready", CLIENTS, client, |client| {
            let ready = condition(client, "Ready");
            ready["status"] == "True" && ready["observedGeneration"] == client["metadata"]["generation"]
        })
    }

    #[track_caller]
    pub fn until_profile_ready(&self) -> impl Future<Output = String> {
        self.until_condition(PROFILES, PROFILE, ["Ready", "True", "Ready"])
    }

    #[track_caller]
    pub fn until_gone(&self, plural: &'static str, name: &str) -> impl Future<Output = ()> {
        let what = format!("{plural} {}/{name} is gone", self.name);
        let (client, path) = (self.client.clone(), self.path(plural, name));
        wait_until(&what, WAIT, move || {
            let (client, path) = (client.clone(), path.clone());
            async move {
                let request = http::Request::get(&path).body(Vec::new()).expect("a request");
                match client.request::<Value>(request).await {
                    Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                    Err(error) => Err(error.to_string()),
                    Ok(object) => Err(shown(&object)),
                }
            }
        })
    }

    /// Waits for an event, and returns its note.
    #[track_caller]
    pub fn until_event(&self, reason: &'static str) -> impl Future<Output = String> {
        let what = format!("an event {reason} in {}", self.name);
        let home = Self { plane: self.plane, name: self.name.clone(), client: self.client.clone() };
        async move { wait_until(&what, WAIT, async || home.events(reason).await.pop()).await }
    }

    // --- what somebody else says

    /// What the operator's ServiceAccount has asked of the API server for objects of this namespace.
    pub fn audit(&self, since: AuditPosition) -> AuditLog {
        let log = self.plane.audit_since(since).namespace(&self.name);
        log.service_account(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT)
    }

    /// The clients that the server has for an OAuthClient of this namespace.
    pub async fn registered(&self, server: &AuthorizationServer, client: &str) -> Vec<Value> {
        let (mut clients, name) = (server.clients().await, self.client_name(client));
        clients.retain(|client| client["client_name"] == name);
        clients
    }

    fn client_name(&self, client: &str) -> String {
        format!("{client} of {}", self.name)
    }

    // --- manifests

    /// A profile of the server, and the Secret that it needs; waits until it is ready.
    pub async fn profile(&self, issuer: &str) {
        self.apply(&registrar_secret(AuthorizationServer::REGISTRAR_SECRET)).await;
        self.apply(&profile(issuer)).await;
        self.until_profile_ready().await;
    }

    /// A client of the profile in its own namespace, whose name is unique on the server.
    pub fn oauth_client(&self, name: &str) -> Value {
        json!({
            "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "OAuthClient", "metadata": {"name": name},
            "spec": {
                "profileRef": {"name": PROFILE},
                "clientMetadata": {
                    "client_name": self.client_name(name),
                    "redirect_uris": [REDIRECT_URI],
                    "grant_types": ["authorization_code", "refresh_token"],
                    "scope": "openid email",
                },
            },
        })
    }

    /// Applies a client and waits until it is ready.
    pub async fn register(&self, name: &str) -> Value {
        self.apply(&self.oauth_client(name)).await;
        self.until_ready(name).await
    }
}

pub const PROFILE: &str = "token-service";
pub const REDIRECT_URI: &str = "https://shop.example.com/callback";

/// The registrar's secret, labelled, as Secret `registrar`.
pub fn registrar_secret(secret: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "registrar", "labels": {"dcr-operator.dev/credentials": "true"}},
        "stringData": {"client-secret": secret},
    })
}

/// A profile whose initial access tokens are obtained by the registrar.
pub fn profile(issuer: &str) -> Value {
    json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "TokenProfile", "metadata": {"name": PROFILE},
        "spec": {
            "issuer": issuer,
            "initialAccessToken": {
                "clientCredentials": {
                    "clientId": AuthorizationServer::REGISTRAR, "secretRef": {"name": "registrar"},
                },
            },
        },
    })
}

/// A profile of a fault server, without discovery.
pub fn profile_with_endpoints(server: &FaultServer) -> Value {
    let mut profile = profile("");
    profile["spec"].as_object_mut().expect("a spec").remove("issuer");
    profile["spec"]["endpoints"] = json!({"token": server.url("/token"), "registration": server.url("/reg")});
    profile
}

/// A policy for all profiles of its namespace, unless `spec` names one.
pub fn policy(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy", "metadata": {"name": name}, "spec": spec})
}

// --- looking

/// The condition of that type, or null.
pub fn condition(object: &Value, type_: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|condition| condition["type"] == type_).cloned().unwrap_or_default()
}

/// Status and reason of a condition, as `True Registered`; "" if there is none.
pub fn verdict(object: &Value, type_: &str) -> String {
    let condition = condition(object, type_);
    let text = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
    format!("{} {}", text("status"), text("reason")).trim().to_owned()
}

#[track_caller]
pub fn assert_says(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "{word:?} should be in: {message}");
    }
}

/// The application that has mounted a Secret of the format `ServiceBinding`.
pub fn application(secret: &BTreeMap<String, String>) -> Application {
    Application {
        client_id: secret["client-id"].clone(),
        client_secret: secret.get("client-secret").cloned(),
        redirect_uri: REDIRECT_URI.into(),
        scope: "openid email".into(),
        auth_method: secret.get("client-authentication-method").cloned(),
    }
}

/// A counter of `/metrics`.
pub async fn metric(operator: &Operator, name: &str) -> u64 {
    let page = operator.metrics().await;
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no metric {name} in:\n{page}"))
}

/// Status, or the data's keys: enough for a message, and no secret.
fn shown(object: &Value) -> String {
    let keys = object["data"].as_object().map(|data| data.keys().cloned().collect::<Vec<_>>());
    json!({"metadata": object["metadata"], "status": object["status"], "keys": keys}).to_string()
}

//! `make demo`: what a new user would do with a cluster, an authorization server and `deploy/samples`, all of it real
//! and on loopback. Everything stops with this process, however it ends.

// A demo may panic, with words that help.
#![allow(clippy::expect_used)]

#[path = "support/mod.rs"]
mod support;

use std::{
    any::Any,
    collections::BTreeSet,
    fs,
    panic::{self, AssertUnwindSafe},
    process::ExitCode,
    time::{Duration, Instant},
};

use dcr_operator::api::OAuthClient;
use futures::FutureExt;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, api::ListParams};
use serde_json::Value;
use support::{
    authorization_server::{Application, AuthorizationServer, AuthorizationServerOptions},
    control_plane::{ControlPlane, project_crds},
    operator::{self, Operator, OperatorOptions},
    process::{Folder, wait_until},
    repository,
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What `deploy/samples` say before a user edits them.
const SAMPLE_ISSUER: &str = "https://login.example.com";

const PLATFORM: &str = "identity";
const APPLICATION: &str = "shop";
/// The OAuthClient, and its Secret.
const CLIENT: &str = "shop";

#[tokio::main]
async fn main() -> ExitCode {
    let once = std::env::var("ONCE").is_ok_and(|once| !once.is_empty() && once != "0");
    let mut stop = Stop::listen();
    // The message is printed below, without a word about threads.
    panic::set_hook(Box::new(|_| ()));
    let demo = AssertUnwindSafe(async {
        let demo = Demo::start().await;
        demo.show().await;
        if once {
            demo.clean_up().await;
        } else {
            demo.invite();
        }
        demo
    });
    let shown = tokio::select! {
        // A signal from the terminal also ends the kubectl that may be running: that is no failure of the demo.
        biased;
        () = stop.requested() => {
            step("Stopped");
            return ExitCode::from(130);
        }
        shown = demo.catch_unwind() => shown,
    };
    match shown {
        Ok(demo) => {
            if !once {
                stop.requested().await;
                println!();
            }
            drop(demo);
            step(if once { "All was as it should be; everything is stopped" } else { "Everything is stopped" });
            ExitCode::SUCCESS
        }
        Err(panic) => {
            eprintln!("==> The demo failed: {}", message(panic.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Stopped in this order.
struct Demo {
    operator: Operator,
    server: AuthorizationServer,
    plane: ControlPlane,
    folder: Folder,
}

impl Demo {
    async fn start() -> Self {
        step("Starting a Kubernetes control plane (etcd, kube-apiserver, kube-controller-manager) with crds/");
        let plane = ControlPlane::start_with_crds(&project_crds()).await;
        note(&format!("{} is ready after {}", plane.server(), seconds(plane.ready_after())));

        step("Starting an authorization server (oidc-provider) with a certificate of its own authority");
        let options =
            AuthorizationServerOptions { tls: true, registrar_secret: Some(sample_secret()), ..Default::default() };
        let server = AuthorizationServer::start(options).await;
        note(&format!("{} is ready", server.issuer()));

        step("Applying deploy/base: the operator's namespace, its rights, roles for people, and the admission policy");
        operator::install_rbac(&plane).await;
        for name in ["roles.yaml", "admission-policy.yaml"] {
            let path = repository("deploy/base").join(name);
            let path = path.to_str().expect("a UTF-8 path");
            plane.kubectl_ok(&["apply", "--server-side", "--filename", path], None).await;
        }

        step("Starting the operator, here as a process, with no more rights than its ServiceAccount has");
        let kubeconfig = plane.service_account_kubeconfig(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT).await;
        let options = OperatorOptions {
            args: ["--log-format", "text"].map(Into::into).into(),
            // Its log is a file, for people.
            env: vec![("NO_COLOR".into(), "1".into())],
            ..Default::default()
        };
        let operator = Operator::start_with_kubeconfig(kubeconfig, options).await;
        note("it is ready");

        Self { operator, server, plane, folder: Folder::new("demo") }
    }

    async fn show(&self) {
        self.apply_samples().await;

        step("kubectl get dcr --all-namespaces");
        print(&self.plane.kubectl_ok(&["get", "dcr", "--all-namespaces"], None).await);

        let secret = self.secret().await;
        step(&format!("The keys of Secret {CLIENT} in namespace {APPLICATION}, which the application mounts"));
        let keys: Vec<&str> = secret.data.iter().flat_map(|data| data.keys().map(String::as_str)).collect();
        for line in keys.chunks(5) {
            note(&line.join(", "));
        }

        self.log_in(&secret).await;
        self.compare().await;
        self.refuse().await;
    }

    /// The policy of the samples allows one scope.
    async fn refuse(&self) {
        step("Applying an OAuthClient that asks for more than the DcrPolicy allows");
        let client = format!(
            "{{apiVersion: dcr-operator.dev/v1alpha1, kind: OAuthClient, metadata: {{name: greedy, namespace: {APPLICATION}}}, \
             spec: {{profileRef: {{name: token-service, namespace: {PLATFORM}}}, clientMetadata: {{scope: openid admin}}}}}}"
        );
        // The API server takes a moment to learn of a policy and its binding.
        let said = wait_until("kubectl apply is refused", Duration::from_secs(20), async || {
            let output =
                self.plane.kubectl_output(&["apply", "--dry-run=server", "--filename", "-"], Some(&client)).await;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            if said.contains("DcrPolicy web-clients forbids scope: admin") { Ok(said) } else { Err(said) }
        })
        .await;
        print(&said);
    }

    async fn apply_samples(&self) {
        let issuer = self.server.issuer();
        let samples = self.folder.join("samples");
        fs::create_dir(&samples).expect("a folder for the samples");
        let mut replaced = 0;
        for entry in fs::read_dir(repository("deploy/samples")).expect("deploy/samples") {
            let path = entry.expect("a folder entry").path();
            let text = fs::read_to_string(&path).expect("a readable sample");
            replaced += text.matches(SAMPLE_ISSUER).count();
            let name = path.file_name().expect("a name");
            fs::write(samples.join(name), text.replace(SAMPLE_ISSUER, issuer)).expect("a copy of a sample");
        }
        assert_eq!(replaced, 1, "deploy/samples should name the issuer {SAMPLE_ISSUER} once");
        let samples = samples.to_str().expect("a UTF-8 path");

        step(&format!("Making ConfigMap idp-ca in namespace {PLATFORM}: the certificate of the server's authority"));
        let authority = format!("--from-file=ca.crt={}", self.folder.write("ca.crt", self.server.ca_pem()).display());
        let namespaces = format!("{samples}/00-namespaces.yaml");
        print(&self.plane.kubectl_ok(&["apply", "--filename", &namespaces], None).await);
        let config_map = ["create", "configmap", "idp-ca", "--namespace", PLATFORM, &authority];
        print(&self.plane.kubectl_ok(&config_map, None).await);

        step(&format!("Applying deploy/samples; the one change: the issuer {SAMPLE_ISSUER} is {issuer}"));
        let begin = Instant::now();
        print(&self.plane.kubectl_ok(&["apply", "--filename", samples], None).await);
        let name = format!("oauthclient/{CLIENT}");
        let wait = ["wait", "--for=condition=Ready", "--timeout=60s", "--namespace", APPLICATION, &name];
        let waited = self.plane.kubectl().args(wait).output().await.expect("kubectl starts");
        let took = begin.elapsed();
        if !waited.status.success() {
            let state = self.plane.kubectl_ok(&["get", "dcr", "--all-namespaces", "--output", "wide"], None).await;
            let error = String::from_utf8_lossy(&waited.stderr);
            panic!("kubectl {}: {error}\n{state}", wait.join(" "));
        }
        step(&format!("Ready {} after kubectl apply, kubectl's own time included", seconds(took)));
    }

    async fn secret(&self) -> Secret {
        let secrets: Api<Secret> = Api::namespaced(self.plane.client(), APPLICATION);
        secrets.get(CLIENT).await.expect("the application's Secret")
    }

    /// As an application would, with nothing but its Secret.
    async fn log_in(&self, secret: &Secret) {
        step("The application logs a user in: authorization code with PKCE, userinfo, refresh");
        let value = |key: &str| {
            let bytes = secret.data.as_ref().and_then(|data| data.get(key));
            let bytes = bytes.unwrap_or_else(|| panic!("the Secret should have the key {key}"));
            String::from_utf8(bytes.0.clone()).expect("text in the Secret")
        };
        assert_eq!(value("issuer-uri"), self.server.issuer(), "the issuer in the Secret");
        let application = Application {
            client_id: value("client-id"),
            client_secret: Some(value("client-secret")),
            redirect_uri: value("redirect-uris"),
            scope: value("scope"),
            auth_method: Some(value("client-authentication-method")),
        };
        let told = self.server.log_in(application).await;
        let claims = &told["id_token_claims"];
        assert_eq!(claims["aud"], value("client-id").as_str(), "the audience of the ID token");
        assert_eq!(claims["iss"], self.server.issuer(), "the issuer of the ID token");
        note("the claims of the verified ID token:");
        print(&serde_json::to_string_pretty(claims).expect("JSON"));
        assert_eq!(told["refreshed"], true, "the refresh token should have worked: {told}");
        note("the refresh token was taken");
    }

    async fn compare(&self) {
        let there = self.registered().await;
        let clients: Api<OAuthClient> = Api::all(self.plane.client());
        let clients = clients.list(&ListParams::default()).await.expect("the OAuthClients");
        let here: BTreeSet<String> =
            clients.into_iter().filter_map(|client| client.status.and_then(|status| status.client_id)).collect();
        assert_eq!(here, there, "the cluster's clients should be the server's");
        step("The server has exactly the clients that the cluster has");
        print(&Vec::from_iter(there).join("\n"));
    }

    /// The ids of the clients that the server has.
    async fn registered(&self) -> BTreeSet<String> {
        let id = |client: &Value| client["client_id"].as_str().expect("a client id").to_owned();
        self.server.clients().await.iter().map(id).collect()
    }

    async fn clean_up(&self) {
        step(&format!("Deleting OAuthClient {CLIENT}"));
        let delete = ["delete", "oauthclient", CLIENT, "--namespace", APPLICATION, "--timeout=60s"];
        print(&self.plane.kubectl_ok(&delete, None).await);
        let left = self.registered().await;
        assert!(left.is_empty(), "the server should have no client any more, but has {left:?}");
        note("the client is gone on the server");

        let secrets: Api<Secret> = Api::namespaced(self.plane.client(), APPLICATION);
        wait_until("the Secrets of the client are gone", Duration::from_secs(30), async || {
            let list = secrets.list_metadata(&ListParams::default()).await.map_err(|error| error.to_string())?;
            let names: Vec<String> = list.into_iter().filter_map(|secret| secret.metadata.name).collect();
            if names.is_empty() { Ok(()) } else { Err(names.join(", ")) }
        })
        .await;
        note("and so are its Secrets in the cluster");

        step("Stopping the operator with SIGTERM");
        let status = self.operator.terminate().await;
        assert!(status.success(), "the operator ended with {status}\n{}", self.operator.process().tail());
    }

    /// How to go on from here.
    fn invite(&self) {
        let kubectl = self.plane.kubectl();
        let folder = std::path::Path::new(kubectl.as_std().get_program()).parent().expect("kubectl's folder");
        println!();
        step("All of it keeps running until Ctrl-C. To look around, in another terminal:");
        println!();
        println!("    export KUBECONFIG={}", self.plane.kubeconfig_path().display());
        println!("    export PATH={}:$PATH", folder.display());
        println!("    kubectl get dcr -A");
        println!("    kubectl describe oauthclient {CLIENT} -n {APPLICATION}");
        println!("    kubectl explain oauthclient.spec.clientMetadata");
        println!();
        println!("    the samples, as applied   {}", self.folder.join("samples").display());
        println!("    the operator's log        {}", self.operator.process().log_path().display());
        println!("    the operator's metrics    http://{}/metrics", self.operator.admin());
        println!("    the server's metadata     {}/.well-known/openid-configuration", self.server.issuer());
    }
}

/// Ctrl-C or SIGTERM.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn listen() -> Self {
        let on = |kind| signal(kind).expect("a signal handler");
        Self { interrupt: on(SignalKind::interrupt()), terminate: on(SignalKind::terminate()) }
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The registrar's secret as the samples have it, so that they need no change for the local server.
fn sample_secret() -> String {
    let sample = repository("deploy/samples/10-registrar-secret.yaml");
    let text = fs::read_to_string(sample).expect("the sample of the registrar's Secret");
    let secret = text.lines().find_map(|line| line.trim().strip_prefix("client-secret: "));
    secret.expect("a client-secret in the sample").to_owned()
}

fn step(text: &str) {
    println!("==> {text}");
}

fn note(text: &str) {
    println!("    {text}");
}

/// What a program printed, indented.
fn print(text: &str) {
    for line in text.lines() {
        println!("{}", format!("    {line}").trim_end());
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked without a word")
}

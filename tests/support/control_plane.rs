//! A real Kubernetes control plane on loopback: etcd, kube-apiserver, kube-controller-manager, and kubectl to talk to
//! it.

use std::{
    fs,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use kube::{
    Api, Client, Config,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, process::Command};

use super::{
    install_crypto_provider,
    process::{Folder, Supervised, free_port, once_per_process, wait_until, with_free_ports},
    repository,
};

const START: Duration = Duration::from_mins(1);

/// The users of the static token file. Their names are in the audit log. Both pass every RBAC check (`system:masters`),
/// so the operator must not run as one of them: see `service_account_kubeconfig`.
const ADMIN: &str = "admin";
const CONTROLLER_MANAGER: &str = "system:kube-controller-manager";

#[derive(Clone, Debug, Default)]
pub struct ControlPlaneOptions {
    /// Files with CustomResourceDefinitions. They are applied before the controller manager starts: its garbage
    /// collector and its namespace controller would otherwise learn of the new kinds only at a resync, every 30
    /// seconds.
    pub crds: Vec<PathBuf>,
    /// Further flags of kube-apiserver.
    pub api_server_flags: Vec<String>,
}

pub struct ControlPlane {
    // Stopped in this order, and the folder goes last.
    controller_manager: Supervised,
    api_server: Supervised,
    etcd: Supervised,
    binaries: PathBuf,
    server: String,
    config: Config,
    folder: Folder,
    ready_after: Duration,
}

impl ControlPlane {
    /// Starts a control plane of the caller's own, and stops it when the value is dropped.
    pub async fn start(options: ControlPlaneOptions) -> Self {
        install_crypto_provider();
        let binaries = binaries();
        with_free_ports("the control plane", async || Self::try_start(&binaries, &options).await).await
    }

    /// `start` with these CRDs and no other option.
    pub async fn start_with_crds(crds: &[PathBuf]) -> Self {
        Self::start(ControlPlaneOptions { crds: crds.to_vec(), ..Default::default() }).await
    }

    /// The control plane that all tests of this process share, with the CRDs of `crds/`. A test keeps to namespaces of
    /// its own and leaves the servers alone; one that stops or restarts them starts its own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Result<ControlPlane, String>> = OnceLock::new();
        once_per_process(&SHARED, || async { Self::start_with_crds(&project_crds()).await })
    }

    async fn try_start(binaries: &Path, options: &ControlPlaneOptions) -> Result<Self, String> {
        let begin = Instant::now();
        let folder = Folder::new("control-plane");
        let port = free_port();
        let server = format!("https://127.0.0.1:{port}");

        let etcd_url = format!("http://127.0.0.1:{}", free_port());
        let etcd = spawn(binaries, &folder, "etcd", &etcd_flags(&folder, &etcd_url));
        let api_server_flags = api_server_flags(&folder, port, &etcd_url, &options.api_server_flags);
        let api_server = spawn(binaries, &folder, "kube-apiserver", &api_server_flags);

        let admin = write_kubeconfig(&folder, "kubeconfig", &server, ADMIN);
        let config = wait_until("the API server is ready", START, async || {
            // An early end is no state to wait on: it is the answer.
            for process in [&etcd, &api_server] {
                if process.exited().is_some() {
                    return Ok(Err(process.tail()));
                }
            }
            match ready_config(&admin).await {
                Ok(config) => Ok(Ok(config)),
                Err(error) => Err(format!("{error}\n{}", api_server.tail())),
            }
        })
        .await?;

        if !options.crds.is_empty() {
            apply_crds(binaries, &folder, &options.crds).await;
        }
        write_kubeconfig(&folder, "controller-manager.kubeconfig", &server, CONTROLLER_MANAGER);
        let controller_manager =
            spawn(binaries, &folder, "kube-controller-manager", &controller_manager_flags(&folder));
        let client = Client::try_from(config.clone()).expect("a client");
        let accounts: Api<ServiceAccount> = Api::namespaced(client, "default");
        wait_until("the controller manager is at work", START, async || match accounts.get("default").await {
            Ok(_) => Ok(()),
            Err(error) => Err(format!("{error}\n{}", controller_manager.tail())),
        })
        .await;

        Ok(Self {
            controller_manager,
            api_server,
            etcd,
            binaries: binaries.to_owned(),
            server,
            config,
            folder,
            ready_after: begin.elapsed(),
        })
    }

    /// How long the start took.
    pub fn ready_after(&self) -> Duration {
        self.ready_after
    }

    /// The API server's URL.
    pub fn server(&self) -> &str {
        &self.server
    }

    // The processes, for tests that kill them, or that stop their answers with `stop` and `cont`.
    pub fn api_server(&self) -> &Supervised {
        &self.api_server
    }
    pub fn etcd(&self) -> &Supervised {
        &self.etcd
    }
    pub fn controller_manager(&self) -> &Supervised {
        &self.controller_manager
    }

    /// Starts the API server again, with its data and on its port, after `api_server().kill()` or instead of it.
    pub async fn restart_api_server(&self) {
        self.api_server.respawn();
        let kubeconfig = self.kubeconfig_path();
        wait_until("the API server is ready again", START, async || ready_config(&kubeconfig).await).await;
    }

    // --- as whom

    /// The kubeconfig of the administrator.
    pub fn kubeconfig_path(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    /// A new client for the administrator. Each test has a runtime of its own and a client belongs to a runtime, so
    /// clients are not shared between tests.
    pub fn client(&self) -> Client {
        Client::try_from(self.config.clone()).expect("a client")
    }

    /// A new client for the user of a kubeconfig.
    pub async fn client_as(&self, kubeconfig: &Path) -> Client {
        Client::try_from(read_config(kubeconfig).await.expect("a kubeconfig")).expect("a client")
    }

    /// A kubeconfig for a ServiceAccount that exists, by the TokenRequest API.
    pub async fn service_account_kubeconfig(&self, namespace: &str, name: &str) -> PathBuf {
        // Each call writes a file of its own: an operator may be reading the last one at this moment.
        static CALLS: AtomicUsize = AtomicUsize::new(0);
        let token =
            self.kubectl_ok(&["create", "token", name, "--namespace", namespace, "--duration", "24h"], None).await;
        let file = format!("{namespace}-{name}-{}.kubeconfig", CALLS.fetch_add(1, Ordering::Relaxed));
        write_kubeconfig(&self.folder, &file, &self.server, token.trim())
    }

    // --- kubectl

    /// kubectl as the administrator. Another `--kubeconfig` may follow.
    pub fn kubectl(&self) -> Command {
        kubectl(&self.binaries, &self.folder)
    }

    /// Runs kubectl, which must succeed, and returns its stdout.
    pub async fn kubectl_ok(&self, args: &[&str], stdin: Option<&str>) -> String {
        succeeded(args, run(self.kubectl(), args, stdin).await)
    }

    /// Runs kubectl, which must fail, and returns its stderr.
    pub async fn kubectl_err(&self, args: &[&str], stdin: Option<&str>) -> String {
        let output = run(self.kubectl(), args, stdin).await;
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "kubectl {} should have failed, but it said: {stdout}", args.join(" "));
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    /// Runs kubectl, whatever comes of it.
    pub async fn kubectl_output(&self, args: &[&str], stdin: Option<&str>) -> Output {
        run(self.kubectl(), args, stdin).await
    }

    /// A shell whose kubectl is the administrator's.
    pub fn shell(&self) -> Command {
        let mut command = Command::new("bash");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.binaries.clone()).chain(std::env::split_paths(&path));
        command
            .env("PATH", std::env::join_paths(folders).expect("a PATH"))
            .env("KUBECONFIG", self.kubeconfig_path())
            .env("KUBERC", "off")
            .env("KUBECACHEDIR", self.folder.join("kubectl-cache"))
            .kill_on_drop(true);
        command
    }

    /// `kubectl apply` of a YAML text, server-side.
    pub async fn apply(&self, yaml: &str) -> String {
        self.kubectl_ok(&["apply", "--server-side", "--filename", "-"], Some(yaml)).await
    }

    /// Makes a namespace with a name that no other test has.
    pub async fn namespace(&self, prefix: &str) -> String {
        let mut namespace = Namespace::default();
        namespace.metadata.generate_name = Some(format!("{prefix}-"));
        let api: Api<Namespace> = Api::all(self.client());
        let created = api.create(&PostParams::default(), &namespace).await.expect("a namespace");
        created.metadata.name.expect("a name")
    }

    // --- audit log

    /// Every request that the API server has answered so far, and every watch that it has begun to answer.
    ///
    /// The server writes an event just after the answer, so wait with `wait_until` for a number of them.
    pub fn audit(&self) -> AuditLog {
        self.audit_since(AuditPosition(0))
    }

    /// The end of the audit log now. Shared control planes have long logs: read them from here.
    pub fn audit_position(&self) -> AuditPosition {
        AuditPosition(fs::metadata(self.folder.join(AUDIT_LOG)).map_or(0, |file| file.len()))
    }

    pub fn audit_since(&self, position: AuditPosition) -> AuditLog {
        let mut file = fs::File::open(self.folder.join(AUDIT_LOG)).expect("an audit log");
        file.seek(SeekFrom::Start(position.0)).expect("a position in the audit log");
        let mut log = Vec::new();
        file.read_to_end(&mut log).expect("a readable audit log");
        // The last line, and the first one after a position, may be incomplete.
        let lines = log.split_inclusive(|byte| *byte == b'\n');
        AuditLog(
            lines.filter(|line| line.ends_with(b"\n")).filter_map(|line| serde_json::from_slice(line).ok()).collect(),
        )
    }
}

#[derive(Clone, Copy, Debug)]
pub struct AuditPosition(u64);

/// Audit events (`audit.k8s.io/v1`, level Metadata), one for each request, and filters for them.
#[derive(Clone, Debug)]
pub struct AuditLog(pub Vec<Value>);

impl AuditLog {
    pub fn filter(mut self, keep: impl Fn(&Value) -> bool) -> Self {
        self.0.retain(keep);
        self
    }

    /// By user name; a ServiceAccount's is `system:serviceaccount:<namespace>:<name>`.
    pub fn user(self, name: &str) -> Self {
        self.filter(|event| event["user"]["username"] == name)
    }

    pub fn service_account(self, namespace: &str, name: &str) -> Self {
        self.user(&format!("system:serviceaccount:{namespace}:{name}"))
    }

    pub fn verb(self, verb: &str) -> Self {
        self.filter(|event| event["verb"] == verb)
    }

    /// Requests that change something, the refused ones included.
    pub fn writes(self) -> Self {
        let verbs = ["create", "update", "patch", "delete", "deletecollection"];
        self.filter(|event| verbs.iter().any(|verb| event["verb"] == *verb))
    }

    /// As RBAC rules write it: `oauthclients`, or `oauthclients/status` for the subresource alone.
    pub fn resource(self, resource: &str) -> Self {
        let (resource, subresource) = match resource.split_once('/') {
            Some((resource, subresource)) => (resource, Some(subresource)),
            None => (resource, None),
        };
        self.filter(|event| {
            let object = &event["objectRef"];
            object["resource"] == resource && object["subresource"].as_str() == subresource
        })
    }

    pub fn namespace(self, namespace: &str) -> Self {
        self.filter(|event| event["objectRef"]["namespace"] == namespace)
    }

    pub fn name(self, name: &str) -> Self {
        self.filter(|event| event["objectRef"]["name"] == name)
    }

    /// By the status of the answer, e.g. 403 for what RBAC refused.
    pub fn code(self, code: u16) -> Self {
        self.filter(|event| event["responseStatus"]["code"] == code)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// One line for each event, for messages.
    pub fn summary(&self) -> String {
        let line = |event: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
            let code = &event["responseStatus"]["code"];
            format!(
                "{} {} {} {code}",
                text(&event["user"]["username"]),
                text(&event["verb"]),
                text(&event["requestURI"])
            )
        };
        self.0.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// The CRDs of this repository.
pub fn project_crds() -> Vec<PathBuf> {
    let folder = repository("crds");
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a folder entry").path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    files
}

/// The folder of the four programs. They are built if they are not there yet, which takes minutes and shows on stderr.
fn binaries() -> PathBuf {
    static BINARIES: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let output = std::process::Command::new(repository("tests/control-plane/build.sh"))
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .output()
            .map_err(|error| error.to_string())?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        match stdout.lines().last() {
            Some(folder) if output.status.success() => Ok(PathBuf::from(folder)),
            _ => Err(format!("tests/control-plane/build.sh ended with {}", output.status)),
        }
    };
    let missing = |error: String| panic!("there is no control plane to test with, run `make control-plane`: {error}");
    BINARIES.get_or_init(|| find().unwrap_or_else(missing)).clone()
}

fn spawn(binaries: &Path, folder: &Folder, program: &str, flags: &[String]) -> Supervised {
    let mut command = std::process::Command::new(binaries.join(program));
    command.args(flags);
    Supervised::spawn(program, command, folder.join(&format!("{program}.log")))
}

fn etcd_flags(folder: &Folder, url: &str) -> Vec<String> {
    let peer_url = format!("http://127.0.0.1:{}", free_port());
    vec![
        format!("--data-dir={}", folder.join("etcd").display()),
        format!("--listen-client-urls={url}"),
        format!("--advertise-client-urls={url}"),
        format!("--listen-peer-urls={peer_url}"),
        format!("--initial-advertise-peer-urls={peer_url}"),
        format!("--initial-cluster=default={peer_url}"),
        "--unsafe-no-fsync".into(),
        "--log-level=warn".into(),
    ]
}

const AUDIT_LOG: &str = "audit.log";

fn api_server_flags(folder: &Folder, port: u16, etcd_url: &str, further: &[String]) -> Vec<String> {
    let pair = rcgen::KeyPair::generate().expect("a key pair");
    let private = folder.write("service-account.key", pair.serialize_pem());
    let public = folder.write("service-account.pub", pair.public_key_pem());
    let tokens = [ADMIN, CONTROLLER_MANAGER].map(|user| format!("{user},{user},{user},\"system:masters\"\n")).concat();
    let tokens = folder.write("tokens.csv", tokens);
    let policy = folder.write("audit-policy.json", audit_policy().to_string());
    let mut flags = vec![
        format!("--etcd-servers={etcd_url}"),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
        // The server refuses loopback here, and finds no other address on a machine without a default route. Nobody
        // connects to this one: it is of the range that is reserved for documentation.
        "--advertise-address=192.0.2.1".into(),
        "--endpoint-reconciler-type=none".into(),
        "--service-cluster-ip-range=10.0.0.0/24".into(),
        format!("--cert-dir={}", folder.join("certificates").display()),
        format!("--token-auth-file={}", tokens.display()),
        "--authorization-mode=RBAC".into(),
        format!("--service-account-issuer=https://127.0.0.1:{port}"),
        format!("--service-account-key-file={}", public.display()),
        format!("--service-account-signing-key-file={}", private.display()),
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", folder.join(AUDIT_LOG).display()),
        // In MB. The default begins a new file at 100 MB, and the tests count in one file.
        "--audit-log-maxsize=100000".into(),
    ];
    flags.extend_from_slice(further);
    flags
}

/// One event for each request: when it is answered, or when the answer begins if that is a watch.
fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "rules": [
            {"level": "None", "nonResourceURLs": ["/readyz*", "/livez*", "/healthz*"]},
            {"level": "Metadata", "verbs": ["watch"], "omitStages": ["RequestReceived", "ResponseComplete"]},
            {"level": "Metadata", "omitStages": ["RequestReceived", "ResponseStarted"]},
        ],
    })
}

fn controller_manager_flags(folder: &Folder) -> Vec<String> {
    let controllers = [
        "garbage-collector-controller",
        "namespace-controller",
        "serviceaccount-controller",
        "serviceaccount-token-controller",
        "root-ca-certificate-publisher-controller",
        "clusterrole-aggregation-controller",
        "validatingadmissionpolicy-status-controller",
    ];
    vec![
        format!("--kubeconfig={}", folder.join("controller-manager.kubeconfig").display()),
        format!("--service-account-private-key-file={}", folder.join("service-account.key").display()),
        format!("--root-ca-file={}", certificate(folder).display()),
        format!("--controllers={}", controllers.join(",")),
        "--leader-elect=false".into(),
        "--secure-port=0".into(),
        // The default of 20 requests in a second would make the deletion of many namespaces the slowest part of the
        // tests.
        "--kube-api-qps=500".into(),
        "--kube-api-burst=1000".into(),
    ]
}

/// The API server makes a certificate for itself; the file ends with the certificate of the authority that signed it,
/// which is what clients need in order to verify the server.
fn certificate(folder: &Folder) -> PathBuf {
    folder.join("certificates/apiserver.crt")
}

/// JSON, which is YAML too.
fn write_kubeconfig(folder: &Folder, name: &str, server: &str, token: &str) -> PathBuf {
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": certificate(folder)}}],
        "users": [{"name": "user", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
        "current-context": "test",
    });
    folder.write(name, kubeconfig.to_string())
}

async fn read_config(kubeconfig: &Path) -> Result<Config, kube::config::KubeconfigError> {
    Config::from_custom_kubeconfig(Kubeconfig::read_from(kubeconfig)?, &KubeConfigOptions::default()).await
}

/// The configuration of a server that is ready.
async fn ready_config(kubeconfig: &Path) -> Result<Config, String> {
    // Fails until the server has written its certificate.
    let config = read_config(kubeconfig).await.map_err(|error| error.to_string())?;
    let client = Client::try_from(config.clone()).map_err(|error| error.to_string())?;
    let request = http::Request::get("/readyz").body(Vec::new()).expect("a request");
    client.request_text(request).await.map_err(|error| error.to_string())?;
    Ok(config)
}

fn kubectl(binaries: &Path, folder: &Folder) -> Command {
    let mut command = Command::new(binaries.join("kubectl"));
    command
        .env("KUBECONFIG", folder.join("kubeconfig"))
        // Neither the settings nor the cache of the person who runs the tests.
        .env("KUBERC", "off")
        .env("KUBECACHEDIR", folder.join("kubectl-cache"))
        .kill_on_drop(true);
    command
}

async fn apply_crds(binaries: &Path, folder: &Folder, files: &[PathBuf]) {
    let files: Vec<&str> = files.iter().map(|file| file.to_str().expect("a UTF-8 path")).collect();
    let apply = ["apply", "--server-side", "--filename", &files.join(",")];
    succeeded(&apply, run(kubectl(binaries, folder), &apply, None).await);
    let wait = ["wait", "--for=condition=Established", "--timeout=30s", "--filename", &files.join(",")];
    succeeded(&wait, run(kubectl(binaries, folder), &wait, None).await);
}

async fn run(mut kubectl: Command, args: &[&str], stdin: Option<&str>) -> Output {
    kubectl.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    kubectl.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = kubectl.spawn().expect("kubectl starts");
    if let Some(text) = stdin {
        // An error means that kubectl has given up before; it says itself why.
        let _ = child.stdin.take().expect("a pipe").write_all(text.as_bytes()).await;
    }
    child.wait_with_output().await.expect("kubectl ends")
}

fn succeeded(args: &[&str], output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {} failed: {stderr}", args.join(" "));
    String::from_utf8(output.stdout).expect("kubectl prints UTF-8")
}

//! The operator binary as a process, with no more rights than its shipped manifests give it.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use super::{
    control_plane::ControlPlane,
    install_crypto_provider,
    process::{Folder, Supervised, free_port, wait_until, with_free_ports},
    repository,
};

const START: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
pub struct OperatorOptions {
    /// Further arguments, e.g. `--allow-insecure-http`.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Watches only these (`--namespaces`); empty: all. Tests that share a control plane name their own.
    pub watch: Vec<String>,
    /// Where the ServiceAccount `dcr-operator` and the Lease are.
    pub namespace: String,
    /// Another binary than the one that cargo has just built.
    pub binary: Option<PathBuf>,
}

impl Default for OperatorOptions {
    fn default() -> Self {
        Self {
            args: Vec::new(),
            env: Vec::new(),
            watch: Vec::new(),
            namespace: Operator::NAMESPACE.into(),
            binary: None,
        }
    }
}

pub struct Operator {
    process: Supervised,
    admin: String,
    _folder: Folder,
}

impl Operator {
    /// Of the shipped manifests.
    pub const NAMESPACE: &str = "dcr-operator";
    pub const SERVICE_ACCOUNT: &str = "dcr-operator";

    /// Applies the shipped RBAC, starts the operator and waits until it is ready.
    pub async fn start(plane: &ControlPlane, options: OperatorOptions) -> Self {
        install_rbac(plane).await;
        let kubeconfig = plane.service_account_kubeconfig(&options.namespace, Self::SERVICE_ACCOUNT).await;
        Self::start_with_kubeconfig(kubeconfig, options).await
    }

    /// `start` for an operator whose ServiceAccount and rights come from elsewhere, e.g. from the chart.
    pub async fn start_with_kubeconfig(kubeconfig: PathBuf, options: OperatorOptions) -> Self {
        with_free_ports("the operator", async || {
            let operator = Self::spawn(&kubeconfig, &options);
            operator.ready().await?;
            Ok(operator)
        })
        .await
    }

    /// `start_with_kubeconfig` for an operator that something keeps from getting ready: does not wait.
    pub fn spawn(kubeconfig: &Path, options: &OperatorOptions) -> Self {
        install_crypto_provider();
        let folder = Folder::new("operator");
        let admin = format!("127.0.0.1:{}", free_port());
        let mut command = command_of(options.binary.clone().unwrap_or_else(binary));
        command.env("KUBECONFIG", kubeconfig).arg("run").args([
            "--admin-address",
            &admin,
            "--lease-namespace",
            &options.namespace,
        ]);
        if !options.watch.is_empty() {
            command.args(["--namespaces", &options.watch.join(",")]);
        }
        command.args(&options.args).envs(options.env.iter().cloned());
        let process = Supervised::spawn("the operator", command, folder.join("operator.log"));
        Self { process, admin, _folder: folder }
    }

    async fn ready(&self) -> Result<(), String> {
        wait_until("the operator is ready", START, async || {
            if let Some(status) = self.process.exited() {
                return Ok(Err(format!("{status}\n{}", self.process.tail())));
            }
            match self.get("/readyz").await {
                Ok((200, _)) => Ok(Ok(())),
                Ok((status, body)) => Err(format!("/readyz answers {status} {body}\n{}", self.process.tail())),
                Err(error) => Err(format!("{error}\n{}", self.process.tail())),
            }
        })
        .await
    }

    /// Starts it again with the same arguments, after `kill` or `terminate` or instead of them.
    pub async fn restart(&self) {
        self.process.respawn();
        self.ready().await.unwrap_or_else(|error| panic!("the operator did not start again: {error}"));
    }

    /// Host and port of the admin server.
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        match self.get("/metrics").await {
            Ok((200, text)) => text,
            other => panic!("/metrics answers {other:?}\n{}", self.process.tail()),
        }
    }

    /// Status and body of a path of the admin server.
    pub async fn get(&self, path: &str) -> Result<(u16, String), String> {
        let client = reqwest::Client::builder().tls_certs_only([]).no_proxy().timeout(Duration::from_secs(5));
        let response = client.build().expect("an HTTP client").get(format!("http://{}{path}", self.admin)).send().await;
        let response = response.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let text = response.bytes().await.map_err(|error| error.to_string())?;
        Ok((status, String::from_utf8_lossy(&text).into_owned()))
    }

    /// All that it has printed.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// The process, for tests that stop it for a while or wait for it to end by itself.
    pub fn process(&self) -> &Supervised {
        &self.process
    }

    /// SIGTERM; returns how it ended.
    pub async fn terminate(&self) -> ExitStatus {
        self.process.terminate(Duration::from_secs(30)).await
    }

    /// SIGKILL.
    pub fn kill(&self) {
        self.process.kill();
    }
}

impl Drop for Operator {
    fn drop(&mut self) {
        // The log goes with the folder, and it tells most about a test that failed.
        if std::thread::panicking() {
            eprintln!("{}", self.process.tail());
        }
    }
}

/// The operator's binary, with nothing of the caller's environment that would change what it does.
pub fn command() -> Command {
    command_of(binary())
}

fn command_of(binary: PathBuf) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy().to_uppercase();
        if text.starts_with("DCR_OPERATOR_") || text.ends_with("_PROXY") || text == "RUST_LOG" || text == "KUBECONFIG" {
            command.env_remove(&name);
        }
    }
    command
}

fn binary() -> PathBuf {
    // Cargo builds the binary for integration tests and names it; examples must be told.
    let given = std::env::var_os("DCR_OPERATOR_BINARY").map(PathBuf::from);
    given
        .or_else(|| option_env!("CARGO_BIN_EXE_dcr-operator").map(PathBuf::from))
        .expect("DCR_OPERATOR_BINARY must name the operator's binary")
}

/// Applies the ServiceAccount and the rights that are shipped, without the Deployment. Doing it again changes nothing.
pub async fn install_rbac(plane: &ControlPlane) {
    let base = ["namespace.yaml", "serviceaccount.yaml", "rbac.yaml"].map(|name| format!("base/{name}"));
    let files = base.into_iter().chain(["components/rollout-restart/rbac.yaml".to_owned()]);
    let files = files.map(|name| repository("deploy").join(name).to_str().expect("a UTF-8 path").to_owned());
    let files: Vec<String> = files.collect();
    plane.kubectl_ok(&["apply", "--server-side", "--filename", &files.join(",")], None).await;
}

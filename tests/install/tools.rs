//! Helm, promtool, kubeconform and verdicts, as `tests/tools/build.sh` builds them, and manifests as values.

use std::{
    collections::BTreeMap,
    io::Write,
    path::PathBuf,
    process::{Command, Output, Stdio},
    sync::OnceLock,
};

use serde_json::Value;

use crate::support::{control_plane::ControlPlane, process::Folder, repository};

/// The folder of the tools. They are built if they are not there yet, which takes minutes and shows on stderr.
fn folder() -> PathBuf {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let script =
            Command::new(repository("tests/tools/build.sh")).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
        let output = script.expect("tests/tools/build.sh starts");
        assert!(output.status.success(), "tests/tools/build.sh ended with {}", output.status);
        let stdout = String::from_utf8(output.stdout).expect("UTF-8");
        PathBuf::from(stdout.lines().last().expect("a folder"))
    };
    FOLDER.get_or_init(find).clone()
}

pub fn tool(name: &str) -> Command {
    Command::new(folder().join(name))
}

/// Runs a command with this input; `Err` has what it printed on stderr.
pub fn run(mut command: Command, input: &str) -> Result<String, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the tool starts");
    // It may end before it has read everything, and says itself why.
    let _ = child.stdin.take().expect("a pipe").write_all(input.as_bytes());
    let Output { status, stdout, stderr } = child.wait_with_output().expect("the tool ends");
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    let stdout = String::from_utf8(stdout).expect("UTF-8");
    if status.success() { Ok(stdout) } else { Err(format!("{stderr}{stdout}")) }
}

/// The chart's folder.
pub fn chart() -> String {
    repository("charts/dcr-operator").to_str().expect("a UTF-8 path").to_owned()
}

/// Helm with files of its own, so that nothing of the person who runs the tests counts.
pub struct Helm {
    home: Folder,
    kubeconfig: Option<PathBuf>,
}

impl Helm {
    /// Without a cluster.
    pub fn offline() -> Self {
        Self { home: Folder::new("helm"), kubeconfig: None }
    }

    /// As the administrator of this control plane.
    pub fn on(plane: &ControlPlane) -> Self {
        Self { home: Folder::new("helm"), kubeconfig: Some(plane.kubeconfig_path()) }
    }

    /// Runs it; `values` is a values file.
    pub fn run(&self, args: &[&str], values: &str) -> Result<String, String> {
        let mut command = tool("helm");
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.home.join(folder));
        }
        command.env_remove("HELM_NAMESPACE").env_remove("HELM_KUBECONTEXT");
        match &self.kubeconfig {
            Some(kubeconfig) => command.env("KUBECONFIG", kubeconfig),
            None => command.env("KUBECONFIG", self.home.join("none")),
        };
        command.args(args);
        if !values.is_empty() {
            command.args(["--values", "-"]);
        }
        run(command, values)
    }

    pub fn ok(&self, args: &[&str], values: &str) -> String {
        self.run(args, values).unwrap_or_else(|error| panic!("helm {}: {error}", args.join(" ")))
    }

    /// The objects of a release, rendered with these values.
    pub fn template(&self, release: &str, namespace: &str, values: &str) -> Vec<Value> {
        manifests(&self.ok(&["template", release, &chart(), "--namespace", namespace, "--skip-tests"], values))
    }

    /// The message with which the chart refuses these values.
    pub fn refusal(&self, values: &str) -> String {
        match self.run(&["template", "dcr-operator", &chart()], values) {
            Ok(rendered) => panic!("{values} should be refused, but renders {} bytes", rendered.len()),
            Err(error) => error,
        }
    }
}

/// The documents of a YAML text that are not empty.
pub fn manifests(yaml: &str) -> Vec<Value> {
    let documents = serde_saphyr::from_multiple::<Value>(yaml).unwrap_or_else(|error| panic!("{error} in:\n{yaml}"));
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

/// Kind, namespace (or nothing) and name, as `Role shop/dcr-operator`.
pub fn id(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    let namespace = text(&metadata["namespace"]);
    let slash = if namespace.is_empty() { "" } else { "/" };
    format!("{} {namespace}{slash}{}", text(&object["kind"]), text(&metadata["name"]))
}

/// By [`id`]; each must be there once.
pub fn by_id(objects: Vec<Value>) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for object in objects {
        let id = id(&object);
        assert!(found.insert(id.clone(), object).is_none(), "{id} is there twice");
    }
    found
}

/// What others make of objects: see tests/tools/verdicts.
pub fn verdicts(args: &[&str], objects: &[Value]) -> Vec<Value> {
    let mut command = tool("verdicts");
    command.args(args);
    let input = serde_json::to_string(objects).expect("JSON");
    let answers = run(command, &input).unwrap_or_else(|error| panic!("verdicts {}: {error}", args.join(" ")));
    serde_json::from_str(&answers).expect("JSON")
}

/// What an engine does with objects on this control plane, by Kind/namespace/name: see tests/tools/verdicts.
pub fn engine(plane: &ControlPlane, args: &[&str], objects: &[Value]) -> Result<BTreeMap<String, String>, String> {
    let mut command = tool("verdicts");
    command.args(args).env("KUBECONFIG", plane.kubeconfig_path());
    let answers = run(command, &serde_json::to_string(objects).expect("JSON"))?;
    Ok(serde_json::from_str(&answers).expect("JSON"))
}

/// The CRDs of other projects, whose kinds are rendered or in the examples.
pub async fn install_crds_of_others(plane: &ControlPlane) {
    let folder = folder().join("crds");
    let folder = folder.to_str().expect("a UTF-8 path");
    plane.kubectl_ok(&["apply", "--server-side", "--filename", folder], None).await;
    let args = ["wait", "--for=condition=Established", "--timeout=30s", "--filename", folder];
    plane.kubectl_ok(&args, None).await;
}

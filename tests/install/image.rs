//! The image, as `make image` builds it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde_json::Value;

use crate::{
    fixtures::Home,
    support::{
        authorization_server::AuthorizationServer,
        operator::{Operator, OperatorOptions},
        process::Folder,
        repository,
    },
};

/// Builds the archive, which takes minutes on a new machine and shows on stderr.
fn build() -> PathBuf {
    let script = Command::new(repository("deploy/image.sh")).stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = script.expect("deploy/image.sh starts");
    assert!(output.status.success(), "deploy/image.sh ended with {}", output.status);
    let stdout = String::from_utf8(output.stdout).expect("UTF-8");
    PathBuf::from(stdout.lines().last().expect("an archive"))
}

fn tar(args: &[&str], archive: &Path, into: &Path) {
    let status = Command::new("tar").args(args).arg("-f").arg(archive).arg("-C").arg(into).status();
    assert!(status.expect("tar starts").success(), "{}", archive.display());
}

fn json(path: &Path) -> Value {
    let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("JSON")
}

fn blob(folder: &Path, descriptor: &Value) -> PathBuf {
    let digest = descriptor["digest"].as_str().expect("a digest");
    folder.join("blobs/sha256").join(digest.strip_prefix("sha256:").expect("sha256"))
}

/// The digest of the manifest, the configuration, and a folder with all files of the image.
fn unpack(archive: &Path) -> (String, Value, Folder) {
    let (image, root) = (Folder::new("image"), Folder::new("root"));
    tar(&["-x"], archive, image.path());
    let descriptor = json(&image.join("index.json"))["manifests"][0].clone();
    let manifest = json(&blob(image.path(), &descriptor));
    let config = json(&blob(image.path(), &manifest["config"]));
    for layer in manifest["layers"].as_array().expect("layers") {
        tar(&["-x", "-z"], &blob(image.path(), layer), root.path());
    }
    (descriptor["digest"].as_str().expect("a digest").to_owned(), config, root)
}

fn files(folder: &Path, into: &mut Vec<(String, u64)>, root: &Path) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, into, root);
        } else {
            let name = path.strip_prefix(root).expect("inside").to_str().expect("UTF-8").to_owned();
            into.push((name, fs::metadata(&path).expect("a file").len()));
        }
    }
}

#[tokio::test]
async fn the_image_is_a_static_binary_that_works_without_root_and_without_anything_else_and_is_always_the_same() {
    let (digest, config, root) = unpack(&build());
    let mut found = Vec::new();
    files(root.path(), &mut found, root.path());
    found.sort();
    let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["dcr-operator", "etc/ssl/certs/ca-certificates.crt"]);
    let size: u64 = found.iter().map(|(_, size)| size).sum();
    assert!(size < 20_000_000, "{size} bytes");
    let config = &config["config"];
    assert_eq!(config["User"], "65532:65532");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/dcr-operator"]));
    assert_eq!(config["Cmd"], serde_json::json!(["run"]));

    // Statically linked: without an interpreter there is nothing that could load a library.
    let binary = fs::read(root.join("dcr-operator")).expect("a binary");
    assert!(!binary.windows(9).any(|window| window == b"ld-linux-" || window == b"/ld-musl-"), "it names a loader");
    let home = std::env::var("HOME").expect("HOME");
    for path in [home.as_str(), env!("CARGO_MANIFEST_DIR")].into_iter().filter(|path| path.len() > 5) {
        assert!(!binary.windows(path.len()).any(|window| window == path.as_bytes()), "it names {path}");
    }

    let output = Command::new(root.join("dcr-operator")).arg("--version").env_clear().output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), format!("dcr-operator {}", env!("CARGO_PKG_VERSION")));
    let (home, server) = (Home::without_operator("image").await, AuthorizationServer::shared());
    let kubeconfig = home.plane.service_account_kubeconfig(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT).await;
    let options = OperatorOptions {
        args: ["--leader-elect=false", "--allow-insecure-http"].map(str::to_owned).to_vec(),
        watch: vec![home.name.clone()],
        binary: Some(root.join("dcr-operator")),
        ..OperatorOptions::default()
    };
    let operator = Operator::start_with_kubeconfig(kubeconfig, options).await;
    home.profile(server.issuer()).await;
    home.register("shop").await;
    assert!(operator.terminate().await.success());

    assert_eq!(unpack(&build()).0, digest, "a second build");
}

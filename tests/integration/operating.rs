//! What the people who run it see: flags, health, metrics, two replicas.

use std::{
    fs,
    process::Stdio,
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufStream},
    net::{TcpListener, TcpStream},
};

use crate::{
    fixtures::*,
    support::{
        authorization_server::AuthorizationServer,
        operator::{Operator, OperatorOptions, command},
        process::{Folder, wait_until},
        repository,
    },
};

#[test]
fn without_a_cluster_it_says_what_to_set_and_exits_2() {
    let output = command().args(["run", "--log-format", "text"]).env("HOME", "/nonexistent").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_says(&said, &["/nonexistent/.kube/config", "Set KUBECONFIG"]);
    assert!(said.find("/nonexistent") < said.find("Set KUBECONFIG"), "the cause comes first: {said}");
}

#[test]
fn a_proxy_that_it_can_not_use_is_named_without_its_password_and_exits_2() {
    let folder = Folder::new("kubeconfig");
    let kubeconfig = folder.join("config");
    let text = "{apiVersion: v1, kind: Config, current-context: c, contexts: [{name: c, context: {cluster: c, user: u}}], \
                clusters: [{name: c, cluster: {server: 'https://api.example.com:6443'}}], users: [{name: u, user: {}}]}";
    fs::write(&kubeconfig, text).unwrap();
    let mut run = command();
    run.args(["run", "--log-format", "text"]).env("KUBECONFIG", &kubeconfig);
    let output = run.env("HTTPS_PROXY", "socks5://ann:p4ssw0rd@proxy.example.com:1080").output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_says(&said, &["HTTPS_PROXY", "proxy-url"]);
    assert!(!said.contains("p4ssw0rd"), "{said}");
}

/// A forward proxy that makes tunnels (CONNECT), and where they have led.
async fn forward_proxy() -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let tunnels = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&tunnels);
    tokio::spawn(async move {
        while let Ok((caller, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move {
                let mut caller = BufStream::new(caller);
                let mut lines = Vec::new();
                while !matches!(lines.last().map(String::as_str), Some("\r\n")) {
                    let mut line = String::new();
                    if caller.read_line(&mut line).await.unwrap_or_default() == 0 {
                        return;
                    }
                    lines.push(line);
                }
                let target = lines[0].strip_prefix("CONNECT ").expect("CONNECT").split(' ').next().unwrap().to_owned();
                seen.lock().unwrap().push(target.clone());
                let mut server = TcpStream::connect(target).await.unwrap();
                caller.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                caller.flush().await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut caller, &mut server).await;
            });
        }
    });
    (address, tunnels)
}

#[tokio::test]
async fn the_proxy_of_the_kubeconfig_leads_to_the_api_server_and_that_of_the_environment_not_to_loopback() {
    let home = Home::without_operator("proxy").await;
    let direct = home.plane.service_account_kubeconfig(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT).await;
    let (proxy, tunnels) = forward_proxy().await;
    let text = fs::read_to_string(&direct).unwrap();
    let mut config: Value = serde_saphyr::from_str(&text).unwrap();
    config["clusters"][0]["cluster"]["proxy-url"] = json!(proxy);
    let folder = Folder::new("kubeconfig");
    let proxied = folder.join("config");
    fs::write(&proxied, config.to_string()).unwrap();

    let options = OperatorOptions { watch: vec![home.name.clone()], ..OperatorOptions::default() };
    let operator = Operator::start_with_kubeconfig(proxied, options.clone()).await;
    let api_server = home.plane.server().strip_prefix("https://").unwrap();
    assert!(tunnels.lock().unwrap().iter().any(|target| target == api_server), "{tunnels:?}");
    assert!(operator.terminate().await.success());

    let before = tunnels.lock().unwrap().len();
    let env = vec![("HTTPS_PROXY".to_owned(), proxy)];
    let operator = Operator::start_with_kubeconfig(direct, OperatorOptions { env, ..options }).await;
    assert!(operator.terminate().await.success());
    assert_eq!(tunnels.lock().unwrap().len(), before, "{tunnels:?}");
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

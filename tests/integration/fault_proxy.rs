//! What the other tests rely on when something fails between the operator and the API server: that it failed, and how.

use std::{path::PathBuf, pin::pin, time::Duration};

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{
    Api, Client, Error,
    api::{ListParams, ObjectMeta, PostParams, WatchEvent, WatchParams},
};

use crate::{
    fixtures,
    support::{
        control_plane::ControlPlane,
        fault_proxy::{Fault, FaultProxy, Rule},
        fault_server::{FaultServer, Registrar},
        operator::{Operator, OperatorOptions},
        process::wait_until,
    },
};

const WAIT: Duration = Duration::from_secs(30);

/// A namespace, seen through a proxy and not.
struct Home {
    proxy: FaultProxy,
    kubeconfig: PathBuf,
    through: Api<ConfigMap>,
    direct: Api<ConfigMap>,
}

impl Home {
    async fn new() -> Self {
        let plane = ControlPlane::shared();
        let proxy = FaultProxy::start(&plane.kubeconfig_path());
        let kubeconfig = proxy.kubeconfig(&plane.kubeconfig_path());
        let namespace = plane.namespace("proxy").await;
        let through: Client = plane.client_as(&kubeconfig).await;
        Self {
            proxy,
            kubeconfig,
            through: Api::namespaced(through, &namespace),
            direct: Api::namespaced(plane.client(), &namespace),
        }
    }

    async fn create(&self, name: &str) -> Result<ConfigMap, Error> {
        let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
        self.through.create(&PostParams::default(), &ConfigMap { metadata, ..ConfigMap::default() }).await
    }

    async fn exists(&self, name: &str) -> bool {
        self.direct.get_opt(name).await.expect("the API server itself").is_some()
    }
}

fn status(error: Error) -> u16 {
    match error {
        Error::Api(status) => status.code,
        other => panic!("no answer of the API server: {other}"),
    }
}

#[tokio::test]
async fn without_a_rule_everything_goes_through() {
    let home = Home::new().await;
    home.create("a").await.unwrap();
    assert!(home.exists("a").await);
    assert!(!home.through.list(&ListParams::default()).await.unwrap().items.is_empty());
    let plane = ControlPlane::shared();
    let kubeconfig = home.kubeconfig.to_str().unwrap();
    plane.kubectl_ok(&["--kubeconfig", kubeconfig, "get", "configmaps", "-A"], None).await;
    assert!(home.proxy.injected().is_empty());
}

#[tokio::test]
async fn a_refused_request_is_not_carried_out_and_others_are() {
    let home = Home::new().await;
    home.proxy.add(Rule::new(Fault::Refuse(409)).writes().resource("configmaps").times(1));
    home.proxy.add(Rule::new(Fault::Throttle(7)).verbs(&["create"]).name("never").times(1));
    home.through.list(&ListParams::default()).await.unwrap();
    assert_eq!(status(home.create("a").await.unwrap_err()), 409);
    assert!(!home.exists("a").await);
    home.create("a").await.unwrap();
    assert_eq!(home.proxy.injected().into_iter().collect::<Vec<_>>(), [("API server answers 409".to_owned(), 1)]);

    home.proxy.add(Rule::new(Fault::Refuse(500)).verbs(&["get"]));
    assert_eq!(status(home.through.get("a").await.unwrap_err()), 500);
    home.proxy.clear();
    home.through.get("a").await.unwrap();
}

#[tokio::test]
async fn a_throttled_request_is_told_when_to_come_again() {
    let home = Home::new().await;
    home.proxy.add(Rule::new(Fault::Throttle(7)).verbs(&["create"]));
    // kube's client waits and tries again by itself, so it is asked by hand.
    let client = reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().build().unwrap();
    let config: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(&home.kubeconfig).unwrap()).unwrap();
    let server = config["clusters"][0]["cluster"]["server"].as_str().unwrap();
    let response = client.post(format!("{server}/api/v1/namespaces/default/configmaps")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (429, "7"));
}

#[tokio::test]
async fn a_cut_request_is_not_carried_out_and_a_lost_answer_is() {
    let home = Home::new().await;
    for (name, fault, is_carried_out) in [("cut", Fault::Cut, false), ("lost", Fault::LoseAnswer, true)] {
        home.proxy.add(Rule::new(fault).verbs(&["create"]).times(1));
        let error = home.create(name).await.unwrap_err();
        assert!(!matches!(error, Error::Api(_)), "{error}");
        assert_eq!(home.exists(name).await, is_carried_out, "{name}");
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_was_carried_out_all_the_same() {
    let home = Home::new().await;
    home.proxy.add(Rule::new(Fault::NeverAnswer).verbs(&["create"]).times(1));
    let mut creation = pin!(home.create("a"));
    let carried_out = wait_until("it is carried out", WAIT, async || home.exists("a").await);
    tokio::select! {
        result = &mut creation => panic!("an answer came: {result:?}"),
        () = carried_out => {}
    }
}

#[tokio::test]
async fn a_slow_answer_comes_later() {
    let home = Home::new().await;
    home.proxy.add(Rule::new(Fault::Delay(Duration::from_millis(300))).verbs(&["list"]));
    let started = std::time::Instant::now();
    home.through.list(&ListParams::default()).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(300));
}

#[tokio::test]
async fn watches_are_cut_or_told_that_they_are_too_old() {
    let home = Home::new().await;
    let watch = async || {
        let stream = home.through.watch(&WatchParams::default(), "0").await.unwrap().boxed();
        wait_until("the watch is open", WAIT, async || home.proxy.watches() == 1).await;
        stream
    };
    // What has been written is seen through it.
    home.create("a").await.unwrap();
    let mut events = watch().await;
    loop {
        match events.try_next().await.unwrap() {
            Some(WatchEvent::Added(map)) if map.metadata.name.as_deref() == Some("a") => break,
            Some(_) => {}
            None => panic!("the watch has ended"),
        }
    }
    assert_eq!(home.proxy.cut_watches(), 1);
    assert!(ends(&mut events).await.is_none());
    wait_until("the watch is gone", WAIT, async || home.proxy.watches() == 0).await;

    let mut events = watch().await;
    assert_eq!(home.proxy.expire_watches(), 1);
    assert_eq!(ends(&mut events).await, Some(410));
    wait_until("the watch is gone", WAIT, async || home.proxy.watches() == 0).await;

    home.proxy.add(Rule::new(Fault::CutWatch(Duration::from_millis(100))).times(1));
    let mut events = home.through.watch(&WatchParams::default(), "0").await.unwrap().boxed();
    assert!(ends(&mut events).await.is_none());
}

/// Reads on until the end; the code of the error event, if there was one.
async fn ends(events: &mut futures::stream::BoxStream<'_, Result<WatchEvent<ConfigMap>, Error>>) -> Option<u16> {
    let mut code = None;
    // An error of the stream itself is an end, too.
    while let Ok(Some(event)) = events.try_next().await {
        if let WatchEvent::Error(status) = event {
            code = Some(status.code);
        }
    }
    code
}

#[tokio::test]
async fn an_operator_registers_a_client_through_it_whatever_is_cut() {
    let home = fixtures::Home::without_operator("through").await;
    let account = home.plane.service_account_kubeconfig(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT).await;
    let proxy = FaultProxy::start(&account);
    let server = FaultServer::start_registrar(Registrar::default()).await;
    proxy.add(Rule::new(Fault::CutWatch(Duration::from_millis(200))).times(20));
    proxy.add(Rule::new(Fault::Refuse(500)).writes().times(3));
    let args = ["--leader-elect=false", "--allow-insecure-http=true"].map(str::to_owned).to_vec();
    let options = OperatorOptions { args, watch: vec![home.name.clone()], ..OperatorOptions::default() };
    let _operator = Operator::start_with_kubeconfig(proxy.kubeconfig(&account), options).await;
    home.profile(&server.url("")).await;
    home.register("shop").await;
    assert!(proxy.injected()["watch cut"] > 0, "{:?}", proxy.injected());
    assert_eq!(proxy.injected()["API server answers 500"], 3);
}

#[tokio::test]
async fn what_is_down_has_no_connections_until_it_is_up() {
    let home = Home::new().await;
    home.create("a").await.unwrap();
    home.proxy.set_down(true);
    let error = home.through.get("a").await.unwrap_err();
    assert!(!matches!(error, Error::Api(_)), "{error}");
    home.proxy.set_down(false);
    home.through.get("a").await.unwrap();
}

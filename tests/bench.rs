//! `make bench`: the figures of docs/performance.md. How long a client takes, against the same two calls made directly in
//! the same run; how much the operator writes to Kubernetes; what it does when there is nothing to do; what it needs.

// A benchmark may panic, with words that help.
#![allow(clippy::expect_used)]

#[path = "support/mod.rs"]
mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use dcr_operator::{
    api::{DcrPolicy, DcrPolicySpec, OAuthClient},
    policy::{Older, Subject, admission::binding_name, judge},
};
use futures::{StreamExt, TryStreamExt, future::join, stream};
use k8s_openapi::{api::admissionregistration::v1::ValidatingAdmissionPolicyBinding, jiff::Timestamp};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams, WatchEvent, WatchParams},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use support::{
    authorization_server::{AuthorizationServer, AuthorizationServerOptions},
    control_plane::{AuditLog, ControlPlane, project_crds},
    operator::{Operator, OperatorOptions},
    repository,
};
use tokio::time::{sleep, timeout};

/// Clients that are made one after the other.
const RUNS: usize = 20;
/// Runs that fill caches and open connections, on both sides, and do not count.
const WARM_UP: usize = 2;
/// Clients that are applied at once.
const CROWD: usize = 200;
/// The default of `limits.maxConcurrentRequests` of a TokenProfile.
const CALLS_AT_ONCE: usize = 8;
const IDLE: Duration = Duration::from_mins(1);
/// No step takes as long, on whatever machine.
const LIMIT: Duration = Duration::from_mins(2);
/// What the operator may still write after the last client is Ready: counts in the status of profile and policy.
const SETTLE: Duration = Duration::from_secs(3);

/// Policies that one client is judged against.
const POLICIES: usize = 100;
const JUDGEMENTS: usize = 2000;
/// Clients that a policy change is about.
const JUDGED: i64 = 10_000;
const CREATED_AT_ONCE: usize = 32;
/// Clients that are registered, for what the operator needs with very many.
const MANY: usize = 10_000;
/// Until they are all Ready, on whatever machine.
const LIMIT_OF_MANY: Duration = Duration::from_mins(20);
/// Times that the admission policy is installed, and clients that are created before and after.
const ROUNDS: usize = 3;
const APPLIES: usize = 100;

const NAMESPACE: &str = "bench";
const JUDGED_NAMESPACE: &str = "bench-policies";

#[tokio::main]
async fn main() {
    let plane = ControlPlane::start_with_crds(&project_crds()).await;
    let server = AuthorizationServer::start(AuthorizationServerOptions { tls: true, ..Default::default() }).await;
    let operator = Operator::start(&plane, OperatorOptions::default()).await;
    let bench = Bench { plane, server, operator };
    bench.prepare().await;

    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    println!("{cores} cores; operator {}\n", std::env::var("DCR_OPERATOR_BINARY").unwrap_or_default());
    println!("{:<74} {:>12}   target", "figure", "measured");
    bench.one_by_one().await;
    bench.writes().await;
    bench.crowd().await;
    bench.idle().await;
    judgements();
    bench.policy_change().await;
    bench.admission().await;
    bench.many().await;
}

/// (e) One client against many policies, in this process.
fn judgements() {
    let policy = |number: usize| {
        let spec = json!({
            "allowedGrantTypes": ["authorization_code", "refresh_token"], "allowedResponseTypes": ["code"],
            "allowedScopes": ["openid", "email", format!("scope-{number}")], "maxAccessTokenTtl": "1h",
            "allowedTokenEndpointAuthMethods": ["client_secret_basic", "private_key_jwt"],
            "allowedRedirectUris": [
                {"scheme": "http", "host": "127.0.0.1", "anyPort": true},
                {"scheme": "https", "host": "*.apps.example.com", "pathPrefix": "/"},
            ],
            "namespaceSelector": {"matchLabels": {"example.com/oauth-clients": "true"}},
        });
        DcrPolicy::new(&format!("policy-{number}"), serde_json::from_value(spec).expect("a spec"))
    };
    let policies: Vec<DcrPolicy> = (0..POLICIES).map(policy).collect();
    let labels = BTreeMap::from([("example.com/oauth-clients".to_owned(), "true".to_owned())]);
    let (members, none) = (metadata().as_object().cloned().expect("an object"), serde_json::Map::new());
    let subject = Subject {
        profile: "token-service",
        namespace_labels: &labels,
        template: None,
        metadata: &members,
        additional: &none,
        older: Older::default(),
    };
    let mut times: Vec<Duration> = (0..JUDGEMENTS)
        .map(|_| {
            let begin = Instant::now();
            assert!(judge(&policies, subject).is_allowed());
            begin.elapsed()
        })
        .collect();
    times.sort();
    let median = times[times.len() / 2];
    let figure = format!("judging one client against {POLICIES} policies, median of {JUDGEMENTS}");
    row(&figure, &format!("{:.1} µs", median.as_secs_f64() * 1e6), "< 50 µs");
}

struct Bench {
    plane: ControlPlane,
    server: AuthorizationServer,
    operator: Operator,
}

impl Bench {
    /// A profile and a policy as in `deploy/samples`.
    async fn prepare(&self) {
        let metadata = |name: &str| json!({"name": name, "namespace": NAMESPACE});
        let mut registrar = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": metadata("registrar"),
            "stringData": {"client-secret": AuthorizationServer::REGISTRAR_SECRET},
        });
        registrar["metadata"]["labels"] = json!({"dcr-operator.dev/credentials": "true"});
        let objects = [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}),
            registrar,
            json!({
                "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata("idp-ca"),
                "data": {"ca.crt": self.server.ca_pem()},
            }),
            json!({
                "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "TokenProfile", "metadata": metadata("token-service"),
                "spec": {
                    "issuer": self.server.issuer(),
                    "initialAccessToken": {"clientCredentials": {
                        "clientId": AuthorizationServer::REGISTRAR, "secretRef": {"name": "registrar"},
                    }},
                    "tls": {"caBundleRef": {"name": "idp-ca"}},
                },
            }),
            json!({
                "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy", "metadata": metadata("web-clients"),
                "spec": {"allowedGrantTypes": ["authorization_code", "refresh_token"], "allowedScopes": ["openid"]},
            }),
        ];
        self.plane.apply(&objects.map(|object| object.to_string()).join("\n---\n")).await;
        let wait = ["wait", "--for=condition=Ready", "tokenprofile/token-service", "--namespace", NAMESPACE];
        self.plane.kubectl_ok(&wait, None).await;
    }

    async fn direct(&self) -> Direct {
        let http = self.server.http();
        let discovery = format!("{}/.well-known/openid-configuration", self.server.issuer());
        let metadata = body(http.get(discovery).send().await, StatusCode::OK).await;
        let endpoint = |name: &str| metadata[name].as_str().expect("an endpoint").to_owned();
        let (token, registration) = (endpoint("token_endpoint"), endpoint("registration_endpoint"));
        Direct { http, token, registration }
    }

    /// (a) One client at a time.
    async fn one_by_one(&self) {
        let server = self.direct().await;
        let (mut ready, mut direct) = (Vec::new(), Vec::new());
        for run in 0..WARM_UP + RUNS {
            let client = self.apply_one(&format!("single-{run}")).await;
            let calls = server.register().await;
            if run >= WARM_UP {
                ready.push(client);
                direct.push(calls);
            }
        }
        let (ready, direct) = (Spread::of(ready), Spread::of(direct));
        let above = ready.median.saturating_sub(direct.median);
        row(&format!("apply to Ready, one client at a time, median of {RUNS}"), &time(ready.median), "");
        row("  95th percentile", &time(ready.p95), "");
        row("the server's two calls made directly, median", &time(direct.median), "");
        row("  95th percentile", &time(direct.p95), "");
        row("what the operator and Kubernetes add, median", &time(above), "<= 300 ms");
        let ratio = ready.median.as_secs_f64() / direct.median.as_secs_f64();
        row("  as a ratio", &format!("{ratio:.1}"), "");
    }

    /// (b) What the operator writes for one client.
    async fn writes(&self) {
        let before = self.plane.audit_position();
        self.apply_one("counted").await;
        let ready = Timestamp::now();
        sleep(SETTLE).await;
        let all = operators(self.plane.audit_since(before)).writes();
        let events = all.clone().filter(|event| is_about(event, "events"));
        let until_ready = all.clone().filter(|event| received(event) <= ready);
        let after = all.filter(|event| received(event) > ready);
        let besides = |log: AuditLog| log.filter(|event| !is_about(event, "events") && !is_about(event, "leases"));
        let writes = besides(until_ready);
        row("Kubernetes writes for one client, apply to Ready", &writes.count().to_string(), "<= 4");
        list(&writes);
        row("  events beside them", &events.count().to_string(), "");
        let after = besides(after);
        row("  written after Ready", &after.count().to_string(), "");
        list(&after);
    }

    /// (d) Many clients at once.
    async fn crowd(&self) {
        let names: Vec<String> = (0..CROWD).map(|number| format!("crowd-{number}")).collect();
        let took = self.apply(&names).await;
        let registered = self.server.clients().await.len();
        let expected = CROWD + 2 * (WARM_UP + RUNS) + 1;
        assert_eq!(registered, expected, "clients on the server, those that were made directly included");

        let (server, begin) = (self.direct().await, Instant::now());
        stream::iter(0..CROWD)
            .for_each_concurrent(CALLS_AT_ONCE, async |_| {
                server.register().await;
            })
            .await;
        row(&format!("{CROWD} clients applied at once, until all are Ready"), &time(took), "");
        let figure = format!("  the server's calls for {CROWD} clients made directly, {CALLS_AT_ONCE} at a time");
        row(&figure, &time(begin.elapsed()), "");
    }

    /// (c) Nothing to do.
    async fn idle(&self) {
        sleep(SETTLE).await;
        let (audit, calls, told) = (self.plane.audit_position(), self.server.requests().await, self.calls().await);
        sleep(IDLE).await;
        let writes = operators(self.plane.audit_since(audit)).writes();
        let lease = |event: &Value| is_about(event, "leases");
        let idle = format!("in {} s of rest with all clients Ready", IDLE.as_secs());
        let others = writes.clone().filter(|event| !lease(event));
        row(&format!("Kubernetes writes {idle}"), &others.count().to_string(), "0");
        list(&others);
        row("  renewals of the Lease beside them", &writes.filter(lease).count().to_string(), "");
        // The server does not count the requests for its metadata, the operator's own metrics do.
        let calls = difference(&calls, &self.server.requests().await).max(self.calls().await - told);
        row(&format!("calls to the authorization server {idle}"), &calls.to_string(), "");
        let (now, peak) = self.memory();
        row("resident memory of the operator at the end", &now, "");
        row("  highest", &peak, "");
    }

    /// (f) A policy changes over very many clients. They have a profile that does not exist, so that none is registered.
    async fn policy_change(&self) {
        let namespace = JUDGED_NAMESPACE;
        self.plane.kubectl_ok(&["create", "namespace", namespace], None).await;
        let clients: Api<OAuthClient> = Api::namespaced(self.plane.client(), namespace);
        stream::iter(0..JUDGED)
            .for_each_concurrent(CREATED_AT_ONCE, async |number| {
                let mut client = client(&format!("client-{number}"));
                client.spec.profile_ref.name = "none".into();
                clients.create(&PostParams::default(), &client).await.expect("an OAuthClient");
            })
            .await;
        let policies: Api<DcrPolicy> = Api::namespaced(self.plane.client(), namespace);
        let spec = |scope: &str| json!({"apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy", "metadata": {"name": "web"}, "spec": {"allowedScopes": [scope]}});
        let change = async |scope: &str| {
            let patch = Patch::Apply(spec(scope));
            policies.patch("web", &PatchParams::apply("bench"), &patch).await.expect("a policy").metadata.generation
        };
        let counted = async |generation: Option<i64>, violating: i64| {
            let begin = Instant::now();
            loop {
                let policy = policies.get("web").await.expect("a policy");
                let status = policy.status.unwrap_or_default();
                let clients = status.clients.unwrap_or_default();
                if status.observed_generation == generation
                    && clients.matching == JUDGED
                    && clients.violating == violating
                {
                    return;
                }
                assert!(begin.elapsed() < LIMIT, "{status:?}");
                sleep(Duration::from_millis(20)).await;
            }
        };
        counted(change("openid").await, 0).await;
        // The operator has looked at each client once when it writes nothing any more.
        self.until_at_rest().await;
        let (position, cpu, begin) = (self.plane.audit_position(), self.cpu(), Instant::now());
        counted(change("email").await, JUDGED).await;
        let took = begin.elapsed();
        sleep(SETTLE).await;
        let used = self.cpu().saturating_sub(cpu);
        let writes = operators(self.plane.audit_since(position)).writes().filter(|event| !is_about(event, "leases"));
        row(&format!("a policy changes over {JUDGED} clients: CPU time of the operator"), &time(used), "< 1 s");
        row("  until its status has the new counts", &time(took), "");
        row("  Kubernetes writes (the policy's status)", &writes.count().to_string(), "");
        list(&writes);
    }

    /// (g) What the admission policy adds to an apply.
    async fn admission(&self) {
        let clients: Api<OAuthClient> = Api::namespaced(self.plane.client(), NAMESPACE);
        let dry = PostParams { dry_run: true, ..PostParams::default() };
        let one = async || {
            let begin = Instant::now();
            clients.create(&dry, &client("dry")).await.expect("an OAuthClient");
            begin.elapsed()
        };
        let mut forbidden = client("forbidden");
        forbidden.spec.client_metadata.get_or_insert_default().scope = Some("never".into());
        let (mut without, mut with) = (Vec::new(), Vec::new());
        let file = repository("deploy/base/admission-policy.yaml");
        let file = file.to_str().expect("a UTF-8 path");
        for round in 0..ROUNDS {
            if round > 0 {
                self.plane.kubectl_ok(&["delete", "--filename", file], None).await;
                until(async || clients.create(&dry, &forbidden).await.is_ok()).await;
            }
            for _ in 0..APPLIES {
                without.push(one().await);
            }
            self.plane.kubectl_ok(&["apply", "--server-side", "--filename", file], None).await;
            until(async || clients.create(&dry, &forbidden).await.is_err()).await;
            for _ in 0..APPLIES {
                with.push(one().await);
            }
        }
        self.binding().await;
        let (without, with) = (Spread::of(without), Spread::of(with));
        row(
            &format!("creating a client without the admission policy, median of {}", ROUNDS * APPLIES),
            &micros(without.median),
            "",
        );
        row("  with it and one policy", &micros(with.median), "");
        row("  what it adds", &micros(with.median.saturating_sub(without.median)), "<= 2 ms");
    }

    /// How soon the first policy of a namespace is bound to admission.
    async fn binding(&self) {
        let bindings: Api<ValidatingAdmissionPolicyBinding> = Api::all(self.plane.client());
        let mut times = Vec::new();
        for round in 0..RUNS {
            let namespace = format!("bench-binding-{round}");
            self.plane.kubectl_ok(&["create", "namespace", &namespace], None).await;
            let policies: Api<DcrPolicy> = Api::namespaced(self.plane.client(), &namespace);
            let policy = DcrPolicy::new("web", DcrPolicySpec::default());
            let begin = Instant::now();
            policies.create(&PostParams::default(), &policy).await.expect("a policy");
            let name = binding_name(&namespace);
            while bindings.get_opt(&name).await.expect("an answer").is_none() {
                assert!(begin.elapsed() < LIMIT, "not bound");
                sleep(Duration::from_millis(2)).await;
            }
            times.push(begin.elapsed());
        }
        let times = Spread::of(times);
        row(&format!("the first policy of a namespace, until it is bound, median of {RUNS}"), &time(times.median), "");
        row("  95th percentile", &time(times.p95), "< 1 s");
    }

    /// (h) Very many clients, all registered: what the operator needs while they come, at rest, and when it starts anew.
    async fn many(&self) {
        self.plane.kubectl_ok(&["delete", "namespace", JUDGED_NAMESPACE], None).await;
        self.operator.terminate().await;
        self.operator.restart().await;
        let before = self.ready_clients().await;
        let clients: Api<OAuthClient> = Api::namespaced(self.plane.client(), NAMESPACE);
        let begin = Instant::now();
        let create = stream::iter(0..MANY).for_each_concurrent(CREATED_AT_ONCE, async |number| {
            clients.create(&PostParams::default(), &client(&format!("many-{number}"))).await.expect("an OAuthClient");
        });
        let all_ready = async {
            while self.ready_clients().await < before + MANY as u64 {
                assert!(begin.elapsed() < LIMIT_OF_MANY, "{}", self.operator.process().tail());
                sleep(Duration::from_millis(500)).await;
            }
        };
        join(create, all_ready).await;
        row(&format!("{MANY} clients applied at once, until all are Ready"), &time(begin.elapsed()), "");
        self.until_at_rest().await;
        let (now, peak) = self.memory();
        row("  resident memory of the operator then", &now, "64 MiB");
        row("  highest", &peak, "");
        self.rest_of_many("at rest").await;

        self.operator.terminate().await;
        let (position, begin) = (self.plane.audit_position(), Instant::now());
        self.operator.restart().await;
        while self.ready_clients().await < before + MANY as u64 {
            assert!(begin.elapsed() < LIMIT, "{}", self.operator.process().tail());
            sleep(Duration::from_millis(100)).await;
        }
        self.until_at_rest().await;
        let used = self.cpu();
        let writes = operators(self.plane.audit_since(position)).writes().filter(|event| !is_about(event, "leases"));
        row(&format!("started anew with {MANY} clients: CPU time until it is at rest"), &time(used), "");
        row("  Kubernetes writes besides the Lease", &writes.count().to_string(), "0");
        list(&writes);
        let (now, peak) = self.memory();
        row("  resident memory then", &now, "64 MiB");
        row("  highest", &peak, "");
        self.rest_of_many("after that").await;
    }

    async fn rest_of_many(&self, when: &str) {
        let (audit, calls, cpu) = (self.plane.audit_position(), self.calls().await, self.cpu());
        sleep(IDLE).await;
        let writes = operators(self.plane.audit_since(audit)).writes().filter(|event| !is_about(event, "leases"));
        let used = self.cpu().saturating_sub(cpu);
        row(&format!("  CPU time in {} s {when}", IDLE.as_secs()), &time(used), "");
        row("  Kubernetes writes in it, besides the Lease", &writes.count().to_string(), "0");
        list(&writes);
        let calls = self.calls().await - calls;
        row("  calls to the authorization server in it (reads, one an hour for each client)", &calls.to_string(), "");
    }

    /// By the operator's metrics, over all profiles.
    async fn ready_clients(&self) -> u64 {
        let metrics = self.operator.metrics().await;
        let ready = metrics.lines().filter(|line| {
            line.starts_with("dcr_operator_clients{")
                && line.contains("condition=\"Ready\"")
                && line.contains("status=\"True\"")
        });
        ready.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// Waits until the operator has written nothing for a while.
    async fn until_at_rest(&self) {
        let begin = Instant::now();
        loop {
            let position = self.plane.audit_position();
            sleep(2 * SETTLE).await;
            let writes =
                operators(self.plane.audit_since(position)).writes().filter(|event| !is_about(event, "leases"));
            if writes.count() == 0 {
                return;
            }
            assert!(begin.elapsed() < 5 * LIMIT, "the operator does not come to rest");
        }
    }

    /// User and system time of the operator, as Linux counts it: in hundredths of a second.
    fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.operator.process().id())).expect("a process");
        let fields: Vec<&str> = stat.rsplit_once(')').expect("a name").1.split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10)
    }

    async fn apply_one(&self, name: &str) -> Duration {
        self.apply(&[name.to_owned()]).await
    }

    /// Creates the clients at once and waits until a watch has shown each of them Ready.
    async fn apply(&self, names: &[String]) -> Duration {
        let api: Api<OAuthClient> = Api::namespaced(self.plane.client(), NAMESPACE);
        // Of what is there already, it tells first. It is opened before the clock starts.
        let events = api.watch(&WatchParams::default(), "0").await.expect("a watch");
        let begin = Instant::now();
        let create = stream::iter(names).for_each_concurrent(None, async |name| {
            api.create(&PostParams::default(), &client(name)).await.expect("an OAuthClient");
        });
        let all_ready = async {
            let mut missing: BTreeSet<&str> = names.iter().map(String::as_str).collect();
            let mut events = std::pin::pin!(events);
            while let Some(event) = events.try_next().await.expect("the next event of the watch") {
                if let WatchEvent::Added(client) | WatchEvent::Modified(client) = event
                    && is_ready(&client)
                {
                    missing.remove(client.metadata.name.as_deref().unwrap_or_default());
                }
                if missing.is_empty() {
                    return begin.elapsed();
                }
            }
            panic!("the watch has ended before these were Ready: {missing:?}");
        };
        let done = timeout(LIMIT, join(create, all_ready)).await;
        done.unwrap_or_else(|_| panic!("not Ready after {LIMIT:?}\n{}", self.operator.process().tail())).1
    }

    /// How many calls to authorization servers the operator's metrics tell of.
    async fn calls(&self) -> u64 {
        let metrics = self.operator.metrics().await;
        let counters = metrics.lines().filter(|line| line.starts_with("dcr_operator_server_requests_total"));
        counters.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    /// `VmRSS` and `VmHWM`, as Linux tells them.
    fn memory(&self) -> (String, String) {
        let path = format!("/proc/{}/status", self.operator.process().id());
        let status = fs::read_to_string(path).unwrap_or_default();
        let field = |name: &str| {
            let value =
                status.lines().find_map(|line| line.strip_prefix(name)?.strip_suffix("kB")?.trim().parse().ok());
            value.map_or_else(|| "unknown".into(), |kilobytes: u64| format!("{} MiB", kilobytes.div_ceil(1024)))
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

/// Waits until it is so.
async fn until(is: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !is().await {
        assert!(begin.elapsed() < LIMIT, "waited in vain");
        sleep(Duration::from_millis(20)).await;
    }
}

fn micros(duration: Duration) -> String {
    format!("{:.2} ms", duration.as_secs_f64() * 1e3)
}

/// The document that all clients here are registered with, by the operator and directly.
fn metadata() -> Value {
    json!({
        "client_name": "Bench",
        "redirect_uris": ["https://bench.apps.example.com/callback"],
        "grant_types": ["authorization_code", "refresh_token"],
        "scope": "openid",
    })
}

fn client(name: &str) -> OAuthClient {
    let spec = json!({"profileRef": {"name": "token-service"}, "clientMetadata": metadata()});
    OAuthClient::new(name, serde_json::from_value(spec).expect("a spec"))
}

fn is_ready(client: &OAuthClient) -> bool {
    let conditions = client.status.iter().flat_map(|status| &status.conditions);
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// The authorization server without an operator.
struct Direct {
    http: reqwest::Client,
    token: String,
    registration: String,
}

impl Direct {
    /// The two calls that a registration takes: for a token, and for the client.
    async fn register(&self) -> Duration {
        let begin = Instant::now();
        let request = self
            .http
            .post(&self.token)
            .basic_auth(AuthorizationServer::REGISTRAR, Some(AuthorizationServer::REGISTRAR_SECRET))
            .form(&[("grant_type", "client_credentials"), ("scope", "dcr")]);
        let answer = body(request.send().await, StatusCode::OK).await;
        let token = answer["access_token"].as_str().expect("a token");
        let request = self.http.post(&self.registration).bearer_auth(token).header("content-type", "application/json");
        body(request.body(metadata().to_string()).send().await, StatusCode::CREATED).await;
        begin.elapsed()
    }
}

async fn body(response: reqwest::Result<reqwest::Response>, expected: StatusCode) -> Value {
    let response = response.expect("an answer");
    let status = response.status();
    let bytes = response.bytes().await.expect("a body");
    assert_eq!(status, expected, "{}", String::from_utf8_lossy(&bytes));
    serde_json::from_slice(&bytes).expect("JSON")
}

fn is_about(event: &Value, resource: &str) -> bool {
    event["objectRef"]["resource"] == resource
}

/// The operator's own requests.
fn operators(log: AuditLog) -> AuditLog {
    log.service_account(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT)
}

fn received(event: &Value) -> Timestamp {
    event["requestReceivedTimestamp"].as_str().expect("a time").parse().expect("a time")
}

/// How much the counters have grown together.
fn difference(before: &Value, after: &Value) -> u64 {
    let sum =
        |counters: &Value| counters.as_object().expect("counters").values().filter_map(Value::as_u64).sum::<u64>();
    sum(after) - sum(before)
}

struct Spread {
    median: Duration,
    p95: Duration,
}

impl Spread {
    fn of(mut runs: Vec<Duration>) -> Self {
        runs.sort();
        let middle = runs.len() / 2;
        Self { median: (runs[middle - 1] + runs[middle]) / 2, p95: runs[(runs.len() * 95).div_ceil(100) - 1] }
    }
}

fn row(figure: &str, measured: &str, target: &str) {
    println!("{}", format!("{figure:<74} {measured:>12}   {target}").trim_end());
}

/// Requests by verb and resource.
fn list(log: &AuditLog) {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for event in &log.0 {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let object = &event["objectRef"];
        let subresource = object["subresource"].as_str().map(|name| format!("/{name}")).unwrap_or_default();
        *kinds.entry(format!("{} {}{subresource}", text(&event["verb"]), text(&object["resource"]))).or_default() += 1;
    }
    for (kind, count) in kinds {
        row(&format!("    {kind}"), &count.to_string(), "");
    }
}

fn time(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds < 1.0 { format!("{:.0} ms", seconds * 1000.0) } else { format!("{seconds:.1} s") }
}

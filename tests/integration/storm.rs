//! Everything at once: clients come, change and go while the operator, the API server and the authorization servers fail
//! in every way that the tests know; then the faults stop, everything must be Ready within a minute and silent after it,
//! and what the servers have is counted against what the cluster has.
//!
//! `STORM_DURATION` (such as `30m`) makes it longer, `STORM_SEED` repeats the choices of a run.

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    fixtures::*,
    support::{
        control_plane::{ControlPlane, ControlPlaneOptions, project_crds},
        fault_proxy::{Fault, FaultProxy, Rule},
        fault_server::{Answer, FaultServer, Registrar},
        ledger,
        operator::{Operator, OperatorOptions, install_rbac},
        process::wait_until,
    },
};

const USUAL_DURATION: Duration = Duration::from_secs(75);
/// How long the operator may take to be done once the faults have stopped.
const LONGEST_RECOVERY: Duration = Duration::from_mins(1);
/// So long nobody may write or call anything after that.
const SILENCE: Duration = Duration::from_secs(6);
const MOST_CLIENTS: usize = 16;

type Counts = BTreeMap<String, usize>;

fn note(counts: &mut Counts, what: impl Into<String>) {
    *counts.entry(what.into()).or_default() += 1;
}

/// What a fault has to be followed by.
#[derive(Clone, Copy)]
enum Undo {
    Continue(usize),
    ServerUp(usize),
    ApiUp,
    EtcdContinue,
    ClearRules,
}

struct Storm {
    home: Home,
    proxy: FaultProxy,
    servers: Vec<(&'static str, FaultServer)>,
    /// One that works alone and comes back at once, and two that share a lease. Only one crew is at work at a time.
    replicas: Vec<Operator>,
    crew: Cell<Crew>,
    /// The bad answers that were asked for, for those who look into a failure.
    answers: RefCell<Vec<String>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crew {
    Alone,
    Pair,
}

impl Crew {
    /// Of the replicas.
    fn members(self) -> Range<usize> {
        match self {
            Self::Alone => 0..1,
            Self::Pair => 1..3,
        }
    }

    fn next(self) -> (Self, Duration) {
        match self {
            Self::Alone => (Self::Pair, Duration::from_secs(25)),
            Self::Pair => (Self::Alone, Duration::from_secs(20)),
        }
    }
}

impl Storm {
    async fn start() -> Self {
        let options = ControlPlaneOptions {
            crds: project_crds(),
            // The counting goes by events, and a long storm outlives the usual hour.
            api_server_flags: vec!["--event-ttl=24h".into()],
        };
        let plane: &'static ControlPlane = Box::leak(Box::new(ControlPlane::start(options).await));
        install_rbac(plane).await;
        let home = Home::on(plane, "storm").await;
        let account = plane.service_account_kubeconfig(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT).await;
        let proxy = FaultProxy::start(&account);
        let mut servers = Vec::new();
        home.apply(&registrar_secret("server-secret")).await;
        for (name, registrar, behaviour) in [
            ("plain", Registrar::default(), json!({})),
            ("strict", Registrar::strict(), json!({"readRotatesCredentials": true})),
            ("rotating", Registrar::rotating_on_read(), json!({"readRotatesCredentials": true})),
            ("unmanaged", Registrar::without_management(), json!({})),
        ] {
            let server = FaultServer::start_registrar(registrar).await;
            let mut profile = profile_with_endpoints(&server);
            profile["metadata"]["name"] = json!(name);
            profile["spec"]["server"] = behaviour;
            profile["spec"]["limits"] = json!({"requestTimeout": "2s"});
            home.apply(&profile).await;
            servers.push((name, server));
        }
        let mut replicas = Vec::new();
        for election in ["--leader-elect=false", "--leader-elect=true", "--leader-elect=true"] {
            let args = ["--allow-insecure-http=true", election].map(str::to_owned).to_vec();
            let options = OperatorOptions { args, watch: vec![home.name.clone()], ..OperatorOptions::default() };
            let replica = Operator::start_with_kubeconfig(proxy.kubeconfig(&account), options).await;
            replica.kill();
            replicas.push(replica);
        }
        replicas[0].restart().await;
        Self { home, proxy, servers, replicas, crew: Cell::new(Crew::Alone), answers: RefCell::default() }
    }

    fn servers(&self) -> Vec<(&str, &FaultServer)> {
        self.servers.iter().map(|(name, server)| (*name, server)).collect()
    }

    /// Asks the API server until it answers: people try again, too.
    async fn insist(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Option<Value> {
        let what = format!("{method} {path}");
        wait_until(&what, Duration::from_mins(2), async || {
            match self.home.request(method, path, content_type, body).await {
                Ok(object) => Ok(Some(object)),
                Err(kube::Error::Api(status)) if status.is_not_found() => Ok(None),
                Err(error) => Err(error.to_string()),
            }
        })
        .await
    }

    async fn clients(&self) -> Vec<Value> {
        let list = self.insist("GET", &self.home.path(CLIENTS, ""), "application/json", &Value::Null).await;
        list.expect("a list")["items"].as_array().cloned().unwrap_or_default()
    }

    // --- people

    async fn people(&self, until: Instant, mut rng: Rng) -> Counts {
        let (mut counts, mut alive, mut made) = (Counts::new(), Vec::<String>::new(), 0_usize);
        while Instant::now() < until {
            let merge = async |name: &str, body: Value| {
                self.insist("PATCH", &self.home.path(CLIENTS, name), "application/merge-patch+json", &body).await;
            };
            let one = (!alive.is_empty()).then(|| rng.usize(..alive.len()));
            match (rng.u8(..100), one) {
                (0..30, _) | (_, None) if alive.len() < MOST_CLIENTS => {
                    made += 1;
                    let name = format!("c-{made}");
                    let path = format!("{}?fieldManager=people&force=true", self.home.path(CLIENTS, &name));
                    let client = self.new_client(&name, &mut rng);
                    self.insist("PATCH", &path, "application/apply-patch+yaml", &client).await;
                    alive.push(name);
                    note(&mut counts, "clients created");
                }
                (0..55, Some(one)) => {
                    let scope = ["openid", "email", "openid email", "profile"][rng.usize(..4)];
                    merge(&alive[one], json!({"spec": {"clientMetadata": {"scope": scope}}})).await;
                    note(&mut counts, "clients changed");
                }
                (0..75, Some(one)) => {
                    let asked = rng.u32(..).to_string();
                    let annotation = json!({"dcr-operator.dev/rotate-requested-at": asked});
                    merge(&alive[one], json!({"metadata": {"annotations": annotation}})).await;
                    note(&mut counts, "rotations asked for");
                }
                (0..80, Some(one)) => {
                    let path = self.home.path(SECRETS, &alive[one]);
                    self.insist("DELETE", &path, "application/json", &json!({})).await;
                    note(&mut counts, "Secrets removed");
                }
                (_, Some(one)) => {
                    let name = alive.swap_remove(one);
                    self.insist("DELETE", &self.home.path(CLIENTS, &name), "application/json", &json!({})).await;
                    note(&mut counts, "clients deleted");
                }
                (_, None) => {}
            }
            sleep(Duration::from_millis(rng.u64(50..300))).await;
        }
        counts
    }

    fn new_client(&self, name: &str, rng: &mut Rng) -> Value {
        let mut client = self.home.oauth_client(name);
        client["spec"]["profileRef"]["name"] = json!(self.servers[rng.usize(..self.servers.len())].0);
        let when: Vec<&str> =
            ["UpdateUnsupported", "RegistrationLost", "Rotation"].into_iter().filter(|_| rng.bool()).collect();
        let overlap = ["0s", "5s", "1h"][rng.usize(..3)];
        client["spec"]["replacement"] = json!({"when": when, "overlap": overlap});
        client
    }

    // --- faults

    async fn faults(&self, until: Instant, mut rng: Rng) -> Counts {
        let mut counts = Counts::new();
        let mut undo: Vec<(Instant, Undo)> = Vec::new();
        let mut next = Instant::now();
        let mut change = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            let now = Instant::now();
            let (due, rest): (Vec<_>, Vec<_>) = undo.into_iter().partition(|(at, _)| *at <= now);
            undo = rest;
            for (_, undo) in due {
                self.undo(undo);
            }
            if change <= now {
                let (crew, time) = self.crew.get().next();
                for replica in &self.replicas {
                    replica.kill();
                }
                self.crew.set(crew);
                change = now + time;
                note(&mut counts, format!("crew changed to {crew:?}"));
                for replica in self.crew() {
                    replica.process().respawn();
                }
            }
            for replica in self.crew() {
                // As the kubelet does.
                if let Some(status) = replica.process().exited() {
                    note(&mut counts, format!("operator ended: {status}"));
                    replica.process().respawn();
                }
            }
            if next <= now {
                undo.extend(
                    self.fault(&mut rng, &mut counts).await.map(|(after, undo)| (Instant::now() + after, undo)),
                );
                next = Instant::now() + Duration::from_millis(rng.u64(200..1200));
            }
            sleep(Duration::from_millis(50)).await;
        }
        for (_, left) in undo {
            self.undo(left);
        }
        counts
    }

    fn crew(&self) -> &[Operator] {
        &self.replicas[self.crew.get().members()]
    }

    fn undo(&self, undo: Undo) {
        match undo {
            Undo::Continue(replica) => self.replicas[replica].process().cont(),
            Undo::ServerUp(server) => self.servers[server].1.set_down(false),
            Undo::ApiUp => self.proxy.set_down(false),
            Undo::EtcdContinue => self.home.plane.etcd().cont(),
            Undo::ClearRules => self.proxy.clear(),
        }
    }

    async fn fault(&self, rng: &mut Rng, counts: &mut Counts) -> Option<(Duration, Undo)> {
        let replica = rng.usize(self.crew.get().members());
        let process = self.replicas[replica].process();
        let seconds = |rng: &mut Rng, most: u64| Duration::from_millis(rng.u64(500..most * 1000));
        match rng.u8(..100) {
            // The other one of a pair has to wait for the lease.
            8..22 if self.crew.get() == Crew::Pair => {}
            0..22 => {
                note(counts, "operator killed (SIGKILL)");
                process.kill();
            }
            22..30 => {
                note(counts, "operator asked to stop (SIGTERM)");
                drop(process.terminate(WAIT));
            }
            30..38 => {
                note(counts, "operator paused (SIGSTOP)");
                process.stop();
                return Some((seconds(rng, 18), Undo::Continue(replica)));
            }
            38..58 => {
                let fault = match rng.u8(..9) {
                    0 => Fault::Refuse(409),
                    1 => Fault::Refuse(500),
                    2 => Fault::Refuse(503),
                    3 => Fault::Throttle(1),
                    4 => Fault::Cut,
                    5 | 6 => Fault::LoseAnswer,
                    7 => Fault::NeverAnswer,
                    _ => Fault::Delay(Duration::from_millis(rng.u64(100..1500))),
                };
                let rule = Rule::new(fault).percent(rng.u8(20..90)).times(rng.usize(1..8));
                self.proxy.add(if rng.u8(..4) > 0 { rule.writes() } else { rule });
                return Some((seconds(rng, 6), Undo::ClearRules));
            }
            58..62 => drop(self.proxy.cut_watches()),
            62..65 => drop(self.proxy.expire_watches()),
            65..68 => {
                self.proxy.set_down(true);
                return Some((seconds(rng, 4), Undo::ApiUp));
            }
            68 => {
                note(counts, "API server killed and started");
                self.home.plane.api_server().kill();
                self.home.plane.restart_api_server().await;
            }
            69..71 => {
                note(counts, "etcd paused");
                self.home.plane.etcd().stop();
                return Some((seconds(rng, 3), Undo::EtcdContinue));
            }
            71..75 => {
                let server = rng.usize(..self.servers.len());
                note(counts, "authorization server down");
                self.servers[server].1.set_down(true);
                return Some((seconds(rng, 5), Undo::ServerUp(server)));
            }
            _ => self.misbehave(rng, counts),
        }
        None
    }

    /// An authorization server gives one bad answer.
    fn misbehave(&self, rng: &mut Rng, counts: &mut Counts) {
        let (_, server) = &self.servers[rng.usize(..self.servers.len())];
        let living: Vec<String> = server.registrar(|registrar| {
            registrar.clients.iter().filter(|(_, client)| !client.is_deleted).map(|(id, _)| id.clone()).collect()
        });
        let (method, path) = match rng.u8(..6) {
            0 => ("POST", "/token".to_owned()),
            1 | 2 => ("POST", "/reg".to_owned()),
            other if !living.is_empty() => {
                let method = ["PUT", "GET", "DELETE"][usize::from(other - 3)];
                (method, format!("/reg/{}", living[rng.usize(..living.len())]))
            }
            _ => return,
        };
        let html = || Answer::new(200, "text/html", "<html>welcome</html>");
        let (name, answer) = match rng.u8(..12) {
            0 => ("connection reset before", Answer::reset()),
            1 | 2 => ("connection reset after", Answer::reset().carried_out()),
            3 => ("no answer", Answer::never()),
            4 => ("no answer after", Answer::never().carried_out()),
            5 => ("nonsense", html()),
            6 => ("nonsense after", html().carried_out()),
            7 => ("truncated after", Answer::json(201, &json!({"client_id": "x"})).truncated().carried_out()),
            8 => ("endless", html().endless()),
            9 => ("500 after", Answer::empty(500).carried_out()),
            10 => ("429", Answer::empty(429).header("retry-after", "1")),
            _ => ("302", Answer::redirect(302, "/elsewhere")),
        };
        note(counts, format!("authorization server: {name}"));
        self.answers.borrow_mut().push(format!("{} {name}: {method} {path}", jiff::Timestamp::now()));
        server.answer_once(method, &path, answer);
    }

    // --- what must hold meanwhile

    /// Where secrets do not change by themselves, each one works at every moment.
    async fn watch_secrets(&self, until: Instant) -> Counts {
        let mut counts = Counts::new();
        let (_, server) = self.servers.iter().find(|(name, _)| *name == "plain").expect("a plain server");
        while Instant::now() < until {
            for client in self.clients().await {
                let is_plain = client["spec"]["profileRef"]["name"] == "plain";
                let is_ready =
                    verdict(&client, "Ready").starts_with("True") && client["status"]["clientId"].is_string();
                let name = client["metadata"]["name"].as_str().expect("a name");
                if !is_plain || !is_ready || self.works(server, name).await {
                    continue;
                }
                // It may just have been replaced, or deleted: then it works now, or is not Ready any more.
                let what = format!("the Secret of {name} works: {}", client["status"]);
                wait_until(&what, WAIT, async || {
                    let path = self.home.path(CLIENTS, name);
                    let client = self.insist("GET", &path, "application/json", &Value::Null).await;
                    let goes = |client: &Value| client["metadata"]["deletionTimestamp"].is_string();
                    let is_over =
                        client.is_none_or(|client| goes(&client) || !verdict(&client, "Ready").starts_with("True"));
                    is_over || self.works(server, name).await
                })
                .await;
            }
            note(&mut counts, "looks at all Secrets");
            sleep(Duration::from_millis(500)).await;
        }
        counts
    }

    /// Whether the Secret's credentials are good; a Secret that somebody has removed is no bad one.
    async fn works(&self, server: &FaultServer, name: &str) -> bool {
        let path = self.home.path(SECRETS, name);
        let secret = self.insist("GET", &path, "application/json", &Value::Null).await;
        let Some(secret) = secret else { return true };
        let secret: k8s_openapi::api::core::v1::Secret = serde_json::from_value(secret).expect("a Secret");
        let data = secret.data.unwrap_or_default();
        let text = |key: &str| String::from_utf8(data[key].0.clone()).expect("UTF-8");
        server.registrar(|registrar| registrar.accepts(&text("client-id"), &text("client-secret")))
    }

    // --- afterwards

    async fn calm(&self) {
        self.proxy.clear();
        for (_, server) in &self.servers {
            server.set_down(false);
            server.clear_answers();
        }
        for replica in self.crew() {
            replica.process().cont();
            if replica.process().exited().is_some() {
                replica.process().respawn();
            }
        }
        self.home.plane.etcd().cont();
        self.home.plane.restart_api_server().await;
        // What hangs in the proxy ends.
        self.proxy.set_down(true);
        self.proxy.set_down(false);
    }

    /// The clients that are not as they should be.
    async fn unsettled(&self) -> Vec<String> {
        let clients = self.clients().await;
        let unsettled = clients.iter().filter(|client| {
            let is_current = client["status"]["observedGeneration"] == client["metadata"]["generation"];
            let is_lost = verdict(client, "Registered") == "False RegistrationLost";
            let is_ready = verdict(client, "Ready") == "True Ready";
            let is_quiet = condition(client, "Reconciling").is_null();
            let goes = client["metadata"]["deletionTimestamp"].is_string();
            goes || !is_current || !is_quiet || !(is_ready || is_lost)
        });
        unsettled.map(|client| format!("{}: {}", client["metadata"]["name"], client["status"])).collect()
    }

    /// What is known of the clients that are lost or unreported.
    fn tell_of(&self, tally: &ledger::Tally) {
        for line in self.answers.borrow().iter() {
            println!("asked for: {line}");
        }
        let clients = tally.lost.iter().chain(&tally.unreported).map(|line| {
            let name = line.split(['"', ' ', ':']).find(|word| word.starts_with("c-")).unwrap_or(line);
            format!("{}/{name}\"", self.home.name)
        });
        for client in clients {
            for (number, replica) in self.replicas.iter().enumerate() {
                for line in replica.log().lines().filter(|line| line.contains(&client)) {
                    println!("replica {number}: {line}");
                }
            }
        }
    }

    /// All calls to the servers, and all writes to the API server but the lease's.
    fn noise(&self) -> usize {
        let calls: usize = self.servers.iter().map(|(_, server)| server.request_count()).sum();
        let account = self.home.plane.audit().service_account(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT);
        let writes = account.writes().filter(|event| event["objectRef"]["resource"] != "leases");
        calls + writes.count()
    }
}

fn duration() -> Duration {
    let Ok(text) = std::env::var("STORM_DURATION") else { return USUAL_DURATION };
    let (number, unit) = text.split_at(text.len().saturating_sub(1));
    let number: u64 =
        number.parse().unwrap_or_else(|_| panic!("STORM_DURATION must be such as 90s or 30m, not {text:?}"));
    match unit {
        "s" => Duration::from_secs(number),
        "m" => Duration::from_mins(number),
        "h" => Duration::from_hours(number),
        _ => panic!("STORM_DURATION must be such as 90s or 30m, not {text:?}"),
    }
}

#[tokio::test]
async fn in_a_storm_nothing_is_lost_and_nothing_is_left_unreported() {
    let seed = std::env::var("STORM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(|| fastrand::u64(..));
    let duration = duration();
    println!("storm of {duration:?}, STORM_SEED={seed}");
    let storm = Storm::start().await;
    let until = Instant::now() + duration;
    let mut rng = Rng::with_seed(seed);
    let (people, faults) = (rng.fork(), rng.fork());
    let (people, faults, looks) =
        tokio::join!(storm.people(until, people), storm.faults(until, faults), storm.watch_secrets(until));

    storm.calm().await;
    let calm = Instant::now();
    wait_until(&format!("all is well again (STORM_SEED={seed})"), LONGEST_RECOVERY, async || {
        let unsettled = storm.unsettled().await;
        if unsettled.is_empty() { Ok(()) } else { Err(unsettled.join("\n")) }
    })
    .await;
    let recovered = calm.elapsed();
    // Former clients whose overlap is over, and counts in the profiles' statuses, may take some seconds more.
    wait_until("the operator is silent", LONGEST_RECOVERY, async || {
        let before = storm.noise();
        sleep(SILENCE).await;
        let more = storm.noise() - before;
        if more == 0 { Ok(()) } else { Err(format!("{more} writes and calls in {SILENCE:?}")) }
    })
    .await;

    let tally = ledger::count(&storm.home.client, &storm.home.name, &storm.servers()).await;
    let mut rows: Vec<(String, String)> = Vec::new();
    let injected = storm.proxy.injected();
    for counts in [&people, &faults, &injected, &looks] {
        rows.extend(counts.iter().map(|(name, count)| (name.clone(), count.to_string())));
    }
    rows.push(("seconds to recover".into(), recovered.as_secs().to_string()));
    rows.extend(tally.rows());
    ledger::show(&format!("A storm of {duration:?}, STORM_SEED={seed}"), &rows);
    for replica in &storm.replicas {
        assert!(!replica.log().contains("panicked at"), "{}", replica.process().tail());
    }
    let misuses: BTreeSet<String> = storm.servers.iter().flat_map(|(_, server)| server.take_misuses()).collect();
    assert!(misuses.is_empty(), "STORM_SEED={seed}: {misuses:#?}");
    if !(tally.lost.is_empty() && tally.unreported.is_empty()) {
        storm.tell_of(&tally);
    }
    tally.assert_complete(&format!("STORM_SEED={seed}"));
}

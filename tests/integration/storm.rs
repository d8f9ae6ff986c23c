//! Everything at once: clients come, change and go, alone and in crowds, while the operator, its clock, the API server and
//! the authorization servers fail in every way that the tests know; then the faults stop, everything must be Ready within a minute and silent after it,
//! and what the servers have is counted against what the cluster has.
//!
//! `STORM_DURATION` (such as `30m`) makes it longer, `STORM_SEED` repeats the choices of a run.

mod faults;
mod people;

use std::{
    cell::{Cell, RefCell},
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use self::faults::{Crew, LARGEST_JUMP};
use crate::{
    fixtures::*,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        certificates::certificates,
        clock::Clock,
        control_plane::{AuditPosition, ControlPlane, ControlPlaneOptions, project_crds},
        fault_proxy::FaultProxy,
        fault_server::{FaultServer, Registrar},
        ledger::{self, Ledger, Server},
        operator::{Operator, OperatorOptions, install_rbac},
        process::wait_until,
    },
};

const USUAL_DURATION: Duration = Duration::from_mins(2);
/// How long the operator may take to be done once the faults have stopped.
const LONGEST_RECOVERY: Duration = Duration::from_mins(1);
/// So long nobody may write or call anything after that.
const SILENCE: Duration = Duration::from_secs(6);
/// Its certificate changes, and its secrets never do by themselves.
const PLAIN: &str = "plain";
/// The profile of the server that we did not write. Its secrets never change by themselves either.
const PROVIDER: &str = "provider";

type Counts = BTreeMap<String, usize>;

fn note(counts: &mut Counts, what: impl Into<String>) {
    *counts.entry(what.into()).or_default() += 1;
}

struct Storm {
    home: Home,
    proxy: FaultProxy,
    servers: Vec<(&'static str, FaultServer)>,
    provider: AuthorizationServer,
    /// One that works alone and comes back at once, and two that share a lease. Only one crew is at work at a time.
    replicas: Vec<Operator>,
    /// Of each replica.
    clocks: Vec<Clock>,
    crew: Cell<Crew>,
    /// Whose certificate the plain server shows.
    authority: RefCell<String>,
    /// The bad answers that were asked for, for those who look into a failure.
    answers: RefCell<Vec<String>>,
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
        home.apply(&registrar_secret("server-secret")).await;
        let certificates = certificates();
        home.apply(&authority(&certificates.ca)).await;
        let plain = FaultServer::start_registrar_tls(Registrar::default(), certificates.server_config()).await;
        let servers = vec![
            (PLAIN, plain),
            ("strict", FaultServer::start_registrar(Registrar::strict()).await),
            ("rotating", FaultServer::start_registrar(Registrar::rotating_on_read()).await),
            ("unmanaged", FaultServer::start_registrar(Registrar::without_management()).await),
        ];
        let options = AuthorizationServerOptions { persistent: true, ..AuthorizationServerOptions::default() };
        let provider = AuthorizationServer::start(options).await;
        let profiles = servers.iter().map(|(name, server)| (*name, profile_with_endpoints(server)));
        for (name, mut profile) in profiles.chain([(PROVIDER, profile(provider.issuer()))]) {
            profile["metadata"]["name"] = json!(name);
            let rotates = ["strict", "rotating"].contains(&name);
            profile["spec"]["server"] = if rotates { json!({"readRotatesCredentials": true}) } else { json!({}) };
            profile["spec"]["limits"] = json!({"requestTimeout": "2s"});
            profile["spec"]["allowedNamespaces"] = json!({"from": "All"});
            if name == PLAIN {
                profile["spec"]["tls"] = json!({"caBundleRef": {"name": "authority"}});
            }
            home.apply(&profile).await;
        }
        let (mut replicas, mut clocks) = (Vec::new(), Vec::new());
        for election in ["--leader-elect=false", "--leader-elect=true", "--leader-elect=true"] {
            let clock = Clock::new();
            let args = ["--allow-insecure-http=true", election].map(str::to_owned).to_vec();
            let options = OperatorOptions { args, env: clock.env(), ..OperatorOptions::default() };
            let replica = Operator::start_with_kubeconfig(proxy.kubeconfig(&account), options).await;
            replica.kill();
            replicas.push(replica);
            clocks.push(clock);
        }
        replicas[0].restart().await;
        let (crew, authority) = (Cell::new(Crew::Alone), RefCell::new(certificates.ca));
        Self { home, proxy, servers, provider, replicas, clocks, crew, authority, answers: RefCell::default() }
    }

    fn servers(&self) -> Vec<(&str, Server<'_>)> {
        let servers = self.servers.iter().map(|(name, server)| (*name, Server::Fault(server)));
        servers.chain([(PROVIDER, Server::Real(&self.provider))]).collect()
    }

    /// Asks the API server until it answers: people lose patience, and try again.
    async fn insist(&self, method: &str, path: &str, content_type: &str, body: &Value) -> Option<Value> {
        let what = format!("{method} {path}");
        wait_until(&what, Duration::from_mins(2), async || {
            let request = self.home.request(method, path, content_type, body);
            match timeout(Duration::from_secs(10), request).await {
                Ok(Ok(object)) => Ok(Some(object)),
                Ok(Err(kube::Error::Api(status))) if status.is_not_found() => Ok(None),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("no answer".to_owned()),
            }
        })
        .await
    }

    async fn clients(&self) -> Vec<Value> {
        let list = self.insist("GET", &self.home.path(CLIENTS, ""), "application/json", &Value::Null).await;
        list.expect("a list")["items"].as_array().cloned().unwrap_or_default()
    }

    // --- what must hold meanwhile

    /// Where secrets do not change by themselves, each one works at every moment.
    async fn watch_secrets(&self, until: Instant) -> Counts {
        let mut counts = Counts::new();
        let servers: Vec<_> = self.servers().into_iter().filter(|(name, _)| [PLAIN, PROVIDER].contains(name)).collect();
        while Instant::now() < until {
            for client in self.clients().await {
                let profile = &client["spec"]["profileRef"]["name"];
                let Some((profile, server)) = servers.iter().find(|(name, _)| profile == name) else { continue };
                let is_ready =
                    verdict(&client, "Ready").starts_with("True") && client["status"]["clientId"].is_string();
                let name = client["metadata"]["name"].as_str().expect("a name");
                if !is_ready {
                    continue;
                }
                note(&mut counts, format!("Secrets of the server {profile} tried"));
                if self.works(*server, name).await {
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
                    is_over || self.works(*server, name).await
                })
                .await;
            }
            sleep(Duration::from_millis(500)).await;
        }
        counts
    }

    /// Whether the Secret's credentials are good; a Secret that somebody has removed is no bad one, and who is away says
    /// nothing.
    async fn works(&self, server: Server<'_>, name: &str) -> bool {
        let path = self.home.path(SECRETS, name);
        let secret = self.insist("GET", &path, "application/json", &Value::Null).await;
        let Some(secret) = secret else { return true };
        let secret: k8s_openapi::api::core::v1::Secret = serde_json::from_value(secret).expect("a Secret");
        let data = secret.data.unwrap_or_default();
        let text = |key: &str| String::from_utf8(data[key].0.clone()).expect("UTF-8");
        server.accepts(&text("client-id"), &text("client-secret")).await != Some(false)
    }

    // --- afterwards

    async fn calm(&self) {
        self.proxy.clear();
        for (_, server) in &self.servers {
            server.set_down(false);
            server.clear_answers();
        }
        self.clocks.iter().for_each(|clock| clock.set_ahead(0));
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

    /// The clients that are not as they should be, and the crowds that are not gone.
    async fn unsettled(&self) -> Vec<String> {
        let crowds = self.insist("GET", Self::CROWDS, "application/json", &Value::Null).await.expect("a list");
        let crowds = crowds["items"].as_array().into_iter().flatten();
        let crowds = crowds.map(|crowd| format!("{}: {}", crowd["metadata"]["name"], crowd["status"]));
        let clients = self.clients().await;
        let unsettled = clients.iter().filter(|client| {
            let is_current = client["status"]["observedGeneration"] == client["metadata"]["generation"];
            let is_lost = verdict(client, "Registered") == "False RegistrationLost";
            let is_ready = verdict(client, "Ready") == "True Ready";
            let is_quiet = condition(client, "Reconciling").is_null();
            let goes = client["metadata"]["deletionTimestamp"].is_string();
            goes || !is_current || !is_quiet || !(is_ready || is_lost)
        });
        let unsettled = unsettled.map(|client| format!("{}: {}", client["metadata"]["name"], client["status"]));
        unsettled.chain(crowds).collect()
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
    async fn noise(&self, since: AuditPosition) -> u64 {
        let calls: usize = self.servers.iter().map(|(_, server)| server.request_count()).sum();
        let provider = self.provider.requests().await;
        let of_provider: u64 = provider.as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        let audit = self.home.plane.audit_since(since);
        let account = audit.service_account(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT);
        let writes = account.writes().filter(|event| event["objectRef"]["resource"] != "leases");
        (calls + writes.count()) as u64 + of_provider
    }
}

/// What the profile of the plain server trusts.
fn authority(pem: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "authority"}, "data": {"ca.crt": pem}})
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
    let (people, crowds, faults) = (rng.fork(), rng.fork(), rng.fork());
    let (people, crowds, faults, looks) = tokio::join!(
        storm.people(until, people),
        storm.crowds(until, duration, crowds),
        storm.faults(until, faults),
        storm.watch_secrets(until)
    );

    storm.calm().await;
    let since = storm.home.plane.audit_position();
    let calm = Instant::now();
    wait_until(&format!("all is well again (STORM_SEED={seed})"), LONGEST_RECOVERY, async || {
        let unsettled = storm.unsettled().await;
        if unsettled.is_empty() { Ok(()) } else { Err(unsettled.join("\n")) }
    })
    .await;
    let recovered = calm.elapsed();
    // Former clients whose overlap is over, and counts in the profiles' statuses, may take some seconds more.
    wait_until("the operator is silent", LONGEST_RECOVERY, async || {
        let before = storm.noise(since).await;
        sleep(SILENCE).await;
        let more = storm.noise(since).await - before;
        if more == 0 { Ok(()) } else { Err(format!("{more} writes and calls in {SILENCE:?}")) }
    })
    .await;

    let logs: Vec<String> = storm.replicas.iter().map(Operator::log).collect();
    let (client, namespace, servers, log) =
        (&storm.home.client, &*storm.home.name, &*storm.servers(), &*logs.join("\n"));
    let tally = Ledger { client, namespace, servers, log, clock_error: LARGEST_JUMP }.count().await;
    let mut rows: Vec<(String, String)> = Vec::new();
    let injected = storm.proxy.injected();
    for counts in [&people, &crowds, &faults, &injected, &looks] {
        rows.extend(counts.iter().map(|(name, count)| (name.clone(), count.to_string())));
    }
    rows.push(("seconds to recover".into(), recovered.as_secs().to_string()));
    rows.extend(tally.rows());
    ledger::show(&format!("A storm of {duration:?}, STORM_SEED={seed}"), &rows);
    for replica in &storm.replicas {
        assert!(!replica.log().contains("panicked at"), "{}", replica.process().tail());
    }
    assert!(!storm.provider.process().log().contains("sent twice"), "{}", storm.provider.process().tail());
    let misuses: BTreeSet<String> = storm.servers.iter().flat_map(|(_, server)| server.take_misuses()).collect();
    assert!(misuses.is_empty(), "STORM_SEED={seed}: {misuses:#?}");
    if !(tally.lost.is_empty() && tally.unreported.is_empty()) {
        storm.tell_of(&tally);
    }
    tally.assert_complete(&format!("STORM_SEED={seed}"));
}

//! What the authorization servers have against what the cluster has. Every registration that a server still holds must be
//! held by an OAuthClient, wait for its removal there, or have been reported; and what the cluster holds must work.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    io::Write,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client, api::ListParams};
use serde_json::{Value, json};

use super::{authorization_server::AuthorizationServer, fault_server::FaultServer};

/// An attempt begins with its token request, so it is older than its registration: by what the slowest servers and the
/// longest pause of the process make of it.
const LONGEST_ATTEMPT: Duration = Duration::from_mins(2);

/// Profile and client id.
type Registration = (String, String);

/// What became of the registrations.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub made: usize,
    pub held: usize,
    pub retiring: usize,
    pub removed: usize,
    /// Still on the server, and people have been told.
    pub reported: usize,
    /// What the cluster believes to hold, and does not.
    pub lost: Vec<String>,
    /// What a server holds, and nobody has been told of.
    pub unreported: Vec<String>,
}

impl Tally {
    /// Panics if anything is lost or unreported.
    #[track_caller]
    pub fn assert_complete(&self, when: &str) {
        assert!(self.lost.is_empty() && self.unreported.is_empty(), "{when}:\n{self}");
    }

    /// The rows of a table.
    pub fn rows(&self) -> Vec<(String, String)> {
        let Self { made, held, retiring, removed, reported, lost, unreported } = self;
        let row = |name: &str, count: usize| (name.to_owned(), count.to_string());
        vec![
            row("registrations made", *made),
            row("held", *held),
            row("retiring", *retiring),
            row("removed", *removed),
            row("reported", *reported),
            row("lost", lost.len()),
            row("unreported", unreported.len()),
        ]
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", table(&self.rows()))?;
        for line in &self.lost {
            write!(f, "\nlost: {line}")?;
        }
        for line in &self.unreported {
            write!(f, "\nunreported: {line}")?;
        }
        Ok(())
    }
}

/// Shows a table also where the output of a test that succeeds is not shown.
pub fn show(title: &str, rows: &[(String, String)]) {
    let _ = writeln!(std::io::stderr(), "\n{title}\n{}", table(rows));
}

/// Rows of name and number, aligned.
pub fn table(rows: &[(String, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    rows.iter().map(|(name, value)| format!("| {name:<width$} | {value:>7} |")).collect::<Vec<_>>().join("\n")
}

/// What the cluster says about one namespace.
struct Cluster {
    clients: Vec<Value>,
    secrets: BTreeMap<String, BTreeMap<String, String>>,
    events: Vec<Value>,
    held: BTreeMap<Registration, Value>,
    retiring: BTreeSet<Registration>,
}

/// An authorization server whose registrations are counted.
#[derive(Clone, Copy)]
pub enum Server<'a> {
    Fault(&'a FaultServer),
    Real(&'a AuthorizationServer),
}

/// What a server remembers of a registration.
struct Registered {
    id: String,
    client_name: String,
    /// Since 1970.
    at: Duration,
    is_deleted: bool,
}

impl Server<'_> {
    async fn registrations(&self) -> Vec<Registered> {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).unwrap_or_default().to_owned();
        match self {
            Self::Fault(server) => server.registrar(|registrar| {
                let all = registrar.clients.iter().map(|(id, client)| Registered {
                    id: id.clone(),
                    client_name: text(client.metadata.get("client_name")),
                    at: client.registered_at,
                    is_deleted: client.is_deleted,
                });
                all.collect()
            }),
            Self::Real(server) => {
                let all = server.registrations().await.into_iter().map(|client| Registered {
                    id: text(client.get("client_id")),
                    client_name: text(client.get("client_name")),
                    at: Duration::from_secs_f64(client["registered_at"].as_f64().expect("a time")),
                    is_deleted: client["is_deleted"] == true,
                });
                all.collect()
            }
        }
    }

    /// Whether these credentials are good at this moment; `None` if the server is away.
    pub async fn accepts(&self, id: &str, secret: &str) -> Option<bool> {
        match self {
            Self::Fault(server) => Some(server.registrar(|registrar| registrar.accepts(id, secret))),
            Self::Real(server) => server.accepts(id, secret).await,
        }
    }

    async fn is_current(&self, id: &str, registration_access_token: &str) -> bool {
        match self {
            Self::Fault(server) => server.registrar(|registrar| {
                let client = registrar.clients.get(id);
                client.is_some_and(|client| client.registration_access_token == registration_access_token)
            }),
            Self::Real(server) => server.is_registration_access_token(id, registration_access_token).await,
        }
    }
}

/// Who registered what is in `client_name`: `NAME of NAMESPACE`. A name is never used twice.
fn registrant(client_name: &str) -> (&str, &str) {
    client_name.split_once(" of ").unwrap_or_default()
}

/// The registrations of a namespace, where each profile has a server of its own.
pub struct Ledger<'a> {
    pub client: &'a Client,
    pub namespace: &'a str,
    pub servers: &'a [(&'a str, Server<'a>)],
    /// What the operators have printed. In other namespaces, which are gone with their events, that is what is left.
    pub log: &'a str,
    /// How far the operators' clocks may have been from the right time.
    pub clock_error: Duration,
}

/// Counts the registrations of a namespace, where each profile has a server of its own.
pub async fn count(client: &Client, namespace: &str, servers: &[(&str, Server<'_>)]) -> Tally {
    Ledger { client, namespace, servers, log: "", clock_error: Duration::ZERO }.count().await
}

impl Ledger<'_> {
    pub async fn count(&self) -> Tally {
        let cluster = Cluster::read(self.client, self.namespace).await;
        let mut tally = Tally::default();
        let told: BTreeSet<Registration> = cluster.orphans().into_iter().collect();
        let retained = cluster.retained();
        let (logged, logged_attempts) = self.logged();
        let mut attempts = cluster.possible_orphans();
        attempts.extend(logged_attempts);
        for (profile, server) in self.servers {
            for registered in server.registrations().await {
                tally.made += 1;
                let key = ((*profile).to_owned(), registered.id.clone());
                let (name, namespace) = registrant(&registered.client_name);
                let is_elsewhere = namespace != self.namespace;
                if registered.is_deleted {
                    tally.removed += 1;
                } else if cluster.held.contains_key(&key) {
                    tally.held += 1;
                } else if cluster.retiring.contains(&key) {
                    tally.retiring += 1;
                } else if told.contains(&key)
                    || retained.contains(&registered.id)
                    || is_elsewhere && logged.contains(&key)
                {
                    tally.reported += 1;
                } else {
                    // Nobody knows its id: an attempt of its OAuthClient that began at its time stands for it.
                    let is_its = |(of, started): &(String, Duration)| {
                        let age = (registered.at + self.clock_error).checked_sub(*started);
                        of == name && age.is_some_and(|age| age <= LONGEST_ATTEMPT + 2 * self.clock_error)
                    };
                    // Of several, the one that began last: an earlier one may be another registration's.
                    let found = attempts.iter().enumerate().filter(|(_, attempt)| is_its(attempt));
                    if let Some(index) = found.max_by_key(|(_, (_, started))| *started).map(|(index, _)| index) {
                        attempts.swap_remove(index);
                        tally.reported += 1;
                    } else {
                        let Registered { id, client_name, .. } = registered;
                        tally.unreported.push(format!("{id} of {profile}, registered as {client_name:?}"));
                    }
                }
            }
        }
        for object in &cluster.clients {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            if let Err(why) = cluster.works(object, self.servers).await {
                tally.lost.push(format!("{name}: {why}; status: {}", object["status"]));
            }
        }
        tally
    }

    /// The orphans and the attempts without an answer that the log tells of, in other namespaces than this one.
    fn logged(&self) -> (BTreeSet<Registration>, Vec<(String, Duration)>) {
        let (mut orphans, mut attempts) = (BTreeSet::new(), BTreeMap::new());
        for line in self.log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let (client, message) = (text(&line["span"]["client"]), text(&line["message"]));
            let Some((namespace, name)) = client.split_once('/') else { continue };
            if namespace == self.namespace {
                continue;
            }
            if line["client_id"].is_string() && message.starts_with("orphaned registration: ") {
                let profile = text(&line["profile"]);
                let profile = profile.split_once('/').map_or(profile.as_str(), |(_, name)| name);
                orphans.insert((profile.to_owned(), text(&line["client_id"])));
            } else if message.starts_with("registration attempt ") {
                let started: Timestamp = message.split(' ').nth(4).expect("a time").parse().expect("a time");
                attempts.insert(text(&line["attempt"]), (name.to_owned(), since_1970(started)));
            }
        }
        (orphans, attempts.into_values().collect())
    }
}

fn since_1970(time: Timestamp) -> Duration {
    Duration::try_from(time.as_duration()).unwrap_or_default()
}

/// Status and reason of a condition.
fn verdict<'a>(object: &'a Value, type_: &str) -> (&'a str, &'a str) {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let found = conditions.into_iter().find(|condition| condition["type"] == type_);
    let text = |name: &str| found.and_then(|condition| condition[name].as_str()).unwrap_or_default();
    (text("status"), text("reason"))
}

impl Cluster {
    async fn read(client: &Client, namespace: &str) -> Self {
        let list = async |path: String| {
            let request = http::Request::get(path).body(Vec::new()).expect("a request");
            let list: Value = client.request(request).await.expect("a list");
            list["items"].as_array().cloned().unwrap_or_default()
        };
        let clients = list(format!("/apis/dcr-operator.dev/v1alpha1/namespaces/{namespace}/oauthclients")).await;
        let secrets = Api::<Secret>::namespaced(client.clone(), namespace).list(&ListParams::default()).await;
        let secrets: BTreeMap<String, BTreeMap<String, String>> = secrets
            .expect("the Secrets")
            .items
            .into_iter()
            .map(|secret| {
                let data = secret.data.unwrap_or_default().into_iter();
                let data = data.map(|(key, value)| (key, String::from_utf8_lossy(&value.0).into_owned())).collect();
                (secret.metadata.name.unwrap_or_default(), data)
            })
            .collect();
        // After the Secrets: what is no longer in them has been reported before.
        let events = list(format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events")).await;
        let (mut held, mut retiring) = (BTreeMap::new(), BTreeSet::new());
        for data in secrets.values() {
            let json = |key: &str| serde_json::from_str::<Value>(data.get(key)?).ok();
            let Some(information) = json("client-information.json") else { continue };
            let profile = json("authorization-server.json").expect("a server")["profile"].clone();
            let key = |information: &Value| {
                let text = |value: &Value| value.as_str().expect("a text").to_owned();
                (text(&profile), text(&information["client_id"]))
            };
            held.insert(key(&information), json!({"information": information, "history": json("history.json")}));
            for former in json("retiring.json").iter().filter_map(Value::as_array).flatten() {
                retiring.insert(key(&former["information"]));
            }
        }
        Self { clients, secrets, events, held, retiring }
    }

    fn notes(&self, reason: &str) -> impl Iterator<Item = (&str, Vec<&str>)> {
        let events = self.events.iter().filter(move |event| event["reason"] == reason);
        events.map(|event| {
            let words = event["note"].as_str().unwrap_or_default().split(' ').collect();
            (event["regarding"]["name"].as_str().unwrap_or_default(), words)
        })
    }

    /// `client X stays on the server of TokenProfile N/P: …`
    fn orphans(&self) -> Vec<Registration> {
        let parsed = self.notes("Orphaned").map(|(_, words)| {
            // Where the OAuthClient has gone without it, only the name is known.
            let profile = words[8].trim_end_matches(':').rsplit('/').next().unwrap_or_default();
            (profile.to_owned(), words[1].to_owned())
        });
        parsed.collect()
    }

    /// `client X stays registered …`
    fn retained(&self) -> BTreeSet<String> {
        self.notes("Retained").map(|(_, words)| words[1].to_owned()).collect()
    }

    /// The OAuthClient's name, and when the attempt began. From the status, and, where that went with its object,
    /// `registration attempt X of T has no answer: …`
    fn possible_orphans(&self) -> Vec<(String, Duration)> {
        let mut found: BTreeMap<String, (String, Timestamp)> = BTreeMap::new();
        for (name, words) in self.notes("PossibleOrphan") {
            found.insert(words[2].to_owned(), (name.to_owned(), words[4].parse().expect("a time")));
        }
        for object in &self.clients {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            for orphan in object["status"]["possibleOrphans"].as_array().into_iter().flatten() {
                let text = |key: &str| orphan[key].as_str().expect("a text");
                found.insert(text("attempt").to_owned(), (name.to_owned(), text("startedAt").parse().expect("a time")));
            }
        }
        found.into_values().map(|(name, started)| (name, since_1970(started))).collect()
    }

    /// Whether the OAuthClient's Secret has credentials that its server accepts, or says that they are lost, or that what the
    /// server has registered may not be had.
    async fn works(&self, object: &Value, servers: &[(&str, Server<'_>)]) -> Result<(), String> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let (status, reason) = verdict(object, "Registered");
        if status == "False" && ["RegistrationLost", "PolicyDenied"].contains(&reason) {
            return Ok(());
        }
        if verdict(object, "Ready").0 != "True" {
            return Err("it is not Ready".to_owned());
        }
        let profile = object["spec"]["profileRef"]["name"].as_str().unwrap_or_default();
        let (_, server) = servers.iter().find(|(other, _)| *other == profile).ok_or("no such server")?;
        let secret = self.secrets.get(object["spec"]["secret"]["name"].as_str().unwrap_or(name)).ok_or("no Secret")?;
        let value = |key: &str| secret.get(key).cloned().ok_or(format!("no {key} in its Secret"));
        let (id, password) = (value("client-id")?, value("client-secret")?);
        if server.accepts(&id, &password).await != Some(true) {
            return Err(format!("the server does not accept the credentials of client {id}"));
        }
        let held = self.held.get(&(profile.to_owned(), id.clone())).ok_or("its registration is not held")?;
        let is_current = match held["information"]["registration_access_token"].as_str() {
            Some(token) => server.is_current(&id, token).await,
            None => true,
        };
        // An announced call may have changed it; then everybody knows that it is in doubt.
        if is_current || held["history"]["unconfirmedSince"].is_string() {
            Ok(())
        } else {
            Err(format!("the registration access token of client {id} is no longer good, and nothing says so"))
        }
    }
}

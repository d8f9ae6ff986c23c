//! The operator dies at every point of every step, in every part of a client's life; then it is started again, and what
//! the server has is counted against what the cluster has.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::{Duration, Instant},
};

use futures::future::join_all;
use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        fault_server::{Answer, FaultServer, Registrar, RegistrarOptions},
        ledger::{self, Server},
        operator::Operator,
        process::{Folder, wait_until},
    },
};

/// A part of a client's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Create,
    /// As `Create`, and the first answer does not arrive.
    CreateAfterALostAnswer,
    Adopt,
    Change,
    Rotate,
    NameTheSecret,
    TypeTheSecret,
    Delete,
}

/// One kind of life: where it is spent, and its parts.
struct Lane {
    name: &'static str,
    registrar: fn() -> Registrar,
    /// Of the profile's `spec.server`.
    server: Value,
    /// Of the client's `spec`.
    client: Value,
    /// A policy of the namespace; null: there is none.
    policy: Value,
    parts: &'static [Part],
}

fn lanes() -> Vec<Lane> {
    use Part::{Adopt, Change, Create, CreateAfterALostAnswer, Delete, NameTheSecret, Rotate, TypeTheSecret};
    let rotating = json!({"readRotatesCredentials": true});
    let replaced = json!({"when": ["UpdateUnsupported", "RegistrationLost", "Rotation"], "overlap": "0s"});
    vec![
        Lane {
            name: "strict",
            registrar: Registrar::strict,
            server: rotating.clone(),
            client: json!({"replacement": {"when": ["RegistrationLost"], "overlap": "0s"},
                "rolloutRestartTargets": [{"kind": "Deployment", "name": "absent"}]}),
            policy: Value::Null,
            parts: &[Create, Change, Rotate, Delete],
        },
        Lane {
            name: "resigned",
            registrar: Registrar::strict,
            server: rotating,
            client: json!({}),
            policy: Value::Null,
            parts: &[Create, Change, Delete],
        },
        Lane {
            name: "replaced",
            registrar: Registrar::default,
            server: json!({}),
            client: json!({"replacement": replaced}),
            policy: Value::Null,
            parts: &[CreateAfterALostAnswer, Rotate, Delete],
        },
        Lane {
            name: "unmanaged",
            registrar: Registrar::without_management,
            server: json!({}),
            client: json!({"replacement": replaced}),
            policy: Value::Null,
            parts: &[Create, Change, Delete],
        },
        Lane {
            name: "adopted",
            registrar: Registrar::default,
            server: json!({}),
            client: json!({"deletionPolicy": "Retain"}),
            policy: Value::Null,
            parts: &[Adopt, NameTheSecret, TypeTheSecret, Delete],
        },
        Lane {
            name: "generous",
            registrar: || {
                Registrar::new(RegistrarOptions { adds_scope: Some("admin".into()), ..RegistrarOptions::default() })
            },
            server: json!({}),
            client: json!({}),
            policy: json!({"allowedScopes": ["openid", "email"]}),
            parts: &[Create, Delete],
        },
    ]
}

/// A lane with its server and its operator.
struct Walk {
    lane: Lane,
    home: Home,
    server: FaultServer,
    operator: Operator,
    folder: Folder,
    lives: usize,
    deaths: usize,
}

impl Walk {
    async fn start(lane: Lane) -> Self {
        let home = Home::without_operator(lane.name).await;
        let server = FaultServer::start_registrar((lane.registrar)()).await;
        let folder = Folder::new("crash-points");
        let path = folder.path().to_str().expect("UTF-8");
        let operator = home.operator_with(&[], &[("DCR_OPERATOR_CRASH_POINTS", path)]).await;
        home.apply(&registrar_secret("server-secret")).await;
        let mut profile = profile_with_endpoints(&server);
        profile["spec"]["server"] = lane.server.clone();
        home.apply(&profile).await;
        if !lane.policy.is_null() {
            home.apply(&policy("web", &lane.policy)).await;
            home.until_condition(POLICIES, "web", ["Ready", "True", "Ready"]).await;
        }
        home.until_profile_ready().await;
        Self { lane, home, server, operator, folder, lives: 0, deaths: 0 }
    }

    /// The points that have been reached since the last call.
    fn reached(&self) -> Vec<String> {
        let path = self.folder.join("reached");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(&path);
        text.lines().map(str::to_owned).collect()
    }

    /// A whole life. In each part the operator dies at the first of the points that are left for that part.
    async fn live(&mut self, left: &mut BTreeMap<Part, Vec<String>>) -> Vec<(Part, Vec<String>)> {
        self.lives += 1;
        let name = format!("shop-{}", self.lives);
        let mut seen = Vec::new();
        for part in self.lane.parts {
            if *part == Part::Delete {
                self.count(&format!("life {} of {} before its end", self.lives, self.lane.name)).await;
            }
            self.reached();
            let point = left.get(part).and_then(|points| points.first()).cloned();
            if let Some(point) = &point {
                self.folder.write("crash", point);
            }
            self.begin(*part, &name).await;
            let started = Instant::now();
            if point.is_some() {
                // Settled without a death: this life had no need for that step.
                wait_until(&format!("death at {point:?} in {part:?} of {name}"), WAIT, async || {
                    self.operator.process().exited().is_some() || self.is_settled(*part, &name).await.is_ok()
                })
                .await;
            }
            // Whoever removes the file knows whether there is a death.
            if point.is_some() && fs::remove_file(self.folder.join("crash")).is_err() {
                self.operator.process().wait(WAIT).await;
                self.deaths += 1;
                left.get_mut(part).expect("the point's part").remove(0);
                self.operator.restart().await;
            }
            let what = format!("{part:?} of {name} in lane {} is over, after a death at {point:?}", self.lane.name);
            wait_until(&what, Duration::from_mins(1), async || self.is_settled(*part, &name).await).await;
            tell(self.lane.name, *part, point.as_deref(), started);
            seen.push((*part, self.reached()));
        }
        self.count(&format!("life {} of {} after its end", self.lives, self.lane.name)).await;
        seen
    }

    async fn begin(&self, part: Part, name: &str) {
        let home = &self.home;
        let mut client = home.oauth_client(name);
        let spec = client["spec"].as_object_mut().expect("a spec");
        spec.extend(self.lane.client.as_object().expect("an object").clone());
        match part {
            Part::Create => home.apply(&client).await,
            Part::CreateAfterALostAnswer => {
                self.server.answer_once("POST", "/reg", Answer::reset().carried_out());
                home.apply(&client).await;
            }
            Part::Adopt => {
                let (id, token) = self.register_by_hand(&client["spec"]["clientMetadata"]).await;
                let mut secret = registrar_secret("");
                secret["metadata"]["name"] = json!(format!("{name}-old"));
                secret["stringData"] = json!({"registration-access-token": token});
                home.apply(&secret).await;
                client["spec"]["adopt"] = json!({"clientId": id, "secretRef": {"name": format!("{name}-old")}});
                home.apply(&client).await;
            }
            Part::Change => {
                home.patch(CLIENTS, name, json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
            }
            Part::Rotate => home.annotate(name, "dcr-operator.dev/rotate-requested-at", "1").await,
            Part::NameTheSecret => {
                home.patch(CLIENTS, name, json!({"spec": {"secret": {"name": format!("{name}-credentials")}}})).await;
            }
            Part::TypeTheSecret => {
                home.patch(CLIENTS, name, json!({"spec": {"secret": {"type": "servicebinding.io/oauth2"}}})).await;
            }
            Part::Delete => home.delete(CLIENTS, name).await,
        }
    }

    /// A client that is on the server before the operator knows of it.
    async fn register_by_hand(&self, metadata: &Value) -> (String, String) {
        let http = reqwest::Client::builder().tls_certs_only([]).no_proxy().build().expect("a client");
        let answer = async |request: reqwest::RequestBuilder| {
            let bytes = request.send().await.expect("an answer").bytes().await.expect("a body");
            serde_json::from_slice::<Value>(&bytes).expect("JSON")
        };
        let token = http.post(self.server.url("/token")).basic_auth("server", Some("server-secret"));
        let token = answer(token.form(&[("grant_type", "client_credentials"), ("scope", "dcr")])).await;
        let token = token["access_token"].as_str().expect("a token").to_owned();
        let registration = http.post(self.server.url("/reg")).bearer_auth(token).body(metadata.to_string());
        let answer = answer(registration).await;
        let text = |name: &str| answer[name].as_str().expect("a text").to_owned();
        (text("client_id"), text("registration_access_token"))
    }

    /// All that the part asks for is there, or lost for good.
    async fn is_settled(&self, part: Part, name: &str) -> Result<(), String> {
        let client = self.home.get(CLIENTS, name).await;
        let Some(client) = client else {
            return if part == Part::Delete { Ok(()) } else { Err("it is not there".into()) };
        };
        let is_current = client["status"]["observedGeneration"] == client["metadata"]["generation"];
        let asked = &client["metadata"]["annotations"]["dcr-operator.dev/rotate-requested-at"];
        let is_handled = *asked == client["status"]["lastHandledRotateAt"];
        // A former client goes after the status has told of its successor.
        let is_quiet = condition(&client, "Reconciling").is_null() && client["status"]["retiring"].is_null();
        let is_lost =
            ["False RegistrationLost", "False PolicyDenied"].contains(&verdict(&client, "Registered").as_str());
        let is_ready = verdict(&client, "Ready") == "True Ready" && is_handled;
        if part != Part::Delete && is_current && is_quiet && (is_ready || is_lost) {
            return Ok(());
        }
        Err(format!("{}\n{}", client["status"], self.operator.process().tail()))
    }

    async fn count(&self, when: &str) -> ledger::Tally {
        let tally = ledger::count(&self.home.client, &self.home.name, &[(PROFILE, Server::Fault(&self.server))]).await;
        tally.assert_complete(when);
        tally
    }
}

fn tell(lane: &str, part: Part, point: Option<&str>, started: Instant) {
    println!("{lane:<10} {part:?} {} ({:.1?})", point.unwrap_or("-"), started.elapsed());
}

/// Walks one lane; the points that were reached, and what was counted in the end.
async fn walk(lane: Lane) -> (BTreeSet<String>, usize, ledger::Tally) {
    let mut walk = Walk::start(lane).await;
    // The first life has no deaths: it shows the points.
    let seen = walk.live(&mut BTreeMap::new()).await;
    let mut left: BTreeMap<Part, Vec<String>> = BTreeMap::new();
    for (part, points) in seen {
        let mut known = BTreeSet::new();
        left.insert(part, points.into_iter().filter(|point| known.insert(point.clone())).collect());
    }
    let all = left.values().flatten().cloned().collect();
    // After the last point of all there is nothing left to do: the test may see that before the operator dies of it.
    let mut in_vain = 0;
    while left.values().any(|points| !points.is_empty()) {
        let before = walk.deaths;
        walk.live(&mut left).await;
        in_vain = if walk.deaths > before { 0 } else { in_vain + 1 };
        assert!(in_vain < 8, "{}: nothing comes to these points any more: {left:?}", walk.lane.name);
    }
    let tally = walk.count("at the end").await;
    (all, walk.deaths, tally)
}

/// The names of all steps, from the one place where each must have one.
fn steps() -> Vec<&'static str> {
    let source = include_str!("../../src/oauth_client/plan/step.rs");
    let names = source.lines().filter_map(|line| {
        let (variant, name) = line.trim().strip_prefix("Self::")?.split_once("=> \"")?;
        let name = name.strip_suffix("\",")?;
        assert!(variant.starts_with(name), "{line}");
        Some(name)
    });
    names.collect()
}

#[tokio::test]
async fn a_death_at_any_point_of_any_step_loses_nothing_and_hides_nothing() {
    let walked = join_all(lanes().into_iter().map(walk)).await;
    let reached: BTreeSet<&String> = walked.iter().flat_map(|(points, _, _)| points).collect();
    assert!(steps().len() >= 16, "{:?}", steps());
    for step in steps() {
        for moment in ["begins", "is done"] {
            let point = format!("{step}: {moment}");
            assert!(reached.contains(&point), "no life comes to {point:?}: add one that does");
        }
    }
    let mut rows = vec![
        ("points".to_owned(), reached.len().to_string()),
        ("deaths".to_owned(), walked.iter().map(|(_, deaths, _)| deaths).sum::<usize>().to_string()),
    ];
    let sum = walked.iter().fold(ledger::Tally::default(), |sum, (_, _, tally)| ledger::Tally {
        made: sum.made + tally.made,
        held: sum.held + tally.held,
        retiring: sum.retiring + tally.retiring,
        removed: sum.removed + tally.removed,
        reported: sum.reported + tally.reported,
        ..sum
    });
    rows.extend(sum.rows());
    ledger::show("A death at every point of every step", &rows);
}

#[tokio::test]
async fn the_counting_finds_an_answer_that_was_not_kept() {
    let home = Home::without_operator("unkept").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let folder = Folder::new("crash-points");
    folder.write("broken", "keep");
    let path = folder.path().to_str().expect("UTF-8");
    let _operator = home.operator_with(&[], &[("DCR_OPERATOR_CRASH_POINTS", path)]).await;
    home.apply(&registrar_secret("server-secret")).await;
    home.apply(&profile_with_endpoints(&server)).await;
    home.apply(&home.oauth_client("shop")).await;
    home.until("it believes to be registered", CLIENTS, "shop", |client| client["status"]["clientId"].is_string())
        .await;
    let tally = ledger::count(&home.client, &home.name, &[(PROFILE, Server::Fault(&server))]).await;
    assert_eq!((tally.made, tally.held, tally.unreported.len()), (1, 0, 1), "{tally}");
}

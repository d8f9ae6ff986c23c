//! What goes wrong, and ends.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use fastrand::Rng;
use serde_json::json;
use tokio::time::sleep;

use super::{Counts, PLAIN, Storm, authority, note};
use crate::{
    fixtures::*,
    support::{
        certificates::certificates,
        fault_proxy::{Fault, Rule},
        fault_server::Answer,
        operator::Operator,
    },
};

/// How far an operator's clock is from the right time, at most.
pub(super) const LARGEST_JUMP: Duration = Duration::from_mins(10);

/// What a fault has to be followed by.
enum Undo {
    Continue(usize),
    ServerUp(usize),
    ProviderUp,
    Trust,
    ApiUp,
    EtcdContinue,
    ClearRules,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Crew {
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
    pub(super) async fn faults(&self, until: Instant, mut rng: Rng) -> Counts {
        let mut counts = Counts::new();
        let mut undo: Vec<(Instant, Undo)> = Vec::new();
        let mut next = Instant::now();
        let mut change = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            let now = Instant::now();
            let (due, rest): (Vec<_>, Vec<_>) = undo.into_iter().partition(|(at, _)| *at <= now);
            undo = rest;
            for (_, undo) in due {
                self.undo(undo).await;
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
            self.undo(left).await;
        }
        counts
    }

    pub(super) fn crew(&self) -> &[Operator] {
        &self.replicas[self.crew.get().members()]
    }

    async fn undo(&self, undo: Undo) {
        match undo {
            Undo::Continue(replica) => self.replicas[replica].process().cont(),
            Undo::ServerUp(server) => self.servers[server].1.set_down(false),
            Undo::ApiUp => self.proxy.set_down(false),
            Undo::EtcdContinue => self.home.plane.etcd().cont(),
            Undo::ClearRules => self.proxy.clear(),
            Undo::ProviderUp => self.provider.restart().await,
            Undo::Trust => {
                // A paused etcd would never answer: nobody else goes on meanwhile.
                self.home.plane.etcd().cont();
                let pem = self.authority.borrow().clone();
                let path = format!("{}?fieldManager=test&force=true", self.home.path("configmaps", "authority"));
                self.insist("PATCH", &path, "application/apply-patch+yaml", &authority(&pem)).await;
            }
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
                // Without etcd it would never be ready, and nobody else goes on meanwhile.
                self.home.plane.etcd().cont();
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
            75..78 => {
                note(counts, "oidc-provider killed and started");
                self.provider.stop();
                return Some((seconds(rng, 4), Undo::ProviderUp));
            }
            78..80 => {
                note(counts, "certificate by another authority, trusted later");
                let (_, server) = self.servers.iter().find(|(name, _)| *name == PLAIN).expect("a plain server");
                let certificates = certificates();
                server.change_certificate(certificates.server_config());
                *self.authority.borrow_mut() = certificates.ca;
                return Some((seconds(rng, 6), Undo::Trust));
            }
            80..83 => {
                note(counts, "operator's clock jumped");
                let most = i64::try_from(LARGEST_JUMP.as_secs()).expect("some minutes");
                self.clocks[replica].set_ahead(rng.i64(-most..=most));
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
}

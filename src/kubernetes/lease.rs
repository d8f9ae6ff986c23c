//! Leader election on a `coordination.k8s.io/v1` Lease.
//!
//! The contract is client-go's: every write carries the `resourceVersion` that it was decided on; expiry is judged by
//! our own clock since we last saw the record change, never by comparing clocks; and a leader that can't renew before
//! its deadline stops.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::error::words;

/// Which Lease, whose, and how patient.
#[derive(Clone, Debug)]
pub struct Params {
    pub name: String,
    pub identity: String,
    /// How long others wait after the last renewal that they saw.
    pub lease_duration: Duration,
    /// How long a leader goes on without a renewal; shorter than `lease_duration`.
    pub renew_deadline: Duration,
    pub retry_period: Duration,
}

/// The record as we last saw it change, and when, on our clock.
struct Seen {
    spec: LeaseSpec,
    at: Instant,
}

/// How long we lead for sure. A process that was paused finds out here before anybody else tells it.
#[derive(Clone, Debug, Default)]
pub struct Term(Option<Arc<Mutex<Instant>>>);

impl Term {
    /// Without an election there is nobody else.
    #[must_use]
    pub fn without_end() -> Self {
        Self(None)
    }

    /// Whether another replica may be leading already.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let end = self.0.as_ref().map(|end| *end.lock().unwrap_or_else(PoisonError::into_inner));
        end.is_some_and(|end| end <= Instant::now())
    }

    fn renew(&self, end: Instant) {
        if let Some(known) = &self.0 {
            *known.lock().unwrap_or_else(PoisonError::into_inner) = end;
        }
    }
}

/// One candidate for the Lease.
pub struct Elector {
    api: Api<Lease>,
    params: Params,
    seen: Option<Seen>,
    term: Term,
}

impl Elector {
    #[must_use]
    pub fn new(api: Api<Lease>, params: Params) -> Self {
        Self { api, params, seen: None, term: Term(Some(Arc::new(Mutex::new(Instant::now())))) }
    }

    /// The term, as it is renewed.
    #[must_use]
    pub fn term(&self) -> Term {
        self.term.clone()
    }

    /// Resolves with `true` once we lead, or with `false` if `stop` fires first. `standing` hears after each try what
    /// stands in the way, if it is not another replica.
    pub async fn acquire(&mut self, stop: &CancellationToken, standing: impl Fn(Option<String>)) -> bool {
        // What was said last is not said again every two seconds.
        let mut said = None;
        loop {
            let obstacle = match self.acquire_or_renew().await {
                Ok(true) => return true,
                Ok(false) => None,
                Err(error) => Some(format!("can't read or write the Lease {}: {}", self.params.name, words(&error))),
            };
            if said.as_ref() != Some(&obstacle) {
                match &obstacle {
                    None => tracing::info!(holder = self.holder(), "another replica leads; standing by"),
                    Some(obstacle) => tracing::warn!("{obstacle}; trying again"),
                }
            }
            standing(obstacle.clone());
            said = Some(obstacle);
            tokio::select! {
                () = stop.cancelled() => return false,
                () = sleep(self.params.retry_period) => {}
            }
        }
    }

    /// Holds the lease. Returns when it is lost, or after its release when `done` fires.
    pub async fn hold(&mut self, done: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = done.cancelled() => return self.release().await,
                () = sleep(self.params.retry_period) => {}
            }
            let left = self.params.renew_deadline.saturating_sub(renewed.elapsed());
            match timeout(left, self.acquire_or_renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                // Somebody wrote it meanwhile; only another holder takes it from us.
                Ok(Ok(false)) if self.holder() == Some(&self.params.identity) => {}
                Ok(Ok(false)) => return tracing::error!("another replica has taken the lease"),
                Ok(Err(error)) => tracing::warn!(%error, "could not renew the lease"),
                Err(_) => return tracing::error!("the lease could not be renewed in time"),
            }
        }
    }

    async fn acquire_or_renew(&mut self) -> kube::Result<bool> {
        let now = MicroTime(Timestamp::now());
        let end = Instant::now() + self.params.renew_deadline;
        let Some(mut lease) = self.api.get_opt(&self.params.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta { name: Some(self.params.name.clone()), ..ObjectMeta::default() },
                spec: Some(self.claim(LeaseSpec::default(), now)),
            };
            let created = self.api.create(&PostParams::default(), &lease).await;
            return self.commit(created, end);
        };

        let spec = lease.spec.take().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|seen| seen.spec != spec) {
            self.seen = Some(Seen { spec: spec.clone(), at: Instant::now() });
        }
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let expired = self.seen.as_ref().is_some_and(|seen| seen.at.elapsed() >= self.params.lease_duration);
        if !(holder.is_empty() || holder == self.params.identity || expired) {
            return Ok(false);
        }

        lease.spec = Some(self.claim(spec, now));
        // PUT with the resourceVersion that was read: a concurrent writer turns this into a 409.
        let replaced = self.api.replace(&self.params.name, &PostParams::default(), &lease).await;
        self.commit(replaced, end)
    }

    /// Who held the lease when we last read it.
    fn holder(&self) -> Option<&String> {
        self.seen.as_ref().and_then(|seen| seen.spec.holder_identity.as_ref())
    }

    fn claim(&self, previous: LeaseSpec, now: MicroTime) -> LeaseSpec {
        let ours = previous.holder_identity.as_deref() == Some(&self.params.identity);
        LeaseSpec {
            holder_identity: Some(self.params.identity.clone()),
            lease_duration_seconds: i32::try_from(self.params.lease_duration.as_secs()).ok(),
            acquire_time: if ours { previous.acquire_time } else { Some(now.clone()) },
            renew_time: Some(now),
            lease_transitions: Some(previous.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..previous
        }
    }

    fn commit(&mut self, written: kube::Result<Lease>, end: Instant) -> kube::Result<bool> {
        match written {
            Ok(lease) => {
                self.term.renew(end);
                self.seen = Some(Seen { spec: lease.spec.unwrap_or_default(), at: Instant::now() });
                Ok(true)
            }
            // Somebody else was first.
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn release(&self) {
        let release = async {
            let mut lease = self.api.get(&self.params.name).await?;
            if let Some(spec) = lease.spec.as_mut()
                && spec.holder_identity.as_deref() == Some(&self.params.identity)
            {
                spec.holder_identity = None;
                self.api.replace(&self.params.name, &PostParams::default(), &lease).await?;
            }
            Ok::<_, kube::Error>(())
        };
        match timeout(self.params.retry_period, release).await {
            Ok(Ok(())) => tracing::info!("released the lease"),
            Ok(Err(error)) => tracing::warn!(%error, "could not release the lease"),
            Err(_) => tracing::warn!("could not release the lease in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use http::{Method, Request, Response, StatusCode};
    use kube::{Client, client::Body};
    use serde_json::{Value, json};

    use super::*;

    /// The API server's part: one Lease, and the check of its resourceVersion.
    fn lease_server() -> Client {
        let stored: Arc<Mutex<Option<Value>>> = Arc::default();
        let service = tower::service_fn(move |request: Request<Body>| {
            let stored = Arc::clone(&stored);
            async move {
                let (parts, body) = request.into_parts();
                let sent = body.collect_bytes().await?;
                let mut stored = stored.lock().unwrap();
                let version = |lease: &Value| {
                    lease["metadata"]["resourceVersion"].as_str().unwrap_or("0").parse::<u64>().unwrap()
                };
                let refused = |code: StatusCode, reason: &str| {
                    (
                        code,
                        json!({"kind": "Status", "code": code.as_u16(), "reason": reason, "message": reason, "status": "Failure"}),
                    )
                };
                let (code, answer) = match (parts.method, stored.as_ref()) {
                    (Method::GET, None) => refused(StatusCode::NOT_FOUND, "NotFound"),
                    (Method::GET, Some(lease)) => (StatusCode::OK, lease.clone()),
                    (Method::POST, Some(_)) => refused(StatusCode::CONFLICT, "AlreadyExists"),
                    (method, current) => {
                        let mut lease: Value = serde_json::from_slice(&sent)?;
                        if method == Method::PUT && current.is_none_or(|current| version(current) != version(&lease)) {
                            refused(StatusCode::CONFLICT, "Conflict")
                        } else {
                            lease["metadata"]["resourceVersion"] = json!((current.map_or(0, version) + 1).to_string());
                            *stored = Some(lease.clone());
                            (StatusCode::OK, lease)
                        }
                    }
                };
                Ok::<_, tower::BoxError>(
                    Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()))?,
                )
            }
        });
        Client::new(service, "default")
    }

    fn candidate(client: &Client, identity: &str) -> Elector {
        let params = Params {
            name: "dcr-operator".into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        };
        Elector::new(Api::default_namespaced(client.clone()), params)
    }

    #[tokio::test(start_paused = true)]
    async fn one_of_two_wins_and_the_other_waits_out_the_whole_duration() {
        let client = lease_server();
        let (mut first, mut second) = (candidate(&client, "a"), candidate(&client, "b"));
        let never = CancellationToken::new();
        assert!(first.acquire(&never, |_| {}).await);
        assert!(!second.acquire_or_renew().await.unwrap());
        let started = Instant::now();
        assert!(second.acquire(&never, |_| {}).await, "the first one has died");
        assert!(started.elapsed() >= Duration::from_secs(14), "{:?}", started.elapsed());
        assert!(!first.acquire_or_renew().await.unwrap(), "and it may not come back");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_may_not_be_written_is_an_obstacle_in_the_words_of_the_api_server() {
        let forbidden = json!({
            "kind": "Status", "code": 403, "reason": "Forbidden", "status": "Failure",
            "message": "leases is forbidden: User \"op\" cannot get resource \"leases\" in the namespace \"x\"",
        });
        let service = tower::service_fn(move |_: Request<Body>| {
            let answer = forbidden.to_string().into_bytes();
            async move { Ok::<_, tower::BoxError>(Response::builder().status(403).body(Body::from(answer))?) }
        });
        let mut elector = candidate(&Client::new(service, "x"), "a");
        let (stop, heard) = (CancellationToken::new(), Mutex::new(None));
        let led = elector.acquire(&stop, |obstacle| {
            *heard.lock().unwrap() = obstacle;
            stop.cancel();
        });
        assert!(!led.await);
        let heard = heard.into_inner().unwrap().unwrap();
        assert!(heard.contains("Lease dcr-operator") && heard.contains("cannot get resource \"leases\""), "{heard}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewed_lease_is_not_taken() {
        let client = lease_server();
        let (mut first, mut second) = (candidate(&client, "a"), candidate(&client, "b"));
        for _ in 0..20 {
            assert!(first.acquire_or_renew().await.unwrap());
            assert!(!second.acquire_or_renew().await.unwrap());
            sleep(Duration::from_secs(5)).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_release_lets_the_next_one_in_at_once() {
        let client = lease_server();
        let (mut first, mut second) = (candidate(&client, "a"), candidate(&client, "b"));
        assert!(first.acquire_or_renew().await.unwrap());
        assert!(!second.acquire_or_renew().await.unwrap());
        let done = CancellationToken::new();
        done.cancel();
        first.hold(&done).await;
        assert!(second.acquire_or_renew().await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_leader_that_was_replaced_stops() {
        let client = lease_server();
        let (mut first, mut second) = (candidate(&client, "a"), candidate(&client, "b"));
        assert!(first.acquire_or_renew().await.unwrap());
        assert!(!second.acquire_or_renew().await.unwrap());
        let term = first.term();
        assert!(!term.is_over());
        sleep(Duration::from_secs(16)).await;
        assert!(second.acquire_or_renew().await.unwrap());
        assert!(term.is_over() && !second.term().is_over(), "it knows by itself");
        timeout(Duration::from_secs(5), first.hold(&CancellationToken::new())).await.expect("it gives up");
    }
}

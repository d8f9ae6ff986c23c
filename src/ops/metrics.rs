//! Metrics. Labels have few values: of objects' names only those of TokenProfiles and DcrPolicies, which a platform team
//! makes; never a text from a server. docs/metrics.md lists them all.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use super::objects::Objects;
use crate::{
    api::{DcrPolicy, OAuthClient, TokenProfile},
    kubernetes::Cache,
    token_profile::Circuits,
};

/// How a pass over an object ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum Outcome {
    /// As the spec asks for.
    Done,
    /// Something else must happen first.
    Waiting,
    /// Failed; will be tried again.
    Retrying,
    /// Failed; needs a change by somebody.
    Stalled,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReconcileLabels {
    kind: &'static str,
    outcome: Outcome,
    reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    operation: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServerLabels {
    operation: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KindLabels {
    kind: &'static str,
}

type Durations<L = OperationLabels> = Family<L, Histogram, fn() -> Histogram>;

/// All metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    registry: Registry,
    reconciles: Family<ReconcileLabels, Counter>,
    under_way: Family<KindLabels, Gauge>,
    reconcile_durations: Durations<KindLabels>,
    kubernetes_requests: Family<RequestLabels, Counter>,
    kubernetes_durations: Durations,
    server_requests: Family<ServerLabels, Counter>,
    server_durations: Durations,
    possible_orphans: Counter,
    orphans: Counter,
    leader: Gauge,
    objects: Arc<Objects>,
}

fn durations() -> Histogram {
    Histogram::new([0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut root = Registry::with_prefix("dcr_operator");
        let registry = &mut root;
        let reconciles = Family::default();
        registry.register("reconciles", "Passes over an object, by kind, outcome and reason", reconciles.clone());
        let under_way = Family::default();
        registry.register("reconciles_under_way", "Passes over objects that are under way, by kind", under_way.clone());
        let reconcile_durations = Durations::new_with_constructor(durations as fn() -> Histogram);
        registry.register_with_unit(
            "reconcile_duration",
            "Time that passes over an object took, by kind",
            Unit::Seconds,
            reconcile_durations.clone(),
        );
        let kubernetes_requests = Family::default();
        registry.register(
            "kubernetes_requests",
            "Requests to the Kubernetes API, by operation and HTTP status (0 = no answer)",
            kubernetes_requests.clone(),
        );
        let kubernetes_durations = Durations::new_with_constructor(durations);
        registry.register_with_unit(
            "kubernetes_request_duration",
            "Time until the Kubernetes API began its answer",
            Unit::Seconds,
            kubernetes_durations.clone(),
        );
        let server_requests = Family::default();
        registry.register(
            "server_requests",
            "Calls to authorization servers, by operation and result (Success or the reason of the failure)",
            server_requests.clone(),
        );
        let server_durations = Durations::new_with_constructor(durations);
        registry.register_with_unit(
            "server_request_duration",
            "Time that calls to authorization servers took",
            Unit::Seconds,
            server_durations.clone(),
        );
        let possible_orphans = Counter::default();
        registry.register(
            "possible_orphans",
            "Registration attempts whose answer never arrived: the server may hold a client that nobody knows",
            possible_orphans.clone(),
        );
        let orphans = Counter::default();
        registry.register(
            "orphans",
            "Registrations that were left on a server because they could not be removed",
            orphans.clone(),
        );
        let leader = Gauge::default();
        registry.register("leader", "1 if this replica is the one at work", leader.clone());
        registry.register("build", "The operator that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        let objects = Arc::new(Objects::default());
        registry.register_collector(Box::new(Arc::clone(&objects)));
        Self(Arc::new(Inner {
            registry: root,
            reconciles,
            under_way,
            reconcile_durations,
            kubernetes_requests,
            kubernetes_durations,
            server_requests,
            server_durations,
            possible_orphans,
            orphans,
            leader,
            objects,
        }))
    }
}

impl Metrics {
    /// A pass has ended; `reason` is the reason of the `Ready` condition.
    pub fn reconciled(&self, kind: &'static str, outcome: Outcome, reason: &str) {
        let labels = ReconcileLabels { kind, outcome, reason: reason.to_owned() };
        self.0.reconciles.get_or_create(&labels).inc();
    }

    /// A pass over an object begins.
    pub(super) fn pass_began(&self, kind: &'static str) {
        self.0.under_way.get_or_create(&KindLabels { kind }).inc();
    }

    /// That pass has ended.
    pub(super) fn pass_ended(&self, kind: &'static str, took: Duration) {
        self.0.under_way.get_or_create(&KindLabels { kind }).dec();
        self.0.reconcile_durations.get_or_create(&KindLabels { kind }).observe(took.as_secs_f64());
    }

    /// The Kubernetes API has answered (or not: status 0).
    pub fn kubernetes_request(&self, operation: &'static str, status: u16, took: Duration) {
        self.0.kubernetes_requests.get_or_create(&RequestLabels { operation, status }).inc();
        self.0.kubernetes_durations.get_or_create(&OperationLabels { operation }).observe(took.as_secs_f64());
    }

    /// A call to an authorization server has ended; `result` is `Success` or the error's reason.
    pub fn server_request(&self, operation: &'static str, result: &'static str, took: Duration) {
        self.0.server_requests.get_or_create(&ServerLabels { operation, result }).inc();
        self.0.server_durations.get_or_create(&OperationLabels { operation }).observe(took.as_secs_f64());
    }

    /// A registration attempt is without an answer for good.
    pub fn possible_orphan(&self) {
        self.0.possible_orphans.inc();
    }

    /// A registration stays on a server though nobody wants it.
    pub fn orphan(&self) {
        self.0.orphans.inc();
    }

    /// This replica is at work from now on.
    pub fn leading(&self) {
        self.0.leader.set(1);
    }

    /// What the watches have seen is counted from now on.
    pub fn observe(
        &self,
        clients: &Cache<OAuthClient>,
        profiles: &Cache<TokenProfile>,
        policies: &Cache<DcrPolicy>,
        circuits: &Circuits,
    ) {
        self.0.objects.observe(clients.clone(), profiles.clone(), policies.clone(), circuits.clone());
    }

    /// The page, in OpenMetrics text format.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut page = String::new();
        // Writing to a String does not fail.
        let _ = encode(&mut page, &self.0.registry);
        page
    }
}

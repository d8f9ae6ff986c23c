//! Gauges that are computed at each scrape from what the watches have seen, so that no controller has to keep them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::OnceLock,
    time::Instant,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use kube::ResourceExt;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, gauge::ConstGauge},
    registry::Unit,
};

use crate::{
    api::{DcrPolicy, OAuthClient, TokenProfile, conditions},
    kubernetes::{Cache, condition},
    token_profile::{Circuits, is_ready},
};

/// The conditions by which clients are counted.
const CLIENT_CONDITIONS: [&str; 5] =
    [conditions::READY, conditions::ACCEPTED, conditions::REGISTERED, conditions::IN_SYNC, conditions::SECRET_SYNCED];

const PROFILE: [&str; 2] = ["profile_namespace", "profile"];

/// What is counted; nothing until the watches have begun, and on a standby.
#[derive(Default)]
pub(super) struct Objects(OnceLock<Caches>);

struct Caches {
    clients: Cache<OAuthClient>,
    profiles: Cache<TokenProfile>,
    policies: Cache<DcrPolicy>,
    circuits: Circuits,
}

impl fmt::Debug for Objects {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Objects").field(&self.0.get().is_some()).finish()
    }
}

impl Objects {
    pub(super) fn observe(
        &self,
        clients: Cache<OAuthClient>,
        profiles: Cache<TokenProfile>,
        policies: Cache<DcrPolicy>,
        circuits: Circuits,
    ) {
        // Once per process: a second call would be about the same caches.
        let _ = self.0.set(Caches { clients, profiles, policies, circuits });
    }
}

/// What is worth knowing of one client.
#[derive(Clone, Debug)]
struct Client {
    /// Namespace and name, as the client says.
    profile: [String; 2],
    /// Status and reason, in the order of [`CLIENT_CONDITIONS`].
    verdicts: Vec<[String; 2]>,
    observed: bool,
    secret_expires: Option<i64>,
    token_expires: Option<i64>,
    deleting_since: Option<i64>,
}

impl Client {
    fn of(client: &OAuthClient) -> Self {
        let reference = &client.spec.profile_ref;
        let namespace = reference.namespace.clone().or_else(|| client.namespace()).unwrap_or_default();
        let status = client.status.as_ref();
        let conditions = status.map_or(&[][..], |status| &status.conditions);
        Self {
            profile: [namespace, reference.name.clone()],
            verdicts: CLIENT_CONDITIONS.iter().map(|type_| verdict(conditions, type_)).collect(),
            observed: is_observed(&client.metadata, status.and_then(|status| status.observed_generation)),
            secret_expires: status.and_then(|status| seconds(status.client_secret_expires_at.as_ref())),
            token_expires: status.and_then(|status| seconds(status.registration_access_token_expires_at.as_ref())),
            deleting_since: seconds(client.metadata.deletion_timestamp.as_ref()),
        }
    }
}

/// What is worth knowing of one profile.
#[derive(Clone, Debug)]
struct Profile {
    name: [String; 2],
    ready: bool,
    circuit_open: bool,
    observed: bool,
    token_expires: Option<i64>,
}

impl Profile {
    fn of(profile: &TokenProfile, circuits: &Circuits) -> Self {
        let status = profile.status.as_ref();
        Self {
            name: [profile.namespace().unwrap_or_default(), profile.name_any()],
            ready: is_ready(profile),
            circuit_open: profile.uid().is_some_and(|uid| circuits.is_open(&uid, Instant::now())),
            observed: is_observed(&profile.metadata, status.and_then(|status| status.observed_generation)),
            token_expires: status.and_then(|status| seconds(status.initial_access_token_expires_at.as_ref())),
        }
    }
}

fn verdict(conditions: &[Condition], type_: &str) -> [String; 2] {
    condition(conditions, type_).map_or_else(
        || ["Unknown".to_owned(), "Unobserved".to_owned()],
        |condition| [condition.status.clone(), condition.reason.clone()],
    )
}

fn is_observed(metadata: &ObjectMeta, observed: Option<i64>) -> bool {
    observed == metadata.generation
}

fn seconds(time: Option<&Time>) -> Option<i64> {
    time.map(|time| time.0.as_second())
}

/// One gauge: its labels' names, and values by the labels' values.
struct Gauge<const N: usize> {
    name: &'static str,
    help: &'static str,
    unit: Option<Unit>,
    labels: [&'static str; N],
    values: BTreeMap<[String; N], i64>,
}

impl<const N: usize> Gauge<N> {
    fn new(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self { name, help, unit: None, labels, values: BTreeMap::new() }
    }

    fn time(name: &'static str, help: &'static str, labels: [&'static str; N]) -> Self {
        Self { unit: Some(Unit::Seconds), ..Self::new(name, help, labels) }
    }

    fn add(&mut self, labels: [String; N], count: i64) {
        *self.values.entry(labels).or_default() += count;
    }

    fn earliest(&mut self, labels: [String; N], time: Option<i64>) {
        if let Some(time) = time {
            let entry = self.values.entry(labels).or_insert(time);
            *entry = time.min(*entry);
        }
    }

    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(self.name, self.help, self.unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in &self.values {
            let labels: Vec<(&str, &str)> =
                self.labels.into_iter().zip(labels).map(|(name, value)| (name, value.as_str())).collect();
            ConstGauge::new(*value).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Collector for Objects {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut profiles, mut policies) = (Vec::new(), Vec::new());
        if let Some(caches) = self.0.get() {
            profiles = caches.profiles.filter_map(|profile| Some(Profile::of(profile, &caches.circuits)));
            policies = caches.policies.filter_map(|policy| {
                let status = policy.status.as_ref();
                let observed = is_observed(&policy.metadata, status.and_then(|status| status.observed_generation));
                let name = [policy.namespace().unwrap_or_default(), policy.name_any()];
                Some((name, status.and_then(|status| status.clients), observed))
            });
        }

        let mut by_condition = Gauge::new(
            "clients",
            "OAuthClients, by profile and by each of their conditions with status and reason",
            [PROFILE[0], PROFILE[1], "condition", "status", "reason"],
        );
        let mut secret_expiry = Gauge::time(
            "client_secret_expiry_timestamp",
            "When the first of the client secrets of a profile ends",
            PROFILE,
        );
        let mut deletion = Gauge::time(
            "oldest_deletion_timestamp",
            "When the deletion was asked for that has been waiting longest, by profile",
            PROFILE,
        );
        let mut ready = Gauge::new("profile_ready", "1 if clients can be registered with the TokenProfile", PROFILE);
        let mut circuit = Gauge::new(
            "profile_circuit_open",
            "1 if the server of the TokenProfile is down, and is not called for a while",
            PROFILE,
        );
        let mut management_expiry = Gauge::time(
            "registration_access_token_expiry_timestamp",
            "When the first of the registration access tokens of a profile ends",
            PROFILE,
        );
        let mut token_expiry = Gauge::time(
            "initial_access_token_expiry_timestamp",
            "When the initial access token of a TokenProfile ends that was issued beforehand",
            PROFILE,
        );
        let mut judged = Gauge::new(
            "policy_clients",
            "OAuthClients that a DcrPolicy is about, and those of them that it forbids",
            ["policy_namespace", "policy", "verdict"],
        );
        let mut backlog =
            Gauge::new("backlog", "Objects whose present generation has not been looked at yet, by kind", ["kind"]);

        let known: BTreeSet<&[String; 2]> = profiles.iter().map(|profile| &profile.name).collect();
        let mut count = |client: Client| {
            // A name that anybody may write must not become a label: only profiles that exist.
            let profile = Some(client.profile).filter(|profile| known.contains(profile));
            let [namespace, profile] = profile.unwrap_or_default();
            for (type_, [status, reason]) in CLIENT_CONDITIONS.iter().zip(client.verdicts) {
                by_condition.add([namespace.clone(), profile.clone(), (*type_).to_owned(), status, reason], 1);
            }
            secret_expiry.earliest([namespace.clone(), profile.clone()], client.secret_expires);
            management_expiry.earliest([namespace.clone(), profile.clone()], client.token_expires);
            deletion.earliest([namespace, profile], client.deleting_since);
            backlog.add(["OAuthClient".to_owned()], i64::from(!client.observed));
        };
        if let Some(caches) = self.0.get() {
            caches.clients.for_each(|client| count(Client::of(client)));
        }
        for profile in profiles {
            ready.add(profile.name.clone(), i64::from(profile.ready));
            circuit.add(profile.name.clone(), i64::from(profile.circuit_open));
            token_expiry.earliest(profile.name, profile.token_expires);
            backlog.add(["TokenProfile".to_owned()], i64::from(!profile.observed));
        }
        for ([namespace, name], counts, observed) in policies {
            if let Some(counts) = counts {
                judged.add([namespace.clone(), name.clone(), "matching".to_owned()], counts.matching);
                judged.add([namespace, name, "violating".to_owned()], counts.violating);
            }
            backlog.add(["DcrPolicy".to_owned()], i64::from(!observed));
        }

        by_condition.encode(&mut encoder)?;
        secret_expiry.encode(&mut encoder)?;
        deletion.encode(&mut encoder)?;
        ready.encode(&mut encoder)?;
        circuit.encode(&mut encoder)?;
        management_expiry.encode(&mut encoder)?;
        token_expiry.encode(&mut encoder)?;
        judged.encode(&mut encoder)?;
        backlog.encode(&mut encoder)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_profile_that_is_suspended_is_not_one_with_which_clients_can_be_registered() {
        for (suspend, expected) in [(false, true), (true, false)] {
            // A suspended profile keeps its conditions.
            let profile: TokenProfile = serde_json::from_value(json!({
                "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "TokenProfile",
                "metadata": {"name": "token-service", "namespace": "identity", "generation": 2},
                "spec": {"issuer": "https://login.example.com", "suspend": suspend},
                "status": {"observedGeneration": 2, "conditions": [{"type": "Ready", "status": "True",
                    "reason": "Ready", "message": "", "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "observedGeneration": 2}]},
            }))
            .unwrap();
            assert_eq!(Profile::of(&profile, &Circuits::default()).ready, expected, "suspend: {suspend}");
        }
    }
}

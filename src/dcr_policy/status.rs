//! The status of a policy. Pure.

use jiff::Timestamp;

use crate::{
    api::{DcrPolicy, DcrPolicyStatus, Enforcement, PolicyClients, conditions, reasons},
    kubernetes::{Finding, merge},
    policy,
};

/// What else decides whether a policy can match anything at present.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// The profile of `profileRef` is there, or there is no `profileRef`.
    pub profile_exists: bool,
    /// The selector selects at least one namespace that exists, or there is no selector.
    pub selects_a_namespace: bool,
}

/// The status to write, if it differs from the one that is there.
#[must_use]
pub fn status(
    policy: &DcrPolicy,
    clients: PolicyClients,
    surroundings: Surroundings,
    now: Timestamp,
) -> DcrPolicyStatus {
    let generation = policy.metadata.generation;
    let old = policy.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let mut findings = Vec::new();
    match policy::contradiction(&policy.spec) {
        Some(why) => {
            findings.push((conditions::READY, Finding::no(reasons::CONTRADICTORY, why.clone())));
            // Nothing but a change of the spec can help.
            findings.push((conditions::STALLED, Finding::yes(reasons::CONTRADICTORY, why)));
        }
        None => findings.push((conditions::READY, Finding::yes(reasons::READY, message(policy, surroundings)))),
    }
    DcrPolicyStatus {
        observed_generation: generation,
        clients: Some(clients),
        conditions: merge(old, findings, generation, now),
    }
}

/// A profile or a namespace may come later, so a policy that waits for one is ready.
fn message(policy: &DcrPolicy, surroundings: Surroundings) -> String {
    let does = match policy.spec.enforcement {
        Enforcement::Enforce => "the policy is enforced",
        Enforcement::Audit => "the policy refuses nothing, it only reports (enforcement: Audit)",
    };
    let profile = policy.spec.profile_ref.as_ref().map_or("", |reference| &reference.name);
    match surroundings {
        Surroundings { profile_exists: false, .. } => {
            format!("{does}, and matches no client at present: TokenProfile {profile} of profileRef does not exist")
        }
        Surroundings { selects_a_namespace: false, .. } => {
            format!("{does}, and matches no client at present: namespaceSelector selects no namespace that exists")
        }
        _ => does.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn ready(spec: serde_json::Value, surroundings: Surroundings) -> (String, String, String) {
        let policy: DcrPolicy = serde_json::from_value(json!({"apiVersion": "dcr-operator.dev/v1alpha1",
            "kind": "DcrPolicy", "metadata": {"name": "web", "namespace": "identity"}, "spec": spec}))
        .unwrap();
        let clients = PolicyClients { matching: 1, violating: 0 };
        let status = status(&policy, clients, surroundings, Timestamp::UNIX_EPOCH);
        let ready = status.conditions[0].clone();
        (ready.status, ready.reason, ready.message)
    }

    #[test]
    fn a_policy_says_what_is_wrong_with_it_and_what_it_waits_for() {
        let all = Surroundings { profile_exists: true, selects_a_namespace: true };
        for (spec, surroundings, expected) in [
            (json!({}), all, ["True", "Ready", "the policy is enforced"]),
            (json!({"enforcement": "Audit"}), all, ["True", "Ready", "only reports"]),
            (
                json!({"profileRef": {"name": "gone"}}),
                Surroundings { profile_exists: false, ..all },
                ["True", "Ready", "TokenProfile gone of profileRef does not exist"],
            ),
            (
                json!({"namespaceSelector": {"matchLabels": {"a": "b"}}}),
                Surroundings { selects_a_namespace: false, ..all },
                ["True", "Ready", "namespaceSelector selects no namespace"],
            ),
            (json!({"registrationModes": []}), all, ["False", "Contradictory", "every client is refused"]),
        ] {
            let (status, reason, message) = ready(spec, surroundings);
            assert_eq!([&status, &reason], expected[..2].iter().collect::<Vec<_>>().as_slice());
            assert!(message.contains(expected[2]), "{message}");
        }
    }
}

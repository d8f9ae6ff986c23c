//! The status of a policy. Pure.

use jiff::Timestamp;

use crate::{
    api::{DcrPolicy, DcrPolicyStatus, OAuthClient, PolicyClients, conditions, reasons},
    kubernetes::{Finding, merge},
    oauth_client::metadata,
    policy,
};

/// Whether the client registers through a profile of the policy's namespace that the policy is about.
#[must_use]
pub fn matches(policy: &DcrPolicy, client: &OAuthClient) -> bool {
    let reference = &client.spec.profile_ref;
    let namespace = reference.namespace.as_ref().or(client.metadata.namespace.as_ref());
    namespace == policy.metadata.namespace.as_ref() && policy::concerns(policy, &reference.name)
}

/// Whether the policy forbids the client. What has no valid metadata is refused for that, and not by a policy.
#[must_use]
pub fn violates(policy: &DcrPolicy, client: &OAuthClient) -> bool {
    metadata::document(&client.spec).is_ok_and(|document| {
        let subject = policy::Subject { profile: &client.spec.profile_ref.name, metadata: &document.0 };
        !policy::violations([policy], subject).is_empty()
    })
}

/// The status to write, if it differs from the one that is there.
#[must_use]
pub fn status(policy: &DcrPolicy, clients: PolicyClients, now: Timestamp) -> DcrPolicyStatus {
    let generation = policy.metadata.generation;
    let old = policy.status.as_ref().map_or(&[][..], |status| &status.conditions);
    let ready = Finding::yes(reasons::READY, "the policy is enforced");
    DcrPolicyStatus {
        observed_generation: generation,
        clients: Some(clients),
        conditions: merge(old, vec![(conditions::READY, ready)], generation, now),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(spec: serde_json::Value) -> DcrPolicy {
        serde_json::from_value(json!({"apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy",
            "metadata": {"name": "web", "namespace": "identity"}, "spec": spec}))
        .unwrap()
    }

    fn client(profile: serde_json::Value, scope: &str) -> OAuthClient {
        serde_json::from_value(json!({"apiVersion": "dcr-operator.dev/v1alpha1", "kind": "OAuthClient",
            "metadata": {"name": "shop", "namespace": "shop"},
            "spec": {"profileRef": profile, "clientMetadata": {"scope": scope}}}))
        .unwrap()
    }

    #[test]
    fn a_policy_matches_the_clients_of_its_own_namespaces_profiles() {
        let (every, one) = (policy(json!({})), policy(json!({"profileRef": {"name": "a"}})));
        let (a, b) = (json!({"name": "a", "namespace": "identity"}), json!({"name": "b", "namespace": "identity"}));
        assert!(matches(&every, &client(a.clone(), "")) && matches(&every, &client(b.clone(), "")));
        assert!(matches(&one, &client(a, "")) && !matches(&one, &client(b, "")));
        assert!(!matches(&every, &client(json!({"name": "a"}), "")), "a profile of the client's own namespace");
    }

    #[test]
    fn violations_are_told_apart_from_matches() {
        let policy = policy(json!({"allowedScopes": ["openid"]}));
        let profile = json!({"name": "a", "namespace": "identity"});
        assert!(violates(&policy, &client(profile.clone(), "admin")));
        assert!(!violates(&policy, &client(profile, "openid")));
    }
}

//! Whether a client may be registered: by reference, metadata and policy. Pure; the profile's state is another matter.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{
    metadata::{Document, InvalidMetadata},
    observe::Observed,
    registration::RegistrationSecret,
};
use crate::{
    api::{AllowedNamespaces, NamespacesFrom, OAuthClient, OAuthClientStatus, TokenProfile, conditions, reasons},
    kubernetes::{Finding, condition},
    policy::{self, Older, Subject, Verdict},
};

/// What a person reads of a denial. It is in up to three conditions of each status, and all of them are cached.
pub const LONGEST_MESSAGE: usize = 2 * 1024;

/// Whether the client may be registered as it is.
#[must_use]
pub fn accept(observed: &Observed, document: &Result<Document, InvalidMetadata>) -> Finding {
    let name = observed.profile_name();
    let Some(profile) = &observed.profile else {
        if !observed.profile_is_watched {
            return Finding::no(
                reasons::PROFILE_NOT_FOUND,
                format!("TokenProfile {name} can't be seen: the operator does not watch its namespace (--namespaces)"),
            );
        }
        return Finding::no(reasons::PROFILE_NOT_FOUND, format!("TokenProfile {name} does not exist"));
    };
    if !observed.namespace_is_seen {
        let namespace = observed.namespace();
        return Finding::unknown(
            reasons::PROGRESSING,
            format!(
                "namespace {namespace} has not been seen yet: its labels decide which policies are about the client"
            ),
        );
    }
    if !permits(profile, observed.namespace(), &observed.namespace_labels) {
        let namespace = observed.namespace();
        return Finding::no(
            reasons::REF_NOT_PERMITTED,
            format!(
                "TokenProfile {name} does not allow OAuthClients of namespace {namespace} (spec.allowedNamespaces)"
            ),
        );
    }
    if adopts_without_token(observed) && observed.has_manager() && !observed.enrolls_by_manager() {
        let namespace = observed.namespace();
        return Finding::no(
            reasons::REF_NOT_PERMITTED,
            format!(
                "TokenProfile {name} does not allow OAuthClients of namespace {namespace} to adopt clients without their registration access token (spec.server.managementClient.adoptionNamespaces). Put the client's registration-access-token into a Secret and name that in spec.adopt.secretRef; or ask whoever keeps the TokenProfile to allow namespace {namespace} in that field"
            ),
        );
    }
    let document = match document {
        Ok(document) => document,
        Err(error) => return Finding::no(reasons::INVALID_METADATA, error.to_string()),
    };
    let verdict = policy::judge(
        &observed.policies,
        subject(&observed.client, document, &observed.namespace_labels, observed.older),
    );
    if !verdict.is_allowed() {
        return Finding::no(reasons::POLICY_DENIED, denial(&verdict));
    }
    Finding::yes(reasons::ACCEPTED, format!("accepted by TokenProfile {name} and its policies{}", audit(&verdict)))
}

/// The client as policies see it.
#[must_use]
pub fn subject<'a>(
    client: &'a OAuthClient,
    document: &'a Document,
    namespace_labels: &'a BTreeMap<String, String>,
    older: Older,
) -> Subject<'a> {
    let spec = &client.spec;
    Subject {
        profile: &spec.profile_ref.name,
        namespace_labels,
        template: spec.template_id.as_deref(),
        metadata: &document.0,
        additional: &spec.additional_metadata,
        older,
    }
}

/// Whether the client's status says something else than the verdict: then the client has to be looked at again. What comes
/// before the policies (no profile, no valid metadata) is not for them to judge.
#[must_use]
pub fn contradicts(status: Option<&OAuthClientStatus>, verdict: &Verdict) -> bool {
    let accepted = status.and_then(|status| condition(&status.conditions, conditions::ACCEPTED));
    let Some(Condition { reason, message, .. }) = accepted else { return false };
    match reason.as_str() {
        reasons::POLICY_DENIED => verdict.is_allowed() || *message != denial(verdict),
        reasons::ACCEPTED => !verdict.is_allowed() || !message.ends_with(&format!("its policies{}", audit(verdict))),
        reasons::PROFILE_NOT_READY => !verdict.is_allowed(),
        _ => false,
    }
}

fn denial(verdict: &Verdict) -> String {
    policy::joined(&verdict.denied, LONGEST_MESSAGE)
}

/// Nothing, if no policy that only audits finds anything.
fn audit(verdict: &Verdict) -> String {
    if verdict.audited.is_empty() {
        return String::new();
    }
    format!("; only audited: {}", policy::joined(&verdict.audited, LONGEST_MESSAGE))
}

/// Refused by what the spec says, not by what is missing around it.
#[must_use]
pub fn is_refused(accepted: &Finding) -> bool {
    [reasons::POLICY_DENIED, reasons::INVALID_METADATA].contains(&accepted.reason.as_str())
}

/// A client is to be adopted, nothing of it is known yet, and its registration access token is not given.
fn adopts_without_token(observed: &Observed) -> bool {
    let is_adopted = observed.client.status.as_ref().is_some_and(|status| status.client_id.is_some())
        || !matches!(observed.registration, RegistrationSecret::Absent);
    observed.client.spec.adopt.is_some()
        && !is_adopted
        && match &observed.adoption {
            None => true,
            Some(Ok(given)) => given.registration_access_token.is_none(),
            // It may still come.
            Some(Err(_)) => false,
        }
}

/// Whether the profile lets in the OAuthClients of a namespace.
#[must_use]
pub fn permits(profile: &TokenProfile, namespace: &str, namespace_labels: &BTreeMap<String, String>) -> bool {
    includes(&profile.spec.allowed_namespaces, profile, namespace, namespace_labels)
}

/// Whether the profile's management client adopts clients for the OAuthClients of a namespace.
#[must_use]
pub fn permits_adoption(profile: &TokenProfile, namespace: &str, namespace_labels: &BTreeMap<String, String>) -> bool {
    let manager = profile.spec.server.management_client.as_ref();
    manager.is_some_and(|manager| includes(&manager.adoption_namespaces, profile, namespace, namespace_labels))
}

fn includes(
    allowed: &AllowedNamespaces,
    profile: &TokenProfile,
    namespace: &str,
    namespace_labels: &BTreeMap<String, String>,
) -> bool {
    let same = profile.metadata.namespace.as_deref() == Some(namespace);
    match allowed.from {
        NamespacesFrom::Same => same,
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => {
            allowed.selector.as_ref().is_some_and(|selector| policy::selector_matches(selector, namespace_labels))
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;
    use crate::{api::DcrPolicy, kubernetes::merge};

    fn verdict(policies: &[serde_json::Value]) -> Verdict {
        let policies: Vec<DcrPolicy> =
            policies.iter().map(|spec| DcrPolicy::new("web", serde_json::from_value(spec.clone()).unwrap())).collect();
        let spec = json!({"profileRef": {"name": "p"}, "clientMetadata": {"scope": "openid"}});
        let client = OAuthClient::new("shop", serde_json::from_value(spec).unwrap());
        let document = super::super::metadata::document(&client.spec).unwrap();
        policy::judge(&policies, subject(&client, &document, &BTreeMap::new(), Older::default()))
    }

    #[test]
    fn a_status_is_out_of_date_when_the_policies_say_something_else() {
        let (none, denied) = (verdict(&[]), verdict(&[json!({"allowedScopes": []})]));
        let audited = verdict(&[json!({"allowedScopes": [], "enforcement": "Audit"})]);
        let accepted = |verdict: &Verdict| {
            Finding::yes(reasons::ACCEPTED, format!("accepted by TokenProfile p and its policies{}", audit(verdict)))
        };
        let refused = Finding::no(reasons::POLICY_DENIED, denial(&denied));
        let waiting = Finding::unknown(reasons::PROFILE_NOT_READY, "not ready");
        let missing = Finding::no(reasons::PROFILE_NOT_FOUND, "gone");
        for (said, verdict, expected) in [
            (accepted(&none), &none, false),
            (accepted(&none), &denied, true),
            (accepted(&none), &audited, true),
            (accepted(&audited), &audited, false),
            (accepted(&audited), &none, true),
            (refused.clone(), &denied, false),
            (refused.clone(), &none, true),
            (Finding::no(reasons::POLICY_DENIED, "something else"), &denied, true),
            (waiting.clone(), &denied, true),
            (waiting, &none, false),
            (missing, &denied, false),
        ] {
            let status = OAuthClientStatus {
                conditions: merge(&[], vec![(conditions::ACCEPTED, said.clone())], None, Timestamp::UNIX_EPOCH),
                ..OAuthClientStatus::default()
            };
            assert_eq!(contradicts(Some(&status), verdict), expected, "{said:?} and {verdict:?}");
        }
        assert!(!contradicts(None, &denied), "nobody has looked at it yet: that will come");
    }
}

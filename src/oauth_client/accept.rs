//! Whether a client may be registered: by reference, metadata and policy. Pure; the profile's state is another matter.

use std::collections::BTreeMap;

use super::{
    metadata::{Document, InvalidMetadata},
    observe::Observed,
};
use crate::{
    api::{NamespacesFrom, TokenProfile, reasons},
    kubernetes::Finding,
    policy,
};

/// Whether the client may be registered as it is.
#[must_use]
pub fn accept(observed: &Observed, document: &Result<Document, InvalidMetadata>) -> Finding {
    let name = observed.profile_name();
    let Some(profile) = &observed.profile else {
        return Finding::no(reasons::PROFILE_NOT_FOUND, format!("TokenProfile {name} does not exist"));
    };
    if !permits(profile, observed.namespace(), &observed.namespace_labels) {
        let namespace = observed.namespace();
        return Finding::no(
            reasons::REF_NOT_PERMITTED,
            format!(
                "TokenProfile {name} does not allow OAuthClients of namespace {namespace} (spec.allowedNamespaces)"
            ),
        );
    }
    let document = match document {
        Ok(document) => document,
        Err(error) => return Finding::no(reasons::INVALID_METADATA, error.to_string()),
    };
    let subject = policy::Subject { profile: &observed.client.spec.profile_ref.name, metadata: &document.0 };
    let violations = policy::violations(&observed.policies, subject);
    if !violations.is_empty() {
        let all: Vec<String> = violations.iter().map(ToString::to_string).collect();
        return Finding::no(reasons::POLICY_DENIED, all.join("; "));
    }
    Finding::yes(reasons::ACCEPTED, format!("accepted by TokenProfile {name} and its policies"))
}

/// Refused by what the spec says, not by what is missing around it.
#[must_use]
pub fn is_refused(accepted: &Finding) -> bool {
    [reasons::POLICY_DENIED, reasons::INVALID_METADATA].contains(&accepted.reason.as_str())
}

/// Whether the profile lets in the OAuthClients of a namespace.
#[must_use]
pub fn permits(profile: &TokenProfile, namespace: &str, namespace_labels: &BTreeMap<String, String>) -> bool {
    let allowed = &profile.spec.allowed_namespaces;
    let same = profile.metadata.namespace.as_deref() == Some(namespace);
    match allowed.from {
        NamespacesFrom::Same => same,
        NamespacesFrom::All => true,
        NamespacesFrom::Selector => {
            allowed.selector.as_ref().is_some_and(|selector| policy::selector_matches(selector, namespace_labels))
        }
    }
}

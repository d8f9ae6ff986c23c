//! What DcrPolicy means. Pure: judged before a call to the server, on what the server answered, and when a policy changes.
//!
//! | file | concern |
//! |---|---|
//! | `facts` | what there is to judge, read once for all policies |
//! | `redirect_uri` | the parts of a redirect URI, and the rules for them |
//! | `verdict` | one policy's opinion, field by field |
//! | `quota` | `maxClientsPerNamespace`: who was there first |
//! | `granted` | the same rules for what a server has registered |
//! | `sense` | policies that contradict themselves or can't match |
//! | `admission` | the same rules in CEL, as a ValidatingAdmissionPolicy |
//! | `selector` | label selectors |
//!
//! `admission` and the rest of this module must agree: `tests/policies.yaml` goes through both, row by row.

pub mod admission;
mod facts;
mod granted;
mod quota;
mod redirect_uri;
mod selector;
mod sense;
mod verdict;

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::api::{DcrPolicy, OAuthClient};
use facts::Facts;
pub use granted::{Granted, granted, narrowed};
pub use quota::{Older, Seniority};
pub use selector::matches as selector_matches;
pub use sense::contradiction;
pub use verdict::{Verdict, Violation, joined};

/// A client as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Name of the TokenProfile, which lives in the policies' namespace.
    pub profile: &'a str,
    /// Labels of the client's namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// `spec.templateId`: the server makes the client from a template, and the defaults of RFC 7591 do not count.
    pub template: Option<&'a str>,
    /// The metadata that would be sent, as built by [`crate::oauth_client::metadata`].
    pub metadata: &'a Map<String, Value>,
    /// `spec.additionalMetadata`, which is also part of `metadata`.
    pub additional: &'a Map<String, Value>,
    /// The clients that came before.
    pub older: Older,
}

/// Whether the policy is about the clients of a profile (in the policy's own namespace) and of a namespace with these
/// labels.
#[must_use]
pub fn concerns(policy: &DcrPolicy, profile: &str, namespace_labels: &BTreeMap<String, String>) -> bool {
    let spec = &policy.spec;
    spec.profile_ref.as_ref().is_none_or(|reference| reference.name == profile)
        && spec.namespace_selector.as_ref().is_none_or(|selector| selector::matches(selector, namespace_labels))
}

/// The namespace of the policies that the client is under: that of its profile.
#[must_use]
pub fn namespace_of(client: &OAuthClient) -> &str {
    let own = client.metadata.namespace.as_deref();
    client.spec.profile_ref.namespace.as_deref().or(own).unwrap_or_default()
}

/// What the policies say about the subject: all that concern it must allow it, and every violation is named.
///
/// The policies are those of the profile's namespace.
#[must_use]
pub fn judge<'a>(policies: impl IntoIterator<Item = &'a DcrPolicy>, subject: Subject<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    each(policies, subject, |policy, violations| verdict.add(policy, violations));
    verdict
}

/// What each policy that concerns the subject says about it.
pub fn each<'a>(
    policies: impl IntoIterator<Item = &'a DcrPolicy>,
    subject: Subject<'_>,
    mut tell: impl FnMut(&'a DcrPolicy, Vec<Violation>),
) {
    let facts = Facts::requested(&subject);
    for policy in policies {
        if concerns(policy, subject.profile, subject.namespace_labels) {
            let mut violations = verdict::violations(policy, &facts);
            violations.extend(quota::violation(policy, subject.older));
            tell(policy, violations);
        }
    }
}

#[cfg(test)]
mod tests;

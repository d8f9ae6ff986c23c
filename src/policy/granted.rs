//! The policies' opinion about what a server has registered: it may be more than was asked for (RFC 7591 section 3.2.1).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Verdict, concerns,
    facts::{Facts, REDIRECT_MEMBERS, list, scopes},
    redirect_uri::RedirectUri,
    verdict,
};
use crate::api::{DcrPolicy, Enforcement};

/// A registration as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Granted<'a> {
    /// Name of the TokenProfile, which lives in the policies' namespace.
    pub profile: &'a str,
    /// Labels of the client's namespace.
    pub namespace_labels: &'a BTreeMap<String, String>,
    /// The client metadata of the server's answer. The members that only the server gives do no harm.
    pub metadata: &'a Map<String, Value>,
}

/// What the policies forbid about a registration: a scope, a grant type, a response type, a redirect URI, an
/// authenticator, an authentication method, a life time or the lack of PKCE that the server has registered.
///
/// Only what the answer states is judged: a server need not repeat its defaults. How the client was asked for
/// (`registrationModes`, `allowedTemplates`, `allowedAdditionalMetadata`) and how many there are
/// (`maxClientsPerNamespace`) is the business of [`super::judge`].
///
/// [`Verdict::denied`] must not stay: update the registration to [`narrowed`] if that is allowed, else remove it before
/// anybody gets its credentials. [`Verdict::audited`] is only reported.
#[must_use]
pub fn granted<'a>(policies: impl IntoIterator<Item = &'a DcrPolicy>, granted: Granted<'_>) -> Verdict {
    let facts = Facts::registered(granted.metadata);
    let mut verdict = Verdict::default();
    for policy in policies {
        if concerns(policy, granted.profile, granted.namespace_labels) {
            verdict.add(policy, verdict::violations(policy, &facts));
        }
    }
    verdict
}

/// The registration's metadata without what the policies forbid: values that are not allowed are taken out, life times
/// are shortened, PKCE is required. To be sent in an update (RFC 7592 section 2.2).
///
/// What can't be narrowed is left as it is, an authentication method for one: judge the result with [`granted`] again
/// before it is sent.
#[must_use]
pub fn narrowed<'a>(policies: impl IntoIterator<Item = &'a DcrPolicy>, granted: Granted<'_>) -> Map<String, Value> {
    let mut metadata = granted.metadata.clone();
    for policy in policies {
        let spec = &policy.spec;
        if spec.enforcement == Enforcement::Audit || !concerns(policy, granted.profile, granted.namespace_labels) {
            continue;
        }
        retain(&mut metadata, "grant_types", spec.allowed_grant_types.as_deref(), |one, other| one == other);
        retain(&mut metadata, "response_types", spec.allowed_response_types.as_deref(), verdict::same_words);
        retain(&mut metadata, "default_acr_values", spec.allowed_authenticators.as_deref(), |one, other| one == other);
        if let Some(allowed) = &spec.allowed_scopes
            && metadata.get("scope").is_some_and(Value::is_string)
        {
            let mut kept = scopes(&metadata);
            kept.retain(|scope| allowed.contains(scope));
            metadata.insert("scope".into(), kept.join(" ").into());
        }
        if let Some(rules) = &spec.allowed_redirect_uris {
            for name in REDIRECT_MEMBERS {
                if let Some(mut uris) = list(&metadata, name) {
                    uris.retain(|uri| rules.iter().any(|rule| RedirectUri::new(uri.clone()).matches(rule)));
                    metadata.insert(name.into(), uris.into());
                }
            }
            if metadata.get("allow_per_request_redirect_uris").is_some_and(|value| *value == true) {
                metadata.insert("allow_per_request_redirect_uris".into(), false.into());
            }
        }
        if spec.require_pkce == Some(true) && metadata.contains_key("require_proof_key") {
            metadata.insert("require_proof_key".into(), true.into());
        }
        for (name, longest) in
            [("access_token_ttl", spec.max_access_token_ttl), ("refresh_token_ttl", spec.max_refresh_token_ttl)]
        {
            if let (Some(longest), Some(value)) = (longest, metadata.get_mut(name)) {
                let longest = std::time::Duration::from(longest).as_secs();
                if !value.is_null() && value.as_u64().is_none_or(|value| value > longest) {
                    *value = longest.into();
                }
            }
        }
    }
    metadata
}

fn retain(metadata: &mut Map<String, Value>, name: &str, allowed: Option<&[String]>, is: impl Fn(&str, &str) -> bool) {
    let (Some(allowed), Some(mut values)) = (allowed, list(metadata, name)) else { return };
    values.retain(|value| allowed.iter().any(|allowed| is(value, allowed)));
    metadata.insert(name.into(), values.into());
}

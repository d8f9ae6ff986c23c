//! What DcrPolicy means. Pure: used before a call to the server, and by whatever else must give the same answer.

mod selector;

use serde_json::{Map, Value};

use crate::api::DcrPolicy;
pub use selector::matches as selector_matches;

/// A client as policies see it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Name of the TokenProfile, which lives in the policies' namespace.
    pub profile: &'a str,
    /// The metadata that would be sent, as built by [`crate::oauth_client::metadata`].
    pub metadata: &'a Map<String, Value>,
}

/// One value that one policy forbids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub policy: String,
    pub field: &'static str,
    pub value: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DcrPolicy {} forbids {}: {}", self.policy, self.field, self.value)
    }
}

/// Whether the policy is about the profile of that name (in the policy's own namespace).
#[must_use]
pub fn concerns(policy: &DcrPolicy, profile: &str) -> bool {
    policy.spec.profile_ref.as_ref().is_none_or(|reference| reference.name == profile)
}

/// Everything that the policies forbid about the subject: all of them must allow it.
#[must_use]
pub fn violations<'a>(policies: impl IntoIterator<Item = &'a DcrPolicy>, subject: Subject<'_>) -> Vec<Violation> {
    let grant_types = list(subject.metadata, "grant_types", &["authorization_code"]);
    let scopes = scope_values(subject.metadata);
    let mut found = Vec::new();
    for policy in policies.into_iter().filter(|policy| concerns(policy, subject.profile)) {
        let name = policy.metadata.name.as_deref().unwrap_or_default();
        for (field, values, allowed) in [
            ("grant_types", &grant_types, &policy.spec.allowed_grant_types),
            ("scope", &scopes, &policy.spec.allowed_scopes),
        ] {
            let Some(allowed) = allowed else { continue };
            found.extend(values.iter().filter(|value| !allowed.contains(value)).map(|value| Violation {
                policy: name.to_owned(),
                field,
                value: value.clone(),
            }));
        }
    }
    found
}

/// The values of a list member; a member that is left out has the default of RFC 7591 section 2.
fn list(metadata: &Map<String, Value>, name: &str, default: &[&str]) -> Vec<String> {
    match metadata.get(name) {
        None | Some(Value::Null) => default.iter().map(ToString::to_string).collect(),
        Some(Value::Array(values)) => values.iter().map(text).collect(),
        // Not a list: nothing that an allowed list could contain.
        Some(other) => vec![text(other)],
    }
}

/// The scope values, whatever the blanks between them.
fn scope_values(metadata: &Map<String, Value>) -> Vec<String> {
    match metadata.get("scope") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(scope)) => scope.split_ascii_whitespace().map(str::to_owned).collect(),
        Some(other) => vec![text(other)],
    }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::{DcrPolicySpec, PolicyProfileRef};

    fn policy(spec: DcrPolicySpec) -> DcrPolicy {
        DcrPolicy::new("web", spec)
    }

    fn allow(grant_types: Option<&[&str]>, scopes: Option<&[&str]>) -> DcrPolicySpec {
        let owned = |values: &[&str]| values.iter().map(ToString::to_string).collect();
        DcrPolicySpec {
            profile_ref: None,
            allowed_grant_types: grant_types.map(owned),
            allowed_scopes: scopes.map(owned),
        }
    }

    /// What is forbidden, as `field=value`.
    fn forbidden(spec: DcrPolicySpec, metadata: Value) -> Vec<String> {
        let Value::Object(metadata) = metadata else { panic!("metadata is an object") };
        violations([&policy(spec)], Subject { profile: "token-service", metadata: &metadata })
            .into_iter()
            .map(|violation| format!("{}={}", violation.field, violation.value))
            .collect()
    }

    #[test]
    fn each_field_is_judged_absent_empty_hit_and_missed() {
        let code = Some(["authorization_code"].as_slice());
        let openid = Some(["openid"].as_slice());
        let none: &[&str] = &[];
        for (spec, metadata, expected) in [
            (allow(None, None), json!({"grant_types": ["implicit"], "scope": "admin"}), vec![]),
            (allow(code, openid), json!({"grant_types": ["authorization_code"], "scope": "openid"}), vec![]),
            (
                allow(code, None),
                json!({"grant_types": ["implicit", "password"]}),
                vec!["grant_types=implicit", "grant_types=password"],
            ),
            (allow(None, openid), json!({"scope": "openid  admin\troot "}), vec!["scope=admin", "scope=root"]),
            (allow(None, openid), json!({}), vec![]),
            (allow(None, Some(none)), json!({"scope": "openid"}), vec!["scope=openid"]),
            (allow(Some(none), None), json!({}), vec!["grant_types=authorization_code"]),
            (allow(Some(&["client_credentials"]), None), json!({}), vec!["grant_types=authorization_code"]),
            (
                allow(Some(&["client_credentials"]), None),
                json!({"grant_types": null}),
                vec!["grant_types=authorization_code"],
            ),
            (allow(Some(none), None), json!({"grant_types": []}), vec![]),
            (allow(code, None), json!({"grant_types": "implicit"}), vec!["grant_types=implicit"]),
            (allow(None, openid), json!({"scope": ["admin"]}), vec![r#"scope=["admin"]"#]),
        ] {
            let shown = format!("{spec:?} on {metadata}");
            assert_eq!(forbidden(spec, metadata), expected, "{shown}");
        }
    }

    #[test]
    fn a_policy_for_another_profile_forbids_nothing() {
        let spec = DcrPolicySpec {
            profile_ref: Some(PolicyProfileRef { name: "other".into() }),
            ..allow(Some(&[]), Some(&[]))
        };
        assert!(forbidden(spec, json!({"scope": "admin"})).is_empty());
    }

    #[test]
    fn all_policies_must_allow_and_every_violation_is_named() {
        let (loose, strict) = (policy(allow(None, Some(&["openid", "email"]))), policy(allow(None, Some(&["openid"]))));
        let Value::Object(metadata) = json!({"scope": "openid email"}) else { unreachable!() };
        let found = violations([&loose, &strict], Subject { profile: "p", metadata: &metadata });
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "DcrPolicy web forbids scope: email");
    }
}

//! What there is to judge about a client, read once for all policies.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{Subject, redirect_uri::RedirectUri};
use crate::api::{RegistrationMode, reserved_members};

/// The members whose URIs a server sends a browser to.
pub const REDIRECT_MEMBERS: [&str; 3] = ["redirect_uris", "post_logout_redirect_uris", "claims_redirect_uris"];

/// What policies look at.
#[derive(Debug, Default)]
pub struct Facts {
    /// Unknown for what a server answered.
    pub mode: Option<RegistrationMode>,
    /// The template, and the field that names it.
    pub template: Option<(&'static str, String)>,
    pub grant_types: Vec<String>,
    pub response_types: Vec<String>,
    pub scopes: Vec<String>,
    pub authenticators: Vec<String>,
    pub auth_methods: Vec<String>,
    pub redirect_uris: Vec<(&'static str, RedirectUri)>,
    /// The client may use redirect URIs that are not registered.
    pub any_redirect_uri: bool,
    pub proof_key: ProofKey,
    pub access_token_ttl: Option<Seconds>,
    pub refresh_token_ttl: Option<Seconds>,
    /// Names in `additionalMetadata` that belong elsewhere.
    pub smuggled: Vec<String>,
    /// The other names in `additionalMetadata`.
    pub additional: Vec<String>,
}

/// `require_proof_key`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProofKey {
    /// Not stated, and nobody had to.
    #[default]
    Unstated,
    /// Not stated by the one who had to.
    Absent,
    Stated(bool),
}

/// A time span, and how it was written.
#[derive(Debug)]
pub struct Seconds {
    pub count: i64,
    pub text: String,
}

impl Facts {
    /// What is asked for. Defaults of RFC 7591 section 2 count, except for a client whose members are a template's.
    pub fn requested(subject: &Subject<'_>) -> Self {
        let members = subject.metadata;
        let templatized = subject.template.is_some();
        let or_default = |name: &str, default: &str| match list(members, name) {
            None if templatized => Vec::new(),
            None => vec![default.to_owned()],
            Some(values) => values,
        };
        let (smuggled, additional) = subject.additional.keys().cloned().partition(|name| is_reserved(name));
        Self {
            mode: Some(if templatized { RegistrationMode::Templatized } else { RegistrationMode::NonTemplatized }),
            template: match subject.template {
                Some(template) => Some(("templateId", template.to_owned())),
                None => members.get("software_id").filter(|id| !id.is_null()).map(|id| ("software_id", text(id))),
            },
            grant_types: or_default("grant_types", "authorization_code"),
            response_types: or_default("response_types", "code"),
            auth_methods: or_default("token_endpoint_auth_method", "client_secret_basic"),
            proof_key: match proof_key(members) {
                ProofKey::Unstated if !templatized => ProofKey::Absent,
                stated => stated,
            },
            smuggled,
            additional,
            ..Self::stated(members)
        }
    }

    /// What a server says that it has registered, each value once. What it does not say can't be judged.
    pub fn registered(members: &Map<String, Value>) -> Self {
        let mut facts = Self::stated(members);
        let Self { grant_types, response_types, scopes, authenticators, .. } = &mut facts;
        for values in [grant_types, response_types, scopes, authenticators] {
            let mut seen = HashSet::new();
            values.retain(|value| seen.insert(value.clone()));
        }
        let mut seen = HashSet::new();
        facts.redirect_uris.retain(|(name, uri)| seen.insert((*name, uri.text.clone())));
        facts
    }

    fn stated(members: &Map<String, Value>) -> Self {
        Self {
            mode: None,
            template: None,
            grant_types: list(members, "grant_types").unwrap_or_default(),
            response_types: list(members, "response_types").unwrap_or_default(),
            scopes: scopes(members),
            authenticators: list(members, "default_acr_values").unwrap_or_default(),
            auth_methods: list(members, "token_endpoint_auth_method").unwrap_or_default(),
            redirect_uris: REDIRECT_MEMBERS
                .into_iter()
                .flat_map(|name| list(members, name).unwrap_or_default().into_iter().map(move |uri| (name, uri)))
                .map(|(name, uri)| (name, RedirectUri::new(uri)))
                .collect(),
            any_redirect_uri: members.get("allow_per_request_redirect_uris").is_some_and(|value| value == true),
            proof_key: proof_key(members),
            access_token_ttl: seconds(members, "access_token_ttl"),
            refresh_token_ttl: seconds(members, "refresh_token_ttl"),
            smuggled: Vec::new(),
            additional: Vec::new(),
        }
    }
}

/// The values of a member that is a list, or a single value.
pub fn list(members: &Map<String, Value>, name: &str) -> Option<Vec<String>> {
    match members.get(name)? {
        Value::Null => None,
        Value::Array(values) => Some(values.iter().map(text).collect()),
        // Where a list is expected: nothing that an allowed list could contain.
        other => Some(vec![text(other)]),
    }
}

/// The scope values, however many spaces are between them (RFC 6749 section 3.3).
pub fn scopes(members: &Map<String, Value>) -> Vec<String> {
    match members.get("scope") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(scope)) => scope.split(' ').filter(|token| !token.is_empty()).map(str::to_owned).collect(),
        Some(other) => vec![text(other)],
    }
}

fn proof_key(members: &Map<String, Value>) -> ProofKey {
    match members.get("require_proof_key") {
        None | Some(Value::Null) => ProofKey::Unstated,
        Some(value) => ProofKey::Stated(*value == true),
    }
}

/// What is not understood counts as for ever: it must not open a door.
fn seconds(members: &Map<String, Value>, name: &str) -> Option<Seconds> {
    let value = members.get(name).filter(|value| !value.is_null())?;
    let text = text(value);
    let count = value.as_i64().or_else(|| text.parse().ok()).filter(|count| *count >= 0).unwrap_or(i64::MAX);
    Some(Seconds { count, text })
}

/// Some servers read member names without regard to case, as Unicode folds it: two letters outside ASCII become `s` and
/// `k`.
fn is_reserved(name: &str) -> bool {
    use std::{collections::BTreeSet, sync::LazyLock};
    static RESERVED: LazyLock<BTreeSet<String>> = LazyLock::new(|| reserved_members().into_iter().collect());
    RESERVED.contains(&name.replace('\u{17f}', "s").replace('\u{212a}', "k").to_ascii_lowercase())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

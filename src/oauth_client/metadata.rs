//! The client metadata document: what is asked for, and how it compares with what was registered. Pure.

use std::{
    collections::hash_map::DefaultHasher,
    fmt,
    hash::{Hash, Hasher},
};

use serde_json::{Map, Value};

use crate::{
    api::{ClientMetadata, ISSUED_BY_SERVER, OAuthClientSpec, ServerBehaviour, ServerChange},
    text::truncate,
};

/// Members whose values are a set: order means nothing.
const SPACE_DELIMITED: &str = "scope";

/// Every client may ask for it.
pub const OPENID: &str = "openid";

/// Longer values are shown cut in the status.
const LONGEST_SHOWN: usize = 512;

/// A client metadata document. `Debug` names its members alone: a software statement is a credential.
#[derive(Clone, Default, PartialEq)]
pub struct Document(pub Map<String, Value>);

impl fmt::Debug for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Document {
    /// The same for equal documents, whatever the order of their members.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        // serde_json keeps members sorted.
        Value::Object(self.0.clone()).to_string().hash(&mut hasher);
        hasher.finish()
    }
}

/// Why there is no document to send.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMetadata {
    #[error("spec.additionalMetadata.{0} is a member that clientMetadata knows: write it as spec.clientMetadata.{0}")]
    KnownMember(String),
    #[error("spec.additionalMetadata.{0} is given by the server alone: remove it")]
    IssuedByServer(String),
}

/// The document to send: the members of `clientMetadata`, or the template as `software_id`, and `additionalMetadata`.
///
/// # Errors
/// If `additionalMetadata` has a member that belongs elsewhere.
pub fn document(spec: &OAuthClientSpec) -> Result<Document, InvalidMetadata> {
    let mut members = spec.client_metadata.as_ref().map(ClientMetadata::members).unwrap_or_default();
    if let Some(template) = &spec.template_id {
        members.insert("software_id".into(), Value::String(template.clone()));
    }
    if spec.keys.is_some() {
        members.insert("token_endpoint_auth_method".into(), "private_key_jwt".into());
    }
    for (name, value) in &spec.additional_metadata {
        if ISSUED_BY_SERVER.contains(&name.as_str()) {
            return Err(InvalidMetadata::IssuedByServer(name.clone()));
        }
        if ClientMetadata::known_names().contains(name.as_str()) {
            return Err(InvalidMetadata::KnownMember(name.clone()));
        }
        members.insert(name.clone(), value.clone());
    }
    Ok(Document(members))
}

/// The document as this server takes it: a scope that is no client's own is left out.
#[must_use]
pub fn for_server(mut document: Document, server: &ServerBehaviour) -> Document {
    if !server.registers_openid()
        && let Some(Value::String(scope)) = document.0.get("scope")
    {
        let others: Vec<&str> = scope.split_ascii_whitespace().filter(|scope| *scope != OPENID).collect();
        let others = others.join(" ");
        document.0.insert(SPACE_DELIMITED.into(), others.into());
    }
    document
}

/// The members that were asked for and registered with another value.
#[must_use]
pub fn server_changes(requested: &Map<String, Value>, registered: &Map<String, Value>) -> Vec<ServerChange> {
    requested
        .iter()
        // Sent, never answered: RFC 7591 section 3.2.1 lets the server echo it or not, and it is no one's business.
        .filter(|(name, _)| *name != "software_statement")
        .filter_map(|(name, requested)| {
            let registered = registered.get(name).unwrap_or(&Value::Null);
            (!equivalent(name, requested, registered)).then(|| ServerChange {
                name: name.clone(),
                requested: shown(requested),
                registered: shown(registered),
            })
        })
        .take(128)
        .collect()
}

/// Whether two values of a member mean the same: lists and scopes are sets, and nothing is as good as an empty one.
#[must_use]
pub fn equivalent(name: &str, one: &Value, other: &Value) -> bool {
    fn values(name: &str, value: &Value) -> Option<Vec<String>> {
        let mut values: Vec<String> = match value {
            Value::Null => Vec::new(),
            Value::String(scope) if name == SPACE_DELIMITED => {
                scope.split_ascii_whitespace().map(str::to_owned).collect()
            }
            Value::String(text) if text.is_empty() => Vec::new(),
            Value::Array(items) => items.iter().map(ToString::to_string).collect(),
            _ => return None,
        };
        values.sort();
        values.dedup();
        Some(values)
    }
    one == other || values(name, one).is_some_and(|one| values(name, other) == Some(one))
}

/// The value as the status shows it: bounded, and freed of control characters where the server chose it.
fn shown(value: &Value) -> Value {
    let text = value.to_string();
    if text.len() <= LONGEST_SHOWN && !text.contains("\\u00") {
        value.clone()
    } else {
        Value::String(truncate(&text, LONGEST_SHOWN))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn spec(value: Value) -> OAuthClientSpec {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_document_is_the_metadata_with_the_additional_members() {
        let spec = spec(json!({
            "profileRef": {"name": "p"},
            "clientMetadata": {"scope": "openid", "redirect_uris": ["https://a/cb"], "grant_types": []},
            "additionalMetadata": {"template_area": "eu", "client_name#de": "Laden"},
        }));
        assert_eq!(
            document(&spec).unwrap().0,
            map(
                json!({"scope": "openid", "redirect_uris": ["https://a/cb"], "grant_types": [], "template_area": "eu", "client_name#de": "Laden"})
            )
        );
    }

    #[test]
    fn a_template_is_sent_as_software_id() {
        let spec = spec(json!({"profileRef": {"name": "p"}, "templateId": "web"}));
        assert_eq!(document(&spec).unwrap().0, map(json!({"software_id": "web"})));
    }

    #[test]
    fn a_server_to_which_openid_is_no_scope_is_not_asked_for_it() {
        let keycloak: ServerBehaviour = serde_json::from_value(json!({"type": "Keycloak"})).unwrap();
        for (scope, sent) in [("openid email", "email"), ("email  openid", "email"), ("openid", ""), ("email", "email")]
        {
            let document = || Document(map(json!({"scope": scope})));
            assert_eq!(for_server(document(), &keycloak).0["scope"], sent);
            assert_eq!(for_server(document(), &ServerBehaviour::default()), document());
        }
        assert!(for_server(Document::default(), &keycloak).0.is_empty());
    }

    #[test]
    fn members_that_belong_elsewhere_are_refused_by_name() {
        for (name, way_out) in [("scope", "spec.clientMetadata.scope"), ("client_secret", "remove it")] {
            let spec =
                spec(json!({"profileRef": {"name": "p"}, "clientMetadata": {}, "additionalMetadata": {name: "x"}}));
            let message = document(&spec).unwrap_err().to_string();
            assert!(
                message.contains(&format!("spec.additionalMetadata.{name}")) && message.contains(way_out),
                "{message}"
            );
        }
    }

    #[test]
    fn only_real_differences_are_server_changes() {
        let requested = map(json!({
            "scope": "openid  email", "grant_types": ["a", "b"], "client_name": "Shop", "contacts": [],
            "response_types": ["code"], "logo_uri": "https://a/logo", "software_statement": "x.y.z",
        }));
        let registered = map(json!({
            "scope": "email openid", "grant_types": ["b", "a"], "client_name": "Shop",
            "response_types": ["code", "id_token"], "client_id": "1",
        }));
        let changes = server_changes(&requested, &registered);
        let named: Vec<(&str, &Value)> = changes.iter().map(|c| (c.name.as_str(), &c.registered)).collect();
        assert_eq!(named, [("logo_uri", &Value::Null), ("response_types", &json!(["code", "id_token"]))]);
    }

    #[test]
    fn long_values_are_cut() {
        let requested = map(json!({"client_name": "Shop"}));
        let registered = map(json!({"client_name": "x".repeat(5000)}));
        assert!(server_changes(&requested, &registered)[0].registered.to_string().len() < 600);
    }

    #[test]
    fn debug_names_members_and_shows_no_value() {
        let document = Document(map(json!({"software_statement": "secret.jwt"})));
        assert_eq!(format!("{document:?}"), r#"{"software_statement"}"#);
    }
}

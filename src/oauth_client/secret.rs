//! The application's Secret: which keys, with which values. Pure.

use std::collections::BTreeMap;

use minijinja::{Environment, UndefinedBehavior, syntax::SyntaxConfig};
use secrecy::ExposeSecret;
use serde_json::Value;

use super::{metadata, registration::Registration};
use crate::{
    api::{OAuthClientSpec, SecretFormat},
    dcr::ServerMetadata,
    kubernetes::SecretData,
    text::truncate,
};

/// A rendered template may not be longer.
const LONGEST_VALUE: usize = 64 * 1024;
/// Instructions that one template may take: a loop that does not end is a mistake, and the operator has other things to do.
const MOST_STEPS: u64 = 100_000;

/// A template of `spec.secret.template` that can't be rendered. Its text holds no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("spec.secret.template.{key}{}: {message}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
pub struct TemplateError {
    pub key: String,
    pub line: Option<usize>,
    pub message: String,
}

/// One value, and its key in each format; `""` = the format has no such key.
struct Entry {
    service_binding: &'static str,
    env: &'static str,
    rfc7591: &'static str,
    value: Option<String>,
}

/// The data of the Secret. What the server did not answer is left out; a public client has no secret.
///
/// # Errors
/// [`TemplateError`] for the first template that can't be rendered.
pub fn data(
    spec: &OAuthClientSpec,
    registration: &Registration,
    server: &ServerMetadata,
    openid_is_implied: bool,
) -> Result<SecretData, TemplateError> {
    let asked = spec.client_metadata.as_ref().and_then(|metadata| metadata.scope.as_deref()).unwrap_or_default();
    let implied = (openid_is_implied && asked.split_ascii_whitespace().any(|scope| scope == metadata::OPENID))
        .then_some(metadata::OPENID);
    let mut data: SecretData = values(spec.secret.format, registration, server, implied).into_iter().collect();
    if spec.secret.template.is_empty() {
        return Ok(data);
    }
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(MOST_STEPS));
    // Fails for delimiters that clash alone.
    if let Ok(syntax) = SyntaxConfig::builder().keep_trailing_newline(true).build() {
        environment.set_syntax(syntax);
    }
    let names: BTreeMap<String, String> =
        values(SecretFormat::Rfc7591, registration, server, implied).into_iter().collect();
    for (key, template) in &spec.secret.template {
        let failed = |error: &minijinja::Error| TemplateError {
            key: key.clone(),
            line: error.line(),
            // Not the detail of an error at run time: a filter may quote the value that it was given.
            message: match error.kind() {
                minijinja::ErrorKind::SyntaxError
                | minijinja::ErrorKind::UnknownFilter
                | minijinja::ErrorKind::UnknownFunction
                | minijinja::ErrorKind::UnknownTest
                | minijinja::ErrorKind::UnknownMethod => truncate(error.detail().unwrap_or("it can't be read"), 256),
                minijinja::ErrorKind::UndefinedError => {
                    format!(
                        "a name that this client does not have; it has {}",
                        names.keys().cloned().collect::<Vec<_>>().join(", ")
                    )
                }
                kind => kind.to_string(),
            },
        };
        let value = environment.render_str(&template.0, &names).map_err(|error| failed(&error))?;
        if value.len() > LONGEST_VALUE {
            let message = format!("the value would be longer than {LONGEST_VALUE} bytes");
            return Err(TemplateError { key: key.clone(), line: None, message });
        }
        data.insert(key.as_str(), value);
    }
    Ok(data)
}

/// The keys of a format and their values.
fn values(
    format: SecretFormat,
    registration: &Registration,
    server: &ServerMetadata,
    implied_scope: Option<&str>,
) -> Vec<(String, String)> {
    let information = &registration.information;
    let text = |name: &str| information.metadata.get(name).and_then(Value::as_str).map(str::to_owned);
    // RFC 7591 separates scopes by blanks, and so do applications that pass them on; the bindings separate by commas.
    let scope = text("scope").or(implied_scope.map(|_| String::new())).map(|scope| {
        let separator = if format == SecretFormat::Rfc7591 { " " } else { "," };
        let registered = scope.split_ascii_whitespace();
        let implied =
            implied_scope.into_iter().filter(|implied| !scope.split_ascii_whitespace().any(|s| s == *implied));
        implied.chain(registered).collect::<Vec<_>>().join(separator)
    });
    let key = registration.keys.active();
    let list = |name: &str| {
        let items = information.metadata.get(name)?.as_array()?;
        Some(items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",")).filter(|list| !list.is_empty())
    };
    let entry = |service_binding, env, rfc7591, value| Entry { service_binding, env, rfc7591, value };
    [
        entry("type", "", "", Some("oauth2".to_owned())),
        entry("provider", "", "", Some(registration.server.profile.clone())),
        entry("client-id", "CLIENT_ID", "client_id", Some(information.client_id.clone())),
        entry(
            "client-secret",
            "CLIENT_SECRET",
            "client_secret",
            // Some servers go on showing the secret of a client that now signs.
            information
                .client_secret
                .as_ref()
                .filter(|_| key.is_none())
                .map(|secret| secret.expose_secret().to_owned()),
        ),
        entry("private-key", "PRIVATE_KEY", "private_key", key.map(|key| key.private_key.expose_secret().to_owned())),
        entry("key-id", "KEY_ID", "kid", key.map(|key| key.kid.clone())),
        entry("issuer-uri", "ISSUER_URI", "issuer", Some(server.issuer.clone())),
        entry(
            "client-authentication-method",
            "CLIENT_AUTHENTICATION_METHOD",
            "token_endpoint_auth_method",
            text("token_endpoint_auth_method"),
        ),
        entry("authorization-grant-types", "AUTHORIZATION_GRANT_TYPES", "grant_types", list("grant_types")),
        entry("scope", "SCOPE", "scope", scope),
        entry("redirect-uris", "REDIRECT_URIS", "redirect_uris", list("redirect_uris")),
        entry(
            "authorization-uri",
            "AUTHORIZATION_URI",
            "authorization_endpoint",
            server.authorization_endpoint.clone(),
        ),
        entry("token-uri", "TOKEN_URI", "token_endpoint", server.token_endpoint.clone()),
        entry("jwk-set-uri", "JWK_SET_URI", "jwks_uri", server.jwks_uri.clone()),
        entry("user-info-uri", "USER_INFO_URI", "userinfo_endpoint", server.userinfo_endpoint.clone()),
    ]
    .into_iter()
    .filter_map(|Entry { service_binding, env, rfc7591, value }| {
        let key = match format {
            SecretFormat::ServiceBinding => service_binding,
            SecretFormat::Env => env,
            SecretFormat::Rfc7591 => rfc7591,
        };
        value.filter(|value| !key.is_empty() && !value.is_empty()).map(|value| (key.to_owned(), value))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;
    use crate::{
        dcr::ClientInformation,
        oauth_client::{
            keys::{ClientKeys, tests::key},
            registration::{History, ServerSnapshot},
        },
    };

    fn rendered(format: SecretFormat, answer: Value) -> BTreeMap<String, String> {
        let spec = json!({"profileRef": {"name": "p"}, "secret": {"format": format}});
        rendered_as(spec, registration(answer), false).unwrap()
    }

    fn registration(answer: Value) -> Registration {
        Registration {
            attempt: String::new(),
            information: ClientInformation::from_json(answer.as_object().cloned().unwrap()).unwrap(),
            request: None,
            server: ServerSnapshot { profile: "token-service".into(), ..ServerSnapshot::default() },
            history: History::default(),
            previous_token: None,
            keys: ClientKeys::default(),
            retiring: Vec::new(),
        }
    }

    fn rendered_as(
        spec: Value,
        registration: Registration,
        openid_is_implied: bool,
    ) -> Result<BTreeMap<String, String>, String> {
        let server = ServerMetadata {
            issuer: "https://as".into(),
            token_endpoint: Some("https://as/token".into()),
            ..ServerMetadata::default()
        };
        let spec: OAuthClientSpec = serde_json::from_value(spec).unwrap();
        let data = data(&spec, &registration, &server, openid_is_implied).map_err(|error| error.to_string())?;
        Ok(data.keys().map(|key| (key.to_owned(), data.text(key).unwrap().to_owned())).collect())
    }

    fn with_template(template: Value) -> Result<BTreeMap<String, String>, String> {
        let spec = json!({"profileRef": {"name": "p"}, "secret": {"template": template}});
        rendered_as(spec, registration(confidential()), false)
    }

    #[test]
    fn a_template_adds_and_overrides_keys_over_the_rfc7591_names() {
        let data = with_template(json!({
            "config.json": r#"{"id":"{{ client_id }}","secret":{{ client_secret | tojson }},"scope":"{{ scope }}"}"#,
            "client-id": "id-{{ client_id }}",
            "optional": "{{ userinfo_endpoint | default('none') }}\n",
        }))
        .unwrap();
        assert_eq!(data["config.json"], r#"{"id":"c","secret":"s","scope":"openid email"}"#);
        assert_eq!((data["client-id"].as_str(), data["optional"].as_str()), ("id-c", "none\n"));
        assert_eq!(data["client-secret"], "s");
    }

    #[test]
    fn a_bad_template_names_its_key_and_line_and_no_value() {
        for (template, expected) in [
            ("a\nb\n{{ client_id", "spec.secret.template.broken, line 3: "),
            (
                "x\n{{ userinfo_endpoint }}",
                "spec.secret.template.broken, line 2: a name that this client does not have",
            ),
            ("{{ client_secret | nosuch }}", "line 1: "),
            (
                "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
                "spec.secret.template.broken",
            ),
            ("{{ client_secret.x.y }}", "spec.secret.template.broken"),
            ("{{ client_secret | int }}", "spec.secret.template.broken"),
            ("{{ 'x' * 70000 }}", "spec.secret.template.broken"),
        ] {
            let spec = json!({"profileRef": {"name": "p"}, "secret": {"template": {"broken": template}}});
            let answer = json!({"client_id": "c", "client_secret": "hunter2"});
            let message = rendered_as(spec, registration(answer), false).unwrap_err();
            assert!(message.contains(expected), "{template}: {message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
    }

    #[test]
    fn the_registration_access_token_is_no_name_for_templates() {
        assert!(with_template(json!({"x": "{{ registration_access_token }}"})).is_err());
    }

    #[test]
    fn a_client_with_keys_gets_the_private_key_in_use() {
        let answer = json!({"client_id": "c", "client_secret": "s", "token_endpoint_auth_method": "private_key_jwt"});
        let mut registration = registration(answer);
        registration.keys = ClientKeys(vec![key("new", 2)]);
        let data = rendered_as(json!({"profileRef": {"name": "p"}}), registration, false).unwrap();
        assert_eq!((data["private-key"].as_str(), data["key-id"].as_str()), ("private-new", "new"));
        assert!(!data.contains_key("client-secret"));
    }

    #[test]
    fn a_scope_that_every_client_may_ask_for_is_in_the_secret_if_it_was_asked_for() {
        let spec = |scope: &str| json!({"profileRef": {"name": "p"}, "clientMetadata": {"scope": scope}});
        let answer = |scope: &str| registration(json!({"client_id": "c", "scope": scope}));
        let scope = |asked: &str, registered: &str, implied: bool| {
            rendered_as(spec(asked), answer(registered), implied).unwrap().get("scope").cloned().unwrap_or_default()
        };
        assert_eq!(scope("openid email", "email", true), "openid,email");
        assert_eq!(scope("openid email", "openid email", true), "openid,email");
        assert_eq!(scope("openid", "", true), "openid");
        assert_eq!(scope("email", "email", true), "email");
        assert_eq!(scope("openid email", "email", false), "email");
    }

    fn confidential() -> Value {
        json!({
            "client_id": "c", "client_secret": "s", "scope": "openid email", "token_endpoint_auth_method": "client_secret_basic",
            "grant_types": ["authorization_code", "refresh_token"], "redirect_uris": ["https://a/cb"],
            "registration_access_token": "never", "registration_client_uri": "https://as/reg/c",
        })
    }

    fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
        pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }

    #[test]
    fn service_binding_has_the_keys_that_spring_and_envoy_read() {
        assert_eq!(
            rendered(SecretFormat::ServiceBinding, confidential()),
            pairs([
                ("type", "oauth2"),
                ("provider", "token-service"),
                ("client-id", "c"),
                ("client-secret", "s"),
                ("issuer-uri", "https://as"),
                ("client-authentication-method", "client_secret_basic"),
                ("authorization-grant-types", "authorization_code,refresh_token"),
                ("scope", "openid,email"),
                ("redirect-uris", "https://a/cb"),
                ("token-uri", "https://as/token"),
            ])
        );
    }

    #[test]
    fn env_has_names_for_environment_variables() {
        let data = rendered(SecretFormat::Env, confidential());
        assert_eq!(
            (data["CLIENT_ID"].as_str(), data["SCOPE"].as_str(), data["TOKEN_URI"].as_str()),
            ("c", "openid,email", "https://as/token")
        );
        assert!(data.keys().all(|key| key.chars().all(|c| c.is_ascii_uppercase() || c == '_')), "{data:?}");
    }

    #[test]
    fn rfc7591_has_the_wire_names_and_the_scope_as_answered() {
        let data = rendered(SecretFormat::Rfc7591, confidential());
        assert_eq!(
            (data["client_secret"].as_str(), data["scope"].as_str(), data["issuer"].as_str()),
            ("s", "openid email", "https://as")
        );
    }

    #[test]
    fn a_public_client_has_no_secret_and_what_was_not_answered_is_left_out() {
        let data = rendered(SecretFormat::ServiceBinding, json!({"client_id": "c"}));
        assert_eq!(
            data,
            pairs([
                ("type", "oauth2"),
                ("provider", "token-service"),
                ("client-id", "c"),
                ("issuer-uri", "https://as"),
                ("token-uri", "https://as/token")
            ])
        );
    }

    #[test]
    fn no_format_has_the_registration_access_token() {
        for format in [SecretFormat::ServiceBinding, SecretFormat::Env, SecretFormat::Rfc7591] {
            let data = rendered(format, confidential());
            assert!(!data.values().any(|value| value.contains("never") || value.contains("/reg/")), "{data:?}");
        }
    }
}

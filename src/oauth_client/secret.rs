//! The application's Secret: which keys, with which values. Pure.

use secrecy::ExposeSecret;
use serde_json::Value;

use super::registration::Registration;
use crate::{api::SecretFormat, dcr::ServerMetadata, kubernetes::SecretData};

/// One value, and its key in each format; `""` = the format has no such key.
struct Entry {
    service_binding: &'static str,
    env: &'static str,
    rfc7591: &'static str,
    value: Option<String>,
}

/// The data of the Secret. What the server did not answer is left out; a public client has no secret.
#[must_use]
pub fn data(format: SecretFormat, registration: &Registration, server: &ServerMetadata) -> SecretData {
    let information = &registration.information;
    let text = |name: &str| information.metadata.get(name).and_then(Value::as_str).map(str::to_owned);
    // RFC 7591 separates scopes by blanks, and so do applications that pass them on; the bindings separate by commas.
    let scope = text("scope").map(|scope| match format {
        SecretFormat::Rfc7591 => scope,
        SecretFormat::ServiceBinding | SecretFormat::Env => {
            scope.split_ascii_whitespace().collect::<Vec<_>>().join(",")
        }
    });
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
            information.client_secret.as_ref().map(|secret| secret.expose_secret().to_owned()),
        ),
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
    use crate::{dcr::ClientInformation, oauth_client::registration::ServerSnapshot};

    fn rendered(format: SecretFormat, answer: Value) -> BTreeMap<String, String> {
        let registration = Registration {
            attempt: String::new(),
            information: ClientInformation::from_json(answer.as_object().cloned().unwrap()).unwrap(),
            request: serde_json::Map::new(),
            server: ServerSnapshot { profile: "token-service".into(), ..ServerSnapshot::default() },
        };
        let server = ServerMetadata {
            issuer: "https://as".into(),
            token_endpoint: Some("https://as/token".into()),
            ..ServerMetadata::default()
        };
        let data = data(format, &registration, &server);
        data.keys().map(|key| (key.to_owned(), data.text(key).unwrap().to_owned())).collect()
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

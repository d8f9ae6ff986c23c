//! Access tokens by the client credentials grant (RFC 6749 section 4.4): to register clients, or to manage any of them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::{Map, Value};
use url::form_urlencoded::byte_serialize;
use uuid::Uuid;

use super::error::{Error, Refusal};
use super::http::{Authorization, Server};
use super::keys::KeyPair;
use super::text::Secrets;

/// How long an assertion is good for: it is used at once.
const ASSERTION_LIFETIME_SECONDS: i64 = 60;

/// RFC 7523 section 2.2.
const JWT_BEARER_ASSERTION: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The parameters that the grant and the authentication set themselves.
const RESERVED_PARAMETERS: [&str; 6] =
    ["grant_type", "scope", "client_id", "client_secret", "client_assertion", "client_assertion_type"];

/// A client and what it asks the token endpoint for.
#[derive(Clone)]
pub struct ClientCredentials {
    /// The client's identifier.
    pub client_id: String,
    /// How the client authenticates, and with what.
    pub authentication: ClientAuthentication,
    /// The scope to ask for; `None` and the empty text ask for none.
    pub scope: Option<String>,
    /// Further form parameters, such as `audience` or `resource`. They cannot replace the grant's own.
    pub parameters: BTreeMap<String, String>,
}

impl ClientCredentials {
    /// Whether it authenticates by the certificate that it shows (RFC 8705).
    #[must_use]
    pub fn shows_certificate(&self) -> bool {
        matches!(self.authentication, ClientAuthentication::TlsClientAuth)
    }
}

impl fmt::Debug for ClientCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client_id, authentication, scope, parameters } = self;
        f.debug_struct("ClientCredentials")
            .field("client_id", client_id)
            .field("authentication", authentication)
            .field("scope", scope)
            .field("parameters", &parameters.keys())
            .finish()
    }
}

/// How a client authenticates at the token endpoint (RFC 7591 section 2, `token_endpoint_auth_method`), and with what.
#[derive(Clone, Debug)]
pub enum ClientAuthentication {
    /// HTTP Basic, with form-encoded identifier and secret (RFC 6749 section 2.3.1).
    ClientSecretBasic(SecretString),
    /// Identifier and secret in the form.
    ClientSecretPost(SecretString),
    /// A signed assertion in the form (RFC 7523 section 2.2).
    PrivateKeyJwt {
        /// The key that signs; the server knows its public half.
        key: KeyPair,
        /// What the server takes for itself: the issuer identifier, or the URL of the token endpoint.
        audience: String,
    },
    /// The client certificate of the connection (RFC 8705 section 2), which is [`ServerOptions::client_identity`].
    ///
    /// [`ServerOptions::client_identity`]: super::ServerOptions::client_identity
    TlsClientAuth,
}

/// What an assertion claims (RFC 7523 section 3).
#[derive(Serialize)]
struct AssertionClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: String,
    iat: i64,
    exp: i64,
}

impl<'a> AssertionClaims<'a> {
    fn new(client_id: &'a str, audience: &'a str, now: Timestamp) -> Self {
        let iat = now.as_second();
        let jti = Uuid::new_v4().to_string();
        Self { iss: client_id, sub: client_id, aud: audience, jti, iat, exp: iat + ASSERTION_LIFETIME_SECONDS }
    }
}

/// A bearer token (RFC 6750). Many servers accept an initial access token only once.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// The token.
    pub token: SecretString,
    /// How long it lives, counted from the answer; `None` if the server did not say.
    pub expires_in: Option<Duration>,
}

/// When a token ends, if it is a JWT that says so (RFC 7519 section 4.1.4). Its signature is not looked at: the server
/// will do that.
#[must_use]
pub fn expires_at(token: &SecretString) -> Option<Timestamp> {
    let payload = token.expose_secret().split('.').nth(1)?;
    let claims: Map<String, Value> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    Timestamp::from_second(claims.get("exp")?.as_i64()?).ok()
}

impl Server {
    /// Fetches an access token by the client credentials grant.
    ///
    /// # Errors
    /// `TokenRequestRejected` for a 4xx answer, `ServerUnavailable` for any other that has no bearer token,
    /// `InvalidEndpoint` if the endpoint may not be called, `InvalidPrivateKey` if the key cannot sign.
    pub async fn access_token(&self, token_endpoint: &str, grant: &ClientCredentials) -> Result<AccessToken, Error> {
        let client_id = grant.client_id.as_str();
        let mut form = vec![("grant_type", "client_credentials")];
        form.extend(grant.scope.as_deref().filter(|scope| !scope.is_empty()).map(|scope| ("scope", scope)));
        let mut authorization = Authorization::None;
        let assertion;
        let mut secrets = Secrets::default();
        match &grant.authentication {
            ClientAuthentication::ClientSecretBasic(secret) => {
                let secret = secret.expose_secret();
                secrets.add(secret);
                authorization =
                    Authorization::Basic { user: form_encode(client_id), password: form_encode(secret).into() };
            }
            ClientAuthentication::ClientSecretPost(secret) => {
                let secret = secret.expose_secret();
                secrets.add(secret);
                form.extend([("client_id", client_id), ("client_secret", secret)]);
            }
            ClientAuthentication::PrivateKeyJwt { key, audience } => {
                assertion = key.sign(&AssertionClaims::new(client_id, audience, Timestamp::now()))?;
                let assertion = assertion.expose_secret();
                secrets.add(assertion);
                form.extend([
                    ("client_id", client_id),
                    ("client_assertion_type", JWT_BEARER_ASSERTION),
                    ("client_assertion", assertion),
                ]);
            }
            ClientAuthentication::TlsClientAuth => form.push(("client_id", client_id)),
        }
        let further = grant.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        form.extend(further.filter(|(name, _)| !RESERVED_PARAMETERS.contains(name)));

        let mut answer =
            self.exchange(Method::POST, token_endpoint, authorization, secrets, |request| request.form(&form)).await?;
        match answer.status {
            200 => access_token(&answer.json()?).map_err(|what| answer.unreadable(what)),
            408 | 429 => Err(answer.failed()),
            400..=499 => Err(answer.refused(Refusal::TokenRequestRejected)),
            _ => Err(answer.failed()),
        }
    }
}

fn form_encode(text: &str) -> String {
    byte_serialize(text.as_bytes()).collect()
}

/// A successful token response (RFC 6749 section 5.1).
fn access_token(document: &Map<String, Value>) -> Result<AccessToken, &'static str> {
    let text = |name| document.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
    let token = text("access_token").ok_or("has no access_token")?;
    let token_type = text("token_type").ok_or("has no token_type")?;
    if !token_type.eq_ignore_ascii_case("bearer") {
        return Err("has a token_type other than bearer");
    }
    let expires_in = document.get("expires_in").and_then(seconds);
    Ok(AccessToken { token: token.into(), expires_in })
}

/// A number of seconds, which some servers write as text or as a fraction.
fn seconds(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parsed(document: &Value) -> Result<AccessToken, &'static str> {
        access_token(document.as_object().unwrap())
    }

    #[test]
    fn a_token_response_needs_a_token_and_the_type_bearer() {
        let token = parsed(&json!({"access_token": "t", "token_type": "BEARER", "expires_in": 300})).unwrap();
        assert_eq!((token.token.expose_secret(), token.expires_in), ("t", Some(Duration::from_mins(5))));
        assert_eq!(parsed(&json!({"token_type": "bearer"})).unwrap_err(), "has no access_token");
        assert_eq!(parsed(&json!({"access_token": "", "token_type": "bearer"})).unwrap_err(), "has no access_token");
        assert_eq!(parsed(&json!({"access_token": "t"})).unwrap_err(), "has no token_type");
        assert_eq!(
            parsed(&json!({"access_token": "t", "token_type": "DPoP"})).unwrap_err(),
            "has a token_type other than bearer"
        );
    }

    #[test]
    fn a_life_time_that_makes_no_sense_is_none() {
        for (value, seconds) in [
            (json!("300"), Some(300)),
            (json!(300.0), Some(300)),
            (json!(-1), None),
            (json!("soon"), None),
            (json!("NaN"), None),
            (json!(1e300), None),
            (json!([300]), None),
            (json!(null), None),
        ] {
            let token = parsed(&json!({"access_token": "t", "token_type": "bearer", "expires_in": value})).unwrap();
            assert_eq!(token.expires_in.map(|life| life.as_secs()), seconds, "{value}");
        }
    }

    proptest! {
        #[test]
        fn a_life_time_never_panics(number in any::<f64>(), text in ".{0,30}") {
            let _ = seconds(&json!(number));
            let _ = seconds(&json!(text));
        }
    }
}

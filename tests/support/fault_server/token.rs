//! The token endpoint of the registrar: who may have a token, and what for.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use serde::Deserialize;
use serde_json::{Value, json};
use url::form_urlencoded;

use super::registrar::Registrar;
use super::{Answer, Request};

const TOKEN_LIFETIME: Duration = Duration::from_mins(5);

/// What RFC 7523 section 3 asks for.
#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    jti: String,
}

impl Registrar {
    pub(super) fn token(&mut self, request: &Request, carried_out: bool) -> Answer {
        let refused = Answer::json(401, &json!({"error": "invalid_client"}));
        let Some(client_id) = self.authenticated(request) else { return refused };
        let form = request.form();
        if form.get("grant_type").map(String::as_str) != Some("client_credentials") {
            return Answer::json(400, &json!({"error": "unsupported_grant_type"}));
        }
        let granted = match client_id.as_str() {
            "server" => "dcr",
            "manager" => "dcrm",
            _ => "",
        };
        let asked = form.get("scope").map(String::as_str).unwrap_or_default();
        if !granted.is_empty() && !asked.is_empty() && asked != granted {
            return Answer::json(400, &json!({"error": "invalid_scope"}));
        }
        if granted.is_empty() && !self.may_use_client_credentials(&client_id) {
            return Answer::json(400, &json!({"error": "unauthorized_client"}));
        }
        if !carried_out {
            return Answer::empty(500);
        }
        let token = match granted {
            "dcr" => self.new_initial_token(),
            "dcrm" => {
                let (token, end) = (self.next("management-token"), self.now() + TOKEN_LIFETIME);
                self.management_tokens.insert(token.clone(), end);
                token
            }
            _ => self.next("access-token"),
        };
        let expires_in = TOKEN_LIFETIME.as_secs();
        Answer::json(
            200,
            &json!({"access_token": token, "scope": granted, "token_type": "bearer", "expires_in": expires_in}),
        )
    }

    /// The client that has shown who it is, in exactly one way.
    fn authenticated(&mut self, request: &Request) -> Option<String> {
        let form = request.form();
        let value = |name: &str| form.get(name).cloned();
        let assertion = value("client_assertion");
        let basic = request.header("authorization").and_then(basic_credentials);
        let post = value("client_id").zip(value("client_secret"));
        match (basic, post, assertion) {
            (Some((client_id, secret)), None, None) | (None, Some((client_id, secret)), None) => {
                self.knows(&client_id, &secret).then_some(client_id)
            }
            (None, None, Some(assertion)) => {
                let kind = value("client_assertion_type");
                let client_id = self.asserted(&assertion)?;
                let is_same = value("client_id").is_none_or(|named| named == client_id);
                (is_same && kind.as_deref() == Some("urn:ietf:params:oauth:client-assertion-type:jwt-bearer"))
                    .then_some(client_id)
            }
            _ => None,
        }
    }

    fn knows(&self, client_id: &str, secret: &str) -> bool {
        match (client_id, secret) {
            ("server", secret) => secret == "server-secret",
            ("manager", secret) => secret == "manager-secret",
            _ => self.accepts(client_id, secret),
        }
    }

    /// The client that signed an assertion for this server, which it has not used before.
    fn asserted(&mut self, assertion: &str) -> Option<String> {
        let header = decode_header(assertion).ok()?;
        let mut validation = Validation::new(header.alg);
        validation.set_audience(&[self.issuer.clone(), format!("{}/token", self.issuer)]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        // Whose key is needed is in the claims, which are looked at again once the signature is known to be good.
        let unverified = jsonwebtoken::dangerous::insecure_decode::<Claims>(assertion).ok()?.claims.sub;
        let claims = self.keys_of(&unverified).into_iter().find_map(|key| {
            let key: Jwk = serde_json::from_value(key).ok()?;
            let is_meant = header.kid.is_none() || header.kid == key.common.key_id;
            let key = is_meant.then(|| DecodingKey::from_jwk(&key).ok())??;
            decode::<Claims>(assertion, &key, &validation).ok()
        })?;
        let Claims { iss, sub, jti } = claims.claims;
        if !self.assertions.insert(jti.clone()) {
            self.misuses.push(format!("the assertion {jti} was sent twice"));
            return None;
        }
        (iss == sub).then_some(sub)
    }

    /// The public keys of a client.
    fn keys_of(&self, client_id: &str) -> Vec<Value> {
        if let Some(keys) = self.trusted_keys.get(client_id) {
            return keys.clone();
        }
        let client = self.clients.get(client_id).filter(|client| !client.is_deleted);
        let keys = client.and_then(|client| client.metadata.get("jwks")?.get("keys")?.as_array());
        keys.cloned().unwrap_or_default()
    }

    fn may_use_client_credentials(&self, client_id: &str) -> bool {
        let grants = self.clients.get(client_id).and_then(|client| client.metadata.get("grant_types")?.as_array());
        grants.is_some_and(|grants| grants.iter().any(|grant| grant == "client_credentials"))
    }
}

/// RFC 6749 section 2.3.1: both halves are form-encoded.
fn basic_credentials(header: &str) -> Option<(String, String)> {
    let credentials = String::from_utf8(STANDARD.decode(header.strip_prefix("Basic ")?).ok()?).ok()?;
    let (client_id, secret) = credentials.split_once(':')?;
    let decoded = |text: &str| {
        let pair = format!("x={text}");
        form_urlencoded::parse(pair.as_bytes()).next().map(|(_, value)| value.into_owned())
    };
    Some((decoded(client_id)?, decoded(secret)?))
}

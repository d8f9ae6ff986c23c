//! What a server answers about one client, and what is sent to change it.

use std::fmt;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};
use url::Url;

use super::error::Error;
use super::text::{is_invisible, shown, shown_text};

const MAX_CLIENT_ID_CHARS: usize = 1024;
const MAX_URL_BYTES: usize = 2048;

/// The last second of the year 9999; a later time is a mistake of the server (milliseconds, mostly).
const MAX_UNIX_SECONDS: i64 = 253_402_300_799;

/// What is escaped in a path segment: everything that RFC 3986 section 2.3 does not leave unreserved.
const NOT_UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Members that are the server's: never part of an update (RFC 7592 section 2.2), never client metadata.
pub(super) const SERVER_MEMBERS: [&str; 6] = [
    "client_secret",
    "client_id_issued_at",
    "client_secret_expires_at",
    "registration_access_token",
    // Not of the RFC, and a server that keeps what it does not know would keep it as the client's.
    "registration_access_token_expires_in",
    "registration_client_uri",
];

/// The client information response (RFC 7591 section 3.2.1, RFC 7592 section 3). The server's answer is the truth, however
/// it differs from the request.
#[derive(Clone)]
pub struct ClientInformation {
    /// The client's identifier: 1 to 1024 characters, no control characters and none that hide or reorder others.
    pub client_id: String,
    /// The client's secret; public clients have none.
    pub client_secret: Option<SecretString>,
    /// When the identifier was issued, in Unix seconds.
    pub client_id_issued_at: Option<i64>,
    /// When the secret ends, in Unix seconds; 0 = never; as answered.
    pub client_secret_expires_at: Option<i64>,
    /// The token to manage this client with (RFC 7592); without it the client cannot be read, changed or deleted.
    pub registration_access_token: Option<SecretString>,
    /// Where to manage this client, as answered: see [`client_configuration_endpoint`].
    pub registration_client_uri: Option<String>,
    /// Everything else that was answered: the registered metadata and the server's own additions.
    pub metadata: Map<String, Value>,
}

impl ClientInformation {
    /// Reads a client information response. A server member of the wrong type counts as absent; a time may also be a text
    /// or a fraction.
    ///
    /// # Errors
    /// [`Error::InvalidClientInformation`] without a usable `client_id`.
    pub fn from_json(mut document: Map<String, Value>) -> Result<Self, Error> {
        let client_id = match document.remove("client_id") {
            Some(Value::String(client_id)) => client_id,
            Some(_) => return Err(Error::InvalidClientInformation("has a client_id that is not a text")),
            None => return Err(Error::InvalidClientInformation("has no client_id")),
        };
        if let Some(flaw) = client_id_flaw(&client_id) {
            return Err(Error::InvalidClientInformation(flaw));
        }
        Ok(Self {
            client_id,
            client_secret: take_text(&mut document, "client_secret").map(SecretString::from),
            client_id_issued_at: take_time(&mut document, "client_id_issued_at"),
            client_secret_expires_at: take_time(&mut document, "client_secret_expires_at"),
            registration_access_token: take_text(&mut document, "registration_access_token").map(SecretString::from),
            registration_client_uri: take_text(&mut document, "registration_client_uri")
                .filter(|uri| uri.len() <= MAX_URL_BYTES),
            metadata: document,
        })
    }

    /// The response as one document, **with the secrets in clear**: for storage in a Secret only.
    /// [`ClientInformation::from_json`] reads it back.
    #[must_use]
    pub fn to_json(&self) -> Map<String, Value> {
        let Self {
            client_id,
            client_secret,
            client_id_issued_at,
            client_secret_expires_at,
            registration_access_token,
            registration_client_uri,
            metadata,
        } = self;
        let clear = |secret: &Option<SecretString>| secret.as_ref().map(|secret| Value::from(secret.expose_secret()));
        let server_members = [
            ("client_id", Some(Value::from(client_id.as_str()))),
            ("client_secret", clear(client_secret)),
            ("client_id_issued_at", client_id_issued_at.map(Value::from)),
            ("client_secret_expires_at", client_secret_expires_at.map(Value::from)),
            ("registration_access_token", clear(registration_access_token)),
            ("registration_client_uri", registration_client_uri.as_deref().map(Value::from)),
        ];
        let mut document = metadata.clone();
        for (name, value) in server_members {
            document.extend(value.map(|value| (name.to_owned(), value)));
        }
        document
    }
}

impl PartialEq for ClientInformation {
    fn eq(&self, other: &Self) -> bool {
        self.to_json() == other.to_json()
    }
}

impl fmt::Debug for ClientInformation {
    /// Of the metadata only the names: a server or a user may have put a secret into any of them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientInformation")
            .field("client_id", &self.client_id)
            .field("client_secret", &self.client_secret)
            .field("client_id_issued_at", &self.client_id_issued_at)
            .field("client_secret_expires_at", &self.client_secret_expires_at)
            .field("registration_access_token", &self.registration_access_token)
            .field("registration_client_uri", &self.registration_client_uri.as_deref().map(shown_text))
            .field("metadata", &self.metadata.keys())
            .finish()
    }
}

/// The URI to manage a client at: as answered if it has the origin of the registration endpoint, else moved to that origin
/// with the same path and query. So a server behind a proxy that answers its inner address is reached, and no token is sent
/// to an origin that nobody configured. User information and fragment are dropped; a relative URI is relative to the
/// registration endpoint.
///
/// # Errors
/// [`Error::InvalidEndpoint`] if one of the two is no `http(s)` URL.
pub fn client_configuration_endpoint(
    registration_endpoint: &str,
    registration_client_uri: &str,
) -> Result<String, Error> {
    let invalid = |text: &str, why| Error::InvalidEndpoint { endpoint: shown_text(text), why };
    let is_http = |url: &Url| matches!(url.scheme(), "https" | "http");
    let base = Url::parse(registration_endpoint)
        .ok()
        .filter(is_http)
        .ok_or_else(|| invalid(registration_endpoint, "the registration endpoint is no http(s) URL"))?;
    let answered = base
        .join(registration_client_uri)
        .ok()
        .filter(is_http)
        .ok_or_else(|| invalid(registration_client_uri, "the registration_client_uri is no http(s) URL"))?;
    let mut endpoint = base.clone();
    endpoint.set_path(answered.path());
    endpoint.set_query(answered.query());
    endpoint.set_fragment(None);
    // A URL that has a host can lose its user information.
    if endpoint.set_username("").and_then(|()| endpoint.set_password(None)).is_err() {
        return Err(invalid(registration_endpoint, "the registration endpoint has no host"));
    }
    if answered.origin() != base.origin() {
        tracing::debug!(
            answered = shown(&answered),
            used = shown(&endpoint),
            "registration_client_uri moved to the origin of the registration endpoint"
        );
    }
    Ok(endpoint.into())
}

/// The URI to manage a client at, for a client that manages others and has no `registration_client_uri`: the registration
/// endpoint, with the identifier as one more path segment.
///
/// # Errors
/// [`Error::InvalidEndpoint`] if the endpoint is no `http(s)` URL, or if the identifier cannot be a path segment.
pub fn client_configuration_endpoint_of(registration_endpoint: &str, client_id: &str) -> Result<String, Error> {
    let invalid = |why| Error::InvalidEndpoint { endpoint: shown_text(registration_endpoint), why };
    let flaw = client_id_flaw(client_id).map(|_| "the client_id is empty, too long, or has invisible characters");
    // A browser's URL takes `%2e` for a dot, so there is no way to write these two.
    let dots = matches!(client_id, "." | "..").then_some("the client_id would change the path");
    if let Some(why) = flaw.or(dots) {
        return Err(invalid(why));
    }
    let base = Url::parse(registration_endpoint).ok().filter(|url| matches!(url.scheme(), "https" | "http"));
    let mut url = base.ok_or_else(|| invalid("the registration endpoint is no http(s) URL"))?;
    let segment = utf8_percent_encode(client_id, NOT_UNRESERVED);
    url.set_path(&format!("{}/{segment}", url.path().trim_end_matches('/')));
    url.set_fragment(None);
    Ok(url.into())
}

/// How an update treats the members that it does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpdateSemantics {
    /// They are removed (RFC 7592 section 2.2).
    #[default]
    Replace,
    /// They stay as they are, so what is to go must be sent as an empty value.
    Merge,
}

/// The body of an update (RFC 7592 section 2.2): the last answer without the server's members, with `client_id`, with
/// `desired` laid over it, and without the members of `previous` (the last request) that are no longer desired. What the
/// server added by itself stays, since an omitted member counts as emptied. Where the server merges, the members that are no
/// longer desired are sent as their default (RFC 7591 section 2) or, without one, as the empty value of their type.
#[must_use]
pub fn update_document(
    last: &ClientInformation,
    previous: &Map<String, Value>,
    desired: &Map<String, Value>,
    semantics: UpdateSemantics,
) -> Map<String, Value> {
    let mut document = last.metadata.clone();
    for (name, value) in previous.iter().filter(|(name, _)| !desired.contains_key(*name)) {
        match semantics {
            UpdateSemantics::Replace => document.remove(name),
            UpdateSemantics::Merge => document.insert(name.clone(), emptied(name, value)),
        };
    }
    document.extend(desired.clone());
    without_server_members(document, &last.client_id)
}

/// What a member becomes that nobody asks for any longer.
fn emptied(name: &str, value: &Value) -> Value {
    match (name, value) {
        ("grant_types", _) => json!(["authorization_code"]),
        ("response_types", _) => json!(["code"]),
        ("token_endpoint_auth_method", _) => json!("client_secret_basic"),
        (_, Value::String(_)) => json!(""),
        (_, Value::Array(_)) => json!([]),
        (_, Value::Bool(_)) => json!(false),
        (_, Value::Number(_) | Value::Object(_) | Value::Null) => Value::Null,
    }
}

/// What is wrong with a client's identifier, as a phrase about the answer that has it.
fn client_id_flaw(client_id: &str) -> Option<&'static str> {
    if client_id.is_empty() {
        Some("has an empty client_id")
    } else if client_id.chars().count() > MAX_CLIENT_ID_CHARS {
        Some("has a client_id of more than 1024 characters")
    } else if client_id.chars().any(|character| character.is_control() || is_invisible(character)) {
        Some("has control characters in its client_id")
    } else {
        None
    }
}

/// The document as it may be sent with `PUT`.
pub(super) fn without_server_members(mut document: Map<String, Value>, client_id: &str) -> Map<String, Value> {
    document.retain(|name, _| !SERVER_MEMBERS.contains(&name.as_str()));
    document.insert("client_id".to_owned(), Value::from(client_id));
    document
}

/// Removes a member in any case: what is no usable text must not stay among the metadata either.
fn take_text(document: &mut Map<String, Value>, name: &str) -> Option<String> {
    match document.remove(name) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

fn take_time(document: &mut Map<String, Value>, name: &str) -> Option<i64> {
    let seconds = match document.remove(name)? {
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().and_then(whole))?,
        Value::String(text) => text.trim().parse().ok().or_else(|| text.trim().parse().ok().and_then(whole))?,
        _ => return None,
    };
    (0..=MAX_UNIX_SECONDS).contains(&seconds).then_some(seconds)
}

fn whole(number: f64) -> Option<i64> {
    // A Duration holds every time in question and refuses NaN, infinity and negative numbers.
    let seconds = std::time::Duration::try_from_secs_f64(number).ok()?.as_secs();
    i64::try_from(seconds).ok()
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;

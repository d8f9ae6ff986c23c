//! One HTTP exchange: limits, time, size, and what may be said about it.

use std::error::Error as _;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Identity, Method, RequestBuilder, Response, redirect, retry};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value};
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::error::{Error, Refusal, Trouble};
use super::limits::Limits;
use super::text::{MAX_WORDS_CHARS, Secrets, Words, clean, shown, shown_text};

/// The most bytes of an answer's body that are read; a longer answer is an error.
pub const MAX_BODY_BYTES: usize = 256 * 1024;

/// A `Retry-After` is taken as at least and at most this.
const RETRY_AFTER_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_hours(1));

/// Shorter than the keep-alive time of common servers (5 s in Node.js): a connection that the server closes at the moment
/// of a `POST` leaves the outcome of the registration unknown.
const IDLE_CONNECTION_LIFETIME: Duration = Duration::from_secs(3);

/// How to talk to one authorization server.
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// The certificates to trust, as PEM, and no others; `None` trusts what the operating system trusts.
    pub ca_bundle: Option<Vec<u8>>,
    /// The certificate to show to the server (RFC 8705), as PEM: its chain, and its unencrypted private key.
    pub client_identity: Option<SecretString>,
    /// Whether `http://` endpoints are called.
    pub allow_insecure_http: bool,
    /// How long one exchange may take, from its start to the last byte of the answer. Waiting for the limits below is
    /// not counted. Connecting may take three quarters of it.
    pub request_timeout: Duration,
    /// How many exchanges may be under way at the same time; 0 means 1.
    pub max_concurrent_requests: usize,
    /// How many exchanges may start in a second, evenly spaced; 0 means any number.
    pub requests_per_second: u32,
}

impl PartialEq for ServerOptions {
    fn eq(&self, other: &Self) -> bool {
        let Self {
            ca_bundle,
            client_identity,
            allow_insecure_http,
            request_timeout,
            max_concurrent_requests,
            requests_per_second,
        } = self;
        let (identity, others) = (client_identity.as_ref(), other.client_identity.as_ref());
        *ca_bundle == other.ca_bundle
            && identity.map(SecretString::expose_secret) == others.map(SecretString::expose_secret)
            && *allow_insecure_http == other.allow_insecure_http
            && *request_timeout == other.request_timeout
            && *max_concurrent_requests == other.max_concurrent_requests
            && *requests_per_second == other.requests_per_second
    }
}

impl Eq for ServerOptions {}

/// An authorization server. Cheap to clone; clones share connections and limits.
#[derive(Clone)]
pub struct Server {
    inner: Arc<Inner>,
}

struct Inner {
    http: reqwest::Client,
    limits: Limits,
    allow_insecure_http: bool,
    request_timeout: Duration,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("request_timeout", &self.inner.request_timeout).finish_non_exhaustive()
    }
}

/// How a request authenticates.
pub(super) enum Authorization<'a> {
    None,
    Bearer {
        token: &'a SecretString,
        /// What it means if the token cannot be sent at all.
        unsendable: Refusal,
    },
    Basic {
        user: String,
        password: SecretString,
    },
}

/// What came back, whatever its status.
pub(super) struct Answer {
    request: String,
    pub(super) status: u16,
    headers: HeaderMap,
    body: Result<Vec<u8>, Trouble>,
    url: Url,
    secrets: Secrets,
}

impl Server {
    /// A client for one authorization server; nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::InvalidCaBundle`] if the bundle has no certificate or a broken one, or if no bundle is given and the
    /// operating system trusts none. [`Error::InvalidClientCertificate`] if the client's certificate or its key is missing
    /// or broken, or if one is not the other's.
    pub fn new(options: &ServerOptions) -> Result<Self, Error> {
        let invalid = |why: &str| Error::InvalidCaBundle { why: clean(why, MAX_WORDS_CHARS) };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("dcr-operator/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            .referer(false)
            .https_only(!options.allow_insecure_http)
            .connect_timeout(options.request_timeout.mul_f32(0.75))
            .pool_idle_timeout(IDLE_CONNECTION_LIFETIME)
            .http2_keep_alive_interval(Duration::from_secs(10))
            .http2_keep_alive_timeout(Duration::from_secs(5));
        if let Some(pem) = &options.ca_bundle {
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(|error| invalid(&cause(&error)))?;
            if certificates.is_empty() {
                return Err(invalid("no PEM block of the type CERTIFICATE in it"));
            }
            builder = builder.tls_certs_only(certificates);
        }
        if let Some(pem) = &options.client_identity {
            builder = builder.identity(identity(pem)?);
        }
        Ok(Self {
            inner: Arc::new(Inner {
                http: builder.build().map_err(|error| invalid(&cause(&error)))?,
                limits: Limits::new(options.max_concurrent_requests, options.requests_per_second),
                allow_insecure_http: options.allow_insecure_http,
                request_timeout: options.request_timeout,
            }),
        })
    }

    /// Checks that an endpoint may be called.
    pub(super) fn endpoint(&self, endpoint: &str) -> Result<Url, Error> {
        check_endpoint(endpoint, self.inner.allow_insecure_http)
    }

    /// Sends one request and reads the answer. `prepare` adds the body; `secrets` are those in it.
    pub(super) async fn exchange(
        &self,
        method: Method,
        endpoint: &str,
        authorization: Authorization<'_>,
        mut secrets: Secrets,
        prepare: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Result<Answer, Error> {
        let url = self.endpoint(endpoint)?;
        let request = format!("{method} {}", shown(&url));
        let mut builder = self.inner.http.request(method, url.clone()).header(ACCEPT, "application/json");
        match authorization {
            Authorization::None => {}
            Authorization::Basic { user, password } => {
                builder = builder.basic_auth(user, Some(password.expose_secret()));
            }
            Authorization::Bearer { token, unsendable } => {
                let Some(header) = bearer(token) else {
                    return Err(Error::UnsendableToken { request, refusal: unsendable });
                };
                builder = builder.header(AUTHORIZATION, header);
            }
        }
        let unsent = |error: &reqwest::Error| Trouble::NoConnection(cause(error));
        let built = match prepare(builder).build() {
            Ok(built) => built,
            Err(error) => return Err(unavailable(request, unsent(&error))),
        };
        let sent = built.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        if let Some((_, credentials)) = sent.and_then(|value| value.split_once(' ')) {
            secrets.add(credentials);
        }

        let _permit = self.inner.limits.start().await;
        let started = Instant::now();
        let limit = self.inner.request_timeout;
        let response = match timeout_at(started + limit, self.inner.http.execute(built)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) if error.is_connect() => return Err(unavailable(request, unsent(&error))),
            Ok(Err(error)) => return Err(unavailable(request, Trouble::ConnectionLost(cause(&error)))),
            Err(_) => return Err(unavailable(request, Trouble::Timeout(limit))),
        };
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let body = match timeout_at(started + limit, read_body(response)).await {
            Ok(body) => body,
            Err(_) => Err(Trouble::Timeout(limit)),
        };
        tracing::debug!(request, status, elapsed_ms = started.elapsed().as_millis(), "authorization server answered");
        Ok(Answer { request, status, headers, body, url, secrets })
    }
}

/// Checks that an endpoint may be called.
///
/// # Errors
/// [`Error::InvalidEndpoint`] if it is no `https://` URL (or `http://`, where that is allowed), or has user information.
pub fn check_endpoint(endpoint: &str, allow_insecure_http: bool) -> Result<Url, Error> {
    let invalid = |shown: String, why| Error::InvalidEndpoint { endpoint: shown, why };
    let url = Url::parse(endpoint).map_err(|_| invalid(shown_text(endpoint), "it is not an absolute URL"))?;
    match url.scheme() {
        "https" => {}
        "http" if allow_insecure_http => {}
        "http" => return Err(invalid(shown(&url), "http:// is not allowed, only https://")),
        _ => return Err(invalid(shown_text(endpoint), "it is not an https:// URL")),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid(shown(&url), "it has user information"));
    }
    Ok(url)
}

impl Answer {
    /// The JSON object of a successful answer.
    pub(super) fn json(&mut self) -> Result<Map<String, Value>, Error> {
        let body = std::mem::replace(&mut self.body, Ok(Vec::new()));
        let body = body.map_err(|trouble| unavailable(self.request.clone(), trouble))?;
        match serde_json::from_slice(&body) {
            Ok(Value::Object(object)) => Ok(object),
            Ok(_) => Err(self.unreadable("is not a JSON object")),
            Err(_) => Err(self.unreadable("is not JSON")),
        }
    }

    /// Whether the body is HTML.
    pub(super) fn is_page(&self) -> bool {
        let content_type = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        content_type.is_some_and(|value| value.trim_start().to_ascii_lowercase().starts_with("text/html"))
    }

    /// An error that says what is wrong with a successful answer.
    pub(super) fn unreadable(&self, what: &'static str) -> Error {
        unavailable(self.request.clone(), Trouble::Unreadable { status: self.status, what })
    }

    /// The server's words: from the body, else from the challenge.
    pub(super) fn words(&self) -> Words {
        let body = self.body.as_deref().unwrap_or_default();
        let document: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let words = Words::from_json(&document, &self.secrets);
        let challenge = self.headers.get(WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        match challenge {
            Some(challenge) if words.is_empty() => Words::from_challenge(challenge, &self.secrets),
            _ => words,
        }
    }

    /// The error for a clear "no".
    pub(super) fn refused(&self, refusal: Refusal) -> Error {
        Error::Refused { request: self.request.clone(), status: self.status, words: self.words(), refusal }
    }

    /// The error for an answer that is no decision: a redirect, "not now", a status without a meaning here.
    pub(super) fn failed(&self) -> Error {
        let status = self.status;
        let header = |name| self.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        let retry_after = header(RETRY_AFTER)
            .filter(|_| matches!(status, 429 | 503))
            .and_then(|value| parse_retry_after(value, Timestamp::now()));
        let trouble = if (300..400).contains(&status) {
            let location = header(LOCATION).and_then(|location| self.url.join(location).ok());
            Trouble::Redirect { status, location: location.and_then(|url| self.secrets.fit(&shown(&url))) }
        } else {
            Trouble::Status { status, words: self.words() }
        };
        Error::Unavailable { request: self.request.clone(), trouble, retry_after }
    }
}

/// The certificate that a client shows. Checked here, as far as it can be without a server.
fn identity(pem: &SecretString) -> Result<Identity, Error> {
    let invalid = |why: &str| Error::InvalidClientCertificate { why: why.to_owned() };
    let pem = pem.expose_secret().as_bytes();
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|_| invalid("it has a broken PEM block"))?;
    if certificates.is_empty() {
        return Err(invalid("no PEM block of the type CERTIFICATE in it"));
    }
    let key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        invalid("no unencrypted private key in it (PEM, of the type PRIVATE KEY, EC PRIVATE KEY or RSA PRIVATE KEY)")
    })?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    CertifiedKey::from_der(certificates, key, &provider).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => invalid("the private key is not that of the first certificate"),
        error => invalid(&clean(&error.to_string(), MAX_WORDS_CHARS)),
    })?;
    Identity::from_pem(pem).map_err(|error| invalid(&cause(&error)))
}

fn unavailable(request: String, trouble: Trouble) -> Error {
    tracing::debug!(request, %trouble, "no usable answer from the authorization server");
    Error::Unavailable { request, trouble, retry_after: None }
}

/// `Bearer …` (RFC 6750 section 2.1), if the token has only visible ASCII characters.
fn bearer(token: &SecretString) -> Option<HeaderValue> {
    let token = token.expose_secret();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return None;
    }
    let mut header = HeaderValue::try_from(format!("Bearer {token}")).ok()?;
    header.set_sensitive(true);
    Some(header)
}

async fn read_body(mut response: Response) -> Result<Vec<u8>, Trouble> {
    let too_long = Trouble::Unreadable { status: response.status().as_u16(), what: "is longer than 256 KiB" };
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_BODY_BYTES => return Err(too_long),
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => return Ok(body),
            Err(error) => return Err(Trouble::ConnectionLost(cause(&error))),
        }
    }
}

/// The innermost cause of a transport error: the outer ones only repeat the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text =
        if error.source().is_none() { "the request could not be made".to_owned() } else { innermost.to_string() };
    clean(&text, MAX_WORDS_CHARS)
}

/// The delay of a `Retry-After` header: seconds or an HTTP date (RFC 9110 section 10.2.3), bounded.
fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    let seconds = if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        // Too many digits for a number are a very long time.
        value.parse().unwrap_or(u64::MAX)
    } else {
        let date = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true).parse_timestamp(value).ok()?;
        u64::try_from(date.as_second() - now.as_second()).unwrap_or(0)
    };
    Some(Duration::from_secs(seconds).clamp(RETRY_AFTER_BOUNDS.0, RETRY_AFTER_BOUNDS.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn retry_after_is_seconds_or_a_date_and_bounded() {
        let now: Timestamp = "1994-11-06T08:49:07Z".parse().unwrap();
        let seconds = |value| parse_retry_after(value, now).map(|delay| delay.as_secs());
        assert_eq!(seconds("120"), Some(120));
        assert_eq!(seconds("0"), Some(1));
        assert_eq!(seconds("99999999999999999999999999"), Some(3600));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:49:37 GMT"), Some(30));
        assert_eq!(seconds("Sun, 06 Nov 1994 08:00:00 GMT"), Some(1));
        assert_eq!(seconds("Fri, 06 Nov 2094 08:49:37 GMT"), Some(3600));
        for nonsense in ["", "soon", "-5", "1.5", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(seconds(nonsense), None, "{nonsense}");
        }
    }

    proptest! {
        #[test]
        fn retry_after_never_panics(value in ".{0,60}") {
            let delay = parse_retry_after(&value, Timestamp::UNIX_EPOCH);
            prop_assert!(delay.is_none_or(|delay| delay <= RETRY_AFTER_BOUNDS.1));
        }
    }
}

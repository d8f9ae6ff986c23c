//! Authorization server metadata: `OpenID` Connect Discovery 1.0 section 4, RFC 8414.

use reqwest::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use url::Url;

use super::error::{Error, Trouble};
use super::http::{Authorization, Server};
use super::text::{MAX_WORDS_CHARS, Secrets, clean, shown, shown_text};

/// A longer endpoint is ignored.
const MAX_URL_BYTES: usize = 2048;

/// What an authorization server says of itself. Members that are no `http(s)` URL of visible ASCII characters (RFC 3986
/// section 2), or longer than 2048 bytes, count as absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerMetadata {
    /// The issuer, equal to the one that was asked for.
    pub issuer: String,
    /// Where tokens are issued.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,
    /// The same for those who show a certificate, where that is another place (RFC 8705 section 5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtls_token_endpoint: Option<String>,
    /// Where clients are registered; absent if the server does not say that it has registration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registration_endpoint: Option<String>,
    /// Where users are sent to log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorization_endpoint: Option<String>,
    /// Where the server's public keys are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwks_uri: Option<String>,
    /// Where claims about the user are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub userinfo_endpoint: Option<String>,
}

impl Server {
    /// Fetches the metadata of an issuer. Tried in turn: `{issuer}/.well-known/openid-configuration`, then
    /// `/.well-known/oauth-authorization-server` between host and path (RFC 8414 section 3.1), then the same appended to
    /// the issuer, as some servers have it. A connection that fails ends the search: all three are on one host.
    ///
    /// # Errors
    /// `InvalidEndpoint` if the issuer is no URL to call, `ServerUnavailable` if any place may have metadata later,
    /// `IssuerMismatch` if there are only metadata of another issuer, `DiscoveryFailed` if there are none.
    pub async fn discover(&self, issuer: &str) -> Result<ServerMetadata, Error> {
        let mut unavailable = None;
        let mut mismatch = None;
        let mut attempts = Vec::new();
        for place in well_known_places(&self.issuer_url(issuer)?) {
            let mut answer =
                self.exchange(Method::GET, place.as_str(), Authorization::None, Secrets::default(), |get| get).await?;
            let document = match answer.status {
                200 => answer.json(),
                _ => Err(answer.failed()),
            };
            match document {
                Ok(document) => match document.get("issuer").and_then(Value::as_str) {
                    Some(answered) if answered == issuer => return Ok(metadata(issuer, &document)),
                    Some(answered) => {
                        mismatch.get_or_insert(Error::IssuerMismatch {
                            issuer: clean(issuer, MAX_WORDS_CHARS),
                            answered: clean(&shown_text(answered), MAX_WORDS_CHARS),
                            url: shown(&place),
                        });
                    }
                    None => attempts.push(answer.unreadable("names no issuer").to_string()),
                },
                Err(error) if is_temporary(&error) => {
                    unavailable.get_or_insert(error);
                }
                Err(error) => attempts.push(error.to_string()),
            }
        }
        Err(unavailable.or(mismatch).unwrap_or_else(|| Error::DiscoveryFailed {
            issuer: clean(issuer, MAX_WORDS_CHARS),
            attempts: attempts.join("; "),
        }))
    }

    fn issuer_url(&self, issuer: &str) -> Result<Url, Error> {
        let url = self.endpoint(issuer)?;
        if url.query().is_some() || url.fragment().is_some() {
            let why = "an issuer has no query and no fragment";
            return Err(Error::InvalidEndpoint { endpoint: shown(&url), why });
        }
        Ok(url)
    }
}

/// Whether time may turn this into metadata.
fn is_temporary(error: &Error) -> bool {
    match error {
        Error::Unavailable { trouble: Trouble::Status { status, .. }, .. } => {
            *status >= 500 || matches!(status, 408 | 429)
        }
        Error::Unavailable { trouble: Trouble::ConnectionLost(_) | Trouble::Timeout(_), .. } => true,
        _ => false,
    }
}

fn well_known_places(issuer: &Url) -> Vec<Url> {
    let path = issuer.path().trim_end_matches('/');
    let mut places: Vec<Url> = Vec::new();
    for place in [
        format!("{path}/.well-known/openid-configuration"),
        format!("/.well-known/oauth-authorization-server{path}"),
        format!("{path}/.well-known/oauth-authorization-server"),
    ] {
        let mut url = issuer.clone();
        url.set_path(&place);
        if !places.contains(&url) {
            places.push(url);
        }
    }
    places
}

fn metadata(issuer: &str, document: &Map<String, Value>) -> ServerMetadata {
    let checked = |value: &Value| {
        let text = value.as_str()?;
        let scheme = Url::parse(text).ok()?.scheme().to_owned();
        let fits = text.len() <= MAX_URL_BYTES && text.bytes().all(|byte| byte.is_ascii_graphic());
        (fits && matches!(scheme.as_str(), "https" | "http")).then(|| text.to_owned())
    };
    let url = |name| document.get(name).and_then(checked);
    ServerMetadata {
        issuer: issuer.to_owned(),
        token_endpoint: url("token_endpoint"),
        mtls_token_endpoint: document
            .get("mtls_endpoint_aliases")
            .and_then(|aliases| aliases.get("token_endpoint"))
            .and_then(checked),
        registration_endpoint: url("registration_endpoint"),
        authorization_endpoint: url("authorization_endpoint"),
        jwks_uri: url("jwks_uri"),
        userinfo_endpoint: url("userinfo_endpoint"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn places(issuer: &str) -> Vec<String> {
        well_known_places(&Url::parse(issuer).unwrap()).into_iter().map(String::from).collect()
    }

    #[test]
    fn the_well_known_places_of_an_issuer_with_a_path() {
        assert_eq!(
            places("https://login.example.com:8443/oauth/v2/anonymous"),
            [
                "https://login.example.com:8443/oauth/v2/anonymous/.well-known/openid-configuration",
                "https://login.example.com:8443/.well-known/oauth-authorization-server/oauth/v2/anonymous",
                "https://login.example.com:8443/oauth/v2/anonymous/.well-known/oauth-authorization-server",
            ]
        );
    }

    #[test]
    fn an_issuer_without_a_path_has_two_places_with_or_without_a_slash() {
        let expected = [
            "https://login.example.com/.well-known/openid-configuration",
            "https://login.example.com/.well-known/oauth-authorization-server",
        ];
        assert_eq!(places("https://login.example.com"), expected);
        assert_eq!(places("https://login.example.com/"), expected);
    }

    #[test]
    fn endpoints_of_the_wrong_type_or_form_count_as_absent() {
        let document = json!({
            "token_endpoint": 7, "registration_endpoint": "/relative", "jwks_uri": "javascript:alert(1)",
            "authorization_endpoint": format!("https://x/{}", "a".repeat(3000)), "userinfo_endpoint": "https://x/\nu",
        });
        let found = metadata("https://x", document.as_object().unwrap());
        assert_eq!(serde_json::to_value(found).unwrap(), json!({"issuer": "https://x"}));
        let document = json!({"mtls_endpoint_aliases": {"token_endpoint": "https://mtls.x/t"}, "issuer": "https://x"});
        let found = metadata("https://x", document.as_object().unwrap());
        assert_eq!(found.mtls_token_endpoint.as_deref(), Some("https://mtls.x/t"));
        let document = json!({"mtls_endpoint_aliases": "https://mtls.x/t"});
        assert_eq!(metadata("https://x", document.as_object().unwrap()).mtls_token_endpoint, None);
        let document = json!({"token_endpoint": "https://x/\u{202e}t", "jwks_uri": "https://x/ü"});
        assert_eq!(metadata("https://x", document.as_object().unwrap()).token_endpoint, None);
    }
}

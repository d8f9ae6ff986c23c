//! Registering a client (RFC 7591) and managing it (RFC 7592).

use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, RequestBuilder};
use secrecy::SecretString;
use serde_json::{Map, Value};

use super::client::{ClientInformation, without_server_members};
use super::error::{Error, Refusal};
use super::http::{Answer, Authorization, Server};
use super::text::Secrets;

/// What became of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deleted {
    /// The server has deleted the client.
    Now,
    /// The server does not know the client (404, 410).
    AlreadyGone,
    /// The server does not accept the token (401): for a client's own token that is how RFC 7592 section 2 says that the
    /// client is gone, but it may also be the token alone that is no longer good.
    TokenRefused,
}

impl Server {
    /// Registers a client (RFC 7591 section 3.1). Any 2xx answer with a usable `client_id` is a success. The metadata are
    /// sent as they are.
    ///
    /// # Errors
    /// The four errors of RFC 7591 section 3.2.2 as reasons of the same names, any other 400 or 422 as
    /// `InvalidClientMetadata`; `InitialAccessTokenRejected` (401), `RefusedByServer` (another 4xx), `ServerUnavailable`,
    /// `InvalidEndpoint`. After an error whose [`Error::outcome`] is unknown the client may be registered nevertheless.
    /// Whatever the error, an initial access token that works once is spent.
    pub async fn register(
        &self,
        registration_endpoint: &str,
        initial_access_token: Option<&SecretString>,
        metadata: &Map<String, Value>,
    ) -> Result<ClientInformation, Error> {
        let authorization = initial_access_token.map_or(Authorization::None, |token| Authorization::Bearer {
            token,
            unsendable: Refusal::InitialAccessTokenRejected,
        });
        let body = json_body(metadata);
        let mut answer =
            self.exchange(Method::POST, registration_endpoint, authorization, Secrets::default(), body).await?;
        match answer.status {
            200..=299 => client_information(&mut answer),
            401 => Err(answer.refused(Refusal::InitialAccessTokenRejected)),
            400 | 422 => Err(invalid_registration(&answer)),
            408 | 429 => Err(answer.failed()),
            402..=499 => Err(answer.refused(Refusal::RefusedByServer)),
            _ => Err(answer.failed()),
        }
    }

    /// Reads a client (RFC 7592 section 2.1). **Some servers issue a new registration access token and a new client secret
    /// for every read**: the answer must be stored, also when nothing else is done with it. The token is the client's own, or
    /// that of a client that manages others.
    ///
    /// # Errors
    /// `RegistrationLost` (401, and 404 or 410 with [`Error::is_client_not_found`]), `RefusedByServer` (another 4xx),
    /// `ServerUnavailable` (also if the answer is about another client), `InvalidEndpoint`.
    pub async fn read(
        &self,
        client_configuration_endpoint: &str,
        token: &SecretString,
        client_id: &str,
    ) -> Result<ClientInformation, Error> {
        let authorization = Authorization::Bearer { token, unsendable: Refusal::RegistrationLost };
        let mut answer = self
            .exchange(Method::GET, client_configuration_endpoint, authorization, Secrets::default(), |get| get)
            .await?;
        match answer.status {
            200..=299 => information_about(&mut answer, client_id),
            401 => Err(answer.refused(Refusal::RegistrationLost)),
            404 | 410 => Err(answer.refused(Refusal::ClientNotFound)),
            408 | 429 => Err(answer.failed()),
            400..=499 => Err(answer.refused(Refusal::RefusedByServer)),
            _ => Err(answer.failed()),
        }
    }

    /// Replaces the metadata of a client (RFC 7592 section 2.2). `metadata` is the whole document, as
    /// [`update_document`](super::update_document) makes it; `client_id` is put in, and the members that the RFC forbids in
    /// an update (and the secret) are left out.
    ///
    /// # Errors
    /// `UpdateRejected` (400, 422), `RegistrationLost` (401, and 404 or 410 with [`Error::is_client_not_found`]),
    /// `UpdateUnsupported` (405, 501), `RefusedByServer` (another 4xx), `ServerUnavailable` (also if the answer is about another client), `InvalidEndpoint`. After an error
    /// whose [`Error::outcome`] is unknown the update may have been made, and the token and the secret may be new.
    pub async fn update(
        &self,
        client_configuration_endpoint: &str,
        token: &SecretString,
        client_id: &str,
        metadata: &Map<String, Value>,
    ) -> Result<ClientInformation, Error> {
        let authorization = Authorization::Bearer { token, unsendable: Refusal::RegistrationLost };
        let body = json_body(&without_server_members(metadata.clone(), client_id));
        let mut answer =
            self.exchange(Method::PUT, client_configuration_endpoint, authorization, Secrets::default(), body).await?;
        match answer.status {
            200..=299 => information_about(&mut answer, client_id),
            400 | 422 => Err(answer.refused(Refusal::UpdateRejected)),
            401 => Err(answer.refused(Refusal::RegistrationLost)),
            404 | 410 => Err(answer.refused(Refusal::ClientNotFound)),
            405 | 501 => Err(answer.refused(Refusal::UpdateUnsupported)),
            408 | 429 => Err(answer.failed()),
            402..=499 => Err(answer.refused(Refusal::RefusedByServer)),
            _ => Err(answer.failed()),
        }
    }

    /// Deletes a client (RFC 7592 section 2.3).
    ///
    /// # Errors
    /// `DeregistrationRefused` (405, 501: the server has no deletion), `RefusedByServer` (another 4xx: it may be the word of
    /// a gateway), `ServerUnavailable`, `InvalidEndpoint`.
    pub async fn delete(&self, client_configuration_endpoint: &str, token: &SecretString) -> Result<Deleted, Error> {
        let authorization = Authorization::Bearer { token, unsendable: Refusal::DeregistrationRefused };
        let answer = self
            .exchange(Method::DELETE, client_configuration_endpoint, authorization, Secrets::default(), |delete| delete)
            .await?;
        match answer.status {
            // A page for people is what stands before a server that is away, whatever its status says.
            200..=299 if answer.is_page() => Err(answer.unreadable("is a web page")),
            200..=299 => Ok(Deleted::Now),
            401 => Ok(Deleted::TokenRefused),
            404 | 410 => Ok(Deleted::AlreadyGone),
            408 | 429 => Err(answer.failed()),
            405 | 501 => Err(answer.refused(Refusal::DeregistrationRefused)),
            400..=499 => Err(answer.refused(Refusal::RefusedByServer)),
            _ => Err(answer.failed()),
        }
    }
}

fn json_body(document: &Map<String, Value>) -> impl FnOnce(RequestBuilder) -> RequestBuilder + use<> {
    let body = Value::Object(document.clone()).to_string();
    move |request| request.header(CONTENT_TYPE, HeaderValue::from_static("application/json")).body(body)
}

fn client_information(answer: &mut Answer) -> Result<ClientInformation, Error> {
    ClientInformation::from_json(answer.json()?).map_err(|error| match error {
        Error::InvalidClientInformation(what) => answer.unreadable(what),
        other => other,
    })
}

/// No answer about one client may be taken for another's.
fn information_about(answer: &mut Answer, client_id: &str) -> Result<ClientInformation, Error> {
    let client = client_information(answer)?;
    if client.client_id == client_id { Ok(client) } else { Err(answer.unreadable("is about another client")) }
}

/// What a status 400 at the registration endpoint means. An unknown code, or none, is about the metadata; the few codes of
/// RFC 6749 and RFC 6750 that some servers send with this status keep their own meaning.
fn invalid_registration(answer: &Answer) -> Error {
    answer.refused(match answer.words().error.as_deref() {
        Some("invalid_redirect_uri") => Refusal::InvalidRedirectUri,
        Some("invalid_software_statement") => Refusal::InvalidSoftwareStatement,
        Some("unapproved_software_statement") => Refusal::UnapprovedSoftwareStatement,
        Some("invalid_token") => Refusal::InitialAccessTokenRejected,
        Some("insufficient_scope") => Refusal::RefusedByServer,
        Some("temporarily_unavailable" | "server_error") => return answer.failed(),
        _ => Refusal::InvalidClientMetadata,
    })
}

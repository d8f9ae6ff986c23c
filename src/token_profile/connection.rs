//! From a TokenProfile to a server that can be called: its trust, its limits, its credential.
//!
//! Credentials are read when they are needed and never kept: what changes in a Secret counts from the next call on.

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::Hasher,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{Api, Client, ResourceExt};
use secrecy::{ExposeSecret, SecretString};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

use crate::{
    api::{self, CaBundleKind, CaBundleRef, SecretKeyRef, TokenProfile, TokenReuse, labels, reasons},
    dcr, kubernetes,
    retry::Retry,
};

const CONFIG_MAP: &str = "ConfigMap";

/// What the operator shows to get an initial access token, or the token itself.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Registration is open.
    NotRequired,
    /// A fresh token is fetched for each attempt.
    ClientCredentials(dcr::ClientCredentials),
    /// A token that was issued beforehand.
    BearerToken(SecretString),
}

impl Credential {
    /// Feeds what the credential is made of to a hasher, to notice changes.
    pub(super) fn hash(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        match self {
            Self::NotRequired => {}
            Self::ClientCredentials(client) => match &client.authentication {
                dcr::ClientAuthentication::ClientSecretBasic(secret)
                | dcr::ClientAuthentication::ClientSecretPost(secret) => secret.expose_secret().hash(hasher),
                dcr::ClientAuthentication::PrivateKeyJwt { key, audience } => {
                    (key.private_key_pem().expose_secret(), key.kid(), audience).hash(hasher);
                }
                dcr::ClientAuthentication::TlsClientAuth => {}
            },
            Self::BearerToken(token) => token.expose_secret().hash(hasher),
        }
    }
}

/// Why a profile can't be used as it is.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    #[error("{kind} {namespace}/{name} does not exist")]
    NotFound { kind: &'static str, namespace: String, name: String },
    #[error("{kind} {namespace}/{name} has no key {key:?}")]
    KeyNotFound { kind: &'static str, namespace: String, name: String, key: String },
    #[error(
        "Secret {namespace}/{name} does not carry the label {}: \"true\", by which its owner allows the operator to use it",
        labels::CREDENTIALS
    )]
    NotLabelled { namespace: String, name: String },
    #[error("key {key:?} of {kind} {namespace}/{name} is empty or not text")]
    NotText { kind: &'static str, namespace: String, name: String, key: String },
    #[error("client {client_id} needs a secretRef for its authMethod")]
    NoSecretRef { client_id: String },
    #[error(transparent)]
    Server(#[from] dcr::Error),
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::Error),
}

impl Error {
    /// The reason for conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::KeyNotFound { .. } | Self::NotText { .. } | Self::NoSecretRef { .. } => {
                reasons::SECRET_NOT_FOUND
            }
            Self::NotLabelled { .. } => reasons::SECRET_NOT_LABELLED,
            Self::Server(error) => error.reason(),
            Self::Kubernetes(error) => error.reason(),
        }
    }

    /// Whether it is a `ConfigMap` that is not as it should be.
    #[must_use]
    pub fn is_about_a_config_map(&self) -> bool {
        matches!(self, Self::NotFound { kind: CONFIG_MAP, .. } | Self::KeyNotFound { kind: CONFIG_MAP, .. })
    }

    /// What may cure it. Secrets are watched once they carry the label; a missing one may appear without it.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Server(error) => error.retry(),
            Self::Kubernetes(error) => error.retry(),
            _ => Retry::Backoff,
        }
    }
}

/// Servers by profile, so that all clients of a profile share its connections and limits.
pub struct Connections {
    client: Client,
    allow_insecure_http: bool,
    servers: Mutex<HashMap<String, (dcr::ServerOptions, dcr::Server)>>,
    turns: Mutex<HashMap<String, (u16, Arc<Semaphore>)>>,
    /// Initial access tokens for more than one registration, with the end of their use.
    tokens: Mutex<HashMap<String, (TokenOrigin, SecretString, Instant)>>,
}

/// What a token was obtained with: the generation of the profile, and a hash of the credential.
type TokenOrigin = (Option<i64>, u64);

fn token_origin(profile: &TokenProfile, credential: &Credential) -> TokenOrigin {
    let mut hasher = DefaultHasher::new();
    credential.hash(&mut hasher);
    (profile.metadata.generation, hasher.finish())
}

impl Connections {
    #[must_use]
    pub fn new(client: Client, allow_insecure_http: bool) -> Self {
        Self {
            client,
            allow_insecure_http,
            servers: Mutex::default(),
            turns: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// The server of a profile, with these certificates as its only trust if given, and with the operator's own identity.
    ///
    /// # Errors
    /// [`Error::Server`] if the certificates are unusable.
    pub fn server(
        &self,
        profile: &TokenProfile,
        ca_bundle: Option<Vec<u8>>,
        client_identity: Option<SecretString>,
    ) -> Result<dcr::Server, Error> {
        let limits = &profile.spec.limits;
        let options = dcr::ServerOptions {
            ca_bundle,
            client_identity,
            allow_insecure_http: self.allow_insecure_http,
            request_timeout: limits.request_timeout.into(),
            max_concurrent_requests: limits.max_concurrent_requests.into(),
            requests_per_second: limits.requests_per_second.into(),
        };
        let uid = profile.uid().unwrap_or_default();
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((known, server)) = servers.get(&uid)
            && *known == options
        {
            return Ok(server.clone());
        }
        let server = dcr::Server::new(&options)?;
        // It may have been obtained with the certificate of before.
        self.forget_token(profile);
        servers.insert(uid, (options, server.clone()));
        Ok(server)
    }

    /// One of the profile's places for a registration, token request included; waits until there is one.
    pub async fn turn(&self, profile: &TokenProfile) -> Option<OwnedSemaphorePermit> {
        let places = profile.spec.limits.max_concurrent_requests.max(1);
        let turns = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            let (known, turns) = turns
                .entry(profile.uid().unwrap_or_default())
                .or_insert_with(|| (places, Arc::new(Semaphore::new(places.into()))));
            if *known != places {
                (*known, *turns) = (places, Arc::new(Semaphore::new(places.into())));
            }
            Arc::clone(turns)
        };
        // Never closed.
        turns.acquire_owned().await.ok()
    }

    /// A server without a profile: only to remove a registration whose profile is gone.
    ///
    /// # Errors
    /// [`Error::Server`] if the certificates are unusable.
    pub fn bare_server(&self, ca_bundle: Option<Vec<u8>>) -> Result<dcr::Server, Error> {
        let limits = api::Limits::default();
        Ok(dcr::Server::new(&dcr::ServerOptions {
            ca_bundle,
            client_identity: None,
            allow_insecure_http: self.allow_insecure_http,
            request_timeout: limits.request_timeout.into(),
            max_concurrent_requests: 1,
            requests_per_second: 0,
        })?)
    }

    /// Forgets the servers of all but these profiles: the others are gone.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid));
        self.turns.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid));
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid));
    }

    /// The certificates that the profile trusts; `None` = the operator's own trust store.
    ///
    /// # Errors
    /// If the object or its key is missing, or a Secret is not labelled.
    pub async fn ca_bundle(&self, profile: &TokenProfile) -> Result<Option<Vec<u8>>, Error> {
        let Some(reference) = profile.spec.tls.as_ref().and_then(|tls| tls.ca_bundle_ref.as_ref()) else {
            return Ok(None);
        };
        let namespace = profile.namespace().unwrap_or_default();
        let CaBundleRef { kind, name, key } = reference;
        match kind {
            CaBundleKind::Secret => self.secret_value(&namespace, name, key).await.map(Some),
            CaBundleKind::ConfigMap => {
                let kind = CONFIG_MAP;
                let map = Api::<ConfigMap>::namespaced(self.client.clone(), &namespace)
                    .get_opt(name)
                    .await
                    .map_err(|error| {
                        kubernetes::Error::new(format!("could not read ConfigMap {namespace}/{name}"), error)
                    })?
                    .ok_or_else(|| Error::NotFound { kind, namespace: namespace.clone(), name: name.clone() })?;
                let missing = || Error::KeyNotFound { kind, namespace, name: name.clone(), key: key.clone() };
                map.data.unwrap_or_default().remove(key).map(|pem| Some(pem.into_bytes())).ok_or_else(missing)
            }
        }
    }

    /// The credential of the profile, freshly read.
    ///
    /// # Errors
    /// If the Secret or its key is missing, or it is not labelled.
    pub async fn credential(&self, profile: &TokenProfile) -> Result<Credential, Error> {
        let Some(source) = &profile.spec.initial_access_token else {
            return Ok(Credential::NotRequired);
        };
        let namespace = profile.namespace().unwrap_or_default();
        if let Some(client) = &source.client_credentials {
            return Ok(Credential::ClientCredentials(self.grant(profile, client, "dcr").await?));
        }
        match &source.bearer_token {
            Some(bearer) => {
                Ok(Credential::BearerToken(self.secret_text(&namespace, &bearer.secret_ref, "token").await?))
            }
            None => Ok(Credential::NotRequired),
        }
    }

    /// The client that manages any client of the server, freshly read; `None` if the profile has none.
    ///
    /// # Errors
    /// If the Secret or its key is missing, or it is not labelled.
    pub async fn management_client(&self, profile: &TokenProfile) -> Result<Option<dcr::ClientCredentials>, Error> {
        match &profile.spec.server.management_client {
            Some(client) => self.grant(profile, &client.credentials, "dcrm").await.map(Some),
            None => Ok(None),
        }
    }

    /// An initial access token that was kept for further registrations (`reuse: UntilExpiry`), if it was obtained with
    /// this credential.
    #[must_use]
    pub fn kept_token(&self, profile: &TokenProfile, credential: &Credential) -> Option<SecretString> {
        let tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let (origin, token, until) = tokens.get(&profile.uid().unwrap_or_default())?;
        (*origin == token_origin(profile, credential) && Instant::now() < *until).then(|| token.clone())
    }

    /// Keeps an initial access token, if the profile says so and the server has said how long it lives.
    pub fn keep_token(&self, profile: &TokenProfile, credential: &Credential, token: &dcr::AccessToken) {
        let reuse = profile.spec.initial_access_token.as_ref().map(|source| source.reuse).unwrap_or_default();
        if let (TokenReuse::UntilExpiry, Some(life)) = (reuse, token.expires_in) {
            // It must last for the call that it is for. A life beyond all times is nobody's.
            let Some(until) = Instant::now().checked_add(life / 5 * 4) else { return };
            let kept = (token_origin(profile, credential), token.token.clone(), until);
            let uid = profile.uid().unwrap_or_default();
            self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(uid, kept);
        }
    }

    /// Forgets a token that was kept: a registration with it has failed, or has no answer.
    pub fn forget_token(&self, profile: &TokenProfile) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).remove(&profile.uid().unwrap_or_default());
    }

    /// A client of the platform team, as it asks for a token.
    async fn grant(
        &self,
        profile: &TokenProfile,
        client: &api::ClientCredentials,
        usual_scope: &'static str,
    ) -> Result<dcr::ClientCredentials, Error> {
        let namespace = profile.namespace().unwrap_or_default();
        let secret = async |key| match &client.secret_ref {
            Some(reference) => self.secret_text(&namespace, reference, key).await,
            None => Err(Error::NoSecretRef { client_id: client.client_id.clone() }),
        };
        let authentication = match client.auth_method {
            api::ClientAuthMethod::ClientSecretBasic => {
                dcr::ClientAuthentication::ClientSecretBasic(secret("client-secret").await?)
            }
            api::ClientAuthMethod::ClientSecretPost => {
                dcr::ClientAuthentication::ClientSecretPost(secret("client-secret").await?)
            }
            api::ClientAuthMethod::PrivateKeyJwt => {
                let pem = secret("private-key").await?;
                let kid = match &client.secret_ref {
                    Some(reference) => self.optional_secret_text(&namespace, &reference.name, "key-id").await?,
                    None => None,
                };
                let kid = kid.map(|kid| kid.expose_secret().to_owned());
                let key = dcr::KeyPair::from_pem(&pem, kid)?;
                dcr::ClientAuthentication::PrivateKeyJwt { key, audience: audience(profile) }
            }
            api::ClientAuthMethod::TlsClientAuth => dcr::ClientAuthentication::TlsClientAuth,
        };
        let usual = profile.spec.server.default_scope(usual_scope);
        Ok(dcr::ClientCredentials {
            client_id: client.client_id.clone(),
            authentication,
            scope: client.scope.clone().or(usual.map(str::to_owned)).filter(|scope| !scope.is_empty()),
            parameters: client.parameters.iter().map(|(name, value)| (name.clone(), value.0.clone())).collect(),
        })
    }

    /// The certificate and key that the operator shows to the server, as PEM; `None` = it shows none.
    ///
    /// # Errors
    /// If the Secret or a key of it is missing, or it is not labelled.
    pub async fn client_identity(&self, profile: &TokenProfile) -> Result<Option<SecretString>, Error> {
        let reference = profile.spec.tls.as_ref().and_then(|tls| tls.client_certificate_secret_ref.as_ref());
        let Some(reference) = reference else { return Ok(None) };
        let namespace = profile.namespace().unwrap_or_default();
        let part = async |key| self.secret_value(&namespace, &reference.name, key).await;
        let (certificate, key) = futures::try_join!(part("tls.crt"), part("tls.key"))?;
        let pem = [certificate, b"\n".to_vec(), key].concat();
        let text = String::from_utf8(pem).map_err(|_| Error::NotText {
            kind: "Secret",
            namespace: namespace.clone(),
            name: reference.name.clone(),
            key: "tls.key".into(),
        })?;
        Ok(Some(text.into()))
    }

    /// A value of a Secret that may or may not have it.
    ///
    /// # Errors
    /// If the Secret is missing or not labelled, or the value is empty or not text.
    pub async fn optional_secret_text(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
    ) -> Result<Option<SecretString>, Error> {
        let reference = SecretKeyRef { name: name.to_owned(), key: Some(key.to_owned()) };
        match self.secret_text(namespace, &reference, key).await {
            Ok(text) => Ok(Some(text)),
            Err(Error::KeyNotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn secret_text(&self, namespace: &str, reference: &SecretKeyRef, key: &str) -> Result<SecretString, Error> {
        let key = reference.key.as_deref().unwrap_or(key);
        let value = self.secret_value(namespace, &reference.name, key).await?;
        // Files end with a line break, and `kubectl create secret --from-file` keeps it.
        let text = String::from_utf8(value).ok().map(|text| text.trim_end_matches(['\r', '\n']).to_owned());
        text.filter(|text| !text.is_empty()).map(SecretString::from).ok_or_else(|| Error::NotText {
            kind: "Secret",
            namespace: namespace.to_owned(),
            name: reference.name.clone(),
            key: key.to_owned(),
        })
    }

    async fn secret_value(&self, namespace: &str, name: &str, key: &str) -> Result<Vec<u8>, Error> {
        let (namespace, name, key) = (namespace.to_owned(), name.to_owned(), key.to_owned());
        let kind = "Secret";
        let secret = Api::<Secret>::namespaced(self.client.clone(), &namespace)
            .get_opt(&name)
            .await
            .map_err(|error| kubernetes::Error::new(format!("could not read Secret {namespace}/{name}"), error))?;
        let Some(secret) = secret else { return Err(Error::NotFound { kind, namespace, name }) };
        if secret.labels().get(labels::CREDENTIALS).map(String::as_str) != Some("true") {
            return Err(Error::NotLabelled { namespace, name });
        }
        match secret.data.unwrap_or_default().remove(&key) {
            Some(value) => Ok(value.0),
            None => Err(Error::KeyNotFound { kind, namespace, name, key }),
        }
    }
}

/// Of a `private_key_jwt` (RFC 7523 section 3): the issuer where it is known, else the token endpoint, which is given then.
/// From the spec alone: the status may still be about the server of before.
fn audience(profile: &TokenProfile) -> String {
    let given = || profile.spec.endpoints.as_ref().and_then(|endpoints| endpoints.token.clone());
    profile.spec.issuer.clone().or_else(given).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, time::Duration};

    use http::{Request, Response};
    use kube::client::Body;
    use serde_json::json;

    use super::*;

    fn connections() -> Connections {
        let nobody = tower::service_fn(async |_: Request<Body>| Ok::<_, Infallible>(Response::new(Body::empty())));
        Connections::new(Client::new(nobody, "default"), false)
    }

    fn profile(spec: serde_json::Value) -> TokenProfile {
        serde_json::from_value(json!({
            "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "TokenProfile",
            "metadata": {"name": "token-service", "namespace": "identity", "uid": "p", "generation": 1}, "spec": spec,
        }))
        .unwrap()
    }

    fn reusing() -> TokenProfile {
        profile(json!({"issuer": "https://as", "initialAccessToken": {"reuse": "UntilExpiry"}}))
    }

    fn credential(secret: &str) -> Credential {
        Credential::ClientCredentials(dcr::ClientCredentials {
            client_id: "server".into(),
            authentication: dcr::ClientAuthentication::ClientSecretBasic(secret.into()),
            scope: None,
            parameters: std::collections::BTreeMap::new(),
        })
    }

    #[test]
    fn an_assertion_is_for_the_server_of_the_spec_whatever_the_status_says() {
        let at = |spec| {
            let mut profile = profile(spec);
            profile.status = Some(
                serde_json::from_value(json!({"issuer": "https://former", "tokenEndpoint": "https://former/token"}))
                    .unwrap(),
            );
            audience(&profile)
        };
        assert_eq!(at(json!({"issuer": "https://as", "endpoints": {"token": "https://as/token"}})), "https://as");
        assert_eq!(at(json!({"endpoints": {"token": "https://as/token"}})), "https://as/token");
    }

    #[tokio::test]
    async fn no_life_that_a_server_gives_a_token_is_too_long() {
        let (connections, profile) = (connections(), reusing());
        let token = dcr::AccessToken { token: "t".into(), expires_in: Some(Duration::MAX) };
        connections.keep_token(&profile, &credential("s"), &token);
        assert!(connections.kept_token(&profile, &credential("s")).is_none());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_a_profile_that_is_gone() {
        let (connections, profile) = (connections(), reusing());
        let token = dcr::AccessToken { token: "t".into(), expires_in: Some(Duration::from_mins(5)) };
        connections.keep_token(&profile, &credential("s"), &token);
        connections.server(&profile, None, None).unwrap();
        connections.keep_token(&profile, &credential("s"), &token);
        let _ = connections.turn(&profile).await;
        let kept = |connections: &Connections| {
            let tokens = connections.tokens.lock().unwrap().len();
            [connections.servers.lock().unwrap().len(), connections.turns.lock().unwrap().len(), tokens]
        };
        connections.retain(&HashSet::from(["p".to_owned()]));
        assert_eq!(kept(&connections), [1; 3]);
        connections.retain(&HashSet::new());
        assert_eq!(kept(&connections), [0; 3]);
    }

    #[tokio::test]
    async fn a_kept_token_goes_with_the_credential_that_it_was_obtained_with() {
        let (connections, profile) = (connections(), reusing());
        let token = dcr::AccessToken { token: "t".into(), expires_in: Some(Duration::from_mins(5)) };
        connections.keep_token(&profile, &credential("old"), &token);
        assert!(connections.kept_token(&profile, &credential("old")).is_some());
        assert!(connections.kept_token(&profile, &credential("new")).is_none(), "its Secret has changed");
        connections.forget_token(&profile);
        assert!(connections.kept_token(&profile, &credential("old")).is_none());
    }
}

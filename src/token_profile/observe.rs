//! Everything that a decision about a profile needs.

use std::{
    collections::{HashMap, HashSet, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use kube::ResourceExt;
use secrecy::{ExposeSecret, SecretString};

use super::connection::{Credential, Error};
use crate::{api::TokenProfile, context::Context, dcr, kubernetes};

/// A profile and what is known about it.
#[derive(Debug)]
pub struct Observed {
    pub profile: TokenProfile,
    /// OAuthClients that name the profile.
    pub clients: i64,
    /// The certificates to trust.
    pub ca_bundle: Result<Option<Vec<u8>>, Error>,
    pub credential: Result<Credential, Error>,
    /// What the operator shows to the server.
    pub client_identity: Result<Option<SecretString>, Error>,
    /// The client that manages any client.
    pub management_client: Result<(), Error>,
    /// What the server has answered to these inputs, so far.
    pub finding: Finding,
    /// No call before this time: the last one failed with these inputs.
    pub not_before: Option<Timestamp>,
    pub allow_insecure_http: bool,
}

/// What the server has answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Finding {
    /// The inputs that it is about: the spec, the trust and the credential.
    pub inputs: u64,
    pub metadata: Option<dcr::ServerMetadata>,
    /// An initial access token has been issued.
    pub token_obtained: bool,
    /// Why the last call failed.
    pub failure: Option<Failure>,
    /// When everything was found to be well.
    pub complete_at: Option<Timestamp>,
}

/// A failed call.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub at: FailedStep,
    pub reason: &'static str,
    pub message: String,
    pub curable_by_time: bool,
}

/// Which call failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailedStep {
    Discovery,
    Token,
}

/// Findings by the uid of the profile.
#[derive(Debug, Default)]
pub struct Findings(Mutex<HashMap<String, Finding>>);

impl Findings {
    /// What is known for these inputs; nothing, if they are new.
    pub fn get(&self, uid: &str, inputs: u64) -> Finding {
        let findings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = findings.get(uid).filter(|finding| finding.inputs == inputs).cloned();
        known.unwrap_or_else(|| Finding { inputs, ..Finding::default() })
    }

    pub fn set(&self, uid: &str, finding: Finding) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(uid.to_owned(), finding);
    }

    /// Forgets all but those of these profiles.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid));
    }
}

/// Reads what the decision needs; writes nothing.
///
/// # Errors
/// If the Kubernetes API fails: that says nothing about the profile.
pub async fn observe(context: &Context, profile: TokenProfile) -> Result<Observed, kubernetes::Error> {
    let (namespace, name) = (profile.namespace().unwrap_or_default(), profile.name_any());
    let uid = profile.uid().unwrap_or_default();
    let ca_bundle = told(context.connections.ca_bundle(&profile).await)?;
    let credential = told(context.connections.credential(&profile).await)?;
    let client_identity = told(context.connections.client_identity(&profile).await)?;
    let management_client = told(context.connections.management_client(&profile).await.map(|_| ()))?;

    let mut hasher = DefaultHasher::new();
    profile.metadata.generation.hash(&mut hasher);
    ca_bundle.as_ref().ok().hash(&mut hasher);
    if let Ok(credential) = &credential {
        credential.hash(&mut hasher);
    }
    if let Ok(Some(identity)) = &client_identity {
        identity.expose_secret().hash(&mut hasher);
    }
    let inputs = hasher.finish();
    Ok(Observed {
        clients: count_clients(context, &namespace, &name),
        ca_bundle,
        credential,
        client_identity,
        management_client,
        finding: context.findings.get(&uid, inputs),
        not_before: context.profile_backoff.not_before(&uid, inputs),
        allow_insecure_http: context.settings.allow_insecure_http,
        profile,
    })
}

/// What is missing or forbidden is an observation; that the API failed is not.
fn told<T>(read: Result<T, Error>) -> Result<Result<T, Error>, kubernetes::Error> {
    match read {
        Err(Error::Kubernetes(error)) if !matches!(error, kubernetes::Error::Forbidden { .. }) => Err(error),
        read => Ok(read),
    }
}

/// How many OAuthClients name the profile.
pub fn count_clients(context: &Context, namespace: &str, name: &str) -> i64 {
    let names_it = context.clients.filter_map(|client| {
        let reference = &client.spec.profile_ref;
        let home = client.metadata.namespace.as_deref();
        (reference.name == name && reference.namespace.as_deref().or(home) == Some(namespace)).then_some(())
    });
    i64::try_from(names_it.len()).unwrap_or(i64::MAX)
}

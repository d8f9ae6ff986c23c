//! Carries out one step, and returns what it changed. Decides nothing.

mod deregister;
mod manage;
mod register;
mod restart;
mod store;

pub use deregister::tell_of_orphan;

use std::time::{Duration, Instant};

use kube::{Resource, ResourceExt};
use serde_json::json;

use super::{
    attempt::Attempt,
    observe::{ApplicationSecret, Change, Observed},
    plan::{self, Step},
    registration::{self, RegistrationSecret, ServerSnapshot, StoredSecret},
};
use crate::{
    api::{FINALIZER, OAuthClientStatus, PossibleOrphan, TokenProfile, reasons},
    context::Context,
    crash_point, dcr, kubernetes,
    retry::Retry,
    token_profile::{ConnectionError, Heard},
};

/// The status lists at most this many possible orphans, the newest.
const MOST_POSSIBLE_ORPHANS: usize = 32;

/// How long nothing is registered after an answer could not be stored though the API server had nothing against it.
const PAUSE_AFTER_LOSS: Duration = Duration::from_mins(5);

/// Why a step could not be carried out.
#[derive(thiserror::Error, Debug)]
pub enum Error {
    #[error(transparent)]
    Kubernetes(#[from] kubernetes::Error),
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    #[error(transparent)]
    Server(#[from] dcr::Error),
    /// The server may have registered a client, and there is no answer that tells.
    #[error("attempt {attempt} has no usable answer, so the server may hold a client that nobody knows: {source}")]
    OutcomeUnknown {
        attempt: String,
        #[source]
        source: dcr::Error,
    },
    /// The answer could not be stored, so the registration has been given up again.
    #[error("the registration of client {client_id} could not be stored and was {fate}: {source}")]
    NotStored {
        client_id: String,
        fate: &'static str,
        /// The API server had been asked before, and had nothing against it.
        is_checked: bool,
        #[source]
        source: kubernetes::Error,
    },
    /// There is no place to keep an answer, as when one could not be stored before: nothing has been registered.
    #[error("nothing is registered, for the answer could not be kept: {0}")]
    NotStorable(#[source] kubernetes::Error),
    /// The client to adopt needs a secret, and nobody knows it.
    #[error(
        "client {client_id} authenticates by a secret, and the server does not tell it: put it under client-secret into a Secret, and name that in spec.adopt.secretRef"
    )]
    NoSecret { client_id: String },
    /// The profile now describes another server than the client's, and that one does not know the client.
    #[error(
        "client {client_id} was registered at {former}, and the server that the TokenProfile describes now does not know it ({source}). Point the TokenProfile back at {former}; or let a new client take its place with spec.replacement.when: [RegistrationLost]; or delete the OAuthClient and create it again. Until then the Secret holds what is valid at {former}"
    )]
    Left {
        client_id: String,
        former: String,
        #[source]
        source: Box<dcr::Error>,
    },
    /// The same for a client of ours, of which what was kept is gone.
    #[error(
        "what was kept of client {client_id} is gone, and with it the client secret, which the server does not tell. Restore the registration Secret from a backup; or put the secret under client-secret into a Secret, and name that with the client in spec.adopt; or let a new client take its place with spec.replacement.when: [RegistrationLost]"
    )]
    SecretLost { client_id: String },
    /// No key pair could be made.
    #[error(transparent)]
    Key(dcr::Error),
    /// The server is down, as other clients have found out: it is not called.
    #[error(
        "the authorization server is down; other clients' calls have found that out, and it is not called until one of them succeeds"
    )]
    CircuitOpen(Duration),
    /// The plan asked for something that the facts do not allow.
    #[error("{0}")]
    Inconsistent(&'static str),
}

impl Error {
    /// The reason for conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kubernetes(error) | Self::NotStorable(error) | Self::NotStored { source: error, .. } => {
                error.reason()
            }
            Self::Connection(error) => error.reason(),
            Self::Server(error) | Self::Key(error) => error.reason(),
            Self::Left { source, .. } => source.reason(),
            Self::OutcomeUnknown { .. } => reasons::OUTCOME_UNKNOWN,
            Self::NoSecret { .. } => reasons::SECRET_NOT_FOUND,
            Self::SecretLost { .. } => reasons::REGISTRATION_LOST,
            Self::CircuitOpen(_) => reasons::SERVER_UNAVAILABLE,
            Self::Inconsistent(_) => "Inconsistent",
        }
    }

    /// What may cure it.
    #[must_use]
    pub fn retry(&self) -> Retry {
        match self {
            Self::Kubernetes(error) => error.retry(),
            Self::Connection(ConnectionError::Server(error)) | Self::Server(error) => match error {
                // The same call would be answered in the same way.
                dcr::Error::Refused { .. }
                    if [reasons::UPDATE_UNSUPPORTED, reasons::REGISTRATION_LOST].contains(&error.reason()) =>
                {
                    Retry::OnChange
                }
                dcr::Error::Refused { .. } | dcr::Error::Unavailable { .. } => error.retry(),
                // What it is about is the profile's, and may be mended without a trace in our inputs.
                _ => Retry::Backoff,
            },
            Self::Connection(error) => error.retry(),
            // Only time can tell.
            Self::OutcomeUnknown { source, .. } => match source.retry() {
                Retry::OnChange => Retry::Backoff,
                retry => retry,
            },
            Self::NoSecret { .. } | Self::Left { .. } | Self::SecretLost { .. } => Retry::OnChange,
            Self::CircuitOpen(pause) => Retry::After(*pause),
            // Each try makes a client on the server; the next one asks first, but this one was told that it may.
            Self::NotStored { is_checked: true, .. } => Retry::After(PAUSE_AFTER_LOSS),
            Self::NotStored { .. } | Self::NotStorable(_) | Self::Key(_) | Self::Inconsistent(_) => Retry::Backoff,
        }
    }

    /// What it tells about the server.
    #[must_use]
    pub fn heard(&self) -> Heard {
        match self {
            Self::Server(error)
            | Self::Connection(ConnectionError::Server(error))
            | Self::OutcomeUnknown { source: error, .. } => match error {
                // Too many requests is an answer: it is about who asks.
                dcr::Error::Unavailable { trouble: dcr::Trouble::Status { status: 429, .. }, .. }
                | dcr::Error::Refused { .. } => Heard::Answer,
                dcr::Error::Unavailable { .. } => Heard::Outage,
                _ => Heard::NoWord,
            },
            // It was registered; or it is not known there.
            Self::NotStored { .. } | Self::Left { .. } => Heard::Answer,
            _ => Heard::NoWord,
        }
    }

    /// Whether the server has said no, and so nothing has changed there.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Server(error) if error.outcome() == dcr::Outcome::NotRegistered)
    }
}

/// Carries out the step.
///
/// # Errors
/// Each has a reason and a retry class; what was changed before it is persisted.
pub async fn act(context: &Context, observed: &Observed, step: Step) -> Result<Change, Error> {
    match step {
        Step::AddFinalizer => {
            let finalizers = store::with_finalizer(&observed.client);
            write_metadata(context, observed, json!({"finalizers": finalizers})).await
        }
        Step::Register { attempt, document, new_key } => {
            register::register(context, observed, attempt, document, new_key).await
        }
        Step::Adopt { client_id, registration_client_uri } => {
            register::adopt(context, observed, &client_id, registration_client_uri.as_deref()).await
        }
        Step::Update { document, body, new_key, cause } => {
            manage::update(context, observed, document, body, new_key, &cause).await
        }
        Step::Read { purpose } => manage::look(context, observed, &purpose).await,
        Step::Retire { client_id } => manage::retire(context, observed, &client_id).await,
        Step::ApplySecret { secret, precondition } => {
            let applied = kubernetes::apply_secret(&context.client, &secret, &precondition).await?;
            Ok(Change::SecretApplied { secret: StoredSecret::new(applied), data: secret.data })
        }
        Step::RemoveSecret => {
            if let ApplicationSecret::Ours { secret, .. } = &observed.secret {
                kubernetes::remove_secret(&context.client, &secret.0).await?;
            }
            Ok(Change::SecretRemoved)
        }
        Step::RemoveFormerSecret => {
            if let Some(secret) = &observed.former_secret {
                kubernetes::remove_secret(&context.client, &secret.0).await?;
            }
            Ok(Change::FormerSecretRemoved)
        }
        Step::RestartWorkloads { targets, rotated_at } => {
            restart::restart(context, observed, &targets, rotated_at).await
        }
        Step::ReportPossibleOrphan { attempt } => report_possible_orphan(context, observed, attempt).await,
        Step::Withdraw { why } => deregister::withdraw(context, observed, &why).await,
        Step::Deregister => deregister::deregister(context, observed).await,
        Step::ReportOrphan { client_ids, why } => {
            for client_id in client_ids {
                deregister::report_orphan(context, observed, &client_id, &why).await?;
            }
            crash_point::reached("ReportOrphan", "is told");
            store::settle(context, observed).await
        }
        Step::ReportRetained { client_id } => {
            let note = format!("client {client_id} stays registered (deletionPolicy: Retain)");
            tracing::info!(client_id, "{note}");
            context.events.normal(&observed.client.object_ref(&()), "Retained", &note).await;
            store::settle(context, observed).await
        }
        Step::RemoveRegistration => {
            if let RegistrationSecret::Stray { client_ids, .. } = &observed.registration {
                let secret = registration::secret_name(observed.name());
                let why =
                    format!("Secret {secret}, which kept its registration, no longer belonged to this OAuthClient");
                // What the status names has been told.
                for client_id in client_ids.iter().filter(|client_id| !observed.names(client_id)) {
                    deregister::report_orphan(context, observed, client_id, &why).await?;
                }
            }
            if let RegistrationSecret::Held { secret, .. }
            | RegistrationSecret::Unreadable { secret, .. }
            | RegistrationSecret::Stray { secret, .. } = &observed.registration
            {
                kubernetes::remove_secret(&context.client, &secret.0).await?;
            }
            Ok(Change::RegistrationRemoved)
        }
        Step::Release => {
            let finalizers: Vec<&String> =
                observed.client.finalizers().iter().filter(|finalizer| *finalizer != FINALIZER).collect();
            let client =
                kubernetes::patch_metadata(&context.client, &observed.client, json!({"finalizers": finalizers}))
                    .await?;
            Ok(Change::Released(Box::new(client)))
        }
    }
}

async fn report_possible_orphan(context: &Context, observed: &Observed, attempt: Attempt) -> Result<Change, Error> {
    let Attempt { id, started_at, .. } = attempt;
    let mut status = observed.client.status.clone().unwrap_or_default();
    status.possible_orphans.push(PossibleOrphan {
        attempt: id.clone(),
        started_at: k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(started_at),
    });
    let surplus = status.possible_orphans.len().saturating_sub(MOST_POSSIBLE_ORPHANS);
    status.possible_orphans.drain(..surplus);
    let note = format!(
        "registration attempt {id} of {started_at} has no answer: the server may hold a client that nobody knows. Look there for a client that was registered at that time and remove it"
    );
    tracing::warn!(attempt = id, "{note}");
    // Before the status: what that lists is not told again, and it goes with the object.
    context.events.alarm(&observed.client.object_ref(&()), "PossibleOrphan", &note).await?;
    crash_point::reached("ReportPossibleOrphan", "is told");
    let client = write_status(context, observed, &status).await?;
    context.metrics.possible_orphan();
    Ok(Change::ClientWritten(Box::new(client)))
}

async fn write_metadata(context: &Context, observed: &Observed, metadata: serde_json::Value) -> Result<Change, Error> {
    let client = kubernetes::patch_metadata(&context.client, &observed.client, metadata).await?;
    context.written.note(&client);
    Ok(Change::ClientWritten(Box::new(client)))
}

/// Writes the status, and remembers that the watch will lag behind it.
pub async fn write_status(
    context: &Context,
    observed: &Observed,
    status: &OAuthClientStatus,
) -> Result<crate::api::OAuthClient, kubernetes::Error> {
    let client = kubernetes::apply_status(&context.client, &observed.client, status).await?;
    context.written.note(&client);
    Ok(client)
}

/// The server of the profile, and what to remember of it.
async fn connect(context: &Context, profile: &TokenProfile) -> Result<(dcr::Server, ServerSnapshot), Error> {
    let ca_bundle = context.connections.ca_bundle(profile).await?;
    let snapshot = ServerSnapshot {
        metadata: plan::server_metadata(profile).unwrap_or_default(),
        ca_bundle: ca_bundle.as_ref().map(|pem| String::from_utf8_lossy(pem).into_owned()),
        profile: profile.name_any(),
        openid_is_implied: !profile.spec.server.registers_openid(),
    };
    let identity = context.connections.client_identity(profile).await?;
    Ok((context.connections.server(profile, ca_bundle, identity)?, snapshot))
}

fn registration_endpoint(profile: &TokenProfile) -> Result<&str, Error> {
    let endpoint = profile.status.as_ref().and_then(|status| status.registration_endpoint.as_deref());
    endpoint.ok_or(Error::Inconsistent("the profile has no registration endpoint"))
}

/// Where the platform team's client obtains tokens.
fn token_endpoint<'a>(profile: &'a TokenProfile, client: &dcr::ClientCredentials) -> Result<&'a str, Error> {
    let endpoint = profile.status.as_ref().and_then(|status| {
        let by_certificate = status.mtls_token_endpoint.as_deref().filter(|_| client.shows_certificate());
        by_certificate.or(status.token_endpoint.as_deref())
    });
    endpoint.ok_or(Error::Inconsistent("the profile has no token endpoint"))
}

/// Counts a call to the server, and how long it took.
async fn timed<T>(
    context: &Context,
    operation: &'static str,
    call: impl Future<Output = Result<T, dcr::Error>>,
) -> Result<T, dcr::Error> {
    let started = Instant::now();
    let result = call.await;
    context.metrics.server_request(
        operation,
        result.as_ref().map_or_else(dcr::Error::reason, |_| "Success"),
        started.elapsed(),
    );
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_of_the_server_or_of_something_else() {
        let status = |status, retry_after: Option<u64>| {
            let trouble = dcr::Trouble::Status { status, words: dcr::Words::default() };
            let retry_after = retry_after.map(std::time::Duration::from_secs);
            dcr::Error::Unavailable { request: "POST https://as/reg".into(), trouble, retry_after }
        };
        let unknown = Error::OutcomeUnknown { attempt: "a".into(), source: status(503, Some(1)) };
        let missing =
            ConnectionError::NotFound { kind: "Secret", namespace: "identity".into(), name: "registrar".into() };
        let invalid = dcr::Error::InvalidEndpoint { endpoint: "http://as".into(), why: "http" };
        for (error, heard) in [
            (Error::Server(status(503, None)), Heard::Outage),
            (Error::Server(status(503, Some(1))), Heard::Outage),
            (unknown, Heard::Outage),
            (Error::Server(status(429, None)), Heard::Answer),
            (Error::Server(status(429, Some(1))), Heard::Answer),
            (Error::Connection(missing), Heard::NoWord),
            (Error::Server(invalid), Heard::NoWord),
        ] {
            assert_eq!(error.heard(), heard, "{error}");
        }
    }

    #[test]
    fn what_could_not_be_stored_against_the_api_servers_own_word_waits_for_minutes() {
        let source = || kubernetes::Error::Forbidden { what: "w".into(), message: "m".into() };
        let lost = |is_checked| Error::NotStored { client_id: "c".into(), fate: "f", is_checked, source: source() };
        assert_eq!(lost(true).retry(), Retry::After(PAUSE_AFTER_LOSS));
        // The next try asks first.
        assert_eq!(lost(false).retry(), Retry::Backoff);
        assert_eq!(Error::NotStorable(source()).retry(), Retry::Backoff);
    }
}

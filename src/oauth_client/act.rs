//! Carries out one step, and returns what it changed. Decides nothing.

mod deregister;
mod register;

use std::time::Instant;

use kube::{Resource, ResourceExt};
use secrecy::SecretString;
use serde_json::json;

use super::{
    attempt::Attempt,
    metadata::Document,
    observe::{ApplicationSecret, Change, Observed},
    plan::{self, Step},
    registration::{self, Registration, RegistrationSecret, ServerSnapshot, StoredSecret},
};
use crate::{
    api::{FINALIZER, OAuthClientStatus, PossibleOrphan, TokenProfile, reasons},
    context::Context,
    dcr,
    kubernetes::{self, Precondition, SecretSpec},
    retry::Retry,
    token_profile::ConnectionError,
};

/// The status lists at most this many possible orphans, the newest.
const MOST_POSSIBLE_ORPHANS: usize = 32;

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
        #[source]
        source: kubernetes::Error,
    },
    /// The plan asked for something that the facts do not allow.
    #[error("{0}")]
    Inconsistent(&'static str),
}

impl Error {
    /// The reason for conditions, events and metrics.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Kubernetes(error) | Self::NotStored { source: error, .. } => error.reason(),
            Self::Connection(error) => error.reason(),
            Self::Server(error) => error.reason(),
            Self::OutcomeUnknown { .. } => reasons::OUTCOME_UNKNOWN,
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
            Self::NotStored { .. } | Self::Inconsistent(_) => Retry::Backoff,
        }
    }
}

/// Carries out the step.
///
/// # Errors
/// Each has a reason and a retry class; what was changed before it is persisted.
pub async fn act(context: &Context, observed: &Observed, step: Step) -> Result<Change, Error> {
    match step {
        Step::Register { attempt, document } => register::register(context, observed, attempt, document).await,
        Step::Update { document, body } => update(context, observed, document, body).await,
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
        Step::ReportPossibleOrphan { attempt } => report_possible_orphan(context, observed, attempt).await,
        Step::Deregister => deregister::deregister(context, observed).await,
        Step::RestoreFinalizer => {
            let mut finalizers = observed.client.finalizers().to_vec();
            finalizers.push(FINALIZER.to_owned());
            write_metadata(context, observed, json!({"finalizers": finalizers})).await
        }
        Step::ReportOrphan { client_id, why } => {
            deregister::report_orphan(context, observed, &client_id, &why).await;
            register::settle(context, observed).await
        }
        Step::ReportRetained { client_id } => {
            let note = format!("client {client_id} stays registered (deletionPolicy: Retain)");
            tracing::info!(client_id, "{note}");
            context.events.normal(&observed.client.object_ref(&()), "Retained", &note).await;
            register::settle(context, observed).await
        }
        Step::RemoveRegistration => {
            if let RegistrationSecret::Held { secret, .. } | RegistrationSecret::Unreadable { secret, .. } =
                &observed.registration
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

/// Changes the registration, and persists the answer before anything else: tokens and secrets may have been rotated.
async fn update(context: &Context, observed: &Observed, document: Document, body: Document) -> Result<Change, Error> {
    let (RegistrationSecret::Held { secret, registration }, Some(profile)) =
        (&observed.registration, &observed.profile)
    else {
        return Err(Error::Inconsistent("an update needs a registration and a profile"));
    };
    let (uri, token) = registration.management().ok_or(Error::Inconsistent("an update needs management access"))?;
    let (server, snapshot) = connect(context, profile).await?;
    let endpoint = dcr::client_configuration_endpoint(registration_endpoint(profile)?, uri)?;
    let client_id = &registration.information.client_id;
    let information = timed(context, "update", server.update(&endpoint, token, client_id, &body.0)).await?;

    let registration = Registration {
        attempt: registration.attempt.clone(),
        information: complete(information, &registration.information),
        request: document.0,
        server: snapshot,
    };
    let unchanged = Precondition::Unchanged(secret.0.resource_version().unwrap_or_default());
    let secret = register::keep(context, observed, &registration, &unchanged).await?;
    tracing::info!(client_id = registration.information.client_id, "updated the registration");
    Ok(Change::Updated { secret: StoredSecret::new(secret), registration: Box::new(registration) })
}

/// An update's answer may leave out the secret and the management access where they have not changed.
fn complete(mut answer: dcr::ClientInformation, last: &dcr::ClientInformation) -> dcr::ClientInformation {
    let or = |new: Option<SecretString>, old: &Option<SecretString>| new.or_else(|| old.clone());
    let confidential = answer.metadata.get("token_endpoint_auth_method").is_none_or(|method| method != "none");
    if confidential {
        answer.client_secret_expires_at = if answer.client_secret.is_some() {
            answer.client_secret_expires_at
        } else {
            last.client_secret_expires_at
        };
        answer.client_secret = or(answer.client_secret, &last.client_secret);
    }
    answer.registration_access_token = or(answer.registration_access_token, &last.registration_access_token);
    answer.registration_client_uri = answer.registration_client_uri.or_else(|| last.registration_client_uri.clone());
    answer.client_id_issued_at = answer.client_id_issued_at.or(last.client_id_issued_at);
    answer
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
    let client = write_status(context, observed, &status).await?;
    context.metrics.possible_orphan();
    let note = format!(
        "registration attempt {id} of {started_at} has no answer: the server may hold a client that nobody knows. Look there for a client that was registered at that time and remove it"
    );
    tracing::warn!(attempt = id, "{note}");
    context.events.warning(&observed.client.object_ref(&()), "PossibleOrphan", &note).await;
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
    };
    Ok((context.connections.server(profile, ca_bundle)?, snapshot))
}

fn registration_endpoint(profile: &TokenProfile) -> Result<&str, Error> {
    let endpoint = profile.status.as_ref().and_then(|status| status.registration_endpoint.as_deref());
    endpoint.ok_or(Error::Inconsistent("the profile has no registration endpoint"))
}

/// The Secret that keeps a registration.
fn registration_spec(observed: &Observed, registration: &Registration) -> SecretSpec {
    SecretSpec {
        namespace: observed.namespace().to_owned(),
        name: registration::secret_name(observed.name()),
        type_: registration::SECRET_TYPE.to_owned(),
        labels: plan::secret_labels(observed.name()),
        owner: observed.client.controller_owner_ref(&()).unwrap_or_default(),
        // Without it, the registration access token would go with the namespace before the server has been told.
        finalizer: Some(FINALIZER.to_owned()),
        data: registration.to_data(),
    }
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

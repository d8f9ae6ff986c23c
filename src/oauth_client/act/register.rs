//! Register: token, intent, call, answer kept. In this order, each before the next.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};
use secrecy::SecretString;
use serde_json::json;
use tokio::time::Instant;

use super::{Error, connect, deregister, registration_endpoint, registration_spec, timed};
use crate::{
    api::{FINALIZER, OAuthClient, annotations},
    context::Context,
    dcr::{self, Outcome},
    kubernetes::{self, Precondition},
    oauth_client::{
        attempt::{Attempt, Ended},
        metadata::Document,
        observe::{Change, Observed, registration_secret},
        registration::{self, Registration, RegistrationSecret, StoredSecret},
    },
    retry::Retry,
    token_profile::Credential,
};

/// How long an answer that can't be stored is kept in memory; then the registration is removed again.
const LONGEST_WAIT_TO_STORE: Duration = Duration::from_mins(10);
/// The same for an answer that the API server forbids to store: by RBAC, by a quota, or because it has just started.
const LONGEST_WAIT_TO_BE_ALLOWED: Duration = Duration::from_mins(1);
/// The same for a process that has been asked to stop.
const LONGEST_WAIT_WHEN_STOPPING: Duration = Duration::from_secs(15);

const MOST_TRIES: u32 = 8;

/// Registers the client once.
pub async fn register(
    context: &Context,
    observed: &Observed,
    attempt: Attempt,
    document: Document,
) -> Result<Change, Error> {
    let profile = observed.profile.as_ref().ok_or(Error::Inconsistent("a registration needs a profile"))?;
    let endpoint = registration_endpoint(profile)?;
    let (server, snapshot) = connect(context, profile).await?;
    // Wait here, and not with an attempt begun: what waits in a queue when the operator dies is no possible orphan.
    let _turn = context.connections.turn(profile).await;
    // First the token: if there is none, nothing has been tried, and nothing needs to be written down.
    let token = initial_access_token(context, profile, &server).await?;
    let client = record(context, &observed.client, &attempt).await?;

    let answer = timed(context, "register", server.register(endpoint, token.as_ref(), &document.0)).await;
    let information = match answer {
        Ok(information) => information,
        Err(error) if error.outcome() == Outcome::NotRegistered => {
            conclude(context, &client, attempt, &error, observed.refusal_inputs()).await?;
            return Err(error.into());
        }
        Err(source) => return Err(Error::OutcomeUnknown { attempt: attempt.id, source }),
    };

    let client_id = information.client_id.clone();
    let registration = Registration { attempt: attempt.id.clone(), information, request: document.0, server: snapshot };
    match keep(context, observed, &registration, &Precondition::Absent).await {
        Ok(secret) => {
            tracing::info!(client_id, attempt = attempt.id, "registered");
            Ok(Change::Registered {
                client: Box::new(client),
                secret: StoredSecret::new(secret),
                registration: Box::new(registration),
            })
        }
        Err(source) => {
            let fate = deregister::give_up(context, observed, &server, endpoint, &registration).await;
            let ended = Ended { reason: source.reason().into(), message: source.to_string(), refused_inputs: None };
            write_attempt(context, &client, &Attempt { ended: Some(ended), ..attempt }).await?;
            Err(Error::NotStored { client_id, fate, source })
        }
    }
}

/// A token for one attempt.
async fn initial_access_token(
    context: &Context,
    profile: &crate::api::TokenProfile,
    server: &dcr::Server,
) -> Result<Option<SecretString>, Error> {
    match context.connections.credential(profile).await? {
        Credential::NotRequired => Ok(None),
        Credential::BearerToken(token) => Ok(Some(token)),
        Credential::ClientCredentials(client) => {
            let endpoint = profile.status.as_ref().and_then(|status| status.token_endpoint.as_deref());
            let endpoint = endpoint.ok_or(Error::Inconsistent("the profile has no token endpoint"))?;
            let token = timed(context, "token", server.access_token(endpoint, &client)).await?;
            Ok(Some(token.token))
        }
    }
}

/// Persists the intent, with the finalizer, in one write. It fails if the object has changed since it was read, so no
/// two replicas and no two passes can both begin.
async fn record(context: &Context, client: &OAuthClient, attempt: &Attempt) -> Result<OAuthClient, Error> {
    let mut finalizers = client.finalizers().to_vec();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    let metadata = json!({
        "finalizers": finalizers,
        "annotations": {annotations::ATTEMPT: attempt.to_annotation()},
    });
    let client = kubernetes::patch_metadata(&context.client, client, metadata).await?;
    context.written.note(&client);
    Ok(client)
}

/// Writes down that the attempt has come to nothing, and whether the same may be tried again.
async fn conclude(
    context: &Context,
    client: &OAuthClient,
    attempt: Attempt,
    error: &dcr::Error,
    inputs: u64,
) -> Result<(), Error> {
    // Only what the server says about the metadata is for good.
    let refused = matches!(error, dcr::Error::Refused { .. }) && error.retry() == Retry::OnChange;
    let refused_inputs = refused.then_some(inputs);
    let ended = Ended { reason: error.reason().into(), message: error.to_string(), refused_inputs };
    write_attempt(context, client, &Attempt { ended: Some(ended), ..attempt }).await.map(|_| ())
}

/// Writes down that nothing of the registration needs to be looked after any more.
pub async fn settle(context: &Context, observed: &Observed) -> Result<Change, Error> {
    let attempt = Attempt::settled(&observed.client, jiff::Timestamp::now());
    let client = write_attempt(context, &observed.client, &attempt).await?;
    Ok(Change::ClientWritten(Box::new(client)))
}

/// The annotation is ours alone, so it may be written over whatever else has changed in the object. An attempt that has
/// ended and does not say so would be taken for a possible orphan: it is worth a few tries.
async fn write_attempt(context: &Context, client: &OAuthClient, attempt: &Attempt) -> Result<OAuthClient, Error> {
    let mut unconditional = client.clone();
    unconditional.metadata.resource_version = None;
    let metadata = json!({"uid": client.uid(), "annotations": {annotations::ATTEMPT: attempt.to_annotation()}});
    let mut tries = 0;
    loop {
        match kubernetes::patch_metadata(&context.client, &unconditional, metadata.clone()).await {
            Ok(client) => {
                context.written.note(&client);
                return Ok(client);
            }
            Err(error) if error.is_permanent() || tries >= MOST_TRIES => return Err(error.into()),
            Err(_) => tries += 1,
        }
        tokio::time::sleep(Duration::from_millis(200) * tries).await;
    }
}

/// Persists an answer: until it is stored, or can't be, or the patience is at its end.
pub async fn keep(
    context: &Context,
    observed: &Observed,
    registration: &Registration,
    precondition: &Precondition,
) -> Result<Secret, kubernetes::Error> {
    let spec = registration_spec(observed, registration);
    let mut precondition = precondition.clone();
    let mut pause = Duration::from_millis(100);
    let started = Instant::now();
    let mut stopping_since = None;
    loop {
        let error = match kubernetes::apply_secret(&context.client, &spec, &precondition).await {
            Ok(secret) => return Ok(secret),
            // Somebody wrote it meanwhile; perhaps we did, and the answer was lost.
            Err(error @ kubernetes::Error::Conflict { .. }) => match reread(context, observed).await {
                Ok(RegistrationSecret::Held { secret, registration: stored })
                    if stored.attempt == registration.attempt =>
                {
                    if stored.to_data() == registration.to_data() {
                        return Ok(*secret.0);
                    }
                    precondition = Precondition::Unchanged(secret.0.resource_version().unwrap_or_default());
                    error
                }
                Ok(_) => return Err(error),
                Err(error) => error,
            },
            // What exists already takes updates, sooner or later; what can't be made is given back.
            Err(error) if error.is_permanent() && precondition == Precondition::Absent => return Err(error),
            Err(error) => error,
        };
        let now = Instant::now();
        if context.stop.is_cancelled() {
            stopping_since.get_or_insert(now);
        }
        let forbidden = matches!(error, kubernetes::Error::Forbidden { .. }) && precondition == Precondition::Absent;
        let patience = if forbidden { LONGEST_WAIT_TO_BE_ALLOWED } else { LONGEST_WAIT_TO_STORE };
        let patience_ends = stopping_since
            .map_or(started + patience, |since: Instant| since + LONGEST_WAIT_WHEN_STOPPING.min(patience));
        if now >= patience_ends {
            return Err(error);
        }
        tracing::warn!(%error, "the server's answer could not be stored yet; it is kept in memory and tried again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(2));
    }
}

async fn reread(context: &Context, observed: &Observed) -> Result<RegistrationSecret, kubernetes::Error> {
    let (namespace, name) = (observed.namespace(), registration::secret_name(observed.name()));
    let secret = Api::<Secret>::namespaced(context.client.clone(), namespace)
        .get_opt(&name)
        .await
        .map_err(|error| kubernetes::Error::new(format!("could not read Secret {namespace}/{name}"), error))?;
    Ok(registration_secret(secret, &observed.client.uid().unwrap_or_default()))
}

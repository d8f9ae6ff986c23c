//! Writing down what must not be lost: intents, answers, and how attempts ended.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Resource, ResourceExt};
use serde_json::json;
use tokio::time::Instant;

use super::Error;
use crate::{
    api::{FINALIZER, OAuthClient, annotations},
    context::Context,
    crash_point, dcr,
    kubernetes::{self, Precondition, SecretData, SecretSpec},
    oauth_client::{
        attempt::{Attempt, Ended},
        observe::{Change, Observed, registration_secret},
        plan,
        registration::{self, Registration, RegistrationSecret, StoredSecret},
    },
    retry::Retry,
};

/// How long an answer that can't be stored is kept in memory; then the registration is removed again.
const LONGEST_WAIT_TO_STORE: Duration = Duration::from_mins(10);
/// The same for an answer that the API server forbids to store: by RBAC, by a quota, or because it has just started.
const LONGEST_WAIT_TO_BE_ALLOWED: Duration = Duration::from_mins(1);
/// The same for a process that has been asked to stop.
const LONGEST_WAIT_WHEN_STOPPING: Duration = Duration::from_secs(15);

const MOST_TRIES: u32 = 8;

/// Persists the intent, with the finalizer, in one write. It fails if the object has changed since it was read, so no
/// two replicas and no two passes can both begin.
pub async fn record(context: &Context, client: &OAuthClient, attempt: &Attempt) -> Result<OAuthClient, Error> {
    let metadata = json!({
        "finalizers": with_finalizer(client),
        "annotations": {annotations::ATTEMPT: attempt.to_annotation()},
    });
    let client = kubernetes::patch_metadata(&context.client, client, metadata).await?;
    context.written.note(&client);
    Ok(client)
}

/// The object's finalizers, ours among them.
pub fn with_finalizer(client: &OAuthClient) -> Vec<String> {
    let mut finalizers = client.finalizers().to_vec();
    if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    finalizers
}

/// Writes down that a call has come to nothing, and whether the same may be tried again.
pub async fn conclude(
    context: &Context,
    client: &OAuthClient,
    attempt: Attempt,
    error: &dcr::Error,
    inputs: u64,
) -> Result<OAuthClient, Error> {
    // Only what the server says about the metadata is for good.
    let refused = matches!(error, dcr::Error::Refused { .. }) && error.retry() == Retry::OnChange;
    let refused_inputs = refused.then_some(inputs);
    let ended = Ended { reason: error.reason().into(), message: error.to_string(), refused_inputs };
    write_attempt(context, client, &Attempt { ended: Some(ended), ..attempt }).await
}

/// Writes down that nothing of the registration needs to be looked after any more.
pub async fn settle(context: &Context, observed: &Observed) -> Result<Change, Error> {
    let attempt = Attempt::settled(&observed.client, jiff::Timestamp::now());
    let client = write_attempt(context, &observed.client, &attempt).await?;
    Ok(Change::ClientWritten(Box::new(client)))
}

/// Whatever else has changed in the object is left as it is; but if another attempt has been begun meanwhile, by the
/// successor of this process, that one stands. An attempt that has ended and does not say so would be taken for a possible
/// orphan: it is worth a few tries.
pub async fn write_attempt(context: &Context, client: &OAuthClient, attempt: &Attempt) -> Result<OAuthClient, Error> {
    let id = |client: &OAuthClient| Attempt::last(client).map(|attempt| attempt.id);
    let metadata = json!({"uid": client.uid(), "annotations": {annotations::ATTEMPT: attempt.to_annotation()}});
    let mut current = client.clone();
    let mut tries = 0;
    loop {
        let error = match kubernetes::patch_metadata(&context.client, &current, metadata.clone()).await {
            Ok(client) => {
                context.written.note(&client);
                return Ok(client);
            }
            Err(error @ kubernetes::Error::Conflict { .. }) => match reread_client(context, client).await {
                Ok(read) if id(&read) != id(client) => return Ok(read),
                Ok(read) => {
                    current = read;
                    error
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        if error.is_permanent() || tries >= MOST_TRIES {
            return Err(error.into());
        }
        tries += 1;
        tokio::time::sleep(Duration::from_millis(200) * tries).await;
    }
}

async fn reread_client(context: &Context, client: &OAuthClient) -> Result<OAuthClient, kubernetes::Error> {
    let (namespace, name) = (client.namespace().unwrap_or_default(), client.name_any());
    Api::<OAuthClient>::namespaced(context.client.clone(), &namespace)
        .get(&name)
        .await
        .map_err(|error| kubernetes::Error::new(format!("could not read OAuthClient {namespace}/{name}"), error))
}

/// Whether an answer could be kept: before there is one, and without writing anything.
pub async fn check(context: &Context, observed: &Observed, precondition: &Precondition) -> Result<(), Error> {
    let data = match &observed.registration {
        RegistrationSecret::Held { registration, .. } => registration.to_data(),
        _ => SecretData::default(),
    };
    let checked = kubernetes::check_secret(&context.client, &registration_spec(observed, data), precondition).await;
    checked.map_err(|error| match error {
        kubernetes::Error::Conflict { .. } | kubernetes::Error::Gone { .. } => error.into(),
        error => Error::NotStorable(error),
    })
}

/// Persists that something is to be done about a registration, if nobody has written it since it was read.
pub async fn announce(
    context: &Context,
    observed: &Observed,
    secret: &StoredSecret,
    registration: &Registration,
) -> Result<StoredSecret, kubernetes::Error> {
    let spec = registration_spec(observed, registration.to_data());
    kubernetes::apply_secret(&context.client, &spec, &secret.unchanged()).await.map(StoredSecret::new)
}

/// Persists what is now known of a registration that is held already.
pub async fn keep_held(
    context: &Context,
    observed: &Observed,
    secret: &StoredSecret,
    registration: &Registration,
) -> Result<StoredSecret, kubernetes::Error> {
    keep(context, observed, registration, secret.unchanged()).await.map(StoredSecret::new)
}

/// Persists an answer: until it is stored, or can't be, or the patience is at its end.
///
/// The Secret may have been written since it was read. If it still has the answer that this one goes by, it is written
/// over. Another answer is newer than this one, as when this process has been paused and its successor has gone on.
pub async fn keep(
    context: &Context,
    observed: &Observed,
    registration: &Registration,
    mut precondition: Precondition,
) -> Result<Secret, kubernetes::Error> {
    let spec = registration_spec(observed, registration.to_data());
    if crash_point::is_broken("keep") {
        return Ok(Secret::default());
    }
    let before = match &observed.registration {
        RegistrationSecret::Held { registration, .. } => Some(registration.information.clone()),
        _ => None,
    };
    let mut pause = Duration::from_millis(100);
    let started = Instant::now();
    let mut stopping_since = None;
    loop {
        let error = match kubernetes::apply_secret(&context.client, &spec, &precondition).await {
            Ok(secret) => return Ok(secret),
            // Somebody wrote it meanwhile; perhaps we did, and the answer was lost.
            Err(error @ kubernetes::Error::Conflict { .. }) => match reread(context, observed).await {
                Ok(RegistrationSecret::Held { secret, registration: stored })
                    if stored.information == registration.information
                        || Some(&stored.information) == before.as_ref() =>
                {
                    if stored.to_data() == registration.to_data() {
                        return Ok(*secret.0);
                    }
                    precondition = secret.unchanged();
                    error
                }
                // Removed by somebody, and all that there is of it is here.
                Ok(RegistrationSecret::Absent) if before.is_some() => {
                    precondition = Precondition::Absent;
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
    Ok(registration_secret(secret, observed.uid()))
}

/// The Secret that keeps a registration.
fn registration_spec(observed: &Observed, data: SecretData) -> SecretSpec {
    SecretSpec {
        namespace: observed.namespace().to_owned(),
        name: registration::secret_name(observed.name()),
        type_: registration::SECRET_TYPE.to_owned(),
        labels: plan::secret_labels(observed.name()),
        annotations: std::collections::BTreeMap::new(),
        owner: observed.client.controller_owner_ref(&()).unwrap_or_default(),
        // Without it, the registration access token would go with the namespace before the server has been told.
        finalizer: Some(FINALIZER.to_owned()),
        data,
    }
}

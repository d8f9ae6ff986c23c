//! Management calls (RFC 7592): read, update, and the removal of former clients.
//!
//! What may change token and secret is written down before it is called, and its answer before anything else.

use jiff::Timestamp;
use kube::{Resource, ResourceExt};
use secrecy::SecretString;

use super::{Error, connect, deregister, registration_endpoint, store, timed, token_endpoint};
use crate::{
    api::{SigningAlgorithm, TokenProfile, annotations, reasons},
    context::Context,
    crash_point,
    dcr::{self, ClientInformation, Outcome},
    oauth_client::{
        attempt::Attempt,
        keys::ClientKeys,
        metadata::Document,
        observe::{Change, Live, Observed},
        plan::{Cause, Purpose},
        registration::{Access, Registration, RegistrationSecret, ServerSnapshot, StoredSecret},
    },
};

/// Changes the registration.
pub async fn update(
    context: &Context,
    observed: &Observed,
    document: Document,
    body: Document,
    new_key: Option<SigningAlgorithm>,
    cause: &Cause,
) -> Result<Change, Error> {
    let (secret, registration, profile) = held(observed)?;
    let (_, snapshot) = connect(context, profile).await?;
    let spec = &observed.client.spec;
    let now = Timestamp::now();
    let keys = match (new_key, &spec.keys) {
        (Some(algorithm), _) => {
            let overlap = spec.replacement.clone().unwrap_or_default().overlap.into();
            registration.keys.succeeded_by(super::register::make_key(algorithm)?, overlap, now)
        }
        (None, Some(_)) => registration.keys.live(now),
        (None, None) => ClientKeys::default(),
    };
    let (document, body) =
        if keys.0.is_empty() { (document, body) } else { (keys.laid_into(document), keys.laid_into(body)) };

    let (secret, registration) = announce(context, observed, secret, registration, now).await?;
    let client_id = registration.information.client_id.clone();
    let accesses = registration.access(observed.manages(&registration.information));
    let previous = registration.previous_token.as_ref();
    crash_point::reached("Update", "is announced");
    let answer = call(context, profile, &registration.information, previous, &accesses, Some(&body)).await;
    crash_point::reached("Update", "has an answer");
    let (answer, access) = match answer {
        Ok(answered) => answered,
        Err(Error::Server(error)) if error.outcome() == Outcome::NotRegistered => {
            if error.reason() != reasons::REGISTRATION_LOST {
                retract(context, observed, &secret, &registration).await?;
                if error.reason() == reasons::UPDATE_REJECTED {
                    let attempt = Attempt::last_or_none(&observed.client, now);
                    store::conclude(context, &observed.client, attempt, &error, observed.refusal_inputs()).await?;
                }
            }
            return Err(error.into());
        }
        Err(error) => return Err(error),
    };

    let now = Timestamp::now();
    let mut updated = registration.answered(answer, access, now);
    updated.request = Some(document.0);
    updated.server = snapshot;
    if new_key.is_some() {
        updated.history.credentials_issued_at = now;
        updated.history.rotated = true;
        updated.history.handled_rotate_at = observed.client.annotations().get(annotations::ROTATE).cloned();
    }
    updated.history.is_narrowed |= matches!(cause, Cause::Narrowing(_));
    let keeps_token = updated.history.token_issued_at == registration.history.token_issued_at;
    updated.history.renewal_keeps_token |= keeps_token && matches!(cause, Cause::TokenRenewal { .. });
    updated.keys = keys;
    let secret = store::keep_held(context, observed, &secret, &updated).await?;
    crash_point::reached("Update", "has kept the answer");
    context.compared.note(observed.uid(), now);
    let about = observed.client.object_ref(&());
    match cause {
        Cause::SpecChanged => {
            tracing::info!(client_id, "updated the registration");
            context.events.normal(&about, "Updated", &format!("client {client_id} is as the spec asks for")).await;
        }
        Cause::Drift(names) => {
            let note = format!("client {client_id} had other values of {} on the server: put right", names.join(", "));
            tracing::warn!(client_id, "{note}");
            context.events.warning(&about, "DriftCorrected", &note).await;
        }
        Cause::Narrowing(why) => {
            let note = format!("client {client_id} is narrowed down: {why}");
            tracing::warn!(client_id, "{note}");
            context.events.warning(&about, "Narrowed", &note).await;
        }
        Cause::KeyRotation => {
            let note = format!("client {client_id} has a new key; the old one stays registered for a while");
            tracing::info!(client_id, "{note}");
            context.events.normal(&about, "KeyRotated", &note).await;
        }
        Cause::TokenRenewal { .. } => tracing::info!(client_id, "renewed the registration access token"),
    }
    let live = Live { information: updated.information.clone(), drift: Vec::new() };
    Ok(Change::Answered { secret, registration: Box::new(updated), live })
}

/// Reads the registration, to compare it or for what the read brings.
pub async fn look(context: &Context, observed: &Observed, purpose: &Purpose) -> Result<Change, Error> {
    let (secret, registration, profile) = held(observed)?;
    let harmless = *purpose == Purpose::Compare && !observed.server().reading_rotates();
    let (secret, registration) = if harmless {
        (secret.clone(), registration.clone())
    } else {
        announce(context, observed, secret, registration, Timestamp::now()).await?
    };
    let accesses = registration.access(observed.manages(&registration.information));
    let previous = registration.previous_token.as_ref();
    let former_server = observed.former_server(&registration);
    crash_point::reached("Read", "is announced");
    let read = read(context, profile, &registration.information, previous, &accesses).await;
    crash_point::reached("Read", "has an answer");
    let (answer, access) = match read {
        Ok(answered) => answered,
        Err(Error::Server(source)) if source.reason() == reasons::REGISTRATION_LOST && former_server.is_some() => {
            let former = former_server.map(ServerSnapshot::name).unwrap_or_default();
            let client_id = registration.information.client_id.clone();
            return Err(Error::Left { client_id, former, source: Box::new(source) });
        }
        Err(error @ Error::Server(_)) if !harmless && error.is_refusal() => {
            if error.reason() != reasons::REGISTRATION_LOST {
                retract(context, observed, &secret, &registration).await?;
            }
            return Err(error);
        }
        Err(error) => return Err(error),
    };
    let now = Timestamp::now();
    context.compared.note(observed.uid(), now);
    let drift = registration.drift(&answer.metadata);
    let live = Live { information: answer.clone(), drift };
    let mut read = registration.answered(answer, access, now);
    // What is registered stays what was last asked for, until it is put right or asked for anew.
    read.information.metadata = registration.information.metadata.clone();
    if former_server.is_some() {
        // It knows the token: the same server under another name.
        read.server = connect(context, profile).await?.1;
    }
    let client_id = &read.information.client_id;
    let is_new = read.history.credentials_issued_at != registration.history.credentials_issued_at;
    let keeps_token = read.history.token_issued_at == registration.history.token_issued_at;
    read.history.renewal_keeps_token |= keeps_token && matches!(purpose, Purpose::TokenRenewal { .. });
    if let Purpose::Rotate { .. } = purpose {
        read.history.handled_rotate_at = observed.client.annotations().get(annotations::ROTATE).cloned();
        read.history.reading_keeps_secret = !is_new;
    }
    let secret = if read.to_data() == registration.to_data() {
        secret
    } else {
        store::keep_held(context, observed, &secret, &read).await?
    };
    crash_point::reached("Read", "has kept the answer");
    if is_new {
        let note = format!("client {client_id} has a new secret");
        tracing::info!(client_id, "{note}");
        context.events.normal(&observed.client.object_ref(&()), "SecretRotated", &note).await;
    } else if let Purpose::Rotate { .. } = purpose {
        let note = format!(
            "the server gave client {client_id} no new secret when it was read: set server.readRotatesCredentials of the TokenProfile to false"
        );
        tracing::warn!(client_id, "{note}");
        context.events.warning(&observed.client.object_ref(&()), "NotRotated", &note).await;
    }
    Ok(Change::Answered { secret, registration: Box::new(read), live })
}

/// Removes a former client on the server, or reports it.
pub async fn retire(context: &Context, observed: &Observed, client_id: &str) -> Result<Change, Error> {
    let RegistrationSecret::Held { secret, registration } = &observed.registration else {
        return Err(Error::Inconsistent("there is no registration"));
    };
    let (gone, kept): (Vec<_>, Vec<_>) =
        registration.retiring.iter().cloned().partition(|former| former.information.client_id == client_id);
    for former in gone {
        let since = former.delete_after;
        deregister::remove(context, observed, &former.information, None, former.is_lost, since).await?;
    }
    crash_point::reached("Retire", "has an answer");
    let registration = Registration { retiring: kept, ..(**registration).clone() };
    let secret = store::keep_held(context, observed, secret, &registration).await?;
    Ok(Change::Retired { secret, registration: Box::new(registration) })
}

/// Writes down that a call is made whose answer may bring new credentials. One write, on what was read: who has been
/// paused meanwhile must not announce over the announcement of a successor, and call beside it. So it is written anew
/// though an earlier call is announced still.
async fn announce(
    context: &Context,
    observed: &Observed,
    secret: &StoredSecret,
    registration: &Registration,
    now: Timestamp,
) -> Result<(StoredSecret, Registration), Error> {
    let mut registration = registration.clone();
    registration.history.unconfirmed_since = Some(now);
    let secret = store::announce(context, observed, secret, &registration).await?;
    Ok((secret, registration))
}

/// Writes down that it has come to nothing. A call before it whose answer is missing stays announced.
async fn retract(
    context: &Context,
    observed: &Observed,
    secret: &StoredSecret,
    registration: &Registration,
) -> Result<(), Error> {
    if held(observed)?.1.history.unconfirmed_since.is_some() {
        return Ok(());
    }
    let mut registration = registration.clone();
    registration.history.unconfirmed_since = None;
    store::keep_held(context, observed, secret, &registration).await?;
    Ok(())
}

fn held(observed: &Observed) -> Result<(&StoredSecret, &Registration, &TokenProfile), Error> {
    match (&observed.registration, &observed.profile) {
        (RegistrationSecret::Held { secret, registration }, Some(profile)) => Ok((secret, registration, profile)),
        _ => Err(Error::Inconsistent("a management call needs a registration and a profile")),
    }
}

/// Reads a client (RFC 7592 section 2.1).
pub async fn read(
    context: &Context,
    profile: &TokenProfile,
    client: &ClientInformation,
    previous_token: Option<&SecretString>,
    accesses: &[Access],
) -> Result<(ClientInformation, Access), Error> {
    call(context, profile, client, previous_token, accesses, None).await
}

/// Reads a client, or updates it with `body`, with one access after the other, until the server accepts one.
async fn call(
    context: &Context,
    profile: &TokenProfile,
    client: &ClientInformation,
    previous_token: Option<&SecretString>,
    accesses: &[Access],
    body: Option<&Document>,
) -> Result<(ClientInformation, Access), Error> {
    let (server, _) = connect(context, profile).await?;
    let endpoint = management_endpoint(registration_endpoint(profile)?, client)?;
    let mut lost = Error::Inconsistent("there is nothing to make a management call with");
    for access in accesses {
        let token = token_for(context, profile, &server, client, previous_token, *access).await?;
        let Some(token) = token else { continue };
        let answer = match body {
            None => timed(context, "read", server.read(&endpoint, &token, &client.client_id)).await,
            Some(body) => timed(context, "update", server.update(&endpoint, &token, &client.client_id, &body.0)).await,
        };
        match answer {
            Ok(answer) => return Ok((answer, *access)),
            Err(error) if error.reason() == reasons::REGISTRATION_LOST => lost = error.into(),
            Err(error) => return Err(error.into()),
        }
    }
    Err(lost)
}

/// Where a client is managed.
pub fn management_endpoint(registration_endpoint: &str, client: &ClientInformation) -> Result<String, dcr::Error> {
    match &client.registration_client_uri {
        Some(uri) => dcr::client_configuration_endpoint(registration_endpoint, uri),
        None => dcr::client_configuration_endpoint_of(registration_endpoint, &client.client_id),
    }
}

/// The token of an access; a management client's is fetched for each call.
pub async fn token_for(
    context: &Context,
    profile: &TokenProfile,
    server: &dcr::Server,
    client: &ClientInformation,
    previous_token: Option<&SecretString>,
    access: Access,
) -> Result<Option<SecretString>, Error> {
    match access {
        Access::Token => Ok(client.registration_access_token.clone()),
        Access::PreviousToken => Ok(previous_token.cloned()),
        Access::Manager => {
            let Some(manager) = context.connections.management_client(profile).await? else { return Ok(None) };
            let endpoint = token_endpoint(profile, &manager)?;
            let token = timed(context, "token", server.access_token(endpoint, &manager)).await?;
            Ok(Some(token.token))
        }
    }
}

//! Remove a client on the server, or tell people that it stays there.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use secrecy::SecretString;

use super::{Error, connect, manage, registration_endpoint, store, timed};
use crate::{
    api::reasons,
    context::Context,
    crash_point,
    dcr::{self, ClientInformation, Deleted},
    kubernetes,
    oauth_client::{
        attempt::{Attempt, Ended},
        observe::{Change, Observed},
        plan,
        registration::{Access, Registration, RegistrationSecret, access},
    },
};

/// Removes the client on the server. One that is gone already is fine.
pub async fn deregister(context: &Context, observed: &Observed) -> Result<Change, Error> {
    let RegistrationSecret::Held { registration, .. } = &observed.registration else {
        return Err(Error::Inconsistent("a deregistration needs a registration"));
    };
    let was_lost = plan::said(observed, crate::api::conditions::REGISTERED).reason == reasons::REGISTRATION_LOST
        || registration.history.unconfirmed_since.is_some();
    let previous = registration.previous_token.as_ref();
    let since = observed.client.meta().deletion_timestamp.as_ref().map_or_else(Timestamp::now, |time| time.0);
    remove(context, observed, &registration.information, previous, was_lost, since).await?;
    crash_point::reached("Deregister", "has an answer");
    store::settle(context, observed).await
}

/// Gives back a registration whose credentials nobody may have. The former client, if there is one, is held again.
pub async fn withdraw(context: &Context, observed: &Observed, why: &str) -> Result<Change, Error> {
    let RegistrationSecret::Held { secret, registration } = &observed.registration else {
        return Err(Error::Inconsistent("a withdrawal needs a registration"));
    };
    let attempt = Attempt::last(&observed.client).ok_or(Error::Inconsistent("a withdrawal needs an attempt"))?;
    let refused_inputs = Some(observed.refusal_inputs());
    let ended = Ended { reason: reasons::POLICY_DENIED.into(), message: why.to_owned(), refused_inputs };
    let client = store::write_attempt(context, &observed.client, &Attempt { ended: Some(ended), ..attempt }).await?;
    tracing::warn!(client_id = registration.information.client_id, "withdrawn before it was published: {why}");

    // An update that was to narrow it down may have changed its token.
    let is_lost = observed.lost.is_some() || registration.history.unconfirmed_since.is_some();
    let superseded = Attempt::last(&client).and_then(|attempt| attempt.supersedes);
    if let Some(restored) = registration.withdrawn(superseded.as_deref(), is_lost, Timestamp::now()) {
        let secret = store::keep_held(context, observed, secret, &restored).await?;
        return Ok(Change::Withdrawn { client: Box::new(client), restored: Some((secret, Box::new(restored))) });
    }
    let since = registration.history.credentials_issued_at;
    remove(context, observed, &registration.information, registration.previous_token.as_ref(), is_lost, since).await?;
    kubernetes::remove_secret(&context.client, &secret.0).await?;
    Ok(Change::Withdrawn { client: Box::new(client), restored: None })
}

/// Removes one client on the server, or reports it. `is_doubtful`: a refused token may be no sign that it is gone.
/// `since`: when it was to go; a refusal that may not be the server's last word is believed after the deletion time-out.
pub async fn remove(
    context: &Context,
    observed: &Observed,
    client: &ClientInformation,
    previous_token: Option<&SecretString>,
    is_doubtful: bool,
    since: Timestamp,
) -> Result<(), Error> {
    let client_id = &client.client_id;
    let Some(profile) = &observed.profile else {
        return remove_without_profile(context, observed, client, is_doubtful).await;
    };
    let (server, _) = connect(context, profile).await?;
    let endpoint = manage::management_endpoint(registration_endpoint(profile)?, client)?;
    // The management client could delete anybody's.
    let mut accesses = access(client, observed.manages(client));
    if previous_token.is_some() {
        accesses.insert(accesses.len().min(1), Access::PreviousToken);
    }
    let mut refused = Refused::NothingToTry;
    let mut forbidden = None;
    for access in accesses {
        let token = manage::token_for(context, profile, &server, client, previous_token, access).await?;
        let Some(token) = token else { continue };
        match timed(context, "delete", server.delete(&endpoint, &token)).await {
            // It was registered elsewhere.
            Ok(Deleted::TokenRefused | Deleted::AlreadyGone) if observed.left_at(client_id).is_some() => {
                refused = Refused::Unknown;
            }
            // Whoever refuses to delete it knows that it is there.
            Ok(Deleted::TokenRefused) if matches!(refused, Refused::Deletion(_)) => {}
            Ok(Deleted::TokenRefused) => refused = Refused::Token,
            Ok(deleted) => {
                told(context, observed, client_id, deleted).await;
                return Ok(());
            }
            // No other answer is to be expected from a server that does not delete.
            Err(error) if error.reason() == "DeregistrationRefused" => refused = Refused::Deletion(error.to_string()),
            Err(error @ dcr::Error::Refused { .. }) => forbidden = Some(error),
            Err(error) => return Err(error.into()),
        }
    }
    match forbidden {
        Some(error) if !matches!(refused, Refused::Deletion(_)) => {
            let waited = Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default();
            if waited < observed.deletion_timeout {
                return Err(error.into());
            }
            refused = Refused::Deletion(format!("the server did not remove it in time ({error})"));
        }
        _ => {}
    }
    give_up_on(context, observed, client_id, refused, is_doubtful).await
}

/// The profile is gone. Only the status tells where the client was: the Secret can be written by the application team, and
/// must not be able to send the operator anywhere.
async fn remove_without_profile(
    context: &Context,
    observed: &Observed,
    client: &ClientInformation,
    is_doubtful: bool,
) -> Result<(), Error> {
    let client_id = &client.client_id;
    let then = observed.server_of(client_id).ok_or(Error::Inconsistent("a deregistration needs a registration"))?;
    let (Some(endpoint), Some(token)) = (observed.known_uri(client_id), &client.registration_access_token) else {
        return report_orphan(context, observed, client_id, "its TokenProfile is gone").await;
    };
    let server = context.connections.bare_server(then.ca_bundle.clone().map(String::into_bytes))?;
    match timed(context, "delete", server.delete(&endpoint, token)).await {
        Ok(Deleted::TokenRefused) => give_up_on(context, observed, client_id, Refused::Token, is_doubtful).await,
        Ok(deleted) => {
            told(context, observed, client_id, deleted).await;
            Ok(())
        }
        Err(error) if error.reason() == "DeregistrationRefused" => {
            report_orphan(context, observed, client_id, &error.to_string()).await
        }
        Err(error) => Err(error.into()),
    }
}

async fn told(context: &Context, observed: &Observed, client_id: &str, deleted: Deleted) {
    let note = match deleted {
        Deleted::Now => format!("removed client {client_id} on the server"),
        Deleted::AlreadyGone | Deleted::TokenRefused => format!("client {client_id} was gone on the server already"),
    };
    tracing::info!(client_id, "{note}");
    context.events.normal(&observed.client.object_ref(&()), "Deregistered", &note).await;
}

/// Why nothing has removed a client.
enum Refused {
    NothingToTry,
    Token,
    /// The server does not know it, and is not the one that it was registered at.
    Unknown,
    Deletion(String),
}

/// Nothing has removed it. A refused token means that it is gone (RFC 7592 section 2), unless there is reason to doubt.
async fn give_up_on(
    context: &Context,
    observed: &Observed,
    client_id: &str,
    refused: Refused,
    is_doubtful: bool,
) -> Result<(), Error> {
    let why = match refused {
        Refused::Token if !is_doubtful => {
            told(context, observed, client_id, Deleted::AlreadyGone).await;
            return Ok(());
        }
        Refused::Token => {
            "the server no longer accepts its registration access token, and may have it or not: look there".to_owned()
        }
        Refused::Unknown => "the one that it names now does not know it: look at the former one".to_owned(),
        Refused::NothingToTry => "there is no registration access token for it".to_owned(),
        Refused::Deletion(error) => error,
    };
    report_orphan(context, observed, client_id, &why).await
}

/// Removes a registration that could not be stored; what became of it.
pub async fn give_up(
    context: &Context,
    observed: &Observed,
    server: &dcr::Server,
    registration_endpoint: &str,
    registration: &Registration,
) -> Result<&'static str, Error> {
    let client = &registration.information;
    let why = match (&client.registration_client_uri, &client.registration_access_token) {
        (Some(uri), Some(token)) => {
            let removed = match dcr::client_configuration_endpoint(registration_endpoint, uri) {
                Ok(endpoint) => timed(context, "delete", server.delete(&endpoint, token)).await.map(|_| ()),
                Err(error) => Err(error),
            };
            match removed {
                Ok(()) => return Ok("removed again"),
                Err(error) => format!("it could not be stored, nor removed again: {error}"),
            }
        }
        _ => "it could not be stored, and the server gave no registration access token for it".to_owned(),
    };
    report_orphan(context, observed, &client.client_id, &why).await?;
    Ok("reported as an orphan")
}

/// Event, metric and log line: a client stays on the server though nobody wants it. When the OAuthClient is gone, the event
/// is what is left.
pub async fn report_orphan(context: &Context, observed: &Observed, client_id: &str, why: &str) -> Result<(), Error> {
    let profile = observed.profile_name();
    let place = match observed.left_at(client_id) {
        Some(former) => format!("{}, the former server of TokenProfile {profile}", former.name()),
        None => format!("the server of TokenProfile {profile}"),
    };
    tell_of_orphan(context, &observed.client.object_ref(&()), client_id, &profile, &place, why).await?;
    Ok(())
}

/// The same for whatever object is left to tell it of.
pub async fn tell_of_orphan(
    context: &Context,
    about: &ObjectReference,
    client_id: &str,
    profile: &str,
    place: &str,
    why: &str,
) -> Result<(), kubernetes::Error> {
    let note = format!("client {client_id} stays on {place}: {why}");
    tracing::error!(client_id, profile, "orphaned registration: {note}");
    context.events.alarm(about, "Orphaned", &note).await?;
    context.metrics.orphan();
    Ok(())
}

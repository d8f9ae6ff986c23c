//! Remove a client on the server, or tell people that it stays there.

use kube::Resource;

use super::{Error, register::settle, timed};
use crate::{
    context::Context,
    dcr,
    oauth_client::{
        observe::{Change, Observed},
        registration::{Registration, RegistrationSecret},
    },
};

/// Removes the client on the server. One that is gone already is fine.
pub async fn deregister(context: &Context, observed: &Observed) -> Result<Change, Error> {
    let RegistrationSecret::Held { registration, .. } = &observed.registration else {
        return Err(Error::Inconsistent("a deregistration needs a registration"));
    };
    let (uri, token) =
        registration.management().ok_or(Error::Inconsistent("a deregistration needs management access"))?;
    let client_id = &registration.information.client_id;

    let stored_bundle = || registration.server.ca_bundle.clone().map(String::into_bytes);
    let (server, endpoint) = if let Some(profile) = &observed.profile {
        let origin = super::registration_endpoint(profile)?;
        let ca_bundle = context.connections.ca_bundle(profile).await?;
        (context.connections.server(profile, ca_bundle)?, dcr::client_configuration_endpoint(origin, uri)?)
    } else {
        // The profile is gone. Only the status tells where the client was: the Secret can be written by the application
        // team, and must not be able to send the operator anywhere.
        let status = observed.client.status.as_ref();
        let Some(endpoint) = status.and_then(|status| status.registration_client_uri.clone()) else {
            report_orphan(context, observed, client_id, "its TokenProfile is gone").await;
            return settle(context, observed).await;
        };
        (context.connections.bare_server(stored_bundle())?, endpoint)
    };
    match timed(context, "delete", server.delete(&endpoint, token)).await {
        Ok(deleted) => {
            let note = match deleted {
                dcr::Deleted::Now => format!("removed client {client_id} on the server"),
                dcr::Deleted::AlreadyGone | dcr::Deleted::TokenRefused => {
                    format!("client {client_id} was gone on the server already")
                }
            };
            tracing::info!(client_id, "{note}");
            context.events.normal(&observed.client.object_ref(&()), "Deregistered", &note).await;
        }
        // No other answer is to be expected from a server that does not delete.
        Err(error) if error.reason() == "DeregistrationRefused" => {
            report_orphan(context, observed, client_id, &error.to_string()).await;
        }
        Err(error) => return Err(error.into()),
    }
    settle(context, observed).await
}

/// Removes a registration that could not be stored; what became of it.
pub async fn give_up(
    context: &Context,
    observed: &Observed,
    server: &dcr::Server,
    registration_endpoint: &str,
    registration: &Registration,
) -> &'static str {
    let client_id = &registration.information.client_id;
    let why = match registration.management() {
        None => "it could not be stored, and the server gave no registration access token for it".to_owned(),
        Some((uri, token)) => {
            let removed = match dcr::client_configuration_endpoint(registration_endpoint, uri) {
                Ok(endpoint) => timed(context, "delete", server.delete(&endpoint, token)).await.map(|_| ()),
                Err(error) => Err(error),
            };
            match removed {
                Ok(()) => return "removed again",
                Err(error) => format!("it could not be stored, nor removed again: {error}"),
            }
        }
    };
    report_orphan(context, observed, client_id, &why).await;
    "reported as an orphan"
}

/// Event, metric and log line: a client stays on the server though nobody wants it.
pub async fn report_orphan(context: &Context, observed: &Observed, client_id: &str, why: &str) {
    context.metrics.orphan();
    let note = format!("client {client_id} stays on the server of TokenProfile {}: {why}", observed.profile_name());
    tracing::error!(client_id, profile = observed.profile_name(), "orphaned registration: {note}");
    context.events.warning(&observed.client.object_ref(&()), "Orphaned", &note).await;
}

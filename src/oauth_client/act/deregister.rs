//! Remove a client on the server, or tell people that it stays there.

use kube::Resource;

use super::{Error, timed};
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

    let known = observed.profile.as_ref().filter(|profile| super::registration_endpoint(profile).is_ok());
    let (server, origin) = if let Some(profile) = known {
        let ca_bundle = match context.connections.ca_bundle(profile).await {
            Ok(ca_bundle) => ca_bundle,
            // It went with the namespace.
            Err(_) => registration.server.ca_bundle.clone().map(String::into_bytes),
        };
        (context.connections.server(profile, ca_bundle)?, super::registration_endpoint(profile)?)
    } else {
        // The profile is gone. Only the status tells where its server was: the Secret can be written by the application
        // team, and must not be able to send the operator anywhere.
        let status = observed.client.status.as_ref();
        let Some(origin) = status.and_then(|status| status.registration_client_uri.as_deref()) else {
            report_orphan(context, observed, client_id, "its TokenProfile is gone").await;
            return Ok(Change::Settled);
        };
        (context.connections.bare_server(registration.server.ca_bundle.clone().map(String::into_bytes))?, origin)
    };
    let endpoint = dcr::client_configuration_endpoint(origin, uri)?;
    match timed(context, "delete", server.delete(&endpoint, token)).await {
        Ok(deleted) => {
            let note = match deleted {
                dcr::Deleted::Now => format!("removed client {client_id} on the server"),
                dcr::Deleted::AlreadyGone => format!("client {client_id} was gone on the server already"),
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
    Ok(Change::Settled)
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

//! Whose a client is, and at which server: by the status and by what the server has said. The registration Secret is in the
//! application team's hands, so its word alone is not enough.

use std::iter;

use super::{
    accept::permits_adoption,
    observe::Observed,
    plan,
    registration::{Flaw, Registration, RegistrationSecret, ServerSnapshot},
};
use crate::{api::OAuthClientStatus, dcr::ClientInformation};

impl Observed {
    /// Whether the profile's management client may be used for this client. At another server, a client of the same
    /// identifier would be somebody else's.
    #[must_use]
    pub fn manages(&self, client: &ClientInformation) -> bool {
        self.has_manager() && self.is_vouched_for(client) && self.left_at(&client.client_id).is_none()
    }

    /// The server of the registration, if the profile has come to describe another one.
    #[must_use]
    pub fn former_server<'a>(&self, registration: &'a Registration) -> Option<&'a ServerSnapshot> {
        let now = self.profile.as_ref().and_then(plan::server_metadata)?;
        Some(&registration.server).filter(|then| then.is_another(&now))
    }

    /// The server that the client was registered at, if calls about it now go to another origin.
    #[must_use]
    pub fn left_at(&self, client_id: &str) -> Option<&ServerSnapshot> {
        let now = self.profile.as_ref().and_then(plan::server_metadata)?;
        self.server_of(client_id).filter(|then| then.is_elsewhere(&now))
    }

    /// The server as it was remembered with the client, be that the one in use or a former one.
    #[must_use]
    pub fn server_of(&self, client_id: &str) -> Option<&ServerSnapshot> {
        let RegistrationSecret::Held { registration, .. } = &self.registration else { return None };
        let former = registration.retiring.iter().find(|former| former.information.client_id == client_id);
        Some(former.and_then(|former| former.server.as_ref()).unwrap_or(&registration.server))
    }

    /// Where the status says that a client of this object is managed.
    #[must_use]
    pub fn known_uri(&self, client_id: &str) -> Option<String> {
        let status = self.client.status.as_ref()?;
        if let Some(former) = status.retiring.iter().find(|former| former.client_id == client_id) {
            return former.registration_client_uri.clone();
        }
        status.registration_client_uri.clone().filter(|_| status.client_id.as_deref() == Some(client_id))
    }

    /// Whether the profile's management client may be used to take a client over: one that is this object's own already, or
    /// that the profile lets it adopt.
    #[must_use]
    pub fn enrolls_by_manager(&self) -> bool {
        let Some(profile) = self.profile.as_ref().filter(|_| self.has_manager()) else { return false };
        let status = self.client.status.as_ref().filter(|status| status.client_id.is_some());
        status.map_or_else(
            || permits_adoption(profile, self.namespace(), &self.namespace_labels),
            |status| status.confirmed,
        )
    }

    /// Whether the status names the client as one that the server has said to be this object's, and at this URI. Unlike the
    /// registration Secret, which is in the application team's hands, the status is the operator's alone.
    #[must_use]
    pub fn is_vouched_for(&self, client: &ClientInformation) -> bool {
        let Some(status) = &self.client.status else { return false };
        is_confirmed(status, &client.client_id)
            && client.registration_client_uri.as_deref().is_none_or(|kept| {
                confirmed_uri(status, &client.client_id).is_some_and(|uri| place(uri) == place(kept))
            })
    }

    /// Whether the status still names a former client as the one in use. It tells of the new one before the former one goes:
    /// see [`as_the_status_says`].
    #[must_use]
    pub fn status_lags(&self) -> bool {
        let RegistrationSecret::Held { registration, .. } = &self.registration else { return false };
        let known = self.client.status.as_ref().and_then(|status| status.client_id.as_ref());
        known.is_some_and(|known| *known != registration.information.client_id)
    }

    /// Whether the server has said in this pass that the client is this object's.
    #[must_use]
    pub fn has_heard_of(&self, client_id: &str) -> bool {
        self.live.as_ref().is_some_and(|live| live.information.client_id == client_id)
    }

    /// Whether the status names this client, as this object's or as a former one.
    #[must_use]
    pub fn names(&self, client_id: &str) -> bool {
        self.client.status.as_ref().is_some_and(|status| {
            status.client_id.as_deref() == Some(client_id)
                || status.retiring.iter().any(|former| former.client_id == client_id)
        })
    }
}

/// The registration as far as the status bears it out, which is the operator's alone; the Secret is in the application
/// team's hands. A client that the status does not name is this object's only in place of the one that it names, which is
/// then among the former ones: before that one goes, the status names the new one. Where a client is, the status says.
#[must_use]
pub fn as_the_status_says(registration: RegistrationSecret, status: Option<&OAuthClientStatus>) -> RegistrationSecret {
    let Some(status) = status else { return registration };
    let RegistrationSecret::Held { secret, mut registration } = registration else { return registration };
    let own = &mut registration.information;
    if let Some(known) = status.client_id.as_ref().filter(|known| **known != own.client_id)
        && !registration.retiring.iter().any(|former| former.information.client_id == *known)
    {
        let flaw = Flaw::OtherClient(own.client_id.clone());
        return RegistrationSecret::Unreadable { secret, flaw };
    }
    for client in iter::once(own).chain(registration.retiring.iter_mut().map(|former| &mut former.information)) {
        let known = confirmed_uri(status, &client.client_id);
        if is_confirmed(status, &client.client_id)
            && client.registration_client_uri.as_deref().map(place) != known.map(place)
        {
            client.registration_client_uri = known.map(str::to_owned);
        }
    }
    RegistrationSecret::Held { secret, registration }
}

/// Whether the server has said that the client is this object's.
pub fn is_confirmed(status: &OAuthClientStatus, client_id: &str) -> bool {
    (status.confirmed && status.client_id.as_deref() == Some(client_id))
        || status.retiring.iter().any(|former| former.confirmed && former.client_id == client_id)
}

/// Where a client is that the server has said to be this object's.
fn confirmed_uri<'a>(status: &'a OAuthClientStatus, client_id: &str) -> Option<&'a str> {
    let own = status.confirmed && status.client_id.as_deref() == Some(client_id);
    let former = || status.retiring.iter().find(|former| former.confirmed && former.client_id == client_id);
    let uri = if own { &status.registration_client_uri } else { &former()?.registration_client_uri };
    uri.as_deref()
}

/// Path and query: some servers name the client in the one, some in the other.
fn place(uri: &str) -> Option<String> {
    url::Url::parse(uri).ok().map(|uri| uri[url::Position::BeforePath..url::Position::AfterQuery].to_owned())
}

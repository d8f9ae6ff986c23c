//! What there is to adopt a client with.

use kube::ResourceExt;
use secrecy::SecretString;

use crate::{api::OAuthClient, context::Context, kubernetes, token_profile::ConnectionError};

const REGISTRATION_ACCESS_TOKEN: &str = "registration-access-token";
const CLIENT_SECRET: &str = "client-secret";

/// What the Secret of `spec.adopt` gives. `Debug` shows none of it.
#[derive(Clone, Debug, Default)]
pub struct Adoption {
    pub registration_access_token: Option<SecretString>,
    pub client_secret: Option<SecretString>,
}

/// What there is, or the reason why not; and the OAuthClient that has the client already.
type Found = (Option<Result<Adoption, (&'static str, String)>>, Option<String>);

/// Looks for what `spec.adopt` names. A client that is this object's already may be adopted once more, when what was kept
/// of it is lost; then what is missing is no obstacle: the management client may do without.
///
/// # Errors
/// If the Kubernetes API fails.
pub async fn observe(context: &Context, client: &OAuthClient) -> Result<Found, kubernetes::Error> {
    let known = client.status.as_ref().and_then(|status| status.client_id.as_ref());
    let adopt = client.spec.adopt.as_ref().filter(|adopt| known.is_none_or(|known| *known == adopt.client_id));
    let Some(adopt) = adopt else { return Ok((None, None)) };
    let rival = known.is_none().then(|| rival(context, client, &adopt.client_id)).flatten();
    let Some(reference) = &adopt.secret_ref else { return Ok((None, rival)) };
    let namespace = client.namespace().unwrap_or_default();
    let read = |key| context.connections.optional_secret_text(&namespace, &reference.name, key);
    let found = match futures::try_join!(read(REGISTRATION_ACCESS_TOKEN), read(CLIENT_SECRET)) {
        Ok((None, None)) => Err((
            crate::api::reasons::SECRET_NOT_FOUND,
            format!(
                "Secret {namespace}/{} has neither {REGISTRATION_ACCESS_TOKEN} nor {CLIENT_SECRET}",
                reference.name
            ),
        )),
        Ok((registration_access_token, client_secret)) => Ok(Adoption { registration_access_token, client_secret }),
        Err(ConnectionError::Kubernetes(error)) => return Err(error),
        Err(error) => Err((error.reason(), error.to_string())),
    };
    Ok((Some(found).filter(|found| known.is_none() || found.is_ok()), rival))
}

/// Another OAuthClient of the same profile that has this client, or has asked for it before.
fn rival(context: &Context, client: &OAuthClient, client_id: &str) -> Option<String> {
    let profile = |client: &OAuthClient| {
        let reference = client.spec.profile_ref.clone();
        (reference.namespace.or_else(|| client.namespace()), reference.name)
    };
    let (own_profile, own_uid) = (profile(client), client.uid());
    let age = |client: &OAuthClient| (client.creation_timestamp(), client.uid());
    let own_age = age(client);
    let rivals = context.clients.filter_map(|other| {
        if other.uid() == own_uid || profile(other) != own_profile {
            return None;
        }
        let has_it = other.status.as_ref().and_then(|status| status.client_id.as_deref()) == Some(client_id);
        let wants_it = other.spec.adopt.as_ref().is_some_and(|adopt| adopt.client_id == client_id)
            && other.status.as_ref().is_none_or(|status| status.client_id.is_none());
        let is_first = has_it || (wants_it && age(other) < own_age);
        is_first.then(|| format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any()))
    });
    rivals.into_iter().next()
}

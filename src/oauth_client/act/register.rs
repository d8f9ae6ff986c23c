//! Register: token, intent, call, answer kept. In this order, each before the next.

use jiff::Timestamp;
use kube::ResourceExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Map;

use super::{Error, connect, deregister, manage, registration_endpoint, store, timed, token_endpoint};
use crate::{
    api::{SigningAlgorithm, TokenProfile, annotations},
    context::Context,
    crash_point,
    dcr::{self, ClientInformation, Outcome},
    kubernetes::Precondition,
    oauth_client::{
        attempt::{Attempt, Ended},
        keys::{ClientKey, ClientKeys},
        metadata::Document,
        observe::{Change, Observed},
        registration::{History, Origin, Registration, RegistrationSecret, StoredSecret, access},
    },
    token_profile::Credential,
};

/// Registers the client once.
pub async fn register(
    context: &Context,
    observed: &Observed,
    attempt: Attempt,
    document: Document,
    new_key: Option<SigningAlgorithm>,
) -> Result<Change, Error> {
    let profile = observed.profile.as_ref().ok_or(Error::Inconsistent("a registration needs a profile"))?;
    let endpoint = registration_endpoint(profile)?;
    let (server, snapshot) = connect(context, profile).await?;
    let keys = ClientKeys(new_key.map(make_key).transpose()?.into_iter().collect());
    let document = if keys.0.is_empty() { document } else { keys.laid_into(document) };
    let precondition = match &observed.registration {
        RegistrationSecret::Held { secret, .. } => secret.unchanged(),
        _ => Precondition::Absent,
    };
    // The last attempt came to nothing, perhaps for want of a place to keep it: each of that kind may leave an orphan.
    let is_checked = Attempt::last(&observed.client).is_some_and(|last| last.ended.is_some());
    if is_checked {
        store::check(context, observed, &precondition).await?;
    }
    // Wait here, and not with an attempt begun: what waits in a queue when the operator dies is no possible orphan.
    let turn = context.connections.turn(profile).await;
    // First the token: if there is none, nothing has been tried, and nothing needs to be written down.
    let token = initial_access_token(context, profile, &server).await?;
    crash_point::reached("Register", "has a token");
    let client = store::record(context, &observed.client, &attempt).await?;
    crash_point::reached("Register", "has recorded the attempt");

    let answer = timed(context, "register", server.register(endpoint, token.as_ref(), &document.0)).await;
    crash_point::reached("Register", "has an answer");
    // Others need not wait until it is kept.
    drop(turn);
    if answer.is_err() {
        // Whatever the error: the server may count it as spent.
        context.connections.forget_token(profile);
    }
    let information = match answer {
        Ok(information) => information,
        Err(error) if error.outcome() == Outcome::NotRegistered => {
            store::conclude(context, &client, attempt, &error, observed.refusal_inputs()).await?;
            return Err(error.into());
        }
        Err(source) => return Err(Error::OutcomeUnknown { attempt: attempt.id, source }),
    };

    let now = Timestamp::now();
    let is_replacement = attempt.supersedes.is_some();
    let client_id = information.client_id.clone();
    let retiring = observed.left_behind(attempt.supersedes.as_deref(), &client_id, now);
    let registration = Registration {
        attempt: attempt.id.clone(),
        information,
        request: Some(document.0),
        server: snapshot,
        history: History {
            origin: if is_replacement { Origin::Replaced } else { Origin::Registered },
            credentials_issued_at: now,
            rotated: is_replacement,
            token_issued_at: now,
            handled_rotate_at: observed.client.annotations().get(annotations::ROTATE).cloned(),
            ..History::default()
        },
        previous_token: None,
        keys,
        retiring,
    };
    match store::keep(context, observed, &registration, precondition).await {
        Ok(secret) => {
            crash_point::reached("Register", "has kept the answer");
            tracing::info!(client_id, attempt = attempt.id, "registered");
            context.compared.note(observed.uid(), now);
            Ok(Change::Enrolled {
                client: Box::new(client),
                secret: StoredSecret::new(secret),
                registration: Box::new(registration),
            })
        }
        Err(source) => {
            // If nobody could be told, the attempt stays open, and is reported as one.
            let fate = deregister::give_up(context, observed, &server, endpoint, &registration).await?;
            crash_point::reached("Register", "has given the registration up");
            let ended = Ended { reason: source.reason().into(), message: source.to_string(), refused_inputs: None };
            store::write_attempt(context, &client, &Attempt { ended: Some(ended), ..attempt }).await?;
            Err(Error::NotStored { client_id, fate, is_checked, source })
        }
    }
}

/// Takes over a client that exists on the server.
pub async fn adopt(
    context: &Context,
    observed: &Observed,
    client_id: &str,
    registration_client_uri: Option<&str>,
) -> Result<Change, Error> {
    let profile = observed.profile.as_ref().ok_or(Error::Inconsistent("an adoption needs a profile"))?;
    let (_, snapshot) = connect(context, profile).await?;
    let given = match &observed.adoption {
        Some(Ok(given)) => given.clone(),
        _ => crate::oauth_client::adoption::Adoption::default(),
    };
    let known = ClientInformation {
        client_id: client_id.to_owned(),
        client_secret: given.client_secret,
        client_id_issued_at: None,
        client_secret_expires_at: None,
        // Without a URI of its own it is where the registration endpoint says.
        registration_client_uri: registration_client_uri.map(str::to_owned).or_else(|| {
            let endpoint = registration_endpoint(profile).ok()?;
            dcr::client_configuration_endpoint_of(endpoint, client_id).ok()
        }),
        registration_access_token: given.registration_access_token,
        metadata: Map::new(),
    };
    let now = Timestamp::now();
    let unread = Registration {
        attempt: String::new(),
        information: known,
        request: None,
        server: snapshot,
        history: History {
            origin: Origin::Adopted,
            credentials_issued_at: now,
            token_issued_at: now,
            handled_rotate_at: observed.client.annotations().get(annotations::ROTATE).cloned(),
            ..History::default()
        },
        previous_token: None,
        keys: ClientKeys::default(),
        retiring: observed.listed_as_retiring(now),
    };
    // Not for a token that the server has refused either, where the profile does not say so.
    let accesses = access(&unread.information, observed.enrolls_by_manager());
    let registration = if accesses.is_empty() {
        unread
    } else {
        let (answer, access) = manage::read(context, profile, &unread.information, None, &accesses).await?;
        let read = unread.answered(answer, access, now);
        let history = History { rotated: false, ..read.history };
        Registration { history, ..read }
    };
    let known = observed.client.status.as_ref().filter(|status| status.client_id.is_some());
    let registration = match known {
        None => registration,
        Some(status) => {
            let secret = registration.information.client_secret.as_ref();
            let published = secret.is_none_or(|secret| observed.secret.holds(secret.expose_secret()));
            registration.recovered(published, status.credentials_rotated_at.as_ref().map(|time| time.0))
        }
    };
    let is_confidential = registration
        .information
        .metadata
        .get("token_endpoint_auth_method")
        .is_none_or(|method| method.as_str().is_some_and(|method| method.starts_with("client_secret_")));
    if is_confidential && registration.information.client_secret.is_none() {
        let client_id = client_id.to_owned();
        return Err(if known.is_some() { Error::SecretLost { client_id } } else { Error::NoSecret { client_id } });
    }
    crash_point::reached("Adopt", "has an answer");
    let secret = store::keep(context, observed, &registration, Precondition::Absent).await?;
    crash_point::reached("Adopt", "has kept the answer");
    tracing::info!(client_id, "adopted");
    context.compared.note(observed.uid(), now);
    Ok(Change::Enrolled {
        client: Box::new(observed.client.clone()),
        secret: StoredSecret::new(secret),
        registration: Box::new(registration),
    })
}

/// A new key pair.
pub fn make_key(algorithm: SigningAlgorithm) -> Result<ClientKey, Error> {
    let pair = dcr::KeyPair::generate(match algorithm {
        SigningAlgorithm::ES256 => dcr::KeyAlgorithm::ES256,
        SigningAlgorithm::RS256 => dcr::KeyAlgorithm::RS256,
        SigningAlgorithm::EdDSA => dcr::KeyAlgorithm::EdDSA,
    })
    .map_err(Error::Key)?;
    Ok(ClientKey {
        algorithm,
        kid: pair.kid().to_owned(),
        private_key: pair.private_key_pem().clone(),
        public_jwk: pair.public_jwk().clone(),
        created_at: Timestamp::now(),
        retire_at: None,
    })
}

/// A token for one attempt.
async fn initial_access_token(
    context: &Context,
    profile: &TokenProfile,
    server: &dcr::Server,
) -> Result<Option<SecretString>, Error> {
    let credential = context.connections.credential(profile).await?;
    match &credential {
        Credential::NotRequired => Ok(None),
        Credential::BearerToken(token) => Ok(Some(token.clone())),
        Credential::ClientCredentials(client) => {
            if let Some(kept) = context.connections.kept_token(profile, &credential) {
                return Ok(Some(kept));
            }
            let endpoint = token_endpoint(profile, client)?;
            let token = timed(context, "token", server.access_token(endpoint, client)).await?;
            context.connections.keep_token(profile, &credential, &token);
            Ok(Some(token.token))
        }
    }
}

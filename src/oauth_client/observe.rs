//! Everything that a decision about a client needs, gathered once.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Resource, ResourceExt};
use secrecy::ExposeSecret;
use serde_json::Map;

use super::{
    adoption::{self, Adoption},
    attempt::{Attempt, SETTLED},
    keys::ClientKeys,
    metadata,
    ownership::as_the_status_says,
    plan,
    registration::{
        self, Flaw, History, Origin, Registration, RegistrationSecret, Retiring, ServerSnapshot, StoredSecret,
    },
};
use crate::{
    api::{DcrPolicy, FINALIZER, OAuthClient, ReplacementReason, ServerBehaviour, TokenProfile, annotations, reasons},
    context::Context,
    dcr::{ClientInformation, ServerMetadata},
    kubernetes::{self, SecretData},
    policy::{self, Older},
    token_profile,
};

/// A client and all that bears on it.
#[derive(Clone, Debug)]
// Each is a fact of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct Observed {
    pub client: OAuthClient,
    pub profile: Option<TokenProfile>,
    /// The operator watches the profile's namespace: else nobody knows whether there is a profile.
    pub profile_is_watched: bool,
    /// Of the client's namespace; none, if it has not been seen.
    pub namespace_labels: BTreeMap<String, String>,
    /// The watch has shown the client's namespace: until then nobody knows which policies are about the client.
    pub namespace_is_seen: bool,
    /// The client's namespace is going, and this client with it.
    pub namespace_is_terminating: bool,
    /// The policies of the profile's namespace that are about this profile and this namespace.
    pub policies: Vec<DcrPolicy>,
    /// The clients of this namespace that came before, for `maxClientsPerNamespace`.
    pub older: Older,
    pub registration: RegistrationSecret,
    pub secret: ApplicationSecret,
    /// The Secret of the status, if the spec now names another one.
    pub former_secret: Option<StoredSecret>,
    /// What the spec gives to adopt a client with, if one is to be adopted; else why it can't be had: reason and message.
    pub adoption: Option<Result<Adoption, (&'static str, String)>>,
    /// Another OAuthClient that has the client that this one is to adopt.
    pub rival: Option<String>,
    /// When the registration was last compared with what the server has; at the earliest when the operator started.
    pub compared_at: Timestamp,
    /// What the server has, as read or answered in this pass.
    pub live: Option<Live>,
    /// In this pass, the server has refused all that there is to manage the client with: what it said.
    pub lost: Option<String>,
    /// The server has just said that it takes no updates.
    pub cannot_update: bool,
    /// In this pass, the workloads have been restarted for the credentials of now.
    pub workloads_are_restarted: bool,
    /// No call to the server before this time: the last one failed with these inputs.
    pub not_before: Option<Timestamp>,
    /// An id for an attempt, should one be due.
    pub attempt_id: String,
    pub deletion_timeout: Duration,
}

/// A client as the server has it now.
#[derive(Clone, Debug)]
pub struct Live {
    pub information: ClientInformation,
    /// The members that differ from what the server answered before.
    pub drift: Vec<String>,
}

/// The Secret that the spec names.
#[derive(Clone, Debug)]
pub enum ApplicationSecret {
    Absent,
    /// There is one of that name that is not ours.
    Foreign,
    Ours {
        secret: StoredSecret,
        data: SecretData,
    },
}

impl ApplicationSecret {
    /// Whether it is ours, and has this value under some key.
    #[must_use]
    pub fn holds(&self, value: &str) -> bool {
        matches!(self, Self::Ours { data, .. } if data.holds(value))
    }
}

/// What a step has changed.
#[derive(Debug)]
pub enum Change {
    /// The client is registered, or adopted, and that is kept.
    Enrolled {
        client: Box<OAuthClient>,
        secret: StoredSecret,
        registration: Box<Registration>,
    },
    /// The registration has been changed, or found unchanged, and is kept as it is.
    Answered {
        secret: StoredSecret,
        registration: Box<Registration>,
        live: Live,
    },
    /// A former client is gone, or reported.
    Retired {
        secret: StoredSecret,
        registration: Box<Registration>,
    },
    /// A registration has been given back; the one before it, if there was one, is held again.
    Withdrawn {
        client: Box<OAuthClient>,
        restored: Option<(StoredSecret, Box<Registration>)>,
    },
    /// The application's Secret is as it should be.
    SecretApplied {
        secret: StoredSecret,
        data: SecretData,
    },
    /// The application's Secret is gone: it will be made anew with another type.
    SecretRemoved,
    FormerSecretRemoved,
    WorkloadsRestarted,
    /// The OAuthClient itself has been written: a finalizer, an attempt, an early status.
    ClientWritten(Box<OAuthClient>),
    /// The registration Secret is gone.
    RegistrationRemoved,
    /// The finalizer is gone, and so, soon, is the client.
    Released(Box<OAuthClient>),
}

impl Observed {
    /// The facts after a step.
    pub fn apply(&mut self, change: Change) {
        match change {
            Change::Enrolled { client, secret, registration } => {
                self.client = *client;
                // One that was adopted as it was given has been asked for by nobody.
                let has_answered =
                    registration.history.origin != Origin::Adopted || !registration.information.metadata.is_empty();
                self.live =
                    has_answered.then(|| Live { information: registration.information.clone(), drift: Vec::new() });
                self.registration = RegistrationSecret::Held { secret, registration };
                self.lost = None;
                self.cannot_update = false;
            }
            Change::Answered { secret, registration, live } => {
                self.registration = RegistrationSecret::Held { secret, registration };
                self.live = Some(live);
            }
            Change::Retired { secret, registration } => {
                self.registration = RegistrationSecret::Held { secret, registration };
            }
            Change::Withdrawn { client, restored } => {
                self.client = *client;
                self.registration = match restored {
                    Some((secret, registration)) => RegistrationSecret::Held { secret, registration },
                    None => RegistrationSecret::Absent,
                };
            }
            Change::SecretApplied { secret, data } => self.secret = ApplicationSecret::Ours { secret, data },
            Change::SecretRemoved => self.secret = ApplicationSecret::Absent,
            Change::FormerSecretRemoved => self.former_secret = None,
            Change::WorkloadsRestarted => self.workloads_are_restarted = true,
            Change::ClientWritten(client) | Change::Released(client) => self.client = *client,
            Change::RegistrationRemoved => self.registration = RegistrationSecret::Absent,
        }
    }

    /// The last registration was given back, because the server had registered more than the policies allow.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        let ended = Attempt::last(&self.client).and_then(|attempt| attempt.ended);
        matches!(self.registration, RegistrationSecret::Absent)
            && ended.is_some_and(|ended| ended.reason == reasons::POLICY_DENIED)
    }

    /// Uid of the client.
    #[must_use]
    pub fn uid(&self) -> &str {
        self.client.metadata.uid.as_deref().unwrap_or_default()
    }

    /// How the server behaves, as far as the profile is there to say so.
    #[must_use]
    pub fn server(&self) -> ServerBehaviour {
        self.profile.as_ref().map(|profile| profile.spec.server.clone()).unwrap_or_default()
    }

    /// Whether the profile has a management client.
    #[must_use]
    pub fn has_manager(&self) -> bool {
        self.profile.as_ref().is_some_and(|profile| profile.spec.server.management_client.is_some())
    }

    /// How often the registration is compared with what the server has; zero = never.
    #[must_use]
    pub fn resync_interval(&self) -> Duration {
        let interval = self.profile.as_ref().and_then(|profile| profile.spec.resync_interval);
        interval.map(Duration::from).unwrap_or_default()
    }

    /// Whether a new client may take the place of the old one in this case.
    #[must_use]
    pub fn may_replace(&self, reason: ReplacementReason) -> bool {
        self.client.spec.replacement.as_ref().is_some_and(|replacement| replacement.when.contains(&reason))
    }

    /// The server has been told that the client goes, or a person has been told that it stays.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        Attempt::last(&self.client).and_then(|attempt| attempt.ended).is_some_and(|ended| ended.reason == SETTLED)
    }

    /// Namespace of the client.
    #[must_use]
    pub fn namespace(&self) -> &str {
        self.client.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Name of the client.
    #[must_use]
    pub fn name(&self) -> &str {
        self.client.metadata.name.as_deref().unwrap_or_default()
    }

    /// `namespace/name` of the profile.
    #[must_use]
    pub fn profile_name(&self) -> String {
        let reference = &self.client.spec.profile_ref;
        format!("{}/{}", reference.namespace.as_deref().unwrap_or(self.namespace()), reference.name)
    }

    /// Name of the application's Secret.
    #[must_use]
    pub fn secret_name(&self) -> &str {
        self.client.spec.secret.name.as_deref().unwrap_or(self.name())
    }

    /// What a refusal is about: with the same inputs the server would refuse again.
    #[must_use]
    pub fn refusal_inputs(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        metadata::document(&self.client.spec).map(|document| document.digest()).ok().hash(&mut hasher);
        self.client.spec.keys.as_ref().map(|keys| keys.algorithm as u8).hash(&mut hasher);
        self.client.annotations().get(annotations::RECONCILE).hash(&mut hasher);
        if let Some(profile) = &self.profile {
            (profile.uid(), profile.metadata.generation).hash(&mut hasher);
            profile.status.as_ref().and_then(|status| status.registration_endpoint.as_ref()).hash(&mut hasher);
        }
        // In whatever order the cache has them.
        let mut policies: Vec<_> =
            self.policies.iter().map(|policy| (&policy.metadata.uid, policy.metadata.generation)).collect();
        policies.sort();
        policies.hash(&mut hasher);
        hasher.finish()
    }

    /// What a delay is about: new inputs are tried at once.
    #[must_use]
    pub fn backoff_inputs(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.refusal_inputs(), self.client.metadata.generation).hash(&mut hasher);
        self.client.metadata.deletion_timestamp.is_some().hash(&mut hasher);
        self.profile.as_ref().map(token_profile::is_ready).hash(&mut hasher);
        self.client.annotations().get(annotations::ROTATE).hash(&mut hasher);
        self.enrolls_by_manager().hash(&mut hasher);
        if let Some(Ok(Adoption { registration_access_token, client_secret })) = &self.adoption {
            [registration_access_token, client_secret]
                .map(|s| s.as_ref().map(ExposeSecret::expose_secret))
                .hash(&mut hasher);
        }
        hasher.finish()
    }

    /// The former clients, as far as the status still has their names: what was kept of them is gone.
    #[must_use]
    pub fn listed_as_retiring(&self, now: Timestamp) -> Vec<Retiring> {
        let listed = self.client.status.as_ref().map(|status| status.retiring.clone()).unwrap_or_default();
        listed.into_iter().map(|former| lost(former.client_id, former.registration_client_uri, now)).collect()
    }

    /// The clients that a new one leaves behind on the server. Some servers answer a registration with a client that is
    /// there already: that one is in use, and must not be removed as a former one.
    #[must_use]
    pub fn left_behind(&self, supersedes: Option<&str>, registered: &str, now: Timestamp) -> Vec<Retiring> {
        let mut left = supersedes.map_or_else(Vec::new, |client_id| self.superseded(client_id, now));
        left.retain(|former| former.information.client_id != registered);
        left
    }

    fn superseded(&self, client_id: &str, now: Timestamp) -> Vec<Retiring> {
        let RegistrationSecret::Held { registration, .. } = &self.registration else {
            let registration_client_uri =
                self.client.status.as_ref().and_then(|status| status.registration_client_uri.clone());
            let own = lost(client_id.to_owned(), registration_client_uri, now);
            return self.listed_as_retiring(now).into_iter().chain([own]).collect();
        };
        let overlap = self.client.spec.replacement.as_ref().map(|replacement| replacement.overlap.into());
        // What is lost can't be used; whether it is there at all is looked at right away.
        let overlap = overlap.filter(|_| self.lost.is_none());
        let delete_after = overlap.and_then(|overlap: Duration| now.checked_add(overlap).ok()).unwrap_or(now);
        // The token of a call without an answer may be of no use: then a refusal of it says nothing.
        let is_lost = self.lost.is_some() || registration.history.unconfirmed_since.is_some();
        let (information, keys) = (registration.information.clone(), registration.keys.clone());
        let history = registration.history.clone();
        let mut retiring = registration.retiring.clone();
        retiring.push(Retiring { information, keys, delete_after, is_lost, server: None, history });
        let now = self.profile.as_ref().and_then(plan::server_metadata).unwrap_or_default();
        if registration.server.is_another(&now) || registration.server.is_elsewhere(&now) {
            for former in &mut retiring {
                former.server.get_or_insert_with(|| registration.server.clone());
            }
        }
        retiring
    }

    /// The attempt whose outcome nobody knows, unless the status lists it already.
    #[must_use]
    pub fn unreported_attempt(&self) -> Option<Attempt> {
        let status = self.client.status.as_ref();
        let listed = status.map_or(&[][..], |status| &status.possible_orphans);
        // The status may lag behind: it is written last.
        let known = match &self.registration {
            RegistrationSecret::Held { registration, .. } => Some(&registration.information.client_id),
            _ => status.and_then(|status| status.client_id.as_ref()),
        };
        Attempt::last(&self.client).filter(|attempt| {
            // The client that it made is known, and taken care of.
            if known.is_some() && attempt.supersedes.as_ref() != known {
                return false;
            }
            let kept = match &self.registration {
                RegistrationSecret::Held { registration, .. } => registration.attempt == attempt.id,
                // Ours, and spoilt by somebody: its attempt was finished, or it would not be there.
                RegistrationSecret::Unreadable { .. } => true,
                RegistrationSecret::Absent | RegistrationSecret::Foreign | RegistrationSecret::Stray { .. } => false,
            };
            attempt.ended.is_none() && !kept && !listed.iter().any(|orphan| orphan.attempt == attempt.id)
        })
    }
}

/// A former client whose registration access token is gone; whether it is there at all is looked at right away.
fn lost(client_id: String, registration_client_uri: Option<String>, now: Timestamp) -> Retiring {
    // All that is left of its server is the origin.
    let server = registration_client_uri.clone().map(|uri| ServerSnapshot {
        metadata: ServerMetadata { registration_endpoint: Some(uri), ..ServerMetadata::default() },
        ..ServerSnapshot::default()
    });
    let information = ClientInformation {
        client_id,
        client_secret: None,
        client_id_issued_at: None,
        client_secret_expires_at: None,
        registration_access_token: None,
        registration_client_uri,
        metadata: Map::new(),
    };
    let (keys, history) = (ClientKeys::default(), History::default());
    Retiring { information, keys, delete_after: now, is_lost: true, server, history }
}

/// Reads what the decision needs; writes nothing.
///
/// # Errors
/// If a Secret can't be read: without it nothing can be decided.
pub async fn observe(context: &Context, client: OAuthClient) -> Result<Observed, kubernetes::Error> {
    let namespace = client.namespace().unwrap_or_default();
    let reference = &client.spec.profile_ref;
    let profile_namespace = reference.namespace.as_deref().unwrap_or(&namespace);
    let labels = context.namespace_labels(&namespace);
    let (namespace_is_seen, namespace_labels) = (labels.is_some(), labels.unwrap_or_default());
    let policies = context.policies.filter_map(|policy| {
        let applies = policy.metadata.namespace.as_deref() == Some(profile_namespace)
            && policy::concerns(policy, &reference.name, &namespace_labels);
        applies.then(|| policy.clone())
    });
    let older = context.older(&client, &policies);

    let uid = client.uid().unwrap_or_default();
    let registration_name = registration::secret_name(&client.name_any());
    let wanted = client.spec.secret.name.clone().unwrap_or_else(|| client.name_any());
    let former = client.status.as_ref().and_then(|status| status.binding.as_ref()).map(|binding| binding.name.clone());
    let former = former.filter(|former| *former != wanted);
    let (registration, secret, former_secret) = futures::try_join!(
        read(context, &namespace, Some(&registration_name)),
        read(context, &namespace, Some(&wanted)),
        read(context, &namespace, former.as_ref()),
    )?;

    let enrolls = registration.is_none() && client.meta().deletion_timestamp.is_none();
    let (adoption, rival) = if enrolls { adoption::observe(context, &client).await? } else { (None, None) };
    let mut observed = Observed {
        profile: context.profiles.get(profile_namespace, &reference.name),
        profile_is_watched: context.settings.watches(profile_namespace),
        namespace_labels,
        namespace_is_seen,
        namespace_is_terminating: context.namespace_is_terminating(&namespace),
        policies,
        older,
        registration: as_the_status_says(registration_secret(registration, &uid), client.status.as_ref()),
        secret: match secret {
            None => ApplicationSecret::Absent,
            Some(secret) if !is_for_application(&secret, &uid) => ApplicationSecret::Foreign,
            Some(secret) => {
                ApplicationSecret::Ours { data: SecretData::of(&secret), secret: StoredSecret::new(secret) }
            }
        },
        former_secret: former_secret.filter(|secret| is_for_application(secret, &uid)).map(StoredSecret::new),
        adoption,
        rival,
        compared_at: context.compared.at(&uid),
        live: None,
        lost: None,
        cannot_update: false,
        workloads_are_restarted: false,
        not_before: None,
        attempt_id: uuid::Uuid::new_v4().to_string(),
        deletion_timeout: context.settings.deletion_timeout,
        client,
    };
    observed.not_before = context.client_backoff.not_before(&uid, observed.backoff_inputs());
    Ok(observed)
}

async fn read(context: &Context, namespace: &str, name: Option<&String>) -> Result<Option<Secret>, kubernetes::Error> {
    let Some(name) = name else { return Ok(None) };
    Api::<Secret>::namespaced(context.client.clone(), namespace)
        .get_opt(name)
        .await
        .map_err(|error| kubernetes::Error::new(format!("could not read Secret {namespace}/{name}"), error))
}

/// A Secret is ours if this very object owns it. The label may have been taken off: then it is put back.
fn is_ours(secret: &Secret, uid: &str) -> bool {
    secret.owner_references().iter().any(|owner| owner.uid == uid)
}

/// Ours, and not one that keeps a registration: that one is never taken for the application's.
fn is_for_application(secret: &Secret, uid: &str) -> bool {
    is_ours(secret, uid) && secret.type_.as_deref() != Some(registration::SECRET_TYPE)
}

/// Sorts out what the Secret `<name>-registration` is.
pub fn registration_secret(secret: Option<Secret>, uid: &str) -> RegistrationSecret {
    match secret {
        None => RegistrationSecret::Absent,
        Some(secret) if secret.type_.as_deref() != Some(registration::SECRET_TYPE) => RegistrationSecret::Foreign,
        Some(secret) if !is_ours(&secret, uid) => {
            if !secret.finalizers().iter().any(|finalizer| finalizer == FINALIZER) {
                return RegistrationSecret::Foreign;
            }
            let client_ids = Registration::from_data(&SecretData::of(&secret)).map_or_else(
                |_| Vec::new(),
                |registration| registration.clients().map(|(client_id, _)| client_id.to_owned()).collect(),
            );
            RegistrationSecret::Stray { secret: StoredSecret::new(secret), client_ids }
        }
        Some(secret) => match Registration::from_data(&SecretData::of(&secret)) {
            Ok(registration) => {
                RegistrationSecret::Held { secret: StoredSecret::new(secret), registration: Box::new(registration) }
            }
            Err(key) => RegistrationSecret::Unreadable { secret: StoredSecret::new(secret), flaw: Flaw::Key(key) },
        },
    }
}

//! Everything that a decision about a client needs, gathered once.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    hash::{Hash, Hasher},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, ResourceExt};

use super::{
    attempt::{Attempt, SETTLED},
    metadata,
    registration::{self, Registration, RegistrationSecret, StoredSecret},
};
use crate::{
    api::{DcrPolicy, OAuthClient, TokenProfile, annotations},
    context::Context,
    kubernetes::{self, SecretData},
    policy::{self, Older},
    token_profile,
};

/// A client and all that bears on it.
#[derive(Clone, Debug)]
pub struct Observed {
    pub client: OAuthClient,
    pub profile: Option<TokenProfile>,
    /// Of the client's namespace.
    pub namespace_labels: BTreeMap<String, String>,
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
    /// No call to the server before this time: the last one failed with these inputs.
    pub not_before: Option<Timestamp>,
    /// An id for an attempt, should one be due.
    pub attempt_id: String,
    pub deletion_timeout: Duration,
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

/// What a step has changed.
#[derive(Debug)]
pub enum Change {
    /// The client is registered, and that is kept.
    Registered {
        client: Box<OAuthClient>,
        secret: StoredSecret,
        registration: Box<Registration>,
    },
    /// The registration is updated, and that is kept.
    Updated {
        secret: StoredSecret,
        registration: Box<Registration>,
    },
    /// The application's Secret is as it should be.
    SecretApplied {
        secret: StoredSecret,
        data: SecretData,
    },
    /// The application's Secret is gone: it will be made anew with another type.
    SecretRemoved,
    FormerSecretRemoved,
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
            Change::Registered { client, secret, registration } => {
                self.client = *client;
                self.registration = RegistrationSecret::Held { secret, registration };
            }
            Change::Updated { secret, registration } => {
                self.registration = RegistrationSecret::Held { secret, registration };
            }
            Change::SecretApplied { secret, data } => self.secret = ApplicationSecret::Ours { secret, data },
            Change::SecretRemoved => self.secret = ApplicationSecret::Absent,
            Change::FormerSecretRemoved => self.former_secret = None,
            Change::ClientWritten(client) | Change::Released(client) => self.client = *client,
            Change::RegistrationRemoved => self.registration = RegistrationSecret::Absent,
        }
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
        self.client.annotations().get(annotations::RECONCILE).hash(&mut hasher);
        if let Some(profile) = &self.profile {
            (profile.uid(), profile.metadata.generation).hash(&mut hasher);
            profile.status.as_ref().and_then(|status| status.registration_endpoint.as_ref()).hash(&mut hasher);
        }
        hasher.finish()
    }

    /// What a delay is about: new inputs are tried at once.
    #[must_use]
    pub fn backoff_inputs(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.refusal_inputs(), self.client.metadata.generation).hash(&mut hasher);
        self.client.metadata.deletion_timestamp.is_some().hash(&mut hasher);
        self.profile.as_ref().map(token_profile::is_ready).hash(&mut hasher);
        hasher.finish()
    }

    /// The attempt whose outcome nobody knows, unless the status lists it already.
    #[must_use]
    pub fn unreported_attempt(&self) -> Option<Attempt> {
        let status = self.client.status.as_ref();
        let listed = status.map_or(&[][..], |status| &status.possible_orphans);
        // Known, and taken care of.
        if status.is_some_and(|status| status.client_id.is_some()) {
            return None;
        }
        Attempt::last(&self.client).filter(|attempt| {
            let kept = match &self.registration {
                RegistrationSecret::Held { registration, .. } => registration.attempt == attempt.id,
                // Ours, and spoilt by somebody: its attempt was finished, or it would not be there.
                RegistrationSecret::Unreadable { .. } => true,
                RegistrationSecret::Absent | RegistrationSecret::Foreign => false,
            };
            attempt.ended.is_none() && !kept && !listed.iter().any(|orphan| orphan.attempt == attempt.id)
        })
    }
}

/// Reads what the decision needs; writes nothing.
///
/// # Errors
/// If a Secret can't be read: without it nothing can be decided.
pub async fn observe(context: &Context, client: OAuthClient) -> Result<Observed, kubernetes::Error> {
    let namespace = client.namespace().unwrap_or_default();
    let reference = &client.spec.profile_ref;
    let profile_namespace = reference.namespace.as_deref().unwrap_or(&namespace);
    let namespace_labels = context.namespace_labels(&namespace);
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

    let mut observed = Observed {
        profile: context.profiles.get(profile_namespace, &reference.name),
        namespace_labels,
        namespace_is_terminating: context.namespace_is_terminating(&namespace),
        policies,
        older,
        registration: registration_secret(registration, &uid),
        secret: match secret {
            None => ApplicationSecret::Absent,
            Some(secret) if !is_for_application(&secret, &uid) => ApplicationSecret::Foreign,
            Some(secret) => {
                ApplicationSecret::Ours { data: SecretData::of(&secret), secret: StoredSecret::new(secret) }
            }
        },
        former_secret: former_secret.filter(|secret| is_for_application(secret, &uid)).map(StoredSecret::new),
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
        Some(secret) if secret.type_.as_deref() != Some(registration::SECRET_TYPE) || !is_ours(&secret, uid) => {
            RegistrationSecret::Foreign
        }
        Some(secret) => match Registration::from_data(&SecretData::of(&secret)) {
            Ok(registration) => {
                RegistrationSecret::Held { secret: StoredSecret::new(secret), registration: Box::new(registration) }
            }
            Err(key) => RegistrationSecret::Unreadable { secret: StoredSecret::new(secret), key },
        },
    }
}

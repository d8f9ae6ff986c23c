//! What to do about a client. Pure: the clock is an argument, and nothing here calls anything.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::{
    accept::{accept, is_refused},
    attempt::Attempt,
    metadata::{self, Document},
    observe::{ApplicationSecret, Observed},
    registration::{Registration, RegistrationSecret},
    secret,
};
use crate::{
    api::{DeletionPolicy, FINALIZER, OPERATOR, TokenProfile, annotations, conditions, labels, reasons},
    dcr::{ServerMetadata, UpdateSemantics, update_document},
    kubernetes::{Finding, Precondition, SecretSpec, condition},
    token_profile,
};

/// One effect.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Persist the intent, register the client once, persist the answer.
    Register { attempt: Attempt, document: Document },
    /// Change the registration (RFC 7592 section 2.2): `body` is sent so that the client becomes what `document` asks for.
    Update { document: Document, body: Document },
    /// Put the finalizer back: without it, a deletion would pass the operator by.
    RestoreFinalizer,
    /// Write the application's Secret.
    ApplySecret { secret: SecretSpec, precondition: Precondition },
    /// Remove the application's Secret, to make it anew: the type of a Secret can't be changed.
    RemoveSecret,
    /// Remove the Secret that the spec no longer names.
    RemoveFormerSecret,
    /// Write down that the server may hold a client that nobody knows.
    ReportPossibleOrphan { attempt: Attempt },
    /// Remove the client on the server (RFC 7592 section 2.3).
    Deregister,
    /// Tell people that the client stays on the server.
    ReportOrphan { client_id: String, why: String },
    /// Tell people that the client stays on the server because the spec says so.
    ReportRetained { client_id: String },
    /// Remove the registration Secret.
    RemoveRegistration,
    /// Remove the finalizer.
    Release,
}

const ANOTHER_NAME: &str = "choose another spec.secret.name";

impl Step {
    /// Whether it calls the authorization server.
    #[must_use]
    pub fn calls_the_server(&self) -> bool {
        matches!(self, Self::Register { .. } | Self::Update { .. } | Self::Deregister)
    }

    /// For the log.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Register { .. } => "Register",
            Self::Update { .. } => "Update",
            Self::RestoreFinalizer => "RestoreFinalizer",
            Self::ApplySecret { .. } => "ApplySecret",
            Self::RemoveSecret => "RemoveSecret",
            Self::RemoveFormerSecret => "RemoveFormerSecret",
            Self::ReportPossibleOrphan { .. } => "ReportPossibleOrphan",
            Self::Deregister => "Deregister",
            Self::ReportOrphan { .. } => "ReportOrphan",
            Self::ReportRetained { .. } => "ReportRetained",
            Self::RemoveRegistration => "RemoveRegistration",
            Self::Release => "Release",
        }
    }
}

/// The next step, or, if there is none, what there is to say until something changes.
#[derive(Debug, PartialEq)]
pub struct Plan {
    pub step: Option<Step>,
    pub accepted: Finding,
    pub registered: Finding,
    pub in_sync: Finding,
    pub secret_synced: Finding,
    /// Only a change by somebody can help.
    pub stalled: bool,
    /// Look again after this time, if nothing happens before.
    pub requeue_after: Option<Duration>,
}

/// Decides.
#[must_use]
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    if observed.client.meta().deletion_timestamp.is_some() {
        return deletion(observed, now);
    }
    let mut plan = Plan::unchanged(observed);
    if is_suspended(observed) {
        return plan;
    }
    let document = metadata::document(&observed.client.spec);
    plan.accepted = accept(observed, &document);
    plan.stalled = is_refused(&plan.accepted);
    match &observed.registration {
        RegistrationSecret::Held { registration, .. } => plan.maintain(observed, registration, document.ok(), now),
        RegistrationSecret::Absent => plan.enroll(observed, document.ok(), now),
        RegistrationSecret::Foreign => {
            let secret = super::registration::secret_name(observed.name());
            plan.conflict(&secret, "give the OAuthClient another name");
        }
        RegistrationSecret::Unreadable { key, .. } => {
            let secret = super::registration::secret_name(observed.name());
            plan.lose(format!(
                "key {key:?} of Secret {secret} is missing or spoilt, and with it the access to the registration; restore the Secret from a backup, or delete the OAuthClient and create it again"
            ));
        }
    }
    plan
}

/// `spec.suspend`, or the annotation for emergencies.
#[must_use]
pub fn is_suspended(observed: &Observed) -> bool {
    let paused = observed.client.annotations().get(annotations::PAUSED).map(String::as_str) == Some("true");
    observed.client.spec.suspend || paused
}

impl Plan {
    /// Nothing to do, and nothing new to say.
    fn unchanged(observed: &Observed) -> Self {
        Self {
            step: None,
            accepted: said(observed, conditions::ACCEPTED),
            registered: said(observed, conditions::REGISTERED),
            in_sync: said(observed, conditions::IN_SYNC),
            secret_synced: said(observed, conditions::SECRET_SYNCED),
            stalled: false,
            requeue_after: None,
        }
    }

    /// There is no registration yet.
    fn enroll(&mut self, observed: &Observed, document: Option<Document>, now: Timestamp) {
        let status = observed.client.status.as_ref();
        if let Some(client_id) = status.and_then(|status| status.client_id.as_ref()) {
            let secret = super::registration::secret_name(observed.name());
            self.lose(format!(
                "Secret {secret} is gone, and with it the access to the registration of client {client_id}; restore the Secret from a backup, or delete the OAuthClient and create it again"
            ));
            return;
        }
        self.in_sync = Finding::unknown(reasons::NOT_COMPARED, "there is no registration yet");
        self.secret_synced = Finding::unknown(reasons::PROGRESSING, "there are no credentials yet");
        if matches!(observed.secret, ApplicationSecret::Foreign) {
            self.registered = Finding::unknown(reasons::PROGRESSING, "not tried: the credentials could not be stored");
            self.conflict(observed.secret_name(), ANOTHER_NAME);
            return;
        }
        // The watch on namespaces may lag behind what the last attempt has met.
        let ended = Attempt::last(&observed.client).and_then(|attempt| attempt.ended);
        if observed.namespace_is_terminating
            || ended.as_ref().is_some_and(|ended| ended.reason == reasons::NAMESPACE_TERMINATING)
        {
            let message = "the namespace is being deleted: there is nowhere to keep credentials";
            self.registered = Finding::unknown(reasons::NAMESPACE_TERMINATING, format!("not tried: {message}"));
            self.secret_synced = Finding::no(reasons::NAMESPACE_TERMINATING, message);
            return;
        }
        self.require_profile(observed);
        let Some(document) = document.filter(|_| self.accepted.is_true()) else {
            self.registered = Finding::unknown(&self.accepted.reason, format!("not tried: {}", self.accepted.message));
            return;
        };

        if let Some(attempt) = observed.unreported_attempt() {
            self.step = Some(Step::ReportPossibleOrphan { attempt });
            return;
        }
        if let Some(ended) = ended.filter(|ended| ended.refused_inputs == Some(observed.refusal_inputs())) {
            self.registered = Finding::no(&ended.reason, ended.message);
            self.stalled = true;
            return;
        }
        if self.waits(observed, now) {
            return;
        }
        self.registered = Finding::unknown(reasons::PROGRESSING, "registering");
        let attempt = Attempt {
            id: observed.attempt_id.clone(),
            started_at: now,
            uid: observed.client.uid().unwrap_or_default(),
            ended: None,
        };
        self.step = Some(Step::Register { attempt, document });
    }

    /// The client is registered.
    fn maintain(
        &mut self,
        observed: &Observed,
        registration: &Registration,
        document: Option<Document>,
        now: Timestamp,
    ) {
        let client_id = &registration.information.client_id;
        self.registered = Finding::yes(reasons::REGISTERED, format!("registered as client {client_id}"));

        if !has_finalizer(observed) {
            self.step = Some(Step::RestoreFinalizer);
            return;
        }
        // Credentials first: workloads wait for them.
        self.step = self.secret(observed, registration);
        if self.step.is_some() {
            return;
        }

        let Some(document) = document else {
            self.in_sync = Finding::no(&self.accepted.reason, "the client stays as it is registered");
            return;
        };
        if document.0 == registration.request {
            let changes = metadata::server_changes(&registration.request, &registration.information.metadata);
            self.in_sync = if changes.is_empty() {
                Finding::yes(reasons::IN_SYNC, "the server has registered what the spec asks for")
            } else {
                let names: Vec<&str> = changes.iter().map(|change| change.name.as_str()).collect();
                let message =
                    format!("the server has registered other values of {}; see status.serverChanges", names.join(", "));
                Finding::yes(reasons::METADATA_REPLACED, message)
            };
            return;
        }
        if registration.management().is_none() {
            self.in_sync = Finding::no(
                reasons::UPDATE_UNSUPPORTED,
                format!(
                    "the server gave no registration access token for client {client_id}, so it can't be changed; the credentials stay valid for what is registered. Revert the spec, or delete the OAuthClient and create it again for a new client"
                ),
            );
            self.stalled = true;
            return;
        }
        self.require_profile(observed);
        if !self.accepted.is_true() {
            self.in_sync = Finding::no(&self.accepted.reason, "the client stays as it is registered");
            return;
        }
        if self.waits(observed, now) {
            let said = said(observed, conditions::REGISTERED);
            if said.reason == reasons::REGISTRATION_LOST {
                self.registered = said;
            }
            return;
        }
        let body =
            update_document(&registration.information, &registration.request, &document.0, UpdateSemantics::Replace);
        self.in_sync = Finding::unknown(reasons::PROGRESSING, "updating");
        self.step = Some(Step::Update { document, body: Document(body) });
    }

    /// The next step towards the application's Secret.
    fn secret(&mut self, observed: &Observed, registration: &Registration) -> Option<Step> {
        let spec = &observed.client.spec.secret;
        let name = observed.secret_name();
        let server = observed.profile.as_ref().and_then(server_metadata);
        let server = server.as_ref().unwrap_or(&registration.server.metadata);
        let data = secret::data(spec.format, registration, server);
        let wanted_labels = secret_labels(observed.name());
        let precondition = match &observed.secret {
            ApplicationSecret::Foreign => {
                self.conflict(name, ANOTHER_NAME);
                return None;
            }
            ApplicationSecret::Absent => Precondition::Absent,
            ApplicationSecret::Ours { secret, .. } if secret.0.type_.as_deref() != Some(spec.type_.as_str()) => {
                return Some(Step::RemoveSecret);
            }
            ApplicationSecret::Ours { secret, data: live } => {
                let as_wanted = live.contains(&data)
                    && owned_keys(&secret.0).is_none_or(|owned| owned.iter().all(|key| data.get(key).is_some()))
                    && wanted_labels.iter().all(|(key, value)| secret.0.labels().get(key) == Some(value));
                if as_wanted {
                    self.secret_synced = Finding::yes(reasons::SECRET_SYNCED, format!("Secret {name} is up to date"));
                    return observed.former_secret.is_some().then_some(Step::RemoveFormerSecret);
                }
                Precondition::Unchanged(secret.0.resource_version().unwrap_or_default())
            }
        };
        self.secret_synced = Finding::unknown(reasons::PROGRESSING, format!("writing Secret {name}"));
        let secret = SecretSpec {
            namespace: observed.namespace().to_owned(),
            name: name.to_owned(),
            type_: spec.type_.clone(),
            labels: wanted_labels,
            owner: observed.client.controller_owner_ref(&()).unwrap_or_default(),
            finalizer: None,
            data,
        };
        Some(Step::ApplySecret { secret, precondition })
    }

    /// A call is due, and the profile must be ready for it.
    fn require_profile(&mut self, observed: &Observed) {
        let Some(profile) = observed.profile.as_ref().filter(|_| self.accepted.is_true()) else { return };
        if token_profile::is_ready(profile) {
            return;
        }
        let name = observed.profile_name();
        let ready = profile.status.as_ref().and_then(|status| condition(&status.conditions, conditions::READY));
        let why = match ready {
            _ if profile.spec.suspend => "it is suspended".to_owned(),
            Some(ready) if ready.status == "False" => format!("{}: {}", ready.reason, ready.message),
            _ => "it has not been looked at yet".to_owned(),
        };
        self.accepted =
            Finding::unknown(reasons::PROFILE_NOT_READY, format!("TokenProfile {name} is not ready: {why}"));
    }

    /// Whether the last call failed and it is too early for the next one.
    fn waits(&mut self, observed: &Observed, now: Timestamp) -> bool {
        let Some(not_before) = observed.not_before.filter(|not_before| *not_before > now) else { return false };
        self.stalled = not_before == Timestamp::MAX;
        self.requeue_after = (!self.stalled).then(|| until(now, not_before));
        true
    }

    fn conflict(&mut self, secret: &str, way_out: &str) {
        self.secret_synced = Finding::no(
            reasons::SECRET_CONFLICT,
            format!(
                "there is a Secret {secret} that does not belong to this OAuthClient; it is not touched. Remove it, or {way_out}"
            ),
        );
        // The other Secret is not watched.
        self.requeue_after = Some(Duration::from_secs(30));
    }

    fn lose(&mut self, message: String) {
        self.registered = Finding::no(reasons::REGISTRATION_LOST, message);
        self.stalled = true;
    }
}

/// The OAuthClient is going away. Needs no valid spec, no policy and, with `Retain`, no server.
fn deletion(observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::unchanged(observed);
    let holds = matches!(observed.registration, RegistrationSecret::Held { .. });
    if !has_finalizer(observed) && !holds {
        return plan;
    }
    let RegistrationSecret::Held { registration, .. } = &observed.registration else {
        let known = observed.client.status.as_ref().and_then(|status| status.client_id.clone());
        let retained = observed.client.spec.deletion_policy == DeletionPolicy::Retain;
        plan.step = Some(match (observed.unreported_attempt(), known) {
            (Some(attempt), _) => Step::ReportPossibleOrphan { attempt },
            (None, Some(client_id)) if !observed.is_settled() && !retained => {
                let secret = super::registration::secret_name(observed.name());
                Step::ReportOrphan {
                    client_id,
                    why: format!("Secret {secret} is gone or spoilt, and with it the access to it"),
                }
            }
            _ if matches!(observed.registration, RegistrationSecret::Unreadable { .. }) => Step::RemoveRegistration,
            _ => Step::Release,
        });
        return plan;
    };
    if observed.is_settled() {
        plan.step = Some(Step::RemoveRegistration);
        return plan;
    }
    let client_id = registration.information.client_id.clone();
    let orphan = |why: &str| Some(Step::ReportOrphan { client_id: client_id.clone(), why: why.to_owned() });
    let asked_at = observed.client.meta().deletion_timestamp.as_ref().map_or(now, |time| time.0);
    let forced = observed.client.annotations().get(annotations::FORCE_DELETE).map(String::as_str) == Some("true");
    plan.step = if forced {
        orphan("its deletion was forced by annotation")
    } else if observed.client.spec.deletion_policy == DeletionPolicy::Retain {
        Some(Step::ReportRetained { client_id: client_id.clone() })
    } else if registration.management().is_none() {
        orphan("the server gave no registration access token for it")
    } else if until(asked_at, now) >= observed.deletion_timeout {
        let why = said(observed, conditions::REGISTERED).message;
        orphan(&format!("the server did not remove it in time ({why})"))
    } else {
        // Not earlier than the backoff says, and not later than the time-out.
        match observed.not_before.filter(|not_before| *not_before > now) {
            Some(not_before) => {
                let left = observed.deletion_timeout.saturating_sub(until(asked_at, now));
                plan.requeue_after = Some(until(now, not_before).min(left));
                None
            }
            None => Some(Step::Deregister),
        }
    };
    plan
}

fn has_finalizer(observed: &Observed) -> bool {
    observed.client.finalizers().iter().any(|finalizer| finalizer == FINALIZER)
}

/// The server's endpoints as the profile's status has them.
#[must_use]
pub fn server_metadata(profile: &TokenProfile) -> Option<ServerMetadata> {
    let status = profile.status.clone()?;
    status.registration_endpoint.as_ref()?;
    Some(ServerMetadata {
        issuer: status.issuer.unwrap_or_default(),
        token_endpoint: status.token_endpoint,
        registration_endpoint: status.registration_endpoint,
        authorization_endpoint: status.authorization_endpoint,
        jwks_uri: status.jwks_uri,
        userinfo_endpoint: status.userinfo_endpoint,
    })
}

/// The labels of every Secret that the operator makes.
#[must_use]
pub fn secret_labels(client: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(labels::MANAGED_BY.into(), OPERATOR.into()), (labels::CLIENT.into(), client.into())])
}

/// The data keys that we have written, as the Secret's managed fields have it.
fn owned_keys(secret: &k8s_openapi::api::core::v1::Secret) -> Option<Vec<String>> {
    let entries = secret.metadata.managed_fields.as_ref()?;
    let ours = entries
        .iter()
        .find(|entry| entry.manager.as_deref() == Some(OPERATOR) && entry.operation.as_deref() == Some("Apply"))?;
    let data = ours.fields_v1.as_ref()?.0.get("f:data")?.as_object()?;
    Some(data.keys().filter_map(|key| key.strip_prefix("f:")).map(str::to_owned).collect())
}

/// What the condition has said so far.
fn said(observed: &Observed, type_: &str) -> Finding {
    let conditions = observed.client.status.as_ref().map_or(&[][..], |status| &status.conditions);
    condition(conditions, type_)
        .map_or_else(|| Finding::unknown(reasons::PROGRESSING, "not looked at yet"), Finding::of)
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests;

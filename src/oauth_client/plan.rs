//! What to do about a client. Pure: the clock is an argument, and nothing here calls anything.

mod deletion;
mod granted;
mod publish;
mod registered;
mod schedule;
mod step;

use std::time::Duration;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

pub use self::{
    publish::secret_labels,
    step::{Cause, Purpose, Step},
};
use super::{
    accept::{accept, is_refused},
    attempt::Attempt,
    metadata::{self, Document},
    observe::{ApplicationSecret, Observed},
    registration::{Flaw, RegistrationSecret},
};
use crate::{
    api::{FINALIZER, ReplacementReason, TokenProfile, annotations, conditions, reasons},
    dcr::ServerMetadata,
    kubernetes::{Finding, condition},
    token_profile,
};

const ANOTHER_NAME: &str = "choose another spec.secret.name";

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
        return deletion::deletion(observed, now);
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
        // Somebody has removed it, and only the finalizer keeps it.
        RegistrationSecret::Stray { secret, .. } if secret.0.metadata.deletion_timestamp.is_some() => {
            plan.step = Some(Step::RemoveRegistration);
        }
        RegistrationSecret::Foreign | RegistrationSecret::Stray { .. } => {
            let secret = super::registration::secret_name(observed.name());
            plan.conflict(&secret, "give the OAuthClient another name");
        }
        RegistrationSecret::Unreadable { flaw, .. } => {
            let secret = super::registration::secret_name(observed.name());
            let known = observed.client.status.as_ref().and_then(|status| status.client_id.as_deref());
            let (flaw, ways) = match flaw {
                Flaw::Key(key) => (format!("key {key:?} of Secret {secret} is missing or spoilt"), ""),
                Flaw::OtherClient(other) => (
                    format!(
                        "Secret {secret} has been edited: it is about client {other}, and this OAuthClient's is {}",
                        known.unwrap_or_default()
                    ),
                    "or delete the Secret, which the TokenProfile's management client, if there is one, then makes anew; ",
                ),
            };
            plan.lose(format!(
                "{flaw}, and with it the access to the registration is gone; restore the Secret from a backup; {ways}or delete the OAuthClient and create it again"
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
        let known = status.and_then(|status| status.client_id.clone()).filter(|_| !observed.is_withdrawn());
        if known.is_none() {
            self.in_sync = Finding::unknown(reasons::NOT_COMPARED, "there is no registration yet");
            self.secret_synced = Finding::unknown(reasons::PROGRESSING, "there are no credentials yet");
        }
        if known.is_none() && matches!(observed.secret, ApplicationSecret::Foreign) {
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
        if let Some(attempt) = observed.unreported_attempt() {
            self.step = Some(Step::ReportPossibleOrphan { attempt });
            return;
        }
        let is_known = known.is_some();
        if let Some(client_id) = &known {
            let secret = super::registration::secret_name(observed.name());
            self.lose(format!(
                "Secret {secret} is gone, and with it the access to the registration of client {client_id}. Restore the Secret from a backup; or let a new client take its place with spec.replacement.when: [RegistrationLost]; or delete the OAuthClient and create it again"
            ));
            let may_replace = observed.may_replace(ReplacementReason::RegistrationLost);
            if !may_replace && (!observed.enrolls_by_manager() || observed.lost.is_some()) {
                return;
            }
        }
        self.require_profile(observed);
        let Some(document) = document.filter(|_| self.accepted.is_true()) else {
            if !is_known {
                self.registered =
                    Finding::unknown(&self.accepted.reason, format!("not tried: {}", self.accepted.message));
            }
            return;
        };
        if let Some(ended) = ended.filter(|ended| ended.refused_inputs == Some(observed.refusal_inputs())) {
            if ended.reason == reasons::POLICY_DENIED {
                self.accepted = Finding::no(reasons::POLICY_DENIED, ended.message.clone());
            }
            self.registered = Finding::no(&ended.reason, ended.message);
            self.stalled = true;
            return;
        }
        if self.waits(observed, now) {
            if is_known {
                self.registered = said(observed, conditions::REGISTERED);
            }
            return;
        }
        self.stalled = false;
        let document = metadata::for_server(document, &observed.server());
        match (known, &observed.client.spec.adopt) {
            // The management client reads it anew.
            (Some(client_id), _) if observed.enrolls_by_manager() && observed.lost.is_none() => {
                let registration_client_uri = status.and_then(|status| status.registration_client_uri.clone());
                self.adopt(observed, &client_id, registration_client_uri);
            }
            (None, Some(adopt)) => self.adopt(observed, &adopt.client_id, adopt.registration_client_uri.clone()),
            (known, _) => {
                if known.is_none() {
                    self.registered = Finding::unknown(reasons::PROGRESSING, "registering");
                }
                self.step = Some(Self::register(observed, document, known, now));
            }
        }
    }

    /// Takes over a client that exists on the server.
    fn adopt(&mut self, observed: &Observed, client_id: &str, registration_client_uri: Option<String>) {
        if let Some(other) = &observed.rival {
            self.registered = Finding::no(
                reasons::CLIENT_CONFLICT,
                format!("client {client_id} belongs to OAuthClient {other} already; a client has one owner"),
            );
            self.stalled = true;
            return;
        }
        if let Some(Err((reason, message))) = &observed.adoption {
            self.registered = Finding::no(reason, message.clone());
            // What is missing may appear without a label, and so without a word.
            self.requeue_after = Some(Duration::from_secs(30));
            return;
        }
        // Refused in this pass.
        if observed.lost.is_some() {
            return;
        }
        if !has_finalizer(observed) {
            self.step = Some(Step::AddFinalizer);
            return;
        }
        self.registered = Finding::unknown(reasons::PROGRESSING, "adopting");
        self.step = Some(Step::Adopt { client_id: client_id.to_owned(), registration_client_uri });
    }

    /// The step that registers a client, in place of another one if `supersedes` names it.
    fn register(observed: &Observed, document: Document, supersedes: Option<String>, now: Timestamp) -> Step {
        let attempt = Attempt {
            id: observed.attempt_id.clone(),
            started_at: now,
            uid: observed.uid().to_owned(),
            supersedes,
            ended: None,
        };
        let new_key = observed.client.spec.keys.as_ref().map(|keys| keys.algorithm);
        Step::Register { attempt, document, new_key }
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
        mtls_token_endpoint: status.mtls_token_endpoint,
        registration_endpoint: status.registration_endpoint,
        authorization_endpoint: status.authorization_endpoint,
        jwks_uri: status.jwks_uri,
        userinfo_endpoint: status.userinfo_endpoint,
    })
}

/// What the condition has said so far.
pub fn said(observed: &Observed, type_: &str) -> Finding {
    let conditions = observed.client.status.as_ref().map_or(&[][..], |status| &status.conditions);
    condition(conditions, type_)
        .map_or_else(|| Finding::unknown(reasons::PROGRESSING, "not looked at yet"), Finding::of)
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests;

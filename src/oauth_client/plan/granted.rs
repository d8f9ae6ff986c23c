//! What the server has registered may be more than was asked for, and more than the policies allow (RFC 7591
//! section 3.2.1). Then nobody gets the credentials before the registration is narrowed down, or gone again.

use jiff::Timestamp;

use super::{Cause, Plan, Step, said};
use crate::{
    api::{conditions, reasons},
    kubernetes::Finding,
    oauth_client::{
        accept::LONGEST_MESSAGE,
        attempt::Attempt,
        metadata::Document,
        observe::{ApplicationSecret, Observed},
        registration::{Origin, Registration},
    },
    policy::{self, Granted},
    token_profile,
};

const MORE: &str = "the server has registered more than it was asked for: ";

impl Plan {
    /// Whether the credentials may be published. If not, the plan says what is done instead.
    ///
    /// A client whose credentials are out already, or that was adopted, keeps them, whatever the policies have come to say.
    pub(super) fn allows(&mut self, observed: &Observed, registration: &Registration, now: Timestamp) -> bool {
        let information = &registration.information;
        let seen = |metadata| Granted {
            profile: &observed.client.spec.profile_ref.name,
            namespace_labels: &observed.namespace_labels,
            metadata,
        };
        let verdict = policy::granted(&observed.policies, seen(&information.metadata));
        if verdict.is_allowed() {
            return true;
        }
        let status = observed.client.status.as_ref();
        // A narrowing that failed has left its word there.
        let was_held_back = said(observed, conditions::SECRET_SYNCED).reason == reasons::POLICY_DENIED;
        let is_in_secret = matches!(&observed.secret, ApplicationSecret::Ours { data, .. }
            if data.keys().any(|key| data.text(key) == Some(&information.client_id)));
        let is_known = status.and_then(|status| status.client_id.as_ref()) == Some(&information.client_id);
        let is_published = is_in_secret || is_known && !was_held_back;
        // Bounded: it goes to conditions, and to an annotation.
        let message = format!("{MORE}{}", policy::joined(&verdict.denied, LONGEST_MESSAGE - MORE.len()));
        if is_published || registration.history.origin == Origin::Adopted {
            if self.accepted.is_true() {
                self.accepted = Finding::no(reasons::POLICY_DENIED, message);
                self.stalled = true;
            }
            return true;
        }
        self.accepted = Finding::no(reasons::POLICY_DENIED, message.clone());
        self.secret_synced = Finding::unknown(
            reasons::POLICY_DENIED,
            "the credentials are not published: the policies forbid what was registered",
        );
        let narrowed = policy::narrowed(&observed.policies, seen(&information.metadata));
        let would_be_allowed = policy::granted(&observed.policies, seen(&narrowed)).is_allowed();
        let was_refused = Attempt::last(&observed.client)
            .and_then(|attempt| attempt.ended)
            .is_some_and(|ended| ended.refused_inputs == Some(observed.refusal_inputs()));
        let can_be_narrowed = would_be_allowed
            && !was_refused
            && !registration.history.is_narrowed
            && observed.lost.is_none()
            && !registration.access(observed.manages(&registration.information)).is_empty();
        if !observed.profile.as_ref().is_some_and(token_profile::is_ready) || self.waits(observed, now) {
            return false;
        }
        self.step = Some(if can_be_narrowed {
            let mut body = narrowed;
            body.insert("client_id".into(), information.client_id.clone().into());
            let document = Document(registration.request.clone().unwrap_or_default());
            Step::Update { document, body: Document(body), new_key: None, cause: Cause::Narrowing(message) }
        } else {
            Step::Withdraw { why: message }
        });
        false
    }
}

//! The client is registered: keep it as the spec says, and its credentials alive.

use std::time::Duration;

use jiff::Timestamp;
use kube::ResourceExt;

use super::{Plan, Step, has_finalizer, said, schedule, until};
use crate::{
    api::{ReplacementReason, ServerBehaviour, annotations, conditions, reasons},
    dcr::{self, update_document},
    kubernetes::Finding,
    oauth_client::{
        attempt::Attempt,
        metadata::{self, Document},
        observe::Observed,
        plan::step::{Cause, Purpose},
        registration::{Origin, Registration, ServerSnapshot},
    },
    token_profile,
};

/// A registration that is held, and what bears on it.
pub(super) struct Held<'a> {
    observed: &'a Observed,
    registration: &'a Registration,
    server: ServerBehaviour,
    /// There is something to make management calls with.
    is_manageable: bool,
    now: Timestamp,
}

impl Held<'_> {
    /// As far as we know.
    fn takes_updates(&self) -> bool {
        self.is_manageable && !self.observed.cannot_update
    }
}

/// What `InSync` says after an update that the server has refused.
const UPDATE_FAILED: [&str; 2] = [reasons::UPDATE_UNSUPPORTED, reasons::UPDATE_REJECTED];

/// Something about the credentials is due.
enum Renewal {
    /// New credentials: because they are old, because somebody asks, or because they end then.
    Credentials { ends: Option<Timestamp> },
    /// A new registration access token: the one in use ends then.
    Token { ends: Timestamp },
}

impl Plan {
    /// `document` is what the spec asks for; `None` if it is invalid, and the conditions say so.
    pub(super) fn maintain(
        &mut self,
        observed: &Observed,
        registration: &Registration,
        document: Option<Document>,
        now: Timestamp,
    ) {
        let client_id = &registration.information.client_id;
        self.registered = match registration.history.origin {
            Origin::Registered => Finding::yes(reasons::REGISTERED, format!("registered as client {client_id}")),
            Origin::Adopted => Finding::yes(reasons::ADOPTED, format!("client {client_id} was adopted")),
            Origin::Replaced => {
                Finding::yes(reasons::REPLACED, format!("registered as client {client_id}, in place of a former one"))
            }
        };
        if !has_finalizer(observed) {
            self.step = Some(Step::AddFinalizer);
            return;
        }
        if !self.allows(observed, registration, now) {
            return;
        }
        // Credentials first: workloads wait for them.
        self.step = self.publish(observed, registration).or_else(|| {
            let published = self.secret_synced.is_true();
            published.then(|| Self::restart(observed, registration)).flatten()
        });
        if self.step.is_some() {
            return;
        }
        // A replacement was under way when the operator died.
        if let Some(attempt) = observed.unreported_attempt() {
            self.step = Some(Step::ReportPossibleOrphan { attempt });
            return;
        }
        let server = observed.server();
        let held = Held {
            observed,
            registration,
            is_manageable: !registration.access(observed.manages(&registration.information)).is_empty(),
            now,
            server,
        };
        let wanted = document.map(|document| {
            let live = registration.keys.live(now);
            let document = metadata::for_server(document, &held.server);
            if observed.client.spec.keys.is_some() { live.laid_into(document) } else { document }
        });
        self.tend(&held, wanted);
        self.retire(&held);
    }

    /// What is due for the client itself: the first of its needs.
    fn tend(&mut self, held: &Held<'_>, wanted: Option<Document>) {
        let Held { observed, registration, now, .. } = held;
        if let Some(message) = &observed.lost {
            self.recover(held, wanted, message);
            return;
        }
        if let Some(former) = observed.former_server(registration) {
            self.follow(held, wanted, former);
            return;
        }
        self.compare_with_spec(held, wanted.as_ref());
        self.call(held, wanted);
        match registration.secret_ends().filter(|_| self.step.is_none()) {
            Some(ends) if ends <= *now => {
                let why = if ends <= registration.history.credentials_issued_at {
                    "the server says that it ended before it was issued; client_secret_expires_at is a time in seconds since 1970"
                } else {
                    self.in_sync.message.as_str()
                };
                self.registered = Finding::no(
                    reasons::SECRET_EXPIRED,
                    format!("the client secret has ended at {ends} and could not be renewed: {why}"),
                );
            }
            Some(ends) => self.wake(*now, ends),
            None => {}
        }
    }

    /// The management call that is due, if there is one and it may be made.
    fn call(&mut self, held: &Held<'_>, wanted: Option<Document>) {
        let Held { observed, now, .. } = held;
        // New credentials that nobody gets would end those that are out.
        if !self.secret_synced.is_true() || !self.may_call(observed) {
            return;
        }
        if self.waits(observed, *now) {
            self.keep_saying(observed);
            // The server has refused an update for good. What ends is another thing, unless keys are renewed by updates.
            let is_about_update = UPDATE_FAILED.contains(&self.in_sync.reason.as_str()) && self.registered.is_true();
            if self.stalled && is_about_update && observed.client.spec.keys.is_none() {
                self.renew_what_is_due(held, wanted.as_ref());
            }
            return;
        }
        // Lost as far as we know; the inputs are new, so look again.
        let was_lost = said(observed, conditions::REGISTERED).reason == reasons::REGISTRATION_LOST;
        if was_lost && held.is_manageable && observed.live.is_none() {
            self.step = Some(Step::Read { purpose: Purpose::Compare });
            return;
        }
        self.renew_what_is_due(held, wanted.as_ref());
        if self.step.is_none()
            && let Some(wanted) = wanted.filter(|_| self.accepted.is_true())
        {
            self.update(held, wanted);
        }
        if self.step.is_none() {
            self.compare_with_server(held);
        }
    }

    fn renew_what_is_due(&mut self, held: &Held<'_>, wanted: Option<&Document>) {
        // One that can't be had must not stand in the way of the next.
        for renewal in self.due_renewals(held) {
            if self.step.is_none() {
                self.renew(held, wanted.cloned(), &renewal);
            }
        }
    }

    /// The profile has come to describe another server. It may be the same one under another name: then it knows the
    /// token. At the same origin that would prove nothing.
    fn follow(&mut self, held: &Held<'_>, wanted: Option<Document>, former: &ServerSnapshot) {
        let Held { observed, registration, now, .. } = held;
        let client_id = &registration.information.client_id;
        self.in_sync = Finding::unknown(
            reasons::NOT_COMPARED,
            format!("the TokenProfile has come to describe another server than {}", former.name()),
        );
        if !self.may_call(observed) {
            return;
        }
        if self.waits(observed, *now) {
            self.keep_saying(observed);
            return;
        }
        if held.is_manageable && observed.left_at(client_id).is_some() {
            self.step = Some(Step::Read { purpose: Purpose::Compare });
            return;
        }
        let former = former.name();
        let message = format!(
            "client {client_id} was registered at {former}, and the TokenProfile has come to describe another server. Point it back at {former}; or let a new client take the place with spec.replacement.when: [RegistrationLost]; or delete the OAuthClient and create it again. Until then the Secret holds what is valid at {former}"
        );
        self.recover(held, wanted, &message);
    }

    /// How the registration relates to the spec.
    fn compare_with_spec(&mut self, held: &Held<'_>, wanted: Option<&Document>) {
        let Held { observed, registration, .. } = held;
        let registered = &registration.information.metadata;
        let Some(wanted) = wanted else {
            self.in_sync = Finding::no(&self.accepted.reason, "the client stays as it is registered");
            return;
        };
        let changes = metadata::server_changes(&wanted.0, registered);
        let names = || changes.iter().map(|change| change.name.as_str()).collect::<Vec<_>>().join(", ");
        self.in_sync = match &registration.request {
            Some(request) if *request != wanted.0 && !self.accepted.is_true() => {
                Finding::no(&self.accepted.reason, "the spec has changed, and the client stays as it is registered")
            }
            Some(request) if *request != wanted.0 => {
                Finding::unknown(reasons::PROGRESSING, "the spec has changed since the client was registered")
            }
            None if registered.is_empty() => Finding::unknown(
                reasons::NOT_COMPARED,
                "the client was adopted without management access: what is registered is not known",
            ),
            None if !changes.is_empty() => {
                Finding::no(reasons::DRIFTED, format!("the adopted client has other values of {}", names()))
            }
            _ if changes.is_empty() => {
                Finding::yes(reasons::IN_SYNC, "the server has registered what the spec asks for")
            }
            _ => {
                let message =
                    format!("the server has registered other values of {}; see status.serverChanges", names());
                Finding::yes(reasons::METADATA_REPLACED, message)
            }
        };
        if let Some(drift) = observed.live.as_ref().map(|live| &live.drift).filter(|drift| !drift.is_empty()) {
            self.in_sync =
                Finding::no(reasons::DRIFTED, format!("the server has other values of {}", drift.join(", ")));
        }
    }

    /// Whether the server may be called at all for this client now. Says so where a call is due.
    fn may_call(&mut self, observed: &Observed) -> bool {
        let permitted = self.accepted.is_true()
            || [reasons::POLICY_DENIED, reasons::INVALID_METADATA].contains(&self.accepted.reason.as_str());
        if !permitted {
            if !self.in_sync.is_true() {
                self.in_sync = Finding::no(&self.accepted.reason, "the client stays as it is registered");
            }
            return false;
        }
        if observed.profile.as_ref().is_some_and(token_profile::is_ready) {
            return true;
        }
        // Only what needs the profile now has to wait for it.
        if !self.in_sync.is_true() {
            self.require_profile(observed);
            if !self.accepted.is_true() {
                self.in_sync = Finding::no(&self.accepted.reason, "the client stays as it is registered");
            }
        }
        false
    }

    /// The last call has failed, and the next one has to wait: what is known stands.
    fn keep_saying(&mut self, observed: &Observed) {
        let (registered, in_sync) = (said(observed, conditions::REGISTERED), said(observed, conditions::IN_SYNC));
        if registered.reason == reasons::REGISTRATION_LOST || registered.reason == reasons::SECRET_EXPIRED {
            self.registered = registered;
        }
        if !in_sync.is_true() {
            self.in_sync = in_sync;
        }
    }

    /// The renewals that are due, the oldest first; the plan wakes up for the next.
    fn due_renewals(&mut self, held: &Held<'_>) -> Vec<Renewal> {
        let Held { observed, registration, server, now, .. } = held;
        let (spec, uid) = (&observed.client.spec, observed.uid());
        let history = &registration.history;
        let requested = observed.client.annotations().get(annotations::ROTATE);
        let is_requested = requested.is_some() && requested != history.handled_rotate_at.as_ref();
        let requested = is_requested.then_some((Timestamp::MIN, Renewal::Credentials { ends: None }));
        let interval = match &spec.keys {
            Some(keys) => keys.rotation_interval,
            None => spec.rotation.as_ref().map(|rotation| rotation.interval),
        };
        let issued = history.credentials_issued_at;
        let scheduled = interval
            .map(|interval| (schedule::rotation(issued, interval.into(), uid), Renewal::Credentials { ends: None }));
        let secret = registration
            .secret_ends()
            .filter(|ends| *ends > issued)
            .map(|ends| (schedule::renewal(issued, ends, uid), Renewal::Credentials { ends: Some(ends) }));
        // A management client does not depend on the token, and one without a place to use it can't be renewed.
        let token = registration
            .token_ends(server)
            .filter(|_| held.is_manageable && !observed.manages(&registration.information));
        let token = token.map(|ends| (schedule::renewal(history.token_issued_at, ends, uid), Renewal::Token { ends }));
        let mut all: Vec<_> = [requested, secret, token, scheduled].into_iter().flatten().collect();
        all.sort_by_key(|(at, _)| *at);
        if let Some((next, _)) = all.iter().find(|(at, _)| at > now) {
            self.wake(*now, *next);
        }
        all.into_iter().filter(|(at, _)| at <= now).map(|(_, renewal)| renewal).collect()
    }

    fn renew(&mut self, held: &Held<'_>, wanted: Option<Document>, renewal: &Renewal) {
        let Held { observed, registration, .. } = held;
        let rotates_by_reading =
            held.is_manageable && held.server.reading_rotates() && !registration.history.reading_keeps_secret;
        let spec = &observed.client.spec;
        match renewal {
            Renewal::Token { ends } if registration.history.renewal_keeps_token => {
                let why = "the server gave no new one when it was asked; a management client of the TokenProfile does without";
                self.in_sync = expiring("registration access token", *ends, why);
            }
            Renewal::Token { ends } if !rotates_by_reading && !held.takes_updates() => {
                self.in_sync = expiring("registration access token", *ends, &cant_update(held));
            }
            Renewal::Token { ends } if rotates_by_reading => {
                self.step = Some(Step::Read { purpose: Purpose::TokenRenewal { ends: *ends } });
            }
            Renewal::Token { ends } => {
                let request = registration.request.clone().map(Document).or(wanted);
                match request.filter(|_| self.accepted.is_true()) {
                    Some(document) => self.send_update(held, document, Cause::TokenRenewal { ends: *ends }),
                    None => self.in_sync = expiring("registration access token", *ends, &self.accepted.message),
                }
            }
            Renewal::Credentials { .. } if spec.keys.is_some() && !self.accepted.is_true() => {
                let Finding { reason, message, .. } = &self.accepted;
                self.in_sync =
                    Finding::no(reason, format!("the keys are due for rotation, and stay for now: {message}"));
            }
            Renewal::Credentials { .. } if spec.keys.is_some() => match wanted {
                Some(document) if held.takes_updates() => self.send_update(held, document, Cause::KeyRotation),
                wanted => self.replace(held, wanted, ReplacementReason::Rotation, || {
                    Finding::no(
                        reasons::UPDATE_UNSUPPORTED,
                        format!("the keys are due for rotation, {}", cant_update(held)),
                    )
                }),
            },
            Renewal::Credentials { .. } if registration.information.client_secret.is_none() => {
                self.in_sync =
                    Finding::no(reasons::UPDATE_UNSUPPORTED, "the client has no secret, so there is nothing to rotate");
                self.stalled = true;
            }
            Renewal::Credentials { ends } if rotates_by_reading => {
                self.step = Some(Step::Read { purpose: Purpose::Rotate { ends: *ends } });
            }
            Renewal::Credentials { ends } => {
                let wanted = wanted.filter(|_| self.accepted.is_true());
                self.replace(held, wanted, ReplacementReason::Rotation, || {
                    let why = "the server does not rotate it in place; a new client may take its place with spec.replacement.when: [Rotation]";
                    match ends {
                        Some(ends) => expiring("client secret", *ends, why),
                        None => Finding::no(
                            reasons::UPDATE_UNSUPPORTED,
                            format!("the client secret is due for rotation: {why}"),
                        ),
                    }
                });
            }
        }
    }

    /// The spec asks for something else, or the server has something else.
    fn update(&mut self, held: &Held<'_>, wanted: Document) {
        let Held { observed, registration, .. } = held;
        let drift = observed.live.as_ref().map(|live| live.drift.clone()).unwrap_or_default();
        let needs_key = observed
            .client
            .spec
            .keys
            .as_ref()
            .is_some_and(|keys| registration.keys.active().is_none_or(|active| active.algorithm != keys.algorithm));
        let cause = match &registration.request {
            Some(request) if *request == wanted.0 && drift.is_empty() && !needs_key => return,
            Some(request) if *request == wanted.0 && !needs_key => Cause::Drift(drift),
            None if registration.information.metadata.is_empty() && !held.is_manageable => return,
            None if metadata::server_changes(&wanted.0, &registration.information.metadata).is_empty() => return,
            _ => Cause::SpecChanged,
        };
        // First people see what there is, then it is changed.
        let is_told = observed.client.status.as_ref().and_then(|status| status.client_id.as_ref())
            == Some(&registration.information.client_id);
        if registration.request.is_none() && !is_told {
            self.requeue_after = Some(Duration::ZERO);
            return;
        }
        if held.takes_updates() {
            if self.was_refused(observed) {
                return;
            }
            self.send_update(held, wanted, cause);
            return;
        }
        self.replace(held, Some(wanted), ReplacementReason::UpdateUnsupported, || {
            Finding::no(
                reasons::UPDATE_UNSUPPORTED,
                format!(
                    "{}; the credentials stay valid for what is registered. Revert the spec, or let a new client take its place with spec.replacement.when: [UpdateUnsupported]",
                    cant_update(held)
                ),
            )
        });
    }

    fn send_update(&mut self, held: &Held<'_>, document: Document, cause: Cause) {
        let Held { observed, registration, now, server, .. } = held;
        let last = observed.live.as_ref().map_or(&registration.information, |live| &live.information);
        let previous = registration.request.clone().unwrap_or_default();
        let semantics =
            if server.updates_merge() { dcr::UpdateSemantics::Merge } else { dcr::UpdateSemantics::Replace };
        let body = Document(update_document(last, &previous, &document.0, semantics));
        let keys = observed.client.spec.keys.as_ref();
        let needs_key = keys.is_some_and(|keys| {
            let active = registration.keys.live(*now).active().map(|active| active.algorithm);
            cause == Cause::KeyRotation || active != Some(keys.algorithm)
        });
        let new_key = keys.filter(|_| needs_key).map(|keys| keys.algorithm);
        if !matches!(cause, Cause::Drift(_)) {
            self.in_sync = Finding::unknown(reasons::PROGRESSING, "updating");
        }
        self.step = Some(Step::Update { document, body, new_key, cause });
    }

    /// A new client takes the place of the one that is held, if the spec allows for it in this case.
    fn replace(
        &mut self,
        held: &Held<'_>,
        wanted: Option<Document>,
        reason: ReplacementReason,
        otherwise: impl FnOnce() -> Finding,
    ) {
        let Held { observed, registration, .. } = held;
        let is_allowed = observed.client.spec.replacement.as_ref().is_some_and(|r| r.when.contains(&reason));
        let Some(document) = wanted.filter(|_| is_allowed) else {
            self.in_sync = otherwise();
            self.stalled = true;
            return;
        };
        if self.was_refused(observed) {
            return;
        }
        let supersedes = Some(registration.information.client_id.clone());
        self.in_sync = Finding::unknown(reasons::PROGRESSING, "registering a new client in place of this one");
        self.step = Some(Self::register(observed, document, supersedes, held.now));
    }

    /// All that there is to manage the client with has been refused.
    fn recover(&mut self, held: &Held<'_>, wanted: Option<Document>, message: &str) {
        let wanted = wanted.filter(|_| self.accepted.is_true());
        let before = self.in_sync.clone();
        self.replace(held, wanted, ReplacementReason::RegistrationLost, || before);
        if self.step.is_none() {
            self.lose(message.to_owned());
        }
    }

    /// The server has refused the same before.
    fn was_refused(&mut self, observed: &Observed) -> bool {
        let ended = Attempt::last(&observed.client).and_then(|attempt| attempt.ended);
        let Some(ended) = ended.filter(|ended| ended.refused_inputs == Some(observed.refusal_inputs())) else {
            return false;
        };
        self.in_sync = Finding::no(&ended.reason, ended.message);
        self.stalled = true;
        true
    }

    /// Whether the server still has what it answered: looked at now and then, and on demand, where that changes nothing.
    fn compare_with_server(&mut self, held: &Held<'_>) {
        let Held { observed, server, now, .. } = held;
        // The operator died before the status could say so; the management client waits for it.
        let is_unconfirmed = observed.has_manager() && !observed.is_vouched_for(&held.registration.information);
        if is_unconfirmed && held.is_manageable && observed.live.is_none() && !server.reading_rotates() {
            self.step = Some(Step::Read { purpose: Purpose::Compare });
            return;
        }
        let interval: Duration = observed.resync_interval();
        if interval.is_zero() || !held.is_manageable || server.reading_rotates() {
            return;
        }
        let last = if observed.live.is_some() { *now } else { observed.compared_at };
        let next = schedule::comparison(last, interval, observed.uid());
        let asked = observed.client.annotations().get(annotations::RECONCILE);
        let handled = observed.client.status.as_ref().and_then(|status| status.last_handled_reconcile_at.as_ref());
        if observed.live.is_none() && (next <= *now || asked != handled) {
            self.step = Some(Step::Read { purpose: Purpose::Compare });
            return;
        }
        self.wake(*now, next);
    }

    /// Former clients whose time is up, and keys that are to leave the registration.
    fn retire(&mut self, held: &Held<'_>) {
        let Held { registration, now, .. } = held;
        // Without a published successor the workloads still use it.
        if !self.secret_synced.is_true() {
            return;
        }
        if let Some(end) = registration.keys.live(*now).next_end() {
            self.wake(*now, end);
        }
        let next = registration.retiring.iter().min_by_key(|former| former.delete_after);
        let Some(former) = next else { return };
        let at = if registration.retiring.len() > MOST_RETIRING { *now } else { former.delete_after };
        // What was refused for good was refused to the client in use.
        let not_before = held.observed.not_before.filter(|not_before| *not_before < Timestamp::MAX);
        let at = not_before.map_or(at, |not_before| at.max(not_before));
        if at > *now {
            self.wake(*now, at);
        } else if held.observed.status_lags() {
            self.requeue_after = Some(Duration::ZERO);
        } else if self.step.is_none() && held.observed.profile.as_ref().is_some_and(token_profile::is_ready) {
            self.step = Some(Step::Retire { client_id: former.information.client_id.clone() });
        }
    }

    /// Look again at that time, if nothing else happens before.
    fn wake(&mut self, now: Timestamp, at: Timestamp) {
        if at == Timestamp::MAX {
            return;
        }
        let delay = until(now, at);
        self.requeue_after = Some(self.requeue_after.map_or(delay, |other| other.min(delay)));
    }
}

/// More former clients than these are not kept beside the one in use; the oldest goes early.
const MOST_RETIRING: usize = 16;

fn cant_update(held: &Held<'_>) -> String {
    let client_id = &held.registration.information.client_id;
    if held.is_manageable {
        return format!("the server takes no updates, so client {client_id} can't be changed");
    }
    let manager = if held.observed.has_manager() {
        "the management client is used only for a client that the server has said to be this OAuthClient's (status.confirmed)"
    } else {
        "the profile has no management client"
    };
    format!(
        "the server gave no registration access token for client {client_id}, and {manager}, so it can't be changed"
    )
}

/// Something ends, and can't be renewed.
fn expiring(what: &str, ends: Timestamp, why: &str) -> Finding {
    let reason =
        if what == "client secret" { reasons::SECRET_EXPIRING } else { reasons::REGISTRATION_ACCESS_TOKEN_EXPIRING };
    Finding::no(reason, format!("the {what} ends at {ends} and is not renewed: {why}"))
}

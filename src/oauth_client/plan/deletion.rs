//! The OAuthClient is going away. Needs no valid spec, no policy and, with `Retain`, no server.

use std::time::Duration;

use jiff::Timestamp;
use kube::{Resource, ResourceExt};

use super::{Plan, Step, has_finalizer, said, until};
use crate::{
    api::{DeletionPolicy, annotations, conditions},
    oauth_client::{
        observe::Observed,
        registration::{self, Registration, RegistrationSecret},
    },
};

/// Decides.
pub(super) fn deletion(observed: &Observed, now: Timestamp) -> Plan {
    let mut plan = Plan::unchanged(observed);
    if let RegistrationSecret::Held { registration, .. } = &observed.registration {
        plan.let_go(observed, registration, now);
    } else if has_finalizer(observed) {
        plan.step = Some(without_registration(observed));
    }
    plan
}

impl Plan {
    fn let_go(&mut self, observed: &Observed, registration: &Registration, now: Timestamp) {
        // A replacement was under way: its client may be there as well.
        if let Some(attempt) = observed.unreported_attempt() {
            self.step = Some(Step::ReportPossibleOrphan { attempt });
            return;
        }
        if observed.is_settled() {
            self.step = Some(Step::RemoveRegistration);
            return;
        }
        if observed.status_lags() {
            self.requeue_after = Some(Duration::ZERO);
            return;
        }
        let client_id = registration.information.client_id.clone();
        let former: Vec<String> =
            registration.retiring.iter().map(|former| former.information.client_id.clone()).collect();
        let with_former = |own: Option<&String>| own.into_iter().chain(&former).cloned().collect::<Vec<_>>();
        if observed.client.annotations().get(annotations::FORCE_DELETE).map(String::as_str) == Some("true") {
            let why = "its deletion was forced by annotation".to_owned();
            self.step = Some(Step::ReportOrphan { client_ids: with_former(Some(&client_id)), why });
            return;
        }
        let asked_at = observed.client.meta().deletion_timestamp.as_ref().map_or(now, |time| time.0);
        let retained = observed.client.spec.deletion_policy == DeletionPolicy::Retain;
        let next = match former.first() {
            // Replaced already: nobody wants to retain it.
            Some(former) => Step::Retire { client_id: former.clone() },
            None if retained => Step::ReportRetained { client_id: client_id.clone() },
            None if registration.access(observed.manages(&registration.information)).is_empty() => Step::ReportOrphan {
                client_ids: vec![client_id.clone()],
                why: "the server gave no registration access token for it".into(),
            },
            None => Step::Deregister,
        };
        if next.calls_the_server() && until(asked_at, now) >= observed.deletion_timeout {
            let why = said(observed, conditions::REGISTERED).message;
            let why = format!("the server did not remove it in time ({why})");
            let own = Some(&client_id).filter(|_| !retained);
            self.step = Some(Step::ReportOrphan { client_ids: with_former(own), why });
            return;
        }
        // Not earlier than the backoff says, and not later than the time-out.
        match observed.not_before.filter(|not_before| next.calls_the_server() && *not_before > now) {
            Some(not_before) => {
                let left = observed.deletion_timeout.saturating_sub(until(asked_at, now));
                self.requeue_after = Some(until(now, not_before).min(left));
            }
            None => self.step = Some(next),
        }
    }
}

fn without_registration(observed: &Observed) -> Step {
    let status = observed.client.status.as_ref();
    let known: Vec<String> = status.map_or_else(Vec::new, |status| {
        let former = status.retiring.iter().map(|former| former.client_id.clone());
        let retained = observed.client.spec.deletion_policy == DeletionPolicy::Retain;
        status.client_id.clone().filter(|_| !retained).into_iter().chain(former).collect()
    });
    match observed.unreported_attempt() {
        Some(attempt) => Step::ReportPossibleOrphan { attempt },
        None if !known.is_empty() && !observed.is_settled() => {
            let secret = registration::secret_name(observed.name());
            Step::ReportOrphan {
                client_ids: known,
                why: format!("Secret {secret} is gone or spoilt, and with it the access to it"),
            }
        }
        None if matches!(
            observed.registration,
            RegistrationSecret::Unreadable { .. } | RegistrationSecret::Stray { .. }
        ) =>
        {
            Step::RemoveRegistration
        }
        None => Step::Release,
    }
}

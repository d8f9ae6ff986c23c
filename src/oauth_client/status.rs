//! The status of a client, from the facts, the plan and what failed. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    accept::permits,
    act::Error,
    metadata,
    observe::{ApplicationSecret, Observed},
    plan::{self, Plan, Step},
    registration::RegistrationSecret,
};
use crate::{
    api::{Binding, OAuthClientStatus, annotations, conditions, reasons},
    dcr::client_configuration_endpoint,
    kubernetes::{Finding, condition, merge},
    retry::Retry,
};

/// A step that failed, as the conditions tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The condition that it is about.
    pub about: &'static str,
    pub finding: Finding,
    pub stalled: bool,
}

impl Failure {
    #[must_use]
    pub fn new(step: &Step, error: &Error) -> Self {
        let about = match step {
            _ if error.reason() == reasons::REGISTRATION_LOST => conditions::REGISTERED,
            Step::Update { .. } => conditions::IN_SYNC,
            Step::ApplySecret { .. } | Step::RemoveSecret | Step::RemoveFormerSecret => conditions::SECRET_SYNCED,
            _ => conditions::REGISTERED,
        };
        let finding = match error {
            // A short outage says nothing about what is registered.
            Error::OutcomeUnknown { .. } => Finding::unknown(error.reason(), error.to_string()),
            _ if about == conditions::IN_SYNC && error.reason() == "ServerUnavailable" => {
                Finding::unknown(error.reason(), error.to_string())
            }
            _ if about == conditions::REGISTERED && error.reason() == reasons::REGISTRATION_LOST => {
                let message = format!(
                    "{error}: the client is gone on the server, or its registration access token is no longer valid; delete the OAuthClient and create it again for a new client"
                );
                Finding::no(error.reason(), message)
            }
            _ => Finding::no(error.reason(), error.to_string()),
        };
        Self { about, finding, stalled: error.retry() == Retry::OnChange }
    }
}

/// The status to write, if it differs from the one that is there.
#[must_use]
pub fn status(observed: &Observed, plan: &Plan, failure: Option<&Failure>, now: Timestamp) -> OAuthClientStatus {
    let client = &observed.client;
    let old = client.status.clone().unwrap_or_default();
    let generation = client.metadata.generation;

    let pick = |about: &'static str, planned: &Finding| {
        failure
            .filter(|failure| failure.about == about)
            .map_or_else(|| planned.clone(), |failure| failure.finding.clone())
    };
    let accepted = pick(conditions::ACCEPTED, &plan.accepted);
    let registered = pick(conditions::REGISTERED, &plan.registered);
    let in_sync = pick(conditions::IN_SYNC, &plan.in_sync);
    let secret_synced = pick(conditions::SECRET_SYNCED, &plan.secret_synced);

    let suspended = plan::is_suspended(observed) && client.metadata.deletion_timestamp.is_none();
    let ready = match [&registered, &secret_synced].into_iter().find(|finding| !finding.is_true()) {
        _ if suspended && old.conditions.is_empty() => Finding::unknown(reasons::SUSPENDED, "the client is suspended"),
        _ if suspended => condition(&old.conditions, conditions::READY)
            .map_or_else(|| Finding::unknown(reasons::SUSPENDED, "the client is suspended"), Finding::of),
        None => Finding::yes(reasons::READY, format!("Secret {} holds the credentials", observed.secret_name())),
        // What keeps the client from being registered is what people have to look at.
        Some(_) if !registered.is_true() && !accepted.is_true() => accepted.clone(),
        // A conflict keeps it from being registered, too.
        Some(_) if secret_synced.reason == reasons::SECRET_CONFLICT => secret_synced.clone(),
        Some(finding) => finding.clone(),
    };
    let settled = ready.is_true() && (in_sync.is_true() || in_sync.reason == reasons::NOT_COMPARED);
    let stalled = plan.stalled || failure.is_some_and(|failure| failure.stalled);
    let worst = || {
        let all = [&accepted, &registered, &secret_synced, &in_sync];
        all.into_iter().find(|finding| !finding.is_true()).unwrap_or(&ready).clone()
    };

    let mut findings = vec![(conditions::READY, ready.clone())];
    if suspended {
        // As it was: neither in progress nor failed.
    } else if stalled {
        let Finding { reason, message, .. } = worst();
        findings.push((conditions::STALLED, Finding::yes(&reason, message)));
    } else if !settled {
        findings.push((conditions::RECONCILING, Finding::yes(reasons::PROGRESSING_WITH_RETRY, worst().message)));
    }
    findings.extend([
        (conditions::ACCEPTED, accepted),
        (conditions::REGISTERED, registered),
        (conditions::IN_SYNC, in_sync),
        (conditions::SECRET_SYNCED, secret_synced.clone()),
    ]);

    let mut status = OAuthClientStatus {
        observed_generation: generation,
        conditions: merge(&old.conditions, findings, generation, now),
        last_handled_reconcile_at: if suspended {
            old.last_handled_reconcile_at.clone()
        } else {
            client.annotations().get(annotations::RECONCILE).cloned()
        },
        binding: match &observed.secret {
            ApplicationSecret::Ours { .. } if secret_synced.is_true() => {
                Some(Binding { name: observed.secret_name().to_owned() })
            }
            _ => old.binding.clone(),
        },
        ..old
    };
    if let RegistrationSecret::Held { registration, .. } = &observed.registration {
        let information = &registration.information;
        let time = |seconds: Option<i64>| {
            seconds.filter(|s| *s > 0).and_then(|seconds| Timestamp::from_second(seconds).ok()).map(Time)
        };
        status.client_id = Some(information.client_id.clone());
        status.client_id_issued_at = time(information.client_id_issued_at);
        status.client_secret_expires_at = time(information.client_secret_expires_at);
        status.server_changes = metadata::server_changes(&registration.request, &information.metadata);
        // An attempt that was thought lost, and whose answer was kept after all.
        status.possible_orphans.retain(|orphan| orphan.attempt != registration.attempt);
        // Only a profile that lets the client in says where its server is. When the profile is gone, this is what the
        // operator goes by; the Secret, which the application team can write, is not.
        let profile = observed.profile.as_ref();
        let profile = profile.filter(|profile| permits(profile, observed.namespace(), &observed.namespace_labels));
        if let Some(endpoint) = profile.and_then(|p| p.status.as_ref()).and_then(|s| s.registration_endpoint.as_deref())
        {
            let uri = information.registration_client_uri.as_deref();
            status.registration_client_uri = uri.and_then(|uri| client_configuration_endpoint(endpoint, uri).ok());
        }
    }
    status
}

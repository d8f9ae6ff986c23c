//! The status of a client, from the facts, the plan and what failed. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{
    accept::permits,
    act::Error,
    metadata,
    observe::{ApplicationSecret, Observed},
    ownership,
    plan::{self, Cause, Plan, Purpose, Step},
    registration::{RegistrationSecret, whole_seconds},
};
use crate::{
    api::{Binding, OAuthClientStatus, RetiringClient, annotations, conditions, reasons},
    dcr::{ClientInformation, client_configuration_endpoint},
    kubernetes::{Finding, condition, merge},
    retry::Retry,
};

/// The schema allows for no more.
const MOST_RETIRING: usize = 32;

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
        // The client that is there is not touched by what failed beside it.
        let beside = matches!(step, Step::Register { attempt, .. } if attempt.supersedes.is_some());
        let lost = error.reason() == reasons::REGISTRATION_LOST;
        let about = match step {
            Step::Read { .. } | Step::Update { .. } if !lost => conditions::IN_SYNC,
            Step::Register { .. } if beside => conditions::IN_SYNC,
            // Nor by what is left to do.
            Step::Retire { .. } | Step::ReportPossibleOrphan { .. } | Step::RestartWorkloads { .. } => {
                conditions::IN_SYNC
            }
            Step::ApplySecret { .. } | Step::RemoveSecret | Step::RemoveFormerSecret => conditions::SECRET_SYNCED,
            _ => conditions::REGISTERED,
        };
        let ends = match step {
            Step::Update { cause: Cause::TokenRenewal { ends }, .. }
            | Step::Read { purpose: Purpose::TokenRenewal { ends } } => {
                Some((reasons::REGISTRATION_ACCESS_TOKEN_EXPIRING, "registration access token", ends))
            }
            Step::Read { purpose: Purpose::Rotate { ends: Some(ends) } } => {
                Some((reasons::SECRET_EXPIRING, "client secret", ends))
            }
            _ => None,
        };
        let finding = match (error, ends) {
            (_, Some((reason, what, ends))) if !lost => {
                Finding::no(reason, format!("the {what} ends at {ends} and could not be renewed yet: {error}"))
            }
            // A short outage says nothing about what is registered.
            (Error::OutcomeUnknown { .. }, _) => Finding::unknown(error.reason(), error.to_string()),
            _ if about == conditions::IN_SYNC
                && [reasons::SERVER_UNAVAILABLE, reasons::KUBERNETES_UNAVAILABLE].contains(&error.reason()) =>
            {
                Finding::unknown(error.reason(), error.to_string())
            }
            (Error::Left { .. } | Error::SecretLost { .. }, _) => Finding::no(error.reason(), error.to_string()),
            _ if lost && matches!(step, Step::Adopt { .. }) => Finding::no(
                error.reason(),
                format!(
                    "{error}: there is no such client on the server, or the registration access token of spec.adopt.secretRef is not the client's"
                ),
            ),
            _ if lost => Finding::no(
                error.reason(),
                format!(
                    "{error}: the client is gone on the server, or its registration access token is no longer valid. Let a new client take its place with spec.replacement.when: [RegistrationLost]; or give the TokenProfile a server.managementClient; or delete the OAuthClient and create it again"
                ),
            ),
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

    // What is refused for good is handled; what is tried again is not yet.
    let is_tried_again = failure.is_some_and(|failure| !failure.stalled)
        || observed.not_before.is_some_and(|not_before| not_before > now && not_before != Timestamp::MAX);
    let mut status = OAuthClientStatus {
        observed_generation: generation,
        conditions: merge(&old.conditions, findings, generation, now),
        last_handled_reconcile_at: if suspended || is_tried_again {
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
        let server = observed.server();
        let information = &registration.information;
        let time = |seconds: Option<i64>| {
            seconds.filter(|s| *s > 0).and_then(|seconds| Timestamp::from_second(seconds).ok()).map(Time)
        };
        let said = client.status.as_ref();
        let is_confirmed =
            |id: &str| observed.has_heard_of(id) || said.is_some_and(|said| ownership::is_confirmed(said, id));
        status.client_id = Some(information.client_id.clone());
        status.confirmed = is_confirmed(&information.client_id);
        status.client_id_issued_at = time(information.client_id_issued_at);
        status.client_secret_expires_at = time(information.client_secret_expires_at);
        status.registration_access_token_expires_at = registration.token_ends(&server).map(whole_seconds).map(Time);
        // It says what workloads have been told of, too: so it comes after that.
        let is_told = secret_synced.is_true()
            && (client.spec.rollout_restart_targets.is_empty() || observed.workloads_are_restarted);
        if is_told || status.credentials_rotated_at.is_none() && registration.rotated_at().is_none() {
            status.credentials_rotated_at = registration.rotated_at().map(Time);
        }
        status.last_handled_rotate_at.clone_from(&registration.history.handled_rotate_at);
        // Of an adopted client, nothing has been asked for yet.
        let asked = registration.request.clone().or_else(|| {
            let document = metadata::document(&client.spec).ok()?;
            Some(metadata::for_server(document, &server).0)
        });
        status.server_changes = if information.metadata.is_empty() {
            Vec::new()
        } else {
            metadata::server_changes(&asked.unwrap_or_default(), &information.metadata)
        };
        // An attempt that was thought lost, and whose answer was kept after all.
        status.possible_orphans.retain(|orphan| orphan.attempt != registration.attempt);
        // Only a profile that lets the client in says where its server is. When the profile is gone, this is what the
        // operator goes by; the Secret, which the application team can write, is not.
        let profile = observed.profile.as_ref();
        let profile = profile.filter(|profile| permits(profile, observed.namespace(), &observed.namespace_labels));
        if let Some(endpoint) = profile.and_then(|p| p.status.as_ref()).and_then(|s| s.registration_endpoint.as_deref())
        {
            let resolved = |client: &ClientInformation| match observed.left_at(&client.client_id) {
                Some(_) => observed.known_uri(&client.client_id),
                None => client_configuration_endpoint(endpoint, client.registration_client_uri.as_ref()?).ok(),
            };
            status.registration_client_uri = resolved(information);
            status.retiring = registration
                .retiring
                .iter()
                .take(MOST_RETIRING)
                .map(|former| RetiringClient {
                    client_id: former.information.client_id.clone(),
                    confirmed: is_confirmed(&former.information.client_id),
                    registration_client_uri: resolved(&former.information),
                    delete_after: Time(whole_seconds(former.delete_after)),
                })
                .collect();
        } else {
            let held = |id: &str| registration.retiring.iter().any(|former| former.information.client_id == id);
            status.retiring.retain(|former| held(&former.client_id));
        }
    }
    if observed.is_withdrawn() {
        status.client_id = None;
        status.confirmed = false;
    }
    status
}

//! The status of a profile, from what was observed and planned. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{observe::Observed, plan::Plan};
use crate::{
    api::{TokenProfileStatus, conditions, reasons},
    kubernetes::{Finding, condition, merge},
};

/// The status to write, if it differs from the one that is there.
#[must_use]
pub fn status(observed: &Observed, plan: &Plan, now: Timestamp) -> TokenProfileStatus {
    let profile = &observed.profile;
    let old = profile.status.clone().unwrap_or_default();
    let generation = profile.metadata.generation;
    let types = [conditions::READY, conditions::DISCOVERY_RESOLVED, conditions::CREDENTIALS_VALID];
    if profile.spec.suspend {
        let unseen = || Finding::unknown(reasons::SUSPENDED, "the profile is suspended (spec.suspend)");
        let kept = |type_| (type_, condition(&old.conditions, type_).map_or_else(unseen, Finding::of));
        // As it was, whatever the spec has come to say.
        return TokenProfileStatus {
            observed_generation: generation,
            clients: Some(observed.clients),
            conditions: merge(&old.conditions, types.map(kept).into(), generation, now),
            ..old
        };
    }

    let endpoints = plan.endpoints.clone();
    // What keeps a call from being made says more than that it has not been made.
    let ready = [&plan.discovery, &plan.credentials]
        .into_iter()
        .filter(|finding| !finding.is_true())
        .min_by_key(|finding| finding.reason == reasons::PROGRESSING)
        .map_or_else(|| Finding::yes(reasons::READY, "clients can be registered"), Finding::clone);
    let mut findings: Vec<_> =
        types.into_iter().zip([ready.clone(), plan.discovery.clone(), plan.credentials.clone()]).collect();
    if plan.stalled {
        findings.push((conditions::STALLED, Finding::yes(&ready.reason, ready.message)));
    } else if !ready.is_true() {
        findings.push((conditions::RECONCILING, Finding::yes(reasons::PROGRESSING_WITH_RETRY, ready.message)));
    }

    TokenProfileStatus {
        observed_generation: generation,
        issuer: endpoints.issuer,
        token_endpoint: endpoints.token,
        mtls_token_endpoint: endpoints.mtls_token,
        registration_endpoint: endpoints.registration,
        authorization_endpoint: endpoints.authorization,
        jwks_uri: endpoints.jwks,
        userinfo_endpoint: endpoints.userinfo,
        initial_access_token_expires_at: plan.token_expires_at.map(Time),
        clients: Some(observed.clients),
        conditions: merge(&old.conditions, findings, generation, now),
    }
}

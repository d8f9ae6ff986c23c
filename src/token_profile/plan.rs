//! What to do about a profile. Pure.

use std::time::Duration;

use jiff::Timestamp;

use super::{
    connection::{Credential, Error},
    observe::{FailedStep, Failure, Observed},
};
use crate::{
    api::{TokenProfileSpec, reasons},
    dcr,
    kubernetes::Finding,
    retry::Retry,
};

/// A profile that is well is looked at again after this time: endpoints move, and clients lose their rights.
const RECHECK: Duration = Duration::from_hours(1);

/// One call to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Fetch the metadata of the issuer.
    Discover { issuer: String },
    /// Obtain an initial access token, to see that it can be had. It is not used.
    ObtainToken { token_endpoint: String },
}

/// The next call, or what there is to say until something changes.
#[derive(Debug, PartialEq)]
pub struct Plan {
    pub step: Option<Step>,
    pub endpoints: Resolved,
    pub discovery: Finding,
    pub credentials: Finding,
    /// When a token that was issued beforehand ends.
    pub token_expires_at: Option<Timestamp>,
    /// Only a change of the spec can help.
    pub stalled: bool,
    pub requeue_after: Option<Duration>,
}

/// The endpoints in use: given ones before discovered ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    pub issuer: Option<String>,
    pub token: Option<String>,
    pub mtls_token: Option<String>,
    pub registration: Option<String>,
    pub authorization: Option<String>,
    pub jwks: Option<String>,
    pub userinfo: Option<String>,
}

/// An endpoint that must not be used.
struct RefusedEndpoint {
    message: String,
    /// In the spec, so that only a change there can help.
    is_given: bool,
}

impl Resolved {
    /// The first endpoint that must not be used: it is told here, before a client or an application goes there.
    fn refused(&self, spec: &TokenProfileSpec, allow_insecure_http: bool) -> Option<RefusedEndpoint> {
        let given = spec.endpoints.as_ref();
        let overriding = |field| format!(", or set {field}");
        let named = [
            (
                &self.registration,
                "registration_endpoint",
                Some("spec.endpoints.registration"),
                given.is_some_and(|given| given.registration.is_some()),
            ),
            (
                &self.token,
                "token_endpoint",
                Some("spec.endpoints.token"),
                given.is_some_and(|given| given.token.is_some()),
            ),
            (&self.mtls_token, "mtls_endpoint_aliases.token_endpoint", Some("spec.endpoints.token"), false),
            (&self.authorization, "authorization_endpoint", None, false),
            (&self.jwks, "jwks_uri", None, false),
            (&self.userinfo, "userinfo_endpoint", None, false),
        ];
        named.into_iter().find_map(|(endpoint, member, field, is_given)| {
            let dcr::Error::InvalidEndpoint { endpoint, why } =
                dcr::check_endpoint(endpoint.as_ref()?, allow_insecure_http).err()?
            else {
                return None;
            };
            let message = match field.filter(|_| is_given) {
                Some(field) => format!("{field} {endpoint} is refused: {why}; write the https:// URL there"),
                None => format!(
                    "the {member} {endpoint} of the server's metadata is refused: {why}; have it corrected there{}",
                    field.map(overriding).unwrap_or_default()
                ),
            };
            Some(RefusedEndpoint { message, is_given })
        })
    }
}

/// Decides. The clock is an argument.
#[must_use]
pub fn plan(observed: &Observed, now: Timestamp) -> Plan {
    let spec = &observed.profile.spec;
    let finding = &observed.finding;
    let endpoints = resolve(observed);
    let refused = endpoints.refused(spec, observed.allow_insecure_http);
    // A server whose registration is off may be switching it on, and wrong metadata may be put right.
    let is_usable = endpoints.registration.is_some() && refused.is_none();
    let period = if is_usable { RECHECK } else { Duration::from_mins(1) };
    let due = finding.complete_at.is_some_and(|at| until(at, now) >= period);
    let waiting = observed.not_before.filter(|not_before| *not_before > now);
    let mut plan = Plan {
        step: None,
        endpoints,
        discovery: Finding::unknown(reasons::PROGRESSING, "not looked up yet"),
        credentials: Finding::unknown(reasons::PROGRESSING, "not tried yet"),
        token_expires_at: None,
        stalled: false,
        requeue_after: waiting.map(|not_before| until(now, not_before)),
    };
    if spec.suspend {
        plan.requeue_after = None;
        return plan;
    }

    let trust = observed.ca_bundle.as_ref().err().or(observed.client_identity.as_ref().err());
    if let Some(error) = trust {
        if error.is_about_a_config_map() {
            plan.discovery = Finding::no(reasons::DISCOVERY_FAILED, error.to_string());
        } else {
            plan.credentials = Finding::no(error.reason(), error.to_string());
        }
        plan.give_up(error);
        return plan;
    }
    if let Some(failure) = finding.failure.as_ref().filter(|failure| failure.at == FailedStep::Discovery) {
        plan.discovery = Finding::no(failure.reason, failure.message.clone());
        plan.try_again(failure, waiting.is_none(), || discover(spec));
        return plan;
    }
    match (discover(spec), &finding.metadata) {
        (Some(step), None) => {
            plan.step = waiting.is_none().then_some(step);
            return plan;
        }
        (step, _) if due => {
            plan.step = step;
            if plan.step.is_some() {
                return plan;
            }
        }
        _ => {}
    }
    if plan.endpoints.registration.is_none() {
        plan.discovery = Finding::no(
            reasons::NO_REGISTRATION_ENDPOINT,
            "the server's metadata have no registration_endpoint: switch dynamic client registration on there, or set spec.endpoints.registration",
        );
        plan.requeue_after = Some(period);
        return plan;
    }
    if let Some(refused) = refused {
        plan.discovery = Finding::no(reasons::INVALID_ENDPOINT, refused.message);
        plan.stalled = refused.is_given;
        plan.requeue_after = Some(period).filter(|_| !refused.is_given);
        return plan;
    }
    plan.discovery = match discover(spec) {
        Some(_) => Finding::yes(reasons::METADATA_FETCHED, "endpoints are discovered from the issuer"),
        None => Finding::yes(reasons::ENDPOINTS_GIVEN, "endpoints are given in the spec"),
    };

    let credential = match (&observed.credential, &observed.management_client) {
        (Ok(credential), Ok(())) => credential,
        (Err(error), _) | (_, Err(error)) => {
            plan.credentials = Finding::no(error.reason(), error.to_string());
            plan.give_up(error);
            return plan;
        }
    };
    let mut expiry = RECHECK;
    plan.credentials = match credential {
        Credential::NotRequired => {
            Finding::yes(reasons::NOT_REQUIRED, "registration is open: no initial access token is sent")
        }
        Credential::BearerToken(token) => {
            plan.token_expires_at = dcr::expires_at(token);
            match plan.token_expires_at {
                Some(end) if end <= now => {
                    let message = format!("the token of the Secret has expired at {end}: put a new one there");
                    plan.credentials = Finding::no(reasons::TOKEN_REQUEST_REJECTED, message);
                    return plan;
                }
                Some(end) => expiry = until(now, end),
                None => {}
            }
            Finding::yes(reasons::TOKEN_OBTAINED, "the token of the Secret is used as it is")
        }
        Credential::ClientCredentials(client) => {
            let by_certificate = plan.endpoints.mtls_token.clone().filter(|_| client.shows_certificate());
            let Some(token_endpoint) = by_certificate.or_else(|| plan.endpoints.token.clone()) else {
                plan.credentials = Finding::no(
                    reasons::DISCOVERY_FAILED,
                    "the server's metadata have no token_endpoint: set spec.endpoints.token",
                );
                plan.requeue_after = Some(RECHECK);
                return plan;
            };
            let obtain = || Some(Step::ObtainToken { token_endpoint: token_endpoint.clone() });
            if let Some(failure) = &finding.failure {
                plan.credentials = Finding::no(failure.reason, failure.message.clone());
                plan.try_again(failure, waiting.is_none(), obtain);
                return plan;
            }
            if !finding.token_obtained || due {
                plan.step = if waiting.is_none() { obtain() } else { None };
                return plan;
            }
            let client_id = &client.client_id;
            Finding::yes(reasons::TOKEN_OBTAINED, format!("client {client_id} obtains initial access tokens"))
        }
    };
    // Where there is nothing to ask the server for, the time of the last answers says nothing.
    let answered = finding.complete_at.filter(|_| finding.metadata.is_some() || finding.token_obtained);
    let recheck = answered.map_or(RECHECK, |at| RECHECK.saturating_sub(until(at, now)));
    plan.requeue_after = Some(recheck.min(expiry));
    plan
}

impl Plan {
    /// The call that failed is due again, or only a change helps.
    fn try_again(&mut self, failure: &Failure, may_call: bool, step: impl FnOnce() -> Option<Step>) {
        self.stalled = !failure.curable_by_time;
        if failure.curable_by_time && may_call {
            self.step = step();
        }
    }

    /// Something in the cluster is missing.
    fn give_up(&mut self, error: &Error) {
        self.stalled = error.retry() == Retry::OnChange;
        if !self.stalled {
            // Labelled Secrets are watched; this is for what appears without the label, and for ConfigMaps.
            self.requeue_after = Some(Duration::from_secs(10));
        }
    }
}

/// The call to discover, unless every endpoint is given and no issuer.
fn discover(spec: &TokenProfileSpec) -> Option<Step> {
    spec.issuer.clone().map(|issuer| Step::Discover { issuer })
}

fn resolve(observed: &Observed) -> Resolved {
    let spec = &observed.profile.spec;
    let given = spec.endpoints.clone().unwrap_or_default();
    let known = observed.finding.metadata.clone();
    // Until the server answers again, what it said last is still the best that there is.
    let last = observed.profile.status.clone().unwrap_or_default();
    let current = known.is_some() || spec.issuer.is_none() || last.issuer != spec.issuer;
    let pick = |known: Option<String>, last: Option<String>| if current { known } else { last };
    let known = known.map_or_else(Resolved::default, |metadata| Resolved {
        issuer: Some(metadata.issuer),
        token: metadata.token_endpoint,
        mtls_token: metadata.mtls_token_endpoint,
        registration: metadata.registration_endpoint,
        authorization: metadata.authorization_endpoint,
        jwks: metadata.jwks_uri,
        userinfo: metadata.userinfo_endpoint,
    });
    Resolved {
        issuer: spec.issuer.clone(),
        // One that is given is meant for the operator too.
        mtls_token: pick(known.mtls_token, last.mtls_token_endpoint).filter(|_| given.token.is_none()),
        token: given.token.or_else(|| pick(known.token, last.token_endpoint)),
        registration: given.registration.or_else(|| pick(known.registration, last.registration_endpoint)),
        authorization: pick(known.authorization, last.authorization_endpoint),
        jwks: pick(known.jwks, last.jwks_uri),
        userinfo: pick(known.userinfo, last.userinfo_endpoint),
    }
}

fn until(now: Timestamp, then: Timestamp) -> Duration {
    Duration::try_from(then.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests;

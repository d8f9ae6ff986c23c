use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::*;
use crate::{
    api::{DcrPolicy, DeletionPolicy, NamespacesFrom, OAuthClient},
    dcr::ClientInformation,
    kubernetes::{Precondition, SecretData, SecretSpec, merge},
    oauth_client::{
        attempt::Ended,
        keys::ClientKeys,
        observe::{Change, Live},
        registration::{self, Access, History, Registration, Retiring, ServerSnapshot, StoredSecret},
        status,
    },
};

mod adoption;
mod deletion;
mod enrollment;
mod histories;
mod lifecycle;
mod ownership;
mod renewal;
mod setbacks;

const NOW: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn now() -> Timestamp {
    at(NOW)
}

fn metadata() -> Value {
    json!({"client_name": "Shop", "redirect_uris": ["https://shop/cb"], "scope": "openid"})
}

fn profile() -> TokenProfile {
    let mut profile: TokenProfile = serde_json::from_value(json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "TokenProfile",
        "metadata": {"name": "token-service", "namespace": "identity", "uid": "p", "generation": 1},
        "spec": {"issuer": "https://as", "allowedNamespaces": {"from": "All"}, "resyncInterval": "0s"},
        "status": {"issuer": "https://as", "tokenEndpoint": "https://as/token", "registrationEndpoint": "https://as/reg"},
    }))
    .unwrap();
    let ready = vec![(conditions::READY, Finding::yes(reasons::READY, ""))];
    profile.status.as_mut().unwrap().conditions = merge(&[], ready, Some(1), now());
    profile
}

fn client() -> OAuthClient {
    serde_json::from_value(json!({
        "apiVersion": "dcr-operator.dev/v1alpha1", "kind": "OAuthClient",
        "metadata": {"name": "shop", "namespace": "shop", "uid": "u", "generation": 1, "resourceVersion": "1"},
        "spec": {"profileRef": {"name": "token-service", "namespace": "identity"}, "clientMetadata": metadata()},
    }))
    .unwrap()
}

/// A client that nobody has looked at, with all that it needs.
fn new_client() -> Observed {
    Observed {
        client: client(),
        profile: Some(profile()),
        profile_is_watched: true,
        namespace_labels: BTreeMap::new(),
        namespace_is_seen: true,
        namespace_is_terminating: false,
        policies: Vec::new(),
        older: crate::policy::Older::default(),
        registration: RegistrationSecret::Absent,
        secret: ApplicationSecret::Absent,
        former_secret: None,
        adoption: None,
        rival: None,
        compared_at: now(),
        live: None,
        lost: None,
        cannot_update: false,
        workloads_are_restarted: false,
        not_before: None,
        attempt_id: "next".into(),
        deletion_timeout: Duration::from_mins(10),
    }
}

fn answer() -> Value {
    json!({
        "client_id": "c", "client_secret": "s", "registration_access_token": "t",
        "registration_client_uri": "https://as/reg/c", "client_name": "Shop",
        "redirect_uris": ["https://shop/cb"], "scope": "openid",
    })
}

fn registration(answer: &Value) -> Registration {
    Registration {
        attempt: "a".into(),
        information: ClientInformation::from_json(answer.as_object().cloned().unwrap()).unwrap(),
        request: metadata().as_object().cloned(),
        server: ServerSnapshot { profile: "token-service".into(), ..ServerSnapshot::default() },
        history: History { credentials_issued_at: now(), token_issued_at: now(), ..History::default() },
        previous_token: None,
        keys: ClientKeys::default(),
        retiring: Vec::new(),
    }
}

fn kept(registration: Registration) -> RegistrationSecret {
    RegistrationSecret::Held { secret: StoredSecret::default(), registration: Box::new(registration) }
}

fn attempt(ended: Option<Ended>) -> Attempt {
    Attempt { id: "a".into(), started_at: at(NOW - 60), uid: "u".into(), supersedes: None, ended }
}

fn annotate(observed: &mut Observed, attempt: &Attempt) {
    observed.client.annotations_mut().insert(annotations::ATTEMPT.into(), attempt.to_annotation());
}

/// A client that is registered, with the Secret that the plan itself asks for.
fn registered_with(answer: &Value) -> Observed {
    let mut observed = new_client();
    observed.client.finalizers_mut().push(FINALIZER.into());
    annotate(&mut observed, &attempt(None));
    observed.registration = kept(registration(answer));
    let Some(Step::ApplySecret { secret, precondition: Precondition::Absent }) = plan(&observed, now()).step else {
        panic!("the Secret comes first")
    };
    observed.apply(written(&secret));
    observed
}

fn registered() -> Observed {
    registered_with(&answer())
}

fn written(spec: &SecretSpec) -> Change {
    let secret = serde_json::from_value(json!({
        "metadata": {"name": spec.name, "namespace": spec.namespace, "labels": spec.labels, "resourceVersion": "7"},
        "type": spec.type_,
    }))
    .unwrap();
    Change::SecretApplied { secret: StoredSecret::new(secret), data: spec.data.clone() }
}

fn delete(mut observed: Observed) -> Observed {
    observed.client.metadata.deletion_timestamp = Some(Time(at(NOW - 10)));
    observed
}

fn step_of(observed: &Observed) -> Option<&'static str> {
    plan(observed, now()).step.map(|step| step.name())
}

fn held(observed: &Observed) -> Registration {
    let RegistrationSecret::Held { registration, .. } = &observed.registration else { panic!("a registration") };
    (**registration).clone()
}

/// A management call has gone well.
fn answered(observed: &Observed, change: impl FnOnce(&mut Registration)) -> Change {
    let mut registration = held(observed);
    change(&mut registration);
    let live = Live { information: registration.information.clone(), drift: Vec::new() };
    Change::Answered { secret: StoredSecret::default(), registration: Box::new(registration), live }
}

/// The steps up to the rest, each taken as done.
fn steps_of(mut observed: Observed) -> Vec<&'static str> {
    let mut names = Vec::new();
    while let Some(step) = plan(&observed, now()).step {
        names.push(step.name());
        assert!(names.len() < 10, "a loop: {names:?}");
        let change = match step {
            Step::Register { attempt, document, .. } => {
                let mut client = Box::new(observed.client.clone());
                if client.finalizers().is_empty() {
                    client.finalizers_mut().push(FINALIZER.into());
                }
                client.annotations_mut().insert(annotations::ATTEMPT.into(), attempt.to_annotation());
                let mut registration = Registration { attempt: attempt.id, ..registration(&answer()) };
                registration.request = Some(document.0);
                if attempt.supersedes.is_some() {
                    registration.information.client_id = "new".into();
                    registration.history.handled_rotate_at =
                        observed.client.annotations().get(annotations::ROTATE).cloned();
                }
                Change::Enrolled { client, secret: StoredSecret::default(), registration: Box::new(registration) }
            }
            Step::Adopt { .. } => {
                let registration = Registration { request: None, ..registration(&answer()) };
                let client = Box::new(observed.client.clone());
                Change::Enrolled { client, secret: StoredSecret::default(), registration: Box::new(registration) }
            }
            Step::Update { document, .. } => {
                answered(&observed, |registration| registration.request = Some(document.0))
            }
            Step::Read { purpose } => answered(&observed, |registration| {
                if let Purpose::Rotate { .. } = purpose {
                    registration.information.client_secret = Some("rotated".into());
                    registration.history.credentials_issued_at = now();
                    registration.history.handled_rotate_at = Some("please".into());
                }
                registration.history.token_issued_at = now();
            }),
            Step::Retire { client_id } => {
                let mut registration = held(&observed);
                registration.retiring.retain(|former| former.information.client_id != client_id);
                Change::Retired { secret: StoredSecret::default(), registration: Box::new(registration) }
            }
            Step::Withdraw { why } => {
                let inputs = Some(observed.refusal_inputs());
                let ended = Ended { reason: reasons::POLICY_DENIED.into(), message: why, refused_inputs: inputs };
                let attempt = Attempt { ended: Some(ended), ..Attempt::last(&observed.client).unwrap() };
                annotate(&mut observed, &attempt);
                Change::Withdrawn { client: Box::new(observed.client.clone()), restored: None }
            }
            Step::RestartWorkloads { .. } => Change::WorkloadsRestarted,
            Step::ApplySecret { secret, .. } => written(&secret),
            Step::RemoveSecret => Change::SecretRemoved,
            Step::RemoveFormerSecret => Change::FormerSecretRemoved,
            Step::ReportPossibleOrphan { attempt } => {
                let mut client = observed.client.clone();
                let orphan = crate::api::PossibleOrphan { attempt: attempt.id, started_at: Time(attempt.started_at) };
                client.status.get_or_insert_default().possible_orphans.push(orphan);
                Change::ClientWritten(Box::new(client))
            }
            Step::AddFinalizer => {
                let mut client = observed.client.clone();
                client.finalizers_mut().push(FINALIZER.into());
                Change::ClientWritten(Box::new(client))
            }
            Step::Deregister | Step::ReportOrphan { .. } | Step::ReportRetained { .. } => {
                let settled = Attempt::settled(&observed.client, now());
                annotate(&mut observed, &settled);
                Change::ClientWritten(Box::new(observed.client.clone()))
            }
            Step::RemoveRegistration => Change::RegistrationRemoved,
            Step::Release => {
                let mut client = observed.client.clone();
                client.finalizers_mut().clear();
                Change::Released(Box::new(client))
            }
        };
        observed.apply(change);
    }
    names
}

/// The status as it is written at the end of a pass.
fn settled(mut observed: Observed) -> Observed {
    let status = status::status(&observed, &plan(&observed, now()), None, now());
    observed.client.status = Some(status);
    observed
}

fn denying() -> DcrPolicy {
    serde_json::from_value(json!({"apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy",
        "metadata": {"name": "strict", "namespace": "identity"},
        "spec": {"allowedScopes": [], "allowedGrantTypes": ["client_credentials"]}}))
    .unwrap()
}

fn spec(observed: &mut Observed, change: Value) {
    let mut spec = serde_json::to_value(&observed.client.spec).unwrap();
    for (name, value) in change.as_object().unwrap() {
        spec[name] = value.clone();
    }
    observed.client.spec = serde_json::from_value(spec).unwrap();
}

fn server(observed: &mut Observed, behaviour: Value) {
    observed.profile.as_mut().unwrap().spec.server = serde_json::from_value(behaviour).unwrap();
}

fn change(observed: &mut Observed, change: impl FnOnce(&mut Registration)) {
    let mut registration = held(observed);
    change(&mut registration);
    observed.registration = kept(registration);
}

fn annotated(mut observed: Observed, name: &str, value: &str) -> Observed {
    observed.client.annotations_mut().insert(name.into(), value.into());
    observed
}

fn information(answer: Value) -> ClientInformation {
    ClientInformation::from_json(answer.as_object().cloned().unwrap()).unwrap()
}

fn unmanaged() -> Observed {
    let mut observed = registered_with(&json!({"client_id": "c", "client_secret": "s", "client_name": "Shop",
            "redirect_uris": ["https://shop/cb"], "scope": "openid"}));
    observed.client.status.get_or_insert_default().client_id = Some("c".into());
    observed
}

fn days(days: u64) -> Duration {
    Duration::from_hours(24 * days)
}

fn generous() -> Observed {
    let mut answered = answer();
    answered["scope"] = json!("openid admin");
    let mut observed = new_client();
    observed.client.finalizers_mut().push(FINALIZER.into());
    annotate(&mut observed, &attempt(None));
    observed.registration = kept(registration(&answered));
    let policy = json!({"apiVersion": "dcr-operator.dev/v1alpha1", "kind": "DcrPolicy",
        "metadata": {"name": "web", "namespace": "identity", "uid": "web"}, "spec": {"allowedScopes": ["openid"]}});
    observed.policies = vec![serde_json::from_value(policy).unwrap()];
    observed
}

/// The status as it is written at the end of a pass in which the server has answered.
fn confirmed(mut observed: Observed) -> Observed {
    observed.live = Some(Live { information: held(&observed).information, drift: Vec::new() });
    let mut observed = settled(observed);
    observed.live = None;
    observed
}

fn held_mut(observed: &mut Observed) -> Option<&mut ClientInformation> {
    match &mut observed.registration {
        RegistrationSecret::Held { registration, .. } => Some(&mut registration.information),
        _ => None,
    }
}

/// A former client whose time is up.
fn retiring(information: ClientInformation) -> Retiring {
    let (keys, history) = (ClientKeys::default(), History::default());
    Retiring { information, keys, delete_after: now(), is_lost: false, server: None, history }
}

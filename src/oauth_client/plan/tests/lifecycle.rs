//! What a client needs after the day of its registration.

use super::*;
use crate::oauth_client::{
    adoption::Adoption,
    keys::tests::key,
    ownership::as_the_status_says,
    registration::{Origin, Retiring},
};

pub(super) fn spec(observed: &mut Observed, change: Value) {
    let mut spec = serde_json::to_value(&observed.client.spec).unwrap();
    for (name, value) in change.as_object().unwrap() {
        spec[name] = value.clone();
    }
    observed.client.spec = serde_json::from_value(spec).unwrap();
}

pub(super) fn server(observed: &mut Observed, behaviour: Value) {
    observed.profile.as_mut().unwrap().spec.server = serde_json::from_value(behaviour).unwrap();
}

pub(super) fn change(observed: &mut Observed, change: impl FnOnce(&mut Registration)) {
    let mut registration = held(observed);
    change(&mut registration);
    observed.registration = kept(registration);
}

pub(super) fn annotated(mut observed: Observed, name: &str, value: &str) -> Observed {
    observed.client.annotations_mut().insert(name.into(), value.into());
    observed
}

fn information(answer: Value) -> ClientInformation {
    ClientInformation::from_json(answer.as_object().cloned().unwrap()).unwrap()
}

pub(super) fn unmanaged() -> Observed {
    let mut observed = registered_with(&json!({"client_id": "c", "client_secret": "s", "client_name": "Shop",
            "redirect_uris": ["https://shop/cb"], "scope": "openid"}));
    observed.client.status.get_or_insert_default().client_id = Some("c".into());
    observed
}

pub(super) fn days(days: u64) -> Duration {
    Duration::from_hours(24 * days)
}

#[test]
fn a_server_that_merges_is_sent_explicit_empties() {
    let mut observed = registered();
    server(&mut observed, json!({"type": "Keycloak"}));
    let wanted = observed.client.spec.client_metadata.as_mut().unwrap();
    wanted.client_name = None;
    let Some(Step::Update { document, body, .. }) = plan(&observed, now()).step else { panic!("update") };
    assert_eq!(body.0["client_name"], "");
    assert_eq!((&document.0["scope"], &body.0["scope"]), (&json!(""), &json!("")), "openid is no scope there");
}

#[test]
fn without_management_a_new_client_takes_the_place_of_the_old_one_if_the_spec_allows_it() {
    let mut observed = unmanaged();
    observed.client.spec.client_metadata.as_mut().unwrap().scope = Some("email".into());
    assert_eq!(step_of(&observed), None);
    spec(&mut observed, json!({"replacement": {"when": ["UpdateUnsupported"]}}));
    let Some(Step::Register { attempt, document, .. }) = plan(&observed, now()).step else { panic!("register") };
    assert_eq!((attempt.supersedes.as_deref(), &document.0["scope"]), (Some("c"), &json!("email")));
    assert_eq!(steps_of(observed.clone()), ["Register", "ApplySecret"]);
    // Where the client can be updated, it is.
    let mut managed = registered();
    managed.client.spec = observed.client.spec;
    assert_eq!(step_of(&managed), Some("Update"));
}

#[test]
fn a_replacement_that_the_server_refuses_leaves_the_client_as_it_is() {
    let mut observed = unmanaged();
    observed.client.spec.client_metadata.as_mut().unwrap().scope = Some("email".into());
    spec(&mut observed, json!({"replacement": {"when": ["UpdateUnsupported"]}}));
    let ended = Ended {
        reason: "InvalidClientMetadata".into(),
        message: "no".into(),
        refused_inputs: Some(observed.refusal_inputs()),
    };
    annotate(&mut observed, &Attempt { supersedes: Some("c".into()), ..attempt(Some(ended)) });
    let rest = plan(&observed, now());
    assert_eq!((rest.step, rest.in_sync.reason.as_str(), rest.stalled), (None, "InvalidClientMetadata", true));
    assert!(rest.registered.is_true() && rest.secret_synced.is_true());
}

#[test]
fn a_replacement_whose_answer_never_came_is_reported_and_made_again() {
    let mut observed = unmanaged();
    observed.client.spec.client_metadata.as_mut().unwrap().scope = Some("email".into());
    spec(&mut observed, json!({"replacement": {"when": ["UpdateUnsupported"]}}));
    annotate(&mut observed, &Attempt { id: "b".into(), supersedes: Some("c".into()), ..attempt(None) });
    assert_eq!(steps_of(observed.clone()), ["ReportPossibleOrphan", "Register", "ApplySecret"]);
    assert_eq!(steps_of(delete(observed)), ["ReportPossibleOrphan", "ReportOrphan", "RemoveRegistration", "Release"]);
}

#[test]
fn a_lost_attempt_is_reported_though_the_status_has_not_heard_of_the_last_replacement() {
    let mut observed = unmanaged();
    change(&mut observed, |registration| registration.information.client_id = "second".into());
    annotate(&mut observed, &Attempt { id: "b".into(), supersedes: Some("second".into()), ..attempt(None) });
    assert_eq!(observed.client.status.as_ref().unwrap().client_id.as_deref(), Some("c"), "written last");
    assert_eq!(observed.unreported_attempt().map(|attempt| attempt.id), Some("b".into()));
}

#[test]
fn a_former_client_is_removed_when_its_time_is_up() {
    let mut observed = registered();
    change(&mut observed, |registration| {
        let information = information(json!({"client_id": "former", "registration_access_token": "r"}));
        registration.retiring = vec![Retiring {
            information,
            keys: ClientKeys::default(),
            delete_after: at(NOW + 60),
            is_lost: false,
            server: None,
        }];
    });
    let waiting = plan(&observed, now());
    assert_eq!((waiting.step, waiting.requeue_after), (None, Some(Duration::from_mins(1))));
    let status = status::status(&observed, &plan(&observed, now()), None, now());
    assert_eq!((status.retiring[0].client_id.as_str(), status.retiring[0].delete_after.0), ("former", at(NOW + 60)));
    assert_eq!(plan(&observed, at(NOW + 60)).step, Some(Step::Retire { client_id: "former".into() }));
    observed.not_before = Some(at(NOW + 90));
    assert_eq!(plan(&observed, at(NOW + 60)).step, None, "the last call failed");
    observed.not_before = None;
    assert_eq!(
        steps_of(delete(observed)),
        ["Retire", "Deregister", "RemoveRegistration", "Release"],
        "a deletion waits for no overlap"
    );
}

#[test]
fn a_comparison_is_due_once_in_each_interval_where_reading_is_harmless() {
    let mut observed = settled(registered());
    observed.profile.as_mut().unwrap().spec.resync_interval = Some(Duration::from_hours(1).into());
    let rest = plan(&observed, now());
    assert_eq!(rest.step, None);
    let due = rest.requeue_after.unwrap();
    assert!(due <= Duration::from_hours(1));
    let then = now() + due;
    assert_eq!(plan(&observed, then).step, Some(Step::Read { purpose: Purpose::Compare }));
    observed.live = Some(Live { information: held(&observed).information, drift: Vec::new() });
    let compared = plan(&observed, then);
    assert_eq!((compared.step, compared.in_sync.reason.as_str()), (None, "InSync"));
    assert!(compared.requeue_after.unwrap() > Duration::from_mins(59), "the next one");
    observed.live = None;
    server(&mut observed, json!({"type": "Curity"}));
    assert_ne!(
        plan(&observed, then).step.map(|step| step.name()),
        Some("Read"),
        "a read changes the credentials there"
    );
}

#[test]
fn a_comparison_can_be_asked_for() {
    let mut observed = annotated(settled(registered()), annotations::RECONCILE, "now");
    assert_eq!(step_of(&observed), None, "resyncInterval 0s: never");
    observed.profile.as_mut().unwrap().spec.resync_interval = Some(Duration::from_hours(9).into());
    assert_eq!(steps_of(observed.clone()), ["Read"]);
    observed.live = Some(Live { information: held(&observed).information, drift: Vec::new() });
    assert_eq!(steps_of(settled(observed)), Vec::<&str>::new(), "it has been handled");
}

#[test]
fn drift_is_named_and_put_right_from_what_the_server_has() {
    let mut observed = settled(registered());
    let mut live = answer();
    live["client_name"] = json!("Edited");
    live["logo_uri"] = json!("https://added/by/somebody");
    observed.live = Some(Live { information: information(live), drift: vec!["client_name".into()] });
    let plan = plan(&observed, now());
    assert_eq!(plan.in_sync.reason, "Drifted");
    assert!(plan.in_sync.message.contains("client_name"), "{}", plan.in_sync.message);
    let Some(Step::Update { document, body, cause, .. }) = plan.step else { panic!("update") };
    assert_eq!(cause, Cause::Drift(vec!["client_name".into()]));
    assert_eq!((&document.0["client_name"], &body.0["client_name"]), (&json!("Shop"), &json!("Shop")));
    assert_eq!(body.0["logo_uri"], "https://added/by/somebody", "nobody asked us to take it away");
    observed.policies = vec![denying()];
    let denied = super::plan(&observed, now());
    assert_eq!((denied.step, denied.in_sync.reason.as_str()), (None, "Drifted"));
}

#[test]
fn credentials_are_rotated_in_place_where_the_server_does_it() {
    let observed = annotated(settled(registered()), annotations::ROTATE, "please");
    let mut rotating = observed.clone();
    server(&mut rotating, json!({"readRotatesCredentials": true}));
    assert_eq!(step_of(&rotating), Some("Read"));
    assert_eq!(steps_of(rotating), ["Read", "ApplySecret"]);

    let unsupported = plan(&observed, now());
    assert_eq!((unsupported.step, unsupported.in_sync.reason.as_str()), (None, "UpdateUnsupported"));
    assert!(unsupported.in_sync.message.contains("spec.replacement.when: [Rotation]"));
    let mut replaced = observed;
    spec(&mut replaced, json!({"replacement": {"when": ["Rotation"]}}));
    assert_eq!(steps_of(replaced), ["Register", "ApplySecret"]);
}

#[test]
fn a_server_that_rotates_nothing_when_it_is_read_is_not_read_for_it_again() {
    let mut observed = annotated(settled(registered()), annotations::ROTATE, "again");
    server(&mut observed, json!({"readRotatesCredentials": true}));
    change(&mut observed, |registration| registration.history.reading_keeps_secret = true);
    assert_eq!(plan(&observed, now()).in_sync.reason, "UpdateUnsupported");
    spec(&mut observed, json!({"replacement": {"when": ["Rotation"]}}));
    assert_eq!(step_of(&observed), Some("Register"));
}

#[test]
fn rotation_is_due_in_the_last_tenth_of_its_interval() {
    let mut observed = settled(registered());
    server(&mut observed, json!({"readRotatesCredentials": true}));
    spec(&mut observed, json!({"rotation": {"interval": "720h"}}));
    let rest = plan(&observed, now());
    assert_eq!(rest.step, None);
    let due = rest.requeue_after.unwrap();
    assert!(due >= days(27) && due <= days(30), "{due:?}");
    assert_eq!(plan(&observed, now() + due).step, Some(Step::Read { purpose: Purpose::Rotate { ends: None } }));
}

#[test]
fn a_public_client_has_nothing_to_rotate_and_that_is_said() {
    let mut public = answer();
    public.as_object_mut().unwrap().remove("client_secret");
    let observed = annotated(settled(registered_with(&public)), annotations::ROTATE, "please");
    let plan = plan(&observed, now());
    assert_eq!((plan.step, plan.in_sync.reason.as_str()), (None, "UpdateUnsupported"));
    assert!(plan.in_sync.message.contains("no secret"), "{}", plan.in_sync.message);
}

#[test]
fn a_secret_that_ends_is_renewed_when_a_third_of_its_life_is_left() {
    let mut ending = answer();
    ending["client_secret_expires_at"] = json!(NOW + 30 * 86400);
    let mut observed = settled(registered_with(&ending));
    let ends = at(NOW + 30 * 86400);
    let due = plan(&observed, now()).requeue_after.unwrap();
    assert!(due >= days(18) && due <= days(21), "{due:?}");
    let then = now() + due;
    let expiring = plan(&observed, then);
    assert_eq!((expiring.step.as_ref(), expiring.in_sync.reason.as_str()), (None, "SecretExpiring"));
    assert!(expiring.in_sync.message.contains(&ends.to_string()), "{}", expiring.in_sync.message);
    assert_eq!(then + expiring.requeue_after.unwrap(), ends, "to say that it has ended");
    let ready = status::status(&observed, &expiring, None, then);
    assert_eq!(condition(&ready.conditions, conditions::READY).unwrap().status, "True", "it still works");
    let expired = plan(&observed, ends);
    assert_eq!(expired.registered.reason, "SecretExpired");
    let mut rotating = observed.clone();
    server(&mut rotating, json!({"readRotatesCredentials": true}));
    assert_eq!(plan(&rotating, then).step, Some(Step::Read { purpose: Purpose::Rotate { ends: Some(ends) } }));
    spec(&mut observed, json!({"replacement": {"when": ["Rotation"]}}));
    assert_eq!(plan(&observed, then).step.map(|step| step.name()), Some("Register"));
}

#[test]
fn a_registration_access_token_is_renewed_before_it_ends() {
    let observed = settled(registered());
    let renewed = |behaviour: Value| {
        let mut observed = observed.clone();
        server(&mut observed, behaviour);
        let due = plan(&observed, now()).requeue_after;
        due.map(|due| (due, plan(&observed, now() + due).step))
    };
    let (due, step) = renewed(json!({"type": "Curity"})).unwrap();
    assert!(due >= days(16) && due <= days(20), "{due:?}");
    let ends = now() + days(28);
    assert_eq!(step, Some(Step::Read { purpose: Purpose::TokenRenewal { ends } }));
    let (_, step) = renewed(json!({"registrationAccessTokenLifetime": "672h"})).unwrap();
    let Some(Step::Update { document, cause, .. }) = step else { panic!("update") };
    assert_eq!((document.0, cause), (held(&observed).request.unwrap(), Cause::TokenRenewal { ends }));
    let manager = json!({"type": "Curity", "managementClient": {"clientId": "m", "secretRef": {"name": "manager"}}});
    assert!(renewed(manager.clone()).is_some(), "it waits for the server's word");
    let mut known = confirmed(registered());
    server(&mut known, manager);
    assert_eq!(plan(&known, now()).requeue_after, None, "it does without the token");
}

#[test]
fn workloads_are_restarted_once_for_each_new_secret_and_not_for_the_first() {
    let mut observed = settled(registered());
    spec(&mut observed, json!({"rolloutRestartTargets": [{"kind": "Deployment", "name": "shop"}]}));
    assert_eq!(step_of(&observed), None);
    change(&mut observed, |registration| registration.history.rotated = true);
    assert_eq!(steps_of(observed.clone()), ["RestartWorkloads"]);
    observed.secret = ApplicationSecret::Absent;
    assert_eq!(steps_of(observed.clone()), ["ApplySecret", "RestartWorkloads"], "the Secret first");
    observed.workloads_are_restarted = true;
    let ApplicationSecret::Ours { .. } = registered().secret else { panic!("ours") };
    observed.secret = registered().secret;
    assert_eq!(step_of(&settled(observed)), None, "the status says so");
}

#[test]
fn a_client_is_adopted_before_it_is_changed_and_people_see_the_difference_in_between() {
    let mut observed = new_client();
    spec(&mut observed, json!({"adopt": {"clientId": "c", "secretRef": {"name": "old"}}}));
    observed.adoption = Some(Err(("SecretNotFound", "Secret shop/old does not exist".into())));
    let waiting = plan(&observed, now());
    assert_eq!((waiting.step, waiting.registered.reason.as_str()), (None, "SecretNotFound"));
    observed.adoption = Some(Ok(Adoption::default()));
    assert_eq!(steps_of(observed.clone()), ["AddFinalizer", "Adopt", "ApplySecret"]);

    let mut adopted = registered();
    adopted.client.spec = observed.client.spec;
    change(&mut adopted, |registration| {
        registration.request = None;
        registration.history.origin = Origin::Adopted;
        registration.information.metadata.insert("client_name".into(), json!("Old"));
    });
    adopted.client.status = None;
    let shown = plan(&adopted, now());
    assert_eq!((shown.step, shown.requeue_after), (None, Some(Duration::ZERO)));
    assert_eq!((shown.in_sync.reason.as_str(), shown.registered.reason.as_str()), ("Drifted", "Adopted"));
    let adopted = settled(adopted);
    let status = adopted.client.status.as_ref().unwrap();
    let changes: Vec<&str> = status.server_changes.iter().map(|change| change.name.as_str()).collect();
    assert_eq!(changes, ["client_name"]);
    assert_eq!(step_of(&adopted), Some("Update"));
}

#[test]
fn an_adopted_client_that_is_as_the_spec_asks_for_is_left_alone() {
    let mut adopted = registered();
    change(&mut adopted, |registration| registration.request = None);
    let plan = plan(&settled(adopted), now());
    assert_eq!((plan.step, plan.in_sync.reason.as_str(), plan.requeue_after), (None, "InSync", None));
}

#[test]
fn a_client_has_one_owner() {
    let mut observed = new_client();
    spec(&mut observed, json!({"adopt": {"clientId": "c"}}));
    observed.rival = Some("shop/first".into());
    let conflict = plan(&observed, now());
    assert_eq!((conflict.step, conflict.registered.reason.as_str(), conflict.stalled), (None, "ClientConflict", true));
    assert!(conflict.registered.message.contains("shop/first"), "{}", conflict.registered.message);
}

/// In namespace `shop`, of a profile of namespace `identity`.
fn adopting_by_management_client(behaviour: Value) -> Observed {
    let mut observed = new_client();
    observed.client.finalizers_mut().push(FINALIZER.into());
    spec(&mut observed, json!({"adopt": {"clientId": "c"}}));
    let mut manager = json!({"clientId": "m", "secretRef": {"name": "manager"}});
    manager.as_object_mut().unwrap().extend(behaviour.as_object().cloned().unwrap());
    server(&mut observed, json!({"managementClient": manager}));
    observed
}

#[test]
fn the_management_client_adopts_for_the_namespaces_that_the_profile_names() {
    let labelled = json!({"adoptionNamespaces": {"from": "Selector", "selector": {"matchLabels": {"adopts": "yes"}}}});
    for (behaviour, labels, namespace, expected) in [
        (json!({}), &[][..], "shop", false),
        (json!({}), &[], "identity", true),
        (json!({"adoptionNamespaces": {"from": "Same"}}), &[], "shop", false),
        (json!({"adoptionNamespaces": {"from": "All"}}), &[], "shop", true),
        (labelled.clone(), &[("adopts", "no")], "shop", false),
        (labelled, &[("adopts", "yes")], "shop", true),
    ] {
        let mut observed = adopting_by_management_client(behaviour.clone());
        observed.client.metadata.namespace = Some(namespace.into());
        observed.namespace_labels = labels.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        let plan = plan(&observed, now());
        assert_eq!(plan.step.is_some(), expected, "{behaviour} in {namespace}");
        if !expected {
            assert_eq!((plan.accepted.reason.as_str(), plan.stalled), ("RefNotPermitted", false));
            assert_eq!(plan.registered.reason, "RefNotPermitted");
            let message = plan.accepted.message;
            let field = "spec.server.managementClient.adoptionNamespaces";
            for said in [field, "identity/token-service", "namespace shop", "spec.adopt.secretRef"] {
                assert!(message.contains(said), "{said} should be in: {message}");
            }
        }
    }
}

#[test]
fn who_may_not_adopt_by_the_management_client_needs_the_clients_own_token() {
    let mut observed = adopting_by_management_client(json!({}));
    spec(&mut observed, json!({"adopt": {"clientId": "c", "secretRef": {"name": "old"}}}));
    let given = |token: Option<&str>| {
        let registration_access_token = token.map(Into::into);
        Some(Ok(Adoption { registration_access_token, client_secret: Some("s".into()) }))
    };
    observed.adoption = given(None);
    assert_eq!((step_of(&observed), plan(&observed, now()).accepted.reason.as_str()), (None, "RefNotPermitted"));
    observed.adoption = Some(Err(("SecretNotFound", "Secret shop/old does not exist".into())));
    assert_eq!(plan(&observed, now()).registered.reason, "SecretNotFound", "it may still come");
    observed.adoption = given(Some("t"));
    assert_eq!(step_of(&observed), Some("Adopt"));
    assert!(!observed.enrolls_by_manager(), "not even if the token is refused");
    server(&mut observed, json!({}));
    observed.adoption = given(None);
    assert_eq!(step_of(&observed), Some("Adopt"), "as it was given: nobody reads it");
}

#[test]
fn what_is_adopted_already_does_not_depend_on_the_right_to_adopt() {
    let mut adopted = confirmed(registered());
    adopted.client.spec = adopting_by_management_client(json!({})).client.spec;
    server(&mut adopted, json!({"managementClient": {"clientId": "m", "secretRef": {"name": "manager"}}}));
    let kept = plan(&adopted, now());
    assert!(kept.accepted.is_true() && kept.registered.is_true(), "{kept:?}");
    let lost = Observed { registration: RegistrationSecret::Absent, ..adopted.clone() };
    assert_eq!(step_of(&lost), Some("Adopt"), "it is this OAuthClient's own");
    let mut doubtful = lost;
    doubtful.client.status.as_mut().unwrap().confirmed = false;
    assert_eq!(step_of(&doubtful), None, "nobody but the registration Secret has said so");
    let unsaid = Observed { client: OAuthClient { status: None, ..adopted.client.clone() }, ..adopted };
    assert!(plan(&unsaid, now()).accepted.is_true(), "the operator died before it could say so");
}

#[test]
fn the_right_to_adopt_is_looked_at_anew_after_a_failure() {
    let observed = adopting_by_management_client(json!({"adoptionNamespaces": {"from": "Selector",
        "selector": {"matchLabels": {"adopts": "yes"}}}}));
    let mut allowed = observed.clone();
    allowed.namespace_labels = BTreeMap::from([("adopts".into(), "yes".into())]);
    assert_ne!(observed.backoff_inputs(), allowed.backoff_inputs());
}

#[test]
fn a_client_that_is_lost_is_replaced_only_if_the_spec_allows_it() {
    let mut observed = settled(registered());
    observed.lost = Some("401".into());
    let lost = plan(&observed, now());
    assert_eq!((lost.step, lost.registered.reason.as_str(), lost.stalled), (None, "RegistrationLost", true));
    spec(&mut observed, json!({"replacement": {"when": ["RegistrationLost"]}}));
    let Some(Step::Register { attempt, .. }) = plan(&observed, now()).step else { panic!("register") };
    assert_eq!(attempt.supersedes.as_deref(), Some("c"));
    assert_eq!(steps_of(observed), ["Register", "ApplySecret"]);
}

#[test]
fn a_client_that_was_lost_is_looked_for_again_when_something_has_changed() {
    let mut observed = settled(registered());
    let said = vec![(conditions::REGISTERED, Finding::no(reasons::REGISTRATION_LOST, "gone"))];
    observed.client.status.as_mut().unwrap().conditions = merge(&[], said, Some(1), now());
    assert_eq!(plan(&observed, now()).step, Some(Step::Read { purpose: Purpose::Compare }));
    let found = answered(&observed, |_| {});
    observed.apply(found);
    let found = plan(&observed, now());
    assert!(found.step.is_none() && found.registered.is_true());
}

#[test]
fn a_lost_registration_secret_is_read_anew_by_the_management_client() {
    let mut observed = new_client();
    observed.client.finalizers_mut().push(FINALIZER.into());
    let status = observed.client.status.get_or_insert_default();
    (status.client_id, status.confirmed) = (Some("c".into()), true);
    server(&mut observed, json!({"managementClient": {"clientId": "m", "secretRef": {"name": "manager"}}}));
    assert_eq!(plan(&observed, now()).step, Some(Step::Adopt { client_id: "c".into(), registration_client_uri: None }));
    observed.lost = Some("404".into());
    assert_eq!(plan(&observed, now()).registered.reason, "RegistrationLost");
    spec(&mut observed, json!({"replacement": {"when": ["RegistrationLost"]}}));
    let Some(Step::Register { attempt, .. }) = plan(&observed, now()).step else { panic!("register") };
    assert_eq!(attempt.supersedes.as_deref(), Some("c"));
}

#[test]
fn a_client_with_keys_registers_the_public_keys_and_rotates_them_with_overlap() {
    let mut observed = new_client();
    spec(&mut observed, json!({"keys": {"algorithm": "ES256", "rotationInterval": "720h"}}));
    let Some(Step::Register { new_key: Some(_), .. }) = plan(&observed, now()).step else { panic!("a new key") };

    let mut holding = registered_with(&json!({"client_id": "c", "registration_access_token": "t",
        "registration_client_uri": "https://as/reg/c", "token_endpoint_auth_method": "private_key_jwt"}));
    holding.client.spec = observed.client.spec.clone();
    change(&mut holding, |registration| {
        registration.keys = ClientKeys(vec![key("old", NOW)]);
        let document = metadata::document(&observed.client.spec).unwrap();
        registration.request = Some(registration.keys.laid_into(document).0);
        registration.information.metadata = registration.request.clone().unwrap();
    });
    let Some(Step::ApplySecret { secret, .. }) = plan(&holding, now()).step else { panic!("the Secret") };
    assert_eq!(secret.data.text("key-id"), Some("old"));
    holding.apply(written(&secret));
    let holding = settled(holding);
    let rest = plan(&holding, now());
    assert_eq!((rest.step, rest.in_sync.reason.as_str()), (None, "InSync"));
    let due = rest.requeue_after.unwrap();
    assert!(due >= days(27), "{due:?}");
    let Some(Step::Update { new_key: Some(_), cause: Cause::KeyRotation, .. }) = plan(&holding, now() + due).step
    else {
        panic!("a new key")
    };

    // Both are registered; later the old one is left out by an update.
    let mut both = holding;
    change(&mut both, |registration| {
        registration.keys = registration.keys.succeeded_by(key("new", NOW), days(1), now());
        let document = metadata::document(&observed.client.spec).unwrap();
        registration.request = Some(registration.keys.laid_into(document).0);
        registration.information.metadata = registration.request.clone().unwrap();
    });
    let Some(Step::ApplySecret { secret, .. }) = plan(&both, now()).step else { panic!("the Secret") };
    assert_eq!(secret.data.text("key-id"), Some("new"));
    both.apply(written(&secret));
    assert_eq!(plan(&both, now()).requeue_after, Some(days(1)));
    let Some(Step::Update { new_key: None, document, .. }) = plan(&both, now() + days(1)).step else {
        panic!("update")
    };
    assert_eq!(document.0["jwks"]["keys"].as_array().unwrap().len(), 1);
}

#[test]
fn another_algorithm_is_another_key_and_no_keys_are_none() {
    let mut observed = registered();
    change(&mut observed, |registration| registration.keys = ClientKeys(vec![key("old", NOW)]));
    spec(&mut observed, json!({"keys": {"algorithm": "RS256"}}));
    observed.secret = ApplicationSecret::Absent;
    let Some(Step::ApplySecret { secret, .. }) = plan(&observed, now()).step else { panic!("the Secret") };
    observed.apply(written(&secret));
    let Some(Step::Update { new_key: Some(_), .. }) = plan(&observed, now()).step else { panic!("a new key") };
    spec(&mut observed, json!({"keys": null}));
    assert_eq!(step_of(&observed), None, "nothing of them was asked for");
}

#[test]
fn a_bad_template_is_told_and_the_secret_stays() {
    let mut observed = settled(registered());
    spec(&mut observed, json!({"secret": {"template": {"config": "{{ nosuch }}"}}}));
    let plan = plan(&observed, now());
    assert_eq!((plan.step, plan.secret_synced.reason.as_str(), plan.stalled), (None, "TemplateError", true));
    assert!(
        plan.secret_synced.message.contains("spec.secret.template.config, line 1"),
        "{}",
        plan.secret_synced.message
    );
}

#[test]
fn labels_and_annotations_of_the_secret_follow_the_spec() {
    let mut observed = settled(registered());
    spec(&mut observed, json!({"secret": {"labels": {"team": "shop"}, "annotations": {"note": "x"}}}));
    let Some(Step::ApplySecret { secret, .. }) = plan(&observed, now()).step else { panic!("the Secret") };
    assert_eq!((secret.labels["team"].as_str(), secret.annotations["note"].as_str()), ("shop", "x"));
    assert_eq!(secret.labels["dcr-operator.dev/client"], "shop");
}

#[test]
fn access_goes_by_what_is_left() {
    let mut observed = registered();
    change(&mut observed, |registration| registration.information.registration_access_token = None);
    assert!(held(&observed).access(false).is_empty());
    assert_eq!(held(&observed).access(true), [Access::Manager]);
}

pub(super) fn generous() -> Observed {
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

#[test]
fn more_than_the_policies_allow_is_narrowed_down_before_anybody_gets_the_credentials() {
    let observed = generous();
    let plan = plan(&observed, now());
    let Some(Step::Update { body, cause: Cause::Narrowing(why), .. }) = plan.step else { panic!("{:?}", plan.step) };
    assert_eq!((&body.0["scope"], &body.0["client_id"]), (&json!("openid"), &json!("c")));
    assert!(why.contains("DcrPolicy web forbids scope: admin"), "{why}");
    assert_eq!(plan.accepted.reason, "PolicyDenied");
    let mut narrowed = observed;
    change(&mut narrowed, |registration| {
        registration.information.metadata.insert("scope".into(), json!("openid"));
        registration.history.is_narrowed = true;
    });
    assert_eq!(steps_of(narrowed), ["ApplySecret"]);
}

#[test]
fn a_reconcile_request_is_handled_when_what_it_asks_for_has_been_done() {
    let observed = annotated(settled(registered()), annotations::RECONCILE, "please");
    let handled = |observed: &Observed, failure: Option<&status::Failure>| {
        status::status(observed, &plan(observed, now()), failure, now()).last_handled_reconcile_at
    };
    assert_eq!(handled(&observed, None).as_deref(), Some("please"));
    let step = Step::Read { purpose: Purpose::Compare };
    let down = crate::oauth_client::act::Error::CircuitOpen(Duration::from_secs(1));
    let failure = status::Failure::new(&step, &down);
    assert_eq!(handled(&observed, Some(&failure)), None, "tried again");
    let mut waiting = observed.clone();
    waiting.not_before = Some(at(NOW + 9));
    assert_eq!(handled(&waiting, None), None, "until the next try");
    waiting.not_before = Some(Timestamp::MAX);
    assert_eq!(handled(&waiting, None).as_deref(), Some("please"), "refused for good");
}

#[test]
fn however_much_more_a_server_registers_what_is_written_about_it_is_bounded() {
    let mut observed = generous();
    observed.policies = vec![observed.policies[0].clone(); 8];
    let scope = (0..50_000).map(|index| index.to_string()).collect::<Vec<_>>().join(" ");
    change(&mut observed, |registration| {
        registration.information.metadata.insert("scope".into(), scope.into());
        registration.history.is_narrowed = true;
    });
    let plan = plan(&observed, now());
    let Some(Step::Withdraw { why }) = plan.step else { panic!("{:?}", plan.step) };
    assert!(why.len() <= crate::oauth_client::accept::LONGEST_MESSAGE, "{}", why.len());
    assert_eq!(plan.accepted.message, why);
}

#[test]
fn what_can_not_be_narrowed_is_given_back_and_not_asked_for_again() {
    let unmanaged = |registration: &mut Registration| registration.information.registration_access_token = None;
    let stubborn = |registration: &mut Registration| registration.history.is_narrowed = true;
    for way in [unmanaged, stubborn] {
        let mut observed = generous();
        change(&mut observed, way);
        assert_eq!(steps_of(observed), ["Withdraw"]);
    }
    let mut withdrawn = generous();
    withdrawn.registration = RegistrationSecret::Absent;
    let ended = Ended {
        reason: reasons::POLICY_DENIED.into(),
        message: "more".into(),
        refused_inputs: Some(withdrawn.refusal_inputs()),
    };
    annotate(&mut withdrawn, &attempt(Some(ended)));
    let rest = plan(&withdrawn, now());
    assert_eq!((rest.step, rest.accepted.reason.as_str(), rest.stalled), (None, "PolicyDenied", true));
    withdrawn.policies[0].metadata.generation = Some(2);
    assert_eq!(step_of(&withdrawn), Some("Register"), "a policy has changed");
}

#[test]
fn credentials_that_are_out_stay_whatever_the_policies_have_come_to_say() {
    let mut observed = generous();
    observed.client.status.get_or_insert_default().client_id = Some("c".into());
    let plan = plan(&observed, now());
    assert_eq!(plan.accepted.reason, "PolicyDenied");
    assert_eq!(plan.step.map(|step| step.name()), Some("ApplySecret"));
}

#[test]
fn an_adoption_that_was_refused_in_this_pass_is_not_tried_again_in_it() {
    let mut observed = new_client();
    observed.client.finalizers_mut().push(FINALIZER.into());
    spec(&mut observed, json!({"adopt": {"clientId": "c", "secretRef": {"name": "old"}}}));
    observed.adoption = Some(Ok(Adoption::default()));
    assert_eq!(step_of(&observed), Some("Adopt"));
    observed.lost = Some("GET https://as/reg/c answered 401".into());
    assert_eq!(step_of(&observed), None);
}

#[test]
fn former_clients_that_the_status_still_names_outlive_the_registration_secret() {
    let mut observed = settled(registered());
    let status = observed.client.status.as_mut().unwrap();
    status.retiring =
        serde_json::from_value(json!([{"clientId": "former", "deleteAfter": "2030-01-01T00:00:00Z"}])).unwrap();
    observed.registration = RegistrationSecret::Absent;
    let names = |retiring: Vec<Retiring>| -> Vec<(String, bool)> {
        retiring.into_iter().map(|former| (former.information.client_id, former.is_lost)).collect()
    };
    assert_eq!(names(observed.listed_as_retiring(now())), [("former".to_owned(), true)]);
    let both = [("former".to_owned(), true), ("c".to_owned(), true)];
    assert_eq!(names(observed.left_behind(Some("c"), "new", now())), both);
}

#[test]
fn a_new_registration_that_is_the_client_of_before_leaves_nothing_of_it_behind() {
    let mut observed = settled(registered());
    let ids = |observed: &Observed, registered: &str| -> Vec<String> {
        let left = observed.left_behind(Some("c"), registered, now());
        left.into_iter().map(|former| former.information.client_id).collect()
    };
    assert_eq!(ids(&observed, "new"), ["c"]);
    assert!(ids(&observed, "c").is_empty());
    observed.registration = RegistrationSecret::Absent;
    assert_eq!(ids(&observed, "new"), ["c"]);
    assert!(ids(&observed, "c").is_empty());
}

#[test]
fn a_token_without_a_place_to_use_it_is_not_renewed_and_stands_in_nothing_s_way() {
    let mut homeless = answer();
    homeless.as_object_mut().unwrap().remove("registration_client_uri");
    let mut observed = settled(registered_with(&homeless));
    server(&mut observed, json!({"registrationAccessTokenLifetime": "672h"}));
    let then = now() + days(20);
    assert_eq!(plan(&observed, then).step, None);
    observed.client.spec.client_metadata.as_mut().unwrap().scope = Some("email".into());
    assert_eq!(plan(&observed, then).in_sync.reason, "UpdateUnsupported");
    spec(&mut observed, json!({"replacement": {"when": ["UpdateUnsupported"]}}));
    assert_eq!(plan(&observed, then).step.map(|step| step.name()), Some("Register"));
}

#[test]
fn a_server_that_renews_no_token_is_asked_once_and_people_are_told() {
    let mut observed = settled(registered());
    server(&mut observed, json!({"registrationAccessTokenLifetime": "672h"}));
    change(&mut observed, |registration| registration.history.renewal_keeps_token = true);
    let told = plan(&observed, now() + days(20));
    assert_eq!((told.step, told.in_sync.reason.as_str()), (None, "RegistrationAccessTokenExpiring"));
    assert!(told.in_sync.message.contains("gave no new one"), "{}", told.in_sync.message);
}

#[test]
fn a_renewal_that_can_not_be_had_stands_in_nobodys_way() {
    let mut ending = answer();
    ending["client_secret_expires_at"] = json!(NOW + 86400);
    let mut observed = settled(registered_with(&ending));
    server(&mut observed, json!({"registrationAccessTokenLifetime": "672h"}));
    let then = now() + days(20);
    let Some(Step::Update { cause: Cause::TokenRenewal { .. }, .. }) = plan(&observed, then).step else {
        panic!("the token, though the secret has ended and nobody renews it")
    };
}

/// The status as it is written at the end of a pass in which the server has answered.
pub(super) fn confirmed(mut observed: Observed) -> Observed {
    observed.live = Some(Live { information: held(&observed).information, drift: Vec::new() });
    let mut observed = settled(observed);
    observed.live = None;
    observed
}

#[test]
fn the_management_client_deletes_only_what_the_status_names() {
    assert!(!settled(registered()).is_vouched_for(&held(&registered()).information), "the server has not said so");
    let observed = confirmed(registered());
    assert!(settled(observed.clone()).client.status.unwrap().confirmed, "it stays said");
    let own = held(&observed).information;
    assert!(observed.is_vouched_for(&own));
    let other = information(json!({"client_id": "somebody", "registration_client_uri": "https://as/reg/c"}));
    let elsewhere = information(json!({"client_id": "c", "registration_client_uri": "https://as/reg/somebody"}));
    assert!(!observed.is_vouched_for(&other) && !observed.is_vouched_for(&elsewhere));
    assert!(!new_client().is_vouched_for(&own), "nothing has been said yet");
}

#[test]
fn a_registration_secret_that_has_been_edited_is_not_followed() {
    let observed = confirmed(registered());
    let read = |edit: &dyn Fn(&mut Registration)| {
        let mut registration = held(&observed);
        edit(&mut registration);
        as_the_status_says(kept(registration), observed.client.status.as_ref())
    };
    let RegistrationSecret::Held { registration, .. } =
        read(&|edited| edited.information.registration_client_uri = Some("https://as/reg/somebody".into()))
    else {
        panic!("held")
    };
    assert_eq!(registration.information.registration_client_uri.as_deref(), Some("https://as/reg/c"));
    let mut without = observed.client.status.clone().unwrap();
    without.registration_client_uri = None;
    let read_without = as_the_status_says(observed.registration.clone(), Some(&without));
    let RegistrationSecret::Held { registration, .. } = read_without else { panic!("held") };
    assert_eq!(registration.information.registration_client_uri, None, "the server gave none");
    let RegistrationSecret::Unreadable { secret, flaw } =
        read(&|edited| edited.information.client_id = "somebody".into())
    else {
        panic!("of no use")
    };
    let edited = Observed { registration: RegistrationSecret::Unreadable { secret, flaw }, ..observed.clone() };
    let lost = plan(&edited, now());
    assert_eq!((lost.step, lost.registered.reason.as_str(), lost.stalled), (None, "RegistrationLost", true));
    for said in ["shop-registration", "client somebody", "is c", "estore the Secret"] {
        assert!(lost.registered.message.contains(said), "{said} should be in: {}", lost.registered.message);
    }
    let Some(Step::ReportOrphan { client_ids, .. }) = plan(&delete(edited), now()).step else { panic!("reported") };
    assert_eq!(client_ids, ["c"]);

    // A former client that the status does not name is somebody's.
    let planted = information(json!({"client_id": "former", "registration_client_uri": "https://as/reg/former"}));
    let mut observed = observed;
    change(&mut observed, |registration| {
        registration.retiring.push(Retiring {
            information: planted.clone(),
            keys: ClientKeys::default(),
            delete_after: at(NOW + 60),
            is_lost: false,
            server: None,
        });
    });
    assert!(!settled(observed).is_vouched_for(&planted));
}

#[test]
fn a_successor_is_named_before_the_former_client_goes_and_the_status_knows_both() {
    let mut observed = confirmed(registered());
    let former = held(&observed).information;
    change(&mut observed, |registration| {
        registration.information.client_id = "new".into();
        registration.information.registration_client_uri = Some("https://as/reg/new".into());
        let (information, keys) = (former.clone(), ClientKeys::default());
        registration.retiring.push(Retiring { information, keys, delete_after: now(), is_lost: false, server: None });
    });
    let Some(Step::ApplySecret { secret, .. }) = plan(&observed, now()).step else { panic!("the Secret") };
    observed.apply(written(&secret));
    let read = as_the_status_says(observed.registration.clone(), observed.client.status.as_ref());
    assert!(matches!(read, RegistrationSecret::Held { .. }));
    for observed in [observed.clone(), delete(observed.clone())] {
        let lagging = plan(&observed, now());
        assert_eq!((lagging.step, lagging.requeue_after), (None, Some(Duration::ZERO)));
        let told = settled(observed);
        assert_eq!(step_of(&told), Some("Retire"));
        assert!(told.is_vouched_for(&former) && !told.is_vouched_for(&held(&told).information));
    }
}

#[test]
fn what_the_server_has_not_said_yet_is_read_before_the_management_client_is_needed() {
    let mut observed = settled(registered());
    server(&mut observed, json!({"managementClient": {"clientId": "m", "secretRef": {"name": "manager"}}}));
    assert_eq!(plan(&observed, now()).step, Some(Step::Read { purpose: Purpose::Compare }));
    assert_eq!(held(&observed).access(observed.manages(&held(&observed).information)), [Access::Token]);
    let read = answered(&observed, |_| {});
    observed.apply(read);
    let mut observed = settled(observed);
    observed.live = None;
    assert_eq!(step_of(&observed), None);
    assert!(observed.manages(&held(&observed).information));
}

#[test]
fn a_client_that_was_adopted_as_it_was_given_is_nobodys_word() {
    let mut observed = new_client();
    let mut given = registration(&json!({"client_id": "c", "client_secret": "s"}));
    given.history.origin = Origin::Adopted;
    let (client, secret) = (Box::new(observed.client.clone()), StoredSecret::default());
    observed.apply(Change::Enrolled { client, secret, registration: Box::new(given) });
    let status = settled(observed).client.status.unwrap();
    assert_eq!((status.client_id.as_deref(), status.confirmed), (Some("c"), false));
}

/// A registered client whose profile has come to describe another server.
fn moved(issuer: &str, endpoint: &str) -> Observed {
    let mut observed = registered();
    let server = ServerSnapshot { metadata: server_metadata(&profile()).unwrap(), ..ServerSnapshot::default() };
    let server = ServerSnapshot { profile: "token-service".into(), ..server };
    observed.registration = kept(Registration { server, ..registration(&answer()) });
    let status = observed.client.status.get_or_insert_default();
    status.client_id = Some("c".into());
    status.registration_client_uri = Some("https://as/reg/c".into());
    let now = observed.profile.as_mut().unwrap().status.as_mut().unwrap();
    now.issuer = Some(issuer.to_owned()).filter(|issuer| !issuer.is_empty());
    now.registration_endpoint = Some(endpoint.to_owned());
    now.token_endpoint = Some(format!("{endpoint}/token"));
    observed
}

#[test]
fn credentials_are_not_published_with_the_endpoints_of_another_server() {
    for (issuer, endpoint, expected) in [
        ("https://as", "https://as/v2/reg", "https://as/v2/reg/token"),
        ("https://as", "https://mtls.as/reg", "https://mtls.as/reg/token"),
        ("https://as/", "https://as/reg", "https://as/reg/token"),
        ("", "https://as/v2/reg", "https://as/v2/reg/token"),
        ("https://other", "https://other/reg", "https://as/token"),
        ("https://as/other-realm", "https://as/other-realm/reg", "https://as/token"),
        ("", "https://other/reg", "https://as/token"),
    ] {
        let mut observed = moved(issuer, endpoint);
        observed.secret = ApplicationSecret::Absent;
        let Some(Step::ApplySecret { secret, .. }) = plan(&observed, now()).step else { panic!("{endpoint}") };
        assert_eq!(secret.data.text("token-uri"), Some(expected), "{issuer} {endpoint}");
    }
}

#[test]
fn a_server_under_another_name_is_asked_and_one_that_does_not_know_the_client_leaves_it_as_it_is() {
    let mut observed = moved("https://other", "https://other/reg");
    assert_eq!(plan(&observed, now()).step, Some(Step::Read { purpose: Purpose::Compare }));
    observed.lost = Some("registered at https://as".into());
    let lost = plan(&observed, now());
    assert_eq!((lost.step, lost.registered.reason.as_str(), lost.stalled), (None, "RegistrationLost", true));

    // At the same origin, a client without management: there is nobody to ask.
    let mut unmanaged = moved("https://other", "https://other/reg");
    let Some(information) = held_mut(&mut unmanaged) else { panic!("held") };
    information.registration_access_token = None;
    for mut observed in [moved("https://as/b", "https://as/b/reg"), unmanaged] {
        let lost = plan(&observed, now());
        assert_eq!((lost.step, lost.registered.reason.as_str(), lost.stalled), (None, "RegistrationLost", true));
        assert!(lost.registered.message.contains("registered at https://as,"), "{}", lost.registered.message);
        assert!(lost.secret_synced.is_true());
        let when = vec![ReplacementReason::RegistrationLost];
        observed.client.spec.replacement = Some(crate::api::Replacement { when, ..Default::default() });
        assert_eq!(step_of(&observed), Some("Register"));
    }
}

#[test]
fn what_is_left_on_a_former_server_stays_known_as_that() {
    let observed = moved("https://other", "https://other/reg");
    let status = status::status(&observed, &plan(&observed, now()), None, now());
    assert_eq!(status.registration_client_uri.as_deref(), Some("https://as/reg/c"), "for the time without a profile");
    let left = observed.left_behind(Some("c"), "new", now());
    assert_eq!(left[0].server.as_ref().map(ServerSnapshot::name).as_deref(), Some("https://as"));
    assert!(moved("https://as", "https://as/v2/reg").left_behind(Some("c"), "new", now())[0].server.is_none());

    // Its management client could delete a client of the same identifier there.
    let mut managed = observed;
    managed.profile.as_mut().unwrap().spec.server.management_client =
        serde_json::from_value(json!({"clientId": "manager"})).unwrap();
    let RegistrationSecret::Held { registration, .. } = &managed.registration else { panic!("held") };
    assert!(!managed.manages(&registration.information));
}

#[test]
fn the_status_tells_where_a_client_is_and_nothing_of_one_that_it_has_not_heard_of() {
    let mut observed = registered();
    let status = observed.client.status.get_or_insert_default();
    status.client_id = Some("x".into());
    status.registration_client_uri = Some("https://as/reg/x".into());
    status.retiring = vec![
        serde_json::from_value(json!({"clientId": "w", "registrationClientUri": "https://as/reg/w",
            "deleteAfter": "1970-01-01T00:00:00Z"}))
        .unwrap(),
        serde_json::from_value(json!({"clientId": "v", "deleteAfter": "1970-01-01T00:00:00Z"})).unwrap(),
    ];
    assert_eq!(observed.known_uri("x").as_deref(), Some("https://as/reg/x"));
    assert_eq!(observed.known_uri("w").as_deref(), Some("https://as/reg/w"));
    assert_eq!(observed.known_uri("v"), None);
    assert_eq!(observed.known_uri("y"), None, "it took the place of x, and the operator died before the status");
}

fn held_mut(observed: &mut Observed) -> Option<&mut ClientInformation> {
    match &mut observed.registration {
        RegistrationSecret::Held { registration, .. } => Some(&mut registration.information),
        _ => None,
    }
}

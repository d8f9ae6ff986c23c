//! What comes with time: comparisons, rotations, and renewals before something ends.

use super::*;
use crate::oauth_client::keys::tests::key;

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
fn a_client_with_keys_registers_the_public_keys_and_rotates_them_with_overlap() {
    let mut observed = new_client();
    spec(&mut observed, json!({"keys": {"algorithm": "ES256", "rotationInterval": "720h"}}));
    let Some(Step::Register { new_key: Some(_), .. }) = plan(&observed, now()).step else { panic!("a new key") };

    let mut holding = registered_with(&json!({"client_id": "c", "registration_access_token": "t",
        "registration_client_uri": "https://as/reg/c", "token_endpoint_auth_method": "private_key_jwt"}));
    holding.client.spec = observed.client.spec.clone();
    let hold = |registration: &mut Registration, keys| {
        registration.keys = keys;
        let document = metadata::document(&observed.client.spec).unwrap();
        registration.request = Some(registration.keys.laid_into(document).0);
        registration.information.metadata = registration.request.clone().unwrap();
    };
    change(&mut holding, |registration| hold(registration, ClientKeys(vec![key("old", NOW)])));
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
        hold(registration, registration.keys.succeeded_by(key("new", NOW), days(1), now()));
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

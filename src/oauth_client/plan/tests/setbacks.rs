//! Something fails, or can't be had: what goes on all the same, and what must not.

use super::*;
use crate::oauth_client::{act::Error, keys::tests::key, ownership::as_the_status_says};

/// The status after a pass in which this step has failed.
fn failed(mut observed: Observed, step: &Step, error: &Error) -> Observed {
    let failure = status::Failure::new(step, error);
    observed.client.status = Some(status::status(&observed, &plan(&observed, now()), Some(&failure), now()));
    observed
}

fn outage() -> Error {
    Error::CircuitOpen(Duration::from_secs(5))
}

fn ready(observed: &Observed) -> String {
    let status = observed.client.status.as_ref().unwrap();
    let ready = condition(&status.conditions, conditions::READY).unwrap();
    format!("{} {}", ready.status, ready.reason)
}

#[test]
fn what_the_policies_forbid_is_not_published_after_a_narrowing_that_failed() {
    let observed = generous();
    let narrowing = plan(&observed, now()).step.unwrap();
    let observed = failed(observed, &narrowing, &outage());
    assert_eq!(observed.client.status.as_ref().unwrap().client_id.as_deref(), Some("c"));
    assert_eq!(step_of(&observed), Some("Update"), "narrowed before it is published");
}

#[test]
fn what_was_withdrawn_is_not_missed() {
    let observed = generous();
    let narrowing = plan(&observed, now()).step.unwrap();
    let mut observed = failed(observed, &narrowing, &outage());
    let inputs = Some(observed.refusal_inputs());
    let ended = Ended { reason: reasons::POLICY_DENIED.into(), message: "more".into(), refused_inputs: inputs };
    annotate(&mut observed, &attempt(Some(ended)));
    observed.registration = RegistrationSecret::Absent;
    let observed = settled(observed);
    assert_eq!(ready(&observed), "False PolicyDenied");
    assert_eq!(observed.client.status.unwrap().client_id, None);
}

#[test]
fn a_key_whose_time_is_over_keeps_nobody_busy() {
    let mut observed = settled(registered());
    change(&mut observed, |registration| {
        registration.keys =
            ClientKeys(vec![key("old", NOW)]).succeeded_by(key("new", NOW), Duration::from_secs(1), now());
    });
    observed.secret = ApplicationSecret::Absent;
    let Some(Step::ApplySecret { secret, .. }) = plan(&observed, now()).step else { panic!("the Secret") };
    observed.apply(written(&secret));
    observed.not_before = Some(Timestamp::MAX);
    assert_eq!(plan(&observed, now() + days(1)).requeue_after, None);
}

/// The server has said no to the last update for good.
fn refused() -> Observed {
    let mut observed = settled(registered());
    spec(&mut observed, json!({"clientMetadata": {"redirect_uris": ["https://shop/cb"], "scope": "openid email"}}));
    observed.not_before = Some(Timestamp::MAX);
    let conditions = &mut observed.client.status.as_mut().unwrap().conditions;
    let rejected = vec![(conditions::IN_SYNC, Finding::no(reasons::UPDATE_REJECTED, "no"))];
    let others: Vec<_> = conditions.iter().filter(|c| c.type_ != conditions::IN_SYNC).cloned().collect();
    *conditions = [others, merge(&[], rejected, Some(1), now())].concat();
    observed
}

#[test]
fn a_refused_update_keeps_no_former_client_alive() {
    let mut observed = refused();
    change(&mut observed, |registration| {
        let information = ClientInformation { client_id: "former".into(), ..registration.information.clone() };
        registration.retiring.push(retiring(information));
    });
    assert_eq!(step_of(&settled(observed)), Some("Retire"));
}

#[test]
fn a_refused_update_stops_no_renewal_and_hides_no_end() {
    let mut observed = refused();
    server(&mut observed, json!({"readRotatesCredentials": true}));
    change(&mut observed, |registration| {
        registration.information.client_secret_expires_at = Some(NOW + 100_000);
    });
    let due = at(NOW + 90_000);
    assert_eq!(plan(&observed, due).step.map(|step| step.name()), Some("Read"));
    let mut expired = refused();
    change(&mut expired, |registration| registration.information.client_secret_expires_at = Some(NOW + 1));
    assert_eq!(plan(&expired, at(NOW + 2)).registered.reason, "SecretExpired");
}

#[test]
fn a_profile_that_is_away_hides_no_end() {
    let mut observed = settled(registered());
    observed.profile = None;
    change(&mut observed, |registration| registration.information.client_secret_expires_at = Some(NOW + 1));
    assert_eq!(plan(&observed, at(NOW + 2)).registered.reason, "SecretExpired");
}

#[test]
fn a_restart_that_failed_is_made_up_for() {
    let mut observed = settled(registered());
    spec(&mut observed, json!({"rolloutRestartTargets": [{"kind": "Deployment", "name": "shop"}]}));
    change(&mut observed, |registration| registration.history.rotated = true);
    let restart = plan(&observed, now()).step.unwrap();
    let observed = failed(observed, &restart, &outage());
    assert_eq!(step_of(&observed), Some("RestartWorkloads"), "the status does not say that it is done");
    assert_eq!(ready(&observed), "True Ready", "the credentials are there");
}

#[test]
fn what_can_not_be_published_is_not_renewed_and_nothing_that_is_published_goes() {
    let mut observed = annotated(settled(registered()), annotations::ROTATE, "please");
    server(&mut observed, json!({"readRotatesCredentials": true}));
    assert_eq!(step_of(&observed), Some("Read"));
    spec(&mut observed, json!({"secret": {"template": {"config": "{{ nosuch }}"}}}));
    change(&mut observed, |registration| {
        let information = ClientInformation { client_id: "former".into(), ..registration.information.clone() };
        registration.retiring.push(retiring(information));
    });
    let waiting = plan(&observed, now());
    assert_eq!((waiting.step, waiting.secret_synced.reason.as_str()), (None, "TemplateError"));
}

#[test]
fn an_end_that_makes_no_sense_is_told_and_not_renewed_again_and_again() {
    // A lifetime where a time should be.
    let mut observed = unmanaged();
    spec(&mut observed, json!({"replacement": {"when": ["Rotation"]}}));
    change(&mut observed, |registration| registration.information.client_secret_expires_at = Some(86_400));
    let observed = settled(observed);
    let told = plan(&observed, now());
    assert_eq!((told.step, told.registered.reason.as_str()), (None, "SecretExpired"));
    assert!(told.registered.message.contains("before it was issued"), "{}", told.registered.message);
}

#[test]
fn a_life_of_a_second_is_not_renewed_every_second() {
    let mut observed = settled(registered());
    change(&mut observed, |registration| {
        registration.information.metadata.insert("registration_access_token_expires_in".into(), json!(1));
    });
    let plan = plan(&observed, at(NOW + 5));
    assert_eq!((plan.step, plan.requeue_after), (None, Some(Duration::from_secs(5))));
}

#[test]
fn a_former_client_that_can_not_be_removed_yet_says_nothing_about_the_one_in_use() {
    for step in [Step::Retire { client_id: "former".into() }, Step::ReportPossibleOrphan { attempt: attempt(None) }] {
        let observed = failed(settled(registered()), &step, &outage());
        assert_eq!(ready(&observed), "True Ready");
        let status = observed.client.status.unwrap();
        let in_sync = condition(&status.conditions, conditions::IN_SYNC).unwrap();
        assert_eq!((in_sync.status.as_str(), in_sync.reason.as_str()), ("Unknown", "ServerUnavailable"));
    }
}

#[test]
fn another_key_algorithm_is_tried_though_the_last_one_was_refused() {
    let mut observed = new_client();
    spec(&mut observed, json!({"keys": {"algorithm": "EdDSA"}}));
    let before = observed.refusal_inputs();
    spec(&mut observed, json!({"keys": {"algorithm": "ES256"}}));
    assert_ne!(observed.refusal_inputs(), before);
}

#[test]
fn a_server_that_takes_no_updates_gets_a_new_client_if_the_spec_allows_it() {
    let mut observed = refused();
    observed.not_before = None;
    assert_eq!(step_of(&observed), Some("Update"));
    observed.cannot_update = true;
    let told = plan(&observed, now());
    assert_eq!((told.step, told.in_sync.reason.as_str(), told.stalled), (None, "UpdateUnsupported", true));
    spec(&mut observed, json!({"replacement": {"when": ["UpdateUnsupported"]}}));
    assert_eq!(step_of(&observed), Some("Register"));
}

#[test]
fn keys_that_may_not_be_rotated_now_say_why() {
    let mut observed = registered();
    spec(&mut observed, json!({"keys": {"algorithm": "ES256", "rotationInterval": "720h"}}));
    change(&mut observed, |registration| registration.keys = ClientKeys(vec![key("old", NOW)]));
    observed.secret = ApplicationSecret::Absent;
    let Some(Step::ApplySecret { secret, .. }) = plan(&observed, now()).step else { panic!("the Secret") };
    observed.apply(written(&secret));
    observed.policies = vec![denying()];
    assert_eq!(plan(&observed, now() + days(40)).in_sync.reason, "PolicyDenied");
}

#[test]
fn an_edited_place_is_noticed_in_path_and_query() {
    let of = |uri: &str| {
        let mut answer = answer();
        answer["registration_client_uri"] = json!(uri);
        answer
    };
    for (own, edited) in
        [("https://as/reg/c", "https://as/reg/other"), ("https://as/reg?client_id=c", "https://as/reg?client_id=other")]
    {
        let observed = confirmed(registered_with(&of(own)));
        let kept = kept(registration(&of(edited)));
        let read = as_the_status_says(kept, observed.client.status.as_ref());
        let RegistrationSecret::Held { registration, .. } = read else { panic!("held") };
        assert_eq!(registration.information.registration_client_uri.as_deref(), Some(own));
        let edited = ClientInformation::from_json(of(edited).as_object().cloned().unwrap()).unwrap();
        assert!(!observed.is_vouched_for(&edited), "{edited:?}");
    }
}

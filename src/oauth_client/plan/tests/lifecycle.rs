//! Changes, replacements, and what the policies allow of what the server has registered.

use super::*;

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
        registration.retiring = vec![Retiring { delete_after: at(NOW + 60), ..retiring(information) }];
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
    assert!(why.len() <= crate::oauth_client::accept::LONGEST_MESSAGE && why.ends_with(" more"), "{why}");
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

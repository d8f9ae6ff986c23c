//! The end of a client: removed, reported, or left on purpose.

use super::*;

#[test]
fn a_deleted_client_is_removed_from_the_server_first() {
    assert_eq!(steps_of(delete(registered())), ["Deregister", "RemoveRegistration", "Release"]);
}

#[test]
fn deletion_needs_no_valid_spec_no_policy_and_no_profile() {
    let mut observed = registered();
    observed.policies = vec![denying()];
    observed.client.spec.additional_metadata.insert("client_id".into(), json!("x"));
    observed.profile = None;
    assert_eq!(steps_of(delete(observed)), ["Deregister", "RemoveRegistration", "Release"]);
}

#[test]
fn a_client_that_was_never_registered_goes_at_once() {
    assert_eq!(steps_of(delete(new_client())), Vec::<&str>::new(), "it has no finalizer");
    let mut observed = new_client();
    observed.client.finalizers_mut().push(FINALIZER.into());
    assert_eq!(steps_of(delete(observed.clone())), ["Release"]);
    annotate(&mut observed, &attempt(None));
    assert_eq!(steps_of(delete(observed)), ["ReportPossibleOrphan", "Release"]);
}

#[test]
fn what_can_not_be_removed_is_reported_by_its_client_id() {
    let reported = |observed: Observed| match plan(&observed, now()).step {
        Some(Step::ReportOrphan { client_ids, why }) => (client_ids.join(","), why, steps_of(observed)),
        other => panic!("{other:?}"),
    };
    let unmanaged = delete(registered_with(&json!({"client_id": "c", "client_secret": "s", "scope": "openid"})));
    let (client_id, why, steps) = reported(unmanaged);
    assert_eq!(
        (client_id.as_str(), steps.as_slice()),
        ("c", ["ReportOrphan", "RemoveRegistration", "Release"].as_slice())
    );
    assert!(why.contains("no registration access token"), "{why}");

    let mut forced = delete(registered());
    forced.client.annotations_mut().insert(annotations::FORCE_DELETE.into(), "true".into());
    assert!(reported(forced).1.contains("forced"));

    let mut late = delete(registered());
    late.client.metadata.deletion_timestamp = Some(Time(at(NOW - 600)));
    assert!(reported(late).1.contains("in time"));

    let mut spoilt = delete(registered());
    spoilt.client.status.get_or_insert_default().client_id = Some("c".into());
    spoilt.registration =
        RegistrationSecret::Unreadable { secret: StoredSecret::default(), flaw: Flaw::Key("request.json") };
    let (client_id, why, _) = reported(spoilt);
    assert_eq!(client_id, "c");
    assert!(why.contains("shop-registration is gone or spoilt"), "{why}");

    let mut lost = delete(new_client());
    lost.client.finalizers_mut().push(FINALIZER.into());
    lost.client.status.get_or_insert_default().client_id = Some("c".into());
    let (client_id, _, steps) = reported(lost.clone());
    assert_eq!((client_id.as_str(), steps), ("c", vec!["ReportOrphan", "Release"]));
    lost.client.spec.deletion_policy = DeletionPolicy::Retain;
    assert_eq!(steps_of(lost), ["Release"], "as the spec asks for");
}

#[test]
fn a_crash_in_a_deletion_repeats_no_report() {
    for steps in 1..3 {
        // The steps before the crash, and what the next process then does.
        let mut observed = delete(registered());
        let settled = Attempt::settled(&observed.client, now());
        annotate(&mut observed, &settled);
        if steps == 2 {
            observed.registration = RegistrationSecret::Absent;
        }
        let expected: &[&str] = if steps == 1 { &["RemoveRegistration", "Release"] } else { &["Release"] };
        assert_eq!(steps_of(observed), expected);
    }
}

#[test]
fn a_finalizer_that_was_taken_off_is_put_back_and_missed_by_no_deletion() {
    let mut observed = registered();
    observed.client.finalizers_mut().clear();
    assert_eq!(steps_of(observed.clone()), ["AddFinalizer"]);
    observed.client.finalizers_mut().push("example.com/other".into());
    let steps = steps_of(delete(observed));
    assert_eq!(steps, ["Deregister", "RemoveRegistration"], "the other finalizer holds it long enough");
}

#[test]
fn retain_leaves_the_client_on_the_server_and_asks_nobody() {
    let mut observed = delete(registered());
    observed.client.spec.deletion_policy = DeletionPolicy::Retain;
    assert_eq!(steps_of(observed), ["ReportRetained", "RemoveRegistration", "Release"]);
}

#[test]
fn a_deletion_waits_for_the_server_but_not_longer_than_its_time_out() {
    let mut observed = delete(registered());
    observed.not_before = Some(at(NOW + 60));
    assert_eq!(plan(&observed, now()).requeue_after, Some(Duration::from_mins(1)));
    observed.deletion_timeout = Duration::from_secs(15);
    let waiting = plan(&observed, now());
    assert_eq!((waiting.step, waiting.requeue_after), (None, Some(Duration::from_secs(5))), "10 s have passed");
}

#[test]
fn a_stray_registration_is_let_go_when_somebody_removes_it_or_the_client_goes() {
    let mut observed = settled(registered());
    let stray = |secret: Value| RegistrationSecret::Stray {
        secret: StoredSecret::new(serde_json::from_value(secret).unwrap()),
        client_ids: vec!["c".into()],
    };
    observed.registration = stray(json!({}));
    let conflict = plan(&observed, now());
    assert_eq!((conflict.step, conflict.secret_synced.reason.as_str()), (None, "SecretConflict"));
    assert_eq!(steps_of(delete(observed.clone())), ["ReportOrphan", "RemoveRegistration", "Release"]);
    observed.registration = stray(json!({"metadata": {"deletionTimestamp": "2030-01-01T00:00:00Z"}}));
    assert_eq!(steps_of(observed), ["RemoveRegistration"]);
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

//! From nothing to a Secret, and what keeps it as it is.

use super::*;

#[test]
fn a_new_client_is_registered_once_and_its_secret_written() {
    assert_eq!(steps_of(new_client()), ["Register", "ApplySecret"]);
    let Some(Step::Register { attempt, document, .. }) = plan(&new_client(), now()).step else { panic!("register") };
    assert_eq!((attempt.id.as_str(), attempt.uid.as_str(), attempt.ended), ("next", "u", None));
    assert_eq!(document.0, *metadata().as_object().unwrap());
}

#[test]
fn a_client_in_order_needs_nothing_and_is_ready() {
    let observed = registered();
    let plan = plan(&observed, now());
    assert_eq!((plan.step.as_ref(), plan.requeue_after, plan.stalled), (None, None, false));
    let status = status::status(&observed, &plan, None, now());
    let statuses: Vec<(&str, &str)> = status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str())).collect();
    let all_true = ["Ready", "Accepted", "Registered", "InSync", "SecretSynced"].map(|type_| (type_, "True"));
    assert_eq!(statuses, all_true);
    assert_eq!(status.client_id.as_deref(), Some("c"));
    assert_eq!(status.binding.unwrap().name, "shop");
}

#[test]
fn what_stands_in_the_way_of_a_registration_is_said_and_nothing_is_called() {
    let change = |change: &dyn Fn(&mut Observed)| {
        let mut observed = new_client();
        change(&mut observed);
        observed
    };
    let rows: Vec<(Observed, &str, &str, bool)> = vec![
        (change(&|o| o.profile = None), "ProfileNotFound", "identity/token-service does not exist", false),
        (
            change(&|o| (o.profile, o.profile_is_watched) = (None, false)),
            "ProfileNotFound",
            "identity/token-service can't be seen: the operator does not watch its namespace (--namespaces)",
            false,
        ),
        (
            change(&|o| o.profile.as_mut().unwrap().spec.allowed_namespaces.from = NamespacesFrom::Same),
            "RefNotPermitted",
            "does not allow OAuthClients of namespace shop",
            false,
        ),
        (change(&|o| o.profile.as_mut().unwrap().spec.suspend = true), "ProfileNotReady", "it is suspended", false),
        (change(&|o| o.profile.as_mut().unwrap().status = None), "ProfileNotReady", "not been looked at", false),
        (change(&|o| o.profile.as_mut().unwrap().metadata.generation = Some(2)), "ProfileNotReady", "not ready", false),
        (
            change(&|o| {
                o.client.spec.additional_metadata.insert("scope".into(), json!("admin"));
            }),
            "InvalidMetadata",
            "spec.clientMetadata.scope",
            true,
        ),
        (
            change(&|o| o.policies = vec![denying()]),
            "PolicyDenied",
            "DcrPolicy strict forbids grant_types: authorization_code (allowed: client_credentials); DcrPolicy strict forbids scope: openid",
            true,
        ),
    ];
    for (observed, reason, words, stalled) in rows {
        let plan = plan(&observed, now());
        assert_eq!(plan.step, None, "{reason}");
        assert_eq!((plan.accepted.reason.as_str(), plan.stalled), (reason, stalled));
        assert!(plan.accepted.message.contains(words), "{}", plan.accepted.message);
        let status = status::status(&observed, &plan, None, now());
        let ready = condition(&status.conditions, conditions::READY).unwrap();
        assert_eq!((ready.reason.as_str(), ready.message.as_str()), (reason, plan.accepted.message.as_str()));
        assert_ne!(ready.status, "True");
        let expected = if stalled { conditions::STALLED } else { conditions::RECONCILING };
        assert!(condition(&status.conditions, expected).is_some(), "{reason} is {expected}");
    }
}

#[test]
fn a_client_waits_for_its_namespace_to_be_seen_and_one_that_is_registered_stays_ready() {
    let mut observed = new_client();
    observed.namespace_is_seen = false;
    let waiting = plan(&observed, now());
    assert_eq!((waiting.step, waiting.stalled), (None, false));
    assert_eq!((waiting.accepted.reason.as_str(), waiting.accepted.is_true()), ("Progressing", false));
    assert!(waiting.accepted.message.contains("namespace shop has not been seen"), "{}", waiting.accepted.message);
    observed.namespace_is_seen = true;
    assert_eq!(step_of(&observed), Some("Register"));

    let mut observed = registered();
    observed.namespace_is_seen = false;
    let plan = plan(&observed, now());
    let status = status::status(&observed, &plan, None, now());
    assert_eq!(condition(&status.conditions, conditions::READY).unwrap().status, "True");
}

#[test]
fn a_profile_is_open_to_namespaces_by_label() {
    let mut observed = new_client();
    observed.profile.as_mut().unwrap().spec.allowed_namespaces =
        serde_json::from_value(json!({"from": "Selector", "selector": {"matchLabels": {"team": "shop"}}})).unwrap();
    assert_eq!(plan(&observed, now()).accepted.reason, "RefNotPermitted");
    observed.namespace_labels.insert("team".into(), "shop".into());
    assert_eq!(step_of(&observed), Some("Register"));
}

#[test]
fn a_foreign_secret_is_never_touched_and_nothing_is_registered_for_it() {
    let mut observed = new_client();
    observed.secret = ApplicationSecret::Foreign;
    let conflict = plan(&observed, now());
    assert_eq!((conflict.step, conflict.secret_synced.reason.as_str()), (None, "SecretConflict"));
    assert!(conflict.requeue_after.is_some(), "nobody tells when the other Secret goes");

    let mut observed = new_client();
    observed.registration = RegistrationSecret::Foreign;
    let conflict = plan(&observed, now());
    assert_eq!((conflict.step, conflict.secret_synced.reason.as_str()), (None, "SecretConflict"));
    assert!(conflict.secret_synced.message.contains("shop-registration"));
}

#[test]
fn an_attempt_without_an_answer_is_reported_before_the_next_one() {
    let mut observed = new_client();
    annotate(&mut observed, &attempt(None));
    assert_eq!(steps_of(observed.clone()), ["ReportPossibleOrphan", "Register", "ApplySecret"]);
    // An attempt that has ended is no orphan.
    let ended = Ended { reason: "ServerUnavailable".into(), message: String::new(), refused_inputs: None };
    annotate(&mut observed, &attempt(Some(ended)));
    assert_eq!(steps_of(observed), ["Register", "ApplySecret"]);
}

#[test]
fn what_the_server_refused_is_not_tried_again_until_something_changes() {
    let mut observed = new_client();
    let refused = |observed: &Observed| Ended {
        reason: "InvalidRedirectUri".into(),
        message: "no".into(),
        refused_inputs: Some(observed.refusal_inputs()),
    };
    let ended = refused(&observed);
    annotate(&mut observed, &attempt(Some(ended)));
    let rest = plan(&observed, now());
    assert_eq!((rest.step, rest.stalled, rest.requeue_after), (None, true, None));
    assert_eq!((rest.registered.reason.as_str(), rest.registered.message.as_str()), ("InvalidRedirectUri", "no"));

    let mut changed = observed.clone();
    changed.client.spec.client_metadata.as_mut().unwrap().scope = Some("openid email".into());
    assert_eq!(step_of(&changed), Some("Register"), "the spec");
    let mut changed = observed.clone();
    changed.profile.as_mut().unwrap().metadata.generation = Some(2);
    changed.profile.as_mut().unwrap().status.as_mut().unwrap().conditions[0].observed_generation = Some(2);
    assert_eq!(step_of(&changed), Some("Register"), "the profile");
    let mut changed = observed.clone();
    changed.client.annotations_mut().insert(annotations::RECONCILE.into(), "now".into());
    assert_eq!(step_of(&changed), Some("Register"), "a person asks for it");
    let mut unrelated = observed;
    unrelated.client.labels_mut().insert("a".into(), "b".into());
    unrelated.client.annotations_mut().insert("a".into(), "b".into());
    assert_eq!(step_of(&unrelated), None);
}

#[test]
fn a_failed_call_waits_for_its_time() {
    let mut observed = new_client();
    observed.not_before = Some(at(NOW + 5));
    let waiting = plan(&observed, now());
    assert_eq!((waiting.step, waiting.requeue_after), (None, Some(Duration::from_secs(5))));
    assert_eq!(plan(&observed, at(NOW + 5)).step.map(|step| step.name()), Some("Register"));
}

#[test]
fn an_outage_says_nothing_about_a_client_that_is_registered() {
    let mut observed = registered();
    observed.profile.as_mut().unwrap().status.as_mut().unwrap().conditions.clear();
    let plan = plan(&observed, now());
    assert!(plan.step.is_none() && plan.accepted.is_true() && plan.registered.is_true() && plan.in_sync.is_true());
}

#[test]
fn a_spoilt_secret_is_put_back_and_what_others_added_stays() {
    let spoil = |spoil: &dyn Fn(&mut k8s_openapi::api::core::v1::Secret, &mut SecretData)| {
        let mut observed = registered();
        let ApplicationSecret::Ours { secret, data } = &mut observed.secret else { panic!("ours") };
        spoil(&mut secret.0, data);
        observed
    };
    assert_eq!(step_of(&spoil(&|_, data| data.insert("client-id", "edited"))), Some("ApplySecret"));
    assert_eq!(step_of(&spoil(&|secret, _| secret.labels_mut().clear())), Some("ApplySecret"));
    assert_eq!(step_of(&spoil(&|_, data| data.insert("theirs", "x"))), None);
    let mut gone = registered();
    gone.secret = ApplicationSecret::Absent;
    assert_eq!(steps_of(gone), ["ApplySecret"]);
    let other_type = spoil(&|secret, _| secret.type_ = Some("other".into()));
    assert_eq!(steps_of(other_type), ["RemoveSecret", "ApplySecret"]);
}

#[test]
fn the_new_secret_is_there_before_the_old_one_goes() {
    let mut observed = registered();
    observed.client.spec.secret.name = Some("renamed".into());
    observed.former_secret = Some(StoredSecret::default());
    observed.secret = ApplicationSecret::Absent;
    assert_eq!(steps_of(observed), ["ApplySecret", "RemoveFormerSecret"]);
}

#[test]
fn a_secret_survives_its_profile() {
    let mut observed = registered();
    let ApplicationSecret::Ours { data: before, .. } = observed.secret.clone() else { panic!("ours") };
    observed.profile = None;
    observed.registration = kept(Registration {
        server: ServerSnapshot { metadata: server_metadata(&profile()).unwrap(), ..registration(&answer()).server },
        ..registration(&answer())
    });
    let rest = plan(&observed, now());
    assert_eq!((rest.step, rest.accepted.reason.as_str()), (None, "ProfileNotFound"));
    observed.secret = ApplicationSecret::Absent;
    let Some(Step::ApplySecret { secret, .. }) = plan(&observed, now()).step else { panic!("put back") };
    assert_eq!(secret.data, before);
}

#[test]
fn a_changed_spec_is_one_update_built_from_the_last_answer() {
    let mut observed = registered();
    let wanted = observed.client.spec.client_metadata.as_mut().unwrap();
    wanted.scope = Some("openid email".into());
    wanted.client_name = None;
    let Some(Step::Update { document, body, .. }) = plan(&observed, now()).step else { panic!("update") };
    assert_eq!(
        document.0,
        *json!({"redirect_uris": ["https://shop/cb"], "scope": "openid email"}).as_object().unwrap()
    );
    let expected = json!({"client_id": "c", "redirect_uris": ["https://shop/cb"], "scope": "openid email"});
    assert_eq!(Value::Object(body.0), expected, "without the server's members, the secret, and what was removed");
    assert_eq!(steps_of(observed), ["Update"]);
}

#[test]
fn without_management_access_a_changed_spec_is_said_to_be_unsupported() {
    let mut observed = registered_with(&json!({"client_id": "c", "client_secret": "s", "scope": "openid"}));
    observed.client.spec.client_metadata.as_mut().unwrap().scope = Some("email".into());
    let plan = plan(&observed, now());
    assert_eq!((plan.step.as_ref(), plan.in_sync.reason.as_str(), plan.stalled), (None, "UpdateUnsupported", true));
    let status = status::status(&observed, &plan, None, now());
    assert_eq!(condition(&status.conditions, conditions::READY).unwrap().status, "True", "the credentials work");
    assert!(condition(&status.conditions, conditions::STALLED).is_some());
}

#[test]
fn a_client_that_a_newer_policy_forbids_keeps_what_it_has_and_is_not_updated() {
    let mut observed = registered();
    observed.policies = vec![denying()];
    let rest = plan(&observed, now());
    assert_eq!((rest.step.as_ref(), rest.accepted.reason.as_str()), (None, "PolicyDenied"));
    assert!(rest.secret_synced.is_true() && rest.in_sync.is_true());
    observed.client.spec.client_metadata.as_mut().unwrap().client_name = Some("Other".into());
    let rest = plan(&observed, now());
    assert_eq!((rest.step, rest.in_sync.reason.as_str()), (None, "PolicyDenied"));
}

#[test]
fn a_lost_registration_is_not_replaced_by_a_guess() {
    let mut observed = new_client();
    observed.client.status.get_or_insert_default().client_id = Some("c".into());
    let lost = plan(&observed, now());
    assert_eq!((lost.step, lost.registered.reason.as_str(), lost.stalled), (None, "RegistrationLost", true));
    let mut observed = registered();
    observed.registration =
        RegistrationSecret::Unreadable { secret: StoredSecret::default(), flaw: Flaw::Key("attempt") };
    let lost = plan(&observed, now());
    assert_eq!((lost.step, lost.registered.reason.as_str()), (None, "RegistrationLost"));
    assert!(lost.registered.message.contains("estore the Secret"), "{}", lost.registered.message);
}

#[test]
fn a_suspended_client_is_left_as_it_is_and_can_be_deleted() {
    let suspend: [fn(&mut Observed); 2] = [
        |o| o.client.spec.suspend = true,
        |o| {
            o.client.annotations_mut().insert(annotations::PAUSED.into(), "true".into());
        },
    ];
    for suspend in suspend {
        let mut observed = new_client();
        suspend(&mut observed);
        assert_eq!(step_of(&observed), None);
        let mut observed = registered();
        suspend(&mut observed);
        observed.secret = ApplicationSecret::Absent;
        assert_eq!(step_of(&observed), None);
        assert_eq!(steps_of(delete(observed)), ["Deregister", "RemoveRegistration", "Release"]);
    }
}

#[test]
fn a_registration_that_the_server_does_not_know_any_more_stays_lost() {
    let mut observed = registered();
    observed.client.spec.client_metadata.as_mut().unwrap().client_name = None;
    observed.not_before = Some(Timestamp::MAX);
    let said = vec![(conditions::REGISTERED, Finding::no(reasons::REGISTRATION_LOST, "gone"))];
    observed.client.status.get_or_insert_default().conditions = merge(&[], said, Some(1), now());
    let plan = plan(&observed, now());
    assert_eq!((plan.registered.reason.as_str(), plan.stalled), ("RegistrationLost", true));
}

#[test]
fn no_plan_shows_a_secret() {
    let mut observed = registered_with(&json!({"client_id": "c", "client_secret": "hunter2",
        "registration_access_token": "token-of-c", "registration_client_uri": "https://as/reg/c", "scope": "openid"}));
    observed.secret = ApplicationSecret::Absent;
    let mut changed = registered();
    changed.client.spec.client_metadata.as_mut().unwrap().software_statement = Some(String::from("a.b.c").into());
    for observed in [observed, changed] {
        let shown = format!("{:?}", plan(&observed, now()));
        assert!(shown.contains("step: Some"), "{shown}");
        for secret in ["hunter2", "token-of-c", "a.b.c"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }
}

#[test]
fn the_names_of_our_secrets_are_as_documented() {
    assert_eq!(registration::secret_name("shop"), "shop-registration");
    let labels = secret_labels("shop");
    assert_eq!(labels["app.kubernetes.io/managed-by"], "dcr-operator");
    assert_eq!(labels["dcr-operator.dev/client"], "shop");
}

#[test]
fn nothing_is_registered_in_a_namespace_that_is_going() {
    let mut going = new_client();
    going.namespace_is_terminating = true;
    // The watch lags behind: the last answer could not be kept.
    let mut met = new_client();
    let ended = Ended { reason: reasons::NAMESPACE_TERMINATING.into(), message: String::new(), refused_inputs: None };
    annotate(&mut met, &attempt(Some(ended)));
    for observed in [going, met] {
        let plan = plan(&observed, now());
        assert_eq!(plan.step, None);
        assert_eq!(plan.secret_synced.reason, reasons::NAMESPACE_TERMINATING);
        assert_eq!(plan.requeue_after, None);
    }
}

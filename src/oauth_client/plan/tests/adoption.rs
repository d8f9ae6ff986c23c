//! A client that was there before the OAuthClient, and one whose Secret has to be made anew.

use super::*;
use crate::oauth_client::{adoption::Adoption, registration::Origin};

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

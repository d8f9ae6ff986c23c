//! Whose a client is, and at which server.

use super::*;
use crate::oauth_client::{ownership::as_the_status_says, registration::Origin};

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
        registration.retiring.push(Retiring { delete_after: at(NOW + 60), ..retiring(planted.clone()) });
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
        registration.retiring.push(retiring(former.clone()));
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

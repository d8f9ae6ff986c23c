//! What a DcrPolicy forbids never reaches the server.

use futures::{StreamExt, stream};
use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        fault_server::{Answer, FaultServer, Registrar, RegistrarOptions},
        process::wait_until,
    },
};

#[tokio::test]
async fn a_denial_names_policy_field_and_every_value_and_ends_when_the_policy_is_loosened() {
    let (home, server) = (Home::new("denied").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.apply(&policy("web", &json!({"allowedScopes": ["openid"], "allowedGrantTypes": ["authorization_code"]})))
        .await;
    home.apply(&policy("other", &json!({"profileRef": {"name": "other"}, "allowedGrantTypes": []}))).await;
    home.until_condition(POLICIES, "web", ["Ready", "True", "Ready"]).await;
    home.until_condition(POLICIES, "other", ["Ready", "True", "Ready"]).await;
    let calls = server.requests().len();

    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"]["scope"] = json!("openid email admin");
    home.apply(&client).await;
    let message = home.until_condition(CLIENTS, "shop", ["Accepted", "False", "PolicyDenied"]).await;
    for forbidden in ["grant_types: refresh_token", "scope: email", "scope: admin"] {
        assert_says(&message, &[&format!("DcrPolicy web forbids {forbidden}")]);
    }
    assert_says(&message, &["(allowed: openid)", "(allowed: authorization_code)"]);
    assert!(!message.contains("scope: openid") && !message.contains("grant_types: authorization_code"), "{message}");
    assert!(!message.contains("DcrPolicy other"), "{message}");
    let object = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&object, "Ready"), "False PolicyDenied");
    assert_eq!(verdict(&object, "Stalled"), "True PolicyDenied");
    assert_says(&home.until_event("PolicyDenied").await, &["DcrPolicy web"]);
    assert_eq!(server.requests().len(), calls, "no call is made for what is forbidden");
    let counted = json!({"matching": 1, "violating": 1});
    home.until("it counts", POLICIES, "web", move |policy| policy["status"]["clients"] == counted).await;

    let loose = json!({"allowedScopes": ["openid", "email", "admin"], "allowedGrantTypes": null});
    home.patch(POLICIES, "web", json!({"spec": loose})).await;
    let object = home.until_ready("shop").await;
    assert_eq!(verdict(&object, "Stalled"), "");
    let counted = json!({"matching": 1, "violating": 0});
    home.until("it counts", POLICIES, "web", move |policy| policy["status"]["clients"] == counted).await;
}

#[tokio::test]
async fn a_client_without_grant_types_counts_as_authorization_code() {
    let (home, server) = (Home::new("default").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.apply(&policy("machines", &json!({"allowedGrantTypes": ["client_credentials"]}))).await;
    home.until_condition(POLICIES, "machines", ["Ready", "True", "Ready"]).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"].as_object_mut().unwrap().remove("grant_types");
    home.apply(&client).await;
    let message = home.until_condition(CLIENTS, "shop", ["Accepted", "False", "PolicyDenied"]).await;
    assert_says(&message, &["DcrPolicy machines forbids grant_types: authorization_code"]);
    client["spec"]["clientMetadata"]["grant_types"] = json!(["client_credentials"]);
    home.apply(&client).await;
    home.until_ready("shop").await;
}

#[tokio::test]
async fn a_stricter_policy_stops_changes_and_leaves_what_is_registered() {
    let (home, server) = (Home::new("stricter").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.register("shop").await;
    let (secret, calls) = (home.secret("shop").await, server.requests().len());
    home.apply(&policy("strict", &json!({"allowedScopes": ["openid"]}))).await;
    home.until_condition(CLIENTS, "shop", ["Accepted", "False", "PolicyDenied"]).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["clientMetadata"]["scope"] = json!("openid profile");
    home.apply(&client).await;
    let message = home.until_condition(CLIENTS, "shop", ["InSync", "False", "PolicyDenied"]).await;
    assert_says(&message, &["stays as it is registered"]);
    let object = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&object, "Ready"), "True Ready");
    assert_eq!((home.secret("shop").await, server.requests().len()), (secret, calls));
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 0, "a policy does not hold up a deletion");
}

#[tokio::test]
async fn a_deleted_policy_forbids_nothing() {
    let (home, server) = (Home::new("lifted").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.apply(&policy("none", &json!({"allowedGrantTypes": []}))).await;
    home.until_condition(POLICIES, "none", ["Ready", "True", "Ready"]).await;
    home.apply(&home.oauth_client("shop")).await;
    home.until_condition(CLIENTS, "shop", ["Ready", "False", "PolicyDenied"]).await;
    home.delete(POLICIES, "none").await;
    home.until_ready("shop").await;
}

/// A home with a profile whose server takes every client.
async fn home_with_a_profile(prefix: &str) -> (Home, FaultServer) {
    let (home, server) = (Home::new(prefix).await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    (home, server)
}

#[tokio::test]
async fn a_policy_that_only_audits_refuses_nothing_and_is_heard_of() {
    let (home, _server) = home_with_a_profile("audit").await;
    home.apply(&policy("audit", &json!({"enforcement": "Audit", "allowedScopes": ["openid"]}))).await;
    home.until_condition(POLICIES, "audit", ["Ready", "True", "Ready"]).await;
    let client = home.register("shop").await;
    let audited = "DcrPolicy audit forbids scope: email (allowed: openid)";
    let accepted = condition(&client, "Accepted");
    assert_eq!(accepted["status"], "True");
    assert_says(accepted["message"].as_str().unwrap(), &["only audited: ", audited]);
    let counted = json!({"matching": 1, "violating": 1});
    home.until("it counts", POLICIES, "audit", move |policy| policy["status"]["clients"] == counted).await;

    // For a client that was there before the policy, too.
    home.apply(&policy("later", &json!({"enforcement": "Audit", "allowedGrantTypes": []}))).await;
    let event = wait_until("an event about the later policy", WAIT, async || {
        home.events("PolicyAudited").await.into_iter().find(|note| note.contains("DcrPolicy later forbids"))
    })
    .await;
    assert_says(&event, &["grant_types: authorization_code", "grant_types: refresh_token", audited]);
    home.until("the status says so", CLIENTS, "shop", |client| {
        condition(client, "Accepted")["message"].as_str().unwrap_or_default().contains("DcrPolicy later forbids")
    })
    .await;
    let object = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(verdict(&object, "Ready"), "True Ready");
}

#[tokio::test]
async fn the_oldest_clients_of_a_namespace_are_let_in_and_the_next_one_when_one_goes() {
    let (home, server) = home_with_a_profile("quota").await;
    home.apply(&policy("few", &json!({"maxClientsPerNamespace": 2}))).await;
    home.until_condition(POLICIES, "few", ["Ready", "True", "Ready"]).await;
    // The names are in the opposite order: within a second, the first to come is the older one.
    for name in ["z", "y"] {
        home.register(name).await;
    }
    for name in ["b", "a"] {
        home.apply(&home.oauth_client(name)).await;
        let message = home.until_condition(CLIENTS, name, ["Accepted", "False", "PolicyDenied"]).await;
        assert_says(&message, &["DcrPolicy few forbids maxClientsPerNamespace: more than 2", "delete one"]);
    }
    let counted = json!({"matching": 4, "violating": 2});
    home.until("it counts", POLICIES, "few", move |policy| policy["status"]["clients"] == counted).await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 2);
    home.delete(CLIENTS, "z").await;
    home.until_ready("b").await;
    assert_eq!(verdict(&home.get(CLIENTS, "a").await.unwrap(), "Accepted"), "False PolicyDenied");
    home.patch(POLICIES, "few", json!({"spec": {"maxClientsPerNamespace": 3}})).await;
    home.until_ready("a").await;
}

#[tokio::test]
async fn clients_that_are_made_at_once_do_not_exceed_the_limit() {
    let (home, server) = home_with_a_profile("race").await;
    home.apply(&policy("few", &json!({"maxClientsPerNamespace": 3}))).await;
    home.until_condition(POLICIES, "few", ["Ready", "True", "Ready"]).await;
    let names: Vec<String> = (0..12).map(|number| format!("client-{number}")).collect();
    stream::iter(&names).for_each_concurrent(None, async |name| home.apply(&home.oauth_client(name)).await).await;
    let counted = json!({"matching": 12, "violating": 9});
    home.until("it counts", POLICIES, "few", move |policy| policy["status"]["clients"] == counted).await;
    let decided = async |expected: &str| {
        let mut decided = 0;
        for name in &names {
            let client = home.get(CLIENTS, name).await.unwrap();
            decided += usize::from(verdict(&client, "Ready") == expected);
        }
        decided
    };
    wait_until("all are decided on", WAIT, async || {
        let (ready, refused) = (decided("True Ready").await, decided("False PolicyDenied").await);
        if (ready, refused) == (3, 9) { Ok(()) } else { Err(format!("{ready} ready, {refused} refused")) }
    })
    .await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 3);
}

#[tokio::test]
async fn a_namespaces_label_decides_whether_a_policy_is_about_its_clients() {
    let (home, server) = home_with_a_profile("label").await;
    let selector = json!({"matchLabels": {"example.com/zone": home.name}});
    home.apply(&policy("zone", &json!({"namespaceSelector": selector, "allowedScopes": []}))).await;
    let message = home.until_condition(POLICIES, "zone", ["Ready", "True", "Ready"]).await;
    assert_says(&message, &["namespaceSelector selects no namespace"]);
    home.register("shop").await;
    let calls = server.requests().len();
    home.label_namespace("example.com/zone", &home.name).await;
    home.until_condition(CLIENTS, "shop", ["Accepted", "False", "PolicyDenied"]).await;
    let counted = json!({"matching": 1, "violating": 1});
    let policy = home.until("it counts", POLICIES, "zone", move |policy| policy["status"]["clients"] == counted).await;
    assert_eq!(condition(&policy, "Ready")["message"], "the policy is enforced");
    home.label_namespace("example.com/zone", "other").await;
    home.until_condition(CLIENTS, "shop", ["Accepted", "True", "Accepted"]).await;
    assert_eq!(server.requests().len(), calls, "the server is not asked");
}

#[tokio::test]
async fn only_clients_whose_verdict_has_changed_are_written_to() {
    let (home, server) = home_with_a_profile("precise").await;
    home.register("mail").await;
    let mut plain = home.oauth_client("plain");
    plain["spec"]["clientMetadata"]["scope"] = json!("openid");
    home.apply(&plain).await;
    home.until_ready("plain").await;
    home.until("both are counted", PROFILES, PROFILE, |profile| profile["status"]["clients"] == 2).await;
    let (audit, calls) = (home.plane.audit_position(), server.requests().len());
    home.apply(&policy("web", &json!({"allowedScopes": ["openid"]}))).await;
    home.until_condition(CLIENTS, "mail", ["Accepted", "False", "PolicyDenied"]).await;
    home.delete(POLICIES, "web").await;
    home.until_condition(CLIENTS, "mail", ["Accepted", "True", "Accepted"]).await;
    wait_until("the audit log has both writes", WAIT, async || {
        let writes = home.audit(audit).writes().resource("oauthclients/status");
        if writes.count() == 2 { Ok(()) } else { Err(writes.summary()) }
    })
    .await;
    assert_eq!(home.audit(audit).writes().name("plain").count(), 0);
    // The first look may still be the one at its own last status.
    let looks = home.audit(audit).verb("get").resource("secrets").name("plain").count();
    assert!(looks <= 1, "nor even looked at, twice: {looks}");
    assert_eq!(server.requests().len(), calls, "the server is not asked");
}

#[tokio::test]
async fn a_policy_that_makes_no_sense_says_so_and_is_enforced() {
    let (home, _server) = home_with_a_profile("nonsense").await;
    home.apply(&policy("closed", &json!({"registrationModes": []}))).await;
    let message = home.until_condition(POLICIES, "closed", ["Ready", "False", "Contradictory"]).await;
    assert_says(&message, &["registrationModes is empty", "every client is refused"]);
    assert_eq!(verdict(&home.get(POLICIES, "closed").await.unwrap(), "Stalled"), "True Contradictory");
    home.apply(&policy("waits", &json!({"profileRef": {"name": "not-there"}}))).await;
    let message = home.until_condition(POLICIES, "waits", ["Ready", "True", "Ready"]).await;
    assert_says(&message, &["TokenProfile not-there", "does not exist"]);
    home.apply(&home.oauth_client("shop")).await;
    home.until_condition(CLIENTS, "shop", ["Accepted", "False", "PolicyDenied"]).await;
    home.patch(POLICIES, "closed", json!({"spec": {"registrationModes": ["NonTemplatized"]}})).await;
    home.until_ready("shop").await;
    home.until_condition(POLICIES, "closed", ["Ready", "True", "Ready"]).await;
    assert_eq!(verdict(&home.get(POLICIES, "closed").await.unwrap(), "Stalled"), "");
}

#[tokio::test]
async fn five_hundred_policies_in_one_namespace_are_all_judged_and_counted() {
    let (home, _server) = home_with_a_profile("many").await;
    let name = |number: usize| format!("policy-{number:03}");
    stream::iter(0..500)
        .for_each_concurrent(16, async |number: usize| {
            home.apply(&policy(&name(number), &json!({"allowedScopes": ["openid", "email"]}))).await;
        })
        .await;
    home.register("shop").await;
    home.patch(POLICIES, &name(250), json!({"spec": {"allowedScopes": ["openid"]}})).await;
    let message = home.until_condition(CLIENTS, "shop", ["Accepted", "False", "PolicyDenied"]).await;
    assert_eq!(message, "DcrPolicy policy-250 forbids scope: email (allowed: openid)");
    for number in [0, 250, 499] {
        let counted = json!({"matching": 1, "violating": usize::from(number == 250)});
        let is = move |policy: &Value| policy["status"]["clients"] == counted;
        home.until("it counts", POLICIES, &name(number), is).await;
    }
}

#[tokio::test]
async fn where_admission_has_no_policy_the_operator_says_what_to_install() {
    let (home, _server) = home_with_a_profile("unbound").await;
    home.apply(&policy("web", &json!({}))).await;
    wait_until("the log says it", WAIT, async || {
        let log = shared_operator().log();
        let said = log.lines().find(|line| line.contains("enforced by the operator alone"));
        said.filter(|line| line.contains("deploy/base/admission-policy.yaml")).map(str::to_owned)
    })
    .await;
}

#[tokio::test]
async fn whatever_comes_first_a_policy_or_a_client_the_last_word_is_the_policys() {
    let (home, server) = home_with_a_profile("meanwhile").await;
    let name = |prefix: &str, number: usize| format!("{prefix}-{number}");
    let apply_all = async |prefix: &str| {
        let clients = (0..20).map(|number| home.oauth_client(&name(prefix, number)));
        stream::iter(clients).for_each_concurrent(4, async |client| home.apply(&client).await).await;
    };
    // A policy goes while clients come: none stays refused.
    home.apply(&policy("none", &json!({"allowedScopes": []}))).await;
    futures::join!(apply_all("a"), async {
        home.until_condition(CLIENTS, "a-5", ["Accepted", "False", "PolicyDenied"]).await;
        home.delete(POLICIES, "none").await;
    });
    for number in 0..20 {
        home.until_ready(&name("a", number)).await;
    }
    // A policy comes while clients come: each says that it is refused, registered or not.
    futures::join!(apply_all("b"), async {
        home.until_ready("b-5").await;
        home.apply(&policy("none", &json!({"allowedScopes": []}))).await;
    });
    let mut registered = 20;
    for number in 0..20 {
        home.until_condition(CLIENTS, &name("b", number), ["Accepted", "False", "PolicyDenied"]).await;
        let client = home.get(CLIENTS, &name("b", number)).await.unwrap();
        registered += usize::from(client["status"]["clientId"].is_string());
    }
    assert_eq!(server.registrar(|registrar| registrar.client_count()), registered);
}

/// A policy that allows what `Home::oauth_client` asks for, and no more.
fn as_asked() -> Value {
    policy("web", &json!({"allowedScopes": ["openid", "email"]}))
}

#[tokio::test]
async fn a_server_that_grants_more_than_the_policies_allow_is_narrowed_down_before_the_secret_is_there() {
    let (home, server) = (Home::new("generous").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.apply(&as_asked()).await;
    let answer = |scope: &str| {
        json!({"client_id": "c", "client_secret": "secret-of-c", "scope": scope, "registration_access_token": "token-of-c",
            "registration_client_uri": server.url("/reg/c"), "redirect_uris": [REDIRECT_URI]})
    };
    server.answer_once("POST", "/reg", Answer::json(201, &answer("openid email admin")));
    server.answer("PUT", "/reg/c", Answer::json(200, &answer("openid email")));
    server.answer("DELETE", "/reg/c", Answer::empty(204));
    home.register("shop").await;
    assert_says(&home.until_event("Narrowed").await, &["c", "DcrPolicy web forbids scope: admin"]);
    let updates = server.requests_to("PUT", "/reg/c");
    assert_eq!((updates.len(), &updates[0].json()["scope"]), (1, &json!("openid email")));
    assert_eq!(home.secret("shop").await["scope"], "openid,email");
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
}

#[tokio::test]
async fn a_server_that_insists_on_more_gets_its_registration_back_and_the_secret_never_appears() {
    let home = Home::new("insists").await;
    let options = RegistrarOptions { adds_scope: Some("admin".into()), ..RegistrarOptions::default() };
    let server = FaultServer::start_registrar(Registrar::new(options)).await;
    home.profile(&server.url("")).await;
    home.apply(&as_asked()).await;
    home.apply(&home.oauth_client("shop")).await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "PolicyDenied"]).await;
    assert_says(&message, &["the server has registered more", "DcrPolicy web forbids scope: admin"]);
    let client = home.get(CLIENTS, "shop").await.unwrap();
    assert_eq!(
        (verdict(&client, "Accepted"), verdict(&client, "Stalled")),
        ("False PolicyDenied".into(), "True PolicyDenied".into())
    );
    assert!(home.get(SECRETS, "shop").await.is_none() && home.get(SECRETS, "shop-registration").await.is_none());
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 0);
    assert_eq!(server.requests_to("POST", "/reg").len(), 1, "it is not asked again");
    assert!(home.events("PossibleOrphan").await.is_empty());

    // Loosened, it goes on at once.
    home.patch(POLICIES, "web", json!({"spec": {"allowedScopes": ["openid", "email", "admin"]}})).await;
    home.until_ready("shop").await;
}

#[tokio::test]
async fn a_registration_that_grants_too_much_and_can_not_be_removed_is_reported() {
    let home = Home::new("stuck").await;
    let options =
        RegistrarOptions { adds_scope: Some("admin".into()), without_management: true, ..RegistrarOptions::default() };
    let server = FaultServer::start_registrar(Registrar::new(options)).await;
    home.profile(&server.url("")).await;
    home.apply(&as_asked()).await;
    home.apply(&home.oauth_client("shop")).await;
    home.until_condition(CLIENTS, "shop", ["Registered", "False", "PolicyDenied"]).await;
    let client_id = server.registrar(|registrar| registrar.clients.keys().next().cloned().unwrap());
    assert_says(&home.until_event("Orphaned").await, &[&client_id]);
    assert!(home.get(SECRETS, "shop").await.is_none());
}

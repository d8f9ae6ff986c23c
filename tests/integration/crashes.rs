//! The operator dies, or is asked to stop, at the worst moment.

use std::time::Duration;

use serde_json::json;

use crate::{
    fixtures::*,
    support::{
        clock::Clock,
        fault_proxy::{Fault, FaultProxy, Rule},
        fault_server::{Answer, FaultServer, Registrar},
        ledger::{self, Server},
        operator::{Operator, OperatorOptions},
        process::wait_until,
    },
};

#[tokio::test]
async fn a_crash_before_the_answer_is_kept_leaves_a_possible_orphan_that_is_reported() {
    let home = Home::without_operator("killed").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let operator = home.operator(&[]).await;
    home.profile(&server.url("")).await;
    server.answer_once("POST", "/reg", Answer::never().carried_out());
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    let intent = home.get(CLIENTS, "shop").await.unwrap();
    let attempt = intent["metadata"]["annotations"]["dcr-operator.dev/registration-attempt"].as_str().unwrap();
    let attempt: serde_json::Value = serde_json::from_str(attempt).unwrap();
    assert_eq!(intent["metadata"]["finalizers"], json!(["dcr-operator.dev/deregister"]));

    operator.kill();
    operator.restart().await;
    let ready = home.until_ready("shop").await;
    assert_eq!(ready["status"]["possibleOrphans"][0]["attempt"], attempt["id"]);
    assert_says(&home.until_event("PossibleOrphan").await, &[attempt["id"].as_str().unwrap()]);
    assert_eq!(metric(&operator, "dcr_operator_possible_orphans_total").await, 1);
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 2, "the one that is held, and the reported one");
    server.assert_no_misuse();
}

#[tokio::test]
async fn an_operator_that_is_asked_to_stop_finishes_what_it_has_begun() {
    let home = Home::without_operator("stopped").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let operator = home.operator(&[]).await;
    home.profile(&server.url("")).await;
    server.handle("POST", "/reg", |_| {
        Answer::json(201, &json!({"client_id": "c", "client_secret": "secret-of-c"})).after(Duration::from_secs(2))
    });
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    let status = operator.terminate().await;
    assert!(status.success(), "{status}\n{}", operator.log());
    assert_eq!(home.registration("shop").await["client_id"], "c", "kept before the end");

    operator.restart().await;
    home.until_ready("shop").await;
    assert_eq!(server.requests_to("POST", "/reg").len(), 1);
    assert_eq!(home.secret("shop").await["client-secret"], "secret-of-c");
}

/// Registers client `c`, and takes its time to say so.
fn register_slowly(server: &FaultServer) {
    let uri = server.url("/reg/c");
    server.handle("POST", "/reg", move |_| {
        let answer = json!({"client_id": "c", "client_secret": "secret-of-c", "client_secret_expires_at": 0,
            "registration_access_token": "token-of-c", "registration_client_uri": uri});
        Answer::json(201, &answer).after(Duration::from_secs(1))
    });
    server.answer("DELETE", "/reg/c", Answer::empty(204));
}

#[tokio::test]
async fn an_answer_that_can_never_be_kept_is_given_back() {
    let home = Home::without_operator("unkept").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let operator = home.operator(&[]).await;
    home.profile(&server.url("")).await;
    register_slowly(&server);
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    // Before the answer comes, the namespace begins to go, and takes nothing new.
    home.delete_namespace().await;
    home.until_gone(CLIENTS, "shop").await;
    let deleted = server.requests_to("DELETE", "/reg/c");
    assert_eq!(deleted.len(), 1, "{}", operator.log());
    assert_eq!(deleted[0].bearer(), Some("token-of-c"));
    assert_eq!(metric(&operator, "dcr_operator_orphans_total").await, 0);
    assert_eq!(metric(&operator, "dcr_operator_possible_orphans_total").await, 0);
}

#[tokio::test]
async fn a_client_that_is_deleted_while_it_is_registered_is_removed_again() {
    let home = Home::new("hasty").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    register_slowly(&server);
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_eq!(server.requests_to("DELETE", "/reg/c").len(), 1);
    home.until_gone(SECRETS, "shop-registration").await;
    assert!(home.events("PossibleOrphan").await.is_empty());
}

#[tokio::test]
async fn an_api_server_that_goes_away_loses_no_answer() {
    // A control plane of its own: everybody else needs the shared one.
    let home = Home::with_a_plane_of_its_own("outage").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let operator = home.operator(&[]).await;
    home.profile(&server.url("")).await;
    server.handle("POST", "/reg", |_| {
        Answer::json(201, &json!({"client_id": "c", "client_secret": "secret-of-c"})).after(Duration::from_secs(1))
    });
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    home.plane.api_server().kill();
    wait_until("the answer waits in memory", WAIT, async || operator.log().contains("kept in memory")).await;
    home.plane.restart_api_server().await;
    home.until_ready("shop").await;
    assert_eq!(server.requests_to("POST", "/reg").len(), 1);
    assert_eq!(home.secret("shop").await["client-id"], "c");
}

/// The server carries out the next update, and its answer is lost; the one after that has to wait.
fn lose_an_update(server: &FaultServer, client_id: &str) {
    let path = format!("/reg/{client_id}");
    server.answer_once("PUT", &path, Answer::reset().carried_out());
    server.answer_once("PUT", &path, Answer::empty(429).header("retry-after", "3600"));
}

async fn change_scope(home: &Home, server: &FaultServer, client_id: &str) {
    home.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    let path = format!("/reg/{client_id}");
    wait_until("both updates were sent", WAIT, async || server.requests_to("PUT", &path).len() == 2).await;
    home.until_condition(CLIENTS, "shop", ["InSync", "Unknown", "ServerUnavailable"]).await;
}

#[tokio::test]
async fn a_refused_token_is_no_sign_that_a_client_is_gone_whose_update_had_no_answer() {
    let home = Home::new("doubtful").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    let client_id = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    lose_an_update(&server, &client_id);
    change_scope(&home, &server, &client_id).await;
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 1, "its token is known to nobody");
    assert_says(&home.until_event("Orphaned").await, &[&client_id]);
}

#[tokio::test]
async fn a_client_whose_update_had_no_answer_is_not_replaced_in_silence() {
    let home = Home::new("overtaken").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    let mut client = home.oauth_client("shop");
    client["spec"]["replacement"] = json!({"when": ["Rotation"], "overlap": "0s"});
    home.apply(&client).await;
    let client_id = home.until_ready("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    lose_an_update(&server, &client_id);
    change_scope(&home, &server, &client_id).await;
    home.annotate("shop", "dcr-operator.dev/rotate-requested-at", "1").await;
    assert_says(&home.until_event("Orphaned").await, &[&client_id]);
    let former = client_id.clone();
    home.until("the new client", CLIENTS, "shop", move |client| client["status"]["clientId"] != former.as_str()).await;
    assert_eq!(server.registrar(|registrar| registrar.client_count()), 2, "one is held, the other one reported");
}

#[tokio::test]
async fn an_answer_that_comes_late_does_not_write_over_a_newer_one() {
    let home = Home::new("late").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    let client_id = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    let path = format!("/reg/{client_id}");
    let mut information = home.registration("shop").await;
    let with_token = |information: &mut serde_json::Value, token: &str| {
        information["registration_access_token"] = json!(token);
        information.to_string()
    };
    let late: serde_json::Value = serde_json::from_str(&with_token(&mut information, "late")).unwrap();
    server.handle("PUT", &path, move |_| Answer::json(200, &late).after(Duration::from_secs(2)));
    home.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    wait_until("the update is under way", WAIT, async || server.requests_to("PUT", &path).len() == 1).await;
    // As the successor of an operator does that was paused at this moment.
    let newer = with_token(&mut information, "newer");
    home.patch(SECRETS, "shop-registration", json!({"stringData": {"client-information.json": newer}})).await;
    wait_until("it is updated again", WAIT, async || server.requests_to("PUT", &path).len() == 2).await;
    assert_eq!(server.requests_to("PUT", &path)[1].bearer(), Some("newer"));
    home.until_ready("shop").await;
}

#[tokio::test]
async fn an_answer_that_still_waits_when_the_operator_must_stop_is_given_back() {
    let home = Home::without_operator("giveback").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let account = home.plane.service_account_kubeconfig(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT).await;
    let proxy = FaultProxy::start(&account);
    let args = ["--leader-elect=false", "--allow-insecure-http=true"].map(str::to_owned).to_vec();
    let options = OperatorOptions { args, watch: vec![home.name.clone()], ..OperatorOptions::default() };
    let operator = Operator::start_with_kubeconfig(proxy.kubeconfig(&account), options).await;
    home.profile(&server.url("")).await;
    proxy.add(Rule::new(Fault::Refuse(500)).writes().resource("secrets"));
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the answer waits in memory", WAIT, async || operator.log().contains("kept in memory")).await;
    let status = operator.terminate().await;
    assert!(status.success(), "{status}\n{}", operator.process().tail());
    assert_eq!(server.registrar(|registrar| (registrar.clients.len(), registrar.client_count())), (1, 0));

    proxy.clear();
    operator.restart().await;
    home.until_ready("shop").await;
    assert!(home.events("PossibleOrphan").await.is_empty(), "it is known what became of it");
    let tally = ledger::count(&home.client, &home.name, &[(PROFILE, Server::Fault(&server))]).await;
    tally.assert_complete("after the restart");
    assert_eq!((tally.held, tally.removed), (1, 1));
}

#[tokio::test]
async fn what_could_not_be_kept_is_not_registered_again_before_it_can_be() {
    let home = Home::without_operator("unkeepable").await;
    let server = FaultServer::start_registrar(Registrar::without_management()).await;
    let account = home.plane.service_account_kubeconfig(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT).await;
    let proxy = FaultProxy::start(&account);
    let args = ["--leader-elect=false", "--allow-insecure-http=true"].map(str::to_owned).to_vec();
    let options = OperatorOptions { args, watch: vec![home.name.clone()], ..OperatorOptions::default() };
    let _operator = Operator::start_with_kubeconfig(proxy.kubeconfig(&account), options).await;
    let mut narrow = profile(&server.url(""));
    narrow["spec"]["limits"] = json!({"maxConcurrentRequests": 1});
    home.apply(&registrar_secret("server-secret")).await;
    home.apply(&narrow).await;
    home.until_profile_ready().await;
    // As an admission engine refuses it, and as a quota does.
    proxy.add(Rule::new(Fault::Refuse(422)).writes().name("shop-registration"));
    proxy.add(Rule::new(Fault::Refuse(403)).writes().name("stuck-registration"));
    home.apply(&home.oauth_client("shop")).await;
    home.apply(&home.oauth_client("stuck")).await;
    wait_until("it is tried again", WAIT, async || {
        proxy.injected().get("API server answers 422").is_some_and(|count| *count >= 4)
    })
    .await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "KubernetesInvalid"]).await;
    assert_says(&message, &["nothing is registered", "Secret", "shop-registration"]);
    // The one that waits for its quota holds up nobody.
    home.register("free").await;
    let tokens = server.requests_to("POST", "/token").len();
    assert_eq!(server.requests_to("POST", "/reg").len(), 3, "one for each client");
    assert_eq!(home.events("Orphaned").await.len(), 1);
    assert!(tokens <= 4, "{tokens}: a token for each registration, and one to check the profile");

    proxy.clear();
    home.until_ready("shop").await;
}

#[tokio::test]
async fn a_quota_is_asked_before_the_server_once_it_has_been_in_the_way() {
    let home = Home::without_operator("exhausted").await;
    let server = FaultServer::start_registrar(Registrar::without_management()).await;
    home.apply(&registrar_secret("server-secret")).await;
    home.apply(&profile(&server.url(""))).await;
    home.apply(&home.oauth_client("shop")).await;
    // As the operator leaves it that has met the quota.
    let uid = home.get(CLIENTS, "shop").await.unwrap()["metadata"]["uid"].clone();
    let ended = json!({"reason": "KubernetesForbidden", "message": "exceeded quota"});
    let attempt = json!({"id": "a", "startedAt": "2026-01-01T00:00:00Z", "uid": uid, "ended": ended});
    home.annotate("shop", "dcr-operator.dev/registration-attempt", &attempt.to_string()).await;
    // No controller counts here; admission goes by the status.
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "secrets"},
        "spec": {"hard": {"count/secrets": "1"}}});
    home.apply_any("/api/v1", "resourcequotas", &quota).await;
    let allow = async |secrets: &str| {
        let path = format!("/api/v1/namespaces/{}/resourcequotas/secrets/status", home.name);
        let status = json!({"status": {"hard": {"count/secrets": secrets}, "used": {"count/secrets": "1"}}});
        home.request("PATCH", &path, "application/merge-patch+json", &status).await.expect("a quota");
    };
    allow("1").await;
    let _operator = home.operator(&[]).await;
    let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", "KubernetesForbidden"]).await;
    assert_says(&message, &["nothing is registered", "shop-registration", "exceeded quota"]);
    assert_eq!(server.requests_to("POST", "/reg").len(), 0);

    allow("9").await;
    home.until_ready("shop").await;
    assert_eq!(server.requests_to("POST", "/reg").len(), 1);
}

#[tokio::test]
async fn a_leader_that_wakes_up_after_its_successor_has_gone_on_does_no_harm() {
    let home = Home::with_a_plane_of_its_own("paused").await;
    let server = FaultServer::start_registrar(Registrar::strict()).await;
    let account = home.plane.service_account_kubeconfig(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT).await;
    let start = async || {
        let args = vec!["--allow-insecure-http=true".to_owned()];
        let options = OperatorOptions { args, watch: vec![home.name.clone()], ..OperatorOptions::default() };
        Operator::start_with_kubeconfig(account.clone(), options).await
    };
    let leader = start().await;
    home.apply(&registrar_secret("server-secret")).await;
    let mut profile = profile_with_endpoints(&server);
    profile["spec"]["server"] = json!({"readRotatesCredentials": true});
    home.apply(&profile).await;
    let client_id = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    let successor = start().await;
    // The leader has an update under way when it is paused: the server has carried it out, and the answer waits for it.
    let path = format!("/reg/{client_id}");
    server.answer_once("PUT", &path, Answer::empty(503).after(Duration::from_secs(3)));
    home.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    wait_until("the update is under way", WAIT, async || server.requests_to("PUT", &path).len() == 1).await;
    leader.process().stop();
    wait_until("the successor leads", Duration::from_mins(1), async || successor.log().contains("\"leading\"")).await;
    home.until_condition(CLIENTS, "shop", ["InSync", "True", "InSync"]).await;
    let before = home.plane.audit_position();
    leader.process().cont();
    let status = leader.process().wait(WAIT).await;
    assert_eq!(status.code(), Some(1), "{}", leader.process().tail());
    let writes = home.audit(before).writes();
    assert_eq!(writes.count(), 0, "it ends before it writes anything: {}", writes.summary());
    home.until_ready("shop").await;
    assert_eq!(server.registrar(|registrar| registrar.clients.len()), 1);
    ledger::count(&home.client, &home.name, &[(PROFILE, Server::Fault(&server))])
        .await
        .assert_complete("with the successor");
}

#[tokio::test]
async fn an_announcement_is_not_written_over_the_one_of_a_successor() {
    let home = Home::without_operator("announced").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    let account = home.plane.service_account_kubeconfig(Operator::NAMESPACE, Operator::SERVICE_ACCOUNT).await;
    let proxy = FaultProxy::start(&account);
    let args = ["--leader-elect=false", "--allow-insecure-http=true"].map(str::to_owned).to_vec();
    let options = OperatorOptions { args, watch: vec![home.name.clone()], ..OperatorOptions::default() };
    let _operator = Operator::start_with_kubeconfig(proxy.kubeconfig(&account), options).await;
    home.profile(&server.url("")).await;
    let client_id = home.register("shop").await["status"]["clientId"].as_str().unwrap().to_owned();
    // The announcement of an update is on its way when the successor, which has not seen it, makes its own.
    proxy.add(Rule::new(Fault::Delay(Duration::from_secs(3))).writes().name("shop-registration").times(1));
    home.patch(CLIENTS, "shop", json!({"spec": {"clientMetadata": {"scope": "openid"}}})).await;
    wait_until("it is on its way", WAIT, async || !proxy.injected().is_empty()).await;
    let history = r#"{"unconfirmedSince":"2026-01-01T00:00:00Z"}"#;
    home.patch(SECRETS, "shop-registration", json!({"stringData": {"history.json": history}})).await;
    // Whoever looks again finds out that nothing is to be done here.
    home.patch(CLIENTS, "shop", json!({"spec": {"suspend": true}})).await;
    let generation = home.get(CLIENTS, "shop").await.unwrap()["metadata"]["generation"].clone();
    home.until("looked again", CLIENTS, "shop", move |client| client["status"]["observedGeneration"] == generation)
        .await;
    assert_eq!(server.requests_to("PUT", &format!("/reg/{client_id}")).len(), 0, "two management calls at once");
}

#[tokio::test]
async fn a_refusal_that_comes_late_does_not_hide_the_attempt_of_a_successor() {
    let home = Home::new("hidden").await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    let refusal = Answer::json(400, &json!({"error": "invalid_redirect_uri"}));
    server.answer_once("POST", "/reg", refusal.after(Duration::from_secs(2)));
    home.apply(&home.oauth_client("shop")).await;
    wait_until("the registration is under way", WAIT, async || server.requests_to("POST", "/reg").len() == 1).await;
    let uid = home.get(CLIENTS, "shop").await.unwrap()["metadata"]["uid"].clone();
    let successors = json!({"id": "successors", "startedAt": "2026-01-01T00:00:00Z", "uid": uid});
    home.annotate("shop", "dcr-operator.dev/registration-attempt", &successors.to_string()).await;
    assert_says(&home.until_event("PossibleOrphan").await, &["successors"]);
}

#[tokio::test]
async fn a_clock_that_is_set_back_holds_nothing_up() {
    let (home, clock) = (Home::without_operator("clock").await, Clock::new());
    let env = clock.env();
    let env: Vec<(&str, &str)> = env.iter().map(|(name, value)| (&**name, &**value)).collect();
    let server = FaultServer::start_registrar(Registrar::default()).await;
    clock.set_ahead(3600);
    let operator = home.operator_with(&[], &env).await;
    home.profile(&server.url("")).await;
    server.set_down(true);
    // Six, so that the circuit opens: five failures in a row open it.
    let names = ["a", "b", "c", "d", "e", "f"];
    for name in names {
        home.apply(&home.oauth_client(name)).await;
    }
    for name in names {
        home.until("waiting", CLIENTS, name, |client| condition(client, "Reconciling")["status"] == "True").await;
    }
    wait_until("the circuit is open", WAIT, async || {
        operator
            .metrics()
            .await
            .lines()
            .any(|line| line.starts_with("dcr_operator_profile_circuit_open") && line.ends_with(" 1"))
    })
    .await;
    let client = home.get(CLIENTS, "a").await.expect("a client");
    let since: jiff::Timestamp = condition(&client, "Ready")["lastTransitionTime"].as_str().unwrap().parse().unwrap();
    assert!(since > jiff::Timestamp::now(), "the operator goes by another clock: {since}");

    clock.set_ahead(0);
    server.set_down(false);
    for name in names {
        home.until_ready(name).await;
    }
}

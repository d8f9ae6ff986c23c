//! Servers that refuse, fail, or talk nonsense.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::fault_server::{Answer, FaultServer, Registrar},
};

/// A namespace with a profile of a registrar that can be made to misbehave.
async fn hostile(prefix: &str) -> (Home, FaultServer) {
    let (home, server) = (Home::new(prefix).await, FaultServer::start_registrar(Registrar::default()).await);
    let mut profile = profile(&server.url(""));
    profile["spec"]["limits"] = json!({"requestTimeout": "1s"});
    home.apply(&registrar_secret("server-secret")).await;
    home.apply(&profile).await;
    home.until_profile_ready().await;
    (home, server)
}

fn refusal(error: &str, description: &str) -> Answer {
    Answer::json(400, &json!({"error": error, "error_description": description}))
}

#[tokio::test]
async fn a_refusal_is_told_in_the_server_s_words_and_not_asked_for_again() {
    for (error, reason) in [
        ("invalid_redirect_uri", "InvalidRedirectUri"),
        ("invalid_client_metadata", "InvalidClientMetadata"),
        ("invalid_software_statement", "InvalidSoftwareStatement"),
        ("unapproved_software_statement", "UnapprovedSoftwareStatement"),
        ("Unrecognized field \"x\"", "InvalidClientMetadata"),
    ] {
        let (home, server) = hostile("refused").await;
        let description = format!("not\u{7} this\u{202e} one {}", "x".repeat(5000));
        server.answer_once("POST", "/reg", refusal(error, &description));
        home.apply(&home.oauth_client("shop")).await;
        let message = home.until_condition(CLIENTS, "shop", ["Registered", "False", reason]).await;
        assert_says(&message, &["POST http://127.0.0.1", "400", "not this one"]);
        assert!(message.len() < 800 && !message.contains(['\u{7}', '\u{202e}']), "{message}");
        let object = home.get(CLIENTS, "shop").await.unwrap();
        let ready = (verdict(&object, "Ready"), verdict(&object, "Stalled"), verdict(&object, "Reconciling"));
        assert_eq!(ready, (format!("False {reason}"), format!("True {reason}"), String::new()));
        assert!(home.get(SECRETS, "shop").await.is_none());
        home.until_event(reason).await;

        // What does not bear on it changes nothing; the next change of the spec is a new attempt.
        home.annotate("shop", "example.com/unrelated", "yes").await;
        let mut client = home.oauth_client("shop");
        client["spec"]["secret"] = json!({"name": "elsewhere"});
        home.apply(&client).await;
        home.until("seen", CLIENTS, "shop", |c| c["status"]["observedGeneration"] == 2).await;
        assert_eq!(server.requests_to("POST", "/reg").len(), 1);
        client["spec"]["clientMetadata"]["scope"] = json!("openid");
        home.apply(&client).await;
        home.until_ready("shop").await;
        assert_eq!(server.requests_to("POST", "/reg").len(), 2);
    }
}

#[tokio::test]
async fn a_refusal_is_remembered_over_a_restart() {
    let home = Home::without_operator("remembered").await;
    let operator = home.operator(&[]).await;
    let server = FaultServer::start_registrar(Registrar::default()).await;
    home.profile(&server.url("")).await;
    server.answer("POST", "/reg", refusal("invalid_redirect_uri", "no"));
    home.apply(&home.oauth_client("shop")).await;
    home.until_condition(CLIENTS, "shop", ["Registered", "False", "InvalidRedirectUri"]).await;
    operator.restart().await;
    // The profile is checked anew after a restart, and the client of it looked at.
    home.register_beside(&server).await;
    assert_eq!(verdict(&home.get(CLIENTS, "shop").await.unwrap(), "Stalled"), "True InvalidRedirectUri");
    let of_shop = server.requests_to("POST", "/reg");
    let of_shop = of_shop.iter().filter(|r| r.json()["client_name"].as_str().unwrap().starts_with("shop"));
    assert_eq!(of_shop.count(), 1);
    // A person may ask for it.
    home.annotate("shop", "dcr-operator.dev/reconcile-requested-at", "now").await;
    server.wait_for_requests(server.requests().len() + 2).await;
}

impl Home {
    /// Another client comes through, or is refused: whatever was due before it has been done.
    async fn register_beside(&self, server: &FaultServer) {
        let before = server.requests_to("POST", "/reg").len();
        self.apply(&self.oauth_client("barrier")).await;
        self.until("tried", CLIENTS, "barrier", |c| condition(c, "Registered")["status"] == "False").await;
        assert_eq!(server.requests_to("POST", "/reg").len(), before + 1);
    }
}

#[tokio::test]
async fn a_server_that_fails_is_tried_again_until_it_answers() {
    let unavailable = ["False", "ServerUnavailable"];
    let unknown = ["Unknown", "OutcomeUnknown"];
    let retry_after = |status: u16| Answer::empty(status).header("retry-after", "1");
    let rows: Vec<(Answer, [&'static str; 2], &[&str])> = vec![
        (Answer::empty(500), unknown, &["500"]),
        (retry_after(429), unavailable, &["429"]),
        (Answer::new(201, "text/html", "<html>"), unknown, &["201"]),
        (Answer::json(201, &json!({"client_secret": "x"})), unknown, &["client_id"]),
        (Answer::redirect(303, "https://elsewhere.example.com/"), unknown, &["303", "not followed"]),
        (Answer::redirect(307, "https://elsewhere.example.com/"), unavailable, &["307", "not followed"]),
        // Cut off by its size or by the time, whichever comes first.
        (Answer::json(201, &json!({"client_id": "x"})).endless(), unknown, &["POST http://127.0.0.1"]),
        (Answer::json(201, &json!({"client_id": "x"})).truncated(), unknown, &["connection"]),
        (Answer::never(), unknown, &["no complete answer within 1s"]),
        (Answer::json(401, &json!({"error": "invalid_token"})), ["False", "InitialAccessTokenRejected"], &["401"]),
        (Answer::json(403, &json!({"error": "insufficient_scope"})), ["False", "RefusedByServer"], &["403"]),
    ];
    let cases = rows.into_iter().map(async |(answer, [status, reason], words)| {
        let (home, server) = hostile("failing").await;
        server.answer_once("POST", "/reg", answer);
        home.apply(&home.oauth_client("shop")).await;
        let told = home.until("told", CLIENTS, "shop", |c| condition(c, "Registered")["reason"] == reason).await;
        assert_eq!(condition(&told, "Registered")["status"], status, "{words:?}");
        assert_says(condition(&told, "Registered")["message"].as_str().unwrap(), words);
        assert_ne!(condition(&told, "Ready")["status"], "True");
        assert_eq!(verdict(&told, "Stalled"), "", "{words:?}");
        let ready = home.until_ready("shop").await;
        // Where the server may have registered a client all the same, somebody is told.
        let possible = ready["status"]["possibleOrphans"].as_array().map_or(0, Vec::len);
        assert_eq!(possible, usize::from(reason == "OutcomeUnknown"), "{words:?}");
        server.assert_no_misuse();
    });
    futures::future::join_all(cases).await;
}

#[tokio::test]
async fn a_lost_answer_is_reported_and_the_client_registered_with_a_new_token() {
    let (home, server) = hostile("lost").await;
    let before = metric(shared_operator(), "dcr_operator_possible_orphans_total").await;
    server.answer_once("POST", "/reg", Answer::reset().carried_out());
    home.apply(&home.oauth_client("shop")).await;
    let ready = home.until_ready("shop").await;
    let orphan = &ready["status"]["possibleOrphans"][0];
    let note = home.until_event("PossibleOrphan").await;
    assert_says(&note, &[orphan["attempt"].as_str().unwrap(), "may hold a client that nobody knows"]);
    assert!(orphan["startedAt"].is_string());
    assert!(metric(shared_operator(), "dcr_operator_possible_orphans_total").await > before);
    let held: Vec<String> = server.registrar(|registrar| registrar.clients.keys().cloned().collect());
    assert_eq!(held.len(), 2, "the lost one and the one that is held");
    assert!(held.contains(&ready["status"]["clientId"].as_str().unwrap().to_owned()));
    server.assert_no_misuse();
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let (home, server) = hostile("endless").await;
    server.answer_once("POST", "/reg", Answer::json(201, &json!({"client_id": "x"})).endless());
    home.apply(&home.oauth_client("shop")).await;
    home.until_ready("shop").await;
    assert!(server.body_bytes_sent() < 64 << 20, "{} bytes were taken", server.body_bytes_sent());
}

#[tokio::test]
async fn a_registration_uri_of_another_origin_is_not_called() {
    let (home, server) = hostile("elsewhere").await;
    let other = FaultServer::start().await;
    let uri = other.url("/reg/c");
    server.answer_once(
        "POST",
        "/reg",
        Answer::json(
            201,
            &json!({"client_id": "c", "client_secret": "secret-of-c", "client_secret_expires_at": 0,
                "registration_access_token": "token-of-c", "registration_client_uri": uri}),
        ),
    );
    server.answer("DELETE", "/reg/c", Answer::empty(204));
    let client = home.register("shop").await;
    assert_eq!(client["status"]["registrationClientUri"], server.url("/reg/c"));
    home.delete(CLIENTS, "shop").await;
    home.until_gone(CLIENTS, "shop").await;
    assert_eq!(server.requests_to("DELETE", "/reg/c").len(), 1);
    assert_eq!(other.connections(), 0);
}

#[tokio::test]
async fn slow_servers_and_limits_hold_up_nobody_else() {
    let (home, server) = hostile("slow").await;
    let profile_limits = json!({"spec": {"limits": {"maxConcurrentRequests": 2, "requestTimeout": "20s"}}});
    home.patch(PROFILES, PROFILE, profile_limits).await;
    home.until_profile_ready().await;
    server.handle("POST", "/reg", |request| {
        let mut answer: Value = request.json();
        answer["client_id"] = request.json()["client_name"].clone();
        Answer::json(201, &answer).after(Duration::from_millis(300))
    });
    for number in 0..6 {
        home.apply(&home.oauth_client(&format!("shop-{number}"))).await;
    }
    let (elsewhere, quick) = hostile("quick").await;
    elsewhere.register("shop").await;
    for number in 0..6 {
        home.until_ready(&format!("shop-{number}")).await;
    }
    assert_eq!(server.most_under_way(), 2);
    assert_eq!(quick.registrar(|registrar| registrar.client_count()), 1);
}

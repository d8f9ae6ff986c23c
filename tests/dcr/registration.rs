use std::time::{Duration, Instant};

use dcr_operator::dcr::{ClientInformation, Error, Outcome};
use dcr_operator::retry::Retry;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::fault_server::{Answer, FaultServer};
use crate::{client, hasty_client, object, secret, verdict};

async fn register(server: &FaultServer) -> Result<ClientInformation, Error> {
    register_with(&client(), server).await
}

async fn register_with(client: &dcr_operator::dcr::Server, server: &FaultServer) -> Result<ClientInformation, Error> {
    let metadata = object(json!({"redirect_uris": ["https://localhost/callback"], "scope": "openid"}));
    client.register(&server.url("/reg"), Some(&secret("initial-token-1")), &metadata).await
}

/// What `register` makes of an answer.
async fn error_of(answer: Answer) -> Error {
    let server = FaultServer::start().await;
    server.answer("POST", "/reg", answer);
    let error = register(&server).await.unwrap_err();
    assert_eq!(server.requests().len(), 1, "a registration is never repeated");
    error
}

#[tokio::test]
async fn a_registration_sends_the_token_and_the_metadata_and_reads_the_answer() {
    let server = FaultServer::start().await;
    let answered = json!({
        "client_id": "c-1", "client_secret": "client-secret-1", "client_id_issued_at": 1_560_330_939,
        "client_secret_expires_at": 0, "registration_access_token": "rat-1",
        "registration_client_uri": "https://x/reg/c-1", "grant_types": ["authorization_code", "refresh_token"],
    });
    server.answer("POST", "/reg", Answer::json(201, &answered));

    let registered = register(&server).await.unwrap();

    assert_eq!(registered.client_id, "c-1");
    assert_eq!(registered.client_secret.as_ref().unwrap().expose_secret(), "client-secret-1");
    assert_eq!(registered.client_id_issued_at, Some(1_560_330_939));
    assert_eq!(registered.client_secret_expires_at, Some(0));
    assert_eq!(registered.registration_access_token.as_ref().unwrap().expose_secret(), "rat-1");
    assert_eq!(registered.registration_client_uri.as_deref(), Some("https://x/reg/c-1"));
    assert_eq!(
        Value::from(registered.metadata.clone()),
        json!({"grant_types": ["authorization_code", "refresh_token"]})
    );
    assert_eq!(Value::from(registered.to_json()), answered);

    let request = &server.requests()[0];
    assert_eq!(request.json(), json!({"redirect_uris": ["https://localhost/callback"], "scope": "openid"}));
    assert_eq!(request.bearer(), Some("initial-token-1"));
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("accept"), Some("application/json"));
    assert_eq!(request.header("accept-encoding"), None);
    assert_eq!(request.header("user-agent"), Some(concat!("dcr-operator/", env!("CARGO_PKG_VERSION"))));
}

#[tokio::test]
async fn open_registration_sends_no_authorization_and_a_200_is_a_success() {
    let server = FaultServer::start().await;
    server.answer("POST", "/reg", Answer::json(200, &json!({"client_id": "c-1"})));
    client().register(&server.url("/reg"), None, &object(json!({}))).await.unwrap();
    assert_eq!(server.requests()[0].header("authorization"), None);
}

#[tokio::test]
async fn the_errors_of_rfc_7591_wait_for_a_change() {
    for (code, reason) in [
        ("invalid_redirect_uri", "InvalidRedirectUri"),
        ("invalid_client_metadata", "InvalidClientMetadata"),
        ("invalid_software_statement", "InvalidSoftwareStatement"),
        ("unapproved_software_statement", "UnapprovedSoftwareStatement"),
        ("invalid_request", "InvalidClientMetadata"),
        ("Unrecognized field \"require_proof_key\"", "InvalidClientMetadata"),
    ] {
        let error =
            error_of(Answer::json(400, &json!({"error": code, "error_description": "no,\nnot \u{202e}this"}))).await;
        assert_eq!(verdict(&error), (reason, Retry::OnChange, Outcome::NotRegistered), "{code}");
        let text = error.to_string();
        assert!(text.starts_with("POST http://127.0.0.1:") && text.contains("/reg answered 400 "), "{text}");
        assert!(text.contains(code) && text.ends_with(": \"no, not this\""), "{text}");
    }
}

#[tokio::test]
async fn a_400_without_readable_words_is_about_the_metadata() {
    for answer in [
        Answer::new(400, "text/html", "<h1>Bad Request</h1>"),
        Answer::empty(400),
        Answer::json(400, &json!(["invalid_redirect_uri"])),
        Answer::json(400, &json!({"error": 7, "error_description": {}})),
        Answer::json(400, &json!({"error": "invalid_redirect_uri"})).truncated(),
        Answer::json(422, &json!({})),
    ] {
        let error = error_of(answer).await;
        assert_eq!(verdict(&error), ("InvalidClientMetadata", Retry::OnChange, Outcome::NotRegistered), "{error}");
    }
}

#[tokio::test]
async fn codes_of_other_standards_in_a_400_keep_their_meaning() {
    for (code, reason) in [
        ("invalid_token", "InitialAccessTokenRejected"),
        ("insufficient_scope", "RefusedByServer"),
        ("temporarily_unavailable", "ServerUnavailable"),
    ] {
        let error = error_of(Answer::json(400, &json!({"error": code}))).await;
        assert_eq!(verdict(&error), (reason, Retry::Backoff, Outcome::NotRegistered));
    }
}

#[tokio::test]
async fn other_refusals_are_tried_again_later() {
    for (status, reason) in [
        (401, "InitialAccessTokenRejected"),
        (403, "RefusedByServer"),
        (404, "RefusedByServer"),
        (405, "RefusedByServer"),
        (408, "ServerUnavailable"),
        (413, "RefusedByServer"),
        (429, "ServerUnavailable"),
    ] {
        let error = error_of(Answer::empty(status)).await;
        assert_eq!(verdict(&error), (reason, Retry::Backoff, Outcome::NotRegistered), "{error}");
    }
}

#[tokio::test]
async fn the_challenge_speaks_where_the_body_says_nothing() {
    let challenge = r#"Bearer realm="reg", error="invalid_token", error_description="initial-token-1 has expired""#;
    let error = error_of(Answer::empty(401).header("www-authenticate", challenge)).await;
    assert!(error.to_string().ends_with(r#"answered 401 invalid_token: "[redacted] has expired""#), "{error}");
}

#[tokio::test]
async fn after_a_server_error_the_outcome_is_unknown() {
    for status in [500, 501, 502, 503, 504] {
        let error = error_of(Answer::empty(status)).await;
        assert_eq!(verdict(&error), ("ServerUnavailable", Retry::Backoff, Outcome::Unknown), "{error}");
    }
}

#[tokio::test]
async fn retry_after_is_obeyed_within_bounds() {
    let date = "Fri, 31 Dec 2094 23:59:59 GMT";
    for (status, value, retry) in [
        (429, "7", Retry::After(Duration::from_secs(7))),
        (503, "7", Retry::After(Duration::from_secs(7))),
        (429, "0", Retry::After(Duration::from_secs(1))),
        (503, "86400", Retry::After(Duration::from_hours(1))),
        (503, date, Retry::After(Duration::from_hours(1))),
        (503, "Fri, 31 Dec 1999 23:59:59 GMT", Retry::After(Duration::from_secs(1))),
        (503, "tomorrow", Retry::Backoff),
        (500, "7", Retry::Backoff),
        (403, "7", Retry::Backoff),
    ] {
        let error = error_of(Answer::empty(status).header("retry-after", value)).await;
        assert_eq!(error.retry(), retry, "{status} {value}");
    }
}

#[tokio::test]
async fn a_redirect_is_named_and_not_followed() {
    for (status, outcome) in [
        (301, Outcome::Unknown),
        (302, Outcome::Unknown),
        (303, Outcome::Unknown),
        (307, Outcome::NotRegistered),
        (308, Outcome::NotRegistered),
    ] {
        let server = FaultServer::start().await;
        server.answer("POST", "/reg", Answer::redirect(status, "/elsewhere?token=initial-token-1"));
        let error = register(&server).await.unwrap_err();
        assert_eq!(verdict(&error), ("ServerUnavailable", Retry::Backoff, outcome));
        assert_eq!(server.requests().len(), 1);
        let text = error.to_string();
        let place = server.url("/elsewhere");
        assert!(text.contains(&format!("answered {status}, a redirect to {place}, which is not followed")), "{text}");
        assert!(!text.contains("token="), "{text}");
    }
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_leaves_the_outcome_unknown() {
    let registered = json!({"client_id": "c-1", "client_name": "x".repeat(100)});
    for (answer, what) in [
        (Answer::new(201, "text/html", "<html>"), "is not JSON"),
        (Answer::empty(201), "is not JSON"),
        (Answer::empty(204), "is not JSON"),
        (Answer::json(201, &json!(["c-1"])), "is not a JSON object"),
        (Answer::new(201, "application/json", "[".repeat(100_000)), "is not JSON"),
        (Answer::new(201, "application/json", b"{\"client_id\": \"\xff\"}".to_vec()), "is not JSON"),
        (Answer::json(201, &json!({})), "has no client_id"),
        (Answer::json(201, &json!({"client_id": ""})), "has an empty client_id"),
        (Answer::json(201, &json!({"client_id": 7})), "has a client_id that is not a text"),
        (Answer::json(201, &json!({"client_id": "a".repeat(1025)})), "has a client_id of more than 1024 characters"),
        (Answer::json(201, &json!({"client_id": "a\u{0}"})), "has control characters in its client_id"),
        (Answer::json(201, &json!({"client_id": "c", "x": "x".repeat(300_000)})), "is longer than 256 KiB"),
        (Answer::json(201, &registered).truncated(), "lost its connection"),
        (Answer::reset(), "lost its connection"),
    ] {
        let error = error_of(answer).await;
        assert_eq!(verdict(&error), ("ServerUnavailable", Retry::Backoff, Outcome::Unknown), "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.to_string().len() < 400, "{error}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_not_read_to_its_end() {
    let server = FaultServer::start().await;
    server.answer("POST", "/reg", Answer::new(201, "application/json", vec![b'x'; 64 * 1024]).endless());
    let error = register(&server).await.unwrap_err();
    assert!(error.to_string().contains("is longer than 256 KiB"), "{error}");
    assert_eq!(error.outcome(), Outcome::Unknown);
    // What was on its way in the buffers of the loopback device counts, too.
    assert!(server.body_bytes_sent() < 32 * 1024 * 1024, "{}", server.body_bytes_sent());
}

#[tokio::test]
async fn an_answer_of_announced_and_of_unannounced_length_may_have_256_kib() {
    let document = |length: usize| {
        let empty = json!({"client_id": "c", "x": ""}).to_string().len();
        json!({"client_id": "c", "x": "x".repeat(length - empty)})
    };
    let server = FaultServer::start().await;
    server.answer("POST", "/reg", Answer::json(201, &document(256 * 1024)));
    server.answer("POST", "/reg", Answer::json(201, &document(256 * 1024 + 1)));
    register(&server).await.unwrap();
    register(&server).await.unwrap_err();
}

#[tokio::test]
async fn a_server_that_says_nothing_or_stops_in_the_middle_is_given_up_in_time() {
    let answered = json!({"client_id": "c"});
    for answer in [
        Answer::never(),
        Answer::json(201, &answered).after(Duration::from_mins(1)),
        Answer::json(201, &answered).stalled(),
        Answer::json(400, &json!({"error": "invalid_redirect_uri"})).after(Duration::from_mins(1)),
    ] {
        let server = FaultServer::start().await;
        server.answer("POST", "/reg", answer);
        let started = Instant::now();
        let error = register_with(&hasty_client(), &server).await.unwrap_err();
        // Well below the minute of the slow answers, and far above what a busy machine adds.
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        assert_eq!(verdict(&error), ("ServerUnavailable", Retry::Backoff, Outcome::Unknown), "{error}");
        assert!(error.to_string().contains("got no complete answer within 300ms"), "{error}");
    }
}

#[tokio::test]
async fn a_refusal_counts_even_if_its_words_never_come() {
    let server = FaultServer::start().await;
    server.answer("POST", "/reg", Answer::json(403, &json!({"error": "access_denied"})).stalled());
    let error = register_with(&hasty_client(), &server).await.unwrap_err();
    assert_eq!(verdict(&error), ("RefusedByServer", Retry::Backoff, Outcome::NotRegistered));
}

#[tokio::test]
async fn a_token_that_fits_no_header_is_not_sent() {
    let server = FaultServer::start().await;
    for token in ["", "two words", "line\nbreak", "tab\t", "ümlaut", "secret\r\nx-evil: 1"] {
        let error = client().register(&server.url("/reg"), Some(&secret(token)), &object(json!({}))).await.unwrap_err();
        assert_eq!(verdict(&error), ("InitialAccessTokenRejected", Retry::OnChange, Outcome::NotRegistered));
        assert!(token.is_empty() || !error.to_string().contains(token), "{error}");
    }
    assert_eq!(server.connections(), 0);
}

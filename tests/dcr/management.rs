use dcr_operator::dcr::{Deleted, Error, Outcome};
use dcr_operator::retry::Retry;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use crate::fault_server::{Answer, FaultServer};
use crate::{client, object, secret, verdict};

async fn read_error(answer: Answer) -> Error {
    let server = FaultServer::start().await;
    server.answer("GET", "/reg/c", answer);
    client().read(&server.url("/reg/c"), &secret("rat-12345678"), "c").await.unwrap_err()
}

async fn update_error(answer: Answer) -> Error {
    let server = FaultServer::start().await;
    server.answer("PUT", "/reg/c", answer);
    client().update(&server.url("/reg/c"), &secret("rat-12345678"), "c", &object(json!({}))).await.unwrap_err()
}

async fn delete(answer: Answer) -> Result<Deleted, Error> {
    let server = FaultServer::start().await;
    server.answer("DELETE", "/reg/c", answer);
    client().delete(&server.url("/reg/c"), &secret("rat-12345678")).await
}

#[tokio::test]
async fn a_read_sends_the_token_and_the_query_of_the_uri() {
    let server = FaultServer::start().await;
    server.answer("GET", "/reg/c", Answer::json(200, &json!({"client_id": "c", "registration_access_token": "rat-2"})));
    let found = client().read(&server.url("/reg/c?x=1"), &secret("rat-1"), "c").await.unwrap();
    assert_eq!(found.registration_access_token.unwrap().expose_secret(), "rat-2");
    let request = &server.requests()[0];
    assert_eq!((request.bearer(), request.query.as_deref(), &request.body[..]), (Some("rat-1"), Some("x=1"), &b""[..]));
}

#[tokio::test]
async fn an_update_sends_the_client_id_and_none_of_the_servers_members() {
    let server = FaultServer::start().await;
    server.answer("PUT", "/reg/c", Answer::json(200, &json!({"client_id": "c"})));
    let metadata = object(json!({"client_name": "Shop", "client_secret": "s", "client_secret_expires_at": 0,
        "client_id_issued_at": 1, "registration_access_token": "t", "registration_client_uri": "u", "client_id": "other"}));
    client().update(&server.url("/reg/c"), &secret("rat-1"), "c", &metadata).await.unwrap();
    let request = &server.requests()[0];
    assert_eq!(request.json(), json!({"client_id": "c", "client_name": "Shop"}));
    assert_eq!(request.bearer(), Some("rat-1"));
}

#[tokio::test]
async fn an_answer_about_another_client_is_an_error() {
    let answer = || Answer::json(200, &json!({"client_id": "d", "client_secret": "s"}));
    for error in [update_error(answer()).await, read_error(answer()).await] {
        assert_eq!(verdict(&error), ("ServerUnavailable", Retry::Backoff, Outcome::Unknown));
        assert!(error.to_string().ends_with("answered 200, but the answer is about another client"), "{error}");
    }
}

#[tokio::test]
async fn not_found_says_more_than_unauthorized() {
    for (status, not_found) in [(401, false), (403, false), (404, true), (410, true)] {
        for error in [read_error(Answer::empty(status)).await, update_error(Answer::empty(status)).await] {
            assert_eq!(error.is_client_not_found(), not_found, "{error}");
        }
    }
}

#[tokio::test]
async fn what_a_refused_read_means() {
    for (status, reason, outcome) in [
        (400, "RefusedByServer", Outcome::NotRegistered),
        (401, "RegistrationLost", Outcome::NotRegistered),
        (403, "RefusedByServer", Outcome::NotRegistered),
        (404, "RegistrationLost", Outcome::NotRegistered),
        (405, "RefusedByServer", Outcome::NotRegistered),
        (410, "RegistrationLost", Outcome::NotRegistered),
        (429, "ServerUnavailable", Outcome::NotRegistered),
        (500, "ServerUnavailable", Outcome::Unknown),
    ] {
        assert_eq!(verdict(&read_error(Answer::empty(status)).await), (reason, Retry::Backoff, outcome), "{status}");
    }
}

#[tokio::test]
async fn what_a_refused_update_means() {
    for (status, reason, retry, outcome) in [
        (400, "UpdateRejected", Retry::OnChange, Outcome::NotRegistered),
        (401, "RegistrationLost", Retry::Backoff, Outcome::NotRegistered),
        (403, "RefusedByServer", Retry::Backoff, Outcome::NotRegistered),
        (404, "RegistrationLost", Retry::Backoff, Outcome::NotRegistered),
        (405, "UpdateUnsupported", Retry::Backoff, Outcome::NotRegistered),
        (501, "UpdateUnsupported", Retry::Backoff, Outcome::NotRegistered),
        (409, "RefusedByServer", Retry::Backoff, Outcome::NotRegistered),
        (429, "ServerUnavailable", Retry::Backoff, Outcome::NotRegistered),
        (502, "ServerUnavailable", Retry::Backoff, Outcome::Unknown),
    ] {
        assert_eq!(verdict(&update_error(Answer::empty(status)).await), (reason, retry, outcome), "{status}");
    }
}

#[tokio::test]
async fn a_refused_update_keeps_the_servers_words_without_the_token() {
    let words = json!({"error": "invalid_client_metadata", "error_description": "rat-12345678 may not set scope"});
    let error = update_error(Answer::json(400, &words)).await;
    assert!(
        error.to_string().ends_with(r#"answered 400 invalid_client_metadata: "[redacted] may not set scope""#),
        "{error}"
    );
}

#[tokio::test]
async fn a_lost_answer_to_an_update_leaves_the_outcome_unknown() {
    let answered = json!({"client_id": "c", "registration_access_token": "rat-2"});
    for answer in [Answer::reset(), Answer::json(200, &answered).truncated(), Answer::empty(204)] {
        let error = update_error(answer).await;
        assert_eq!(verdict(&error), ("ServerUnavailable", Retry::Backoff, Outcome::Unknown), "{error}");
    }
}

#[tokio::test]
async fn a_deletion_is_done_whatever_the_body_says() {
    for answer in
        [Answer::empty(204), Answer::new(200, "text/plain", "bye"), Answer::new(200, "text/plain", "bye").truncated()]
    {
        assert_eq!(delete(answer).await, Ok(Deleted::Now));
    }
}

#[tokio::test]
async fn a_page_for_people_is_no_word_of_the_server_that_a_client_is_deleted() {
    let error = delete(Answer::new(200, "text/html; charset=utf-8", "<html>back soon</html>")).await.unwrap_err();
    assert_eq!(verdict(&error), ("ServerUnavailable", Retry::Backoff, Outcome::Unknown), "{error}");
    assert!(error.to_string().ends_with("answered 200, but the answer is a web page"), "{error}");
}

#[tokio::test]
async fn a_client_that_is_gone_needs_no_deletion() {
    for (status, deleted) in [(401, Deleted::TokenRefused), (404, Deleted::AlreadyGone), (410, Deleted::AlreadyGone)] {
        assert_eq!(delete(Answer::empty(status)).await, Ok(deleted), "{status}");
    }
}

#[tokio::test]
async fn what_a_refused_deletion_means() {
    for (status, reason, outcome) in [
        (400, "RefusedByServer", Outcome::NotRegistered),
        (403, "RefusedByServer", Outcome::NotRegistered),
        (405, "DeregistrationRefused", Outcome::NotRegistered),
        (501, "DeregistrationRefused", Outcome::NotRegistered),
        (303, "ServerUnavailable", Outcome::Unknown),
        (307, "ServerUnavailable", Outcome::NotRegistered),
        (429, "ServerUnavailable", Outcome::NotRegistered),
        (503, "ServerUnavailable", Outcome::Unknown),
    ] {
        assert_eq!(
            verdict(&delete(Answer::empty(status)).await.unwrap_err()),
            (reason, Retry::Backoff, outcome),
            "{status}"
        );
    }
}

#[tokio::test]
async fn a_management_token_that_fits_no_header_is_not_sent() {
    let server = FaultServer::start().await;
    let (url, token) = (server.url("/reg/c"), secret("a b"));
    let metadata = object(json!({}));
    assert_eq!(client().read(&url, &token, "c").await.unwrap_err().reason(), "RegistrationLost");
    assert_eq!(client().update(&url, &token, "c", &metadata).await.unwrap_err().reason(), "RegistrationLost");
    assert_eq!(client().delete(&url, &token).await.unwrap_err().reason(), "DeregistrationRefused");
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn what_is_stored_of_an_answer_is_enough_to_go_on() {
    let answered = object(json!({"client_id": "c", "client_secret": "s", "client_secret_expires_at": 0,
        "registration_access_token": "t", "registration_client_uri": "https://x/c", "scope": "openid"}));
    let client = dcr_operator::dcr::ClientInformation::from_json(answered.clone()).unwrap();
    assert_eq!(Value::from(client.to_json()), Value::from(answered));
}

use dcr_operator::dcr::{Error, Outcome, Server, ServerMetadata, ServerOptions};
use dcr_operator::retry::Retry;
use serde_json::json;

use crate::fault_server::{Answer, FaultServer};
use crate::{client, options, verdict};

const OIDC: &str = "/as/.well-known/openid-configuration";
const RFC_8414: &str = "/.well-known/oauth-authorization-server/as";
const APPENDED: &str = "/as/.well-known/oauth-authorization-server";

fn document(issuer: &str) -> Answer {
    Answer::json(
        200,
        &json!({"issuer": issuer, "token_endpoint": format!("{issuer}/token"), "grant_types_supported": []}),
    )
}

async fn discover(server: &FaultServer) -> Result<ServerMetadata, Error> {
    client().discover(&server.url("/as")).await
}

fn asked(server: &FaultServer) -> Vec<String> {
    server.requests().into_iter().map(|request| format!("{} {}", request.method, request.path)).collect()
}

#[tokio::test]
async fn openid_metadata_come_first() {
    let server = FaultServer::start().await;
    let issuer = server.url("/as");
    let at = |path: &str| format!("{issuer}{path}");
    let all = json!({"issuer": issuer, "token_endpoint": at("/token"), "registration_endpoint": at("/reg"),
        "authorization_endpoint": at("/auth"), "jwks_uri": at("/jwks"), "userinfo_endpoint": at("/me")});
    server.answer("GET", OIDC, Answer::json(200, &all));
    assert_eq!(serde_json::to_value(discover(&server).await.unwrap()).unwrap(), all);
    assert_eq!(asked(&server), [format!("GET {OIDC}")]);
}

#[tokio::test]
async fn the_places_of_rfc_8414_and_the_appended_one_come_next() {
    for place in [RFC_8414, APPENDED] {
        let server = FaultServer::start().await;
        server.answer("GET", place, document(&server.url("/as")));
        let metadata = discover(&server).await.unwrap();
        assert_eq!(metadata.token_endpoint, Some(server.url("/as/token")));
        assert_eq!(metadata.registration_endpoint, None, "an absent registration endpoint is the caller's to judge");
        assert_eq!(asked(&server).last().unwrap(), &format!("GET {place}"));
    }
}

#[tokio::test]
async fn a_page_or_another_issuers_document_does_not_hide_the_right_one() {
    for first in [
        Answer::new(200, "text/html", "<html>"),
        document("https://evil.example"),
        Answer::empty(503),
        Answer::redirect(302, "/login"),
    ] {
        let server = FaultServer::start().await;
        server.answer("GET", OIDC, first);
        server.answer("GET", RFC_8414, document(&server.url("/as")));
        discover(&server).await.unwrap();
    }
}

#[tokio::test]
async fn nothing_at_any_place_is_a_failed_discovery_that_says_what_each_answered() {
    let server = FaultServer::start().await;
    server.answer("GET", OIDC, Answer::new(200, "text/html", "<html>"));
    server.answer("GET", RFC_8414, Answer::json(200, &json!({"issuer": 7})));
    let error = discover(&server).await.unwrap_err();
    assert_eq!(verdict(&error), ("DiscoveryFailed", Retry::Backoff, Outcome::NotRegistered));
    let text = error.to_string();
    assert!(
        text.contains("is not JSON") && text.contains("names no issuer") && text.contains("answered 404"),
        "{text}"
    );
    assert_eq!(asked(&server).len(), 3);
}

#[tokio::test]
async fn metadata_of_another_issuer_are_a_mismatch_even_if_only_a_slash_differs() {
    for other in ["https://evil.example/?token=x", "/as/", "/AS"] {
        let server = FaultServer::start().await;
        let other = if other.starts_with('/') { server.url(other) } else { other.to_owned() };
        server.answer("GET", OIDC, document(&other));
        let error = discover(&server).await.unwrap_err();
        assert_eq!(verdict(&error), ("IssuerMismatch", Retry::OnChange, Outcome::NotRegistered));
        assert!(
            error.to_string().contains(other.split('?').next().unwrap()) && !error.to_string().contains("token=x"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn a_place_that_may_answer_later_outweighs_a_mismatch() {
    let server = FaultServer::start().await;
    server.answer("GET", OIDC, Answer::empty(503).header("retry-after", "9"));
    server.answer("GET", RFC_8414, document("https://evil.example"));
    let error = discover(&server).await.unwrap_err();
    assert_eq!(verdict(&error).0, "ServerUnavailable");
    assert_eq!(error.retry(), Retry::After(std::time::Duration::from_secs(9)));
}

#[tokio::test]
async fn a_lost_connection_ends_the_search() {
    let server = FaultServer::start().await;
    server.answer("GET", OIDC, Answer::reset());
    let error = discover(&server).await.unwrap_err();
    assert_eq!(error.reason(), "ServerUnavailable");
    assert_eq!(asked(&server).len(), 1);
}

#[tokio::test]
async fn an_issuer_must_be_a_plain_url() {
    let server = FaultServer::start().await;
    for issuer in ["", "login", "ftp://x/", "https://x/?a=b", "https://x/#f", "https://user:pw@x/"] {
        let error = client().discover(issuer).await.unwrap_err();
        assert_eq!(verdict(&error), ("InvalidEndpoint", Retry::OnChange, Outcome::NotRegistered), "{issuer}");
        assert!(!error.to_string().contains("pw"), "{error}");
    }
    let strict = Server::new(&ServerOptions { allow_insecure_http: false, ..options() }).unwrap();
    assert_eq!(strict.discover(&server.url("/as")).await.unwrap_err().reason(), "InvalidEndpoint");
    assert_eq!(server.connections(), 0);
}

//! `dcr` against a server that misbehaves on request.

// A test may panic.
#![allow(clippy::expect_used, clippy::unwrap_used)]

#[path = "../support/fault_server.rs"]
#[allow(dead_code, unused_imports)]
mod fault_server;

mod arbitrary;
mod discovery;
mod keys;
mod leaks;
mod management;
mod registration;
mod strictness;
mod token;
mod transport;

use std::sync::LazyLock;
use std::time::Duration;

use dcr_operator::dcr::{Error, Outcome, Server, ServerOptions};
use dcr_operator::retry::Retry;
use secrecy::SecretString;
use serde_json::{Map, Value};

/// With a timeout that is long enough for a busy machine: no test waits for it. Without a CA bundle each client would read
/// the certificates of the operating system, and there are hundreds of clients.
fn options() -> ServerOptions {
    static CA: LazyLock<String> = LazyLock::new(|| {
        let key = rcgen::KeyPair::generate().unwrap();
        rcgen::CertificateParams::default().self_signed(&key).unwrap().pem()
    });
    ServerOptions {
        ca_bundle: Some(CA.clone().into_bytes()),
        client_identity: None,
        allow_insecure_http: true,
        request_timeout: Duration::from_secs(30),
        max_concurrent_requests: 8,
        requests_per_second: 0,
    }
}

fn client() -> Server {
    Server::new(&options()).unwrap()
}

/// For the tests in which the time must run out.
fn hasty_client() -> Server {
    Server::new(&ServerOptions { request_timeout: Duration::from_millis(300), ..options() }).unwrap()
}

fn secret(text: &str) -> SecretString {
    SecretString::from(text)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

/// What a caller decides by.
fn verdict(error: &Error) -> (&'static str, Retry, Outcome) {
    (error.reason(), error.retry(), error.outcome())
}

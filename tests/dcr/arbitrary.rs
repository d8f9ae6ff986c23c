//! Whatever bytes a server answers: nothing panics, and nothing comes out of it unbounded or unescaped.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::time::Duration;

use dcr_operator::dcr::{ClientAuthentication, ClientCredentials, ClientInformation, Error, KeyPair, Outcome};
use dcr_operator::retry::Retry;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::fault_server::{Answer, FaultServer};
use crate::{client, secret};

/// No text for people is longer than this: three attempts of a discovery, each with two bounded texts and a bounded URL.
const MOST_CHARS: usize = 4096;

fn assert_fit_for_people(text: &str) {
    assert!(text.chars().count() <= MOST_CHARS, "{} characters", text.chars().count());
    let is_unfit =
        |c: char| c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{feff}');
    assert!(!text.contains(is_unfit), "{text:?}");
}

fn assert_sound(error: &Error) {
    assert_fit_for_people(&error.to_string());
    assert!(format!("{error:?}").chars().count() <= 4 * MOST_CHARS);
    assert!(error.reason().bytes().all(|byte| byte.is_ascii_alphabetic()));
    if let Retry::After(delay) = error.retry() {
        assert!((Duration::from_secs(1)..=Duration::from_hours(1)).contains(&delay), "{delay:?}");
    }
}

/// A document that could be an answer, with strange values in some of its places.
fn document() -> impl Strategy<Value = Value> {
    let text = prop_oneof![
        ".{0,40}",
        select(vec![
            "c",
            "bearer",
            "https://x/reg",
            "https://x/\u{202e}reg",
            "a/../b",
            "..",
            "%2e%2e",
            "a\nb",
            "\u{202e}x",
            "\u{0}",
            "invalid_token",
            "https://user:pw@evil.example/",
        ])
        .prop_map(str::to_owned),
        (1_usize..3000).prop_map(|length| "x\u{1b}".repeat(length)),
    ]
    .prop_map(Value::from)
    .boxed();
    let leaf = prop_oneof![
        text.clone(),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<bool>().prop_map(Value::from),
        Just(Value::Null),
    ];
    let nested = leaf.prop_recursive(4, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".{0,9}", inner, 0..4).prop_map(Value::from_iter),
        ]
    });
    let value = prop_oneof![3 => text, 1 => nested];
    let name = select(vec![
        "client_id",
        "client_secret",
        "client_id_issued_at",
        "client_secret_expires_at",
        "registration_access_token",
        "registration_client_uri",
        "access_token",
        "token_type",
        "expires_in",
        "issuer",
        "token_endpoint",
        "registration_endpoint",
        "jwks_uri",
        "error",
        "error_description",
    ]);
    // What stands for the client in most texts is strange more often than the rest.
    let client_id = prop::option::weighted(0.3, value.clone());
    let strange = prop::collection::btree_map(name, value, 0..6);
    (strange, client_id).prop_map(|(mut strange, client_id)| {
        strange.extend(client_id.map(|client_id| ("client_id", client_id)));
        let mut document = json!({"client_id": "c", "access_token": "t", "token_type": "bearer", "issuer": ISSUER});
        for (name, value) in strange {
            document[name] = value;
        }
        document
    })
}

/// Stands for the server's own address, which is known later.
const ISSUER: &str = "{issuer}";

/// The text of a document, whole, cut, with a member twice, nested too deep, or with a byte that is none of UTF-8; or no
/// document at all.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let whole = document().prop_map(|document| document.to_string()).boxed();
    prop_oneof![
        4 => whole.clone().prop_map(String::into_bytes),
        2 => (whole.clone(), any::<prop::sample::Index>(), any::<u8>()).prop_map(|(text, index, byte)| {
            let mut bytes = text.into_bytes();
            let index = index.index(bytes.len());
            bytes[index] = byte;
            bytes
        }),
        1 => (whole.clone(), any::<prop::sample::Index>()).prop_map(|(text, index)| {
            let length = index.index(text.len());
            text.as_bytes()[..length].to_vec()
        }),
        1 => (whole.clone(), whole).prop_map(|(first, second)| {
            format!("{},{}", &first[..first.len() - 1], &second[1..]).into_bytes()
        }),
        1 => (1_usize..2000).prop_map(|depth| format!(r#"{{"client_id":"c","error":{}"#, "[".repeat(depth)).into_bytes()),
        2 => prop::collection::vec(any::<u8>(), 0..300),
    ]
}

/// What may stand in a header on the wire.
fn header() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,60}",
        "[0-9]{1,40}",
        "[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT",
        "Bearer (error|error_description)=\"?[ -~]{0,40}",
        "(https?:)?//?[a-z.@:]{0,20}/[ -~]{0,20}",
        (0_usize..3000).prop_map(|length| "y".repeat(length)),
    ]
    .prop_map(|value| value.trim().to_owned())
}

fn grant() -> ClientCredentials {
    ClientCredentials {
        client_id: "server".to_owned(),
        authentication: ClientAuthentication::ClientSecretPost(secret("server-secret")),
        scope: None,
        parameters: BTreeMap::new(),
    }
}

/// `client_id` is the one that was asked about, if any.
fn assert_sound_information(information: &ClientInformation, client_id: Option<&str>) {
    assert_fit_for_people(&information.client_id);
    assert!(client_id.is_none_or(|client_id| information.client_id == client_id));
    assert!(information.registration_client_uri.as_ref().is_none_or(|uri| uri.len() <= 2048));
    let stored = ClientInformation::from_json(information.to_json()).unwrap();
    assert_eq!(&stored, information, "what is stored can be read again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(384))]

    #[test]
    fn no_answer_makes_a_call_panic_or_brings_anything_unbounded(
        status in prop_oneof![4 => select(vec![200_u16, 201, 400, 401, 429, 503]), 1 => 200_u16..600],
        body in body(), retry_after in header(), location in header(), challenge in header(),
    ) {
        // 204 and 304 have no body.
        prop_assume!(status != 204 && status != 304);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = FaultServer::start().await;
            let body = replaced(body, ISSUER, &server.url(""));
            let answer = Answer::new(status, "application/json", body)
                .header("retry-after", &retry_after).header("location", &location).header("www-authenticate", &challenge);
            for (method, path) in [("POST", "/token"), ("POST", "/reg"), ("GET", "/reg/c"), ("PUT", "/reg/c"),
                ("DELETE", "/reg/c"), ("GET", "/.well-known/openid-configuration")] {
                server.answer(method, path, answer.clone());
            }
            let (http, token, nothing) = (client(), secret("rat-12345678"), Map::new());

            let mut errors = Vec::new();
            match http.register(&server.url("/reg"), Some(&token), &nothing).await {
                Ok(information) => assert_sound_information(&information, None),
                Err(error) => errors.push(error),
            }
            for result in [
                http.read(&server.url("/reg/c"), &token, "c").await,
                http.update(&server.url("/reg/c"), &token, "c", &nothing).await,
            ] {
                match result {
                    Ok(information) => assert_sound_information(&information, Some("c")),
                    Err(error) => errors.push(error),
                }
            }
            errors.extend(http.delete(&server.url("/reg/c"), &token).await.err());
            match http.access_token(&server.url("/token"), &grant()).await {
                Ok(token) => shown(&token),
                Err(error) => errors.push(error),
            }
            for error in &errors {
                assert!(error.outcome() == Outcome::Unknown || status >= 300, "{error}");
            }
            match http.discover(&server.url("")).await {
                Ok(metadata) => {
                    let document = serde_json::to_value(&metadata).unwrap();
                    for endpoint in document.as_object().unwrap().values() {
                        assert_fit_for_people(endpoint.as_str().unwrap());
                    }
                }
                Err(error) => errors.push(error),
            }
            errors.iter().for_each(assert_sound);
        });
    }

    #[test]
    fn any_bytes_are_a_private_key_or_are_refused(
        pem in prop_oneof![".{0,99}", "-----BEGIN PRIVATE KEY-----\n[A-Za-z0-9+/=\n]{0,99}\n-----END PRIVATE KEY-----\n"],
    ) {
        if let Err(error) = KeyPair::from_pem(&secret(&pem), None) {
            assert_sound(&error);
        }
    }
}

/// `Debug` of an answer names no secret, so it is short.
fn shown(value: &impl Debug) {
    assert_fit_for_people(&format!("{value:?}"));
}

fn replaced(bytes: Vec<u8>, from: &str, to: &str) -> Vec<u8> {
    match String::from_utf8(bytes) {
        Ok(text) => text.replace(from, to).into_bytes(),
        Err(error) => error.into_bytes(),
    }
}

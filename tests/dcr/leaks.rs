//! No text that people or machines can read holds a secret.

use dcr_operator::dcr::{
    AccessToken, ClientAuthentication, ClientCredentials, ClientInformation, Error, KeyAlgorithm, KeyPair,
    ServerOptions,
};
use secrecy::ExposeSecret as _;
use serde_json::{Map, json};

use crate::fault_server::{Answer, FaultServer, Request};
use crate::{client, object, options, secret};

const BEARER: &str = "xyzzy-bearer-token/+with=signs";
const CLIENT_SECRET: &str = "xyzzy-client secret&%+";
const QUERY: &str = "xyzzy-query";

fn grant() -> ClientCredentials {
    ClientCredentials {
        client_id: "server".to_owned(),
        authentication: ClientAuthentication::ClientSecretPost(secret(CLIENT_SECRET)),
        scope: Some("dcr".to_owned()),
        parameters: [("password".to_owned(), "xyzzy-parameter".to_owned())].into(),
    }
}

fn assert_silent(shown: &str) {
    assert!(!shown.contains("xyzzy"), "{shown}");
}

#[test]
fn debug_output_of_everything_hides_every_secret() {
    let information = ClientInformation::from_json(object(json!({
        "client_id": "c-1", "client_secret": CLIENT_SECRET, "registration_access_token": BEARER,
        "registration_client_uri": format!("https://x/c-1?token={QUERY}"), "previous_secret": "xyzzy-vendor",
        "jwks": {"keys": [{"d": "xyzzy-private-key"}]},
    })))
    .unwrap();
    let everything: [&dyn std::fmt::Debug; 6] = [
        &information,
        &Some(information.clone()),
        &grant(),
        &AccessToken { token: secret(BEARER), expires_in: None },
        &client(),
        &ServerOptions { client_identity: Some(secret(BEARER)), ..options() },
    ];
    for value in everything {
        assert_silent(&format!("{value:?} {value:#?}"));
    }
    let key = KeyPair::generate(KeyAlgorithm::ES256).unwrap();
    let pem = key.private_key_pem().expose_secret().to_owned();
    let audience = "https://login.example.com".to_owned();
    let signing =
        ClientCredentials { authentication: ClientAuthentication::PrivateKeyJwt { key, audience }, ..grant() };
    let shown = format!("{signing:?} {signing:#?}");
    assert!(pem.lines().all(|line| !shown.contains(line)), "{shown}");
    assert!(format!("{information:?}").contains("c-1"), "what is no secret is shown");
}

/// What every operation makes of an answer.
async fn errors(answer: impl Fn(&Request) -> Answer + Send + Sync + Clone + 'static) -> Vec<Error> {
    let server = FaultServer::start().await;
    for method in ["GET", "POST", "PUT", "DELETE"] {
        server.handle(method, "/x", answer.clone());
    }
    let url = server.url(&format!("/x?token={QUERY}"));
    let (client, token, metadata) = (client(), secret(BEARER), Map::new());
    let basic =
        ClientCredentials { authentication: ClientAuthentication::ClientSecretBasic(secret(CLIENT_SECRET)), ..grant() };
    let results = [
        client.access_token(&url, &grant()).await.map(drop),
        client.access_token(&url, &basic).await.map(drop),
        client.register(&url, Some(&token), &metadata).await.map(drop),
        client.read(&url, &token, "c").await.map(drop),
        client.update(&url, &token, "c", &metadata).await.map(drop),
        client.delete(&url, &token).await.map(drop),
    ];
    results.into_iter().filter_map(Result::err).collect()
}

/// Whatever secret the request carried, in all its forms, whole and cut.
fn echo(request: &Request) -> String {
    let credentials = request.header("authorization").unwrap_or_default();
    if request.bearer().is_some() {
        return format!("{credentials} {}", &BEARER[..20]);
    }
    let encoded: String = url::form_urlencoded::byte_serialize(CLIENT_SECRET.as_bytes()).collect();
    format!("{credentials} {CLIENT_SECRET} {} {encoded}", &CLIENT_SECRET[..15])
}

#[tokio::test]
async fn no_error_shows_a_secret_whatever_the_server_echoes() {
    let body = |request: &Request| json!({"error": echo(request), "error_description": echo(request), "client_secret": "xyzzy"});
    for status in [200, 201, 302, 400, 401, 403, 404, 405, 429, 500, 501, 503] {
        let whole = move |request: &Request| {
            let location = format!("https://x/{}?{QUERY}", echo(request).replace(' ', "/"));
            Answer::json(status, &body(request)).header("location", &location)
        };
        let challenge = move |request: &Request| {
            let challenge = format!(r#"Bearer error="invalid_token", error_description="{}""#, echo(request));
            Answer::empty(status).header("www-authenticate", &challenge)
        };
        let mut all = errors(whole).await;
        all.extend(errors(challenge).await);
        all.extend(errors(move |request| whole(request).truncated()).await);
        all.extend(errors(move |request| Answer::new(status, "text/plain", echo(request))).await);
        for error in all {
            let shown = format!("{error} {error:?} {error:#?}");
            assert_silent(&shown);
            assert!(!shown.contains("c2VydmVyO"), "{shown}");
        }
    }
}

#[tokio::test]
async fn what_a_server_says_is_bounded_and_on_one_line() {
    let words = "long \u{202e}words\n\u{1b}[31m ".repeat(9999);
    let body = json!({"error": words, "error_description": words});
    for status in [400, 401, 403, 429, 500] {
        for error in errors({
            let body = body.clone();
            move |_| Answer::json(status, &body)
        })
        .await
        {
            let text = error.to_string();
            assert!(
                text.chars().count() < 700 && !text.contains(|c: char| c.is_control() || c == '\u{202e}'),
                "{text}"
            );
        }
    }
}

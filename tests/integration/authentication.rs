//! How the operator authenticates at the token endpoint, and how often it asks there.

use dcr_operator::dcr::{KeyAlgorithm, KeyPair};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::{
    fixtures::*,
    support::{
        authorization_server::{AuthorizationServer, AuthorizationServerOptions},
        fault_server::{Answer, FaultServer, Registrar},
    },
};

fn labelled(name: &str, type_: &str, data: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": type_,
        "metadata": {"name": name, "labels": {"dcr-operator.dev/credentials": "true"}},
        "stringData": data,
    })
}

#[tokio::test]
async fn the_registrar_may_sign_with_a_key_of_its_own() {
    let home = Home::new("signs").await;
    let key = KeyPair::generate(KeyAlgorithm::ES256).unwrap();
    let options = AuthorizationServerOptions {
        registrar_keys: vec![Value::Object(key.public_jwk().clone())],
        ..AuthorizationServerOptions::default()
    };
    let server = AuthorizationServer::start(options).await;
    let pem = key.private_key_pem().expose_secret();
    home.apply(&labelled("signer", "Opaque", json!({"private-key": pem, "key-id": key.kid()}))).await;
    let mut profile = profile(server.issuer());
    profile["spec"]["initialAccessToken"]["clientCredentials"] = json!({
        "clientId": AuthorizationServer::REGISTRAR_WITH_KEY,
        "authMethod": "private_key_jwt",
        "secretRef": {"name": "signer"},
    });
    home.apply(&profile).await;
    home.until_profile_ready().await;
    home.register("shop").await;

    home.apply(&labelled("signer", "Opaque", json!({"private-key": "no key"}))).await;
    let message = home.until_condition(PROFILES, PROFILE, ["CredentialsValid", "False", "InvalidPrivateKey"]).await;
    assert!(!message.contains("no key") || message.contains("PEM"), "{message}");
}

#[tokio::test]
async fn the_registrar_may_show_a_certificate() {
    let home = Home::new("mtls").await;
    let options = AuthorizationServerOptions { tls: true, ..AuthorizationServerOptions::default() };
    let server = AuthorizationServer::start(options).await;
    let ca = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "idp-ca"}, "data": {"ca.crt": server.ca_pem()},
    });
    home.apply(&ca).await;
    let (certificate, key) = server.client_identity_pem();
    let mut profile = profile(server.issuer());
    profile["spec"]["initialAccessToken"]["clientCredentials"] =
        json!({"clientId": AuthorizationServer::REGISTRAR_WITH_CERTIFICATE, "authMethod": "tls_client_auth"});
    profile["spec"]["tls"] = json!({
        "caBundleRef": {"kind": "ConfigMap", "name": "idp-ca"}, "clientCertificateSecretRef": {"name": "idp-mtls"},
    });
    home.apply(&profile).await;
    let message = home.until_condition(PROFILES, PROFILE, ["CredentialsValid", "False", "SecretNotFound"]).await;
    assert_says(&message, &["Secret", "/idp-mtls does not exist"]);
    home.apply(&labelled("idp-mtls", "kubernetes.io/tls", json!({"tls.crt": certificate, "tls.key": key}))).await;
    home.until_profile_ready().await;
    home.register("shop").await;
    assert_eq!(home.registered(&server, "shop").await.len(), 1);
}

#[tokio::test]
async fn a_token_that_may_be_used_again_is_asked_for_once_and_a_refused_one_is_forgotten() {
    let (home, server) = (Home::new("reuse").await, FaultServer::start_registrar(Registrar::default()).await);
    home.profile(&server.url("")).await;
    home.patch(PROFILES, PROFILE, json!({"spec": {"initialAccessToken": {"reuse": "UntilExpiry"}}})).await;
    home.until_profile_ready().await;
    let tokens = || server.requests_to("POST", "/token").len();
    let before = tokens();
    home.register("first").await;
    assert_eq!(tokens() - before, 1);
    // This server's tokens work once, so the second attempt is refused, and the third has a token of its own.
    home.register("second").await;
    assert_eq!(tokens() - before, 2);
    assert_eq!(server.requests_to("POST", "/reg").len(), 3);
    assert_eq!(server.take_misuses().len(), 1, "as the profile asked for");
}

#[tokio::test]
async fn a_token_whose_registration_has_failed_is_not_used_again() {
    for failed in [Answer::reset().carried_out(), Answer::json(403, &json!({"error": "insufficient_scope"}))] {
        let (home, server) = (Home::new("failed").await, FaultServer::start_registrar(Registrar::default()).await);
        home.profile(&server.url("")).await;
        home.patch(PROFILES, PROFILE, json!({"spec": {"initialAccessToken": {"reuse": "UntilExpiry"}}})).await;
        home.until_profile_ready().await;
        server.answer_once("POST", "/reg", failed);
        home.register("shop").await;
        assert_eq!(server.requests_to("POST", "/reg").len(), 2);
        server.assert_no_misuse();
    }
}

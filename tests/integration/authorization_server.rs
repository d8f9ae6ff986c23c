//! What the other tests rely on in the authorization server that they look into: who may register, how long secrets last,
//! and what can be changed behind the operator's back.

use std::{collections::BTreeMap, time::Duration};

use dcr_operator::dcr::{
    ClientAuthentication, ClientCredentials, ClientInformation, KeyAlgorithm, KeyPair, Server, ServerOptions,
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use crate::support::authorization_server::{Application, AuthorizationServer, AuthorizationServerOptions};

/// For those who call a server themselves.
pub fn options() -> ServerOptions {
    ServerOptions {
        // Some certificate, not to read the system's.
        ca_bundle: Some(rcgen::generate_simple_self_signed([]).unwrap().cert.pem().into_bytes()),
        client_identity: None,
        allow_insecure_http: true,
        request_timeout: Duration::from_secs(30),
        max_concurrent_requests: 8,
        requests_per_second: 0,
    }
}

fn grant(client_id: &str, authentication: ClientAuthentication) -> ClientCredentials {
    let (client_id, scope) = (client_id.to_owned(), Some("dcr".to_owned()));
    ClientCredentials { client_id, authentication, scope, parameters: BTreeMap::new() }
}

fn with_secret() -> ClientCredentials {
    let secret = SecretString::from(AuthorizationServer::REGISTRAR_SECRET);
    grant(AuthorizationServer::REGISTRAR, ClientAuthentication::ClientSecretBasic(secret))
}

async fn registered(http: &Server, issuer: &str, by: &ClientCredentials, metadata: Value) -> ClientInformation {
    let server = http.discover(issuer).await.unwrap();
    let token = http.access_token(server.token_endpoint.as_ref().unwrap(), by).await.unwrap().token;
    let metadata: Map<String, Value> = serde_json::from_value(metadata).unwrap();
    http.register(server.registration_endpoint.as_ref().unwrap(), Some(&token), &metadata).await.unwrap()
}

fn shop() -> Value {
    json!({"client_name": "Shop", "redirect_uris": ["https://shop.example.com/callback"]})
}

async fn read(http: &Server, client: &ClientInformation) -> Result<ClientInformation, dcr_operator::dcr::Error> {
    let token = client.registration_access_token.as_ref().unwrap();
    http.read(client.registration_client_uri.as_ref().unwrap(), token, &client.client_id).await
}

#[tokio::test]
async fn a_client_may_be_changed_and_its_token_be_lost_behind_the_operators_back() {
    let (server, http) = (AuthorizationServer::shared(), Server::new(&options()).unwrap());
    let client = registered(&http, server.issuer(), &with_secret(), shop()).await;
    server.change(&client.client_id, json!({"client_name": "Drifted"})).await;
    assert_eq!(read(&http, &client).await.unwrap().metadata["client_name"], "Drifted");
    server.forget_registration_token(&client.client_id).await;
    assert_eq!(read(&http, &client).await.unwrap_err().reason(), "RegistrationLost");
    assert!(server.clients().await.iter().any(|known| known["client_id"] == client.client_id.as_str()));
}

#[tokio::test]
async fn a_registrar_and_its_clients_may_sign_instead_of_showing_a_secret() {
    let registrar = KeyPair::generate(KeyAlgorithm::RS256).unwrap();
    let options_of_server = AuthorizationServerOptions {
        registrar_keys: vec![registrar.public_jwk().clone().into()],
        ..AuthorizationServerOptions::default()
    };
    let (server, http) = (AuthorizationServer::start(options_of_server).await, Server::new(&options()).unwrap());
    for algorithm in [KeyAlgorithm::ES256, KeyAlgorithm::RS256, KeyAlgorithm::EdDSA] {
        let signed =
            ClientAuthentication::PrivateKeyJwt { key: registrar.clone(), audience: server.issuer().to_owned() };
        let by = grant(AuthorizationServer::REGISTRAR_WITH_KEY, signed);
        let key = KeyPair::generate(algorithm).unwrap();
        let mut metadata = shop();
        metadata["token_endpoint_auth_method"] = json!("private_key_jwt");
        metadata["jwks"] = json!({"keys": [key.public_jwk()]});
        let client = registered(&http, server.issuer(), &by, metadata).await;
        assert!(client.client_secret.is_none());
        let application = Application {
            client_id: client.client_id,
            client_secret: Some(key.private_key_pem().expose_secret().to_owned()),
            redirect_uri: "https://shop.example.com/callback".to_owned(),
            scope: "openid".to_owned(),
            auth_method: Some("private_key_jwt".to_owned()),
        };
        assert_eq!(server.log_in(application).await["id_token_claims"]["sub"], "alice", "{algorithm:?}");
    }
}

#[tokio::test]
async fn a_registrar_may_show_its_certificate() {
    let with_tls = AuthorizationServerOptions { tls: true, ..AuthorizationServerOptions::default() };
    let server = AuthorizationServer::start(with_tls).await;
    let (certificate, key) = server.client_identity_pem();
    let by = grant(AuthorizationServer::REGISTRAR_WITH_CERTIFICATE, ClientAuthentication::TlsClientAuth);
    let trusting = || ServerOptions { ca_bundle: Some(server.ca_pem().into()), ..options() };
    let identity = Some(SecretString::from(format!("{certificate}{key}")));
    let http = Server::new(&ServerOptions { client_identity: identity, ..trusting() }).unwrap();
    registered(&http, server.issuer(), &by, shop()).await;

    let without = Server::new(&trusting()).unwrap();
    let endpoint = without.discover(server.issuer()).await.unwrap().token_endpoint.unwrap();
    assert_eq!(without.access_token(&endpoint, &by).await.unwrap_err().reason(), "TokenRequestRejected");
}

#[tokio::test]
async fn secrets_may_end() {
    let ttl = Duration::from_hours(1);
    let ending = AuthorizationServerOptions { client_secret_ttl: Some(ttl), ..AuthorizationServerOptions::default() };
    let (server, http) = (AuthorizationServer::start(ending).await, Server::new(&options()).unwrap());
    let client = registered(&http, server.issuer(), &with_secret(), shop()).await;
    let end = client.client_secret_expires_at.unwrap();
    let expected = client.client_id_issued_at.unwrap() + 3600;
    assert!((expected..expected + 60).contains(&end), "{end}, not {expected}");
    let secret = client.client_secret.as_ref().unwrap().expose_secret();
    // It has no grant to get a token with, and that is said only to those who know the secret.
    assert_ne!(server.token(&client.client_id, secret).await.1["error"], "invalid_client");
    server.change(&client.client_id, json!({"client_secret_expires_at": end - 7200})).await;
    assert_eq!(server.token(&client.client_id, secret).await.1["error"], "invalid_client");
}

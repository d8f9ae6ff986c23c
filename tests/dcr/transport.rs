//! Connections, TLS, and limits.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dcr_operator::dcr::{Error, Outcome, Server, ServerOptions};
use dcr_operator::retry::Retry;
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::fault_server::{Answer, FaultServer};
use crate::{client, hasty_client, object, options, secret, verdict};

async fn register(client: &Server, url: &str) -> Result<(), Error> {
    client.register(url, Some(&secret("initial-token-1")), &object(json!({}))).await.map(drop)
}

fn registered() -> Answer {
    Answer::json(201, &json!({"client_id": "c"}))
}

struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut parameters = CertificateParams::default();
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    fn pem(&self) -> String {
        self.0.as_ref().pem()
    }

    /// A certificate for a name, and its key.
    fn issue(&self, name: &str) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        (CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap(), key)
    }

    async fn server(&self, name: &str) -> FaultServer {
        self.server_for(name, None).await
    }

    /// Demands a certificate that `clients` has issued.
    async fn server_for(&self, name: &str, clients: Option<&Authority>) -> FaultServer {
        let (certificate, key) = self.issue(name);
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = match clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.as_ref().der().clone()).unwrap();
                WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone()).build().unwrap()
            }
        };
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let server = FaultServer::start_tls(config).await;
        server.answer("POST", "/reg", registered());
        server
    }
}

fn strict(ca_bundle: Option<String>) -> Server {
    let ca_bundle = ca_bundle.map(String::into_bytes);
    Server::new(&ServerOptions { ca_bundle, allow_insecure_http: false, ..options() }).unwrap()
}

#[tokio::test]
async fn the_ca_bundle_is_trusted_and_may_hold_several_certificates() {
    let authority = Authority::new();
    let server = authority.server("127.0.0.1").await;
    register(&strict(Some(authority.pem())), &server.url("/reg")).await.unwrap();
    let bundle = format!("# old\n{}\n# new\n{}", Authority::new().pem(), authority.pem());
    register(&strict(Some(bundle)), &server.url("/reg")).await.unwrap();
}

#[tokio::test]
async fn without_the_right_ca_or_the_right_name_nothing_is_sent() {
    let authority = Authority::new();
    let other_name = authority.server("elsewhere.example.com").await;
    let server = authority.server("127.0.0.1").await;
    for (client, server) in [
        (strict(None), &server),
        (strict(Some(Authority::new().pem())), &server),
        (strict(Some(authority.pem())), &other_name),
    ] {
        let error = register(&client, &server.url("/reg")).await.unwrap_err();
        assert_eq!(verdict(&error), ("ServerUnavailable", Retry::Backoff, Outcome::NotRegistered));
        assert!(error.to_string().contains("was not sent, no connection: invalid peer certificate"), "{error}");
        assert!(server.requests().is_empty());
    }
}

#[tokio::test]
async fn a_ca_bundle_without_a_certificate_is_refused() {
    let key = KeyPair::generate().unwrap().serialize_pem();
    for bundle in [
        "",
        "not PEM",
        key.as_str(),
        "-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        "-----BEGIN CERTIFICATE-----\nAAAA\n",
    ] {
        let result = Server::new(&ServerOptions { ca_bundle: Some(bundle.into()), ..options() });
        let error = result.expect_err(bundle);
        assert_eq!(verdict(&error), ("InvalidCaBundle", Retry::OnChange, Outcome::NotRegistered));
    }
}

#[tokio::test]
async fn the_client_certificate_is_shown_to_a_server_that_demands_one() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let server = authority.server_for("127.0.0.1", Some(&clients)).await;
    let options = || ServerOptions { ca_bundle: Some(authority.pem().into_bytes()), ..options() };
    let with = |identity: &str| ServerOptions { client_identity: Some(secret(identity)), ..options() };

    let (certificate, key) = clients.issue("operator");
    // In either order, with a chain, and with text between the blocks.
    for identity in [
        format!("{}{}", certificate.pem(), key.serialize_pem()),
        format!("# key\n{}\n# chain\n{}{}", key.serialize_pem(), certificate.pem(), clients.pem()),
    ] {
        register(&Server::new(&with(&identity)).unwrap(), &server.url("/reg")).await.unwrap();
    }
    assert_eq!(server.requests().len(), 2);

    let (stranger, key) = Authority::new().issue("operator");
    let stranger = format!("{}{}", stranger.pem(), key.serialize_pem());
    for options in [options(), with(&stranger)] {
        let error = register(&Server::new(&options).unwrap(), &server.url("/reg")).await.unwrap_err();
        assert_eq!(error.reason(), "ServerUnavailable", "{error}");
        assert!(error.to_string().contains("alert"), "{error}");
    }
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn a_client_certificate_without_its_own_key_is_refused() {
    let clients = Authority::new();
    let ((certificate, key), other) = (clients.issue("operator"), KeyPair::generate().unwrap());
    let (certificate, key) = (certificate.pem(), key.serialize_pem());
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    for (identity, why) in [
        (String::new(), "no PEM block of the type CERTIFICATE in it"),
        (key.clone(), "no PEM block of the type CERTIFICATE in it"),
        (certificate.clone(), "no unencrypted private key in it"),
        (format!("{certificate}{encrypted}"), "no unencrypted private key in it"),
        (format!("{certificate}{}", other.serialize_pem()), "the private key is not that of the first certificate"),
        (format!("{}{key}", clients.pem()), "the private key is not that of the first certificate"),
        (format!("-----BEGIN CERTIFICATE-----\n%%%\n-----END CERTIFICATE-----\n{key}"), "it has a broken PEM block"),
        (format!("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n{key}"), ""),
    ] {
        let result = Server::new(&ServerOptions { client_identity: Some(secret(&identity)), ..options() });
        let error = result.expect_err(why);
        assert_eq!(verdict(&error), ("InvalidClientCertificate", Retry::OnChange, Outcome::NotRegistered));
        assert!(error.to_string().starts_with(&format!("the client certificate cannot be used: {why}")), "{error}");
    }
}

#[test]
fn options_differ_if_the_client_certificate_does() {
    let with = |identity: Option<&str>| ServerOptions { client_identity: identity.map(secret), ..options() };
    assert_eq!(with(Some("a")), with(Some("a")));
    assert_ne!(with(Some("a")), with(Some("b")));
    assert_ne!(with(Some("a")), with(None));
}

#[tokio::test]
async fn plain_http_is_called_only_if_that_is_allowed() {
    let server = FaultServer::start().await;
    server.answer("POST", "/reg", registered());
    let error = register(&strict(None), &server.url("/reg?token=x")).await.unwrap_err();
    assert_eq!(verdict(&error), ("InvalidEndpoint", Retry::OnChange, Outcome::NotRegistered));
    assert_eq!(
        error.to_string(),
        format!("{} is not called: http:// is not allowed, only https://", server.url("/reg"))
    );
    assert_eq!(server.connections(), 0);
    register(&client(), &server.url("/reg")).await.unwrap();
}

#[tokio::test]
async fn an_endpoint_that_is_no_url_is_refused_without_repeating_its_secrets() {
    for url in ["", "/reg", "ldap://x/reg", "https://user:hunter22@x/reg", "https:// x?hunter22", "user:hunter22@x"] {
        let error = register(&client(), url).await.unwrap_err();
        assert_eq!(verdict(&error), ("InvalidEndpoint", Retry::OnChange, Outcome::NotRegistered), "{url}");
        assert!(!format!("{error} {error:?}").contains("hunter22"), "{error}");
    }
}

#[tokio::test]
async fn what_was_never_sent_was_not_registered() {
    let refusing = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        format!("http://{}/reg", listener.local_addr().unwrap())
    };
    // It accepts connections and never answers the TLS handshake.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = (format!("https://{}/reg", silent.local_addr().unwrap()), silent);
    for url in [&refusing, &silent.0, "http://no-such-host.invalid/reg"] {
        let error = register(&hasty_client(), url).await.unwrap_err();
        assert_eq!(verdict(&error), ("ServerUnavailable", Retry::Backoff, Outcome::NotRegistered), "{error}");
        assert!(error.to_string().starts_with(&format!("POST {url} was not sent, no connection: ")), "{error}");
    }
}

#[tokio::test]
async fn no_more_requests_are_under_way_than_allowed_over_all_clones() {
    let server = FaultServer::start().await;
    server.answer("POST", "/reg", registered().after(Duration::from_millis(10)));
    let client = Server::new(&ServerOptions { max_concurrent_requests: 3, ..options() }).unwrap();
    let url = server.url("/reg");
    let calls = (0..30).map(|_| {
        let (client, url) = (client.clone(), url.clone());
        async move { register(&client, &url).await }
    });
    futures::future::try_join_all(calls).await.unwrap();
    assert_eq!(server.requests().len(), 30);
    assert!((1..=3).contains(&server.most_under_way()), "{}", server.most_under_way());
}

#[tokio::test]
async fn a_caller_that_goes_away_frees_its_place() {
    let server = FaultServer::start().await;
    server.answer_once("POST", "/reg", Answer::never());
    server.answer("POST", "/reg", registered());
    let client = Server::new(&ServerOptions { max_concurrent_requests: 1, ..options() }).unwrap();
    let url = server.url("/reg");
    let stuck = tokio::spawn({
        let (client, url) = (client.clone(), url.clone());
        async move { register(&client, &url).await }
    });
    server.wait_for_requests(1).await;
    stuck.abort();
    register(&client, &url).await.unwrap();
}

#[tokio::test]
async fn requests_start_no_faster_than_allowed() {
    let server = FaultServer::start().await;
    server.answer("POST", "/reg", registered());
    let client = Server::new(&ServerOptions { requests_per_second: 50, ..options() }).unwrap();
    let url = server.url("/reg");
    let started = Instant::now();
    futures::future::try_join_all((0..11).map(|_| register(&client, &url))).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(200), "{:?}", started.elapsed());
}

#[tokio::test]
async fn waiting_for_a_place_is_not_counted_as_time_of_the_request() {
    let server = FaultServer::start().await;
    server.answer("POST", "/reg", registered());
    let limits = ServerOptions { requests_per_second: 2, request_timeout: Duration::from_millis(600), ..options() };
    let client = Server::new(&limits).unwrap();
    let url = server.url("/reg");
    // The last of them starts after 1 s.
    futures::future::try_join_all((0..3).map(|_| register(&client, &url))).await.unwrap();
}

#[tokio::test]
async fn connections_are_used_again() {
    let server = FaultServer::start().await;
    server.answer("POST", "/reg", registered());
    let client = client();
    for _ in 0..5 {
        register(&client, &server.url("/reg")).await.unwrap();
    }
    assert_eq!(server.connections(), 1);
}

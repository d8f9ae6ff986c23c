//! Certificates of authorities that nobody else knows.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

use super::install_crypto_provider;

/// In PEM.
pub struct Certificates {
    pub ca: String,
    pub server: String,
    pub server_key: String,
    /// For whoever has to show one; its subject is CN=operator.
    pub client: String,
    pub client_key: String,
}

impl Certificates {
    /// For a server that asks nobody for a certificate.
    pub fn server_config(&self) -> ServerConfig {
        install_crypto_provider();
        let certificate = CertificateDer::from_pem_slice(self.server.as_bytes()).expect("a certificate");
        let key = PrivateKeyDer::from_pem_slice(self.server_key.as_bytes()).expect("a key");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![certificate], key);
        config.expect("a key that fits")
    }
}

/// Certificates for a server on loopback and for one of its clients, by an authority that nobody else knows.
pub fn certificates() -> Certificates {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "authority of a test");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");

    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("two names");
    let server = params.signed_by(&key, &ca).expect("a certificate");

    let client_key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "operator");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let client = params.signed_by(&client_key, &ca).expect("a certificate");
    Certificates {
        ca: ca.pem(),
        server: server.pem(),
        server_key: key.serialize_pem(),
        client: client.pem(),
        client_key: client_key.serialize_pem(),
    }
}

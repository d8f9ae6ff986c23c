//! Key pairs of clients that authenticate with a signed assertion (`private_key_jwt`, RFC 7523).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair};
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use pem::{EncodeConfig, LineEnding, Pem};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde_json::{Map, Value};

use super::error::Error;

const PKCS8: &str = "PRIVATE KEY";

/// How a key signs (RFC 7518 section 3.1, RFC 8037 section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyAlgorithm {
    /// ECDSA on the curve P-256 with SHA-256.
    #[default]
    ES256,
    /// RSA (2048 bits where the pair is made here) by PKCS #1 v1.5 with SHA-256.
    RS256,
    /// Ed25519.
    EdDSA,
}

/// A private key with its public half. Cheap to clone. `Debug` shows the algorithm and the identifier alone.
#[derive(Clone)]
pub struct KeyPair(Arc<Inner>);

struct Inner {
    algorithm: KeyAlgorithm,
    pem: SecretString,
    signer: EncodingKey,
    public: Map<String, Value>,
    kid: String,
}

impl KeyPair {
    /// Makes a new pair.
    ///
    /// # Errors
    /// [`Error::InvalidPrivateKey`] if the system has no randomness to give.
    pub fn generate(algorithm: KeyAlgorithm) -> Result<Self, Error> {
        let unmade = |_| invalid("no key pair could be made");
        let random = SystemRandom::new();
        let der = match algorithm {
            KeyAlgorithm::ES256 => EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
                .map_err(unmade)?
                .as_ref()
                .to_vec(),
            KeyAlgorithm::RS256 => {
                RsaKeyPair::generate(KeySize::Rsa2048).and_then(|pair| pair.as_der()).map_err(unmade)?.as_ref().to_vec()
            }
            KeyAlgorithm::EdDSA => Ed25519KeyPair::generate_pkcs8v1(&random).map_err(unmade)?.as_ref().to_vec(),
        };
        Self::new(algorithm, der, None)
    }

    /// Reads an unencrypted PKCS #8 key in PEM (RFC 7468 section 10) and sees by itself of which algorithm it is. The
    /// identifier is `kid` if given, else the thumbprint.
    ///
    /// # Errors
    /// [`Error::InvalidPrivateKey`] with what is wrong and, where there is one, the way out.
    pub fn from_pem(pem: &SecretString, kid: Option<String>) -> Result<Self, Error> {
        let blocks = pem::parse_many(pem.expose_secret()).map_err(|_| invalid("it is not PEM"))?;
        let mut keys = blocks.into_iter().filter(|block| block.tag().ends_with(PKCS8));
        let key = keys.next().ok_or_else(|| invalid("there is no PEM block \"PRIVATE KEY\" in it"))?;
        if keys.next().is_some() {
            return Err(invalid("there is more than one private key in it"));
        }
        match key.tag() {
            PKCS8 => {}
            "ENCRYPTED PRIVATE KEY" => return Err(invalid("it is encrypted")),
            _ => return Err(invalid("it is not in PKCS #8; `openssl pkcs8 -topk8 -nocrypt` makes it so")),
        }
        let der = key.into_contents();
        // jsonwebtoken reads the first version of the format alone.
        if let Ok(pair) = Ed25519KeyPair::from_pkcs8(&der) {
            let der = pair.to_pkcs8v1().map_err(|_| invalid("its Ed25519 key cannot be used"))?;
            return Self::new(KeyAlgorithm::EdDSA, der.as_ref().to_vec(), kid);
        }
        if EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der).is_ok() {
            return Self::new(KeyAlgorithm::ES256, der, kid);
        }
        if RsaKeyPair::from_pkcs8(&der).is_ok() {
            return Self::new(KeyAlgorithm::RS256, der, kid);
        }
        Err(invalid("it is no key of the curve P-256, no Ed25519 key, and no RSA key of 2048 to 8192 bits"))
    }

    fn new(algorithm: KeyAlgorithm, der: Vec<u8>, kid: Option<String>) -> Result<Self, Error> {
        let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
        let pem = SecretString::from(pem::encode_config(&Pem::new(PKCS8, der), config));
        let bytes = pem.expose_secret().as_bytes();
        let unusable = |_| invalid("it cannot be used to sign");
        let signer = match algorithm {
            KeyAlgorithm::ES256 => EncodingKey::from_ec_pem(bytes),
            KeyAlgorithm::RS256 => EncodingKey::from_rsa_pem(bytes),
            KeyAlgorithm::EdDSA => EncodingKey::from_ed_pem(bytes),
        }
        .map_err(unusable)?;
        let mut public = Jwk::from_encoding_key(&signer, algorithm.into()).map_err(unusable)?;
        let kid = match kid {
            Some(kid) => kid,
            None => public.thumbprint(ThumbprintHash::SHA256).map_err(unusable)?,
        };
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        public.common.key_id = Some(kid.clone());
        let Ok(Value::Object(public)) = serde_json::to_value(public) else {
            return Err(invalid("its public key cannot be written"));
        };
        Ok(Self(Arc::new(Inner { algorithm, pem, signer, public, kid })))
    }

    /// How the pair signs.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.0.algorithm
    }

    /// The private key: PKCS #8 in PEM.
    #[must_use]
    pub fn private_key_pem(&self) -> &SecretString {
        &self.0.pem
    }

    /// The identifier of the key: what was given, else the SHA-256 thumbprint (RFC 7638).
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.0.kid
    }

    /// The public key as a JWK (RFC 7517 section 4) with `use`, `alg` and `kid`.
    #[must_use]
    pub fn public_jwk(&self) -> &Map<String, Value> {
        &self.0.public
    }

    /// A signed JWT with the key's identifier in its header.
    pub(super) fn sign(&self, claims: &impl Serialize) -> Result<SecretString, Error> {
        let header = Header { kid: Some(self.0.kid.clone()), ..Header::new(self.0.algorithm.into()) };
        let jwt = jsonwebtoken::encode(&header, claims, &self.0.signer);
        jwt.map(SecretString::from).map_err(|_| invalid("it could not sign"))
    }
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyPair")
            .field("algorithm", &self.0.algorithm)
            .field("kid", &self.0.kid)
            .finish_non_exhaustive()
    }
}

impl From<KeyAlgorithm> for Algorithm {
    fn from(algorithm: KeyAlgorithm) -> Self {
        match algorithm {
            KeyAlgorithm::ES256 => Self::ES256,
            KeyAlgorithm::RS256 => Self::RS256,
            KeyAlgorithm::EdDSA => Self::EdDSA,
        }
    }
}

fn invalid(why: &'static str) -> Error {
    Error::InvalidPrivateKey { why }
}

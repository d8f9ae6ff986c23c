//! The key pairs of a client that authenticates by `private_key_jwt` (RFC 7523): which are registered, and which one the
//! application signs with. Pure: a key is made by the step that registers it.

use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::metadata::Document;
use crate::api::SigningAlgorithm;

/// A key pair. `Debug` shows no private key.
#[derive(Clone, Debug)]
pub struct ClientKey {
    pub algorithm: SigningAlgorithm,
    pub kid: String,
    /// PKCS#8, PEM.
    pub private_key: SecretString,
    /// JWK, without private members.
    pub public_jwk: Map<String, Value>,
    pub created_at: Timestamp,
    /// Until when it stays registered beside its successor; `None` = it is the one in use.
    pub retire_at: Option<Timestamp>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    algorithm: SigningAlgorithm,
    kid: String,
    private_key: String,
    public_jwk: Map<String, Value>,
    created_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retire_at: Option<Timestamp>,
}

/// The keys of one client; the one in use is the first.
#[derive(Clone, Debug, Default)]
pub struct ClientKeys(pub Vec<ClientKey>);

impl ClientKeys {
    /// The key that the application signs with.
    #[must_use]
    pub fn active(&self) -> Option<&ClientKey> {
        self.0.iter().find(|key| key.retire_at.is_none())
    }

    /// The keys that belong into the registration at this time.
    #[must_use]
    pub fn live(&self, now: Timestamp) -> Self {
        Self(self.0.iter().filter(|key| key.retire_at.is_none_or(|end| end > now)).cloned().collect())
    }

    /// When the next key is to leave the registration.
    #[must_use]
    pub fn next_end(&self) -> Option<Timestamp> {
        self.0.iter().filter_map(|key| key.retire_at).min()
    }

    /// With a new key in use; the old one stays registered for `overlap`.
    #[must_use]
    pub fn succeeded_by(&self, new: ClientKey, overlap: Duration, now: Timestamp) -> Self {
        let end = now.checked_add(overlap).unwrap_or(Timestamp::MAX);
        let old = self.live(now).0.into_iter();
        let old = old.map(|key| ClientKey { retire_at: key.retire_at.or(Some(end)), ..key });
        Self(std::iter::once(new).chain(old.filter(|key| key.retire_at > Some(now))).collect())
    }

    /// The document with these keys: the client authenticates by them.
    #[must_use]
    pub fn laid_into(&self, mut document: Document) -> Document {
        let keys: Vec<&Map<String, Value>> = self.0.iter().map(|key| &key.public_jwk).collect();
        document.0.insert("token_endpoint_auth_method".into(), "private_key_jwt".into());
        document.0.insert("jwks".into(), json!({"keys": keys}));
        document
    }

    /// As JSON, **with the private keys in clear**: for a Secret only.
    #[must_use]
    pub fn to_json(&self) -> String {
        let stored: Vec<Stored> = self
            .0
            .iter()
            .map(|key| Stored {
                algorithm: key.algorithm,
                kid: key.kid.clone(),
                private_key: key.private_key.expose_secret().to_owned(),
                public_jwk: key.public_jwk.clone(),
                created_at: key.created_at,
                retire_at: key.retire_at,
            })
            .collect();
        // Text, numbers and maps with text keys: this can't fail.
        serde_json::to_string(&stored).unwrap_or_default()
    }

    /// Reads them back; `None` if they are spoilt.
    #[must_use]
    pub fn from_json(bytes: &[u8]) -> Option<Self> {
        let stored: Vec<Stored> = serde_json::from_slice(bytes).ok()?;
        let keys = stored.into_iter().map(|key| ClientKey {
            algorithm: key.algorithm,
            kid: key.kid,
            private_key: key.private_key.into(),
            public_jwk: key.public_jwk,
            created_at: key.created_at,
            retire_at: key.retire_at,
        });
        Some(Self(keys.collect()))
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    pub fn key(kid: &str, created_at: i64) -> ClientKey {
        ClientKey {
            algorithm: SigningAlgorithm::ES256,
            kid: kid.into(),
            private_key: format!("private-{kid}").into(),
            public_jwk: json!({"kty": "EC", "kid": kid}).as_object().cloned().unwrap(),
            created_at: at(created_at),
            retire_at: None,
        }
    }

    fn kids(keys: &ClientKeys) -> Vec<&str> {
        keys.0.iter().map(|key| key.kid.as_str()).collect()
    }

    #[test]
    fn both_keys_are_registered_during_the_overlap_and_the_new_one_comes_first() {
        let old = ClientKeys(vec![key("old", 0)]);
        let both = old.succeeded_by(key("new", 100), Duration::from_mins(1), at(100));
        assert_eq!(kids(&both), ["new", "old"]);
        assert_eq!(both.active().unwrap().kid, "new");
        assert_eq!(both.next_end(), Some(at(160)));
        assert_eq!(kids(&both.live(at(159))), ["new", "old"]);
        assert_eq!(kids(&both.live(at(160))), ["new"]);
        let document = both.laid_into(Document::default());
        assert_eq!(document.0["jwks"]["keys"][1]["kid"], "old");
        assert_eq!(document.0["token_endpoint_auth_method"], "private_key_jwt");
    }

    #[test]
    fn without_overlap_the_old_key_goes_at_once() {
        let keys = ClientKeys(vec![key("old", 0)]).succeeded_by(key("new", 9), Duration::ZERO, at(9));
        assert_eq!(kids(&keys), ["new"]);
    }

    #[test]
    fn keys_survive_the_secret_and_debug_shows_no_private_key() {
        let keys = ClientKeys(vec![key("a", 1)]);
        let read = ClientKeys::from_json(keys.to_json().as_bytes()).unwrap();
        assert_eq!(read.0[0].private_key.expose_secret(), "private-a");
        assert!(!format!("{read:?}").contains("private-a"));
        assert!(ClientKeys::from_json(b"{").is_none());
    }
}

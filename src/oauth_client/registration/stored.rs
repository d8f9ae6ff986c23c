//! The Secret `<name>-registration`: how a registration is written there and read back.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{History, Registration, Retiring, ServerSnapshot};
use crate::{
    dcr::ClientInformation,
    kubernetes::{Precondition, SecretData},
    oauth_client::keys::ClientKeys,
};

/// Type of the Secret.
pub const SECRET_TYPE: &str = "dcr-operator.dev/registration";

pub(super) const ATTEMPT: &str = "attempt";
pub(super) const INFORMATION: &str = "client-information.json";
pub(super) const REQUEST: &str = "request.json";
pub(super) const SERVER: &str = "authorization-server.json";
pub(super) const HISTORY: &str = "history.json";
pub(super) const PREVIOUS_TOKEN: &str = "previous-registration-access-token";
pub(super) const KEYS: &str = "keys.json";
pub(super) const RETIRING: &str = "retiring.json";

/// Name of the Secret.
#[must_use]
pub fn secret_name(client: &str) -> String {
    format!("{client}-registration")
}

/// The Secret `<name>-registration`.
#[derive(Clone, Debug)]
pub enum RegistrationSecret {
    Absent,
    /// There is one of that name that is not ours.
    Foreign,
    /// It keeps a registration, with our finalizer, and is no longer this object's: somebody took the owner reference off, or
    /// the owner of that name was another one. Nobody else will let go of it.
    Stray {
        secret: StoredSecret,
        /// Its clients, as far as it can be read.
        client_ids: Vec<String>,
    },
    /// It is ours, and of no use.
    Unreadable {
        secret: StoredSecret,
        flaw: Flaw,
    },
    Held {
        secret: StoredSecret,
        registration: Box<Registration>,
    },
}

/// Why a registration Secret is of no use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// This key is missing or spoilt.
    Key(&'static str),
    /// It is about this client, which is not the one of the status.
    OtherClient(String),
}

/// A Secret without its data: enough to write or remove it, and nothing for `Debug` to show.
#[derive(Clone, Debug, Default)]
pub struct StoredSecret(pub Box<Secret>);

impl StoredSecret {
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self(Box::new(Secret { data: None, string_data: None, ..secret }))
    }

    /// Writes over it only if nobody has written it since it was read.
    #[must_use]
    pub fn unchanged(&self) -> Precondition {
        Precondition::Unchanged(self.0.metadata.resource_version.clone().unwrap_or_default())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoredRetiring {
    information: Map<String, Value>,
    /// As [`ClientKeys::to_json`] writes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<String>,
    delete_after: Timestamp,
    #[serde(default)]
    is_lost: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    server: Option<ServerSnapshot>,
    #[serde(default)]
    history: History,
}

impl Registration {
    /// The data of the Secret.
    #[must_use]
    pub fn to_data(&self) -> SecretData {
        let Self { attempt, information, request, server, history, previous_token, keys, retiring } = self;
        // Strings, numbers and maps with text keys: serialising can't fail.
        let mut data = SecretData::default();
        data.insert(ATTEMPT, attempt.as_str());
        data.insert(INFORMATION, Value::Object(information.to_json()).to_string());
        if let Some(request) = request {
            data.insert(REQUEST, Value::Object(request.clone()).to_string());
        }
        data.insert(SERVER, serde_json::to_string(server).unwrap_or_default());
        data.insert(HISTORY, serde_json::to_string(history).unwrap_or_default());
        if let Some(token) = previous_token {
            data.insert(PREVIOUS_TOKEN, token.expose_secret());
        }
        if !keys.0.is_empty() {
            data.insert(KEYS, keys.to_json());
        }
        if !retiring.is_empty() {
            let retiring: Vec<StoredRetiring> = retiring
                .iter()
                .map(|Retiring { information, keys, delete_after, is_lost, server, history }| StoredRetiring {
                    information: information.to_json(),
                    keys: (!keys.0.is_empty()).then(|| keys.to_json()),
                    delete_after: *delete_after,
                    is_lost: *is_lost,
                    server: server.clone(),
                    history: history.clone(),
                })
                .collect();
            data.insert(RETIRING, serde_json::to_string(&retiring).unwrap_or_default());
        }
        data
    }

    /// Reads the Secret's data back.
    ///
    /// # Errors
    /// The name of the key that is missing or spoilt.
    pub fn from_data(data: &SecretData) -> Result<Self, &'static str> {
        fn json<T: serde::de::DeserializeOwned>(data: &SecretData, key: &'static str) -> Result<T, &'static str> {
            data.get(key).and_then(|bytes| serde_json::from_slice(bytes).ok()).ok_or(key)
        }
        let retiring: Vec<StoredRetiring> =
            if data.get(RETIRING).is_some() { json(data, RETIRING)? } else { Vec::new() };
        let retiring = retiring.into_iter().map(|stored| {
            Ok::<_, &'static str>(Retiring {
                information: ClientInformation::from_json(stored.information).map_err(|_| RETIRING)?,
                keys: stored.keys.map_or_else(
                    || Ok(ClientKeys::default()),
                    |keys| ClientKeys::from_json(keys.as_bytes()).ok_or(RETIRING),
                )?,
                delete_after: stored.delete_after,
                is_lost: stored.is_lost,
                server: stored.server,
                history: stored.history,
            })
        });
        Ok(Self {
            attempt: data.text(ATTEMPT).ok_or(ATTEMPT)?.to_owned(),
            information: ClientInformation::from_json(json(data, INFORMATION)?).map_err(|_| INFORMATION)?,
            request: if data.get(REQUEST).is_some() { Some(json(data, REQUEST)?) } else { None },
            server: json(data, SERVER)?,
            history: json(data, HISTORY)?,
            previous_token: data.text(PREVIOUS_TOKEN).map(SecretString::from),
            keys: data
                .get(KEYS)
                .map_or_else(|| Ok(ClientKeys::default()), |keys| ClientKeys::from_json(keys).ok_or(KEYS))?,
            retiring: retiring.collect::<Result<_, _>>()?,
        })
    }
}

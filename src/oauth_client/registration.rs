//! What is kept of a registration, in the Secret `<name>-registration`.

use k8s_openapi::api::core::v1::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    dcr::{ClientInformation, ServerMetadata},
    kubernetes::SecretData,
};

/// Type of the Secret.
pub const SECRET_TYPE: &str = "dcr-operator.dev/registration";

const ATTEMPT: &str = "attempt";
const INFORMATION: &str = "client-information.json";
const REQUEST: &str = "request.json";
const SERVER: &str = "authorization-server.json";

/// Name of the Secret.
#[must_use]
pub fn secret_name(client: &str) -> String {
    format!("{client}-registration")
}

/// A registration as the server answered it.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The attempt that made it.
    pub attempt: String,
    /// The last answer.
    pub information: ClientInformation,
    /// The metadata that were last asked for.
    pub request: Map<String, Value>,
    /// The server as it was then, for the time when its profile is gone.
    pub server: ServerSnapshot,
}

/// What is needed of a profile to tend to a registration without it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerSnapshot {
    pub metadata: ServerMetadata,
    /// PEM; absent = the operator's own trust store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle: Option<String>,
    /// Name of the profile: the `provider` of the Service Binding.
    pub profile: String,
}

impl Registration {
    /// The data of the Secret.
    #[must_use]
    pub fn to_data(&self) -> SecretData {
        let Self { attempt, information, request, server } = self;
        let mut data = SecretData::default();
        data.insert(ATTEMPT, attempt.as_str());
        data.insert(INFORMATION, Value::Object(information.to_json()).to_string());
        data.insert(REQUEST, Value::Object(request.clone()).to_string());
        // Strings only: this can't fail.
        data.insert(SERVER, serde_json::to_string(server).unwrap_or_default());
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
        Ok(Self {
            attempt: data.text(ATTEMPT).ok_or(ATTEMPT)?.to_owned(),
            information: ClientInformation::from_json(json(data, INFORMATION)?).map_err(|_| INFORMATION)?,
            request: json(data, REQUEST)?,
            server: json(data, SERVER)?,
        })
    }

    /// What a management call needs (RFC 7592), if the server's answer allowed for it.
    #[must_use]
    pub fn management(&self) -> Option<(&str, &secrecy::SecretString)> {
        let ClientInformation { registration_client_uri, registration_access_token, .. } = &self.information;
        Some((registration_client_uri.as_deref()?, registration_access_token.as_ref()?))
    }
}

/// The Secret `<name>-registration`.
#[derive(Clone, Debug)]
pub enum RegistrationSecret {
    Absent,
    /// There is one of that name that is not ours.
    Foreign,
    /// It is ours, and this key of it is missing or spoilt.
    Unreadable {
        secret: StoredSecret,
        key: &'static str,
    },
    Held {
        secret: StoredSecret,
        registration: Box<Registration>,
    },
}

/// A Secret without its data: enough to write or remove it, and nothing for `Debug` to show.
#[derive(Clone, Debug, Default)]
pub struct StoredSecret(pub Box<Secret>);

impl StoredSecret {
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self(Box::new(Secret { data: None, string_data: None, ..secret }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_registration_survives_the_secret() {
        let answer = json!({"client_id": "c", "client_secret": "s", "registration_access_token": "t",
            "registration_client_uri": "https://as/reg/c", "scope": "openid"});
        let registration = Registration {
            attempt: "a".into(),
            information: ClientInformation::from_json(answer.as_object().cloned().unwrap()).unwrap(),
            request: json!({"scope": "openid"}).as_object().cloned().unwrap(),
            server: ServerSnapshot { ca_bundle: Some("PEM".into()), profile: "p".into(), ..ServerSnapshot::default() },
        };
        let read = Registration::from_data(&registration.to_data()).unwrap();
        assert_eq!(read.attempt, "a");
        assert_eq!(read.information.to_json(), *answer.as_object().unwrap());
        assert_eq!((read.request, read.server), (registration.request, registration.server));
    }

    #[test]
    fn a_spoilt_secret_names_the_key() {
        assert_eq!(Registration::from_data(&SecretData::default()).unwrap_err(), "attempt");
        let spoilt = [("attempt", "a"), (INFORMATION, "{")].map(|(key, value)| (key.to_owned(), value.to_owned()));
        assert_eq!(Registration::from_data(&spoilt.into_iter().collect()).unwrap_err(), INFORMATION);
    }
}

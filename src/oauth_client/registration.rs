//! What is kept of a registration, and what the server's answers make of it.

mod stored;

use std::time::Duration;

use jiff::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use self::stored::{Flaw, RegistrationSecret, SECRET_TYPE, StoredSecret, secret_name};
use super::keys::ClientKeys;
use crate::{
    api::ServerBehaviour,
    dcr::{ClientInformation, ServerMetadata},
    text::truncate,
};

/// A registration as the server answered it.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The attempt that made it; empty if the client was adopted.
    pub attempt: String,
    /// The last answer.
    pub information: ClientInformation,
    /// The metadata that were last asked for; `None` = nothing yet, the client was adopted.
    pub request: Option<Map<String, Value>>,
    /// The server as it was then, for the time when its profile is gone.
    pub server: ServerSnapshot,
    pub history: History,
    /// The registration access token before the last one, until the last one has worked.
    pub previous_token: Option<SecretString>,
    pub keys: ClientKeys,
    /// Former clients of the same OAuthClient that still exist on the server.
    pub retiring: Vec<Retiring>,
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
    /// Clients ask for `openid` without having it registered.
    #[serde(default)]
    pub openid_is_implied: bool,
}

impl ServerSnapshot {
    /// Whether this is another authorization server than the one that the profile describes now: by the issuer, or, where one
    /// has none, by the origin. An issuer that was put right beside the same endpoint makes no other server.
    #[must_use]
    pub fn is_another(&self, now: &ServerMetadata) -> bool {
        let then = &self.metadata;
        if then.registration_endpoint.is_none() || then.registration_endpoint == now.registration_endpoint {
            return false;
        }
        if then.issuer.is_empty() || now.issuer.is_empty() {
            return self.is_elsewhere(now);
        }
        then.issuer != now.issuer
    }

    /// Whether what is registered there would be asked for at another origin now. There, nobody may ever have heard of it.
    #[must_use]
    pub fn is_elsewhere(&self, now: &ServerMetadata) -> bool {
        let origin = |metadata: &ServerMetadata| {
            let endpoint = url::Url::parse(metadata.registration_endpoint.as_deref()?).ok()?;
            Some(endpoint.origin())
        };
        matches!((origin(&self.metadata), origin(now)), (Some(then), Some(now)) if then != now)
    }

    /// What people know it by.
    #[must_use]
    pub fn name(&self) -> String {
        let ServerMetadata { issuer, registration_endpoint, .. } = &self.metadata;
        let name = if issuer.is_empty() { registration_endpoint.as_deref().unwrap_or_default() } else { issuer };
        truncate(name, 256)
    }
}

/// What happened to the registration, and when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
// Each is a fact of its own.
#[allow(clippy::struct_excessive_bools)]
pub struct History {
    pub origin: Origin,
    /// When the secret, or the key in use, was issued.
    pub credentials_issued_at: Timestamp,
    /// Whether these are not the first credentials.
    pub rotated: bool,
    /// When the registration access token was issued.
    pub token_issued_at: Timestamp,
    /// The last value of the annotation that asks for a rotation, as far as it has been handled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handled_rotate_at: Option<String>,
    /// A call that may have changed token and secret was begun then, and its answer is not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unconfirmed_since: Option<Timestamp>,
    /// It has been narrowed down to what the policies allow, once.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_narrowed: bool,
    /// A call that should have brought a new registration access token did not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub renewal_keeps_token: bool,
    /// A read that should have rotated the secret did not.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub reading_keeps_secret: bool,
}

/// How the OAuthClient came to its client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    #[default]
    Registered,
    Adopted,
    Replaced,
}

/// A former client.
#[derive(Clone, Debug)]
pub struct Retiring {
    pub information: ClientInformation,
    pub keys: ClientKeys,
    pub delete_after: Timestamp,
    /// The server has refused its registration access token already.
    pub is_lost: bool,
    /// Where it is, if that is another server than the registration's.
    pub server: Option<ServerSnapshot>,
    /// As it was when another client took its place; it may have to come back.
    pub history: History,
}

/// What a management call (RFC 7592) may be made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The registration access token.
    Token,
    /// The one before it.
    PreviousToken,
    /// The profile's management client.
    Manager,
}

impl Registration {
    /// All clients that it tells of, the former ones first, each with the server that it is at.
    pub fn clients(&self) -> impl Iterator<Item = (&str, &ServerSnapshot)> {
        let former = self.retiring.iter().map(|former| (&former.information, former.server.as_ref()));
        let all = former.chain([(&self.information, None)]);
        all.map(|(information, server)| (information.client_id.as_str(), server.unwrap_or(&self.server)))
    }

    /// What management calls may be made with, in the order in which it is tried; empty = the client can't be managed.
    #[must_use]
    pub fn access(&self, has_manager: bool) -> Vec<Access> {
        let mut access = access(&self.information, has_manager);
        if access.first() == Some(&Access::Token) && self.previous_token.is_some() {
            access.insert(1, Access::PreviousToken);
        }
        access
    }

    /// The registration after the answer to a management call that was made with `access`.
    ///
    /// An answer may leave out the secret and the management access where they have not changed (RFC 7592 section 2).
    #[must_use]
    pub fn answered(&self, mut answer: ClientInformation, access: Access, now: Timestamp) -> Self {
        let last = &self.information;
        let method =
            answer.metadata.get("token_endpoint_auth_method").or(last.metadata.get("token_endpoint_auth_method"));
        let has_secret = method.is_none_or(|method| method != "none" && method != "private_key_jwt");
        if answer.client_secret.is_none() && has_secret {
            answer.client_secret.clone_from(&last.client_secret);
            answer.client_secret_expires_at = answer.client_secret_expires_at.or(last.client_secret_expires_at);
        }
        answer.registration_client_uri =
            answer.registration_client_uri.or_else(|| last.registration_client_uri.clone());
        answer.client_id_issued_at = answer.client_id_issued_at.or(last.client_id_issued_at);
        let used = match access {
            Access::Token => last.registration_access_token.clone(),
            Access::PreviousToken => self.previous_token.clone(),
            Access::Manager => None,
        };
        let mut history = History { unconfirmed_since: None, ..self.history.clone() };
        let token_is_new = match (&answer.registration_access_token, &last.registration_access_token) {
            (Some(new), Some(old)) => new.expose_secret() != old.expose_secret(),
            (new, old) => new.is_some() != old.is_some() && new.is_some(),
        };
        let previous_token = if token_is_new {
            history.token_issued_at = now;
            history.renewal_keeps_token = false;
            used
        } else if access == Access::Manager {
            self.previous_token.clone()
        } else {
            // It has worked.
            answer.registration_access_token = used;
            None
        };
        if answer.registration_access_token.is_none() {
            answer.registration_access_token.clone_from(&last.registration_access_token);
        }
        if !same(answer.client_secret.as_ref(), last.client_secret.as_ref()) {
            history.credentials_issued_at = now;
            history.rotated = true;
        }
        Self { information: answer, history, previous_token, ..self.clone() }
    }

    /// The registration as it was brought back for an OAuthClient that has had it before. Its credentials are new for the
    /// workloads unless they are `published`; then nothing has changed since `rotated_at`.
    #[must_use]
    pub fn recovered(self, published: bool, rotated_at: Option<Timestamp>) -> Self {
        let history = if published {
            let credentials_issued_at = rotated_at.unwrap_or(self.history.credentials_issued_at);
            History { rotated: rotated_at.is_some(), credentials_issued_at, ..self.history }
        } else {
            History { rotated: true, ..self.history }
        };
        Self { history, ..self }
    }

    /// The former client holds again, as it was, and this one retires at once, with its token if that is not lost.
    /// `None`: there is no such former client.
    #[must_use]
    pub fn withdrawn(&self, superseded: Option<&str>, is_lost: bool, now: Timestamp) -> Option<Self> {
        let Self { information, keys, server, history, .. } = self.clone();
        let mut retiring = self.retiring.clone();
        let former = retiring.iter().position(|former| Some(former.information.client_id.as_str()) == superseded)?;
        let former = retiring.remove(former);
        retiring.push(Retiring {
            information,
            keys,
            delete_after: now,
            is_lost,
            server: former.server.as_ref().map(|_| server.clone()),
            history: history.clone(),
        });
        Some(Self {
            attempt: String::new(),
            information: former.information,
            request: None,
            server: former.server.unwrap_or(server),
            history: History {
                is_narrowed: false,
                unconfirmed_since: former.is_lost.then_some(now),
                // What has asked for the attempt has been tried.
                handled_rotate_at: history.handled_rotate_at,
                ..former.history
            },
            previous_token: None,
            keys: former.keys,
            retiring,
        })
    }

    /// When the credentials were last replaced by new ones, in whole seconds; `None` = they are the first.
    #[must_use]
    pub fn rotated_at(&self) -> Option<Timestamp> {
        self.history.rotated.then(|| whole_seconds(self.history.credentials_issued_at))
    }

    /// When the registration access token can no longer read and update the client.
    #[must_use]
    pub fn token_ends(&self, server: &ServerBehaviour) -> Option<Timestamp> {
        self.information.registration_access_token.as_ref()?;
        // Not in any RFC; Curity answers it.
        let answered = self.information.metadata.get("registration_access_token_expires_in").and_then(Value::as_u64);
        let lifetime = [answered.filter(|seconds| *seconds > 0).map(Duration::from_secs), server.token_lifetime()];
        let lifetime = lifetime.into_iter().flatten().min()?;
        self.history.token_issued_at.checked_add(lifetime).ok()
    }

    /// When the client secret ends.
    #[must_use]
    pub fn secret_ends(&self) -> Option<Timestamp> {
        self.information.client_secret.as_ref()?;
        let seconds = self.information.client_secret_expires_at.filter(|seconds| *seconds > 0)?;
        Timestamp::from_second(seconds).ok()
    }

    /// The members that the server now has with another value than in its last answer, of those that were asked for.
    #[must_use]
    pub fn drift(&self, live: &Map<String, Value>) -> Vec<String> {
        let Some(request) = &self.request else { return Vec::new() };
        let registered = |name: &str| self.information.metadata.get(name).unwrap_or(&Value::Null);
        request
            .keys()
            .filter(|name| *name != "software_statement")
            .filter(|name| {
                !super::metadata::equivalent(name, registered(name), live.get(*name).unwrap_or(&Value::Null))
            })
            .cloned()
            .collect()
    }
}

/// What management calls about a client may be made with.
#[must_use]
pub fn access(information: &ClientInformation, has_manager: bool) -> Vec<Access> {
    let ClientInformation { registration_client_uri, registration_access_token, .. } = information;
    let token = (registration_client_uri.is_some() && registration_access_token.is_some()).then_some(Access::Token);
    token.into_iter().chain(has_manager.then_some(Access::Manager)).collect()
}

/// As precise as the API keeps times: what is compared with a status must be no more precise.
#[must_use]
pub fn whole_seconds(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

fn same(one: Option<&SecretString>, other: Option<&SecretString>) -> bool {
    one.map(ExposeSecret::expose_secret) == other.map(ExposeSecret::expose_secret)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{stored::*, *};
    use crate::{kubernetes::SecretData, oauth_client::keys::tests::key};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn information(answer: Value) -> ClientInformation {
        ClientInformation::from_json(answer.as_object().cloned().unwrap()).unwrap()
    }

    fn registration() -> Registration {
        Registration {
            attempt: "a".into(),
            information: information(json!({"client_id": "c", "client_secret": "s", "registration_access_token": "t",
                "registration_client_uri": "https://as/reg/c", "scope": "openid", "client_id_issued_at": 7})),
            request: json!({"scope": "openid"}).as_object().cloned(),
            server: ServerSnapshot { ca_bundle: Some("PEM".into()), profile: "p".into(), ..ServerSnapshot::default() },
            history: History { credentials_issued_at: at(10), token_issued_at: at(10), ..History::default() },
            previous_token: Some("before".into()),
            keys: ClientKeys(vec![key("k", 1)]),
            retiring: vec![Retiring {
                information: information(json!({"client_id": "former", "registration_access_token": "r"})),
                keys: ClientKeys(vec![key("former", 1)]),
                delete_after: at(99),
                is_lost: false,
                server: Some(ServerSnapshot { profile: "former".into(), ..ServerSnapshot::default() }),
                history: History { rotated: true, ..History::default() },
            }],
        }
    }

    #[test]
    fn what_is_brought_back_is_new_to_the_workloads_only_if_it_is_another_secret() {
        assert_eq!(registration().recovered(false, None).rotated_at(), Some(at(10)), "issued now");
        assert_eq!(registration().recovered(false, Some(at(5))).rotated_at(), Some(at(10)));
        assert_eq!(registration().recovered(true, None).rotated_at(), None);
        assert_eq!(registration().recovered(true, Some(at(5))).rotated_at(), Some(at(5)), "handled already");
    }

    #[test]
    fn a_withdrawn_replacement_leaves_the_former_client_as_it_was() {
        let of = |client_id: &str| information(json!({"client_id": client_id, "client_secret": client_id}));
        let issued_at = |second, rotated| History {
            credentials_issued_at: at(second),
            token_issued_at: at(second),
            rotated,
            ..History::default()
        };
        let history = History { handled_rotate_at: Some("now".into()), ..issued_at(50, true) };
        let replacement = Registration { information: of("new"), history, ..registration() };
        let mut replacement = Registration { keys: ClientKeys(vec![key("new", 50)]), ..replacement };
        replacement.retiring[0].history = issued_at(10, false);
        assert!(replacement.withdrawn(Some("somebody"), false, at(60)).is_none());
        assert!(replacement.withdrawn(None, false, at(60)).is_none());

        let restored = replacement.withdrawn(Some("former"), false, at(60)).unwrap();
        assert_eq!((restored.information.client_id.as_str(), restored.server.profile.as_str()), ("former", "former"));
        assert_eq!(restored.keys.active().unwrap().kid, "former");
        assert_eq!(restored.rotated_at(), None, "nobody has to be restarted for it");
        assert_eq!((restored.history.credentials_issued_at, restored.history.token_issued_at), (at(10), at(10)));
        assert_eq!(restored.history.handled_rotate_at.as_deref(), Some("now"), "it has been tried");
        let [retiring] = &restored.retiring[..] else { panic!("{:?}", restored.retiring) };
        assert_eq!((retiring.information.client_id.as_str(), retiring.delete_after), ("new", at(60)));
        assert_eq!(retiring.server.as_ref().map(|server| server.profile.as_str()), Some("p"));
    }

    fn token(registration: &Registration) -> Option<&str> {
        registration.information.registration_access_token.as_ref().map(ExposeSecret::expose_secret)
    }

    fn previous(registration: &Registration) -> Option<&str> {
        registration.previous_token.as_ref().map(ExposeSecret::expose_secret)
    }

    #[test]
    fn a_registration_survives_the_secret() {
        let before = registration();
        let after = Registration::from_data(&before.to_data()).unwrap();
        assert!(after.to_data() == before.to_data());
        assert_eq!((&after.attempt, &after.information), (&before.attempt, &before.information));
        assert_eq!((&after.request, &after.server, &after.history), (&before.request, &before.server, &before.history));
        assert_eq!(previous(&after), Some("before"));
        assert_eq!(after.keys.0[0].kid, "k");
        assert_eq!(
            (after.retiring[0].information.client_id.as_str(), after.retiring[0].delete_after),
            ("former", at(99))
        );
        assert_eq!(after.retiring[0].keys.active().unwrap().kid, "former");
        let debug = format!("{after:?}");
        assert!(!debug.contains("before") && !debug.contains("private-k"), "{debug}");
    }

    #[test]
    fn a_spoilt_secret_names_the_key() {
        assert_eq!(Registration::from_data(&SecretData::default()).unwrap_err(), "attempt");
        for (key, spoilt) in [(INFORMATION, "{"), (REQUEST, "["), (HISTORY, "1"), (KEYS, "{}"), (RETIRING, "[{}]")] {
            let mut data = registration().to_data();
            data.insert(key, spoilt);
            assert_eq!(Registration::from_data(&data).unwrap_err(), key);
        }
    }

    #[test]
    fn access_is_tried_token_first_then_the_one_before_then_the_manager() {
        let mut registration = registration();
        assert_eq!(registration.access(true), [Access::Token, Access::PreviousToken, Access::Manager]);
        registration.previous_token = None;
        assert_eq!(registration.access(false), [Access::Token]);
        registration.information.registration_access_token = None;
        assert_eq!(registration.access(false), []);
        assert_eq!(registration.access(true), [Access::Manager]);
    }

    #[test]
    fn a_new_token_keeps_the_one_before_until_it_has_worked() {
        let answer = json!({"client_id": "c", "client_secret": "s", "registration_access_token": "t2"});
        let rotated = registration().answered(information(answer.clone()), Access::Token, at(50));
        assert_eq!((token(&rotated), previous(&rotated)), (Some("t2"), Some("t")));
        assert_eq!((rotated.history.token_issued_at, rotated.history.credentials_issued_at), (at(50), at(10)));
        assert!(!rotated.history.rotated);
        assert_eq!(rotated.information.registration_client_uri.as_deref(), Some("https://as/reg/c"));
        let worked = rotated.answered(information(answer), Access::Token, at(60));
        assert_eq!((token(&worked), previous(&worked)), (Some("t2"), None));
        assert_eq!(worked.history.token_issued_at, at(50));
    }

    #[test]
    fn when_the_token_before_works_it_is_the_token_again() {
        let answer = json!({"client_id": "c", "client_secret": "s"});
        let back = registration().answered(information(answer), Access::PreviousToken, at(50));
        assert_eq!((token(&back), previous(&back)), (Some("before"), None));
    }

    #[test]
    fn a_managers_answer_leaves_the_tokens_alone() {
        let answered = registration().answered(information(json!({"client_id": "c"})), Access::Manager, at(50));
        assert_eq!((token(&answered), previous(&answered)), (Some("t"), Some("before")));
        assert_eq!(answered.information.client_secret.as_ref().unwrap().expose_secret(), "s", "left out: not changed");
        assert_eq!(answered.information.client_id_issued_at, Some(7));
    }

    #[test]
    fn a_new_secret_is_a_rotation_and_a_client_without_one_loses_it() {
        let new = json!({"client_id": "c", "client_secret": "s2"});
        let rotated = registration().answered(information(new), Access::Token, at(50));
        assert!(rotated.history.rotated);
        assert_eq!(rotated.history.credentials_issued_at, at(50));
        let public = json!({"client_id": "c", "token_endpoint_auth_method": "none"});
        let public = registration().answered(information(public), Access::Token, at(50));
        assert!(public.information.client_secret.is_none());
    }

    #[test]
    fn the_earlier_end_of_the_token_counts() {
        let mut registration = registration();
        let generic = ServerBehaviour::default();
        let days28: ServerBehaviour = serde_json::from_value(json!({"type": "Curity"})).unwrap();
        assert_eq!(registration.token_ends(&generic), None);
        assert_eq!(registration.token_ends(&days28), Some(at(10 + 28 * 86400)));
        registration.information.metadata.insert("registration_access_token_expires_in".into(), json!(60));
        assert_eq!(registration.token_ends(&days28), Some(at(70)));
        assert_eq!(registration.token_ends(&generic), Some(at(70)));
    }

    #[test]
    fn drift_is_about_the_members_that_were_asked_for_and_against_the_last_answer() {
        let mut registration = registration();
        let map = |value: Value| value.as_object().cloned().unwrap();
        registration.request = Some(map(json!({"scope": "a b", "grant_types": ["x"]})));
        registration.information.metadata =
            map(json!({"scope": "b a", "grant_types": ["x", "y"], "client_name": "Shop"}));
        let live = map(json!({"scope": "a  b", "grant_types": ["y", "x"], "client_name": "Other"}));
        assert!(registration.drift(&live).is_empty());
        assert_eq!(registration.drift(&map(json!({"scope": "a b"}))), ["grant_types"]);
    }
}

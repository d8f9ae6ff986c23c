//! The registration attempt, as an annotation on the OAuthClient.
//!
//! `POST` to a registration endpoint is not idempotent. So the intent is persisted before the call, in the same write as
//! the finalizer, and the attempt is finished when the registration Secret carries its id, or when this annotation says
//! that it was refused. An attempt that is neither has an unknown outcome: the server may hold a client that nobody knows.

use jiff::Timestamp;
use kube::ResourceExt;
use serde::{Deserialize, Serialize};

use super::accept::LONGEST_MESSAGE;
use crate::{
    api::{OAuthClient, annotations, reasons},
    dcr::Refusal,
    text::truncate,
};

/// One attempt to register a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    pub id: String,
    pub started_at: Timestamp,
    /// Of the OAuthClient: a manifest that was copied brings its annotations along, and they are not about the copy.
    pub uid: String,
    /// The client id that the new client takes the place of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<String>,
    /// Set when the server has refused for good, or nothing has been sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

/// How an attempt ended without a registration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    pub reason: String,
    pub message: String,
    /// What was tried; the same is not tried again. Absent if time can cure it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused_inputs: Option<u64>,
}

/// The reason of an attempt whose registration has been removed again, or given up.
pub const SETTLED: &str = "Settled";

impl Attempt {
    /// The last attempt, ended because nothing of it needs to be looked after any more.
    #[must_use]
    pub fn settled(client: &OAuthClient, now: Timestamp) -> Self {
        let ended = Ended { reason: SETTLED.into(), message: String::new(), refused_inputs: None };
        Self { ended: Some(ended), ..Self::last_or_none(client, now) }
    }

    /// The last attempt; of an adopted client, which has had none, one that has not been made.
    #[must_use]
    pub fn last_or_none(client: &OAuthClient, now: Timestamp) -> Self {
        let uid = client.metadata.uid.clone().unwrap_or_default();
        let none = || Self { id: String::new(), started_at: now, uid, supersedes: None, ended: None };
        Self::last(client).unwrap_or_else(none)
    }

    /// The last attempt of this very object, if it had one.
    #[must_use]
    pub fn last(client: &OAuthClient) -> Option<Self> {
        let mut attempt: Self = serde_json::from_str(client.annotations().get(annotations::ATTEMPT)?).ok()?;
        // Whoever may write the OAuthClient may write this, and it goes into conditions and metrics.
        if let Some(ended) = &mut attempt.ended {
            let is_refusal = ended.reason == reasons::POLICY_DENIED
                || Refusal::ABOUT_METADATA.iter().any(|refusal| refusal.reason() == ended.reason);
            ended.refused_inputs = ended.refused_inputs.filter(|_| is_refusal);
            ended.message = truncate(&ended.message, LONGEST_MESSAGE);
        }
        (Some(&attempt.uid) == client.metadata.uid.as_ref()).then_some(attempt)
    }

    /// The annotation's value.
    #[must_use]
    pub fn to_annotation(&self) -> String {
        // Serialising these fields can't fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::OAuthClientSpec;

    #[test]
    fn an_attempt_survives_the_annotation_and_is_not_taken_over_by_a_copy() {
        let attempt = Attempt {
            id: "a".into(),
            started_at: Timestamp::UNIX_EPOCH,
            uid: "u".into(),
            supersedes: None,
            ended: Some(Ended {
                reason: "InvalidRedirectUri".into(),
                message: "no".into(),
                refused_inputs: Some(u64::MAX),
            }),
        };
        let mut client = OAuthClient::new("shop", OAuthClientSpec::default());
        client.annotations_mut().insert(annotations::ATTEMPT.into(), attempt.to_annotation());
        client.metadata.uid = Some("u".into());
        assert_eq!(Attempt::last(&client), Some(attempt));
        client.metadata.uid = Some("copy".into());
        assert_eq!(Attempt::last(&client), None);
    }

    #[test]
    fn what_somebody_wrote_is_no_refusal_and_not_longer_than_ours() {
        let written = |reason: &str| {
            let ended = Ended { reason: reason.into(), message: "no".repeat(10_000), refused_inputs: Some(1) };
            let attempt = Attempt {
                id: "a".into(),
                started_at: Timestamp::UNIX_EPOCH,
                uid: "u".into(),
                supersedes: None,
                ended: Some(ended),
            };
            let mut client = OAuthClient::new("shop", OAuthClientSpec::default());
            client.metadata.uid = Some("u".into());
            client.annotations_mut().insert(annotations::ATTEMPT.into(), attempt.to_annotation());
            Attempt::last(&client).unwrap().ended.unwrap()
        };
        for reason in ["InvalidClientMetadata", "UpdateRejected", reasons::POLICY_DENIED] {
            assert_eq!(written(reason).refused_inputs, Some(1), "{reason}");
        }
        assert_eq!(written("Mine").refused_inputs, None);
        assert!(written("Mine").message.len() <= LONGEST_MESSAGE);
    }
}

//! Events: what happened, for people. Best effort: an event that cannot be written changes nothing else, unless it is the
//! last trace of something.

use std::time::Duration;

use k8s_openapi::{api::core::v1::ObjectReference, apimachinery::pkg::apis::meta::v1::Condition};
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};

use super::{Error, condition};
use crate::{api::OPERATOR, text::truncate};

/// For an event that must not be missed.
const MOST_TRIES: u32 = 5;

/// The API server refuses longer notes.
pub const LONGEST_NOTE: usize = 1024;

/// Publishes events about the operator's objects.
#[derive(Clone)]
pub struct Events {
    client: Client,
    reporter: Reporter,
}

impl Events {
    /// `instance` is the pod's name, if there is one.
    #[must_use]
    pub fn new(client: Client, instance: Option<String>) -> Self {
        Self { client, reporter: Reporter { controller: OPERATOR.into(), instance } }
    }

    /// Something went as it should.
    pub async fn normal(&self, about: &ObjectReference, reason: &str, note: &str) {
        self.publish(EventType::Normal, about, reason, note).await;
    }

    /// Something that a person should know of.
    pub async fn warning(&self, about: &ObjectReference, reason: &str, note: &str) {
        self.publish(EventType::Warning, about, reason, note).await;
    }

    /// A warning that may be the last trace of what it tells: what comes after it waits until it is written. One that will
    /// never be, as in a namespace that is being deleted, holds up nothing.
    ///
    /// # Errors
    /// If it could not be written, and trying again may help.
    pub async fn alarm(&self, about: &ObjectReference, reason: &str, note: &str) -> Result<(), Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.write(EventType::Warning, about, reason, note).await {
                Ok(()) => return Ok(()),
                Err(error) if error.is_permanent() || matches!(error, Error::Forbidden { .. }) => {
                    tracing::warn!(reason, "{error}");
                    return Ok(());
                }
                Err(error) if tries >= MOST_TRIES => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200) * tries).await,
            }
        }
    }

    async fn publish(&self, type_: EventType, about: &ObjectReference, reason: &str, note: &str) {
        match self.write(type_, about, reason, note).await {
            Ok(()) => {}
            Err(error @ Error::NamespaceTerminating { .. }) => tracing::debug!(reason, "{error}"),
            Err(error) => tracing::warn!(reason, "{error}"),
        }
    }

    async fn write(&self, type_: EventType, about: &ObjectReference, reason: &str, note: &str) -> Result<(), Error> {
        let event = Event {
            type_,
            reason: reason.into(),
            note: Some(truncate(note, LONGEST_NOTE)),
            action: "Reconcile".into(),
            secondary: None,
        };
        // A recorder of its own for each event: a shared one re-sends the first note while the reason stays the same,
        // and we publish transitions only, so there is nothing to aggregate.
        let recorder = Recorder::new(self.client.clone(), self.reporter.clone());
        let published = recorder.publish(&event, about).await;
        published.map_err(|error| Error::new("could not publish an event", error))
    }
}

/// The conditions that changed their status or reason, and deserve an event: `True` is normal, `False` a warning.
/// `Unknown` is a state of waiting and no news.
#[must_use]
pub fn transitions<'a>(old: &[Condition], new: &'a [Condition], types: &[&str]) -> Vec<&'a Condition> {
    new.iter()
        .filter(|new| types.contains(&new.type_.as_str()) && new.status != "Unknown")
        .filter(|new| {
            condition(old, &new.type_).is_none_or(|old| (&old.status, &old.reason) != (&new.status, &new.reason))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::kubernetes::{Finding, merge};

    #[test]
    fn only_transitions_of_the_named_types_are_news() {
        let conditions = |registered: Finding| {
            let findings = vec![("Registered", registered), ("Ready", Finding::yes("Ready", ""))];
            merge(&[], findings, None, Timestamp::UNIX_EPOCH)
        };
        let (down, up) =
            (conditions(Finding::no("ServerUnavailable", "x")), conditions(Finding::yes("Registered", "y")));
        let waiting = conditions(Finding::unknown("ProfileNotReady", "z"));
        let reasons = |old: &[Condition], new: &[Condition]| {
            transitions(old, new, &["Registered"]).iter().map(|c| c.reason.clone()).collect::<Vec<_>>()
        };
        assert_eq!(reasons(&[], &up), ["Registered"]);
        assert_eq!(reasons(&down, &up), ["Registered"]);
        assert!(reasons(&up, &up).is_empty());
        assert!(reasons(&[], &waiting).is_empty());
    }
}

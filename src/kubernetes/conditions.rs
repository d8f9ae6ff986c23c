//! `metav1.Condition` bookkeeping. Pure: the clock is an argument.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// The status of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConditionStatus {
    True,
    False,
    Unknown,
}

impl ConditionStatus {
    /// As the API spells it; anything else is `Unknown`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        match text {
            "True" => Self::True,
            "False" => Self::False,
            _ => Self::Unknown,
        }
    }

    /// As the API spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

/// What a condition says, before it has a generation and a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub status: ConditionStatus,
    pub reason: String,
    pub message: String,
}

impl Finding {
    pub fn yes(reason: &str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::True, reason, message)
    }

    pub fn no(reason: &str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::False, reason, message)
    }

    pub fn unknown(reason: &str, message: impl Into<String>) -> Self {
        Self::new(ConditionStatus::Unknown, reason, message)
    }

    fn new(status: ConditionStatus, reason: &str, message: impl Into<String>) -> Self {
        Self { status, reason: reason.to_owned(), message: message.into() }
    }

    /// What a condition has said so far.
    #[must_use]
    pub fn of(condition: &Condition) -> Self {
        let Condition { status, reason, message, .. } = condition;
        Self { status: ConditionStatus::parse(status), reason: reason.clone(), message: message.clone() }
    }

    /// Whether the condition holds.
    #[must_use]
    pub fn is_true(&self) -> bool {
        self.status == ConditionStatus::True
    }
}

/// The condition of that type.
#[must_use]
pub fn condition<'a>(conditions: &'a [Condition], type_: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.type_ == type_)
}

/// The new list of conditions: exactly the given findings, each with the old transition time unless its status flips.
#[must_use]
pub fn merge(
    old: &[Condition],
    findings: Vec<(&'static str, Finding)>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    findings
        .into_iter()
        .map(|(type_, Finding { status, reason, message })| {
            let since = condition(old, type_).filter(|old| old.status == status.as_str());
            Condition {
                type_: type_.to_owned(),
                status: status.as_str().to_owned(),
                reason,
                message,
                observed_generation: generation,
                // Whole seconds: that is what the API keeps, and a status must compare equal to what was written.
                last_transition_time: since.map_or_else(
                    || Time(Timestamp::from_second(now.as_second()).unwrap_or(now)),
                    |old| old.last_transition_time.clone(),
                ),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_only_when_the_status_flips() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let first = merge(&[], vec![("Ready", Finding::no("A", "a"))], Some(1), at(1));
        let same = merge(&first, vec![("Ready", Finding::no("B", "b"))], Some(2), at(2));
        assert_eq!(same[0].last_transition_time, Time(at(1)));
        assert_eq!((same[0].reason.as_str(), same[0].observed_generation), ("B", Some(2)));
        let flipped = merge(&same, vec![("Ready", Finding::yes("C", "c"))], Some(2), at(3));
        assert_eq!(flipped[0].last_transition_time, Time(at(3)));
    }

    #[test]
    fn a_condition_that_is_not_found_any_more_goes() {
        let old = merge(&[], vec![("Stalled", Finding::yes("A", "a"))], None, Timestamp::UNIX_EPOCH);
        assert!(merge(&old, Vec::new(), None, Timestamp::UNIX_EPOCH).is_empty());
    }
}

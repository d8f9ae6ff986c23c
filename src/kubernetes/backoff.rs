//! Growing delays for one object after another failure. They go by the clock that never jumps.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;

use crate::retry::Retry;

/// Remembers how often an object failed, for the inputs that it failed with. New inputs start anew.
#[derive(Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    failures: Mutex<HashMap<String, Failure>>,
}

#[derive(Clone, Copy, Debug)]
struct Failure {
    inputs: u64,
    count: u32,
    /// `None`: not before the inputs change.
    not_before: Option<Instant>,
}

impl Backoff {
    /// Delays grow from `first` by a factor of two up to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, failures: Mutex::default() }
    }

    /// When the object may be tried again, if it failed with these inputs; `Timestamp::MAX`: not before they change.
    pub fn not_before(&self, uid: &str, inputs: u64) -> Option<Timestamp> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failure = failures.get(uid).filter(|failure| failure.inputs == inputs)?;
        let left = failure.not_before.map(|not_before| not_before.saturating_duration_since(Instant::now()));
        Some(left.and_then(|left| Timestamp::now().checked_add(left).ok()).unwrap_or(Timestamp::MAX))
    }

    /// Notes a failure and tells how long to wait; `None` = until the inputs change. The delay is between half and all of
    /// its step, so that objects that failed together do not come back together.
    pub fn failed(&self, uid: &str, inputs: u64, retry: Retry) -> Option<Duration> {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let count = failures.get(uid).filter(|failure| failure.inputs == inputs).map_or(1, |failure| failure.count + 1);
        let step = self.first.saturating_mul(1 << (count - 1).min(20)).min(self.longest);
        let delay = match retry {
            // The server's own word is a lower bound.
            Retry::After(delay) => Some(delay.max(step).mul_f64(1.0 + fastrand::f64() / 4.0)),
            Retry::Backoff => Some(step.mul_f64(0.5 + fastrand::f64() / 2.0)),
            Retry::OnChange => None,
        };
        let not_before = delay.and_then(|delay| Instant::now().checked_add(delay));
        failures.insert(uid.to_owned(), Failure { inputs, count, not_before });
        delay
    }

    /// Forgets all but these objects: the others are gone.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid));
    }

    /// Forgets the object: it went well, or it is gone.
    pub fn forget(&self, uid: &str) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_longest_and_new_inputs_start_anew() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        let steps: Vec<Duration> = (0..10).map(|_| backoff.failed("a", 1, Retry::Backoff).unwrap()).collect();
        for (step, delay) in [1, 2, 4, 8, 16, 32, 60, 60, 60, 60].into_iter().zip(&steps) {
            let step = Duration::from_secs(step);
            assert!(*delay >= step / 2 && *delay <= step, "{delay:?} for a step of {step:?}");
        }
        assert!(backoff.not_before("a", 1).is_some());
        assert_eq!(backoff.not_before("a", 2), None);
        assert!(backoff.failed("a", 2, Retry::Backoff) <= Some(Duration::from_secs(1)));
        backoff.forget("a");
        assert_eq!(backoff.not_before("a", 2), None);
    }

    #[test]
    fn the_server_may_ask_for_more_than_the_step() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        let delay = backoff.failed("a", 1, Retry::After(Duration::from_mins(10)));
        assert!(delay >= Some(Duration::from_mins(10)));
    }

    #[test]
    fn what_only_a_change_can_cure_waits_for_the_change() {
        let backoff = Backoff::new(Duration::from_secs(1), Duration::from_mins(1));
        assert_eq!(backoff.failed("a", 1, Retry::OnChange), None);
        assert_eq!(backoff.not_before("a", 1), Some(Timestamp::MAX));
        assert_eq!(backoff.not_before("a", 2), None);
    }
}

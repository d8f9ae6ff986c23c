//! How many requests may be under way, and how fast they may follow each other.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// The limits of one server, shared by all who call it.
pub(super) struct Limits {
    slots: Semaphore,
    /// `None`: no rate limit.
    interval: Option<Duration>,
    next_start: Mutex<Option<Instant>>,
}

impl Limits {
    /// At most `concurrent` (at least one) requests under way, starting at most `per_second` times a second (0 = unlimited).
    pub(super) fn new(concurrent: usize, per_second: u32) -> Self {
        Self {
            slots: Semaphore::new(concurrent.clamp(1, Semaphore::MAX_PERMITS)),
            interval: (per_second > 0).then(|| Duration::from_secs(1) / per_second.max(1)),
            next_start: Mutex::new(None),
        }
    }

    /// Waits, first come first served, until a request may start; it is under way until the permit is dropped. Dropping
    /// the future gives up the place in the queue.
    pub(super) async fn start(&self) -> Option<SemaphorePermit<'_>> {
        // The semaphore is never closed, so there is always a permit.
        let permit = self.slots.acquire().await.ok();
        if let Some(interval) = self.interval {
            tokio::time::sleep_until(self.reserve(Instant::now(), interval)).await;
        }
        permit
    }

    /// Takes the next free moment at or after `now`.
    fn reserve(&self, now: Instant, interval: Duration) -> Instant {
        let mut next_start = self.next_start.lock().unwrap_or_else(PoisonError::into_inner);
        let start = next_start.map_or(now, |next| next.max(now));
        *next_start = Some(start + interval);
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_are_an_interval_apart_and_idle_time_is_not_saved_up() {
        let interval = Duration::from_millis(100);
        let limits = Limits::new(1, 10);
        let t0 = Instant::now();
        assert_eq!(limits.interval, Some(interval));
        assert_eq!(limits.reserve(t0, interval), t0);
        assert_eq!(limits.reserve(t0, interval), t0 + interval);
        let later = t0 + Duration::from_secs(9);
        assert_eq!(limits.reserve(later, interval), later);
        assert_eq!(limits.reserve(later, interval), later + interval);
    }

    #[test]
    fn zero_means_no_rate_limit_and_one_at_a_time() {
        let limits = Limits::new(0, 0);
        assert_eq!(limits.interval, None);
        assert_eq!(limits.slots.available_permits(), 1);
    }
}

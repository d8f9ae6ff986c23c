//! One circuit for each profile: when its server is down, ten thousand clients do not knock on it. Its
//! pauses go by the clock that never jumps.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// So many calls in a row without a usable answer open the circuit.
const MOST_FAILURES: u32 = 5;
/// How long it stays open at first; each probe that fails doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// While a probe is under way, everybody else asks again after this time.
const PROBE_CHECK: Duration = Duration::from_secs(2);
/// A probe whose end nobody has told is given up after this time.
const LONGEST_PROBE: Duration = Duration::from_mins(3);
/// If nobody has called for so long after the pause, nobody needs the server, and whether it is down is not known.
const LONGEST_SILENCE: Duration = Duration::from_mins(5);

/// Circuits by the uid of the profile.
#[derive(Clone, Debug, Default)]
pub struct Circuits(Arc<Mutex<HashMap<String, Circuit>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Circuit {
    failures: u32,
    /// Nobody calls before this time; then one does, to see.
    open_until: Option<Instant>,
    /// That one is under way, and given up at this time.
    probe_until: Option<Instant>,
}

/// What a call tells about its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It answers, be it with a refusal.
    Answer,
    /// It gives no usable answer.
    Outage,
    /// Nothing: what failed is not the server.
    NoWord,
}

impl Circuits {
    /// Asks whether the server may be called. If it was down and the pause is over, this call is the probe, and everybody
    /// else waits for what becomes of it.
    ///
    /// # Errors
    /// How long to wait before asking again.
    pub fn enter(&self, uid: &str, now: Instant) -> Result<(), Duration> {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(circuit) = circuits.get_mut(uid) else { return Ok(()) };
        match circuit.open_until {
            Some(until) if until > now => Err(until - now),
            Some(_) if circuit.probe_until.is_some_and(|until| until > now) => Err(PROBE_CHECK),
            Some(_) => {
                circuit.probe_until = Some(now + LONGEST_PROBE);
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Notes what a call tells about the server.
    pub fn note(&self, uid: &str, heard: Heard, now: Instant) {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match heard {
            Heard::Answer => {
                circuits.remove(uid);
                return;
            }
            Heard::NoWord => {
                // If it was the probe, somebody else's is next.
                if let Some(circuit) = circuits.get_mut(uid) {
                    circuit.probe_until = None;
                }
                return;
            }
            Heard::Outage => {}
        }
        let circuit = circuits.entry(uid.to_owned()).or_default();
        circuit.failures = circuit.failures.saturating_add(1);
        if let Some(over) = circuit.failures.checked_sub(MOST_FAILURES) {
            let pause = FIRST_PAUSE.saturating_mul(1 << over.min(10)).min(LONGEST_PAUSE);
            circuit.open_until = Some(now + pause);
            circuit.probe_until = None;
        }
    }

    /// Forgets all but those of these profiles.
    pub fn retain(&self, uids: &HashSet<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|uid, _| uids.contains(uid));
    }

    /// Whether calls are held back, as far as is known.
    #[must_use]
    pub fn is_open(&self, uid: &str, now: Instant) -> bool {
        let circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let open_until = circuits.get(uid).and_then(|circuit| circuit.open_until);
        open_until.is_some_and(|until| now < until + LONGEST_SILENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place where all have the same clock.
    struct Clock(Circuits, Instant);

    impl Clock {
        fn broken(times: u32) -> Self {
            let clock = Self(Circuits::default(), Instant::now());
            for _ in 0..times {
                clock.note(Heard::Outage, 0);
            }
            clock
        }

        fn at(&self, seconds: u64) -> Instant {
            self.1 + Duration::from_secs(seconds)
        }

        fn note(&self, heard: Heard, at: u64) {
            self.0.note("p", heard, self.at(at));
        }

        fn is_open(&self, at: u64) -> bool {
            self.0.is_open("p", self.at(at))
        }

        /// Seconds to wait.
        fn enter(&self, at: u64) -> Result<(), u64> {
            self.0.enter("p", self.at(at)).map_err(|pause| pause.as_secs())
        }
    }

    #[test]
    fn a_few_failures_are_no_outage() {
        let clock = Clock::broken(MOST_FAILURES - 1);
        assert_eq!(clock.enter(0), Ok(()));
        clock.note(Heard::Answer, 0);
        for _ in 1..MOST_FAILURES {
            clock.note(Heard::Outage, 0);
        }
        assert!(!clock.is_open(0), "failures count in a row");
    }

    #[test]
    fn after_the_pause_one_call_goes_to_see_and_the_others_wait_for_it() {
        let clock = Clock::broken(MOST_FAILURES);
        assert_eq!(clock.enter(1), Err(4));
        assert_eq!(clock.0.enter("other", clock.at(1)), Ok(()));
        assert_eq!(clock.enter(5), Ok(()));
        assert_eq!(clock.enter(5), Err(2), "soon: the probe may be over in a moment");
        clock.note(Heard::Outage, 6);
        assert_eq!(clock.enter(7), Err(9), "twice the pause");
        assert_eq!(clock.enter(16), Ok(()));
        clock.note(Heard::Answer, 17);
        assert_eq!((clock.enter(17), clock.is_open(17)), (Ok(()), false));
    }

    #[test]
    fn what_says_nothing_of_the_server_changes_nothing_but_the_turn() {
        let clock = Clock::broken(MOST_FAILURES - 1);
        clock.note(Heard::NoWord, 0);
        assert!(!clock.is_open(0));
        clock.note(Heard::Outage, 0);
        assert_eq!(clock.enter(5), Ok(()));
        clock.note(Heard::NoWord, 6);
        assert!(clock.is_open(6));
        assert_eq!(clock.enter(6), Ok(()), "the next one is the probe");
        assert_eq!(clock.enter(6), Err(2));
    }

    #[test]
    fn the_pause_has_an_end_and_so_has_a_probe_that_nobody_tells_of() {
        let clock = Clock::broken(100);
        assert_eq!(clock.enter(0), Err(20));
        assert_eq!(clock.enter(20), Ok(()));
        assert_eq!(clock.enter(199), Err(2));
        assert_eq!(clock.enter(200), Ok(()));
    }

    #[test]
    fn a_server_that_nobody_needs_any_more_is_not_said_to_be_down_for_ever() {
        let clock = Clock::broken(MOST_FAILURES);
        assert!(clock.is_open(5 + 299));
        assert!(!clock.is_open(5 + 300));
        assert_eq!((clock.enter(400), clock.enter(400)), (Ok(()), Err(2)), "one goes to see, all the same");
        clock.note(Heard::Outage, 401);
        assert!(clock.is_open(402));
    }
}

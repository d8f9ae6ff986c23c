//! One circuit for each profile: when its server is down, ten thousand clients do not knock on it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;

/// So many calls in a row without a usable answer open the circuit.
const MOST_FAILURES: u32 = 5;
/// How long it stays open at first; each probe that fails doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// While a probe is under way, everybody else asks again after this time.
const PROBE_CHECK: Duration = Duration::from_secs(2);
/// A probe whose end nobody has told is given up after this time.
const LONGEST_PROBE: Duration = Duration::from_mins(3);

/// Circuits by the uid of the profile.
#[derive(Clone, Debug, Default)]
pub struct Circuits(Arc<Mutex<HashMap<String, Circuit>>>);

#[derive(Clone, Copy, Debug, Default)]
struct Circuit {
    failures: u32,
    /// Nobody calls before this time; then one does, to see.
    open_until: Option<Timestamp>,
    /// That one is under way, and given up at this time.
    probe_until: Option<Timestamp>,
}

impl Circuits {
    /// Asks whether the server may be called. If it was down and the pause is over, this call is the probe, and everybody
    /// else waits for what becomes of it.
    ///
    /// # Errors
    /// When it may be tried again.
    pub fn enter(&self, uid: &str, now: Timestamp) -> Result<(), Timestamp> {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(circuit) = circuits.get_mut(uid) else { return Ok(()) };
        match circuit.open_until {
            Some(until) if until > now => Err(until),
            Some(_) if circuit.probe_until.is_some_and(|until| until > now) => Err(later(now, PROBE_CHECK)),
            Some(_) => {
                circuit.probe_until = Some(later(now, LONGEST_PROBE));
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Notes how a call has ended: with a usable answer, be it a refusal, or without.
    pub fn note(&self, uid: &str, answered: bool, now: Timestamp) {
        let mut circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            circuits.remove(uid);
            return;
        }
        let circuit = circuits.entry(uid.to_owned()).or_default();
        circuit.failures = circuit.failures.saturating_add(1);
        if let Some(over) = circuit.failures.checked_sub(MOST_FAILURES) {
            let pause = FIRST_PAUSE.saturating_mul(1 << over.min(10)).min(LONGEST_PAUSE);
            circuit.open_until = Some(later(now, pause));
            circuit.probe_until = None;
        }
    }

    /// Whether calls are held back.
    #[must_use]
    pub fn is_open(&self, uid: &str) -> bool {
        let circuits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        circuits.get(uid).is_some_and(|circuit| circuit.open_until.is_some())
    }
}

fn later(now: Timestamp, pause: Duration) -> Timestamp {
    now.checked_add(pause).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn broken(circuits: &Circuits, times: u32) {
        for _ in 0..times {
            circuits.note("p", false, at(0));
        }
    }

    #[test]
    fn a_few_failures_are_no_outage() {
        let circuits = Circuits::default();
        broken(&circuits, MOST_FAILURES - 1);
        assert_eq!(circuits.enter("p", at(0)), Ok(()));
        circuits.note("p", true, at(0));
        broken(&circuits, MOST_FAILURES - 1);
        assert!(!circuits.is_open("p"), "failures count in a row");
    }

    #[test]
    fn after_the_pause_one_call_goes_to_see_and_the_others_wait_for_it() {
        let circuits = Circuits::default();
        broken(&circuits, MOST_FAILURES);
        assert_eq!(circuits.enter("p", at(1)), Err(at(5)));
        assert_eq!(circuits.enter("other", at(1)), Ok(()));
        assert_eq!(circuits.enter("p", at(5)), Ok(()));
        assert_eq!(circuits.enter("p", at(5)), Err(at(7)), "soon: the probe may be over in a moment");
        circuits.note("p", false, at(6));
        assert_eq!(circuits.enter("p", at(7)), Err(at(16)), "twice the pause");
        assert_eq!(circuits.enter("p", at(16)), Ok(()));
        circuits.note("p", true, at(17));
        assert_eq!((circuits.enter("p", at(17)), circuits.is_open("p")), (Ok(()), false));
    }

    #[test]
    fn the_pause_has_an_end_and_so_has_a_probe_that_nobody_tells_of() {
        let circuits = Circuits::default();
        broken(&circuits, 100);
        assert_eq!(circuits.enter("p", at(0)), Err(at(20)));
        assert_eq!(circuits.enter("p", at(20)), Ok(()));
        assert_eq!(circuits.enter("p", at(199)), Err(at(201)));
        assert_eq!(circuits.enter("p", at(200)), Ok(()));
    }
}

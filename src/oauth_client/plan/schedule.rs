//! When things are due. Each client has a place of its own in every interval, so that what was made together does not
//! come back together.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    time::Duration,
};

use jiff::Timestamp;

/// The client's own fraction, from 0 to 1, for one purpose.
fn fraction(uid: &str, purpose: &str) -> f64 {
    let mut hasher = DefaultHasher::new();
    (uid, purpose).hash(&mut hasher);
    // 32 bits are enough to spread, and fit a float.
    f64::from(u32::try_from(hasher.finish() >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

fn after(start: Timestamp, span: Duration) -> Timestamp {
    start.checked_add(span).unwrap_or(Timestamp::MAX)
}

/// When credentials that are rotated at an interval are due: in the last tenth of it.
#[must_use]
pub fn rotation(issued: Timestamp, interval: Duration, uid: &str) -> Timestamp {
    after(issued, interval.mul_f64(1.0 - 0.1 * fraction(uid, "rotation")))
}

/// Nothing is renewed sooner after it was issued, whatever the server says about its life.
const SHORTEST_LIFE: Duration = Duration::from_secs(10);

/// When something that ends is renewed: when about a third of its life is left. That leaves time to try again, and for
/// people to act.
#[must_use]
pub fn renewal(issued: Timestamp, ends: Timestamp, uid: &str) -> Timestamp {
    let life = Duration::try_from(ends.duration_since(issued)).unwrap_or_default();
    after(issued, life.mul_f64(0.6 + 0.1 * fraction(uid, "renewal")).max(SHORTEST_LIFE))
}

/// The first of the client's own moments after `last`, of which there is one in each interval.
#[must_use]
pub fn comparison(last: Timestamp, interval: Duration, uid: &str) -> Timestamp {
    let millis = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX).max(1);
    #[allow(clippy::cast_possible_truncation)]
    let own = interval.mul_f64(fraction(uid, "comparison")).as_millis() as i64;
    let intervals = last.as_millisecond().saturating_sub(own).div_euclid(millis).saturating_add(1);
    Timestamp::from_millisecond(intervals.saturating_mul(millis).saturating_add(own)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn seconds(time: Timestamp) -> i64 {
        time.as_second()
    }

    #[test]
    fn comparisons_are_spread_evenly_over_the_interval() {
        let interval = Duration::from_hours(1);
        let mut quarters = [0; 4];
        for number in 0..10_000 {
            let due = comparison(at(1_000_000), interval, &number.to_string());
            quarters[usize::try_from((seconds(due) - 1_000_000) / 900).unwrap().min(3)] += 1;
        }
        assert!(quarters.iter().all(|count| (2_300..2_700).contains(count)), "{quarters:?}");
    }

    proptest! {
        #[test]
        fn there_is_one_comparison_in_each_interval(last in 0_i64..4_000_000_000, hours in 1_u64..100, uid in ".{0,8}") {
            let interval = Duration::from_hours(hours);
            let first = comparison(at(last), interval, &uid);
            prop_assert!(first > at(last) && first <= at(last) + interval);
            let second = comparison(first, interval, &uid);
            prop_assert_eq!(Duration::try_from(second.duration_since(first)).unwrap(), interval);
        }

        #[test]
        fn rotation_is_in_the_last_tenth_and_renewal_leaves_a_third(issued in 0_i64..4_000_000_000, hours in 1_i64..10_000, uid in ".{0,8}") {
            let life = hours * 3600;
            let due = seconds(rotation(at(issued), Duration::from_hours(hours.unsigned_abs()), &uid)) - issued;
            prop_assert!((life * 9 / 10 - 1..=life).contains(&due));
            let due = seconds(renewal(at(issued), at(issued + life), &uid)) - issued;
            prop_assert!((life * 6 / 10 - 1..=life * 7 / 10).contains(&due));
        }

        #[test]
        fn times_at_the_edge_do_not_panic(last in any::<i64>(), seconds in any::<u64>()) {
            let last = Timestamp::from_millisecond(last).unwrap_or(Timestamp::MAX);
            let span = Duration::from_secs(seconds / 2);
            let _ = (comparison(last, span, "u"), rotation(last, span, "u"), renewal(last, Timestamp::MIN, "u"));
        }
    }
}

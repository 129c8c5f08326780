//! What queueing theory knows without simulating. Pure; times in units of the mean service time.
//!
//! Used by `results` to print beside what was simulated, and by the tests to check it.

/// Erlang's B: the share of arrivals that find all `slots` taken and are lost, at this share of
/// what the slots can do. It holds for every distribution of service times.
pub(super) fn lost(slots: u32, utilisation: f64) -> f64 {
    let offered = utilisation * f64::from(slots);
    (1..=slots).fold(1.0, |lost, n| {
        offered * lost / (f64::from(n) + offered * lost)
    })
}

/// Erlang's C: the share of arrivals that have to wait in one unlimited queue before all slots, if
/// service times are exponential.
pub(super) fn delayed(slots: u32, utilisation: f64) -> f64 {
    let lost = lost(slots, utilisation);
    lost / (1.0 - utilisation * (1.0 - lost))
}

/// Average wait in that queue (M/M/c).
pub(super) fn mean_wait(slots: u32, utilisation: f64) -> f64 {
    delayed(slots, utilisation) / (f64::from(slots) * (1.0 - utilisation))
}

/// What one in a hundred waits longer than, in that queue.
pub(super) fn p99_wait(slots: u32, utilisation: f64) -> f64 {
    let exceeds = (100.0 * delayed(slots, utilisation)).ln();
    exceeds.max(0.0) / (f64::from(slots) * (1.0 - utilisation))
}

/// Pollaczek and Khinchine: the average wait at a backend that works on one request at a time and
/// gets its share of a Poisson stream by chance (M/G/1), by the second moment of service times.
pub(super) fn mean_wait_of_one(utilisation: f64, second_moment: f64) -> f64 {
    utilisation * second_moment / (2.0 * (1.0 - utilisation))
}

/// What one response in a hundred takes longer than, there, if service times are exponential
/// (M/M/1).
pub(super) fn p99_response_of_one(utilisation: f64) -> f64 {
    100f64.ln() / (1.0 - utilisation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_near(seen: f64, expected: f64) {
        assert!(
            (seen - expected).abs() < 5e-5,
            "{seen}, expected {expected}"
        );
    }

    /// One slot: the textbook's closed forms.
    #[test]
    fn one_slot_is_the_simple_case() {
        for utilisation in [0.1, 0.5, 0.9] {
            assert_near(lost(1, utilisation), utilisation / (1.0 + utilisation));
            assert_near(delayed(1, utilisation), utilisation);
            let wait = utilisation / (1.0 - utilisation);
            assert_near(mean_wait(1, utilisation), wait);
            assert_near(mean_wait_of_one(utilisation, 2.0), wait);
        }
    }

    /// Two slots: B = a²/2 / (1 + a + a²/2), and C = a·B′ by hand.
    #[test]
    fn two_slots_are_as_worked_out_by_hand() {
        // Offered 1: B = 1/5, C = 1/3, wait = 1/3.
        assert_near(lost(2, 0.5), 0.2);
        assert_near(delayed(2, 0.5), 1.0 / 3.0);
        assert_near(mean_wait(2, 0.5), 1.0 / 3.0);
        assert_near(p99_wait(2, 0.5), (100.0f64 / 3.0).ln());
    }

    /// Who seldom waits at all has a p99 of 0, not a negative one.
    #[test]
    fn a_wait_is_never_negative() {
        assert_eq!(p99_wait(100, 0.5), 0.0);
    }
}

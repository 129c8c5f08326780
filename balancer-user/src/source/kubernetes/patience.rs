//! How long a watch that fails waits before its next try, and when it begins anew.
//!
//! Pure; used by `watch`. Waits grow quickly to a second or two and no further: once the API is
//! back, nobody should have to wait for what has changed meanwhile. The chance in them keeps the
//! agents of a cluster from asking all at once.

use std::time::{Duration, Instant};

const SHORTEST: Duration = Duration::from_millis(200);
/// Before chance, which at most doubles it.
const LONGEST: Duration = Duration::from_secs(1);

/// Failures in a row after which a watch is not resumed any more: a list shows whether the API is
/// there, and a version that it will never know again is left behind.
const RESUMED: u32 = 3;

/// Failures further apart than this are not in a row. More than one failing request takes.
const APART: Duration = Duration::from_secs(60);

/// The failures in a row of one watch.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
    last: Option<Instant>,
}

impl Patience {
    /// Notes a failure. Gives whether the watch is to begin anew.
    pub(super) fn fail(&mut self, now: Instant) -> bool {
        let is_in_row = self
            .last
            .is_some_and(|last| now.saturating_duration_since(last) < APART);
        self.failures = if is_in_row { self.failures + 1 } else { 1 };
        self.last = Some(now);
        self.failures >= RESUMED
    }

    /// How long to wait now. `chance` is from 0 to 1.
    pub(super) fn pause(&self, chance: f64) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        let pause = SHORTEST.saturating_mul(1 << doublings).min(LONGEST);
        pause + pause.mul_f64(chance.clamp(0.0, 1.0))
    }

    /// Forgets all failures: the watch works.
    pub(super) fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds_at_most() {
        let now = Instant::now();
        let mut patience = Patience::default();
        let pauses: Vec<_> = (0..100)
            .map(|_| {
                patience.fail(now);
                assert_eq!(patience.pause(1.0), 2 * patience.pause(0.0));
                patience.pause(0.0).as_millis()
            })
            .collect();
        assert_eq!(pauses[..5], [200, 400, 800, 1000, 1000]);
        assert_eq!(pauses[99], 1000);
        patience.reset();
        patience.fail(now);
        assert_eq!(patience.pause(0.0), SHORTEST);
    }

    #[test]
    fn only_failures_in_a_row_begin_anew() {
        let mut now = Instant::now();
        let mut patience = Patience::default();
        assert!(!patience.fail(now));
        assert!(!patience.fail(now + APART / 2));
        assert!(patience.fail(now + APART));
        patience.reset();
        for _ in 0..10 {
            now += 2 * APART;
            assert!(!patience.fail(now));
        }
    }
}

//! How often something may happen: a bucket that fills steadily and holds a burst at most.
//!
//! Decides nothing about what is counted, and reads no clock. Used by `permit`.

use std::time::{Duration, Instant};

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Rate {
    /// From one to the next, in the long run.
    pub(super) every: Duration,
    /// At once, after a quiet time.
    pub(super) burst: u32,
}

/// What is left: kept as the time at which it is full again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    full_at: Instant,
}

impl Bucket {
    /// A full one.
    pub(super) fn new(now: Instant) -> Self {
        Self { full_at: now }
    }

    /// Takes one out, or says how long it is until there is one.
    pub(super) fn take(&mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        let full_at = self.full_at.max(now) + rate.every;
        let empty = now + rate.every * rate.burst;
        if full_at > empty {
            return Err(full_at - empty);
        }
        self.full_at = full_at;
        Ok(())
    }

    /// Whether one could be taken out now, or else how long it is until then.
    pub(super) fn look(mut self, rate: Rate, now: Instant) -> Result<(), Duration> {
        self.take(rate, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate {
        every: Duration::from_millis(100),
        burst: 3,
    };

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut bucket = Bucket::new(start);
        for _ in 0..3 {
            assert_eq!(bucket.take(RATE, at(0)), Ok(()));
        }
        assert_eq!(bucket.take(RATE, at(0)), Err(Duration::from_millis(100)));
        assert_eq!(bucket.take(RATE, at(60)), Err(Duration::from_millis(40)));
        assert_eq!(bucket.take(RATE, at(100)), Ok(()));
        assert_eq!(bucket.take(RATE, at(100)), Err(Duration::from_millis(100)));
    }

    #[test]
    fn it_never_holds_more_than_a_burst() {
        let start = Instant::now();
        let later = start + Duration::from_secs(3600);
        let mut bucket = Bucket::new(start);
        let taken = (0..10).filter(|_| bucket.take(RATE, later).is_ok()).count();
        assert_eq!(taken, 3);
    }

    #[test]
    fn to_look_takes_nothing() {
        let now = Instant::now();
        let mut bucket = Bucket::new(now);
        for _ in 0..3 {
            assert_eq!(
                (bucket.look(RATE, now), bucket.look(RATE, now)),
                (Ok(()), Ok(()))
            );
            bucket.take(RATE, now).unwrap();
        }
        assert_eq!(bucket.look(RATE, now), Err(Duration::from_millis(100)));
    }
}

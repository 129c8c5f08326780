//! Numbers for things that the kernel knows by number only.
//!
//! A number that is given back is not given out again for [`GRACE`]: a program
//! that is running at that moment may still hold it. It runs for microseconds
//! and cannot be put off for long, since it holds the RCU read lock.

use std::{
    collections::{BTreeSet, VecDeque},
    time::{Duration, Instant},
};

/// How long a number rests. Far above the run of any program.
pub const GRACE: Duration = Duration::from_millis(100);

/// The numbers `0..limit`.
#[derive(Clone, Debug)]
pub struct Pool {
    limit: u32,
    /// Lowest number never given out.
    fresh: u32,
    /// Numbers given back, oldest first.
    freed: VecDeque<(u32, Instant)>,
}

impl Pool {
    /// A pool in which every number is free.
    pub fn new(limit: u32) -> Self {
        Self {
            limit,
            fresh: 0,
            freed: VecDeque::new(),
        }
    }

    /// A pool in which these numbers are in use. What is free below them has to rest.
    pub fn restore(limit: u32, used: &BTreeSet<u32>, now: Instant) -> Self {
        let fresh = used.last().map_or(0, |last| last + 1);
        let free = (0..fresh).filter(|number| !used.contains(number));
        Self {
            limit,
            fresh,
            freed: free.map(|number| (number, now)).collect(),
        }
    }

    /// A free number that has rested, the lowest fresh one if none has; `None`
    /// if all are in use or resting.
    pub fn take(&mut self, now: Instant) -> Option<u32> {
        let rested = self
            .freed
            .front()
            .is_some_and(|(_, at)| now.duration_since(*at) >= GRACE);
        if rested {
            return self.freed.pop_front().map(|(number, _)| number);
        }
        if self.fresh == self.limit {
            return None;
        }
        self.fresh += 1;
        Some(self.fresh - 1)
    }

    /// Like [`Pool::take`], but rather one that has not rested than none.
    pub fn take_at_once(&mut self, now: Instant) -> Option<u32> {
        self.take(now)
            .or_else(|| self.freed.pop_front().map(|(number, _)| number))
    }

    /// Gives a number back.
    pub fn free(&mut self, number: u32, now: Instant) {
        self.freed.push_back((number, now));
    }

    /// All numbers ever given out are below this one.
    pub fn high_water(&self) -> u32 {
        self.fresh
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_rests_before_it_comes_again() {
        let start = Instant::now();
        let mut pool = Pool::new(2);
        assert_eq!(
            (pool.take(start), pool.take(start), pool.take(start)),
            (Some(0), Some(1), None)
        );
        pool.free(1, start);
        assert_eq!(pool.take(start + GRACE / 2), None);
        assert_eq!(pool.take(start + GRACE), Some(1));
        pool.free(0, start);
        assert_eq!(pool.take_at_once(start), Some(0));
    }
}

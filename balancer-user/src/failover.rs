//! Failovers of leader services: how many, and for how long there was no leader that served.
//!
//! Kept since the agent started, by service, whether or not anyone listens. Written through
//! [`crate::journal::Journal::failed_over`] by whoever sees the first connection to a new leader
//! stand; read by `admin` and `metrics`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::model::{MAX_SERVICES, ServiceName};

/// Upper bounds of the buckets in which durations are counted.
pub const BOUNDS: [Duration; 11] = [
    Duration::from_micros(1_000),
    Duration::from_micros(2_500),
    Duration::from_micros(5_000),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// The failovers of every service.
#[derive(Debug, Default)]
pub struct Failovers(Mutex<BTreeMap<ServiceName, Figures>>);

/// The failovers of one service. A duration is the time from the loss of the leader to the first
/// connection to its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Figures {
    /// How many there were.
    pub count: u64,
    /// Their durations, added up.
    pub sum: Duration,
    /// The longest of them.
    pub longest: Duration,
    /// The last of them.
    pub last: Duration,
    /// When that ended.
    pub last_at: Instant,
    /// How many took as long as each of [`BOUNDS`] at most, and longer than the one before.
    buckets: [u64; BOUNDS.len()],
}

impl Failovers {
    /// Those of a service, if it had any.
    pub fn of(&self, service: &ServiceName) -> Option<Figures> {
        self.locked().get(service).copied()
    }

    /// Counts one that took so long and has just ended.
    pub(crate) fn count(&self, service: &ServiceName, took: Duration, now: Instant) {
        let mut all = self.locked();
        if !all.contains_key(service) && all.len() >= MAX_SERVICES {
            forget_oldest(&mut all);
        }
        let figures = all.entry(service.clone()).or_insert(Figures::none(now));
        figures.add(took, now);
    }

    fn locked(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Figures>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There are never more services at once, so the one whose last is the longest ago can go.
fn forget_oldest(all: &mut BTreeMap<ServiceName, Figures>) {
    let oldest = all.iter().min_by_key(|(_, figures)| figures.last_at);
    if let Some(name) = oldest.map(|(name, _)| name.clone()) {
        all.remove(&name);
    }
}

impl Figures {
    const fn none(now: Instant) -> Self {
        Self {
            count: 0,
            sum: Duration::ZERO,
            longest: Duration::ZERO,
            last: Duration::ZERO,
            last_at: now,
            buckets: [0; BOUNDS.len()],
        }
    }

    fn add(&mut self, took: Duration, now: Instant) {
        self.count += 1;
        self.sum += took;
        self.longest = self.longest.max(took);
        self.last = took;
        self.last_at = now;
        if let Some(bucket) = BOUNDS.iter().position(|bound| took <= *bound) {
            self.buckets[bucket] += 1;
        }
    }

    /// How long they took on average.
    pub fn average(&self) -> Duration {
        let count = u32::try_from(self.count).unwrap_or(u32::MAX);
        self.sum.checked_div(count).unwrap_or_default()
    }

    /// Each of [`BOUNDS`], and how many took as long at most.
    pub fn up_to_each(&self) -> [(Duration, u64); BOUNDS.len()] {
        let mut cumulative = 0;
        std::array::from_fn(|bucket| {
            cumulative += self.buckets[bucket];
            (BOUNDS[bucket], cumulative)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn failovers_add_up_by_service() {
        let (failovers, start) = (Failovers::default(), Instant::now());
        let (hello, other) = ("hello".parse().unwrap(), "other".parse().unwrap());
        for (took, after) in [(10, 1), (30, 2), (11, 3)] {
            failovers.count(&hello, ms(took), start + ms(after));
        }
        let figures = failovers.of(&hello).unwrap();
        assert_eq!((figures.count, figures.sum), (3, ms(51)));
        assert_eq!((figures.last, figures.last_at), (ms(11), start + ms(3)));
        assert_eq!((figures.longest, figures.average()), (ms(30), ms(17)));
        assert_eq!(failovers.of(&other), None);
    }

    #[test]
    fn a_bound_counts_what_took_just_as_long_and_none_what_took_longer_than_all() {
        let mut figures = Figures::none(Instant::now());
        for took in [ms(0), ms(10), ms(11), ms(5_001)] {
            figures.add(took, Instant::now());
        }
        let up_to = figures.up_to_each();
        let of = |bound| up_to.iter().find(|(it, _)| *it == bound).unwrap().1;
        assert_eq!(
            [of(ms(1)), of(ms(10)), of(ms(25)), of(ms(5_000))],
            [1, 2, 3, 3]
        );
        assert_eq!(figures.count, 4);
    }

    #[test]
    fn services_that_are_long_gone_are_forgotten() {
        let (failovers, start) = (Failovers::default(), Instant::now());
        let name = |number: usize| format!("s{number}").parse::<ServiceName>().unwrap();
        for number in 0..=MAX_SERVICES {
            let after = Duration::from_secs(number as u64);
            failovers.count(&name(number), ms(1), start + after);
        }
        assert_eq!(failovers.of(&name(0)), None);
        assert!(failovers.of(&name(1)).is_some() && failovers.of(&name(MAX_SERVICES)).is_some());
    }
}

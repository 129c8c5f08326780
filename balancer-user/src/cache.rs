//! A cache whose entries hold for a while, and which counts how often it helped.
//!
//! Owns the rule of what is fresh, and the counts. Refuses to grow beyond its size, and never
//! computes a value: whoever asks in vain finds out and inserts. Used by `health` for results of
//! probes, and by `admin` for answers that are dear to compute.

use std::{
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use quick_cache::{
    DefaultHashBuilder, OptionsBuilder, UnitWeighter, sync::Cache, sync::DefaultLifecycle,
};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Values by key, each for a time to live.
#[derive(Debug)]
pub struct TtlCache<K, V> {
    entries: Cache<K, Entry<V>>,
    ttl: Duration,
    hits: AtomicU64,
    misses: AtomicU64,
}

#[derive(Debug, Clone)]
struct Entry<V> {
    value: V,
    /// By [`now`].
    inserted: Duration,
}

/// How often a cache helped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CacheFigures {
    /// Look-ups that found a fresh value.
    pub hit_count: u64,
    /// Look-ups that did not.
    pub miss_count: u64,
    /// Fresh values held now.
    pub size: u64,
    /// Hits per look-up, a fraction of 1; 0 before the first look-up.
    pub hit_rate: f64,
}

impl<K: Hash + Eq + Clone, V: Clone> TtlCache<K, V> {
    /// Holds at most `max_size` values (at least one), each for `ttl`.
    pub fn new(ttl: Duration, max_size: usize) -> Self {
        let max_size = max_size.max(1);
        // One shard: several would round the size up. Look-ups share its lock anyway.
        let options = OptionsBuilder::new()
            .shards(1)
            .estimated_items_capacity(max_size)
            .weight_capacity(max_size as u64)
            .build()
            .expect("both capacities are given");
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        Self {
            entries: Cache::with_options(options, UnitWeighter, hasher, lifecycle),
            ttl,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The value of `key`, if it is fresh.
    pub fn get(&self, key: &K) -> Option<V> {
        self.get_at(key, now())
    }

    /// Puts a value in, in place of an older one.
    pub fn insert(&self, key: K, value: V) {
        self.insert_at(key, value, now());
    }

    /// Takes a value out, fresh or not.
    pub fn remove(&self, key: &K) {
        self.entries.remove(key);
    }

    /// How often the cache helped so far. Drops what is not fresh.
    pub fn figures(&self) -> CacheFigures {
        self.figures_at(now())
    }

    fn get_at(&self, key: &K, now: Duration) -> Option<V> {
        let fresh = self
            .entries
            .get(key)
            .filter(|entry| self.is_fresh(entry, now));
        let count = if fresh.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        count.fetch_add(1, Relaxed);
        fresh.map(|entry| entry.value)
    }

    fn insert_at(&self, key: K, value: V, now: Duration) {
        let inserted = now;
        self.entries.insert(key, Entry { value, inserted });
    }

    fn figures_at(&self, now: Duration) -> CacheFigures {
        self.entries.retain(|_, entry| self.is_fresh(entry, now));
        let (hit_count, miss_count) = (self.hits.load(Relaxed), self.misses.load(Relaxed));
        CacheFigures {
            hit_count,
            miss_count,
            size: self.entries.len() as u64,
            hit_rate: rate(hit_count, miss_count),
        }
    }

    fn is_fresh(&self, entry: &Entry<V>, now: Duration) -> bool {
        now.saturating_sub(entry.inserted) < self.ttl
    }
}

/// Hits per look-up.
pub(crate) fn rate(hits: u64, misses: u64) -> f64 {
    match hits + misses {
        0 => 0.0,
        all => hits as f64 / all as f64,
    }
}

/// The coarse clock: some milliseconds behind, which no time to live minds, and several times
/// cheaper to read than the exact one, which would cost as much as the rest of a look-up.
fn now() -> Duration {
    let now = clock_gettime(ClockId::MonotonicCoarse);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(5);

    #[test]
    fn a_value_is_fresh_for_its_time_to_live() {
        let cache = TtlCache::new(TTL, 10);
        let start = Duration::from_secs(100);
        cache.insert_at("a", 1, start);
        assert_eq!(
            cache.get_at(&"a", start + TTL - Duration::from_nanos(1)),
            Some(1)
        );
        assert_eq!(cache.get_at(&"a", start + TTL), None);
        assert_eq!(cache.get_at(&"b", start), None);
        cache.insert_at("a", 2, start + TTL);
        assert_eq!(cache.get_at(&"a", start + TTL), Some(2));

        let figures = cache.figures_at(start + TTL);
        assert_eq!(
            figures,
            CacheFigures {
                hit_count: 2,
                miss_count: 2,
                size: 1,
                hit_rate: 0.5
            }
        );
        assert_eq!(cache.figures_at(start + 2 * TTL).size, 0);
    }

    #[test]
    fn it_never_holds_more_than_its_size_and_always_the_newest() {
        for max_size in [1, 2, 100] {
            let cache = TtlCache::new(TTL, max_size);
            for key in 0..1_000 {
                cache.insert(key, key);
                assert_eq!(cache.get(&key), Some(key), "of {max_size}");
                assert!(cache.figures().size <= max_size as u64);
            }
        }
    }

    #[test]
    fn what_is_removed_is_gone() {
        let cache = TtlCache::new(TTL, 1);
        cache.insert((), "answer");
        assert_eq!(cache.get(&()), Some("answer"));
        cache.remove(&());
        assert_eq!(cache.get(&()), None);
        assert_eq!(cache.figures().size, 0);
    }

    #[test]
    fn the_clock_runs() {
        let start = now();
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while now() == start {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        assert!(now() > start);
    }
}

//! Idle HTTP connections of probes, to be used again.
//!
//! Owns the limits: how many, how long idle, how old. Opens nothing; `probe` takes connections
//! out, and puts them back once an answer has been read whole.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::connect::Connection;
use crate::cache::rate;

/// Limits of the pool.
#[derive(Debug, Clone, Copy)]
pub(super) struct PoolLimits {
    /// Idle connections to one backend.
    pub(super) per_backend: usize,
    /// Idle connections in all: with very many backends, keeping one to each would cost more
    /// memory and descriptors than connecting again.
    pub(super) in_all: usize,
    /// How long a connection may be idle.
    pub(super) idle: Duration,
    /// How old it may get.
    pub(super) lifetime: Duration,
    /// For one request, its body included.
    pub(super) request_timeout: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            per_backend: 10,
            in_all: 1024,
            idle: Duration::from_secs(30),
            lifetime: Duration::from_secs(60),
            request_timeout: Duration::from_secs(2),
        }
    }
}

impl PoolLimits {
    /// How often to [`Pool::sweep`].
    pub(super) fn sweep_interval(&self) -> Duration {
        (self.idle.min(self.lifetime) / 10).max(Duration::from_millis(1))
    }
}

/// What the pool has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PoolFigures {
    /// Idle connections held now.
    pub size: u64,
    /// Times an idle connection was there to be used.
    pub hit_count: u64,
    /// Times none was.
    pub miss_count: u64,
    /// Hits per use, a fraction of 1; 0 before the first use.
    pub hit_rate: f64,
    /// Idle connections given up: idle too long, too old, too many, closed by the backend, or
    /// their backend is gone.
    pub eviction_count: u64,
    /// Connections opened.
    pub create_count: u64,
}

#[derive(Debug)]
pub(super) struct Pool {
    limits: PoolLimits,
    idle: Mutex<Idle>,
    hits: AtomicU64,
    misses: AtomicU64,
    evictions: AtomicU64,
    created: AtomicU64,
}

#[derive(Debug, Default)]
struct Idle {
    /// No list is empty; each has the longest idle first.
    connections: HashMap<SocketAddr, Vec<Pooled>>,
    /// Connections in all of them.
    size: usize,
}

#[derive(Debug)]
struct Pooled {
    connection: Connection,
    since: Instant,
}

impl Pool {
    pub(super) fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            idle: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            evictions: AtomicU64::new(0),
            created: AtomicU64::new(0),
        }
    }

    pub(super) fn limits(&self) -> &PoolLimits {
        &self.limits
    }

    /// A connection that can be asked at once: the one that was idle for the shortest time.
    pub(super) fn take(&self, address: SocketAddr) -> Option<Connection> {
        let now = Instant::now();
        let mut evicted = Vec::new();
        let mut idle = self.idle();
        let mut found = None;
        if let Some(pooled) = idle.connections.get_mut(&address) {
            while let Some(candidate) = pooled.pop() {
                if self.is_usable(&candidate, now) {
                    found = Some(candidate.connection);
                    break;
                }
                evicted.push(candidate);
            }
            if pooled.is_empty() {
                idle.connections.remove(&address);
            }
        }
        idle.size -= evicted.len() + usize::from(found.is_some());
        drop(idle);
        self.count_evictions(evicted.len());
        let count = if found.is_some() {
            &self.hits
        } else {
            &self.misses
        };
        count.fetch_add(1, Relaxed);
        found
    }

    /// Keeps an idle connection, if it is still good and there is room.
    pub(super) fn put_back(&self, address: SocketAddr, connection: Connection) {
        let since = Instant::now();
        let pooled = Pooled { connection, since };
        let mut idle = self.idle();
        let held = idle.connections.get(&address).map_or(0, Vec::len);
        let has_room = held < self.limits.per_backend && idle.size < self.limits.in_all;
        if !has_room || !self.is_usable(&pooled, since) {
            drop(idle);
            self.count_evictions(1);
            return;
        }
        idle.connections.entry(address).or_default().push(pooled);
        idle.size += 1;
    }

    /// Counts a connection that was opened because none was idle.
    pub(super) fn count_created(&self) {
        self.created.fetch_add(1, Relaxed);
    }

    /// Closes the idle connections to a backend.
    pub(super) fn forget(&self, address: SocketAddr) {
        let mut idle = self.idle();
        let gone = idle.connections.remove(&address).unwrap_or_default();
        idle.size -= gone.len();
        drop(idle);
        self.count_evictions(gone.len());
    }

    /// Closes what may not be used any more.
    pub(super) fn sweep(&self, now: Instant) {
        let mut gone = Vec::new();
        let mut idle = self.idle();
        idle.connections.retain(|_, pooled| {
            gone.extend(pooled.extract_if(.., |pooled| !self.is_usable(pooled, now)));
            !pooled.is_empty()
        });
        idle.size -= gone.len();
        drop(idle);
        self.count_evictions(gone.len());
    }

    pub(super) fn figures(&self) -> PoolFigures {
        let (hit_count, miss_count) = (self.hits.load(Relaxed), self.misses.load(Relaxed));
        PoolFigures {
            size: self.idle().size as u64,
            hit_count,
            miss_count,
            hit_rate: rate(hit_count, miss_count),
            eviction_count: self.evictions.load(Relaxed),
            create_count: self.created.load(Relaxed),
        }
    }

    fn is_usable(&self, pooled: &Pooled, now: Instant) -> bool {
        pooled.connection.is_ready()
            && now.saturating_duration_since(pooled.since) < self.limits.idle
            && pooled.connection.age(now) < self.limits.lifetime
    }

    fn count_evictions(&self, count: usize) {
        self.evictions.fetch_add(count as u64, Relaxed);
    }

    /// Nothing in here is half changed if a holder panics.
    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

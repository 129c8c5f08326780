//! Whether backends live: probes, beside the path of requests and never in it.
//!
//! [`Prober`] follows the desired state, probes every backend once however many services name it,
//! and sends an [`Observation`] whenever a backend's health changes; the reconciler turns that
//! into a flag that the kernel reads. Nobody ever waits for a probe. Refuses to touch the kernel,
//! and to judge a backend by faults of this machine. Started by `agent`; `admin` and `metrics`
//! look through [`Handle`] and [`Figures`].
//!
//! One task schedules all of it (`schedule`), so that a hundred thousand backends cost it some
//! hundred bytes each; one more task lives per probe under way, and one per open connection.

mod connect;
mod figures;
mod pool;
mod probe;
mod schedule;
mod target;
mod verdict;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use tokio::sync::{mpsc, watch};

pub use figures::{
    DURATION_BUCKETS, DURATION_HELP, DURATION_LABELS, DURATION_NAME, Figures, MAX_POD_IPS, OTHER,
};
pub use pool::PoolFigures;
pub use verdict::{LastProbe, Outcome, Report};

use crate::{cache::TtlCache, config::ProbeConfig, state::Snapshot};
use figures::Counts;
use pool::{Pool, PoolLimits};
use schedule::{Latest, Scheduler};

/// A backend's health, as probes see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Health {
    /// It may be sent to.
    Healthy,
    /// It may not.
    Unhealthy,
}

/// A backend's health has changed, is known for the first time, or is not looked at any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Observation {
    /// The backend.
    pub address: SocketAddr,
    /// Its health from now on; `None`: it is not probed any more, and taken to be healthy.
    pub health: Option<Health>,
}

/// Results of probes that are fresh enough to be used again.
type Results = TtlCache<SocketAddr, Latest>;

/// Probes backends.
#[derive(Debug)]
pub struct Prober {
    config: ProbeConfig,
    reports: Reports,
    figures: Figures,
}

impl Prober {
    /// A prober that has not begun. Its cache holds `cache_max_size` results at most.
    pub fn new(config: ProbeConfig, cache_max_size: usize) -> Self {
        Self::with_limits(config, cache_max_size, PoolLimits::default())
    }

    fn with_limits(config: ProbeConfig, cache_max_size: usize, limits: PoolLimits) -> Self {
        Self {
            config,
            reports: Reports::default(),
            figures: Figures {
                counts: Arc::new(Counts::new()),
                results: Arc::new(TtlCache::new(config.cache_ttl, cache_max_size)),
                pool: Arc::new(Pool::new(limits)),
            },
        }
    }

    /// A way to look at what it knows.
    pub fn handle(&self) -> Handle {
        Handle {
            reports: self.reports.clone(),
            results: self.figures.results.clone(),
        }
    }

    /// A way to look at what it does.
    pub fn figures(&self) -> Figures {
        self.figures.clone()
    }

    /// Probes until nobody sends snapshots, or nobody takes observations, any more.
    ///
    /// What an observation says is in [`Handle::health_of`] before it is sent: whoever meets a
    /// backend for the first time can ask there, and then follow the observations.
    pub async fn run(
        self,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        observations: mpsc::UnboundedSender<Observation>,
    ) {
        Scheduler::new(self, observations).run(snapshots).await;
    }
}

/// What is known about backends; clones show the same.
#[derive(Debug, Clone)]
pub struct Handle {
    reports: Reports,
    results: Arc<Results>,
}

impl Handle {
    /// What is known about a backend; none if it is not probed. Never waits for a probe.
    pub fn health_of(&self, address: SocketAddr) -> Option<Report> {
        match self.results.get(&address) {
            Some(latest) => Some(latest.report),
            None => self.reports.read().get(&address).copied(),
        }
    }
}

/// What is known about each backend that is probed. Written by `schedule` alone.
#[derive(Debug, Clone, Default)]
struct Reports(Arc<RwLock<HashMap<SocketAddr, Report>>>);

impl Reports {
    /// Nothing in here is half changed if a holder panics.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<SocketAddr, Report>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<SocketAddr, Report>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;

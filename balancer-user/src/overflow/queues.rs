//! All queues, by the id of their service.
//!
//! A queue is made when its service is first asked for. What is known of the service is looked up
//! again when it may have changed, or is older than the cache keeps it.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use super::{Ledger, Queue, View};
use crate::journal::Journal;

/// How long what is known of a service is used without another look.
const FRESH_FOR: Duration = Duration::from_secs(2);

/// Tells about services.
pub trait Directory: Send + Sync + 'static {
    /// Counts the changes: what was looked up under another number may be wrong.
    fn generation(&self) -> u64;
    /// The service with this id.
    fn look_up(&self, service: u32) -> Option<View>;
}

/// The queues.
pub struct Queues {
    ledger: Arc<dyn Ledger>,
    directory: Box<dyn Directory>,
    journal: Journal,
    by_service: RwLock<HashMap<u32, Known>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// How the look-ups of services went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoutingFigures {
    /// Answered from memory.
    pub hits: u64,
    /// Looked up anew.
    pub misses: u64,
    /// Services in memory.
    pub size: usize,
}

#[derive(Debug)]
struct Known {
    queue: Arc<Queue>,
    generation: u64,
    looked_up_at: Instant,
}

impl Queues {
    /// No queues yet.
    pub fn new(ledger: Arc<dyn Ledger>, directory: impl Directory, journal: Journal) -> Arc<Self> {
        Arc::new(Self {
            ledger,
            directory: Box::new(directory),
            journal,
            by_service: RwLock::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// The queue of the service with this id; `None` if there is no such service (any more).
    pub fn of(self: &Arc<Self>, service: u32) -> Option<Arc<Queue>> {
        let generation = self.directory.generation();
        if let Some(known) = self.known(service, generation) {
            self.hits.fetch_add(1, Relaxed);
            return Some(known);
        }
        self.misses.fetch_add(1, Relaxed);
        self.look_up(service, generation)
    }

    /// All queues there are.
    pub fn all(&self) -> Vec<Arc<Queue>> {
        let known = self.read();
        known.values().map(|known| known.queue.clone()).collect()
    }

    /// How the look-ups went.
    pub fn routing_figures(&self) -> RoutingFigures {
        RoutingFigures {
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
            size: self.read().len(),
        }
    }

    pub(super) fn ledger(&self) -> &dyn Ledger {
        &*self.ledger
    }

    /// Where what breakers do is told.
    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Hands free slots of a service to those who wait for them.
    pub fn wake(&self, service: u32) {
        if self.ledger.has_queued(service)
            && let Some(queue) = self.existing(service)
        {
            queue.wake();
        }
    }

    /// The queue of a service, if it has one already.
    pub(super) fn existing(&self, service: u32) -> Option<Arc<Queue>> {
        self.read().get(&service).map(|known| known.queue.clone())
    }

    fn known(&self, service: u32, generation: u64) -> Option<Arc<Queue>> {
        let by_service = self.read();
        let known = by_service.get(&service)?;
        let is_fresh = known.generation == generation && known.looked_up_at.elapsed() < FRESH_FOR;
        is_fresh.then(|| known.queue.clone())
    }

    fn look_up(self: &Arc<Self>, service: u32, generation: u64) -> Option<Arc<Queue>> {
        let view = self.directory.look_up(service);
        let mut by_service = self
            .by_service
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let of_service = self.ledger.generation(service);
        let before = by_service.remove(&service).map(|known| known.queue);
        // An id can come to mean another service; that one gets a queue of its own.
        let kept = before.filter(|queue| {
            let is_same = view
                .as_ref()
                .is_some_and(|view| queue.view().name == view.name)
                && queue.generation() == of_service;
            if !is_same {
                queue.close();
            }
            is_same
        });
        let view = Arc::new(view?);
        let queue = match kept {
            Some(queue) => {
                if *queue.view() != *view {
                    queue.set_view(view);
                }
                queue
            }
            None => {
                let id = (service, of_service);
                Arc::new(Queue::new(id, view, Arc::downgrade(self)))
            }
        };
        let known = Known {
            queue: queue.clone(),
            generation,
            looked_up_at: Instant::now(),
        };
        by_service.insert(service, known);
        Some(queue)
    }

    /// Drops the queues of services that are gone, and lets sizes follow the load. Called once in
    /// a while.
    pub(super) fn settle(self: &Arc<Self>) {
        let services: Vec<u32> = self.read().keys().copied().collect();
        for service in services {
            if let Some(queue) = self.look_up(service, self.directory.generation()) {
                queue.settle_size();
            }
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<u32, Known>> {
        self.by_service
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Queues")
            .field("by_service", &*self.read())
            .finish_non_exhaustive()
    }
}

//! A slot that the agent holds: given back when it is dropped, and then the next waiter's.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use balancer_common::{breaker::Failure, event::EventKind};

use super::{Grant, Ledger, Queues};
use crate::model::ServiceName;

/// The right to have one request in flight on a backend, taken by the agent.
#[derive(Debug)]
pub struct Slot {
    grant: Grant,
    service: u32,
    queues: Arc<Queues>,
    taken_at: Instant,
}

impl Slot {
    pub(super) fn new(grant: Grant, service: u32, queues: Arc<Queues>) -> Self {
        Self {
            grant,
            service,
            queues,
            taken_at: Instant::now(),
        }
    }

    /// Where the backend listens.
    pub fn address(&self) -> SocketAddr {
        self.grant.address
    }

    /// The backend's id and generation: together they mean this backend and no other, ever.
    pub fn backend(&self) -> (u32, u32) {
        (self.grant.backend, self.grant.generation)
    }

    /// A connect to its backend failed: the backend's breaker hears of it.
    pub(super) fn failed(&self) {
        let backend = self.address();
        match self.ledger().failed(self.service, &self.grant) {
            Failure::Counted => {}
            Failure::Ejected => {
                tracing::warn!(%backend, "ejected: too many connects failed in a row");
                self.tell(EventKind::Ejected);
            }
            Failure::TrialFailed => {
                tracing::info!(%backend, "stays ejected: the trial failed");
                self.tell(EventKind::TrialFailed);
            }
        }
    }

    /// A connect to its backend succeeded.
    pub fn connected(&self) {
        if self.ledger().succeeded(&self.grant) {
            tracing::info!(backend = %self.address(), "takes part again: the trial succeeded");
            self.tell(EventKind::Readmitted);
        }
        self.note_leader();
    }

    /// Its backend has answered so long after it was asked; if it had to be connected to for that,
    /// with the time which that took.
    pub(super) fn answered(&self, after: Duration) {
        self.ledger().answered(&self.grant, after);
        self.note_leader();
    }

    /// Measures the response time of its backend over a connection that took so long to stand.
    pub(super) fn stopwatch(&self, connected_in: Duration) -> Stopwatch {
        Stopwatch {
            grant: self.grant,
            queues: self.queues.clone(),
            connected_in,
            asked_at: OnceLock::new(),
            awaiting: Mutex::new(None),
        }
    }

    /// A request goes to its backend, which owes a response while the result is there.
    pub(super) fn ask(&self) -> Awaiting {
        Awaiting::new(self.grant, self.queues.clone())
    }

    /// If this is the first that a new leader serves, the failover is over.
    fn note_leader(&self) {
        if let Some(after) = self.ledger().took_over(self.service, &self.grant) {
            let backend = self.address();
            tracing::info!(%backend, ?after, "has taken over as the leader");
            let journal = self.queues.journal();
            journal.failed_over(self.service_name(), Some(backend), after);
        }
    }

    fn tell(&self, kind: EventKind) {
        let backend = Some(self.address());
        let journal = self.queues.journal();
        journal.reported(kind, self.service_name(), backend);
    }

    fn service_name(&self) -> Option<ServiceName> {
        let queue = self.queues.existing(self.service)?;
        Some(queue.view().name.clone())
    }

    #[cfg(test)]
    pub(super) fn grant(&self) -> &Grant {
        &self.grant
    }

    pub(super) fn ledger(&self) -> &dyn Ledger {
        self.queues.ledger()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        for service in self.ledger().give_back(&self.grant) {
            self.queues.wake(service);
        }
        if let Some(queue) = self.queues.existing(self.service) {
            queue.figures().count_served(self.taken_at.elapsed());
        }
    }
}

/// Measures one response time, while the slot is held.
#[derive(Debug)]
pub(super) struct Stopwatch {
    grant: Grant,
    queues: Arc<Queues>,
    connected_in: Duration,
    asked_at: OnceLock<Instant>,
    awaiting: Mutex<Option<Awaiting>>,
}

impl Stopwatch {
    /// The first byte is on its way to the backend.
    pub(super) fn asked(&self) {
        // Only the first time counts.
        if self.asked_at.set(Instant::now()).is_ok() {
            *self.awaiting() = Some(Awaiting::new(self.grant, self.queues.clone()));
        }
    }

    /// The first byte came back. What a backend says unasked is no response.
    pub(super) fn answered(&self) {
        if let Some(asked_at) = self.asked_at.get() {
            self.settled();
            let after = self.connected_in + asked_at.elapsed();
            self.queues.ledger().answered(&self.grant, after);
        }
    }

    /// The response will not come any more, if it has not.
    pub(super) fn settled(&self) {
        *self.awaiting() = None;
    }

    fn awaiting(&self) -> MutexGuard<'_, Option<Awaiting>> {
        self.awaiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A response that is awaited; settled when this is dropped.
#[derive(Debug)]
pub(super) struct Awaiting {
    grant: Grant,
    queues: Arc<Queues>,
}

impl Awaiting {
    fn new(grant: Grant, queues: Arc<Queues>) -> Self {
        queues.ledger().asked(&grant);
        Self { grant, queues }
    }
}

impl Drop for Awaiting {
    fn drop(&mut self) {
        self.queues.ledger().settled(&self.grant);
    }
}

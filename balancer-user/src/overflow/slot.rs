//! A slot that the agent holds: given back when it is dropped, and then the next waiter's.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use balancer_common::{breaker::Failure, event::EventKind};

use super::{Grant, Ledger, Queues};

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
    }

    fn tell(&self, kind: EventKind) {
        let queue = self.queues.existing(self.service);
        let service = queue.map(|queue| queue.view().name.clone());
        let backend = Some(self.address());
        self.queues.journal().reported(kind, service, backend);
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

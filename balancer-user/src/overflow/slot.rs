//! A slot that the agent holds: given back when it is dropped, and then the next waiter's.

use std::{net::SocketAddr, sync::Arc, time::Instant};

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

//! The slots and counts that the agent shares with the programs.
//!
//! The agent takes slots on the words that the kernel counts with, by the same code
//! (`balancer-common`); what it takes stands in its own half of a word. A trait, so that queues
//! can be tested in plain memory.

use std::{net::SocketAddr, time::Duration};

use arrayvec::ArrayVec;
use balancer_common::{
    atomic::{load, load32, store32},
    breaker::{self, Failure},
    maps::MAX_MEMBERSHIPS,
    rate, select,
    service::{Backend, LEAF_POSITIONS, Membership, Service, Tables},
    slot::Side,
    waiting,
};

use super::Reason;
use crate::kernel::Kernel;

/// A slot that the agent took, as the ledger knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Id of the backend.
    pub backend: u32,
    /// The backend's generation when the slot was taken; it stays so while the slot is held.
    pub generation: u32,
    /// Where the backend listens.
    pub address: SocketAddr,
}

/// Ids of the services that share a backend.
pub type Sharers = ArrayVec<u32, MAX_MEMBERSHIPS>;

/// What queues need of the kernel side. Services are named by their ids.
pub trait Ledger: Send + Sync + 'static {
    /// Which of the services that the id has stood for it stands for now.
    fn generation(&self, service: u32) -> u32;
    /// Takes a slot of the service; `None` if none is free.
    fn take(&self, service: u32) -> Option<Grant>;
    /// Gives a slot back. Returns the services whose waiters can have it.
    fn give_back(&self, grant: &Grant) -> Sharers;
    /// Why waiting for a slot of the service cannot help, if it cannot.
    fn hopeless(&self, service: u32) -> Option<Reason>;
    /// One joins the service's queue, as the programs see it.
    fn join(&self, service: u32);
    /// One leaves it.
    fn leave(&self, service: u32);
    /// A connection that the programs sent is on its way no more: it has a slot, or has joined the
    /// queue, or is gone.
    fn dismiss(&self, service: u32);
    /// Whether anyone is in the service's queue.
    fn has_queued(&self, service: u32) -> bool;
    /// Tells the programs how many may wait.
    fn set_queue_size(&self, service: u32, size: u32);
    /// The clock by which the programs note times.
    fn clock(&self) -> Duration;
    /// Takes a token of the service's rate limit, if it has one; says whether there was one.
    fn admit(&self, service: u32) -> bool;
    /// Counts a failed connect to the backend, for the service.
    fn failed(&self, service: u32, grant: &Grant) -> Failure;
    /// Counts a connect to the backend that succeeded. Says whether that ended an ejection.
    fn succeeded(&self, grant: &Grant) -> bool;
}

/// Records and a clock: all that a ledger needs.
pub trait Books: Send + Sync + 'static {
    /// The records.
    type Tables: Tables;
    /// Those records.
    fn tables(&self) -> &Self::Tables;
    /// The clock by which the programs note times.
    fn now(&self) -> Duration;
}

impl Books for Kernel {
    type Tables = crate::kernel::Memory;

    fn tables(&self) -> &Self::Tables {
        self.memory()
    }

    fn now(&self) -> Duration {
        Self::now(self)
    }
}

impl<B: Books> Ledger for B {
    fn generation(&self, service: u32) -> u32 {
        let record = self.tables().service(service);
        record.map_or(0, |record| load32(&record.generation))
    }

    fn take(&self, service: u32) -> Option<Grant> {
        let tables = self.tables();
        let record = tables.service(service)?;
        let id = match trial(self, record, service) {
            Some(id) => id,
            None => {
                let taken = select::idle_first(tables, service, Side::Agent);
                taken.ok()?.backend
            }
        };
        let backend = tables.backend(id)?;
        let (address, port) = backend.address();
        Some(Grant {
            backend: id,
            generation: load32(&backend.generation),
            address: SocketAddr::new(address.into(), port.into()),
        })
    }

    fn give_back(&self, grant: &Grant) -> Sharers {
        let tables = self.tables();
        let mut sharers = Sharers::new();
        let Some(backend) = tables.backend(grant.backend) else {
            return sharers;
        };
        // An id keeps its generation while a slot of it is held, and this one was.
        if select::give_back(tables, grant.backend, Side::Agent).is_none() {
            tracing::error!(backend = %grant.address, "a slot was given back that was not taken");
            return sharers;
        }
        for word in &backend.memberships {
            let Some((service, _)) = Membership(load(word)).parts() else {
                break;
            };
            sharers.push(service);
        }
        sharers
    }

    fn hopeless(&self, service: u32) -> Option<Reason> {
        let Some(record) = self.tables().service(service) else {
            return Some(Reason::NoBackends);
        };
        let mut any_ejected = false;
        for backend in backends(self.tables(), record) {
            if backend.is_usable() {
                return None;
            }
            any_ejected |= load32(&backend.state) == 0;
        }
        Some(match any_ejected {
            true => Reason::BreakerOpen,
            false => Reason::NoBackends,
        })
    }

    fn join(&self, service: u32) {
        with_service(self, service, |record| waiting::join(&record.waiting));
    }

    fn leave(&self, service: u32) {
        with_service(self, service, |record| waiting::leave(&record.waiting));
    }

    fn dismiss(&self, service: u32) {
        with_service(self, service, |record| waiting::unsend(&record.waiting));
    }

    fn has_queued(&self, service: u32) -> bool {
        let record = self.tables().service(service);
        record.is_some_and(|record| waiting::queued(&record.waiting) != 0)
    }

    fn set_queue_size(&self, service: u32, size: u32) {
        with_service(self, service, |record| store32(&record.queue_size, size));
    }

    fn clock(&self) -> Duration {
        Books::now(self)
    }

    fn admit(&self, service: u32) -> bool {
        self.tables()
            .service(service)
            .is_none_or(|record| rate::admit(record, now_ns(self)))
    }

    fn failed(&self, service: u32, grant: &Grant) -> Failure {
        breaker::failed(self.tables(), service, grant.backend, now_ns(self))
    }

    fn succeeded(&self, grant: &Grant) -> bool {
        breaker::succeeded(self.tables(), grant.backend)
    }
}

/// A slot on a backend whose breaker is half-open, if it is time to try one.
fn trial<B: Books>(books: &B, record: &Service, service: u32) -> Option<u32> {
    if load(&record.ejected) == 0 {
        return None;
    }
    let now_ns = now_ns(books);
    if !breaker::may_try(record, now_ns) {
        return None;
    }
    breaker::trial(books.tables(), service, now_ns, Side::Agent)
}

fn now_ns<B: Books>(books: &B) -> u64 {
    books.now().as_nanos() as u64
}

fn with_service<B: Books>(books: &B, service: u32, act: impl FnOnce(&Service)) {
    if let Some(record) = books.tables().service(service) {
        act(record);
    }
}

/// All backends of a service.
fn backends<'t, T: Tables>(
    tables: &'t T,
    record: &'t Service,
) -> impl Iterator<Item = &'t Backend> {
    (0..load32(&record.positions)).filter_map(|position| {
        let leaf = tables.leaf(record.leaf(position)?)?;
        tables.backend(leaf.backend(position % LEAF_POSITIONS as u32)?)
    })
}

//! The slots and counts that the agent shares with the programs.
//!
//! The agent takes slots on the words that the kernel counts with, by the same code
//! (`balancer-common`); what it takes stands in its own half of a word. A trait, so that queues
//! can be tested in plain memory.

use std::{net::SocketAddr, time::Duration};

use arrayvec::ArrayVec;
use balancer_common::{
    affinity::{Binding, Bound},
    atomic::{load, load32, store32, swap},
    breaker::{self, Failure},
    maps::MAX_MEMBERSHIPS,
    rate, response, select,
    service::{Backend, LEAF_POSITIONS, Membership, Service, Tables},
    slot::Side,
    waiting,
};

use super::{Reason, choice, identity::Identity, sticky::Member};
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
    /// The backend has become the leader of its service by this.
    pub was_elected: bool,
}

/// Ids of the services that share a backend.
pub type Sharers = ArrayVec<u32, MAX_MEMBERSHIPS>;

/// What queues need of the kernel side. Services are named by their ids.
pub trait Ledger: Send + Sync + 'static {
    /// Which of the services that the id has stood for it stands for now.
    fn generation(&self, service: u32) -> u32;
    /// Takes a slot of the service for a client; `None` if none is free. Backends to be avoided,
    /// by id, are taken only if no other has a slot.
    fn take(&self, service: u32, identity: &Identity, avoid: &[u32]) -> Option<Grant>;
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
    /// The backend has served the service. If it is its new leader and the first thing since the
    /// loss of the one before, says how long ago that was lost.
    fn took_over(&self, service: u32, grant: &Grant) -> Option<Duration>;
    /// A request goes to the backend, and its response is awaited until it is settled.
    fn asked(&self, grant: &Grant);
    /// What was asked has its response, or will never have one.
    fn settled(&self, grant: &Grant);
    /// Takes a response time of the backend into account.
    fn answered(&self, grant: &Grant, after: Duration);
    /// The service's backends.
    fn members(&self, service: u32) -> Vec<Member>;
    /// Whether a backend, by id and generation, is one of them.
    fn is_member(&self, service: u32, backend: (u32, u32)) -> bool;
}

/// Records, bindings and a clock: all that a ledger needs.
pub trait Books: Send + Sync + 'static {
    /// The records.
    type Tables: Tables;
    /// Those records.
    fn tables(&self) -> &Self::Tables;
    /// What a client is bound to, whether or not that has lapsed.
    fn bound(&self, binding: Binding) -> Option<Bound>;
    /// Binds a client.
    fn bind(&self, binding: Binding, bound: Bound);
    /// The clock by which the programs note times.
    fn now(&self) -> Duration;
}

impl Books for Kernel {
    type Tables = crate::kernel::Memory;

    fn tables(&self) -> &Self::Tables {
        self.memory()
    }

    fn bound(&self, binding: Binding) -> Option<Bound> {
        Self::bound(self, binding).unwrap_or_else(|error| {
            tracing::debug!(%error, "a client's binding is not known");
            None
        })
    }

    fn bind(&self, binding: Binding, bound: Bound) {
        if let Err(error) = Self::bind(self, binding, bound) {
            tracing::debug!(%error, "a client is not bound to its backend");
        }
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

    fn take(&self, service: u32, identity: &Identity, avoid: &[u32]) -> Option<Grant> {
        let taken = choice::take(self, service, identity, avoid)?;
        let backend = self.tables().backend(taken.backend)?;
        Some(Grant {
            backend: taken.backend,
            generation: load32(&backend.generation),
            address: address_of(backend),
            was_elected: taken.was_elected,
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

    fn took_over(&self, service: u32, grant: &Grant) -> Option<Duration> {
        let tables = self.tables();
        let record = tables.service(service)?;
        if load(&record.leaderless_since_ns) == 0
            || select::leader_of(tables, service)?.id != grant.backend
        {
            return None;
        }
        let since_ns = swap(&record.leaderless_since_ns, 0);
        let ago_ns = now_ns(self).saturating_sub(since_ns);
        (since_ns != 0).then(|| Duration::from_nanos(ago_ns))
    }

    fn asked(&self, grant: &Grant) {
        if let Some(backend) = self.tables().backend(grant.backend) {
            response::asked(backend, Side::Agent, now_ns(self));
        }
    }

    fn settled(&self, grant: &Grant) {
        if let Some(backend) = self.tables().backend(grant.backend) {
            response::settled(backend, Side::Agent);
        }
    }

    fn answered(&self, grant: &Grant, after: Duration) {
        if let Some(backend) = self.tables().backend(grant.backend) {
            let after_ns = u64::try_from(after.as_nanos()).unwrap_or(u64::MAX);
            response::record(backend, after_ns, now_ns(self));
        }
    }

    fn members(&self, service: u32) -> Vec<Member> {
        let tables = self.tables();
        let Some(record) = tables.service(service) else {
            return Vec::new();
        };
        numbered_backends(tables, record)
            .map(|(id, backend)| Member {
                backend: (id, load32(&backend.generation)),
                address: address_of(backend),
            })
            .collect()
    }

    fn is_member(&self, service: u32, (id, generation): (u32, u32)) -> bool {
        let backend = self.tables().backend(id);
        backend.is_some_and(|backend| {
            load32(&backend.generation) == generation && backend.is_in(service)
        })
    }
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
    numbered_backends(tables, record).map(|(_, backend)| backend)
}

/// The same, with their ids.
fn numbered_backends<'t, T: Tables>(
    tables: &'t T,
    record: &'t Service,
) -> impl Iterator<Item = (u32, &'t Backend)> {
    (0..load32(&record.positions)).filter_map(|position| {
        let leaf = tables.leaf(record.leaf(position)?)?;
        let id = leaf.backend(position % LEAF_POSITIONS as u32)?;
        Some((id, tables.backend(id)?))
    })
}

fn address_of(backend: &Backend) -> SocketAddr {
    let (address, port) = backend.address();
    SocketAddr::new(address.into(), port.into())
}

//! The smallest changes to the maps, and how each is made.
//!
//! Every operation is idempotent and safe under running programs: records are
//! complete before anything refers to them, and referred to by nothing before
//! they go.

use std::{net::SocketAddr, time::Duration};

use balancer_common::{
    address::{Address, FrontendKey, LeadsTo, Port},
    atomic::{fetch_or, load, store, store32},
    index,
    maps::MAX_MEMBERSHIPS,
    service::{Backend, LEAF_POSITIONS, Membership, NONE, STATE_RETIRED, Service, Tables},
};

use super::{assignment::Memberships, near::Circle, settings::RecordSettings};
use crate::{
    kernel::{Kernel, KernelError, Kind, Memory},
    model::ServiceName,
};

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Makes a record for a backend that nothing refers to yet.
    InitBackend {
        id: u32,
        generation: u32,
        address: SocketAddr,
        weight: u32,
        state: u32,
    },
    /// Makes use again of the record of a backend that had left its last service, and of the slots
    /// that are taken on it.
    ReviveBackend { id: u32, weight: u32, state: u32 },
    /// Changes what keeps a backend from being chosen.
    SetState { id: u32, state: u32 },
    /// Changes how many slots may be handed out.
    SetGranted { id: u32, granted: u32 },
    /// Changes the share in weighted strategies.
    SetWeight { id: u32, weight: u32 },
    /// Lets a backend's share grow from next to nothing over a time.
    WarmUp { id: u32, over: Duration },
    /// Makes a record for a service that nothing refers to yet.
    InitService {
        id: u32,
        name: ServiceName,
        generation: u32,
        settings: Box<RecordSettings>,
    },
    /// Changes a service's settings.
    SetSettings {
        id: u32,
        settings: Box<RecordSettings>,
    },
    /// Gives a service 64 more positions, for backends of one circle.
    AddLeaf {
        service: u32,
        number: u32,
        leaf: u32,
        circle: Circle,
    },
    /// Says how many backends a service has and which positions they can be at.
    SetSize {
        service: u32,
        backends: u32,
        positions: u32,
    },
    /// Puts a backend at a position; `memberships` are all its positions then.
    AddMember {
        service: u32,
        position: u32,
        backend: u32,
        memberships: Memberships,
    },
    /// Takes a backend from a position; `memberships` are those that are left.
    RemoveMember {
        service: u32,
        position: u32,
        backend: u32,
        memberships: Memberships,
    },
    /// Lets a frontend lead to a service.
    PutFrontend {
        frontend: SocketAddr,
        leads_to: LeadsTo,
    },
    /// Stops steering a frontend.
    RemoveFrontend { frontend: SocketAddr },
    /// Takes a backend that is in no service any more out of use. Its record
    /// stays until its slots are back.
    RetireBackend { id: u32 },
    /// Ends a service that no frontend leads to any more.
    RetireService { id: u32 },
}

/// What operations are applied to: the kernel, or plain memory in tests.
pub trait Target {
    /// The shared records.
    type Tables: Tables;
    /// Those records.
    fn tables(&self) -> &Self::Tables;
    /// See [`Memory::make_room`].
    fn make_room(&self, kind: Kind, id: u32) -> Result<(), KernelError>;
    /// See [`Kernel::put_frontend`].
    fn put_frontend(&self, frontend: FrontendKey, leads_to: LeadsTo) -> Result<(), KernelError>;
    /// See [`Kernel::remove_frontend`].
    fn remove_frontend(&self, frontend: FrontendKey) -> Result<(), KernelError>;
    /// See [`Kernel::put_name`].
    fn put_name(&self, service: u32, name: &str) -> Result<(), KernelError>;
    /// See [`Kernel::reset_counters`].
    fn reset_counters(&self, service: u32) -> Result<(), KernelError>;
}

impl Target for Kernel {
    type Tables = Memory;

    fn tables(&self) -> &Self::Tables {
        self.memory()
    }

    fn make_room(&self, kind: Kind, id: u32) -> Result<(), KernelError> {
        self.memory().make_room(kind, id)
    }

    fn put_frontend(&self, frontend: FrontendKey, leads_to: LeadsTo) -> Result<(), KernelError> {
        Self::put_frontend(self, frontend, leads_to)
    }

    fn remove_frontend(&self, frontend: FrontendKey) -> Result<(), KernelError> {
        Self::remove_frontend(self, frontend)
    }

    fn put_name(&self, service: u32, name: &str) -> Result<(), KernelError> {
        Self::put_name(self, service, name)
    }

    fn reset_counters(&self, service: u32) -> Result<(), KernelError> {
        Self::reset_counters(self, service)
    }
}

impl Op {
    /// Whether the change puts a strategy in force that goes by a table, or by response times: what
    /// it goes by has to be there first.
    pub(super) fn needs_preparation(&self) -> bool {
        match self {
            Self::InitService { settings, .. } | Self::SetSettings { settings, .. } => {
                settings.needs_table() || settings.is_measured()
            }
            _ => false,
        }
    }

    /// The backend whose place in the indexes it refreshes.
    pub(super) fn refreshes(&self) -> Option<u32> {
        match self {
            Self::SetState { id, .. } | Self::SetGranted { id, .. } => Some(*id),
            Self::AddMember { backend, .. } | Self::RemoveMember { backend, .. } => Some(*backend),
            _ => None,
        }
    }

    /// Makes the change.
    ///
    /// # Errors
    /// Only system calls fail, and those can be tried again; memory cannot.
    pub fn apply<T: Target>(&self, target: &T) -> Result<(), KernelError> {
        let tables = target.tables();
        match self {
            Self::InitBackend {
                id,
                generation,
                address,
                weight,
                state,
            } => {
                target.make_room(Kind::Backend, *id)?;
                if let Some(backend) = tables.backend(*id) {
                    init_backend(backend, *generation, *address);
                    begin_anew(backend, *weight, *state);
                }
            }
            Self::ReviveBackend { id, weight, state } => {
                if let Some(backend) = tables.backend(*id) {
                    begin_anew(backend, *weight, *state);
                }
            }
            Self::SetState { id, state } => {
                if let Some(backend) = tables.backend(*id) {
                    store32(&backend.state, *state);
                    index::refresh(tables, *id);
                }
            }
            Self::SetGranted { id, granted } => {
                if let Some(backend) = tables.backend(*id) {
                    store32(&backend.granted, *granted);
                    index::refresh(tables, *id);
                }
            }
            Self::SetWeight { id, weight } => {
                if let Some(backend) = tables.backend(*id) {
                    store32(&backend.weight, *weight);
                }
            }
            Self::WarmUp { id, over } => {
                if let Some(backend) = tables.backend(*id) {
                    let now_ns = tables.now_ns();
                    store(&backend.cold_at_ns, now_ns);
                    store(&backend.warm_at_ns, now_ns + over.as_nanos() as u64);
                }
            }
            Self::InitService {
                id,
                name,
                generation,
                settings,
            } => {
                target.make_room(Kind::Service, *id)?;
                target.put_name(*id, &name.to_string())?;
                target.reset_counters(*id)?;
                if let Some(service) = tables.service(*id) {
                    init_service(service, *generation);
                    settings.write(service);
                }
            }
            Self::SetSettings { id, settings } => {
                if let Some(service) = tables.service(*id) {
                    settings.write(service);
                }
            }
            Self::AddLeaf {
                service,
                number,
                leaf,
                circle,
            } => {
                target.make_room(Kind::Leaf, *leaf)?;
                add_leaf(tables, *service, *number, *leaf, *circle);
            }
            Self::SetSize {
                service,
                backends,
                positions,
            } => {
                if let Some(service) = tables.service(*service) {
                    store32(&service.backends, *backends);
                    store32(&service.positions, *positions);
                }
            }
            Self::AddMember {
                service,
                position,
                backend,
                memberships,
            } => {
                put_at(tables, *service, *position, *backend + 1);
                set_memberships(tables, *backend, memberships);
                index::refresh(tables, *backend);
            }
            Self::RemoveMember {
                service,
                position,
                backend,
                memberships,
            } => {
                set_memberships(tables, *backend, memberships);
                put_at(tables, *service, *position, NONE);
                if let Some(service) = tables.service(*service) {
                    index::clear(tables, service, *position);
                }
                // Whoever read the list while it shrank may have missed the last of it.
                index::refresh(tables, *backend);
            }
            Self::PutFrontend { frontend, leads_to } => {
                target.put_frontend(FrontendKey::from(*frontend), *leads_to)?;
            }
            Self::RemoveFrontend { frontend } => {
                target.remove_frontend(FrontendKey::from(*frontend))?
            }
            Self::RetireBackend { id } => {
                if let Some(backend) = tables.backend(*id) {
                    store32(&backend.state, STATE_RETIRED);
                    store32(&backend.granted, 0);
                }
            }
            Self::RetireService { id } => {
                if let Some(service) = tables.service(*id) {
                    store32(&service.flags, 0);
                }
            }
        }
        Ok(())
    }
}

fn init_backend(backend: &Backend, generation: u32, address: SocketAddr) {
    let words = Address::from(address.ip()).0;
    for (cell, word) in backend.address.iter().zip(words) {
        store32(cell, word);
    }
    store32(&backend.port, u32::from(Port::from(address.port()).0));
    for word in [
        &backend.awaiting,
        &backend.awaiting_since_ns,
        &backend.steered,
    ] {
        store(word, 0);
    }
    // The slot word is not touched: it is 0, or the id would not be free.
    store32(&backend.generation, generation);
}

/// What was thought of an earlier backend is forgotten; what its connections count stays. Nothing
/// is granted yet, and nothing refers to the record.
fn begin_anew(backend: &Backend, weight: u32, state: u32) {
    for word in [
        &backend.ejected_until_ns,
        &backend.warm_at_ns,
        &backend.cold_at_ns,
        &backend.failing_since_ns,
        &backend.response_time_ns,
        &backend.response_time_at_ns,
    ]
    .into_iter()
    .chain(&backend.memberships)
    {
        store(word, 0);
    }
    store32(&backend.failures, 0);
    store32(&backend.granted, 0);
    store32(&backend.weight, weight);
    store32(&backend.state, state);
}

fn init_service(service: &Service, generation: u32) {
    for leaf in &service.leaves {
        store32(leaf, NONE);
    }
    // `waiting` is not touched: whoever still counts in it counts themselves out.
    for word in [
        &service.summary.idle,
        &service.summary.available,
        &service.rate_full_at_ns,
        &service.ejected,
        &service.trial_at_ns,
        &service.turn,
        &service.leader,
        &service.leaderless_since_ns,
    ]
    .into_iter()
    .chain(&service.near)
    {
        store(word, 0);
    }
    for cell in [&service.positions, &service.backends, &service.trial_cursor] {
        store32(cell, 0);
    }
    store(&service.sent_at_ns, 0);
    store32(&service.generation, generation);
    // The first pick is then position 0.
    store32(&service.cursor, u32::MAX);
}

fn add_leaf<T: Tables>(tables: &T, service: u32, number: u32, leaf_id: u32, circle: Circle) {
    let (Some(service), Some(leaf)) = (tables.service(service), tables.leaf(leaf_id)) else {
        return;
    };
    store(&leaf.index.idle, 0);
    store(&leaf.index.available, 0);
    for cell in &leaf.backends {
        store32(cell, NONE);
    }
    if let Some(cell) = service.leaves.get(number as usize) {
        store32(cell, leaf_id + 1);
    }
    for near in service.near.iter().skip(circle) {
        fetch_or(near, 1 << number);
    }
}

/// Writes what stands at a position: a backend's id plus one, or [`NONE`].
fn put_at<T: Tables>(tables: &T, service: u32, position: u32, id_plus_one: u32) {
    let leaf = tables
        .service(service)
        .and_then(|service| service.leaf(position));
    if let Some(leaf) = leaf.and_then(|id| tables.leaf(id)) {
        store32(
            &leaf.backends[position as usize % LEAF_POSITIONS],
            id_plus_one,
        );
    }
}

/// Writes the list from the front, so that a program reading along sees every
/// membership that stays at least once.
fn set_memberships<T: Tables>(tables: &T, backend: u32, memberships: &[Membership]) {
    let Some(backend) = tables.backend(backend) else {
        return;
    };
    for place in 0..MAX_MEMBERSHIPS {
        let word = memberships.get(place).map_or(0, |membership| membership.0);
        if load(&backend.memberships[place]) != word {
            store(&backend.memberships[place], word);
        }
    }
}

//! From what is wanted and what stands in the maps to the operations between.
//!
//! Pure: no I/O, and the time is an argument. The order is such that after any
//! prefix of the plan every frontend leads to a service with its backends, old
//! or new: first what is added, then the frontends, then what is removed.

mod frontends;
mod members;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    assignment::{AssignedBackend, AssignedService, Assignment, Memberships, Retired},
    ids::GRACE,
    limits::Limits,
    marks::Marking,
    op::Op,
    settings::RecordSettings,
};
use crate::model::{self, Service, ServiceName};

/// How long a service's id rests at least after its end, so that whoever still goes by it hears of
/// the end before it means another.
const SERVICE_GRACE: Duration = Duration::from_secs(1);

/// A service as it should be; `None`: gone.
pub type Change<'a> = (&'a ServiceName, Option<&'a Service>);

/// Why a part of the wanted state has to wait. It is planned again later.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Postponed {
    /// Every service id is in use or resting.
    #[error("service {0} waits: all service ids are in use")]
    ServiceIds(ServiceName),
    /// Every backend id is in use, or its slots are not all back yet.
    #[error(
        "backend {1} of service {0} waits: all backend ids are in use or still hold connections"
    )]
    BackendIds(ServiceName, SocketAddr),
    /// Every leaf is in use or resting.
    #[error("backend {1} of service {0} waits: all leaves are in use")]
    LeafIds(ServiceName, SocketAddr),
    /// Every position of the service, or every membership of the backend, is.
    #[error("backend {1} of service {0} waits: it has no position left")]
    Positions(ServiceName, SocketAddr),
}

impl Postponed {
    /// The service that has to be planned again.
    pub fn service(&self) -> &ServiceName {
        match self {
            Self::ServiceIds(name)
            | Self::BackendIds(name, _)
            | Self::LeafIds(name, _)
            | Self::Positions(name, _) => name,
        }
    }
}

/// Operations that are given out together, at least: those of a whole cluster would take as much
/// memory as all that is known of it.
pub const BATCH: usize = 4_096;

/// Plans changes of services. `held` tells how many slots are taken on a
/// backend id. `take` gets the operations, in order and in batches; it may make them
/// at once.
pub fn plan(
    assignment: &mut Assignment,
    changes: &[Change<'_>],
    now: Instant,
    held: &impl Fn(u32) -> u64,
    take: &mut impl FnMut(&mut Vec<Op>),
) -> Vec<Postponed> {
    let mut planner = Planner {
        assignment,
        now,
        held,
        ops: Vec::new(),
        postponed: Vec::new(),
        fresh: BTreeSet::new(),
    };
    for (name, service) in changes {
        if let Some(service) = service {
            planner.note_limits(name, service);
            planner.hand_out(BATCH, take);
        }
    }
    // Only now: a limit that one service raises may be lowered by the next.
    let services = || changes.iter().filter_map(|(_, service)| *service);
    for service in services() {
        planner.grant(service.backends.iter().map(|backend| backend.address));
        planner.hand_out(BATCH, take);
    }
    for (name, service) in changes {
        if let Some(service) = service {
            planner.add(name, service);
            planner.hand_out(BATCH, take);
        }
    }
    for (name, service) in changes {
        planner.remove(name, *service);
        planner.hand_out(BATCH, take);
    }
    for (name, service) in changes {
        if let Some(service) = service {
            planner.add_members(name, service);
        }
    }
    for (name, service) in changes {
        if let Some(service) = service
            && planner
                .postponed
                .iter()
                .any(|postponed| postponed.service() == *name)
        {
            planner.forget_absent(name, service);
        }
    }
    for service in services() {
        planner.grant(service.backends.iter().map(|backend| backend.address));
    }
    planner.hand_out(0, take);
    planner.postponed
}

/// Puts a mark on a backend, or takes it off. One that can be used again is ready from now on, and
/// warms up if one of its services says so.
pub fn mark(assignment: &mut Assignment, marking: Marking, now: Instant) -> Vec<Op> {
    let before = assignment.marks.state(&marking.address);
    assignment.marks.put(marking);
    let state = assignment.marks.state(&marking.address);
    let Some(backend) = assignment.backends.get_mut(&marking.address) else {
        return Vec::new();
    };
    let id = backend.id;
    let mut ops = Vec::new();
    if before != 0 && state == 0 {
        backend.ready_since = now;
        let services = backend.limits.services();
        let times = services.filter_map(|name| Some(assignment.services.get(name)?.slow_start));
        let over = times.max().unwrap_or_default();
        if !over.is_zero() {
            ops.push(Op::WarmUp { id, over });
        }
    }
    ops.push(Op::SetState { id, state });
    ops
}

/// Frees the ids of retired services for which nobody is on the way or in the queue any more.
fn settle_services(assignment: &mut Assignment, now: Instant, waiting: &impl Fn(u32) -> u64) {
    let retired = std::mem::take(&mut assignment.retired_services);
    for service in retired {
        if now.duration_since(service.since) >= SERVICE_GRACE && waiting(service.id) == 0 {
            assignment.service_ids.free(service.id, now);
        } else {
            assignment.retired_services.push(service);
        }
    }
}

/// Frees the ids of retired backends whose slots are all back, and of retired services; grants those
/// slots to their successors. `waiting` tells how many wait for a slot of a service's id.
pub fn settle(
    assignment: &mut Assignment,
    now: Instant,
    held: &impl Fn(u32) -> u64,
    waiting: &impl Fn(u32) -> u64,
) -> Vec<Op> {
    settle_services(assignment, now, waiting);
    let addresses: Vec<_> = assignment.retired.keys().copied().collect();
    let Assignment {
        retired,
        backend_ids,
        ..
    } = &mut *assignment;
    retired.retain(|_, all| {
        all.retain(|retired| {
            let done = now.duration_since(retired.since) >= GRACE && held(retired.id) == 0;
            if done {
                backend_ids.free(retired.id, now);
            }
            !done
        });
        !all.is_empty()
    });
    let mut planner = Planner {
        assignment,
        now,
        held,
        ops: Vec::new(),
        postponed: Vec::new(),
        fresh: BTreeSet::new(),
    };
    planner.grant(addresses.into_iter());
    planner.ops
}

struct Planner<'a, H> {
    assignment: &'a mut Assignment,
    now: Instant,
    held: &'a H,
    ops: Vec<Op>,
    postponed: Vec<Postponed>,
    /// Services that this plan makes: all their backends are new, and none has to warm up.
    fresh: BTreeSet<u32>,
}

impl<H: Fn(u32) -> u64> Planner<'_, H> {
    /// Gives the operations out if there are at least so many.
    fn hand_out(&mut self, least: usize, take: &mut impl FnMut(&mut Vec<Op>)) {
        if self.ops.len() >= least {
            take(&mut self.ops);
            self.ops.clear();
        }
    }

    /// Makes a record for every new backend, with the limits of all services
    /// that change, and tightens the limits of known ones.
    fn note_limits(&mut self, name: &ServiceName, service: &Service) {
        let limit = service.max_inflight.value;
        for backend in &service.backends {
            match self.assignment.backends.get_mut(&backend.address) {
                Some(assigned) => {
                    assigned.limits.put(name, limit);
                }
                None => self.init_backend(name, backend, limit),
            }
        }
    }

    /// Makes a record for a backend. One that has hardly been gone gets the record that it had, and
    /// may serve at once: whoever still takes a slot there counts.
    fn init_backend(&mut self, name: &ServiceName, backend: &model::Backend, limit: u32) {
        let address = backend.address;
        let state = self.assignment.marks.state(&address);
        let id = if let Some(retired) = self.assignment.revive(&address, self.now) {
            let (id, weight) = (retired.id, backend.weight);
            self.ops.push(Op::ReviveBackend { id, weight, state });
            id
        } else {
            let Some(id) = self.assignment.backend_ids.take(self.now) else {
                self.postponed
                    .push(Postponed::BackendIds(name.clone(), address));
                return;
            };
            self.assignment.last_generation += 1;
            self.ops.push(Op::InitBackend {
                id,
                generation: self.assignment.last_generation,
                address,
                weight: backend.weight,
                state,
            });
            id
        };
        let mut assigned = Box::new(AssignedBackend {
            id,
            granted: 0,
            weight: backend.weight,
            ready_since: self.now,
            limits: Limits::default(),
            memberships: Memberships::new(),
        });
        assigned.limits.put(name, limit);
        self.assignment.backends.insert(address, assigned);
    }

    /// Brings `granted` of these backends up to date.
    fn grant(&mut self, addresses: impl Iterator<Item = SocketAddr>) {
        for address in addresses {
            let granted = self.assignment.granted(&address, self.held);
            if let Some(assigned) = self.assignment.backends.get_mut(&address)
                && assigned.granted != granted
            {
                assigned.granted = granted;
                self.ops.push(Op::SetGranted {
                    id: assigned.id,
                    granted,
                });
            }
        }
    }

    /// Adds what is new, and points the frontends to it.
    fn add(&mut self, name: &ServiceName, service: &Service) {
        let in_force = self.assignment.in_force.get(name).copied();
        let settings = RecordSettings::of(service, in_force);
        if let Some(assigned) = self.assignment.services.get_mut(name) {
            if assigned.settings != settings || std::mem::take(&mut assigned.is_restored) {
                assigned.settings = settings;
                let (id, settings) = (assigned.id, Box::new(settings));
                self.ops.push(Op::SetSettings { id, settings });
            }
        } else {
            let Some(id) = self.assignment.service_ids.take(self.now) else {
                self.postponed.push(Postponed::ServiceIds(name.clone()));
                return;
            };
            self.assignment
                .services
                .insert(name.clone(), AssignedService::new(id, settings).into());
            self.assignment.names.insert(id, name.clone());
            self.fresh.insert(id);
            self.assignment.last_generation += 1;
            self.ops.push(Op::InitService {
                id,
                name: name.clone(),
                generation: self.assignment.last_generation,
                settings: Box::new(settings),
            });
        }
        self.add_members(name, service);
        self.move_members(name, service);
        let Some(assigned) = self.assignment.services.get_mut(name) else {
            return;
        };
        assigned.slow_start = service.starts_slowly();
        match settings.is_measured() {
            true => self.assignment.measured.insert(assigned.id),
            false => self.assignment.measured.remove(&assigned.id),
        };
        self.add_frontends(name, service);
    }

    /// Lets go of backends that found no place in the service, until it is
    /// planned again.
    fn forget_absent(&mut self, name: &ServiceName, service: &Service) {
        for backend in &service.backends {
            let assigned = self.assignment.services.get(name);
            if assigned.is_some_and(|assigned| assigned.members.contains_key(&backend.address)) {
                continue;
            }
            if let Some(absent) = self.assignment.backends.get_mut(&backend.address) {
                absent.limits.remove(name);
                if absent.is_in_no_service() {
                    self.retire_backend(backend.address);
                }
            }
        }
    }

    fn set_weight(&mut self, wanted: &model::Backend) {
        if let Some(backend) = self.assignment.backends.get_mut(&wanted.address)
            && backend.weight != wanted.weight
        {
            backend.weight = wanted.weight;
            self.ops.push(Op::SetWeight {
                id: backend.id,
                weight: wanted.weight,
            });
        }
    }

    fn set_size(&mut self, name: &ServiceName) {
        if let Some(assigned) = self.assignment.services.get(name) {
            self.ops.push(Op::SetSize {
                service: assigned.id,
                backends: assigned.members.len() as u32,
                positions: assigned.positions.high_water(),
            });
        }
    }

    /// Removes what is not wanted any more.
    fn remove(&mut self, name: &ServiceName, wanted: Option<&Service>) {
        self.remove_frontends(name, wanted);
        let Some(assigned) = self.assignment.services.get_mut(name) else {
            return;
        };
        let here = &self.assignment.here;
        let keep: BTreeMap<_, _> = wanted
            .map(|s| {
                let backends = s.backends.iter();
                backends
                    .map(|backend| (backend.address, here.circle(backend, s.prefers())))
                    .collect()
            })
            .unwrap_or_default();
        let unwanted: Vec<_> = assigned
            .members
            .keys()
            .copied()
            .filter(|address| !keep.contains_key(address))
            .collect();
        // A service that is full gives up one position at a time to those that
        // wait for one, so that it is never without backends.
        let mut waiting: Vec<_> = keep
            .into_iter()
            .filter(|(address, _)| !assigned.members.contains_key(address))
            .collect();
        let removed = !unwanted.is_empty();
        for address in unwanted {
            self.remove_member(name, address);
            if let Some((next, circle)) = waiting.pop() {
                // What finds no position now is planned once more after all removals.
                let _ = self.add_member(name, next, circle, true);
            }
        }
        if removed {
            self.set_size(name);
        }
        if wanted.is_none() {
            self.retire_service(name);
        }
    }

    fn retire_backend(&mut self, address: SocketAddr) {
        if let Some(backend) = self.assignment.backends.remove(&address) {
            self.ops.push(Op::RetireBackend { id: backend.id });
            let retired = Retired {
                id: backend.id,
                since: self.now,
            };
            self.assignment
                .retired
                .entry(address)
                .or_default()
                .push(retired);
        }
    }

    fn retire_service(&mut self, name: &ServiceName) {
        if let Some(assigned) = self.assignment.services.remove(name) {
            self.assignment.names.remove(&assigned.id);
            self.assignment.measured.remove(&assigned.id);
            self.assignment.in_force.remove(name);
            self.ops.push(Op::RetireService { id: assigned.id });
            let retired = Retired {
                id: assigned.id,
                since: self.now,
            };
            self.assignment.retired_services.push(retired);
            for leaf in assigned.leaves.into_values() {
                self.assignment.leaf_ids.free(leaf, self.now);
            }
        }
    }
}

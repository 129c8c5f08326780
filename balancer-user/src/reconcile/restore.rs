//! What an earlier agent has left in the maps, as the planner would remember it.
//!
//! Pure. Whatever moment the earlier one was killed at, the maps hold a prefix of a plan; what such
//! a prefix leaves open is either planned again or repaired by the operations given out. Called
//! once, before the first plan.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, btree_map::Entry},
    net::SocketAddr,
    time::Instant,
};

use balancer_common::{
    address::LeadsTo,
    atomic::{load, load32},
    maps::{MAX_BACKENDS, MAX_LEAVES, MAX_SERVICES},
    service::{
        Backend, LEAF_POSITIONS, Membership, SERVICE_PRESENT, STATE_DRAINING, STATE_UNHEALTHY,
        Service, Tables,
    },
};

use super::{
    assignment::{AssignedBackend, AssignedService, Assignment, Intercepted, Memberships, Retired},
    ids::Pool,
    limits::Limits,
    marks::{Mark, Marking},
    near::{Circle, FAR, Here},
    op::Op,
    positions::Positions,
    settings::RecordSettings,
};
use crate::model::{self, ServiceName};

/// What lies in the maps.
pub(super) struct Found<'a, T> {
    /// Every record that there can be.
    pub(super) tables: &'a T,
    /// What services' ids stand for.
    pub(super) names: HashMap<u32, ServiceName>,
    /// Every frontend and where it leads.
    pub(super) frontends: Vec<(SocketAddr, LeadsTo)>,
}

impl<T: Tables> Found<'_, T> {
    /// The planner's memory, and what has to be done before anything is planned.
    pub(super) fn restore(self, here: Here, now: Instant) -> (Assignment, Vec<Op>) {
        let mut restored = Restored {
            tables: self.tables,
            assignment: Assignment {
                here,
                ..Assignment::new()
            },
            ops: Vec::new(),
            members: BTreeMap::new(),
            redundant: Vec::new(),
            leaves: BTreeSet::new(),
            now,
        };
        restored.services(&self.names);
        restored.backends();
        restored.leave_redundant();
        restored.lead(&self.frontends);
        restored.number();
        (restored.assignment, restored.ops)
    }
}

struct Restored<'a, T> {
    tables: &'a T,
    assignment: Assignment,
    ops: Vec<Op>,
    /// By backend id: where it stands.
    members: BTreeMap<u32, Memberships>,
    /// By backend id: where it stands, but need not.
    redundant: Vec<(u32, Membership)>,
    /// Leaf ids in use.
    leaves: BTreeSet<u32>,
    now: Instant,
}

impl<T: Tables> Restored<'_, T> {
    fn services(&mut self, names: &HashMap<u32, ServiceName>) {
        for id in 0..MAX_SERVICES {
            let Some(record) = self.tables.service(id) else {
                continue;
            };
            let generation = load32(&record.generation);
            self.assignment.last_generation = self.assignment.last_generation.max(generation);
            let is_present = load32(&record.flags) & SERVICE_PRESENT != 0;
            match names.get(&id).filter(|_| is_present) {
                Some(name) if !self.assignment.services.contains_key(name) => {
                    self.service(id, name, record);
                }
                _ if generation != 0 => {
                    if is_present {
                        self.ops.push(Op::RetireService { id });
                    }
                    let since = self.now;
                    let retired = Retired { id, since };
                    self.assignment.retired_services.push(retired);
                }
                _ => {}
            }
        }
    }

    fn service(&mut self, id: u32, name: &ServiceName, record: &Service) {
        let unknown = RecordSettings::of(&model::Service::named(name.clone()), None);
        let mut service = AssignedService::new(id, unknown);
        service.is_restored = true;
        let mut used = BTreeSet::new();
        let mut circles = BTreeMap::new();
        for number in 0..record.leaves.len() as u32 {
            let first = number * LEAF_POSITIONS as u32;
            let leaf_id = record.leaf(first);
            let Some((leaf_id, leaf)) = leaf_id.and_then(|id| Some((id, self.tables.leaf(id)?)))
            else {
                continue;
            };
            service.leaves.insert(number, leaf_id);
            self.leaves.insert(leaf_id);
            circles.insert(number, circle(record, number));
            for position in first..first + LEAF_POSITIONS as u32 {
                let backend = leaf.backend(position);
                let record = backend.and_then(|id| Some((id, self.tables.backend(id)?)));
                let Some((backend, record)) = record else {
                    continue;
                };
                let membership = Membership::new(id, position);
                match service.members.entry(address(record)) {
                    Entry::Vacant(free) => {
                        free.insert(position);
                        used.insert(position);
                        self.members.entry(backend).or_default().push(membership);
                    }
                    // It was about to move.
                    Entry::Occupied(_) => self.redundant.push((backend, membership)),
                }
            }
        }
        service.positions = Positions::restore(&circles, &used, self.now);
        self.ops.push(Op::SetSize {
            service: id,
            backends: service.members.len() as u32,
            positions: service.positions.high_water(),
        });
        self.assignment.names.insert(id, name.clone());
        self.assignment
            .services
            .insert(name.clone(), service.into());
    }

    fn backends(&mut self) {
        for id in 0..MAX_BACKENDS {
            let Some(record) = self.tables.backend(id) else {
                continue;
            };
            let generation = load32(&record.generation);
            self.assignment.last_generation = self.assignment.last_generation.max(generation);
            match self.members.remove(&id) {
                Some(memberships) => self.backend(id, record, memberships),
                // Whatever it holds counts on; the id rests at least.
                None if generation != 0 => {
                    let since = self.now;
                    let retired = self.assignment.retired.entry(address(record)).or_default();
                    retired.push(Retired { id, since });
                }
                None => {}
            }
        }
    }

    fn backend(&mut self, id: u32, record: &Backend, memberships: Memberships) {
        let address = address(record);
        let state = load32(&record.state);
        for (bit, mark) in [
            (STATE_UNHEALTHY, Mark::Unhealthy),
            (STATE_DRAINING, Mark::Draining),
        ] {
            if state & bit != 0 {
                self.assignment.marks.put(Marking {
                    address,
                    mark,
                    is_set: true,
                });
            }
        }
        if let Some((service, position)) = memberships.first().and_then(|it| it.parts()) {
            // As it is, unless the list in the record was not written any more.
            self.ops.push(Op::AddMember {
                service,
                position,
                backend: id,
                memberships: memberships.clone(),
            });
        }
        let backend = AssignedBackend {
            id,
            granted: load32(&record.granted),
            weight: load32(&record.weight),
            ready_since: self.now,
            // The first plan notes those that are wanted.
            limits: Limits::default(),
            memberships,
        };
        self.assignment.backends.insert(address, backend.into());
    }

    fn leave_redundant(&mut self) {
        for (backend, membership) in std::mem::take(&mut self.redundant) {
            let stays = self.tables.backend(backend).and_then(|record| {
                let assigned = self.assignment.backends.get(&address(record))?;
                (assigned.id == backend).then(|| assigned.memberships.clone())
            });
            if let Some((service, position)) = membership.parts() {
                self.ops.push(Op::RemoveMember {
                    service,
                    position,
                    backend,
                    memberships: stays.unwrap_or_default(),
                });
            }
        }
    }

    fn lead(&mut self, frontends: &[(SocketAddr, LeadsTo)]) {
        for (frontend, leads_to) in frontends {
            let name = self.assignment.names.get(&leads_to.id());
            let service = name.and_then(|name| self.assignment.services.get_mut(name));
            let (Some(name), Some(service)) = (name, service) else {
                let frontend = *frontend;
                self.ops.push(Op::RemoveFrontend { frontend });
                continue;
            };
            if leads_to.is_of_backend() {
                service.intercepted.insert(*frontend);
                let intercepted = Intercepted {
                    by: BTreeSet::from([name.clone()]),
                    leads_to: Some(*leads_to),
                };
                self.assignment.intercepted.insert(*frontend, intercepted);
            } else {
                service.frontends.push(*frontend);
                self.assignment.frontends.insert(*frontend, service.id);
            }
        }
    }

    /// Every number that nothing stands under is free, after a rest.
    fn number(&mut self) {
        let assignment = &mut self.assignment;
        let services = assignment.services.values().map(|service| service.id);
        let retired = assignment.retired_services.iter().map(|retired| retired.id);
        let services = services.chain(retired).collect();
        let backends = assignment.backends.values().map(|backend| backend.id);
        let retired = assignment.retired.values().flatten();
        let backends = backends.chain(retired.map(|it| it.id)).collect();
        assignment.service_ids = Pool::restore(MAX_SERVICES, &services, self.now);
        assignment.backend_ids = Pool::restore(MAX_BACKENDS, &backends, self.now);
        assignment.leaf_ids = Pool::restore(MAX_LEAVES, &self.leaves, self.now);
    }
}

/// The circle that a leaf belongs to.
fn circle(record: &Service, number: u32) -> Circle {
    let is_in = |near| load(near) >> number & 1 == 1;
    record.near.iter().position(is_in).unwrap_or(FAR)
}

fn address(record: &Backend) -> SocketAddr {
    let (address, port) = record.address();
    SocketAddr::new(address.into(), port.into())
}

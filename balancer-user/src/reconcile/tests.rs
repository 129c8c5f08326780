//! Plans applied to plain memory, looked at after every single operation.

mod intercept;
mod restart;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use balancer_common::{
    address::{FrontendKey, LeadsTo},
    atomic::{load, load32, store, store32},
    plain::Plain,
    select::{self, Taken},
    service::{SERVICE_PRESENT, Tables},
    slot::Side,
};
use proptest::prelude::*;

use super::{
    assignment::{Assignment, UNLIMITED},
    ids::GRACE,
    marks::{Mark, Marking},
    near::Here,
    op::{Op, Target},
    plan::{Postponed, mark, plan, settle},
};
use crate::{
    kernel::{KernelError, Kind},
    model::{Backend, DesiredState, Intercept, Locality, Service, ServiceName, Setting},
};

/// Memory in place of the kernel, with a planner on it.
struct Ground {
    tables: Plain,
    frontends: RefCell<BTreeMap<SocketAddr, LeadsTo>>,
    names: RefCell<BTreeMap<u32, String>>,
    assignment: Assignment,
    desired: DesiredState,
    now: Instant,
}

impl Target for Ground {
    type Tables = Plain;

    fn tables(&self) -> &Plain {
        &self.tables
    }

    fn make_room(&self, _: Kind, _: u32) -> Result<(), KernelError> {
        Ok(())
    }

    fn put_frontend(&self, frontend: FrontendKey, leads_to: LeadsTo) -> Result<(), KernelError> {
        self.frontends
            .borrow_mut()
            .insert(frontend.socket_addr(), leads_to);
        Ok(())
    }

    fn remove_frontend(&self, frontend: FrontendKey) -> Result<(), KernelError> {
        self.frontends.borrow_mut().remove(&frontend.socket_addr());
        Ok(())
    }

    fn put_name(&self, service: u32, name: &str) -> Result<(), KernelError> {
        self.names.borrow_mut().insert(service, name.to_owned());
        Ok(())
    }

    fn reset_counters(&self, _: u32) -> Result<(), KernelError> {
        Ok(())
    }
}

impl Ground {
    fn new() -> Self {
        Self {
            tables: Plain::new(64, 256, 20_000),
            frontends: RefCell::default(),
            names: RefCell::default(),
            assignment: Assignment {
                here: Here {
                    node: Some("n0".into()),
                    zone: Some("z0".into()),
                },
                ..Assignment::new()
            },
            desired: DesiredState::default(),
            now: Instant::now(),
        }
    }

    fn held(&self) -> impl Fn(u32) -> u64 + use<> {
        let counts: Vec<_> = (0..self.assignment.backend_high_water())
            .map(|id| self.inflight(id))
            .collect();
        move |id| counts.get(id as usize).copied().unwrap_or(0)
    }

    fn inflight(&self, id: u32) -> u64 {
        self.tables.backend(id).unwrap().inflight()
    }

    /// Moves to a new state, checking after every operation that frontends which
    /// both states have lead to a service that can serve.
    fn advance(&mut self, desired: DesiredState) -> Vec<Postponed> {
        let old = std::mem::replace(&mut self.desired, desired);
        let names = self.desired.since(&old);
        let names: BTreeSet<_> = names.map(|difference| difference.name.clone()).collect();
        let desired = self.desired.clone();
        let changes: Vec<_> = names
            .iter()
            .map(|name| (name, desired.service(name)))
            .collect();
        let mut ops = Vec::new();
        let mut take = |batch: &mut Vec<Op>| ops.append(batch);
        let held = self.held();
        let postponed = plan(&mut self.assignment, &changes, self.now, &held, &mut take);
        let stable = frontends_with_backends(&old);
        let stable: Vec<_> = frontends_with_backends(&self.desired)
            .into_iter()
            .filter(|f| stable.contains(f))
            .collect();
        for op in &ops {
            op.apply(self).unwrap();
            op.apply(self).unwrap();
            for frontend in &stable {
                self.assert_leads_somewhere(frontend);
            }
        }
        postponed
    }

    /// Lets time pass, as the reconciler's ticks do.
    fn pass(&mut self, time: Duration) {
        self.now += time;
        let held = self.held();
        for op in settle(&mut self.assignment, self.now, &held, &|_| 0) {
            op.apply(self).unwrap();
        }
    }

    fn assert_leads_somewhere(&self, frontend: &SocketAddr) {
        let leads_to = *self
            .frontends
            .borrow()
            .get(frontend)
            .unwrap_or_else(|| panic!("{frontend} leads nowhere"));
        let service = self.tables.service(leads_to.id()).unwrap();
        assert_ne!(
            load32(&service.flags) & SERVICE_PRESENT,
            0,
            "{frontend} leads to no service"
        );
        let standing = (0..service.leaves.len() as u32 * 64)
            .filter_map(|position| Some((service.leaf(position)?, position)))
            .filter_map(|(leaf, position)| self.tables.leaf(leaf)?.backend(position))
            .count();
        assert!(
            standing > 0,
            "{frontend} leads to a service without backends"
        );
    }

    /// Asserts that the maps are exactly what is desired.
    fn assert_exact(&self) {
        let mut frontends = BTreeMap::new();
        // The first by name comes last, and stays.
        for service in self.desired.services.values().rev() {
            let id = self.assignment.services[&service.name].id;
            let own = service.intercepted();
            frontends.extend(own.map(|address| (address, LeadsTo::service_of_backend(id))));
        }
        for service in self.desired.services.values() {
            let id = self.assignment.services[&service.name].id;
            let asked_for = service.frontends.iter();
            frontends.extend(asked_for.map(|frontend| (*frontend, LeadsTo::service(id))));
        }
        assert_eq!(*self.frontends.borrow(), frontends);
        assert_eq!(self.assignment.services.len(), self.desired.services.len());
        assert_eq!(
            self.assignment
                .backends
                .keys()
                .copied()
                .collect::<BTreeSet<_>>(),
            self.desired.backend_addresses()
        );
        for (address, limit) in self.desired.backend_limits() {
            let retired = self.assignment.retired.get(&address).into_iter().flatten();
            let held: u64 = retired.map(|retired| self.inflight(retired.id)).sum();
            let expected = match limit {
                0 => UNLIMITED,
                limit => u64::from(limit).saturating_sub(held) as u32,
            };
            let id = self.assignment.backends[&address].id;
            let backend = self.tables.backend(id).unwrap();
            assert_eq!(load32(&backend.granted), expected, "granted of {address}");
            assert_eq!(
                FrontendKey::tcp(backend.address().0, backend.address().1).socket_addr(),
                address
            );
        }
        for service in self.desired.services.values() {
            self.assert_members(service);
        }
    }

    fn assert_members(&self, service: &Service) {
        let assigned = &self.assignment.services[&service.name];
        let record = self.tables.service(assigned.id).unwrap();
        assert_eq!(load32(&record.backends) as usize, service.backends.len());
        let mut seen = BTreeSet::new();
        for position in 0..load32(&record.positions) {
            let Some(leaf) = record.leaf(position).and_then(|id| self.tables.leaf(id)) else {
                continue;
            };
            let Some(id) = leaf.backend(position) else {
                continue;
            };
            let backend = self.tables.backend(id).unwrap();
            seen.insert(FrontendKey::tcp(backend.address().0, backend.address().1).socket_addr());
            let open =
                backend.is_usable() && backend.inflight() < u64::from(load32(&backend.granted));
            let circle = here(service, &self.assignment.here, &self.assignment, id);
            if let Some(circle) = circle {
                for (number, near) in record.near.iter().enumerate() {
                    let is_near = balancer_common::atomic::load(near) >> (position / 64) & 1 == 1;
                    assert_eq!(is_near, circle <= number, "position {position}");
                }
            }
            let bit = |word| balancer_common::atomic::load(word) >> (position % 64) & 1 == 1;
            assert_eq!(bit(&leaf.index.available), open);
            assert_eq!(bit(&leaf.index.idle), open && backend.inflight() == 0);
        }
        assert_eq!(
            seen,
            service
                .backends
                .iter()
                .map(|b| b.address)
                .collect::<BTreeSet<_>>()
        );
    }

    fn take(&self, name: &str) -> Option<Taken> {
        let id = self.assignment.service(&name.parse().unwrap())?.id;
        select::choose(&self.tables, id, 0, Side::Kernel).ok()
    }

    /// Of each of the first services a slot, where there is one.
    fn take_of_first(&self, services: usize) -> Vec<u32> {
        let taken = (0..services).filter_map(|number| self.take(&format!("s{number}")));
        taken.map(|taken| taken.backend).collect()
    }

    /// After that nothing may be left of what is gone.
    fn give_all_back(&mut self, held: Vec<u32>) {
        for id in held {
            select::give_back(&self.tables, id, Side::Kernel).unwrap();
        }
        self.pass(GRACE);
        self.assert_exact();
        assert!(self.assignment.retired.is_empty());
    }
}

/// The circle in which a service's backend should stand; `None` if circles mean nothing.
fn here(service: &Service, here: &Here, assignment: &Assignment, id: u32) -> Option<usize> {
    let locality = service.prefers();
    let backend = service
        .backends
        .iter()
        .find(|backend| assignment.backends[&backend.address].id == id)?;
    (locality != Locality::None).then(|| here.circle(backend, locality))
}

fn frontends_with_backends(state: &DesiredState) -> BTreeSet<SocketAddr> {
    let services = state
        .services
        .values()
        .filter(|service| !service.backends.is_empty());
    services
        .flat_map(|service| {
            service
                .intercepted()
                .chain(service.frontends.iter().copied())
        })
        .collect()
}

fn frontend(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 96, 0, number], 80))
}

fn backend(number: u16) -> Backend {
    let [high, low] = number.to_be_bytes();
    Backend {
        node: Some(format!("n{}", number % 4).into()),
        zone: Some(format!("z{}", number % 2).into()),
        ..Backend::at(SocketAddr::from(([10, 1, high, low], 8080)))
    }
}

fn service(
    name: &str,
    frontends: &[u8],
    max_inflight: u32,
    backends: impl IntoIterator<Item = u16>,
) -> Service {
    Service {
        max_inflight: Setting::built_in(max_inflight),
        frontends: frontends.iter().copied().map(frontend).collect(),
        backends: backends.into_iter().map(backend).collect(),
        ..Service::named(name.parse().unwrap())
    }
}

fn state(services: impl IntoIterator<Item = Service>) -> DesiredState {
    DesiredState {
        services: services
            .into_iter()
            .map(|service| (service.name.clone(), service))
            .collect(),
    }
}

/// Up to four services; frontends are owned by at most one of them.
fn states() -> impl Strategy<Value = Vec<DesiredState>> {
    let owners = prop::collection::vec(0..5usize, 6);
    let members = prop::collection::vec(prop::collection::btree_set(0..12u16, 0..10), 4);
    let limits = prop::collection::vec(0..4u32, 4);
    let localities = prop::collection::vec(0..Locality::ALL.len(), 4);
    let intercepts = prop::collection::vec(0..Intercept::ALL.len(), 4);
    let one = (owners, members, limits, localities, intercepts).prop_map(
        |(owners, members, limits, localities, intercepts)| {
            let services = (0..4).filter_map(|number| {
                let owned: Vec<_> = (0..6u8)
                    .filter(|frontend| owners[usize::from(*frontend)] == number)
                    .collect();
                let backends = members[number].iter().copied();
                let intercept = Intercept::ALL[intercepts[number]];
                let is_reachable = !owned.is_empty() || intercept == Intercept::Pods;
                is_reachable.then(|| Service {
                    locality: Setting::built_in(Locality::ALL[localities[number]]),
                    intercept: Setting::built_in(intercept),
                    ..service(&format!("s{number}"), &owned, limits[number], backends)
                })
            });
            state(services)
        },
    );
    prop::collection::vec(one, 1..12)
}

proptest! {
    #[test]
    fn any_sequence_of_states_ends_exactly_there(
        states in states(),
        waits in prop::collection::vec(any::<bool>(), 12),
        holds in prop::collection::vec(0..4usize, 12),
    ) {
        let mut ground = Ground::new();
        let mut held = Vec::new();
        for (step, desired) in states.into_iter().enumerate() {
            prop_assert_eq!(ground.advance(desired), []);
            held.extend(ground.take_of_first(holds[step]));
            if waits[step] {
                ground.pass(GRACE);
                ground.assert_exact();
            }
        }
        ground.pass(GRACE);
        ground.assert_exact();
        ground.give_all_back(held);
    }
}

#[test]
fn a_re_added_backend_inherits_no_count_and_stays_within_its_limit() {
    let mut ground = Ground::new();
    let with = state([service("s", &[1], 3, [1])]);
    ground.advance(with.clone());
    let [old, also_old] = [(); 2].map(|()| ground.take("s").unwrap().backend);
    assert_eq!(old, also_old);
    ground.advance(state([service("s", &[1], 3, [])]));
    ground.pass(GRACE);
    ground.advance(with);
    ground.assert_exact();

    let new = ground
        .take("s")
        .expect("one of three slots is not held by the earlier backend")
        .backend;
    assert_ne!(new, old);
    assert_eq!((ground.inflight(new), ground.inflight(old)), (1, 2));
    assert!(ground.take("s").is_none(), "the pod would see four");

    select::give_back(&ground.tables, old, Side::Kernel).unwrap();
    ground.pass(Duration::ZERO);
    assert!(ground.take("s").is_some());
    assert!(ground.take("s").is_none());
}

#[test]
fn right_after_removal_the_backend_goes_on_with_its_count() {
    let mut ground = Ground::new();
    let with = state([service("s", &[1], 2, [1])]);
    ground.advance(with.clone());
    let held = ground.take("s").unwrap().backend;
    ground.advance(state([service("s", &[1], 2, [])]));
    assert!(ground.take("s").is_none(), "nobody is left to serve");
    ground.advance(with);
    ground.assert_exact();
    assert_eq!(ground.take("s").map(|taken| taken.backend), Some(held));
    assert!(ground.take("s").is_none(), "the pod would see three");
    select::give_back(&ground.tables, held, Side::Kernel).unwrap();
    assert!(ground.take("s").is_some());
}

#[test]
fn a_backend_that_returns_serves_at_once_whatever_was_thought_of_it() {
    let mut ground = Ground::new();
    let with = state([service("s", &[1], 1, [1])]);
    ground.advance(with.clone());
    let id = ground.assignment.backends[&backend(1).address].id;
    let record = ground.tables.backend(id).unwrap();
    store32(&record.failures, 5);
    store(&record.ejected_until_ns, u64::MAX);
    store(&record.response_time_ns, 1_000_000);
    ground.advance(state([service("s", &[1], 1, [])]));
    ground.advance(with);
    assert_eq!(ground.take("s").map(|taken| taken.backend), Some(id));
    let record = ground.tables.backend(id).unwrap();
    assert_eq!(
        (load32(&record.failures), load(&record.response_time_ns)),
        (0, 0)
    );
    assert!(ground.take("s").is_none());
}

#[test]
fn an_id_is_not_used_again_while_its_slots_are_held() {
    let mut ground = Ground::new();
    ground.advance(state([service("s", &[1], 0, [1])]));
    let held = ground.take("s").unwrap().backend;
    for round in 0..20 {
        ground.advance(state([service("s", &[1], 0, [2 + round])]));
        ground.pass(GRACE);
        let taken = ground.take("s").unwrap().backend;
        assert_ne!(taken, held);
        select::give_back(&ground.tables, taken, Side::Kernel).unwrap();
        ground.pass(GRACE);
    }
    assert!(
        ground.assignment.backend_high_water() <= 4,
        "ids are used again otherwise"
    );
}

#[test]
fn a_full_service_is_replaced_whole_without_a_gap() {
    let mut ground = Ground::new();
    ground.advance(state([service("s", &[1], 1, 0..4096)]));
    ground.assert_exact();
    // `advance` looks after every operation, which would take long for a whole
    // service of this size; a few hundred show the same.
    let postponed = ground.advance(state([service("s", &[1], 1, (0..3900).chain(5000..5196))]));
    assert_eq!(postponed, []);
    ground.assert_exact();
}

#[test]
fn a_backend_moves_between_services_though_it_is_in_as_many_as_it_can_be() {
    let mut ground = Ground::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let all_but = |left_out: &str| {
        state(
            names
                .iter()
                .zip(1..)
                .filter(|(name, _)| **name != left_out)
                .map(|(name, number)| service(name, &[number], 0, [1])),
        )
    };
    assert_eq!(ground.advance(all_but("i")), []);
    assert_eq!(ground.advance(all_but("a")), []);
    ground.assert_exact();
}

#[test]
fn what_finds_no_place_is_let_go_and_leaves_nothing_behind() {
    let mut ground = Ground::new();
    let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
    let nine = names
        .iter()
        .zip(1..)
        .map(|(name, number)| service(name, &[number], 1, [1]));
    let postponed = ground.advance(state(nine));
    assert_eq!(
        postponed.len(),
        1,
        "a backend is in at most eight services: {postponed:?}"
    );
    ground.advance(state([]));
    ground.pass(GRACE);
    assert!(ground.assignment.backends.is_empty());
    assert!(ground.assignment.retired.is_empty());
    ground.assert_exact();
}

#[test]
fn limits_that_services_swap_are_never_both_raised() {
    let mut ground = Ground::new();
    let with = |a, b| state([service("a", &[1], a, [1]), service("b", &[2], b, [1])]);
    ground.advance(with(1, 5));
    let id = ground.assignment.backends[&backend(1).address].id;
    let desired = with(5, 1);
    let names: Vec<_> = desired.services.keys().cloned().collect();
    let changes: Vec<_> = names
        .iter()
        .map(|name| (name, desired.service(name)))
        .collect();
    let mut ops = Vec::new();
    let mut take = |batch: &mut Vec<Op>| ops.append(batch);
    let held = ground.held();
    plan(
        &mut ground.assignment,
        &changes,
        ground.now,
        &held,
        &mut take,
    );
    for op in &ops {
        op.apply(&ground).unwrap();
        assert_eq!(
            load32(&ground.tables.backend(id).unwrap().granted),
            1,
            "after {op:?}"
        );
    }
}

#[test]
fn who_joins_a_running_service_or_is_well_again_warms_up() {
    let mut ground = Ground::new();
    let slow = |backends: &[u16]| {
        state([Service {
            slow_start: Setting::built_in(Duration::from_secs(30)),
            ..service("s", &[1], 1, backends.iter().copied())
        }])
    };
    let warm_at = |ground: &Ground, number: u16| {
        let id = ground.assignment.backends[&backend(number).address].id;
        let backend = ground.tables.backend(id).unwrap();
        balancer_common::atomic::load(&backend.warm_at_ns)
    };
    ground.tables.set_now(1_000);
    ground.advance(slow(&[1]));
    assert_eq!(warm_at(&ground, 1), 0, "all are new: none warms up");
    ground.advance(slow(&[1, 2]));
    assert_eq!(warm_at(&ground, 2), 30_000_001_000);
    let marking = |is_set| Marking {
        address: backend(1).address,
        mark: Mark::Unhealthy,
        is_set,
    };
    let now = ground.now + Duration::from_secs(1);
    let id = ground.assignment.backends[&backend(1).address].id;
    let ops = mark(&mut ground.assignment, marking(true), now);
    assert_eq!(ops.len(), 1, "{ops:?}");
    assert_ne!(
        ground.assignment.backends[&backend(1).address].ready_since,
        now
    );
    let ops = mark(&mut ground.assignment, marking(false), now);
    let over = Duration::from_secs(30);
    assert_eq!(
        ops,
        [Op::WarmUp { id, over }, Op::SetState { id, state: 0 }]
    );
    assert_eq!(
        ground.assignment.backends[&backend(1).address].ready_since,
        now
    );
}

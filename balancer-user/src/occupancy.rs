//! How busy backends and services are, read from the words that the programs count with.
//!
//! Owns the words for a backend's state. Reads shared memory only: every call looks anew and
//! nothing is kept. Called by `admin` and `metrics`, which thereby always say the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use balancer_common::{
    atomic::{load, load32},
    breaker,
    service::{Backend, Membership, STATE_DRAINING, STATE_RETIRED, STATE_UNHEALTHY, Tables},
    waiting,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    model::ServiceName,
    reconcile::{Assignment, UNLIMITED},
};

/// What a backend is doing, or why it gets nothing new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BackendState {
    /// No slot is taken, and there is one.
    Idle,
    /// Some slots are taken.
    Busy,
    /// Every slot that may be handed out is taken.
    Full,
    /// Probes found it unhealthy.
    Unhealthy,
    /// A breaker shut it out.
    Ejected,
    /// It keeps what it has and gets nothing new.
    Draining,
}

impl BackendState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Idle,
        Self::Busy,
        Self::Full,
        Self::Unhealthy,
        Self::Ejected,
        Self::Draining,
    ];

    /// The state of a backend now.
    pub fn of(backend: &Backend) -> Self {
        let flags = load32(&backend.state);
        let (inflight, granted) = (backend.inflight(), u64::from(load32(&backend.granted)));
        if flags & (STATE_DRAINING | STATE_RETIRED) != 0 {
            Self::Draining
        } else if breaker::is_ejected(backend) {
            Self::Ejected
        } else if flags & STATE_UNHEALTHY != 0 {
            Self::Unhealthy
        } else if inflight >= granted {
            Self::Full
        } else if inflight > 0 {
            Self::Busy
        } else {
            Self::Idle
        }
    }

    /// Its word in API, metrics and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Busy => "busy",
            Self::Full => "full",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
            Self::Draining => "draining",
        }
    }

    /// Whether a new connection may go there.
    pub const fn is_available(self) -> bool {
        matches!(self, Self::Idle | Self::Busy)
    }
}

/// A service's backends, added up. A backend of two services counts in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Occupancy {
    /// Backends that serve nothing and have a slot.
    pub idle: u32,
    /// Backends with a slot left, the idle ones among them.
    pub available: u32,
    /// Backends that are unhealthy or ejected.
    pub unhealthy: u32,
    /// Slots taken.
    pub inflight: u64,
    /// Connections in the overflow queue.
    pub waiters: u32,
}

impl Occupancy {
    /// That of the service with this id.
    pub fn of<T: Tables>(tables: &T, service: u32) -> Self {
        let mut sum = Self {
            waiters: tables
                .service(service)
                .map_or(0, |record| waiting::count(&record.waiting) as u32),
            ..Self::default()
        };
        for backend in members(tables, service) {
            sum.add(BackendState::of(backend), backend.inflight());
        }
        sum
    }

    fn add(&mut self, state: BackendState, inflight: u64) {
        self.inflight += inflight;
        self.idle += u32::from(state == BackendState::Idle);
        self.available += u32::from(state.is_available());
        self.unhealthy += u32::from(matches!(
            state,
            BackendState::Unhealthy | BackendState::Ejected
        ));
    }
}

/// The records of a service's backends, by position.
pub fn members<T: Tables>(tables: &T, service: u32) -> impl Iterator<Item = &Backend> {
    let service = tables.service(service);
    let positions = 0..service.map_or(0, |record| load32(&record.positions));
    positions.filter_map(move |position| {
        let leaf = tables.leaf(service?.leaf(position)?)?;
        tables.backend(leaf.backend(position)?)
    })
}

/// Where connects to a backend are steered.
pub fn address(backend: &Backend) -> SocketAddr {
    let (address, port) = backend.address();
    SocketAddr::new(address.into(), port.into())
}

/// How many slots a backend may hand out; none: no limit.
pub fn granted(backend: &Backend) -> Option<u32> {
    let granted = load32(&backend.granted);
    (granted != UNLIMITED).then_some(granted)
}

/// Id of each service that a backend stands in, with its position there.
pub fn memberships(backend: &Backend) -> impl Iterator<Item = (u32, u32)> + Clone {
    let words = backend.memberships.iter();
    words.map_while(|word| Membership(load(word)).parts())
}

/// What the ids of services stand for: a copy, so that nobody holds up who assigns them.
#[derive(Debug, Default)]
pub struct Names(BTreeMap<u32, Named>);

/// What an id stands for.
#[derive(Clone, Debug)]
pub struct Named {
    /// The service's name.
    pub name: ServiceName,
    /// The frontends that lead to it, own addresses of backends among them.
    pub frontends: BTreeSet<SocketAddr>,
}

impl Names {
    /// Those of everything in the maps.
    pub fn of(assignment: &Assignment) -> Self {
        let services = assignment.services().map(|(name, service)| {
            let mut frontends = service.intercepted.clone();
            frontends.extend(&service.frontends);
            let name = name.clone();
            (service.id, Named { name, frontends })
        });
        Self(services.collect())
    }

    /// What the id stands for.
    pub fn get(&self, id: u32) -> Option<&Named> {
        self.0.get(&id)
    }

    /// The id of the service of this name.
    pub fn find(&self, name: &ServiceName) -> Option<(u32, &Named)> {
        let mut all = self.0.iter().map(|(id, named)| (*id, named));
        all.find(|(_, named)| named.name == *name)
    }

    /// Its name as text.
    pub fn shown(&self, id: u32) -> Option<String> {
        self.get(id).map(|named| named.name.to_string())
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Every id with what it stands for, by name.
    pub fn by_name(&self) -> Vec<(u32, &Named)> {
        let mut all: Vec<_> = self.0.iter().map(|(id, named)| (*id, named)).collect();
        all.sort_by_key(|(_, named)| &named.name);
        all
    }
}

impl FromIterator<(u32, Named)> for Names {
    fn from_iter<I: IntoIterator<Item = (u32, Named)>>(ids: I) -> Self {
        Self(ids.into_iter().collect())
    }
}

/// The ids of backends by address: a copy, as [`Names`] is.
#[derive(Debug, Default)]
pub struct BackendIds {
    /// Those in a service.
    pub assigned: Vec<(SocketAddr, u32)>,
    /// Those that have left their last service, and may still have slots taken.
    pub leaving: Vec<(SocketAddr, u32)>,
}

impl BackendIds {
    /// Those of everything in the maps.
    pub fn of(assignment: &Assignment) -> Self {
        let assigned = assignment.backends().map(|(address, it)| (*address, it.id));
        let leaving = assignment.retired().map(|(address, it)| (*address, it.id));
        Self {
            assigned: assigned.collect(),
            leaving: leaving.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::{
        atomic::{store, store32},
        plain::Plain,
        slot::{Side, Want, take},
    };

    use super::*;

    #[test]
    fn a_backend_goes_from_idle_over_busy_to_full() {
        let plain = Plain::one_service(&[2]);
        let backend = plain.backend(0).unwrap();
        for state in [BackendState::Idle, BackendState::Busy, BackendState::Full] {
            assert_eq!(BackendState::of(backend), state);
            let _ = take(backend, Want::Available, Side::Kernel);
        }
        assert_eq!(granted(backend), Some(2));
    }

    #[test]
    fn a_backend_without_slots_is_full_and_one_without_limit_never() {
        let plain = Plain::one_service(&[0, UNLIMITED]);
        assert_eq!(
            BackendState::of(plain.backend(0).unwrap()),
            BackendState::Full
        );
        let unlimited = plain.backend(1).unwrap();
        take(unlimited, Want::Available, Side::Kernel).unwrap();
        assert_eq!(BackendState::of(unlimited), BackendState::Busy);
        assert_eq!(granted(unlimited), None);
    }

    #[test]
    fn flags_come_before_counts_and_leaving_before_all() {
        let plain = Plain::one_service(&[1]);
        let backend = plain.backend(0).unwrap();
        for (flags, ejected_until_ns, state) in [
            (STATE_UNHEALTHY, 0, BackendState::Unhealthy),
            (STATE_UNHEALTHY, 1, BackendState::Ejected),
            (STATE_DRAINING, 1, BackendState::Draining),
            (STATE_RETIRED, 0, BackendState::Draining),
        ] {
            store32(&backend.state, flags);
            store(&backend.ejected_until_ns, ejected_until_ns);
            assert_eq!(BackendState::of(backend), state);
            assert!(!state.is_available());
        }
    }

    #[test]
    fn states_add_up() {
        let mut sum = Occupancy::default();
        for (state, inflight) in BackendState::ALL.into_iter().zip(0..) {
            sum.add(state, inflight);
        }
        let expected = Occupancy {
            idle: 1,
            available: 2,
            unhealthy: 2,
            inflight: 15,
            waiters: 0,
        };
        assert_eq!(sum, expected);
    }

    #[test]
    fn a_service_is_the_sum_of_its_positions() {
        let plain = Plain::one_service(&[1; 70]);
        take(plain.backend(69).unwrap(), Want::Idle, Side::Kernel).unwrap();
        store32(&plain.backend(3).unwrap().state, STATE_UNHEALTHY);
        let expected = Occupancy {
            idle: 68,
            available: 68,
            unhealthy: 1,
            inflight: 1,
            waiters: 0,
        };
        assert_eq!(Occupancy::of(&plain, 0), expected);
        assert_eq!(Occupancy::of(&plain, 1), Occupancy::default());
    }

    #[test]
    fn memberships_end_at_the_first_empty_word() {
        let plain = Plain::one_service(&[1, 1]);
        let found: Vec<_> = memberships(plain.backend(1).unwrap()).collect();
        assert_eq!(found, [(0, 1)]);
    }
}

//! What stands in the maps, under which numbers: the planner's memory, and the
//! dictionary by which everyone else finds names for the kernel's ids.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    ops::Bound,
    time::{Duration, Instant},
};

use balancer_common::{
    address::LeadsTo,
    maps::{MAX_BACKENDS, MAX_LEAVES, MAX_SERVICES},
    service::Membership,
};

use smallvec::SmallVec;

use super::{
    ids::{GRACE, Pool},
    limits::Limits,
    marks::Marks,
    near::Here,
    positions::Positions,
    settings::RecordSettings,
};
use crate::model::{ServiceName, Strategy};

/// `granted` of a backend without a limit.
pub const UNLIMITED: u32 = u32::MAX;

/// Everything that has a number. Written by the planner only.
///
/// The large values are boxed: a B-tree that grows in order leaves nearly half of its room unused.
#[derive(Clone, Debug)]
pub struct Assignment {
    pub(super) services: BTreeMap<ServiceName, Box<AssignedService>>,
    /// The services' names by their ids.
    pub(super) names: HashMap<u32, ServiceName>,
    pub(super) backends: BTreeMap<SocketAddr, Box<AssignedBackend>>,
    /// Backends that left their last service, by the address they had.
    pub(super) retired: BTreeMap<SocketAddr, Vec<Retired>>,
    /// Services that are gone, but for which connections may be waiting still.
    pub(super) retired_services: Vec<Retired>,
    /// Which service each frontend leads to.
    pub(super) frontends: BTreeMap<SocketAddr, u32>,
    /// The backends whose own addresses are intercepted.
    pub(super) intercepted: BTreeMap<SocketAddr, Intercepted>,
    pub(super) service_ids: Pool,
    pub(super) backend_ids: Pool,
    pub(super) leaf_ids: Pool,
    pub(super) last_generation: u32,
    pub(super) marks: Marks,
    /// Where the agent is.
    pub(super) here: Here,
    /// What strategy `adaptive` has put in force, by service.
    pub(super) in_force: BTreeMap<ServiceName, Strategy>,
    /// Ids of services whose backends are measured.
    pub(super) measured: BTreeSet<u32>,
}

/// A service in the maps.
#[derive(Clone, Debug)]
pub struct AssignedService {
    /// Its id.
    pub id: u32,
    /// Its settings as they stand in the record.
    pub(super) settings: RecordSettings,
    /// Whether its record was found, and what the settings in it are is not known.
    pub(super) is_restored: bool,
    /// The frontends that it asked for, without duplicates; mostly one or two.
    pub frontends: SmallVec<[SocketAddr; 2]>,
    /// The backends whose own addresses it intercepts. They may lead to another that does too.
    pub intercepted: BTreeSet<SocketAddr>,
    /// Its backends and the positions where they stand.
    pub members: BTreeMap<SocketAddr, u32>,
    pub(super) positions: Positions,
    /// How long its backends warm up.
    pub(super) slow_start: Duration,
    /// Leaf ids by number.
    pub(super) leaves: BTreeMap<u32, u32>,
}

/// A backend in the maps.
#[derive(Clone, Debug)]
pub struct AssignedBackend {
    /// Its id.
    pub id: u32,
    /// How many slots may be handed out now; [`UNLIMITED`] if there is no limit.
    pub granted: u32,
    /// Its weight.
    pub weight: u32,
    /// Since when it could be used without a break, as far as this agent has seen.
    pub(super) ready_since: Instant,
    pub(super) limits: Limits,
    /// In the order in which they stand in the record.
    pub(super) memberships: Memberships,
}

/// Where a backend stands in its services; mostly in one.
pub(super) type Memberships = SmallVec<[Membership; 2]>;

/// A backend whose own address is intercepted.
#[derive(Clone, Debug, Default)]
pub(super) struct Intercepted {
    /// The services that intercept it; never empty between plans.
    pub(super) by: BTreeSet<ServiceName>,
    /// Where it leads, if it does by itself: not while it is a service's frontend.
    pub(super) leads_to: Option<LeadsTo>,
}

/// A backend that is in no service any more, but whose slots may still be taken; or a service that
/// is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retired {
    /// Its id.
    pub id: u32,
    /// Since when.
    pub since: Instant,
}

impl Assignment {
    /// Nothing assigned.
    pub fn new() -> Self {
        Self {
            services: BTreeMap::new(),
            names: HashMap::new(),
            backends: BTreeMap::new(),
            retired: BTreeMap::new(),
            retired_services: Vec::new(),
            frontends: BTreeMap::new(),
            intercepted: BTreeMap::new(),
            service_ids: Pool::new(MAX_SERVICES),
            backend_ids: Pool::new(MAX_BACKENDS),
            leaf_ids: Pool::new(MAX_LEAVES),
            last_generation: 0,
            marks: Marks::default(),
            here: Here::default(),
            in_force: BTreeMap::new(),
            measured: BTreeSet::new(),
        }
    }

    /// The service of this name.
    pub fn service(&self, name: &ServiceName) -> Option<&AssignedService> {
        self.services.get(name).map(AsRef::as_ref)
    }

    /// The name of the service with this id.
    pub fn name_of(&self, id: u32) -> Option<&ServiceName> {
        self.names.get(&id)
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &AssignedService)> {
        let services = self.services.iter();
        services.map(|(name, service)| (name, service.as_ref()))
    }

    /// The backend at this address.
    pub fn backend(&self, address: &SocketAddr) -> Option<&AssignedBackend> {
        self.backends.get(address).map(AsRef::as_ref)
    }

    /// The backends after this one, in order; all of them after none.
    pub(super) fn backends_after(
        &self,
        address: Option<SocketAddr>,
    ) -> impl Iterator<Item = (&SocketAddr, &AssignedBackend)> {
        let from = address.map_or(Bound::Unbounded, Bound::Excluded);
        let backends = self.backends.range((from, Bound::Unbounded));
        backends.map(|(address, backend)| (address, backend.as_ref()))
    }

    /// All backends.
    pub fn backends(&self) -> impl Iterator<Item = (&SocketAddr, &AssignedBackend)> {
        self.backends_after(None)
    }

    /// Backends that are on their way out.
    pub fn retired(&self) -> impl Iterator<Item = (&SocketAddr, &Retired)> {
        self.retired
            .iter()
            .flat_map(|(address, all)| all.iter().map(move |one| (address, one)))
    }

    /// Names of the services that a backend belongs to.
    pub(super) fn services_of(&self, address: &SocketAddr) -> BTreeSet<ServiceName> {
        let backend = self.backends.get(address);
        backend.map_or_else(BTreeSet::new, |backend| {
            backend.limits.services().cloned().collect()
        })
    }

    /// A backend can be used again.
    pub(super) fn note_ready(&mut self, address: &SocketAddr, now: Instant) {
        if let Some(backend) = self.backends.get_mut(address) {
            backend.ready_since = now;
        }
    }

    /// Whether anything is on its way out.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.retired.is_empty() || !self.retired_services.is_empty()
    }

    /// Ids of all services are below this.
    pub fn service_high_water(&self) -> u32 {
        self.service_ids.high_water()
    }

    /// Ids of all backends are below this.
    pub fn backend_high_water(&self) -> u32 {
        self.backend_ids.high_water()
    }

    /// Ids of all leaves are below this.
    pub fn leaf_high_water(&self) -> u32 {
        self.leaf_ids.high_water()
    }

    /// Forgets the marks of backends that are not there any more.
    pub(super) fn forget_marks(&mut self) {
        let Self {
            marks, backends, ..
        } = self;
        marks.keep(|address| backends.contains_key(address));
    }

    /// Takes back the last backend at this address that was retired, unless so long ago that no
    /// program can still be about to take a slot on it.
    pub(super) fn revive(&mut self, address: &SocketAddr, now: Instant) -> Option<Retired> {
        let all = self.retired.get_mut(address)?;
        let last = all.pop_if(|last| now.duration_since(last.since) < GRACE);
        if all.is_empty() {
            self.retired.remove(address);
        }
        last
    }

    /// Slots that the backend at `address` may hand out: its limit, less what
    /// connections to an earlier backend at the same address still hold. The
    /// pod behind the address may be the same, and must not see more than its
    /// limit.
    pub(super) fn granted(&self, address: &SocketAddr, held: &impl Fn(u32) -> u64) -> u32 {
        let Some(backend) = self.backends.get(address) else {
            return 0;
        };
        let Some(limit) = backend.limits.tightest() else {
            return UNLIMITED;
        };
        let retired = self.retired.get(address).into_iter().flatten();
        let still_held: u64 = retired.map(|retired| held(retired.id)).sum();
        u32::try_from(u64::from(limit).saturating_sub(still_held)).unwrap_or(limit)
    }
}

impl Default for Assignment {
    fn default() -> Self {
        Self::new()
    }
}

impl AssignedBackend {
    /// Whether no service asks for it, and it stands in none. (One that was found in the maps stands
    /// in services before they ask for it.)
    pub(super) fn is_in_no_service(&self) -> bool {
        self.limits.is_empty() && self.memberships.is_empty()
    }
}

impl AssignedService {
    pub(super) fn new(id: u32, settings: RecordSettings) -> Self {
        Self {
            id,
            settings,
            is_restored: false,
            frontends: SmallVec::new(),
            intercepted: BTreeSet::new(),
            members: BTreeMap::new(),
            positions: Positions::new(),
            slow_start: Duration::ZERO,
            leaves: BTreeMap::new(),
        }
    }
}

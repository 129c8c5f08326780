//! Services and their backends: what should be in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use imbl::{OrdMap, ordmap::DiffItem};

use super::{
    Admission, Affinity, BreakerSettings, HashKey, HealthSettings, Intercept, Locality,
    OnAgentLoss, Protocol, QueueSettings, RateLimit, ServiceName, Setting, Settings, Strategy,
};

/// All that a source wants balanced at one moment.
///
/// Whoever builds one guarantees the limits of this module, that no frontend belongs to two
/// services, and that no frontend is also a backend. (Where [`Service::intercept`] says so, the
/// addresses of backends are intercepted besides.)
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredState {
    /// Every service under its own name: the key equals the service's `name`. A copy shares what
    /// it does not change, so that one change among thousands of services costs no more than
    /// among ten.
    pub services: OrdMap<ServiceName, Arc<Service>>,
}

/// A service that two desired states do not have in common: as it was, and as it is.
#[derive(Debug, Clone, Copy)]
pub struct Difference<'a> {
    /// Its name.
    pub name: &'a ServiceName,
    /// `None`: it is new.
    pub old: Option<&'a Service>,
    /// `None`: it is gone.
    pub new: Option<&'a Service>,
}

impl DesiredState {
    /// What is not as it was in `older`, by name. What one is a copy of and the other shares is not
    /// even looked at, so this costs as much as has changed.
    pub fn since<'a>(&'a self, older: &'a Self) -> impl Iterator<Item = Difference<'a>> {
        older.services.diff(&self.services).map(|item| match item {
            DiffItem::Add(name, new) => Difference {
                name,
                old: None,
                new: Some(new),
            },
            DiffItem::Update {
                old: (_, old),
                new: (name, new),
            } => Difference {
                name,
                old: Some(old),
                new: Some(new),
            },
            DiffItem::Remove(name, old) => Difference {
                name,
                old: Some(old),
                new: None,
            },
        })
    }

    /// The service of this name.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name).map(AsRef::as_ref)
    }

    /// Every backend address once, however many services name it.
    pub fn backend_addresses(&self) -> BTreeSet<SocketAddr> {
        self.services
            .values()
            .flat_map(|service| service.backends.iter().map(|backend| backend.address))
            .collect()
    }

    /// Every backend address with the slots it has: 0 is unlimited.
    ///
    /// A backend of several services has one count, so the tightest of their limits holds: a
    /// service that asked for one request at a time must not see two.
    pub fn backend_limits(&self) -> BTreeMap<SocketAddr, u32> {
        let mut limits = BTreeMap::new();
        for service in self.services.values() {
            for backend in &service.backends {
                let limit = limits.entry(backend.address).or_insert(0);
                *limit = tighter(*limit, service.max_inflight.value);
            }
        }
        limits
    }
}

impl FromIterator<Service> for DesiredState {
    fn from_iter<I: IntoIterator<Item = Service>>(services: I) -> Self {
        let by_name = |service: Service| (service.name.clone(), Arc::new(service));
        Self {
            services: services.into_iter().map(by_name).collect(),
        }
    }
}

/// One service: what clients dial, and what serves them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Unique in a desired state.
    pub name: ServiceName,
    /// What is spoken over its connections.
    pub protocol: Setting<Protocol>,
    /// What takes a slot.
    pub admission: Setting<Admission>,
    /// How a backend is picked.
    pub strategy: Setting<Strategy>,
    /// What keeps a client with its backend; `None`: nothing. In force: [`Service::sticks`].
    pub affinity: Setting<Option<Affinity>>,
    /// Which backends come first. In force: [`Service::prefers`].
    pub locality: Setting<Locality>,
    /// How long a backend that joins a running service, or is healthy again, gets less than its
    /// share; zero: not at all. In force: [`Service::starts_slowly`].
    pub slow_start: Setting<Duration>,
    /// What strategy `consistent-hash` hashes. In force: [`Service::hashes`].
    pub hash: Setting<HashKey>,
    /// Whether the own addresses of backends are frontends too. One of several such services is led
    /// to the one whose name is the first. In force: [`Service::intercepted`].
    pub intercept: Setting<Intercept>,
    /// Slots of each backend of this service; 0 is unlimited. For a backend that several services
    /// name, see [`DesiredState::backend_limits`].
    pub max_inflight: Setting<u32>,
    /// Where what finds no available backend waits.
    pub queue: QueueSettings,
    /// What is refused beyond a rate; `None`: nothing.
    pub rate_limit: Setting<Option<RateLimit>>,
    /// What happens to overflow while the agent is gone.
    pub on_agent_loss: Setting<OnAgentLoss>,
    /// How backends are probed.
    pub health: HealthSettings,
    /// When a backend is shut out for failing.
    pub breaker: BreakerSettings,
    /// What is intercepted: canonical, without duplicates, in the order written. Empty only where
    /// the own addresses of backends are intercepted.
    pub frontends: Vec<SocketAddr>,
    /// What serves: canonical addresses without duplicates, in the order written; may be empty.
    pub backends: Vec<Backend>,
}

impl Service {
    /// A service with built-in settings, no frontends and no backends.
    pub fn named(name: ServiceName) -> Self {
        Self::new(name, Settings::default(), Vec::new(), Vec::new())
    }

    /// A service with these settings.
    pub fn new(
        name: ServiceName,
        settings: Settings,
        frontends: Vec<SocketAddr>,
        backends: Vec<Backend>,
    ) -> Self {
        let Settings {
            protocol,
            admission,
            strategy,
            affinity,
            locality,
            slow_start,
            hash,
            intercept,
            max_inflight,
            queue,
            rate_limit,
            on_agent_loss,
            health,
            breaker,
        } = settings;
        Self {
            name,
            protocol,
            admission,
            strategy,
            affinity,
            locality,
            slow_start,
            hash,
            intercept,
            max_inflight,
            queue,
            rate_limit,
            on_agent_loss,
            health,
            breaker,
            frontends,
            backends,
        }
    }

    /// The affinity in force. There is none with strategy `leader`: a client that stayed with a
    /// leader that lost the lead would make two of them. Without admission `request` no cookie can
    /// be issued, and the client goes by where it connects from.
    pub fn sticks(&self) -> Option<Affinity> {
        let mut affinity = self.affinity.value.clone()?;
        if self.admission.value != Admission::Request {
            affinity.cookie = None;
        }
        (self.strategy.value != Strategy::Leader).then_some(affinity)
    }

    /// The locality in force: strategies that pick the same backend on every node have none.
    pub fn prefers(&self) -> Locality {
        match self.strategy.value {
            Strategy::Leader | Strategy::ConsistentHash => Locality::None,
            _ => self.locality.value,
        }
    }

    /// The slow start in force: a leader takes over whole.
    pub fn starts_slowly(&self) -> Duration {
        match self.strategy.value {
            Strategy::Leader => Duration::ZERO,
            _ => self.slow_start.value,
        }
    }

    /// The own addresses of backends, as far as they are intercepted.
    pub fn intercepted(&self) -> impl Iterator<Item = SocketAddr> {
        let backends = match self.intercept.value {
            Intercept::Service => [].iter(),
            Intercept::Pods => self.backends.iter(),
        };
        backends.flat_map(|backend| {
            let also = backend.also.as_deref().copied();
            std::iter::once(backend.address).chain(also)
        })
    }

    /// What is hashed: only where the agent reads requests can that be a part of one.
    pub fn hashes(&self) -> HashKey {
        match self.admission.value {
            Admission::Request => self.hash.value.clone(),
            Admission::Connection | Admission::Activity => HashKey::Client,
        }
    }
}

/// One pod's address and port, as one service sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Canonical. Equal addresses in two services are one backend with one count.
    pub address: SocketAddr,
    /// Its share in weighted strategies, 1 to [`super::MAX_WEIGHT`].
    pub weight: u32,
    /// The node that it runs on, if the source says so.
    pub node: Option<Arc<str>>,
    /// The zone of that node, if the source says so.
    pub zone: Option<Arc<str>>,
    /// Since when it has been ready, if the source says so; otherwise the agent goes by what it
    /// has seen itself.
    pub ready: Option<Arc<Readiness>>,
    /// An address of the same pod in the other family, canonical. Nothing is steered there, but
    /// where the own addresses of backends are intercepted, so is this one.
    pub also: Option<Box<SocketAddr>>,
}

/// By what every node ranks the backends of a leader service the same way, the first to lead
/// first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Readiness {
    /// When the pod became ready last, in seconds since 1970.
    pub since_unix_seconds: i64,
    /// The pod's name, which decides between equals.
    pub pod: Arc<str>,
}

impl Backend {
    /// A backend of weight 1, somewhere.
    pub const fn at(address: SocketAddr) -> Self {
        Self {
            address,
            weight: 1,
            also: None,
            node: None,
            zone: None,
            ready: None,
        }
    }
}

/// The lower of two limits, 0 being unlimited.
fn tighter(one: u32, other: u32) -> u32 {
    match (one, other) {
        (0, limit) | (limit, 0) => limit,
        (one, other) => one.min(other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_of_several_services_is_one_with_the_tightest_limit() {
        let backend = Backend::at("10.1.0.2:8080".parse().unwrap());
        let service = |name: &str, max_inflight: u32| Service {
            max_inflight: Setting::built_in(max_inflight),
            backends: vec![backend.clone()],
            ..Service::named(name.parse().unwrap())
        };
        let limits_of = |limits: &[u32]| {
            let services = limits.iter().enumerate();
            let state: DesiredState = services
                .map(|(index, limit)| service(&format!("s{index}"), *limit))
                .collect();
            assert_eq!(Vec::from_iter(state.backend_addresses()), [backend.address]);
            state.backend_limits()[&backend.address]
        };
        assert_eq!(limits_of(&[0, 0]), 0);
        assert_eq!(limits_of(&[0, 3, 2]), 2);
        assert_eq!(limits_of(&[5, 0]), 5);
    }

    #[test]
    fn services_that_changed_came_or_went_are_told_apart() {
        let service = |name: &str, max_inflight: u32| Service {
            max_inflight: Setting::built_in(max_inflight),
            ..Service::named(name.parse().unwrap())
        };
        let old = DesiredState::from_iter([service("a", 1), service("b", 1), service("c", 1)]);
        let new = DesiredState::from_iter([service("a", 1), service("b", 2), service("d", 1)]);
        let limit = |service: Option<&Service>| service.map(|it| it.max_inflight.value);
        let differences = new.since(&old);
        let differences = differences.map(|it| (it.name.to_string(), limit(it.old), limit(it.new)));
        let expected = [
            ("default/b".to_owned(), Some(1), Some(2)),
            ("default/c".to_owned(), Some(1), None),
            ("default/d".to_owned(), None, Some(1)),
        ];
        assert_eq!(Vec::from_iter(differences), expected);
    }

    #[test]
    fn what_does_not_fit_strategy_or_admission_is_not_in_force() {
        let header = HashKey::Header("x-user".parse().unwrap());
        let affinity = Affinity {
            timeout: Affinity::DEFAULT_TIMEOUT,
            cookie: Some("session".parse().unwrap()),
        };
        let service = |strategy, admission| Service {
            strategy: Setting::built_in(strategy),
            admission: Setting::built_in(admission),
            affinity: Setting::built_in(Some(affinity.clone())),
            locality: Setting::built_in(Locality::PreferNode),
            slow_start: Setting::built_in(Duration::from_secs(30)),
            hash: Setting::built_in(header.clone()),
            ..Service::named("hello".parse().unwrap())
        };
        let all = service(Strategy::Random, Admission::Request);
        assert_eq!(all.sticks(), Some(affinity.clone()));
        assert_eq!(all.prefers(), Locality::PreferNode);
        assert_eq!(all.starts_slowly(), Duration::from_secs(30));
        assert_eq!(all.hashes(), header);

        let by_connection = service(Strategy::ConsistentHash, Admission::Connection);
        let without_cookie = Affinity {
            cookie: None,
            ..affinity.clone()
        };
        assert_eq!(by_connection.sticks(), Some(without_cookie));
        assert_eq!(by_connection.prefers(), Locality::None);
        assert_eq!(by_connection.starts_slowly(), Duration::from_secs(30));
        assert_eq!(by_connection.hashes(), HashKey::Client);

        let leader = service(Strategy::Leader, Admission::Request);
        assert_eq!(leader.sticks(), None);
        assert_eq!(leader.prefers(), Locality::None);
        assert_eq!(leader.starts_slowly(), Duration::ZERO);
    }
}

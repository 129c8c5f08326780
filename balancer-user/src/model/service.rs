//! Services and their backends: what should be in the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{
    Admission, BreakerSettings, HealthSettings, OnAgentLoss, Protocol, QueueSettings, RateLimit,
    ServiceName, Setting, Settings, Strategy,
};

/// All that a source wants balanced at one moment.
///
/// Whoever builds one guarantees the limits of this module, that no frontend belongs to two
/// services, and that no frontend is also a backend.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DesiredState {
    /// Every service under its own name: the key equals the service's `name`.
    pub services: BTreeMap<ServiceName, Service>,
}

impl DesiredState {
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
    /// What is intercepted: canonical, without duplicates, in the order written, never empty.
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
}

/// One pod's address and port, as one service sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// Canonical. Equal addresses in two services are one backend with one count.
    pub address: SocketAddr,
    /// Its share in weighted strategies, 1 to [`super::MAX_WEIGHT`].
    pub weight: u32,
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
        let backend = Backend {
            address: "10.1.0.2:8080".parse().unwrap(),
            weight: 1,
        };
        let service = |name: &str, max_inflight: u32| Service {
            max_inflight: Setting::built_in(max_inflight),
            backends: vec![backend],
            ..Service::named(name.parse().unwrap())
        };
        let limits_of = |limits: &[u32]| {
            let services = limits.iter().enumerate().map(|(index, limit)| {
                let service = service(&format!("s{index}"), *limit);
                (service.name.clone(), service)
            });
            let state = DesiredState {
                services: services.collect(),
            };
            assert_eq!(Vec::from_iter(state.backend_addresses()), [backend.address]);
            state.backend_limits()[&backend.address]
        };
        assert_eq!(limits_of(&[0, 0]), 0);
        assert_eq!(limits_of(&[0, 3, 2]), 2);
        assert_eq!(limits_of(&[5, 0]), 5);
    }
}

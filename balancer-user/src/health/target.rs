//! What to probe: every backend once, however many services name it.
//!
//! Pure. Called by `schedule` for each new desired state.

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

use crate::model::{DesiredState, Difference, Probe, Service, ServiceName};

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Check {
    /// Asks for a path.
    Http {
        /// Checked by whoever built the desired state.
        path: Arc<str>,
    },
    /// Connects.
    Tcp,
}

/// How a backend is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) check: Check,
    /// From one probe to the next.
    pub(super) interval: Duration,
    /// For connecting and the head of the answer.
    pub(super) timeout: Duration,
    /// Consecutive failures that make the backend unhealthy.
    pub(super) failures: u32,
}

/// What all services together ask for. A change costs as much as the services that it changes.
#[derive(Debug)]
pub(super) struct Targets {
    /// Whether anything is probed at all.
    is_enabled: bool,
    settled: Arc<DesiredState>,
    asked: HashMap<SocketAddr, Asked>,
}

/// How each of the services that probe a backend would have it; by name, never empty.
type Asked = SmallVec<[(ServiceName, Arc<Target>); 1]>;

impl Targets {
    /// Nothing is asked for yet.
    pub(super) fn new(is_enabled: bool) -> Self {
        Self {
            is_enabled,
            settled: Arc::default(),
            asked: HashMap::new(),
        }
    }

    /// Takes up a desired state. Gives the backends for which something else may be asked now.
    pub(super) fn take_up(&mut self, desired: Arc<DesiredState>) -> HashSet<SocketAddr> {
        let mut touched = HashSet::new();
        let settled = std::mem::replace(&mut self.settled, desired.clone());
        if self.is_enabled {
            for Difference { name, old, new } in desired.since(&settled) {
                for service in old.into_iter().filter(|old| target(old).is_some()) {
                    self.withdraw(name, service, &mut touched);
                }
                if let Some((service, target)) = new.and_then(|new| Some((new, target(new)?))) {
                    self.ask(name, service, &Arc::new(target), &mut touched);
                }
            }
        }
        touched
    }

    /// How a backend is probed; `None`: not at all.
    ///
    /// The first service that probes, by name, says how; the shortest interval holds.
    pub(super) fn of(&self, address: &SocketAddr) -> Option<Arc<Target>> {
        let asked = self.asked.get(address)?;
        let mut target = asked.first()?.1.clone();
        let shortest = asked.iter().map(|(_, target)| target.interval).min()?;
        if target.interval != shortest {
            Arc::make_mut(&mut target).interval = shortest;
        }
        Some(target)
    }

    fn ask(
        &mut self,
        name: &ServiceName,
        service: &Service,
        target: &Arc<Target>,
        touched: &mut HashSet<SocketAddr>,
    ) {
        for backend in &service.backends {
            let asked = self.asked.entry(backend.address).or_default();
            let place = asked.partition_point(|(other, _)| other < name);
            asked.insert(place, (name.clone(), target.clone()));
            touched.insert(backend.address);
        }
    }

    fn withdraw(
        &mut self,
        name: &ServiceName,
        service: &Service,
        touched: &mut HashSet<SocketAddr>,
    ) {
        for backend in &service.backends {
            if let Entry::Occupied(mut asked) = self.asked.entry(backend.address) {
                asked.get_mut().retain(|(other, _)| other != name);
                if asked.get().is_empty() {
                    asked.remove();
                }
            }
            touched.insert(backend.address);
        }
    }
}

/// How this service alone would have its backends probed.
fn target(service: &Service) -> Option<Target> {
    let health = &service.health;
    let check = match health.probe(service.protocol.value).value {
        Probe::Http => Check::Http {
            path: health.path.value.clone(),
        },
        Probe::Tcp => Check::Tcp,
        Probe::None => return None,
    };
    Some(Target {
        check,
        interval: health.interval.value,
        timeout: health.timeout.value,
        failures: health.failures.value.max(1),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Backend, Protocol, Setting};

    const ADDRESS: &str = "10.1.0.2:8080";

    fn state(services: impl IntoIterator<Item = (Probe, u64)>) -> DesiredState {
        let services = services.into_iter().enumerate();
        let services = services.map(|(index, (probe, interval_seconds))| {
            let name = format!("s{index}");
            let mut service = Service::named(name.parse().unwrap());
            service.health.probe = Some(Setting::built_in(probe));
            service.health.path = Setting::built_in(format!("/{name}").into());
            service.health.interval = Setting::built_in(Duration::from_secs(interval_seconds));
            service.backends = vec![Backend::at(ADDRESS.parse().unwrap())];
            (service.name.clone(), service)
        });
        DesiredState {
            services: services.collect(),
        }
    }

    fn only(desired: DesiredState, is_enabled: bool) -> Option<Arc<Target>> {
        let mut targets = Targets::new(is_enabled);
        targets.take_up(Arc::new(desired));
        targets.of(&ADDRESS.parse().unwrap())
    }

    #[test]
    fn the_first_service_that_probes_says_how_and_the_shortest_interval_holds() {
        let desired = state([
            (Probe::None, 1),
            (Probe::Http, 5),
            (Probe::Tcp, 2),
            (Probe::Http, 9),
        ]);
        let target = only(desired, true).unwrap();
        let path = "/s1".into();
        assert_eq!(target.check, Check::Http { path });
        assert_eq!(target.interval, Duration::from_secs(2));
    }

    #[test]
    fn nothing_is_probed_if_no_service_asks_for_it() {
        assert_eq!(
            only(state([(Probe::None, 1), (Probe::None, 2)]), true),
            None
        );
        assert_eq!(only(state([(Probe::Http, 1)]), false), None);
    }

    #[test]
    fn unless_told_otherwise_only_http_services_are_probed() {
        let desired = state([(Probe::Tcp, 5)]);
        let mut service = desired.services.values().next().unwrap().as_ref().clone();
        service.health.probe = None;
        service.protocol = Setting::built_in(Protocol::Tcp);
        assert_eq!(only(DesiredState::from_iter([service.clone()]), true), None);
        service.protocol = Setting::built_in(Protocol::Http);
        let desired = DesiredState::from_iter([service]);
        let path = "/s0".into();
        assert_eq!(only(desired, true).unwrap().check, Check::Http { path });
    }

    #[test]
    fn changes_one_by_one_lead_where_all_at_once_do() {
        let address = ADDRESS.parse().unwrap();
        let mut targets = Targets::new(true);
        let probes = [Probe::None, Probe::Http, Probe::Tcp];
        // Every pair of services, each with every probe, or not there.
        for round in 0..4 * 4 * 8 {
            let services = [round * 7 % 4, round * 5 / 4 % 4];
            let services = services.into_iter().zip(1..);
            let services = services.map(|(probe, seconds)| (probes.get(probe), seconds));
            let desired = state(services.filter_map(|(probe, seconds)| Some((*probe?, seconds))));
            let before = targets.of(&address);
            let touched = targets.take_up(Arc::new(desired.clone()));
            assert_eq!(targets.of(&address), only(desired, true), "round {round}");
            if before != targets.of(&address) {
                assert!(touched.contains(&address), "round {round}");
            }
        }
    }
}

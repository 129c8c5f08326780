//! What to probe: every backend once, however many services name it.
//!
//! Pure. Called by `schedule` for each new desired state.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use crate::model::{DesiredState, Probe, Service};

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

/// Every backend, with how it is probed; none if no service of it probes, or nothing is probed
/// at all.
///
/// The first service that probes, by name, says how; the shortest interval holds.
pub(super) fn targets(
    desired: &DesiredState,
    enabled: bool,
) -> HashMap<SocketAddr, Option<Arc<Target>>> {
    let mut targets = HashMap::new();
    for service in desired.services.values() {
        let target = if enabled { target(service) } else { None };
        let target = target.map(Arc::new);
        for backend in &service.backends {
            match targets.entry(backend.address) {
                Entry::Vacant(free) => {
                    free.insert(target.clone());
                }
                Entry::Occupied(mut taken) => merge(taken.get_mut(), &target),
            }
        }
    }
    targets
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

fn merge(first: &mut Option<Arc<Target>>, other: &Option<Arc<Target>>) {
    match (first, other) {
        (Some(first), Some(other)) if other.interval < first.interval => {
            Arc::make_mut(first).interval = other.interval;
        }
        (Some(_), Some(_)) => (),
        (first @ None, Some(other)) => *first = Some(other.clone()),
        (_, None) => (),
    }
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

    fn only(desired: &DesiredState, enabled: bool) -> Option<Arc<Target>> {
        let targets = targets(desired, enabled);
        assert_eq!(targets.len(), 1);
        targets[&ADDRESS.parse().unwrap()].clone()
    }

    #[test]
    fn the_first_service_that_probes_says_how_and_the_shortest_interval_holds() {
        let desired = state([
            (Probe::None, 1),
            (Probe::Http, 5),
            (Probe::Tcp, 2),
            (Probe::Http, 9),
        ]);
        let target = only(&desired, true).unwrap();
        let path = "/s1".into();
        assert_eq!(target.check, Check::Http { path });
        assert_eq!(target.interval, Duration::from_secs(2));
    }

    #[test]
    fn nothing_is_probed_if_no_service_asks_for_it() {
        assert_eq!(
            only(&state([(Probe::None, 1), (Probe::None, 2)]), true),
            None
        );
        assert_eq!(only(&state([(Probe::Http, 1)]), false), None);
    }

    #[test]
    fn unless_told_otherwise_only_http_services_are_probed() {
        let desired = state([(Probe::Tcp, 5)]);
        let mut service = desired.services.values().next().unwrap().as_ref().clone();
        service.health.probe = None;
        service.protocol = Setting::built_in(Protocol::Tcp);
        assert_eq!(
            only(&DesiredState::from_iter([service.clone()]), true),
            None
        );
        service.protocol = Setting::built_in(Protocol::Http);
        let desired = DesiredState::from_iter([service]);
        let path = "/s0".into();
        assert_eq!(only(&desired, true).unwrap().check, Check::Http { path });
    }
}

//! What every desired state promises, wherever it comes from.
//!
//! Called by the targets of both sources of services.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use balancer_user::model::{
    DesiredState, Intercept, MAX_BACKENDS, MAX_BACKENDS_PER_SERVICE, MAX_FRONTENDS_PER_SERVICE,
    MAX_INFLIGHT, MAX_SERVICES, MAX_SERVICES_PER_BACKEND, MAX_WEIGHT, canonical, check_backend,
    check_frontend,
};

/// Panics if one of its promises is broken.
pub fn check(state: &DesiredState) {
    assert!(state.services.len() <= MAX_SERVICES);
    let backends = state.backend_addresses();
    assert!(backends.len() <= MAX_BACKENDS);
    let mut owners = BTreeMap::new();
    let mut uses = BTreeMap::<_, usize>::new();
    for (name, service) in &state.services {
        assert_eq!(*name, service.name);
        assert!(service.max_inflight.value <= MAX_INFLIGHT, "{name}");
        assert!(service.frontends.len() <= MAX_FRONTENDS_PER_SERVICE);
        assert!(service.backends.len() <= MAX_BACKENDS_PER_SERVICE);
        let is_dialled =
            !service.frontends.is_empty() || service.intercept.value == Intercept::Pods;
        assert!(is_dialled, "{name} has no frontend");
        for frontend in &service.frontends {
            assert_eq!(*frontend, canonical(*frontend), "{name}");
            assert_eq!(check_frontend(*frontend), Ok(()), "{name}: {frontend}");
            let other = owners.insert(*frontend, name);
            assert_eq!(other, None, "{frontend} also belongs to {name}");
            assert!(
                !backends.contains(frontend),
                "{name}: {frontend} is a backend"
            );
        }
        let own: HashSet<_> = service.backends.iter().map(|it| it.address).collect();
        assert_eq!(own.len(), service.backends.len(), "{name} has one twice");
        for backend in &service.backends {
            let address = backend.address;
            assert_eq!(address, canonical(address), "{name}");
            assert_eq!(check_backend(address), Ok(()), "{name}: {address}");
            assert!(
                (1..=MAX_WEIGHT).contains(&backend.weight),
                "{name}: {address}"
            );
            *uses.entry(address).or_default() += 1;
        }
    }
    for (address, uses) in uses {
        assert!(
            uses <= MAX_SERVICES_PER_BACKEND,
            "{address} is of {uses} services"
        );
    }
    let limits: BTreeSet<_> = state.backend_limits().into_keys().collect();
    assert_eq!(limits, backends);
}

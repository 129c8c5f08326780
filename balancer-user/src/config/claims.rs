//! Who has which name, frontend and backend: the rules between services.
//!
//! Owns that names and frontends are unique, that nothing is both frontend and backend, and how
//! many services may share a backend. `services` tells it of each service in turn, and it reports
//! a clash with both places.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;

use super::problem::{Findings, Place, Spot};
use crate::model::{MAX_BACKENDS, MAX_FRONTENDS, MAX_SERVICES_PER_BACKEND, ServiceName};

/// What is known of the services read so far. A service is its index in `labels`.
#[derive(Default)]
pub(crate) struct Claims {
    /// What each service is called in messages: its name, or its line.
    labels: Vec<String>,
    names: HashMap<ServiceName, Spot>,
    frontends: HashMap<SocketAddr, Claim>,
    backends: HashMap<SocketAddr, Membership>,
}

/// Who said first that an address is a frontend.
struct Claim {
    service: usize,
    spot: Spot,
}

/// The services of a backend address.
struct Membership {
    first: Claim,
    /// The `max_inflight` of the first service.
    max_inflight: u32,
    last_service: usize,
    last_spot: Spot,
    services: usize,
    /// Whether it has been said that the services differ in `max_inflight`.
    differs: bool,
}

impl Claims {
    /// Begins the next service, which messages call `label`.
    pub(crate) fn begin(&mut self, label: String) {
        self.labels.push(label);
    }

    fn current(&self) -> usize {
        self.labels.len() - 1
    }

    /// What messages call the current service.
    pub(crate) fn label(&self) -> &str {
        &self.labels[self.current()]
    }

    /// Notes the current service's name. False if a service has it already.
    pub(crate) fn claim_name(
        &mut self,
        name: &ServiceName,
        spot: Spot,
        findings: &mut Findings,
    ) -> bool {
        match self.names.entry(name.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(spot);
                true
            }
            Entry::Occupied(first) => {
                findings.reject(
                    spot,
                    format!("the service {name} is already defined at {}", first.get()),
                    "rename one of them, or merge them into one service",
                );
                false
            }
        }
    }

    /// Notes that the current service has this frontend. False if a service has it already.
    pub(crate) fn claim_frontend(
        &mut self,
        address: SocketAddr,
        spot: Spot,
        findings: &mut Findings,
    ) -> bool {
        let service = self.current();
        match self.frontends.entry(address) {
            Entry::Vacant(vacant) => {
                vacant.insert(Claim { service, spot });
                true
            }
            Entry::Occupied(first) => {
                let Claim {
                    service: owner,
                    spot: at,
                } = first.get();
                findings.reject(
                    spot,
                    format!(
                        "frontend {address} of {} is already a frontend of {}, at {at}",
                        self.labels[service], self.labels[*owner]
                    ),
                    "give each frontend to one service, once",
                );
                false
            }
        }
    }

    /// Notes that the current service has this backend. False if it has it already, or if the
    /// backend is in too many services.
    pub(crate) fn join_backend(
        &mut self,
        address: SocketAddr,
        spot: Spot,
        max_inflight: u32,
        findings: &mut Findings,
    ) -> bool {
        let service = self.current();
        let membership = match self.backends.entry(address) {
            Entry::Vacant(vacant) => {
                vacant.insert(Membership::first(service, spot, max_inflight));
                return true;
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        if membership.last_service == service {
            findings.reject(
                spot,
                format!(
                    "backend {address} is in {} twice, first at {}",
                    self.labels[service], membership.last_spot
                ),
                "remove one of them",
            );
            return false;
        }
        membership.services += 1;
        membership.last_service = service;
        membership.last_spot = spot;
        if membership.services > MAX_SERVICES_PER_BACKEND {
            if membership.services == MAX_SERVICES_PER_BACKEND + 1 {
                findings.reject(
                    spot,
                    format!(
                        "backend {address} is in more than {MAX_SERVICES_PER_BACKEND} services: \
                         {} is one too many",
                        self.labels[service]
                    ),
                    "give one service more frontends instead of repeating its backends",
                );
            }
            return false;
        }
        if membership.max_inflight != max_inflight && !membership.differs {
            membership.differs = true;
            let (first, other) = (&membership.first, membership.max_inflight);
            findings.warn(
                spot,
                format!(
                    "backend {address} has max_inflight {max_inflight} in {} and {other} in {} \
                     ({}); it is one backend with one count, so the tightest limit holds",
                    self.labels[service], self.labels[first.service], first.spot
                ),
                "give both services the same max_inflight",
            );
        }
        true
    }

    /// Rejects addresses that are frontends here and backends there: steering would go round.
    pub(crate) fn frontends_apart_from_backends(&self, findings: &mut Findings) {
        let mut both: Vec<_> = self
            .frontends
            .iter()
            .filter_map(|(address, frontend)| {
                let backend = &self.backends.get(address)?.first;
                Some((frontend, address, backend))
            })
            .collect();
        both.sort_by_key(|(frontend, ..)| frontend.spot);
        for (frontend, address, backend) in both {
            findings.reject(
                frontend.spot,
                format!(
                    "frontend {address} of {} is also a backend of {}, at {}",
                    self.labels[frontend.service], self.labels[backend.service], backend.spot
                ),
                "give the service a frontend that no pod listens on",
            );
        }
    }

    /// Rejects more frontends or backends than fit; `last` is the place to name.
    pub(crate) fn count(&self, last: Option<Spot>, findings: &mut Findings) {
        let frontends = self.frontends.len();
        if frontends > MAX_FRONTENDS {
            findings.reject(
                last.map_or(Place::WholeFile, Place::Spot),
                format!("{frontends} frontends are listed, and at most {MAX_FRONTENDS} fit"),
                "remove some, or spread the services over several agents",
            );
        }
        let distinct = self.backends.len();
        if distinct > MAX_BACKENDS {
            findings.reject(
                last.map_or(Place::WholeFile, Place::Spot),
                format!("{distinct} backends are listed, and at most {MAX_BACKENDS} fit"),
                "remove some, or spread the services over several agents",
            );
        }
    }
}

impl Membership {
    fn first(service: usize, spot: Spot, max_inflight: u32) -> Self {
        Self {
            first: Claim { service, spot },
            max_inflight,
            last_service: service,
            last_spot: spot,
            services: 1,
            differs: false,
        }
    }
}

//! The services of the file: each checked by itself, then all of them together.
//!
//! Owns the rules between services: names and frontends are unique, nothing is both frontend and
//! backend, the model's limits hold. Gives the desired state; what it found wrong is in the
//! findings, and then the state must not be used.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::SocketAddr;

use super::defaults::{Defaults, Functions, Layer};
use super::problem::{Findings, Place, Spot};
use super::raw::{At, RawBackend, RawService, Text};
use super::value;
use crate::model::{
    Admission, Backend, DesiredState, MAX_BACKENDS, MAX_BACKENDS_PER_SERVICE,
    MAX_FRONTENDS_PER_SERVICE, MAX_SERVICES, MAX_SERVICES_PER_BACKEND, MAX_WEIGHT, NameFault,
    Origin, Protocol, Service, ServiceName, check_backend, check_frontend, check_label,
};

/// Checks `services:`.
pub(crate) fn check(
    raw: &[At<RawService>],
    defaults: Defaults,
    mut functions: Functions,
    findings: &mut Findings,
) -> DesiredState {
    if let Some(beyond) = raw.get(MAX_SERVICES) {
        findings.reject(
            beyond.spot,
            format!(
                "{} services are listed, and at most {MAX_SERVICES} fit",
                raw.len()
            ),
            "remove some, or spread them over several agents",
        );
    }
    let mut checker = Checker {
        findings,
        names: HashMap::new(),
        labels: Vec::with_capacity(raw.len()),
        frontends: HashMap::new(),
        backends: HashMap::new(),
    };
    let mut state = DesiredState::default();
    for service in raw.iter().take(MAX_SERVICES) {
        if let Some(service) = checker.service(service, defaults, &mut functions) {
            state.services.insert(service.name.clone(), service);
        }
    }
    checker.frontends_apart_from_backends();
    checker.backends_in_all(raw);
    functions.warn_of_unused(findings);
    state
}

/// What is known of the services read so far. A service is its index in `labels`.
struct Checker<'a> {
    findings: &'a mut Findings,
    names: HashMap<ServiceName, Spot>,
    /// What each service is called in messages: its name, or its line.
    labels: Vec<String>,
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

impl Checker<'_> {
    fn service(
        &mut self,
        at: &At<RawService>,
        defaults: Defaults,
        functions: &mut Functions,
    ) -> Option<Service> {
        let raw = &at.value;
        let name = self.name(at);
        let settings = self.settings(at, defaults, name.as_ref(), functions);
        let frontends = self.frontends(at);
        let backends = self.backends(raw, settings.max_inflight.value);
        name.map(|name| Service {
            name,
            protocol: settings.protocol,
            admission: settings.admission,
            strategy: settings.strategy,
            max_inflight: settings.max_inflight,
            frontends,
            backends,
        })
    }

    /// Index of the service that is being read.
    fn current(&self) -> usize {
        self.labels.len() - 1
    }

    fn label(&self, service: usize) -> &str {
        &self.labels[service]
    }

    /// The service's name, if it is good; in any case the service has a label from here on.
    fn name(&mut self, at: &At<RawService>) -> Option<ServiceName> {
        let raw = &at.value;
        let Some(text) = &raw.name else {
            self.labels.push(format!("the service at {}", at.spot));
            self.findings.reject(
                at.spot,
                "this service has no name",
                "give it one: `name: hello`",
            );
            return None;
        };
        let namespace = raw
            .namespace
            .as_ref()
            .map_or(ServiceName::DEFAULT_NAMESPACE, |text| text.value.as_ref());
        self.labels.push(format!("{namespace}/{}", text.value));
        let namespace_is_good = raw
            .namespace
            .as_ref()
            .is_none_or(|text| self.label_is_good(text, "namespace"));
        if !self.label_is_good(text, "name") || !namespace_is_good {
            return None;
        }
        let name = ServiceName::new(namespace, &text.value).ok()?;
        match self.names.entry(name.clone()) {
            Entry::Vacant(vacant) => {
                vacant.insert(text.spot);
                Some(name)
            }
            Entry::Occupied(first) => {
                self.findings.reject(
                    text.spot,
                    format!("the service {name} is already defined at {}", first.get()),
                    "rename one of them, or merge them into one service",
                );
                None
            }
        }
    }

    fn label_is_good(&mut self, text: &Text, what: &str) -> bool {
        let reject = |fault: NameFault| {
            self.findings.reject(
                text.spot,
                format!("{:?} cannot be a service's {what}: {fault}", text.value),
                "write a DNS label: a-z, 0-9 and '-', as in my-function",
            );
        };
        check_label(&text.value).map_err(reject).is_ok()
    }

    fn settings(
        &mut self,
        at: &At<RawService>,
        defaults: Defaults,
        name: Option<&ServiceName>,
        functions: &mut Functions,
    ) -> Defaults {
        let raw = &at.value;
        let own = Layer::check(
            raw.protocol.as_ref(),
            raw.admission.as_ref(),
            raw.strategy.as_ref(),
            raw.max_inflight.as_ref(),
            self.findings,
        );
        let settings = own.over(defaults, Origin::Service);
        let settings = match name {
            Some(name) => functions.over(settings, name),
            None => settings,
        };
        let by_request = settings.admission.value == Admission::Request;
        if by_request && settings.protocol.value != Protocol::Http {
            let spot = raw.admission.as_ref().map_or(at.spot, |text| text.spot);
            self.findings.reject(
                spot,
                format!(
                    "admission request counts HTTP requests, but the protocol of {} is {}",
                    self.labels[self.current()],
                    settings.protocol.value
                ),
                "set `protocol: http`, or `admission: connection`",
            );
        }
        settings
    }

    fn frontends(&mut self, at: &At<RawService>) -> Vec<SocketAddr> {
        let texts = at.value.frontends.as_deref().unwrap_or_default();
        if texts.is_empty() {
            let message = format!(
                "{} has no frontends, so nothing can reach it",
                self.labels[self.current()]
            );
            let hint = "list what clients dial: `frontends: [\"10.96.0.10:8080\"]`";
            self.findings.reject(at.spot, message, hint);
        }
        if let Some(beyond) = texts.get(MAX_FRONTENDS_PER_SERVICE) {
            let message = format!(
                "{} has {} frontends, and a service has at most {MAX_FRONTENDS_PER_SERVICE}",
                self.label(self.current()),
                texts.len()
            );
            self.findings
                .reject(beyond.spot, message, "split the service");
        }
        let mut frontends = Vec::with_capacity(texts.len());
        for text in texts.iter().take(MAX_FRONTENDS_PER_SERVICE) {
            let address = value::address(text.into(), "frontend", check_frontend, self.findings);
            frontends.extend(address.filter(|address| self.claim_frontend(*address, text.spot)));
        }
        frontends
    }

    fn claim_frontend(&mut self, address: SocketAddr, spot: Spot) -> bool {
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
                self.findings.reject(
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

    fn backends(&mut self, raw: &RawService, max_inflight: u32) -> Vec<Backend> {
        let Some(list) = &raw.backends else {
            return Vec::new();
        };
        if list.value.len() > MAX_BACKENDS_PER_SERVICE {
            let message = format!(
                "{} has {} backends, and a service has at most {MAX_BACKENDS_PER_SERVICE}",
                self.label(self.current()),
                list.value.len()
            );
            let hint = "split the service, or remove backends";
            self.findings.reject(list.spot, message, hint);
            return Vec::new();
        }
        let mut backends = Vec::with_capacity(list.value.len());
        let mut warned = false;
        for at in &list.value {
            let weight = self.weight(&at.value, &mut warned);
            if let Some(address) = self.backend_address(at, max_inflight) {
                backends.push(Backend { address, weight });
            }
        }
        backends
    }

    fn weight(&mut self, raw: &RawBackend, warned: &mut bool) -> u32 {
        let Some(text) = &raw.weight else { return 1 };
        let weight = value::number(text.into(), "weight", "", 1..=MAX_WEIGHT, self.findings);
        let weight = weight.unwrap_or(1);
        if weight != 1 && !*warned {
            *warned = true;
            self.findings.warn(
                text.spot,
                "weight has no effect in this version: every backend counts the same",
                "remove it, or leave it for a later version",
            );
        }
        weight
    }

    fn backend_address(&mut self, at: &At<RawBackend>, max_inflight: u32) -> Option<SocketAddr> {
        let Some(text) = &at.value.address else {
            self.findings.reject(
                at.spot,
                "this backend has no address",
                "give it one: `{address: \"10.1.0.2:8080\"}`",
            );
            return None;
        };
        let address = value::address(text.into(), "backend", check_backend, self.findings)?;
        self.join_backend(address, text.spot, max_inflight)
            .then_some(address)
    }

    /// Notes that the current service has this backend. False if it has it already, or if the
    /// backend is in too many services.
    fn join_backend(&mut self, address: SocketAddr, spot: Spot, max_inflight: u32) -> bool {
        let service = self.current();
        let membership = match self.backends.entry(address) {
            Entry::Vacant(vacant) => {
                vacant.insert(Membership::first(service, spot, max_inflight));
                return true;
            }
            Entry::Occupied(occupied) => occupied.into_mut(),
        };
        if membership.last_service == service {
            self.findings.reject(
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
                self.findings.reject(
                    spot,
                    format!(
                        "backend {address} is in more than {MAX_SERVICES_PER_BACKEND} services, \
                         with {} the ninth",
                        self.labels[service]
                    ),
                    "give one service more frontends instead of repeating its backends",
                );
            }
            return false;
        }
        if membership.max_inflight != max_inflight && !membership.differs {
            membership.differs = true;
            let Membership {
                first,
                max_inflight: other,
                ..
            } = membership;
            self.findings.warn(
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

    fn frontends_apart_from_backends(&mut self) {
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
            self.findings.reject(
                frontend.spot,
                format!(
                    "frontend {address} of {} is also a backend of {}, at {}",
                    self.labels[frontend.service], self.labels[backend.service], backend.spot
                ),
                "give the service a frontend that no pod listens on",
            );
        }
    }

    fn backends_in_all(&mut self, raw: &[At<RawService>]) {
        let distinct = self.backends.len();
        if distinct > MAX_BACKENDS {
            let last = raw.last().map(|at| at.spot);
            self.findings.reject(
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

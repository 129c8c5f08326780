//! The services of the file, each checked by itself; `claims` sees to the rules between them.
//!
//! Owns the keys of a service and of its backends. Gives the desired state; what was found wrong
//! is in the findings, and then the state must not be used. Called by `Config::check`.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;

use super::agreement;
use super::claims::Claims;
use super::functions::Functions;
use super::near::Near;
use super::problem::Findings;
use super::raw::{At, RawBackend, RawService, Text};
use super::settings::{self, Layer};
use super::shape::Bounded;
use super::value;
use crate::model::{
    Backend, DesiredState, Intercept, MAX_BACKENDS_PER_SERVICE, MAX_FRONTENDS_PER_SERVICE,
    MAX_SERVICES, MAX_WEIGHT, NameFault, Origin, Service, ServiceName, check_backend,
    check_frontend, check_label,
};

/// Checks `services:`.
pub(crate) fn check(
    raw: Bounded<At<RawService>, MAX_SERVICES>,
    defaults: &Layer,
    mut functions: Functions,
    near: Near,
    findings: &mut Findings,
) -> Checked {
    let last = raw.items.last().map(|at| at.spot);
    if let Some(last) = last.filter(|_| raw.total > MAX_SERVICES) {
        findings.reject(
            last,
            format!(
                "{} services are listed, and at most {MAX_SERVICES} fit: this is the last \
                 that does",
                raw.total
            ),
            "remove some, or spread them over several agents",
        );
    }
    let mut checker = Checker {
        findings,
        claims: Claims::default(),
        near,
        locations: HashSet::new(),
    };
    let mut state = DesiredState::default();
    for service in raw.items {
        if let Some(service) = checker.service(service, defaults, &mut functions) {
            state
                .services
                .insert(service.name.clone(), Arc::new(service));
        }
    }
    let Checker { claims, near, .. } = checker;
    near.conclude(defaults, findings);
    claims.frontends_apart_from_backends(findings);
    claims.count(last, findings);
    Checked { state, functions }
}

/// What came of checking the services.
pub(crate) struct Checked {
    pub(crate) state: DesiredState,
    /// With a note of which of them were used.
    pub(crate) functions: Functions,
}

/// Reads one service after another.
struct Checker<'a> {
    findings: &'a mut Findings,
    claims: Claims,
    near: Near,
    /// Names of nodes and zones: one text for all backends that are there.
    locations: HashSet<Arc<str>>,
}

impl Checker<'_> {
    fn service(
        &mut self,
        mut at: At<RawService>,
        defaults: &Layer,
        functions: &mut Functions,
    ) -> Option<Service> {
        let name = self.name(&at);
        let raw = at.value.take_settings();
        let own = settings::read(&raw, Origin::Service, self.findings).over(defaults);
        let layer = match &name {
            Some(name) => functions.over(own, name),
            None => own,
        };
        agreement::of_service(&layer, self.claims.label(), at.spot, self.findings);
        let intercept = layer.settings.intercept.value;
        let frontends = self.frontends(&at, intercept);
        let backends = self.backends(&at.value, layer.settings.max_inflight.value);
        self.families_fit(&at, &frontends, &backends, intercept);
        let service = (self.claims.label(), at.spot);
        self.near.service(&layer, service, &backends, self.findings);
        name.map(|name| Service::new(name, layer.settings, frontends, backends))
    }

    /// The service's name, if it is good; in any case the service has a label from here on.
    fn name(&mut self, at: &At<RawService>) -> Option<ServiceName> {
        let raw = &at.value;
        let Some(text) = &raw.name else {
            self.claims.begin(format!("the service at {}", at.spot));
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
        self.claims.begin(format!("{namespace}/{}", text.value));
        let namespace_is_good = raw
            .namespace
            .as_ref()
            .is_none_or(|text| self.label_is_good(text, "namespace"));
        if !self.label_is_good(text, "name") || !namespace_is_good {
            return None;
        }
        let name = ServiceName::new(namespace, &text.value).ok()?;
        let claimed = self.claims.claim_name(&name, text.spot, self.findings);
        claimed.then_some(name)
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

    fn frontends(&mut self, at: &At<RawService>, intercept: Intercept) -> Vec<SocketAddr> {
        let Some(list) = at.value.frontends.as_ref().filter(|list| list.total > 0) else {
            if intercept == Intercept::Pods {
                return Vec::new();
            }
            let message = format!(
                "{} has no frontends, so nothing can reach it",
                self.claims.label()
            );
            let hint = "list what clients dial: `frontends: [\"10.96.0.10:8080\"]`, or set \
                        `intercept: pods`";
            self.findings.reject(at.spot, message, hint);
            return Vec::new();
        };
        if list.total > MAX_FRONTENDS_PER_SERVICE {
            let message = format!(
                "{} has {} frontends, and a service has at most {MAX_FRONTENDS_PER_SERVICE}",
                self.claims.label(),
                list.total
            );
            self.findings
                .reject(list.items[0].spot, message, "split the service");
        }
        let mut frontends = Vec::with_capacity(list.items.len());
        for text in &list.items {
            let address = value::address(text.into(), "frontend", check_frontend, self.findings);
            let claims = &mut self.claims;
            let claimed =
                address.filter(|address| claims.claim_frontend(*address, text.spot, self.findings));
            frontends.extend(claimed);
        }
        frontends
    }

    fn backends(&mut self, raw: &RawService, max_inflight: u32) -> Vec<Backend> {
        let Some(At { value: list, spot }) = &raw.backends else {
            return Vec::new();
        };
        if list.total > MAX_BACKENDS_PER_SERVICE {
            let message = format!(
                "{} has {} backends, and a service has at most {MAX_BACKENDS_PER_SERVICE}",
                self.claims.label(),
                list.total
            );
            let hint = "split the service, or remove backends";
            self.findings.reject(*spot, message, hint);
            return Vec::new();
        }
        let mut backends = Vec::with_capacity(list.items.len());
        for at in &list.items {
            let weight = self.weight(&at.value);
            let node = self.location(&at.value.node, "node");
            let zone = self.location(&at.value.zone, "zone");
            if let Some(address) = self.backend_address(at, max_inflight) {
                backends.push(Backend {
                    address,
                    weight,
                    node,
                    zone,
                    ready: None,
                    also: None,
                });
            }
        }
        backends
    }

    /// Rejects an IPv4 frontend before IPv6 backends: an IPv4 socket cannot reach them. (The other
    /// way round an IPv6 socket reaches IPv4 backends by their mapped address.)
    fn families_fit(
        &mut self,
        at: &At<RawService>,
        frontends: &[SocketAddr],
        backends: &[Backend],
        intercept: Intercept,
    ) {
        let own = backends.iter().filter(|_| intercept == Intercept::Pods);
        let frontend = own
            .map(|backend| &backend.address)
            .chain(frontends)
            .find(|frontend| frontend.is_ipv4());
        let backend = backends.iter().find(|backend| backend.address.is_ipv6());
        let (Some(frontend), Some(backend)) = (frontend, backend) else {
            return;
        };
        let list = at.value.backends.as_ref();
        self.findings.reject(
            list.map_or(at.spot, |list| list.spot),
            format!(
                "frontend {frontend} of {} is IPv4, but backend {} is IPv6: an IPv4 client cannot \
                 reach it",
                self.claims.label(),
                backend.address
            ),
            "make two services, one for each family",
        );
    }

    fn weight(&mut self, raw: &RawBackend) -> u32 {
        let Some(text) = &raw.weight else { return 1 };
        let weight = value::count(text.into(), "weight", 1..=MAX_WEIGHT, self.findings);
        weight.unwrap_or(1)
    }

    fn location(&mut self, text: &Option<Text>, what: &str) -> Option<Arc<str>> {
        let text = text.as_ref()?;
        if let Some(known) = self.locations.get(&*text.value) {
            return Some(known.clone());
        }
        let location = value::location(text.into(), what, self.findings)?;
        self.locations.insert(location.clone());
        Some(location)
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
        let joined = self
            .claims
            .join_backend(address, text.spot, max_inflight, self.findings);
        joined.then_some(address)
    }
}

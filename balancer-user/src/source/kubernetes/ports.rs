//! What one port of a Service makes: a service with the port's frontends and its backends.
//!
//! Pure; called by `resolve`.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::about::About;
use super::endpoints;
use super::kinds::{Port, Service};
use super::made::Made;
use super::object::Key;
use super::resolve::Resolver;
use crate::model::{
    self, Backend, Intercept, MAX_BACKENDS_PER_SERVICE, MAX_FRONTENDS_PER_SERVICE, MAX_SERVICES,
    NameFault, ServiceName, Settings, Strategy, canonical, check_frontend,
};
use crate::state::ObjectProblem;

/// The port that keeps the Service's own name where there are several.
const MAIN_PORT: &str = "http";

impl Resolver {
    /// The service that one port makes.
    pub(super) fn one(
        &mut self,
        (key, name): (&Key, &ServiceName),
        service: &Service,
        port: &Port,
        settings: &Settings,
        before: Option<&Arc<model::Service>>,
    ) -> Made {
        let about = About::service(key);
        let mut problems = Vec::new();
        if !self.claims.has_room(name, key) {
            self.claims.release(name, key, &mut self.store);
            problems.push(about.problem(
                format!("{MAX_SERVICES} services are balanced already, and no more fit"),
                "take the annotation or label from some",
            ));
            let service = None;
            return Made { service, problems };
        }
        let frontends = self.frontends((key, name), service, port, &mut problems);
        let backends = self.backends(
            (key, name),
            port,
            settings,
            &frontends,
            before,
            &mut problems,
        );
        let wanted = model::Service::new(name.clone(), settings.clone(), frontends, backends);
        let by_pods = settings.intercept.value == Intercept::Pods;
        if !by_pods && wanted.frontends.is_empty() {
            self.claims.leave_room(name, &mut self.store);
            let service = None;
            return Made { service, problems };
        }
        if let Err(crowded) = self.take_places((key, name), before, &wanted) {
            problems.push(about.crowded(crowded));
            let service = None;
            return Made { service, problems };
        }
        self.claims.take_room(name);
        let same = before.filter(|before| ***before == wanted);
        Made {
            service: Some(same.cloned().unwrap_or_else(|| Arc::new(wanted))),
            problems,
        }
    }

    /// Takes places at a service's backends. One of which a backend has none left is not balanced
    /// at all: without that pod it would not be the Service that its clients know.
    fn take_places(
        &mut self,
        (key, name): (&Key, &ServiceName),
        before: Option<&Arc<model::Service>>,
        wanted: &model::Service,
    ) -> Result<(), SocketAddr> {
        let before = before.map_or(&[][..], |before| &before.backends);
        let (claims, store) = (&mut self.claims, &mut self.store);
        let taken = claims
            .places
            .take((key, name), before, &wanted.backends, store);
        if taken.is_err() {
            claims.let_go_all(name, key, store);
        }
        taken
    }

    /// The backends behind one port.
    fn backends(
        &mut self,
        (key, name): (&Key, &ServiceName),
        port: &Port,
        settings: &Settings,
        frontends: &[SocketAddr],
        before: Option<&Arc<model::Service>>,
        problems: &mut Vec<ObjectProblem>,
    ) -> Vec<Backend> {
        let about = About::service(key);
        let is_leader = settings.strategy.value == Strategy::Leader;
        let service = self.store.services.get(key);
        let is_local = service.is_some_and(|service| service.is_local);
        let wanted = endpoints::Wanted {
            port: &port.name,
            families: (
                frontends.iter().any(SocketAddr::is_ipv4),
                frontends.iter().any(SocketAddr::is_ipv6),
            ),
            by_pods: settings.intercept.value == Intercept::Pods,
            zone: self.zone.as_ref(),
            node: self.node.as_deref().filter(|_| is_local),
            pods: self.pods.get(key).filter(|_| is_leader),
        };
        let mut backends = wanted.backends(self.store.slices_of(key), problems);
        if backends.len() > MAX_BACKENDS_PER_SERVICE {
            problems.push(about.too_many(backends.len()));
            let before = before.into_iter().flat_map(|before| &before.backends);
            let known: HashSet<_> = before.map(|backend| backend.address).collect();
            backends.retain(|backend| known.is_empty() || known.contains(&backend.address));
            backends.truncate(MAX_BACKENDS_PER_SERVICE);
        }
        self.claims
            .apart((key, name), &mut backends, &about, problems);
        backends
    }

    /// What clients dial to reach this port.
    fn frontends(
        &mut self,
        (key, name): (&Key, &ServiceName),
        service: &Service,
        port: &Port,
        problems: &mut Vec<ObjectProblem>,
    ) -> Vec<SocketAddr> {
        let about = About::service(key);
        let mut frontends = Vec::new();
        for text in service.cluster_ips.iter().take(MAX_FRONTENDS_PER_SERVICE) {
            let Ok(address) = text.parse::<IpAddr>() else {
                problems.push(about.problem(
                    format!("its cluster IP {text:?} is no IP address"),
                    "write an address, or None",
                ));
                continue;
            };
            let frontend = canonical(SocketAddr::new(address, port.number));
            if let Err(fault) = check_frontend(frontend) {
                problems.push(about.problem(
                    format!("{frontend} cannot be a frontend: {fault}"),
                    "give the Service a cluster IP",
                ));
                continue;
            }
            if !frontends.contains(&frontend) {
                frontends.push(frontend);
            }
        }
        let taken = self.claims.claim(name, key, &frontends, &mut self.store);
        for (frontend, other) in taken {
            problems.push(about.problem(
                format!("{frontend} is already a frontend of {other}"),
                "give each Service cluster IPs of its own",
            ));
            frontends.retain(|each| *each != frontend);
        }
        frontends
    }
}

/// The port that keeps the Service's own name.
pub(super) fn main_port(service: &Service) -> Option<&Port> {
    let named = service.ports.iter().find(|port| &*port.name == MAIN_PORT);
    named.or(service.ports.first())
}

/// The name of the service that a further port makes.
pub(super) fn port_name(key: &Key, port: &Port) -> Result<ServiceName, NameFault> {
    ServiceName::new(&key.namespace, &format!("{}:{}", key.name, port.name))
}

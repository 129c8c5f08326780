//! From objects of the cluster to services: which are balanced, with what settings, and where.
//!
//! Pure: what has to be asked of the API first (ConfigMaps, Pods of leader services) is named in
//! the outcome, and a service that waits for an answer stays as it was. A bad object is told and
//! leaves the last good state of its own service alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::claims::Claims;
use super::endpoints::{self, Pods};
use super::kinds::{Deployment, Limit, Port, Service};
use super::object::Key;
use super::publish::Publication;
use super::store::Store;
use crate::config::{Annotated, Config, Sources};
use crate::model::{
    self, Intercept, MAX_BACKENDS_PER_SERVICE, MAX_FRONTENDS_PER_SERVICE, MAX_INFLIGHT,
    MAX_SERVICES, NameFault, Origin, ServiceName, Settings, Strategy, canonical, check_frontend,
};
use crate::state::{Change, ObjectProblem};

/// The port that keeps the Service's own name where there are several.
const MAIN_PORT: &str = "http";

/// The annotation that has the leader of a service published.
const PUBLISH: &str = "publish-leader";

/// What a ConfigMap says, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConfigMap {
    /// These keys and values.
    Holds(BTreeMap<String, String>),
    /// Why it cannot be read.
    Unreadable(String),
}

/// Makes services of objects.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) store: Store,
    pub(super) config: Arc<Config>,
    pub(super) config_maps: HashMap<Key, ConfigMap>,
    pub(super) pods: HashMap<Key, Pods>,
    /// The agent's own zone.
    pub(super) zone: Option<Arc<str>>,
    memories: HashMap<Key, Memory>,
    claims: Claims,
}

/// What came of the services that were looked at.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    pub(super) changes: Vec<Change>,
    /// ConfigMaps that some of them go by and that are not known.
    pub(super) unknown_config_maps: BTreeSet<Key>,
    /// Services whose Pods are needed from now on.
    pub(super) leaders: BTreeSet<Key>,
    /// Services whose Pods are not.
    pub(super) others: BTreeSet<Key>,
}

/// What is remembered of a Service from one look to the next.
#[derive(Debug, Default)]
struct Memory {
    annotated: Annotated,
    deployment: Annotated,
    /// The last good limit of the Deployment's environment.
    limit: Option<u32>,
    /// The last good settings.
    settings: Option<Settings>,
    /// The services made of it, as they were told, with what was wrong.
    made: BTreeMap<ServiceName, Made>,
    config_map: Option<Key>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Made {
    service: Option<Arc<model::Service>>,
    problems: Vec<ObjectProblem>,
}

/// Why a service is left as it is for now.
struct Waits;

impl Resolver {
    pub(super) fn new(config: Arc<Config>, zone: Option<Arc<str>>) -> Self {
        Self {
            store: Store::default(),
            config,
            config_maps: HashMap::new(),
            pods: HashMap::new(),
            zone,
            memories: HashMap::new(),
            claims: Claims::default(),
        }
    }

    /// Looks at every service that may have changed.
    pub(super) fn resolve(&mut self) -> Resolved {
        let mut resolved = Resolved::default();
        loop {
            let dirty: BTreeSet<_> = self.store.take_dirty().into_iter().collect();
            if dirty.is_empty() {
                return resolved;
            }
            for key in dirty {
                self.look(&key, &mut resolved);
            }
        }
    }

    /// The ConfigMaps that services go by.
    pub(super) fn config_maps_in_use(&self) -> BTreeSet<Key> {
        let memories = self.memories.values();
        memories
            .filter_map(|memory| memory.config_map.clone())
            .collect()
    }

    /// What is to be published of a leader service; none if it does not ask for it.
    pub(super) fn publication(&self, key: &Key) -> Option<Publication> {
        let service = self.store.services.get(key)?;
        let is_asked =
            |(name, value): &(Box<str>, Box<str>)| &**name == PUBLISH && &**value == "true";
        service.annotations.iter().find(|each| is_asked(each))?;
        let name = ServiceName::new(&key.namespace, &key.name).ok()?;
        let made = self.memories.get(key)?.made.get(&name)?.service.as_ref()?;
        let pod = |backend: &model::Backend| {
            let pod = backend.ready.as_ref().map(|ready| ready.pod.to_string());
            (
                backend.address,
                (pod, backend.node.as_ref().map(ToString::to_string)),
            )
        };
        Some(Publication {
            uid: service.uid.to_string(),
            port: main_port(service)
                .map(|port| port.name.to_string())
                .unwrap_or_default(),
            pods: made.backends.iter().map(pod).collect(),
            name,
        })
    }

    /// Takes in what a ConfigMap says.
    pub(super) fn hear_config_map(&mut self, key: Key, says: ConfigMap) {
        if self.config_maps.get(&key) == Some(&says) {
            return;
        }
        for (service, memory) in &self.memories {
            if memory.config_map.as_ref() == Some(&key) {
                self.store.note(service.clone());
            }
        }
        self.config_maps.insert(key, says);
    }

    fn look(&mut self, key: &Key, resolved: &mut Resolved) {
        let mut memory = self.memories.remove(key).unwrap_or_default();
        let wanted = self
            .balanced(key)
            .map(|service| self.services(key, &service, &mut memory, resolved));
        let made = match wanted {
            // It is asked for; what has been told stays until there is an answer.
            Some(Err(Waits)) => {
                self.memories.insert(key.clone(), memory);
                return;
            }
            Some(Ok(made)) => made,
            None => {
                resolved.others.insert(key.clone());
                BTreeMap::new()
            }
        };
        let is_gone = made.is_empty();
        let before = std::mem::replace(&mut memory.made, made);
        for name in before
            .keys()
            .filter(|name| !memory.made.contains_key(*name))
        {
            self.claims.release(name, &mut self.store);
            resolved.changes.push(Change {
                name: name.clone(),
                service: None,
                problems: Vec::new(),
            });
        }
        for (name, made) in &memory.made {
            if before.get(name) != Some(made) {
                resolved.changes.push(Change {
                    name: name.clone(),
                    service: made.service.clone(),
                    problems: made.problems.clone(),
                });
            }
        }
        if !is_gone {
            self.memories.insert(key.clone(), memory);
        }
    }

    /// The Service, if it is to be balanced.
    fn balanced(&self, key: &Key) -> Option<Arc<Service>> {
        let service = self.store.services.get(key)?;
        let deployment = self.store.deployment_of(key, service);
        let below = deployment
            .map(|(_, deployment)| deployment.asks)
            .unwrap_or_default();
        let asks = service.asks;
        let is_function = asks.is_function || below.is_function;
        let is_enabled = asks.is_enabled.or(below.is_enabled).unwrap_or(is_function);
        is_enabled.then(|| service.clone())
    }

    /// Every service that a Service makes: one for each of its ports.
    fn services(
        &mut self,
        key: &Key,
        service: &Service,
        memory: &mut Memory,
        resolved: &mut Resolved,
    ) -> Result<BTreeMap<ServiceName, Made>, Waits> {
        let deployment = self.store.deployment_of(key, service);
        let deployment = deployment.map(|(key, it)| (key.clone(), it.clone()));
        let deployment = deployment.as_ref().map(|(key, it)| (key, it.as_ref()));
        let about = About { key };
        let mut problems = Vec::new();
        let Ok(main) = ServiceName::new(&key.namespace, &key.name) else {
            // The API allows no such name, so nobody can ask for it either.
            return Ok(BTreeMap::new());
        };
        let settings =
            self.settings(&main, service, deployment, memory, resolved, &mut problems)?;
        let is_leader = settings.strategy.value == Strategy::Leader;
        match is_leader {
            true => resolved.leaders.insert(key.clone()),
            false => resolved.others.insert(key.clone()),
        };
        let pods = self.pods.get(key);
        if is_leader && pods.is_none_or(Pods::are_awaited) {
            return Err(Waits);
        }
        let by_pods = settings.intercept.value == Intercept::Pods;
        if let Some(problem) = about.unfit(service, by_pods) {
            problems.push(problem);
            self.claims.release(&main, &mut self.store);
            let made = Made {
                service: None,
                problems,
            };
            return Ok(BTreeMap::from([(main, made)]));
        }
        let first = main_port(service);
        let mut made = BTreeMap::new();
        for port in &service.ports {
            let name = match Some(port) == first {
                true => main.clone(),
                false => match about.port_name(port) {
                    Ok(name) => name,
                    Err(fault) => {
                        problems.push(about.problem(
                            format!("port {} has no usable name: {fault}", port.number),
                            "name every port of a Service that has several",
                        ));
                        continue;
                    }
                },
            };
            let before = memory
                .made
                .get(&name)
                .and_then(|made| made.service.as_deref());
            let mut own = Vec::new();
            let frontends = about.frontends(
                (&mut self.claims, &mut self.store),
                &name,
                service,
                port,
                &mut own,
            );
            let is_dual = (
                frontends.iter().any(SocketAddr::is_ipv4),
                frontends.iter().any(SocketAddr::is_ipv6),
            );
            let found = endpoints::Wanted {
                port: &port.name,
                families: is_dual,
                zone: self.zone.as_ref(),
                pods: pods.filter(|_| is_leader),
            };
            let slices = self.store.slices_of(key);
            let mut backends = found.backends(slices, &mut own);
            if backends.len() > MAX_BACKENDS_PER_SERVICE {
                own.push(about.too_many(backends.len()));
                backends = before
                    .map(|before| before.backends.clone())
                    .unwrap_or_default();
            }
            self.claims.apart(&mut backends, &about, &mut own);
            let is_known = before.is_some() || self.claims.services() < MAX_SERVICES;
            if !is_known {
                own.push(about.problem(
                    format!("{MAX_SERVICES} services are balanced already, and no more fit"),
                    "take the annotation or label from some",
                ));
            }
            let wanted = model::Service::new(name.clone(), settings.clone(), frontends, backends);
            let can_be = is_known && (by_pods || !wanted.frontends.is_empty());
            self.claims.keep(&name, can_be);
            let service = can_be.then(|| match memory.made.get(&name) {
                Some(Made {
                    service: Some(before),
                    ..
                }) if **before == wanted => before.clone(),
                _ => Arc::new(wanted),
            });
            made.insert(
                name,
                Made {
                    service,
                    problems: own,
                },
            );
        }
        if let Some(main) = made.get_mut(&main) {
            main.problems.extend(problems);
        }
        Ok(made)
    }

    /// The settings of all services of one Service; the last good ones if they are bad now.
    fn settings(
        &self,
        name: &ServiceName,
        service: &Service,
        deployment: Option<(&Key, &Deployment)>,
        memory: &mut Memory,
        resolved: &mut Resolved,
        problems: &mut Vec<ObjectProblem>,
    ) -> Result<Settings, Waits> {
        let pairs = |pairs: &'_ [(Box<str>, Box<str>)]| -> Vec<(String, String)> {
            pairs
                .iter()
                .map(|(name, value)| (name.to_string(), value.to_string()))
                .collect()
        };
        let (own, below) = (
            pairs(&service.annotations),
            deployment
                .map(|(_, it)| pairs(&it.annotations))
                .unwrap_or_default(),
        );
        memory
            .annotated
            .update(own.iter().map(|(name, value)| (&**name, &**value)));
        memory
            .deployment
            .update(below.iter().map(|(name, value)| (&**name, &**value)));
        let key = Key {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        };
        let about = About { key: &key };
        problems.extend(
            memory
                .annotated
                .problems()
                .map(|problem| about.annotation("Service", problem)),
        );
        if let Some((at, _)) = deployment {
            let about = About { key: at };
            let wrong = memory.deployment.problems();
            problems.extend(wrong.map(|problem| about.annotation("Deployment", problem)));
        }
        let environment = self.limit(deployment, memory, resolved, problems);
        let is_known = environment.is_ok();
        let sources = Sources {
            service: &memory.annotated,
            deployment: Some(&memory.deployment),
            environment: environment.unwrap_or(memory.limit),
            is_function: service.asks.is_function
                || deployment.is_some_and(|(_, it)| it.asks.is_function),
        };
        let settings = match self.config.settings_of(name, &sources) {
            Ok(settings) => settings,
            Err(wrong) => {
                problems.extend(
                    wrong
                        .into_iter()
                        .map(|wrong| about.problem(wrong.message, wrong.hint)),
                );
                let none = Annotated::default();
                let plain = Sources {
                    service: &none,
                    deployment: None,
                    ..sources
                };
                let plain = || self.config.settings_of(name, &plain).unwrap_or_default();
                memory.settings.clone().unwrap_or_else(plain)
            }
        };
        if !is_known && settings.max_inflight.origin != Origin::Annotation {
            return Err(Waits);
        }
        memory.settings = Some(settings.clone());
        Ok(settings)
    }

    /// What the Deployment's environment says of `max_inflight`.
    fn limit(
        &self,
        deployment: Option<(&Key, &Deployment)>,
        memory: &mut Memory,
        resolved: &mut Resolved,
        problems: &mut Vec<ObjectProblem>,
    ) -> Result<Option<u32>, Waits> {
        memory.config_map = None;
        let Some((key, limit)) =
            deployment.and_then(|(key, it)| Some((key, it.max_inflight.as_ref()?)))
        else {
            memory.limit = None;
            return Ok(None);
        };
        let mut wrong = |message: String, hint: &str| {
            problems.push(ObjectProblem {
                kind: "Deployment".to_owned(),
                ..About { key }.problem(message, hint)
            })
        };
        let text = match limit {
            Limit::Literal(text) => Some(text.to_string()),
            Limit::Elsewhere => {
                wrong(
                    "the variable max_inflight comes from neither a literal nor a ConfigMap"
                        .to_owned(),
                    "write it as a literal or in a ConfigMap, or set the annotation idlefirst.dev/max-inflight",
                );
                return Ok(memory.limit);
            }
            Limit::ConfigMap { name, key: entry } => {
                let at = key.beside(name);
                memory.config_map = Some(at.clone());
                match self.config_maps.get(&at) {
                    None => {
                        resolved.unknown_config_maps.insert(at);
                        return Err(Waits);
                    }
                    Some(ConfigMap::Unreadable(why)) => {
                        wrong(
                            format!(
                                "ConfigMap {name}, which holds max_inflight, cannot be read: {why}"
                            ),
                            "create it, and let the agent read ConfigMaps",
                        );
                        return Ok(memory.limit);
                    }
                    Some(ConfigMap::Holds(entries)) => entries.get(&**entry).cloned(),
                }
            }
        };
        let Some(text) = text else {
            memory.limit = None;
            return Ok(None);
        };
        match text.trim().parse::<u32>() {
            Ok(limit) if limit <= MAX_INFLIGHT => memory.limit = Some(limit),
            _ => wrong(
                format!(
                    "the variable max_inflight is {text:?}, which is no number from 0 to {MAX_INFLIGHT}"
                ),
                "write digits only; 0 is unlimited",
            ),
        }
        Ok(memory.limit)
    }
}

/// The port that keeps the Service's own name.
fn main_port(service: &Service) -> Option<&Port> {
    let named = service.ports.iter().find(|port| &*port.name == MAIN_PORT);
    named.or(service.ports.first())
}

/// Words about one object.
pub(super) struct About<'a> {
    pub(super) key: &'a Key,
}

impl About<'_> {
    pub(super) fn problem(
        &self,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> ObjectProblem {
        ObjectProblem {
            kind: "Service".to_owned(),
            namespace: self.key.namespace.to_string(),
            name: self.key.name.to_string(),
            annotation: None,
            message: message.into(),
            hint: hint.into(),
        }
    }

    fn annotation(&self, kind: &str, problem: crate::config::AnnotationProblem) -> ObjectProblem {
        ObjectProblem {
            kind: kind.to_owned(),
            annotation: Some(problem.annotation),
            ..self.problem(problem.message, problem.hint)
        }
    }

    /// Why nothing can be made of this Service at all.
    fn unfit(&self, service: &Service, by_pods: bool) -> Option<ObjectProblem> {
        if service.is_external_name {
            let message =
                "it is an ExternalName, which is a name and no address that could be steered";
            return Some(self.problem(message, "balance the Service that the name stands for"));
        }
        if service.ports.is_empty() {
            return Some(self.problem(
                "it has no TCP port",
                "add one; UDP and SCTP are not balanced",
            ));
        }
        if service.cluster_ips.is_empty() && !by_pods {
            let message = "it is headless, so there is no cluster IP to steer from";
            let hint = "set idlefirst.dev/intercept: pods to steer what dials its pods, or give it a cluster IP";
            return Some(self.problem(message, hint));
        }
        None
    }

    /// What clients dial to reach this port.
    fn frontends(
        &self,
        (claims, store): (&mut Claims, &mut Store),
        name: &ServiceName,
        service: &Service,
        port: &Port,
        problems: &mut Vec<ObjectProblem>,
    ) -> Vec<SocketAddr> {
        let mut frontends = Vec::new();
        for text in service.cluster_ips.iter().take(MAX_FRONTENDS_PER_SERVICE) {
            let Ok(address) = text.parse::<IpAddr>() else {
                problems.push(self.problem(
                    format!("its cluster IP {text:?} is no IP address"),
                    "write an address, or None",
                ));
                continue;
            };
            let frontend = canonical(SocketAddr::new(address, port.number));
            if let Err(fault) = check_frontend(frontend) {
                problems.push(self.problem(
                    format!("{frontend} cannot be a frontend: {fault}"),
                    "give the Service a cluster IP",
                ));
                continue;
            }
            if !frontends.contains(&frontend) {
                frontends.push(frontend);
            }
        }
        for (frontend, other) in claims.claim(name, self.key, &frontends, store) {
            problems.push(self.problem(
                format!("{frontend} is already a frontend of {other}"),
                "give each Service cluster IPs of its own",
            ));
            frontends.retain(|each| *each != frontend);
        }
        frontends
    }

    /// The name of the service that a further port makes.
    fn port_name(&self, port: &Port) -> Result<ServiceName, NameFault> {
        let name = format!("{}:{}", self.key.name, port.name);
        ServiceName::new(&self.key.namespace, &name)
    }

    fn too_many(&self, backends: usize) -> ObjectProblem {
        self.problem(
            format!("it has {backends} endpoints, and a service has at most {MAX_BACKENDS_PER_SERVICE}; those of before stay"),
            "split the Service",
        )
    }
}

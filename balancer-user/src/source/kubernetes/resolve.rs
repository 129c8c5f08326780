//! From objects of the cluster to services: which are balanced, with what settings, and where.
//!
//! Pure: what has to be asked of the API first (ConfigMaps, Pods of leader services) is named in
//! the outcome, and a service that waits for an answer stays as it was. A bad object is told and
//! leaves the last good state of its own service alone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::about::About;
use super::claims::Claims;
use super::endpoints::Pods;
use super::kinds::{
    Asks, Deployment, DeploymentBody, ENABLED, PodBody, Service, ServiceBody, SliceBody, Switch,
};
use super::limit::{ConfigMap, LimitMemory, Readers};
use super::made::{AllMade, Made};
use super::object::{Body as _, Key};
use super::ports::{main_port, port_name};
use super::publish::Refusals;
use super::store::Store;
use crate::config::{Annotated, Config, Sources};
use crate::model::{self, Intercept, Origin, ServiceName, Settings, Strategy};
use crate::state::{Change, ObjectProblem};

/// How long a new function waits for its Deployment. Watches that were told of both at once are not
/// farther apart.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

/// Makes services of objects.
#[derive(Debug)]
pub(super) struct Resolver {
    pub(super) store: Store,
    pub(super) config: Arc<Config>,
    pub(super) config_maps: HashMap<Key, ConfigMap>,
    pub(super) readers: Readers,
    pub(super) pods: HashMap<Key, Pods>,
    refusals: Refusals,
    /// The agent's own zone.
    pub(super) zone: Option<Arc<str>>,
    /// How long new functions wait for their Deployments; zero until everything has been looked at
    /// once, since whatever is not there then is not coming.
    pub(super) patience: Duration,
    /// The agent's own node.
    pub(super) node: Option<Arc<str>>,
    memories: HashMap<Key, Box<Memory>>,
    /// Those that were kept last.
    last_settings: Arc<Settings>,
    pub(super) claims: Claims,
}

/// What came of the services that were looked at.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// Of each service the last: what was only so on the way is not told.
    pub(super) changes: BTreeMap<ServiceName, Change>,
    /// ConfigMaps that some of them go by and that are not known.
    pub(super) unknown_config_maps: BTreeSet<Key>,
    /// Services whose Pods are needed from now on.
    pub(super) leaders: BTreeSet<Key>,
    /// Services whose Pods are not.
    pub(super) others: BTreeSet<Key>,
    /// Services to look at once more after [`PATIENCE`].
    pub(super) later: BTreeSet<Key>,
}

/// What is remembered of a Service from one look to the next.
#[derive(Debug, Default)]
struct Memory {
    /// Of which Service by this name.
    uid: Box<str>,
    annotated: Annotated,
    deployment: Annotated,
    limit: LimitMemory,
    /// Whether its settings have been made with its Deployment known.
    saw_deployment: bool,
    /// Since when a new function waits for its Deployment.
    waits_since: Option<Instant>,
    /// What the switches last said that was good.
    enabled: Switch,
    enabled_below: Switch,
    publish: Switch,
    publish_below: Switch,
    /// The last good settings.
    settings: Option<Arc<Settings>>,
    /// The services made of it, as they were told, with what was wrong.
    made: AllMade,
    /// Whether it is not known yet what to make of it.
    waits: bool,
}

impl Memory {
    /// Forgets what was good of an earlier Service by this name.
    fn begin(self, uid: &str) -> Self {
        if *self.uid == *uid {
            return self;
        }
        Self {
            uid: uid.into(),
            made: self.made,
            ..Self::default()
        }
    }

    /// Whether the Service is to be balanced; says so if that cannot be told.
    fn is_balanced(
        &mut self,
        about: &About<'_>,
        asks: Asks,
        below: Option<(&Key, Asks)>,
        problems: &mut Vec<ObjectProblem>,
    ) -> bool {
        let (at, asks_below) = below.unzip();
        let asks_below = asks_below.unwrap_or_default();
        self.enabled = asks.enabled.or_last(self.enabled);
        self.enabled_below = asks_below.enabled.or_last(self.enabled_below);
        if asks.enabled == Switch::Bad {
            problems.push(about.no_switch(ENABLED));
        }
        if let Some(key) = at.filter(|_| asks_below.enabled == Switch::Bad) {
            let kind = DeploymentBody::KIND;
            problems.push(About { kind, key }.no_switch(ENABLED));
        }
        let turned = self.enabled.turned().or(self.enabled_below.turned());
        turned.unwrap_or(asks.is_function || asks_below.is_function)
    }

    /// Whether its Deployment may still come: objects that are made together are told by watches of
    /// their own, in any order.
    fn awaits_deployment(&mut self, patience: Duration) -> bool {
        if self.saw_deployment || self.limit.last.is_some() || self.made.has_backends() {
            return false;
        }
        self.waits_since.get_or_insert_with(Instant::now).elapsed() < patience
    }

    /// Forgets all that was good but for the switches: the Service is not balanced.
    fn only_switches(self) -> Self {
        Self {
            uid: self.uid,
            enabled: self.enabled,
            enabled_below: self.enabled_below,
            made: self.made,
            ..Self::default()
        }
    }

    /// Whether there is anything in it that is worth keeping.
    fn is_needed(&self) -> bool {
        !self.made.is_empty()
            || self.enabled != Switch::Absent
            || self.enabled_below != Switch::Absent
    }
}

/// Why nothing new can be made of a Service for now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// Something has been asked for.
    Asked,
    /// Something cannot be had. That is told, and it is asked for again.
    Refused,
}

impl Resolver {
    pub(super) fn new(config: Arc<Config>, zone: Option<Arc<str>>) -> Self {
        Self {
            store: Store::default(),
            config,
            config_maps: HashMap::new(),
            readers: Readers::default(),
            pods: HashMap::new(),
            refusals: Refusals::new(),
            zone,
            patience: Duration::ZERO,
            node: None,
            memories: HashMap::new(),
            last_settings: Arc::default(),
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

    /// What is remembered of the limit of a Service.
    pub(super) fn limit_memory(&self, key: &Key) -> Option<&LimitMemory> {
        self.memories.get(key).map(|memory| &memory.limit)
    }

    fn look(&mut self, key: &Key, resolved: &mut Resolved) {
        let mut memory = *self.memories.remove(key).unwrap_or_default();
        let entries = std::mem::take(&mut memory.limit.entries);
        memory.waits = false;
        let made = match self.store.services.get(key).cloned() {
            Some(service) => {
                memory = memory.begin(&service.uid);
                self.made_of(key, &service, &mut memory, resolved)
            }
            None => {
                memory.enabled = Switch::Absent;
                memory.enabled_below = Switch::Absent;
                resolved.needs_pods(key, false);
                Ok(AllMade::default())
            }
        };
        self.readers.change(key, &entries, &memory.limit.entries);
        let Ok(made) = made else {
            // It is asked for; what has been told stays until there is an answer.
            memory.waits = true;
            self.memories.insert(key.clone(), memory.into());
            return;
        };
        let before = std::mem::replace(&mut memory.made, made);
        if memory.made.is_empty() {
            self.claims.forget(key);
        }
        for (name, earlier) in before.iter() {
            let made = memory.made.get(name);
            let is_balanced = made.is_some_and(|made| made.service.is_some());
            if let Some(service) = earlier.service.as_ref().filter(|_| !is_balanced) {
                let places = &mut self.claims.places;
                places.leave(&service.backends, &mut self.store);
            }
            if made.is_none() {
                self.claims.release(name, key, &mut self.store);
                resolved.change(name, Made::default());
            }
        }
        for (name, made) in memory.made.iter() {
            if before.get(name) != Some(made) {
                resolved.change(name, made.clone());
            }
        }
        if memory.is_needed() {
            self.memories.insert(key.clone(), memory.into());
        }
    }

    /// What a Service makes, if it is to be balanced.
    fn made_of(
        &mut self,
        key: &Key,
        service: &Service,
        memory: &mut Memory,
        resolved: &mut Resolved,
    ) -> Result<AllMade, Waits> {
        let Ok(main) = ServiceName::new(&key.namespace, &key.name) else {
            // The API allows no such name, so nobody can ask for it either.
            resolved.needs_pods(key, false);
            return Ok(AllMade::default());
        };
        let deployment = self.store.deployment_of(key, service);
        let deployment = deployment.map(|(key, it)| (key.clone(), it.clone()));
        let deployment = deployment.as_ref().map(|(key, it)| (key, it.as_ref()));
        let about = About::service(key);
        let mut problems = Vec::new();
        let below = deployment.map(|(key, it)| (key, it.asks));
        if memory.is_balanced(&about, service.asks, below, &mut problems) {
            return self.services(
                (key, &main),
                service,
                deployment,
                problems,
                memory,
                resolved,
            );
        }
        resolved.needs_pods(key, false);
        *memory = std::mem::take(memory).only_switches();
        if problems.is_empty() {
            return Ok(AllMade::default());
        }
        Ok(self.nothing(main, key, problems))
    }

    /// Nothing can be made of a Service.
    fn nothing(&mut self, main: ServiceName, key: &Key, problems: Vec<ObjectProblem>) -> AllMade {
        self.claims.release(&main, key, &mut self.store);
        let (mut made, service) = (AllMade::default(), None);
        made.put(main, Made { service, problems });
        made
    }

    /// Every service that a Service makes: one for each of its ports.
    fn services(
        &mut self,
        (key, main): (&Key, &ServiceName),
        service: &Service,
        deployment: Option<(&Key, &Deployment)>,
        mut problems: Vec<ObjectProblem>,
        memory: &mut Memory,
        resolved: &mut Resolved,
    ) -> Result<AllMade, Waits> {
        let about = About::service(key);
        let settings = self.settings(main, service, deployment, memory, resolved, &mut problems);
        if settings == Err(Waits::Refused) {
            memory.waits = true;
            return Ok(self.nothing(main.clone(), key, problems));
        }
        let settings = settings?;
        let is_leader = settings.strategy.value == Strategy::Leader;
        resolved.needs_pods(key, is_leader);
        if is_leader && self.pods.get(key).is_none_or(Pods::are_awaited) {
            return Err(Waits::Asked);
        }
        self.say_unreadable(key, deployment.map(|(key, _)| key), &mut problems);
        self.say_unpublished(key, memory, is_leader, &mut problems);
        let by_pods = settings.intercept.value == Intercept::Pods;
        if let Some(problem) = about.unfit(service, by_pods) {
            problems.push(problem);
            return Ok(self.nothing(main.clone(), key, problems));
        }
        let first = main_port(service);
        let mut made = AllMade::default();
        for port in &service.ports {
            let name = match Some(port) == first {
                true => main.clone(),
                false => match port_name(key, port) {
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
            let before = memory.made.get(&name).and_then(|it| it.service.as_ref());
            let one = self.one((key, &name), service, port, &settings, before);
            made.put(name, one);
        }
        if let Some(main) = made.get_mut(main) {
            main.problems.extend(problems);
        }
        Ok(made)
    }

    /// Says which of the objects that a service is made of cannot be read.
    fn say_unreadable(
        &self,
        key: &Key,
        deployment: Option<&Key>,
        problems: &mut Vec<ObjectProblem>,
    ) {
        if let Some(unreadable) = self.store.services.unreadable().get(key) {
            problems.push(About::service(key).unreadable(unreadable));
        }
        let deployments = self.store.deployments.unreadable();
        if let Some((key, unreadable)) = deployment.and_then(|key| deployments.get_key_value(key)) {
            let kind = DeploymentBody::KIND;
            problems.push(About { kind, key }.unreadable(unreadable));
        }
        let pods = self.pods.get(key).into_iter();
        for (key, unreadable) in pods.flat_map(|pods| pods.unreadable()) {
            let kind = PodBody::KIND;
            problems.push(About { kind, key }.unreadable(unreadable));
        }
        let slices = self.store.slices.unreadable();
        if slices.is_empty() {
            return;
        }
        for (key, _) in self.store.slices_of(key) {
            if let Some(unreadable) = slices.get(key) {
                let kind = SliceBody::KIND;
                problems.push(About { kind, key }.unreadable(unreadable));
            }
        }
    }

    /// All objects that cannot be read, whether anything is made of them or not.
    pub(super) fn unreadable(&self) -> BTreeSet<ObjectProblem> {
        let store = &self.store;
        let pods = self.pods.values().flat_map(|pods| pods.unreadable());
        let all = store
            .services
            .unreadable()
            .iter()
            .map(|it| (ServiceBody::KIND, it))
            .chain(
                store
                    .slices
                    .unreadable()
                    .iter()
                    .map(|it| (SliceBody::KIND, it)),
            )
            .chain(
                store
                    .deployments
                    .unreadable()
                    .iter()
                    .map(|it| (DeploymentBody::KIND, it)),
            )
            .chain(pods.map(|it| (PodBody::KIND, it)));
        all.map(|(kind, (key, why))| About { kind, key }.unreadable(why))
            .collect()
    }

    /// Whether a function without a Deployment still has pods. They are those of the Deployment that
    /// it had, whose word counts until they are gone.
    fn is_bereft(&self, key: &Key, service: &Service) -> bool {
        let mut slices = self.store.slices_of(key);
        service.asks.is_function && slices.any(|(_, slice)| !slice.endpoints.is_empty())
    }

    /// A copy of settings to keep: most services have the same ones as the one before.
    fn shared(&mut self, settings: &Settings) -> Arc<Settings> {
        if *self.last_settings != *settings {
            self.last_settings = Arc::new(settings.clone());
        }
        self.last_settings.clone()
    }

    /// The settings of all services of one Service; the last good ones if they are bad now.
    fn settings(
        &mut self,
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
        let key = Key {
            namespace: name.namespace.clone(),
            name: name.name.clone(),
        };
        if deployment.is_some() || !self.is_bereft(&key, service) {
            let below = below.iter().map(|(name, value)| (&**name, &**value));
            memory.deployment.update(below);
        }
        let about = About::service(&key);
        let wrong = memory.annotated.problems();
        problems.extend(wrong.map(|problem| about.annotation(problem)));
        let below_stays = self.is_bereft(&key, service);
        memory.read_publish(&about, service, deployment, below_stays, problems);
        if let Some((key, _)) = deployment {
            let kind = DeploymentBody::KIND;
            let wrong = memory.deployment.problems();
            problems.extend(wrong.map(|problem| About { kind, key }.annotation(problem)));
        }
        let environment = match deployment {
            Some(deployment) => self.limit(deployment, &mut memory.limit, resolved, problems),
            None => {
                memory.limit.forget_entries();
                memory.limit.last = memory.limit.last.filter(|_| self.is_bereft(&key, service));
                match service.asks.is_function && memory.awaits_deployment(self.patience) {
                    true => {
                        resolved.later.insert(key.clone());
                        Err(Waits::Asked)
                    }
                    false => Ok(memory.limit.last),
                }
            }
        };
        let sources = Sources {
            service: &memory.annotated,
            deployment: Some(&memory.deployment),
            environment: environment.unwrap_or(memory.limit.last),
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
                let last = memory.settings.as_deref();
                last.cloned().unwrap_or_else(plain)
            }
        };
        // Of one that has pods already they are followed meanwhile, and what held before holds.
        let is_without =
            memory.limit.last.is_none() && !(memory.saw_deployment && memory.made.has_backends());
        let is_new = memory.settings.is_none() || is_without;
        if let Err(waits) = environment
            && is_new
            && settings.max_inflight.origin != Origin::Annotation
        {
            // What was taken to be without a limit before its Deployment came must not go on so.
            return Err(match memory.made.has_backends() {
                true => Waits::Refused,
                false => waits,
            });
        }
        memory.saw_deployment |= deployment.is_some();
        memory.settings = Some(self.shared(&settings));
        Ok(settings)
    }
}

impl Resolved {
    fn change(&mut self, name: &ServiceName, made: Made) {
        let change = Change {
            name: name.clone(),
            service: made.service,
            problems: made.problems,
        };
        self.changes.insert(name.clone(), change);
    }

    fn needs_pods(&mut self, key: &Key, is_leader: bool) {
        let (to, from) = match is_leader {
            true => (&mut self.leaders, &mut self.others),
            false => (&mut self.others, &mut self.leaders),
        };
        from.remove(key);
        to.insert(key.clone());
    }
}

mod publication;
#[cfg(test)]
mod tests;

//! A cluster whose objects are told one by one, without an API.
//!
//! Stands for the API and for the task that hears it: answers what `resolve` asks for at once, from
//! what it was told itself. Called by `crate::fuzzing`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1 as core;
use kube::runtime::watcher::Event;
use serde_json::Value;
use tokio::sync::watch::Receiver;

use super::endpoints::Pods;
use super::kinds::{DeploymentBody, Labels, Pod, PodBody, ServiceBody, SliceBody};
use super::limit::ConfigMap;
use super::object::{Body, Key, Seen};
use super::resolve::{Resolved, Resolver};
use super::store::Told;
use super::texts::Texts;
use super::watch::{lock, told};
use crate::config::Config;
use crate::state::{Snapshot, State};

/// The kinds that are listed whatever services there are.
pub const KINDS: [&str; 3] = [ServiceBody::KIND, SliceBody::KIND, DeploymentBody::KIND];

/// What was told of a cluster, and what came of it.
pub struct Objects {
    resolver: Resolver,
    texts: Mutex<Texts>,
    config_maps: BTreeMap<Key, core::ConfigMap>,
    pods: BTreeMap<Key, Value>,
    /// Leader services, and what they select.
    followed: BTreeMap<Key, Labels>,
    state: State,
    snapshots: Receiver<Arc<Snapshot>>,
}

impl Objects {
    /// A cluster without objects, for an agent with this configuration.
    ///
    /// # Panics
    /// If that is none.
    pub fn new(config: &str) -> Self {
        let loaded = Config::parse(config, "config.yaml", &|_| None).expect("a configuration");
        let config = Arc::new(loaded.config.clone());
        let state = State::new(loaded, PathBuf::new());
        let mut all = Self {
            resolver: Resolver::new(config, Some("zone-1".into())),
            texts: Mutex::default(),
            config_maps: BTreeMap::new(),
            pods: BTreeMap::new(),
            followed: BTreeMap::new(),
            snapshots: state.subscribe(),
            state,
        };
        all.resolver.node = Some("node-1".into());
        for kind in KINDS {
            all.relist(kind, &[]);
        }
        all
    }

    /// Tells that an object is new or changed. Gives whether the API could have one like it.
    pub fn put(&mut self, object: &Value) -> bool {
        match object["kind"].as_str().unwrap_or_default() {
            ServiceBody::KIND => self.service(seen(object).map(Event::Apply)),
            SliceBody::KIND => self.slice(seen(object).map(Event::Apply)),
            DeploymentBody::KIND => self.deployment(seen(object).map(Event::Apply)),
            PodBody::KIND => self.pod(object, true),
            "ConfigMap" => self.config_map(object, true),
            _ => false,
        }
    }

    /// Tells that an object is gone. Gives whether the API could have had one like it.
    pub fn gone(&mut self, object: &Value) -> bool {
        match object["kind"].as_str().unwrap_or_default() {
            ServiceBody::KIND => self.service(seen(object).map(Event::Delete)),
            SliceBody::KIND => self.slice(seen(object).map(Event::Delete)),
            DeploymentBody::KIND => self.deployment(seen(object).map(Event::Delete)),
            PodBody::KIND => self.pod(object, false),
            "ConfigMap" => self.config_map(object, false),
            _ => false,
        }
    }

    /// Tells all objects of one of [`KINDS`] anew. Those of other kinds are passed over.
    pub fn relist(&mut self, kind: &str, objects: &[&Value]) {
        let of_kind = objects.iter().filter(|object| object["kind"] == kind);
        match kind {
            ServiceBody::KIND => {
                self.service(Some(Event::Init));
                for object in of_kind {
                    self.service(seen(object).map(Event::InitApply));
                }
                self.service(Some(Event::InitDone));
            }
            SliceBody::KIND => {
                self.slice(Some(Event::Init));
                for object in of_kind {
                    self.slice(seen(object).map(Event::InitApply));
                }
                self.slice(Some(Event::InitDone));
            }
            _ => {
                self.deployment(Some(Event::Init));
                for object in of_kind {
                    self.deployment(seen(object).map(Event::InitApply));
                }
                self.deployment(Some(Event::InitDone));
            }
        }
    }

    /// Makes of everything what is to be made of it.
    pub fn look(&mut self) -> Arc<Snapshot> {
        let mut changes = BTreeMap::new();
        while !self.resolver.store.is_settled() {
            let resolved = self.resolver.resolve();
            self.answer(&resolved);
            changes.extend(resolved.changes);
        }
        self.state.note_unreadable(self.resolver.unreadable());
        self.state.amend(changes.into_values().collect());
        self.snapshots.borrow().clone()
    }

    fn service(&mut self, event: Option<Event<Seen<ServiceBody>>>) -> bool {
        let kept = |body: ServiceBody, uid| body.kept(uid, &mut lock(&self.texts));
        let event = event.map(|event| told(event, &kept));
        event
            .map(|told| self.resolver.store.hear_service(told))
            .is_some()
    }

    fn slice(&mut self, event: Option<Event<Seen<SliceBody>>>) -> bool {
        let kept = |body: SliceBody, _| body.kept(&mut lock(&self.texts));
        let event = event.map(|event| told(event, &kept));
        event
            .map(|told| self.resolver.store.hear_slice(told))
            .is_some()
    }

    fn deployment(&mut self, event: Option<Event<Seen<DeploymentBody>>>) -> bool {
        let kept = |body: DeploymentBody, _| body.kept(&mut lock(&self.texts));
        let event = event.map(|event| told(event, &kept));
        event
            .map(|told| self.resolver.store.hear_deployment(told))
            .is_some()
    }

    fn pod(&mut self, object: &Value, is_there: bool) -> bool {
        let Some(key) = seen::<PodBody>(object).map(|seen| seen.key()) else {
            return false;
        };
        match is_there {
            true => drop(self.pods.insert(key, object.clone())),
            false => drop(self.pods.remove(&key)),
        }
        for (service, selector) in &self.followed {
            let event = match is_there && is_selected(object, service, selector) {
                true => seen(object).map(Event::Apply),
                false => seen(object).map(Event::Delete),
            };
            if let (Some(event), Some(pods)) = (event, self.resolver.pods.get_mut(service))
                && pods.hear(told(event, &PodBody::kept))
            {
                self.resolver.store.note(service.clone());
            }
        }
        true
    }

    fn config_map(&mut self, object: &Value, is_there: bool) -> bool {
        let Ok(map) = serde_json::from_value::<core::ConfigMap>(object.clone()) else {
            return false;
        };
        let text = |text: &Option<String>| text.as_deref().unwrap_or_default().into();
        let key = Key {
            namespace: text(&map.metadata.namespace),
            name: text(&map.metadata.name),
        };
        match is_there {
            true => drop(self.config_maps.insert(key.clone(), map)),
            false => drop(self.config_maps.remove(&key)),
        }
        self.answer_map(&key);
        true
    }

    /// Answers what `resolve` has asked for.
    fn answer(&mut self, resolved: &Resolved) {
        for key in &resolved.unknown_config_maps {
            self.answer_map(key);
        }
        for key in &resolved.others {
            self.followed.remove(key);
            self.resolver.pods.remove(key);
        }
        for key in &resolved.leaders {
            if let Some(service) = self.resolver.store.services.get(key) {
                let selector = service.selector.clone();
                self.follow(key, selector);
            }
        }
    }

    fn answer_map(&mut self, key: &Key) {
        let Some(needs) = self.resolver.needs(key) else {
            return;
        };
        let says = match self.config_maps.get(key) {
            Some(map) => ConfigMap::holds(map.clone(), needs.keys),
            None => ConfigMap::Missing,
        };
        self.resolver.hear_config_map(key.clone(), says);
    }

    fn follow(&mut self, key: &Key, selector: Labels) {
        if self.followed.get(key) == Some(&selector) {
            return;
        }
        let mut pods = Pods::default();
        if selector.is_empty() {
            pods = Pods::refused();
        } else {
            pods.hear(Told::<Pod>::Begin);
            for object in self.pods.values() {
                if is_selected(object, key, &selector)
                    && let Some(seen) = seen(object)
                {
                    pods.hear(told(Event::InitApply(seen), &PodBody::kept));
                }
            }
            pods.hear(Told::End);
        }
        self.followed.insert(key.clone(), selector);
        self.resolver.pods.insert(key.clone(), pods);
        self.resolver.store.note(key.clone());
    }
}

fn seen<B: Body>(object: &Value) -> Option<Seen<B>> {
    serde_json::from_value(object.clone()).ok()
}

/// Whether the API would give this Pod to whoever asks for those that a service selects.
fn is_selected(pod: &Value, service: &Key, selector: &Labels) -> bool {
    let metadata = &pod["metadata"];
    metadata["namespace"] == *service.namespace
        && selector
            .iter()
            .all(|(name, value)| metadata["labels"][&**name] == **value)
}

//! The objects of the cluster as the watches have told them, and which services each change is
//! about.
//!
//! Pure. A relist is kept aside until it is complete and then swapped in whole, so that nothing
//! flaps while it lasts; what it does not change is about nobody.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::kinds::{Deployment, Labels, Service, Slice};
use super::object::Key;

/// What a watch tells of one kind.
#[derive(Debug)]
pub(super) enum Told<T> {
    /// A list of all begins.
    Begin,
    /// One of them.
    Listed(Key, T),
    /// One of them cannot be read.
    ListedUnreadable(Key),
    /// That was all.
    End,
    /// One is new or changed.
    Put(Key, T),
    /// One is gone.
    Gone(Key),
}

/// One object before and after.
pub(super) struct Difference<T> {
    pub(super) key: Key,
    pub(super) old: Option<Arc<T>>,
    pub(super) new: Option<Arc<T>>,
}

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Table<T> {
    current: HashMap<Key, Arc<T>>,
    /// The list under way.
    listed: HashMap<Key, Arc<T>>,
    pub(super) is_synced: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            current: HashMap::new(),
            listed: HashMap::new(),
            is_synced: false,
        }
    }
}

impl<T: PartialEq> Table<T> {
    pub(super) fn get(&self, key: &Key) -> Option<&Arc<T>> {
        self.current.get(key)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &Arc<T>> {
        self.current.values()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.current.keys()
    }

    /// Takes in what a watch tells; gives what is not as it was.
    pub(super) fn hear(&mut self, told: Told<T>) -> Vec<Difference<T>> {
        match told {
            Told::Begin => self.listed.clear(),
            Told::Listed(key, object) => {
                self.listed.insert(key, Arc::new(object));
            }
            Told::ListedUnreadable(key) => {
                if let Some(object) = self.current.get(&key) {
                    self.listed.insert(key, object.clone());
                }
            }
            Told::End => return self.swap(),
            Told::Put(key, object) => return self.put(key, Some(Arc::new(object))),
            Told::Gone(key) => return self.put(key, None),
        }
        Vec::new()
    }

    fn put(&mut self, key: Key, new: Option<Arc<T>>) -> Vec<Difference<T>> {
        let old = match &new {
            Some(object) => self.current.insert(key.clone(), object.clone()),
            None => self.current.remove(&key),
        };
        if old == new {
            return Vec::new();
        }
        vec![Difference { key, old, new }]
    }

    fn swap(&mut self) -> Vec<Difference<T>> {
        self.is_synced = true;
        let listed = std::mem::take(&mut self.listed);
        let mut before = std::mem::replace(&mut self.current, listed);
        let mut differences = Vec::new();
        for (key, object) in &mut self.current {
            let old = before.remove(key);
            if let Some(old) = old.as_ref().filter(|old| *old == object) {
                *object = old.clone();
                continue;
            }
            differences.push(Difference {
                key: key.clone(),
                old,
                new: Some(object.clone()),
            });
        }
        differences.extend(before.into_iter().map(|(key, old)| Difference {
            key,
            old: Some(old),
            new: None,
        }));
        differences
    }
}

/// Keys by one label that they have or select, within a namespace.
#[derive(Debug, Default)]
struct ByLabel(HashMap<LabelAt, BTreeSet<Key>>);

/// A namespace, and a label's name and value.
type LabelAt = (Arc<str>, Arc<str>, Arc<str>);

impl ByLabel {
    fn add(&mut self, key: &Key, labels: &Labels) {
        for (name, value) in labels {
            let at = (key.namespace.clone(), name.clone(), value.clone());
            self.0.entry(at).or_default().insert(key.clone());
        }
    }

    fn remove(&mut self, key: &Key, labels: &Labels) {
        for (name, value) in labels {
            let at = (key.namespace.clone(), name.clone(), value.clone());
            if let Some(keys) = self.0.get_mut(&at) {
                keys.remove(key);
                if keys.is_empty() {
                    self.0.remove(&at);
                }
            }
        }
    }

    fn at(&self, key: &Key, (name, value): &(Arc<str>, Arc<str>)) -> Option<&BTreeSet<Key>> {
        self.0
            .get(&(key.namespace.clone(), name.clone(), value.clone()))
    }
}

/// Every object that services are made of.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) services: Table<Service>,
    pub(super) slices: Table<Slice>,
    pub(super) deployments: Table<Deployment>,
    slices_of: HashMap<Key, BTreeSet<Key>>,
    /// Slices that agents have published.
    pub(super) published: BTreeSet<Key>,
    by_selector: ByLabel,
    by_label: ByLabel,
    /// Services to look at again.
    dirty: HashSet<Key>,
}

impl Store {
    /// Whether every kind has been told in whole.
    pub(super) fn is_synced(&self) -> bool {
        self.services.is_synced && self.slices.is_synced && self.deployments.is_synced
    }

    pub(super) fn hear_service(&mut self, told: Told<Service>) {
        for Difference { key, old, new } in self.services.hear(told) {
            if let Some(old) = old {
                self.by_selector.remove(&key, &old.selector);
            }
            if let Some(new) = new {
                self.by_selector.add(&key, &new.selector);
            }
            self.dirty.insert(key);
        }
    }

    pub(super) fn hear_slice(&mut self, told: Told<Slice>) {
        for Difference { key, old, new } in self.slices.hear(told) {
            if let Some(old) = old {
                let service = key.beside(&old.service);
                if let Some(slices) = self.slices_of.get_mut(&service) {
                    slices.remove(&key);
                    if slices.is_empty() {
                        self.slices_of.remove(&service);
                    }
                }
                self.dirty.insert(service);
            }
            self.published.remove(&key);
            if let Some(new) = new {
                if new.is_ours {
                    self.published.insert(key.clone());
                }
                let service = key.beside(&new.service);
                let slices = self.slices_of.entry(service.clone()).or_default();
                slices.insert(key);
                self.dirty.insert(service);
            }
        }
    }

    pub(super) fn hear_deployment(&mut self, told: Told<Deployment>) {
        for Difference { key, old, new } in self.deployments.hear(told) {
            if let Some(old) = old {
                self.by_label.remove(&key, &old.labels);
                self.note_selectors(&key, &old.labels);
            }
            if let Some(new) = new {
                self.by_label.add(&key, &new.labels);
                self.note_selectors(&key, &new.labels);
            }
        }
    }

    /// Marks the services that select pods with these labels.
    fn note_selectors(&mut self, key: &Key, labels: &Labels) {
        for label in labels {
            for service in self.by_selector.at(key, label).into_iter().flatten() {
                let selects = |service: &Arc<Service>| is_selected(&service.selector, labels);
                if self.services.get(service).is_some_and(selects) {
                    self.dirty.insert(service.clone());
                }
            }
        }
    }

    /// Has this service looked at again.
    pub(super) fn note(&mut self, service: Key) {
        self.dirty.insert(service);
    }

    /// Has all services looked at again.
    pub(super) fn note_all(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
    }

    /// The services to look at, which then need not be any more.
    pub(super) fn take_dirty(&mut self) -> HashSet<Key> {
        std::mem::take(&mut self.dirty)
    }

    /// The slices of a service, by name, without those that only name its leader.
    pub(super) fn slices_of(&self, service: &Key) -> impl Iterator<Item = (&Key, &Arc<Slice>)> {
        let keys = self.slices_of.get(service).into_iter().flatten();
        let slices = keys.filter_map(|key| Some((key, self.slices.get(key)?)));
        slices.filter(|(_, slice)| !slice.is_ours)
    }

    /// The Deployment whose pods the service selects: the one of its own name, or else the first.
    pub(super) fn deployment_of(
        &self,
        key: &Key,
        service: &Service,
    ) -> Option<(&Key, &Arc<Deployment>)> {
        let by_label = |label| self.by_label.at(key, label);
        let fewest = service
            .selector
            .iter()
            .map(by_label)
            .min_by_key(|keys| keys.map_or(0, BTreeSet::len))??;
        let fits = |key: &Key| {
            let (key, deployment) = self.deployments.current.get_key_value(key)?;
            is_selected(&service.selector, &deployment.labels).then_some((key, deployment))
        };
        let own = fewest.contains(key).then(|| fits(key)).flatten();
        own.or_else(|| fewest.iter().find_map(fits))
    }
}

/// Whether pods with these labels are selected. An empty selector selects none.
fn is_selected(selector: &Labels, labels: &Labels) -> bool {
    !selector.is_empty() && selector.iter().all(|pair| labels.contains(pair))
}

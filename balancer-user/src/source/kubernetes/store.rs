//! The objects of the cluster as the watches have told them, and which services each change is
//! about.
//!
//! Pure. A relist is kept aside until it is complete and then swapped in whole, so that nothing
//! flaps while it lasts; what it does not change is about nobody. An object that cannot be read
//! stays as it was, and is noted as such until it can be read or is gone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::keys::Keys;
use super::kinds::{Deployment, DeploymentBody, Labels, Service, ServiceBody, Slice, SliceBody};
use super::object::{Body as _, Key};

/// What a watch tells of one kind.
#[derive(Debug)]
pub(super) enum Told<T> {
    /// A list of all begins.
    Begin,
    /// One of them.
    Listed(Key, T),
    /// One of them cannot be read.
    ListedUnreadable(Key, Unreadable),
    /// That was all.
    End,
    /// One is new or changed.
    Put(Key, T),
    /// One is new or changed, and cannot be read.
    PutUnreadable(Key, Unreadable),
    /// One is gone.
    Gone(Key),
}

/// An object that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unreadable {
    pub(super) uid: Option<String>,
    pub(super) why: String,
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
    /// Those that cannot be read now.
    unreadable: BTreeMap<Key, Unreadable>,
    /// The list under way.
    listed: HashMap<Key, Arc<T>>,
    listed_unreadable: BTreeMap<Key, Unreadable>,
    pub(super) is_synced: bool,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            current: HashMap::new(),
            unreadable: BTreeMap::new(),
            listed: HashMap::new(),
            listed_unreadable: BTreeMap::new(),
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

    /// Those that cannot be read now.
    pub(super) fn unreadable(&self) -> &BTreeMap<Key, Unreadable> {
        &self.unreadable
    }

    /// Takes in what a watch tells; gives what is not as it was.
    pub(super) fn hear(&mut self, told: Told<T>) -> Vec<Difference<T>> {
        match told {
            Told::Begin => {
                self.listed.clear();
                self.listed_unreadable.clear();
            }
            Told::Listed(key, object) => {
                self.listed.insert(key, Arc::new(object));
            }
            Told::ListedUnreadable(key, unreadable) => {
                if let Some(object) = self.current.get(&key) {
                    self.listed.insert(key.clone(), object.clone());
                }
                self.listed_unreadable.insert(key, unreadable);
            }
            Told::End => return self.swap(),
            Told::Put(key, object) => {
                let was_unreadable = self.unreadable.remove(&key).is_some();
                return self.put(key, Some(Arc::new(object)), was_unreadable);
            }
            Told::PutUnreadable(key, unreadable) => {
                let before = self.unreadable.insert(key.clone(), unreadable);
                if before.as_ref() != self.unreadable.get(&key) {
                    let stays = self.current.get(&key).cloned();
                    return vec![Difference::staying(key, stays)];
                }
            }
            Told::Gone(key) => {
                let was_unreadable = self.unreadable.remove(&key).is_some();
                return self.put(key, None, was_unreadable);
            }
        }
        Vec::new()
    }

    fn put(&mut self, key: Key, new: Option<Arc<T>>, is_news: bool) -> Vec<Difference<T>> {
        let old = match &new {
            Some(object) => self.current.insert(key.clone(), object.clone()),
            None => self.current.remove(&key),
        };
        if old == new && !is_news {
            return Vec::new();
        }
        vec![Difference { key, old, new }]
    }

    fn swap(&mut self) -> Vec<Difference<T>> {
        self.is_synced = true;
        let listed = std::mem::take(&mut self.listed);
        let mut before = std::mem::replace(&mut self.current, listed);
        let unreadable = std::mem::take(&mut self.listed_unreadable);
        let was_unreadable = std::mem::replace(&mut self.unreadable, unreadable);
        let mut differences = Vec::new();
        for (key, object) in &mut self.current {
            let old = before.remove(key);
            if let Some(old) = old.as_ref().filter(|old| *old == object) {
                *object = old.clone();
                if was_unreadable.get(key) != self.unreadable.get(key) {
                    differences.push(Difference::staying(key.clone(), Some(old.clone())));
                }
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

impl<T> Difference<T> {
    /// Of an object only whether it can be read has changed.
    fn staying(key: Key, object: Option<Arc<T>>) -> Self {
        Self {
            key,
            old: object.clone(),
            new: object,
        }
    }
}

/// Keys by one label that they have or select, within a namespace.
#[derive(Debug, Default)]
struct ByLabel(HashMap<LabelAt, Option<Keys>>);

/// A namespace, and a label's name and value.
type LabelAt = (Arc<str>, Arc<str>, Arc<str>);

impl ByLabel {
    fn add(&mut self, key: &Key, labels: &Labels) {
        for (name, value) in labels {
            let at = (key.namespace.clone(), name.clone(), value.clone());
            Keys::add(self.0.entry(at).or_default(), key.clone());
        }
    }

    fn remove(&mut self, key: &Key, labels: &Labels) {
        for (name, value) in labels {
            let at = (key.namespace.clone(), name.clone(), value.clone());
            let keys = self.0.get_mut(&at).and_then(Option::as_mut);
            if keys.is_some_and(|keys| keys.remove(key)) {
                self.0.remove(&at);
            }
        }
    }

    fn at(&self, key: &Key, (name, value): &(Arc<str>, Arc<str>)) -> Option<&Keys> {
        let at = (key.namespace.clone(), name.clone(), value.clone());
        self.0.get(&at)?.as_ref()
    }
}

/// Every object that services are made of.
#[derive(Debug, Default)]
pub(super) struct Store {
    pub(super) services: Table<Service>,
    pub(super) slices: Table<Slice>,
    pub(super) deployments: Table<Deployment>,
    slices_of: HashMap<Key, Option<Keys>>,
    /// Slices that agents have published.
    pub(super) published: BTreeMap<Key, Arc<Slice>>,
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
                let slices = self.slices_of.get_mut(&service).and_then(Option::as_mut);
                if slices.is_some_and(|slices| slices.remove(&key)) {
                    self.slices_of.remove(&service);
                }
                self.dirty.insert(service);
            }
            self.published.remove(&key);
            if let Some(new) = new {
                if new.is_ours {
                    self.published.insert(key.clone(), new.clone());
                }
                let service = key.beside(&new.service);
                Keys::add(self.slices_of.entry(service.clone()).or_default(), key);
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
            let services = self.by_selector.at(key, label);
            for service in services.into_iter().flat_map(Keys::iter) {
                let selects = |service: &Arc<Service>| is_selected(&service.selector, labels);
                if self.services.get(service).is_some_and(selects) {
                    self.dirty.insert(service.clone());
                }
            }
        }
    }

    /// The uid of an object, where it is known.
    pub(super) fn uid(&self, kind: &str, key: &Key) -> Option<String> {
        let unreadable = match kind {
            ServiceBody::KIND => self.services.unreadable(),
            SliceBody::KIND => self.slices.unreadable(),
            DeploymentBody::KIND => self.deployments.unreadable(),
            _ => return None,
        };
        let kept = self
            .services
            .get(key)
            .filter(|service| kind == ServiceBody::KIND && !service.uid.is_empty())
            .map(|service| service.uid.to_string());
        kept.or_else(|| unreadable.get(key)?.uid.clone())
    }

    /// Has this service looked at again.
    pub(super) fn note(&mut self, service: Key) {
        self.dirty.insert(service);
    }

    /// Has those looked at again that have an endpoint with this address. Looks at all endpoints.
    pub(super) fn note_with_endpoint(&mut self, address: IpAddr) {
        for (key, slice) in &self.slices.current {
            let mut endpoints = slice.endpoints.iter();
            if endpoints.any(|endpoint| endpoint.address.to_canonical() == address) {
                self.dirty.insert(key.beside(&slice.service));
            }
        }
    }

    /// Has all services looked at again.
    pub(super) fn note_all(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
    }

    /// Whether there is no service to look at.
    pub(super) fn is_settled(&self) -> bool {
        self.dirty.is_empty()
    }

    /// The services to look at, which then need not be any more.
    pub(super) fn take_dirty(&mut self) -> HashSet<Key> {
        std::mem::take(&mut self.dirty)
    }

    /// The slices of a service, by name, without those that only name its leader.
    pub(super) fn slices_of(&self, service: &Key) -> impl Iterator<Item = (&Key, &Arc<Slice>)> {
        let keys = self.slices_of.get(service).into_iter().flatten();
        let keys = keys.flat_map(Keys::iter);
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
            .min_by_key(|keys| keys.map_or(0, Keys::len))??;
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

#[cfg(test)]
mod tests;

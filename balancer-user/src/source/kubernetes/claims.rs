//! Which service has which frontend, and which have room: each address and port leads to one
//! service only, and there are only so many services.
//!
//! First come, first served; whoever comes second is told, and looked at again when the first
//! lets go. Pure; called by `resolve`.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use super::about::About;
use super::object::Key;
use super::places::Places;
use super::store::Store;
use crate::model::{Backend, MAX_SERVICES, ServiceName};
use crate::state::ObjectProblem;

/// The frontends in use.
#[derive(Debug)]
pub(super) struct Claims {
    owners: HashMap<SocketAddr, ServiceName>,
    owned: HashMap<ServiceName, Vec<SocketAddr>>,
    /// Services that would have a frontend that another has, or have it as a backend, and those
    /// frontends.
    waiting: HashMap<SocketAddr, BTreeSet<(Key, ServiceName)>>,
    wanted: HashMap<ServiceName, Vec<SocketAddr>>,
    /// Services that have room.
    services: BTreeSet<ServiceName>,
    /// Of these a service has none.
    without_room: BTreeSet<Key>,
    /// Services at most.
    pub(super) room: usize,
    /// What services have at their backends.
    pub(super) places: Places,
}

impl Default for Claims {
    fn default() -> Self {
        Self {
            owners: HashMap::new(),
            owned: HashMap::new(),
            waiting: HashMap::new(),
            wanted: HashMap::new(),
            services: BTreeSet::new(),
            without_room: BTreeSet::new(),
            room: MAX_SERVICES,
            places: Places::default(),
        }
    }
}

impl Claims {
    /// Whether there is room for a service of the object `key`. If not, it is looked at again when
    /// there is.
    pub(super) fn has_room(&mut self, name: &ServiceName, key: &Key) -> bool {
        let has_room = self.services.contains(name) || self.services.len() < self.room;
        if !has_room {
            self.without_room.insert(key.clone());
        }
        has_room
    }

    /// Takes room for a service.
    pub(super) fn take_room(&mut self, name: &ServiceName) {
        self.services.insert(name.clone());
    }

    /// Gives the room of a service up.
    pub(super) fn leave_room(&mut self, name: &ServiceName, store: &mut Store) {
        if !self.services.remove(name) {
            return;
        }
        for key in std::mem::take(&mut self.without_room) {
            store.note(key);
        }
    }

    /// Claims exactly these frontends for a service of the object `key`, and has those looked at
    /// again that want what it lets go. Gives those that others have.
    pub(super) fn claim(
        &mut self,
        name: &ServiceName,
        key: &Key,
        frontends: &[SocketAddr],
        store: &mut Store,
    ) -> Vec<(SocketAddr, ServiceName)> {
        self.stop_waiting(name, key);
        let mut taken = Vec::new();
        let mut own = Vec::new();
        for frontend in frontends {
            let owner = self.owners.entry(*frontend).or_insert_with(|| {
                if self.places.is_taken(frontend) {
                    // Whoever has it as a backend must do without from now on.
                    store.note_with_endpoint(frontend.ip());
                }
                name.clone()
            });
            if owner == name {
                own.push(*frontend);
            } else {
                taken.push((*frontend, owner.clone()));
                let waiting = self.waiting.entry(*frontend).or_default();
                waiting.insert((key.clone(), name.clone()));
            }
        }
        if !taken.is_empty() {
            let wanted = taken.iter().map(|(frontend, _)| *frontend).collect();
            self.wanted.insert(name.clone(), wanted);
        }
        let before = self.owned.insert(name.clone(), own).unwrap_or_default();
        for frontend in before.into_iter().filter(|each| !frontends.contains(each)) {
            self.let_go(&frontend, store);
        }
        taken
    }

    /// Gives up all that a service of the object `key` has but its places, and has those looked at again that want
    /// it.
    pub(super) fn release(&mut self, name: &ServiceName, key: &Key, store: &mut Store) {
        self.places.stop_waiting(name);
        self.let_go_all(name, key, store);
    }

    /// Gives up frontends and room, but still waits for a place at a backend.
    pub(super) fn let_go_all(&mut self, name: &ServiceName, key: &Key, store: &mut Store) {
        self.stop_waiting(name, key);
        self.leave_room(name, store);
        for frontend in self.owned.remove(name).unwrap_or_default() {
            self.let_go(&frontend, store);
        }
    }

    /// Nothing of a Service is wanted any more.
    pub(super) fn forget(&mut self, key: &Key) {
        self.without_room.remove(key);
    }

    fn stop_waiting(&mut self, name: &ServiceName, key: &Key) {
        let waiter = (key.clone(), name.clone());
        for frontend in self.wanted.remove(name).unwrap_or_default() {
            if let Some(waiting) = self.waiting.get_mut(&frontend) {
                waiting.remove(&waiter);
                if waiting.is_empty() {
                    self.waiting.remove(&frontend);
                }
            }
        }
    }

    fn let_go(&mut self, frontend: &SocketAddr, store: &mut Store) {
        self.owners.remove(frontend);
        for (key, _) in self.waiting.remove(frontend).unwrap_or_default() {
            store.note(key);
        }
    }

    /// Leaves out backends that are frontends of a service: a connection to one would go round in
    /// circles. The service `name` of the object `key`, which has them, is looked at again when they
    /// are not frontends any more.
    pub(super) fn apart(
        &mut self,
        (key, name): (&Key, &ServiceName),
        backends: &mut Vec<Backend>,
        about: &About<'_>,
        problems: &mut Vec<ObjectProblem>,
    ) {
        backends.retain(|backend| {
            let Some(owner) = self.owners.get(&backend.address) else {
                return true;
            };
            problems.push(about.problem(
                format!("its endpoint {} is a frontend of {owner}", backend.address),
                "an endpoint is a pod's own address",
            ));
            let waiting = self.waiting.entry(backend.address).or_default();
            waiting.insert((key.clone(), name.clone()));
            let wanted = self.wanted.entry(name.clone()).or_default();
            wanted.push(backend.address);
            false
        });
    }

    /// How many services there are.
    #[cfg(test)]
    pub(super) fn services(&self) -> usize {
        self.services.len()
    }

    /// Whether nothing is remembered.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.owners.is_empty()
            && self.owned.is_empty()
            && self.waiting.is_empty()
            && self.wanted.is_empty()
            && self.services.is_empty()
            && self.without_room.is_empty()
            && self.places.is_empty()
    }
}

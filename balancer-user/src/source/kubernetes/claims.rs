//! Which service has which frontend: each address and port leads to one service only.
//!
//! First come, first served; whoever comes second is told, and looked at again when the first
//! lets go. Pure; called by `resolve`.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;

use super::object::Key;
use super::resolve::About;
use super::store::Store;
use crate::model::{Backend, ServiceName};
use crate::state::ObjectProblem;

/// The frontends in use.
#[derive(Debug, Default)]
pub(super) struct Claims {
    owners: HashMap<SocketAddr, ServiceName>,
    owned: HashMap<ServiceName, Vec<SocketAddr>>,
    /// Services that would have a frontend that another has.
    waiting: HashMap<SocketAddr, BTreeSet<Key>>,
    services: BTreeSet<ServiceName>,
}

impl Claims {
    /// How many services there are.
    pub(super) fn services(&self) -> usize {
        self.services.len()
    }

    /// Notes whether the service is there.
    pub(super) fn keep(&mut self, name: &ServiceName, is_there: bool) {
        match is_there {
            true => self.services.insert(name.clone()),
            false => self.services.remove(name),
        };
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
        let mut taken = Vec::new();
        let mut own = Vec::new();
        for frontend in frontends {
            let owner = self.owners.entry(*frontend).or_insert_with(|| name.clone());
            if owner == name {
                own.push(*frontend);
            } else {
                taken.push((*frontend, owner.clone()));
                let waiting = self.waiting.entry(*frontend).or_default();
                waiting.insert(key.clone());
            }
        }
        let before = self.owned.insert(name.clone(), own).unwrap_or_default();
        for frontend in before.into_iter().filter(|each| !frontends.contains(each)) {
            self.let_go(&frontend, store);
        }
        taken
    }

    /// Gives up all frontends of a service, and has those looked at again that want them.
    pub(super) fn release(&mut self, name: &ServiceName, store: &mut Store) {
        self.services.remove(name);
        for frontend in self.owned.remove(name).unwrap_or_default() {
            self.let_go(&frontend, store);
        }
    }

    fn let_go(&mut self, frontend: &SocketAddr, store: &mut Store) {
        self.owners.remove(frontend);
        for key in self.waiting.remove(frontend).unwrap_or_default() {
            store.note(key);
        }
    }

    /// Leaves out backends that are frontends of a service: a connection to one would go round in
    /// circles.
    pub(super) fn apart(
        &self,
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
            false
        });
    }
}

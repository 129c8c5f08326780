//! How many services each pod is in: a backend has places in only so many.
//!
//! First come, first served; whoever finds none is looked at again when one is left. Pure; called
//! by `ports` and `resolve`.

use std::collections::{HashMap, HashSet};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6};

use super::object::Key;
use super::store::Store;
use crate::model::{Backend, MAX_SERVICES_PER_BACKEND, ServiceName};

/// The places that are taken.
#[derive(Debug, Default)]
pub(super) struct Places {
    // Of a hundred thousand IPv4 addresses a megabyte; together with IPv6 it would be five.
    v4: HashMap<SocketAddrV4, u8>,
    v6: HashMap<SocketAddrV6, u8>,
    /// The services that found none, of which objects, and at which backend.
    waiting: HashMap<ServiceName, (Key, SocketAddr)>,
}

impl Places {
    /// Takes places at the backends of a service that has them at those of before.
    ///
    /// # Errors
    /// If one has none left. Then nothing changes, and the service waits for it.
    pub(super) fn take(
        &mut self,
        (key, name): (&Key, &ServiceName),
        before: &[Backend],
        now: &[Backend],
        store: &mut Store,
    ) -> Result<(), SocketAddr> {
        self.stop_waiting(name);
        let addresses = |backends: &'_ [Backend]| -> Vec<_> {
            backends.iter().map(|backend| backend.address).collect()
        };
        let (before, now) = (addresses(before), addresses(now));
        if before == now {
            return Ok(());
        }
        self.remove(&before);
        let mut all = now.iter();
        let crowded = all.find(|address| self.count(address) >= MAX_SERVICES_PER_BACKEND);
        if let Some(address) = crowded {
            self.add(&before);
            self.waiting.insert(name.clone(), (key.clone(), *address));
            return Err(*address);
        }
        self.add(&now);
        self.note_left(&before, store);
        Ok(())
    }

    /// Leaves the places at these backends.
    pub(super) fn leave(&mut self, backends: &[Backend], store: &mut Store) {
        let addresses: Vec<_> = backends.iter().map(|backend| backend.address).collect();
        self.remove(&addresses);
        self.note_left(&addresses, store);
    }

    /// A service wants no place any more.
    pub(super) fn stop_waiting(&mut self, name: &ServiceName) {
        self.waiting.remove(name);
    }

    /// Has those looked at again that wait for a place at one of these.
    fn note_left(&mut self, addresses: &[SocketAddr], store: &mut Store) {
        if self.waiting.is_empty() {
            return;
        }
        let left: HashSet<_> = addresses.iter().collect();
        for (key, address) in self.waiting.values() {
            if left.contains(address) && self.count(address) < MAX_SERVICES_PER_BACKEND {
                store.note(key.clone());
            }
        }
    }

    /// Whether an address is a backend of any service.
    pub(super) fn is_taken(&self, address: &SocketAddr) -> bool {
        self.count(address) > 0
    }

    fn count(&self, address: &SocketAddr) -> usize {
        let count = match address {
            SocketAddr::V4(address) => self.v4.get(address),
            SocketAddr::V6(address) => self.v6.get(address),
        };
        count.copied().unwrap_or(0).into()
    }

    fn add(&mut self, addresses: &[SocketAddr]) {
        for address in addresses {
            let count = match address {
                SocketAddr::V4(address) => self.v4.entry(*address).or_default(),
                SocketAddr::V6(address) => self.v6.entry(*address).or_default(),
            };
            *count += 1;
        }
    }

    fn remove(&mut self, addresses: &[SocketAddr]) {
        for address in addresses {
            match address {
                SocketAddr::V4(address) => remove_one(&mut self.v4, address),
                SocketAddr::V6(address) => remove_one(&mut self.v6, address),
            }
        }
    }

    /// Whether nothing is remembered.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty() && self.waiting.is_empty()
    }
}

fn remove_one<A: Eq + std::hash::Hash>(counts: &mut HashMap<A, u8>, address: &A) {
    if let Some(count) = counts.get_mut(address) {
        *count -= 1;
        if *count == 0 {
            counts.remove(address);
        }
    }
}

//! What is in the kernel: the agent's pinned maps, read one record a system call.
//!
//! Whoever connects reads these very records, so what is here is in force. Called by `stage` and
//! `steps`.

use std::{
    mem::offset_of,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use anyhow::{Context, Result};
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use balancer_common::{
    address::{Address, FrontendKey, LeadsTo, Port},
    maps,
    service::{Backend, IndexWords, LEAF_POSITIONS, Leaf, SERVICE_LEAVES, Service},
};

const WORD: usize = size_of::<u32>();
type ServiceWords = [u32; size_of::<Service>() / WORD];
type LeafWords = [u32; size_of::<Leaf>() / WORD];
type BackendWords = [u32; size_of::<Backend>() / WORD];

/// The maps of a running agent.
pub(super) struct Kernel {
    frontends: HashMap<MapData, [u32; 5], u32>,
    services: Array<MapData, ServiceWords>,
    leaves: Array<MapData, LeafWords>,
    backends: Array<MapData, BackendWords>,
}

impl Kernel {
    /// Opens what an agent has pinned. It fails until it has.
    pub(super) fn open(pins: &Path) -> Result<Self> {
        let data = |name: &str| {
            let path = pins.join(name);
            MapData::from_pin(&path).with_context(|| format!("cannot open {}", path.display()))
        };
        let array = |name: &str| data(name).map(Map::Array);
        Ok(Self {
            frontends: Map::HashMap(data(maps::FRONTENDS)?).try_into()?,
            services: array(maps::SERVICES)?.try_into()?,
            leaves: array(maps::LEAVES)?.try_into()?,
            backends: array(maps::BACKENDS)?.try_into()?,
        })
    }

    /// The id of the service that a frontend leads to, and how many backends it has. `None` if there
    /// is no such frontend.
    pub(super) fn service_at(&self, frontend: SocketAddr) -> Result<Option<(u32, u32)>> {
        let leads_to = match self.frontends.get(&FrontendKey::from(frontend).0, 0) {
            Ok(leads_to) => LeadsTo(leads_to),
            Err(MapError::KeyNotFound) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let service = self.services.get(&leads_to.id(), 0)?;
        let backends = service[offset_of!(Service, backends) / WORD];
        Ok(Some((leads_to.id(), backends)))
    }

    /// Whether a backend with this address stands in the service and may be chosen.
    pub(super) fn offers(&self, service: u32, backend: SocketAddr) -> Result<bool> {
        let record = self.services.get(&service, 0)?;
        let first = offset_of!(Service, leaves) / WORD;
        let leaves = &record[first..first + SERVICE_LEAVES];
        for leaf in leaves.iter().filter_map(|plus_one| plus_one.checked_sub(1)) {
            if self.has_in_leaf(leaf, backend)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn has_in_leaf(&self, leaf: u32, backend: SocketAddr) -> Result<bool> {
        let leaf = self.leaves.get(&leaf, 0)?;
        let at = (offset_of!(Leaf, index) + offset_of!(IndexWords, available)) / WORD;
        let available = u64::from(leaf[at]) | u64::from(leaf[at + 1]) << 32;
        let first = offset_of!(Leaf, backends) / WORD;
        for position in (0..LEAF_POSITIONS).rev() {
            if available & 1 << position == 0 {
                continue;
            }
            let Some(id) = leaf[first + position].checked_sub(1) else {
                continue;
            };
            if self.address_of(id)? == backend {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn address_of(&self, backend: u32) -> Result<SocketAddr> {
        let record = self.backends.get(&backend, 0)?;
        let at = offset_of!(Backend, address) / WORD;
        let words = [record[at], record[at + 1], record[at + 2], record[at + 3]];
        let port = Port(record[offset_of!(Backend, port) / WORD] as u16);
        Ok(SocketAddr::new(IpAddr::from(Address(words)), port.into()))
    }
}

//! TABLES and AFFINITY: what strategies go by that is no record.
//!
//! A service's table is an array of its own inside TABLES. A new one is filled before it is put in
//! place, so the programs see the old or the new one and nothing between.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Mutex,
};

use aya::maps::{HashMap, Map, MapData, MapError};
use balancer_common::{
    affinity::{Binding, Bound},
    maps,
};

use super::{KernelError, load::held, record::Record, syscall};

/// Tables that are put in place at once, each of which takes a file descriptor until it is.
const AT_ONCE: usize = 256;

/// TABLES and AFFINITY.
pub(super) struct StrategyMaps {
    /// TABLES, which aya can only update one by one, with a grace period for each.
    pub(super) tables: OwnedFd,
    /// AFFINITY for the data path.
    pub(super) affinity: Mutex<Affinity>,
    /// The same map, for whoever lists it: that takes long, and nobody is to wait for it.
    pub(super) listed: Mutex<Affinity>,
}

/// AFFINITY.
pub(super) type Affinity = HashMap<MapData, Record<Binding>, Record<Bound>>;

/// A second handle on AFFINITY.
pub(super) fn another(affinity: OwnedFd) -> Result<Affinity, KernelError> {
    let data = MapData::from_fd(affinity).map_err(KernelError::map("use", maps::AFFINITY))?;
    Affinity::try_from(Map::LruHashMap(data)).map_err(KernelError::map("use", maps::AFFINITY))
}

impl StrategyMaps {
    /// See [`super::Kernel::put_tables`].
    pub(super) fn put(&self, tables: &[(u32, Vec<u64>)]) -> Result<(), KernelError> {
        for some in tables.chunks(AT_ONCE) {
            let services: Vec<_> = some.iter().map(|(service, _)| *service).collect();
            let arrays = some
                .iter()
                .map(|(_, words)| filled(words))
                .collect::<Result<Vec<_>, _>>()?;
            syscall::put_maps(self.tables.as_fd(), &services, &arrays)
                .map_err(KernelError::system("putting tables of positions in place"))?;
        }
        Ok(())
    }

    /// See [`super::Kernel::bound`].
    pub(super) fn bound(&self, binding: Binding) -> Result<Option<Bound>, KernelError> {
        match held(&self.affinity).get(&Record(binding), 0) {
            Ok(bound) => Ok(Some(*bound)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(KernelError::map("read", maps::AFFINITY)(error)),
        }
    }

    /// See [`super::Kernel::bind`].
    pub(super) fn bind(&self, binding: Binding, bound: Bound) -> Result<(), KernelError> {
        held(&self.affinity)
            .insert(Record(binding), Record(bound), 0)
            .map_err(KernelError::map("write to", maps::AFFINITY))
    }

    /// See [`super::Kernel::bindings`].
    pub(super) fn bindings(&self) -> Result<Vec<(Binding, Bound)>, KernelError> {
        held(&self.listed)
            .iter()
            .map(|entry| entry.map(|(Record(binding), Record(bound))| (binding, bound)))
            .collect::<Result<_, _>>()
            .map_err(KernelError::map("read", maps::AFFINITY))
    }
}

/// An array with these words in it.
fn filled(words: &[u64]) -> Result<OwnedFd, KernelError> {
    let array = syscall::mappable_array(words.len() as u32)
        .map_err(KernelError::system("making a table of positions"))?;
    syscall::fill(array.as_fd(), words)
        .map_err(KernelError::system("filling a table of positions"))?;
    Ok(array)
}

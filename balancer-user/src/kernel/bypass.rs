//! BYPASS: the cgroups whose connections the programs leave alone.

use std::{collections::BTreeSet, sync::Mutex};

use aya::maps::{HashMap, MapData};
use balancer_common::{
    connection::BYPASS_LEVELS,
    maps::{self, MAX_BYPASSES},
};

use super::{Cgroup, KernelError, load::held, overflow};

/// BYPASS.
pub(super) struct BypassMap(pub(super) Mutex<HashMap<MapData, u64, u32>>);

impl BypassMap {
    /// Puts these in place of those that are there. Gives the levels at which they are, a bit
    /// each, and those that do not fit.
    pub(super) fn put(
        &self,
        cgroups: &BTreeSet<Cgroup>,
    ) -> Result<(u32, Vec<Cgroup>), KernelError> {
        let (reachable, mut left_out): (Vec<_>, Vec<_>) = cgroups
            .iter()
            .copied()
            .partition(|cgroup| cgroup.level < BYPASS_LEVELS);
        let fit = reachable.len().min(MAX_BYPASSES as usize);
        let (wanted, too_many) = reachable.split_at(fit);
        left_out.extend(too_many);
        let mut unwanted: BTreeSet<_> = self.ids()?.into_iter().collect();
        let missing: Vec<_> = wanted
            .iter()
            .filter(|cgroup| !unwanted.remove(&cgroup.id))
            .collect();
        let mut map = held(&self.0);
        for id in unwanted {
            match map.remove(&id) {
                Err(error) if !overflow::is_absent(&error) => {
                    return Err(KernelError::map("remove from", maps::BYPASS)(error));
                }
                _ => {}
            }
        }
        for cgroup in missing {
            map.insert(cgroup.id, 1, 0)
                .map_err(KernelError::map("write to", maps::BYPASS))?;
        }
        let levels = wanted.iter().fold(0, |bits, it| bits | 1 << it.level);
        Ok((levels, left_out))
    }

    /// The ids that are there.
    pub(super) fn ids(&self) -> Result<Vec<u64>, KernelError> {
        held(&self.0)
            .keys()
            .collect::<Result<_, _>>()
            .map_err(KernelError::map("read", maps::BYPASS))
    }
}

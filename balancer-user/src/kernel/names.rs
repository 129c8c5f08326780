//! NAMES: what the services' ids stand for, for agents that come later.

use std::sync::Mutex;

use aya::maps::{Array, MapData};
use balancer_common::maps::{self, MAX_SERVICES, NAME_BYTES};

use super::{KernelError, load::held};

/// One name, with zeros behind it.
type Padded = [u8; NAME_BYTES];

/// The map.
pub(super) struct NamesMap(pub(super) Mutex<Array<MapData, Padded>>);

impl NamesMap {
    /// See [`super::Kernel::put_name`].
    pub(super) fn put(&self, service: u32, name: &str) -> Result<(), KernelError> {
        let mut padded = [0; NAME_BYTES];
        for (place, byte) in padded.iter_mut().zip(name.bytes()) {
            *place = byte;
        }
        held(&self.0)
            .set(service, padded, 0)
            .map_err(KernelError::map("write to", maps::NAMES))
    }

    /// See [`super::Kernel::names`].
    pub(super) fn all(&self) -> Result<Vec<(u32, String)>, KernelError> {
        let map = held(&self.0);
        let mut names = Vec::new();
        for service in 0..MAX_SERVICES {
            let padded = map
                .get(&service, 0)
                .map_err(KernelError::map("read", maps::NAMES))?;
            let len = padded.iter().position(|byte| *byte == 0);
            let bytes = &padded[..len.unwrap_or(NAME_BYTES)];
            if let (false, Ok(name)) = (bytes.is_empty(), std::str::from_utf8(bytes)) {
                names.push((service, name.to_owned()));
            }
        }
        Ok(names)
    }
}

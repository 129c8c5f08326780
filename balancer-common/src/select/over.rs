//! Taking a slot on a full backend: what is left while the agent is gone, if the service would
//! rather overload than refuse.

use crate::{
    atomic::{fetch_add, load32, store32},
    service::{Backend, LEAF_POSITIONS, SERVICE_LEAVES, Strategy, Tables},
    slot::{self, Side},
};

use super::{
    Load, backend_at,
    draw::{NOBODY, lesser},
    leader::Leader,
};

/// Draws of [`over_admit`].
const DRAWS: u32 = 8;

/// Takes a slot on the least loaded of some usable backends drawn at random (or on the leader),
/// even if it is full.
#[inline(always)]
pub fn over_admit<T: Tables>(tables: &T, service_id: u32, side: Side) -> Option<u32> {
    let service = tables.service(service_id)?;
    if load32(&service.strategy) == Strategy::Leader as u32 {
        let leader = Leader::from_word(tables.elect(service_id, side))?;
        take_beyond(tables, leader.id, tables.backend(leader.id)?, side);
        return Some(leader.id);
    }
    let positions = load32(&service.positions);
    let mut least = NOBODY;
    let mut drawn = 0;
    while drawn < DRAWS {
        let position = ((tables.random() as u64 * positions as u64) >> 32) as u32;
        least = lesser(least, tables.load_at(service_id, position).at(position));
        drawn += 1;
    }
    // Where usable ones are rare, the first that there is.
    let mut number = 0;
    while number * (LEAF_POSITIONS as u32) < positions
        && number < SERVICE_LEAVES as u32
        && least.position == NOBODY.position
    {
        if let Some(position) = tables.usable_in_leaf(service_id, number) {
            least = tables.load_at(service_id, position).at(position);
        }
        number += 1;
    }
    if least.position == NOBODY.position {
        return None;
    }
    store32(&service.cursor, least.position);
    let (id, backend) = backend_at(tables, service, least.position)?;
    take_beyond(tables, id, backend, side);
    Some(id)
}

#[inline(always)]
fn take_beyond<T: Tables>(tables: &T, id: u32, backend: &Backend, side: Side) {
    slot::take_beyond(backend, side);
    fetch_add(&backend.steered, 1);
    tables.refresh(id);
}

/// The first position of a leaf at which a backend stands that could be used.
#[inline(always)]
pub fn usable_in_leaf<T: Tables>(tables: &T, service_id: u32, number: u32) -> Option<u32> {
    let first = number * LEAF_POSITIONS as u32;
    let mut place = 0;
    while place < LEAF_POSITIONS as u32 {
        if tables.load_at(service_id, first + place) != Load::NONE {
            return Some(first + place);
        }
        place += 1;
    }
    None
}

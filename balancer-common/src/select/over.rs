//! What is left while the agent is gone: slots that it held and that end with it; and a full backend,
//! if the service would rather overload than refuse.

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

/// Takes a slot on the first usable backend (or on the leader) that has one left if a dead agent's do
/// not count, and gives those back.
#[inline(always)]
pub fn reclaim<T: Tables>(tables: &T, service_id: u32, side: Side) -> Option<u32> {
    let service = tables.service(service_id)?;
    if load32(&service.strategy) == Strategy::Leader as u32 {
        let leader = Leader::from_word(tables.elect(service_id, side))?;
        return take_from_dead(tables, leader.id, tables.backend(leader.id)?);
    }
    let positions = load32(&service.positions);
    let mut number = 0;
    while number * (LEAF_POSITIONS as u32) < positions && number < SERVICE_LEAVES as u32 {
        if let Some(position) = tables.dead_in_leaf(service_id, number)
            && let Some((id, backend)) = backend_at(tables, service, position)
            && let Some(id) = take_from_dead(tables, id, backend)
        {
            return Some(id);
        }
        number += 1;
    }
    None
}

#[inline(always)]
fn take_from_dead<T: Tables>(tables: &T, id: u32, backend: &Backend) -> Option<u32> {
    slot::take_from_dead(backend)?;
    fetch_add(&backend.steered, 1);
    tables.refresh(id);
    Some(id)
}

/// The first position of a leaf at which a dead agent holds slots that could be handed out.
#[inline(always)]
pub fn dead_in_leaf<T: Tables>(tables: &T, service_id: u32, number: u32) -> Option<u32> {
    let service = tables.service(service_id)?;
    let first = number * LEAF_POSITIONS as u32;
    let mut place = 0;
    while place < LEAF_POSITIONS as u32 {
        if let Some((_, backend)) = backend_at(tables, service, first + place)
            && slot::has_dead(backend)
        {
            return Some(first + place);
        }
        place += 1;
    }
    None
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

//! Taking turns: the next backend, or the next of a smooth weighted turn.
//!
//! The weighted turn is that of nginx's upstream module: each backend gains its weight at every
//! turn, and the one that has most is chosen and pays the sum of all weights. Since that sequence
//! repeats itself, the agent writes one period of it down (`balancer_user::reconcile::tables`), and
//! the programs only count.

use crate::{
    atomic::{compare_exchange32, fetch_add, load32},
    service::Tables,
    slot::Want,
    table::{self, Kind},
};

use super::{Attempt, Place, Taker, is_in};

/// Turns that are given to a backend which then turns out to be full, before settling for any.
const TRIES: u32 = 16;

/// Takes a slot on the next available backend in turn.
#[inline(always)]
pub(super) fn round_robin<T: Tables>(
    tables: &T,
    place: &Place<'_>,
    taker: Taker,
    leaves: u64,
) -> Attempt {
    let cursor = &place.service.cursor;
    let mut tries = 0;
    while tries < TRIES {
        let last = load32(cursor);
        let from = last.wrapping_add(1);
        let Some(position) = tables.next_available(place.service_id, from, leaves) else {
            return Attempt::NOTHING;
        };
        // The turn is claimed before the slot, so that two at once get different backends.
        if compare_exchange32(cursor, last, position) {
            let attempt = tables.take_at(place.service_id, position, Want::Available, taker);
            if attempt.is_taken() {
                return attempt;
            }
        }
        tries += 1;
    }
    place.take_any(tables, load32(cursor).wrapping_add(1), taker, leaves)
}

/// Takes a slot on the next backend of the weighted turn; a full one loses its turn.
#[inline(always)]
pub(super) fn weighted<T: Tables>(
    tables: &T,
    place: &Place<'_>,
    taker: Taker,
    leaves: u64,
) -> Attempt {
    let turns = table::len(tables, place.service_id, Kind::Turns);
    if turns == 0 {
        return round_robin(tables, place, taker, leaves);
    }
    let mut tries = 0;
    while tries < TRIES {
        let turn = fetch_add(&place.service.turn, 1) % turns as u64;
        if let Some(position) = table::position(tables, place.service_id, turn as u32)
            && is_in(leaves, position)
        {
            let attempt = tables.take_at(place.service_id, position, Want::Available, taker);
            if attempt.is_taken() {
                return attempt;
            }
        }
        tries += 1;
    }
    let from = load32(&place.service.cursor).wrapping_add(1);
    place.take_any(tables, from, taker, leaves)
}

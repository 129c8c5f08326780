//! By the client's identity: the same client gets the same backend, on every node.
//!
//! The look-up table is Maglev's (Eisenbud et al., NSDI 2016), made by the agent. That a full
//! backend passes its clients on is the bounded load of Mirrokni, Thorup and Zadimoghaddam (SODA
//! 2018), with the backend's own limit for a bound. There the next one on the circle gets them;
//! here the clients of one full backend spread over many others, since each tries further
//! entries of the table in an order of its own.

use crate::{
    service::Tables,
    slot::Want,
    table::{self, Kind},
};

use super::{Attempt, Place, Taker, is_in};

/// Entries of the table that are tried.
const TRIES: u32 = 8;

/// Takes a slot on the client's backend; if that is full, on the client's next.
#[inline(always)]
pub(super) fn consistent_hash<T: Tables>(
    tables: &T,
    place: &Place<'_>,
    taker: Taker,
    leaves: u64,
) -> Attempt {
    let hash = mix(place.client);
    let entries = table::len(tables, place.service_id, Kind::Maglev) as u64;
    let mut tried = 0;
    while entries != 0 && tried < TRIES {
        let entry = mix(hash.wrapping_add(tried as u64)) % entries;
        if let Some(position) = table::position(tables, place.service_id, entry as u32)
            && is_in(leaves, position)
        {
            let attempt = tables.take_at(place.service_id, position, Want::Available, taker);
            if attempt.is_taken() {
                return attempt;
            }
        }
        tried += 1;
    }
    // Still the client's own, as long as the same backends are available.
    place.take_any(tables, hash as u32, taker, leaves)
}

/// Spreads an identity over 64 bits: the finalizer of SplitMix64 (Steele, Lea, Flood; OOPSLA
/// 2014). Part of what makes all nodes agree: never to be changed.
#[inline(always)]
pub const fn mix(identity: u64) -> u64 {
    let mut z = identity.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

//! The best of all available backends by a score: the fewest slots taken, or the shortest
//! expected response. Looks at every one, so the cost grows with their number.
//!
//! `least-response-time` weighs as peak EWMA does in Finagle and Linkerd: the moving average of
//! response times, times the requests that would be in flight (see [`crate::response`]).

use crate::{
    atomic::{load, load32, store32},
    response,
    service::{LEAF_POSITIONS, SERVICE_LEAVES, Tables},
    slot::Want,
};

use super::{
    Attempt, Place, Search, Taker,
    take::{is_passed_over, take_some},
};

/// Scans before settling for any available backend.
const SCANS: u32 = 3;
/// Tries to take an idle backend.
const IDLE_TRIES: u32 = 4;
/// Bits of a word of [`best_in_leaf`] that tell the distance from the start.
const DISTANCE_BITS: u32 = 12;
const DISTANCES: u32 = 1 << DISTANCE_BITS;

/// What a backend is scored by; lower is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Slots taken.
    Inflight,
    /// Expected response time.
    ResponseTime,
}

impl By {
    /// As a number, in which form it crosses a function of the kernel's own.
    #[inline(always)]
    pub const fn into_number(self) -> u32 {
        self as u32
    }

    /// Reads [`By::into_number`].
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Inflight,
            _ => Self::ResponseTime,
        }
    }
}

/// Takes a slot on the backend with the fewest slots taken, in turn among equals.
#[inline(always)]
pub(super) fn least_connections<T: Tables>(
    tables: &T,
    place: &Place<'_>,
    taker: Taker,
    leaves: u64,
) -> Attempt {
    let search = Search {
        service: place.service_id,
        from: load32(&place.service.cursor).wrapping_add(1),
        want: Want::Idle,
        taker,
        leaves,
    };
    // Nobody has fewer than an idle one.
    let attempt = take_some(tables, search, IDLE_TRIES);
    if attempt.is_taken() {
        return attempt;
    }
    take_best(tables, place, By::Inflight, taker, leaves)
}

/// Takes a slot on the backend with the shortest expected response.
#[inline(always)]
pub(super) fn least_response_time<T: Tables>(
    tables: &T,
    place: &Place<'_>,
    taker: Taker,
    leaves: u64,
) -> Attempt {
    take_best(tables, place, By::ResponseTime, taker, leaves)
}

#[inline(always)]
fn take_best<T: Tables>(
    tables: &T,
    place: &Place<'_>,
    by: By,
    taker: Taker,
    leaves: u64,
) -> Attempt {
    let mut scanned = 0;
    while scanned < SCANS {
        let Some(position) = tables.best(place.service_id, by, leaves, taker.luck) else {
            return Attempt::NOTHING;
        };
        let attempt = tables.take_at(place.service_id, position, Want::Available, taker);
        if attempt.is_taken() {
            store32(&place.service.cursor, position);
            return attempt;
        }
        scanned += 1;
    }
    let from = load32(&place.service.cursor).wrapping_add(1);
    place.take_any(tables, from, taker, leaves)
}

/// The position of the available backend with the lowest score; of equals the first behind the
/// service's cursor.
#[inline(always)]
pub fn best<T: Tables>(tables: &T, service_id: u32, by: By, leaves: u64, luck: u32) -> Option<u32> {
    let service = tables.service(service_id)?;
    let start = load32(&service.cursor).wrapping_add(1) % DISTANCES;
    let filled = load(&service.summary.available) & leaves;
    let mut best = u64::MAX;
    let mut number = 0;
    while number < SERVICE_LEAVES as u32 {
        if filled >> number & 1 != 0 {
            let word = tables.best_in_leaf(service_id, number, start, by, luck);
            if word < best {
                best = word;
            }
        }
        number += 1;
    }
    (best != u64::MAX).then_some((start + best as u32 % DISTANCES) % DISTANCES)
}

/// The lowest score in a leaf, and below it in [`DISTANCE_BITS`] bits how far behind `start` its
/// backend stands; `u64::MAX` if none is available.
#[inline(always)]
pub fn best_in_leaf<T: Tables>(
    tables: &T,
    service_id: u32,
    number: u32,
    start: u32,
    by: By,
    luck: u32,
) -> u64 {
    let first = number * LEAF_POSITIONS as u32;
    let Some(leaf_id) = tables
        .service(service_id)
        .and_then(|service| service.leaf(first))
    else {
        return u64::MAX;
    };
    let Some(leaf) = tables.leaf(leaf_id) else {
        return u64::MAX;
    };
    let available = load(&leaf.index.available);
    let now_ns = match by {
        By::Inflight => 0,
        By::ResponseTime => tables.now_ns(),
    };
    let mut best = u64::MAX;
    let mut place = 0;
    while place < LEAF_POSITIONS as u32 {
        if available >> place & 1 != 0 {
            let distance = (first + place).wrapping_sub(start) % DISTANCES;
            let word =
                tables.score(leaf_id, place, by, now_ns, luck) << DISTANCE_BITS | distance as u64;
            if word < best {
                best = word;
            }
        }
        place += 1;
    }
    best
}

/// The score of the backend at a place of a leaf, within 52 bits.
#[inline(always)]
pub fn score<T: Tables>(tables: &T, leaf: u32, place: u32, by: By, now_ns: u64, luck: u32) -> u64 {
    const MOST: u64 = u64::MAX >> DISTANCE_BITS;
    let Some(backend) = tables
        .leaf(leaf)
        .and_then(|leaf| leaf.backend(place))
        .and_then(|id| tables.backend(id))
    else {
        return MOST;
    };
    if is_passed_over(tables, backend, luck) {
        // Rather anyone else.
        return MOST;
    }
    let inflight = backend.inflight() as u32 as u64;
    let score = match by {
        By::Inflight => inflight,
        By::ResponseTime => response::expected_ns(backend, inflight, now_ns),
    };
    if score < MOST { score } else { MOST }
}

//! Choosing a backend and taking its slot, in one step.
//!
//! Pure and generic over where the records lie ([`Tables`]), so that the kernel
//! programs, the agent, the simulator and the property tests run the same code.
//!
//! One file for each family of strategies. Each takes a slot on what it prefers; where that is
//! full, unusable or gone, it passes to its natural next, and in the end to any backend that is
//! available. Only `leader` passes to nobody.
//!
//! | strategy | in | cost |
//! |---|---|---|
//! | idle-first | `idle_first` | constant |
//! | round-robin, weighted-round-robin | `turns` | constant |
//! | random, p2c | `draw` | constant |
//! | consistent-hash | `hash` | constant |
//! | leader | `leader` | constant while the leader stays |
//! | least-connections | `scan` | constant while one is idle, else grows with the backends |
//! | least-response-time | `scan` | grows with the backends |

mod draw;
mod hash;
mod idle_first;
mod leader;
mod over;
mod scan;
mod take;
#[cfg(test)]
mod tests;
mod turns;

pub use draw::{Load, draw, least_of_four, load_at};
pub use hash::mix;
pub use leader::{Heir, Leader, elect, heir, leader_of, successor};
pub use over::{dead_in_leaf, over_admit, reclaim, usable_in_leaf};
pub use scan::{By, best, best_in_leaf, score};
pub use take::{Attempt, How, Search, Taken, Taker, next_available, take_at, take_next};

use crate::{
    atomic::{load, load32},
    service::{
        ALL_LEAVES, Backend, CIRCLES, LEAF_POSITIONS, SERVICE_LEAVES, SERVICE_LOCAL,
        SERVICE_WARMS_UP, Service, Strategy, Tables,
    },
    slot::{self, Side},
};

/// Why no slot could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No backend is available.
    NoneAvailable,
    /// One seemed available, but others were faster every time.
    Contended,
}

/// Takes a slot of the service by its strategy. `client` is the client's identity, for strategies
/// that go by it.
///
/// # Errors
/// If there is none to take.
#[inline(always)]
pub fn choose<T: Tables>(
    tables: &T,
    service_id: u32,
    client: u64,
    side: Side,
) -> Result<Taken, Refusal> {
    attempt(tables, service_id, client, side).result()
}

/// [`choose`], with the outcome as a word.
#[inline(always)]
pub fn attempt<T: Tables>(tables: &T, service_id: u32, client: u64, side: Side) -> Attempt {
    let Some(service) = tables.service(service_id) else {
        return Attempt::NOTHING;
    };
    if load32(&service.strategy) == Strategy::Leader as u32 {
        return leader::take(tables, service_id, side);
    }
    if load(&service.ejected) != 0
        && let Some(backend) = tables.trial(service_id, side)
    {
        return Attempt::taken(backend, How::Trial);
    }
    let flags = load32(&service.flags);
    let luck = match flags & SERVICE_WARMS_UP {
        0 => 0,
        _ => tables.random(),
    };
    let taker = Taker { luck, side };
    if flags & SERVICE_LOCAL != 0 {
        // From the nearest circle to the widest.
        let mut circle = 0;
        while circle < CIRCLES {
            let leaves = load(&service.near[circle]);
            let attempt = tables.within(service_id, client, leaves, taker);
            if attempt.is_taken() {
                return attempt;
            }
            circle += 1;
        }
    }
    tables.within(service_id, client, ALL_LEAVES, taker)
}

/// Where a slot is wanted, and for whom.
#[derive(Clone, Copy)]
struct Place<'t> {
    service_id: u32,
    service: &'t Service,
    client: u64,
}

/// Takes a slot by the service's strategy (other than `leader`) on one of the backends in `leaves`.
#[inline(always)]
pub fn within<T: Tables>(
    tables: &T,
    service_id: u32,
    client: u64,
    leaves: u64,
    taker: Taker,
) -> Attempt {
    const LEAST_CONNECTIONS: u32 = Strategy::LeastConnections as u32;
    const ROUND_ROBIN: u32 = Strategy::RoundRobin as u32;
    const WEIGHTED: u32 = Strategy::WeightedRoundRobin as u32;
    const RANDOM: u32 = Strategy::Random as u32;
    const TWO_CHOICES: u32 = Strategy::TwoChoices as u32;
    const LEAST_RESPONSE_TIME: u32 = Strategy::LeastResponseTime as u32;
    const CONSISTENT_HASH: u32 = Strategy::ConsistentHash as u32;
    let Some(service) = tables.service(service_id) else {
        return Attempt::NOTHING;
    };
    let place = &Place {
        service_id,
        service,
        client,
    };
    match load32(&service.strategy) {
        LEAST_CONNECTIONS => scan::least_connections(tables, place, taker, leaves),
        ROUND_ROBIN => turns::round_robin(tables, place, taker, leaves),
        WEIGHTED => turns::weighted(tables, place, taker, leaves),
        RANDOM => draw::random(tables, place, taker, leaves),
        TWO_CHOICES => draw::two_choices(tables, place, taker, leaves),
        LEAST_RESPONSE_TIME => scan::least_response_time(tables, place, taker, leaves),
        CONSISTENT_HASH => hash::consistent_hash(tables, place, taker, leaves),
        _ => idle_first::idle_first(tables, place, taker, leaves),
    }
}

impl Place<'_> {
    /// Takes any slot that is left, on the first backend from a position on.
    #[inline(always)]
    fn take_any<T: Tables>(&self, tables: &T, from: u32, taker: Taker, leaves: u64) -> Attempt {
        take::take_any(tables, self.service_id, from, taker, leaves)
    }
}

/// Takes a slot on a certain backend that a client is bound to: if it still is the one that the
/// client had, belongs to the service, and has a slot left.
#[inline(always)]
pub fn take_bound<T: Tables>(
    tables: &T,
    service_id: u32,
    id: u32,
    generation: u32,
    side: Side,
) -> Attempt {
    let Some(backend) = tables.backend(id) else {
        return Attempt::NOTHING;
    };
    if load32(&backend.generation) != generation || !backend.is_in(service_id) {
        return Attempt::NOTHING;
    }
    take::take(tables, id, backend, slot::Want::Anything, side)
}

/// Gives back a slot that [`choose`] took. `None` if the backend held none.
#[inline(always)]
pub fn give_back<T: Tables>(tables: &T, id: u32, side: Side) -> Option<u64> {
    let backend = tables.backend(id)?;
    let Some(before) = slot::give_back(backend, side) else {
        // The word may have been another for a moment, and others have gone by it.
        tables.refresh(id);
        return None;
    };
    // Only the change to idle and the change from full show in the index.
    if before == 1 || before >= load32(&backend.granted) as u64 {
        tables.refresh(id);
    }
    Some(before)
}

/// Whether a position lies in one of the leaves of a mask.
#[inline(always)]
const fn is_in(leaves: u64, position: u32) -> bool {
    let number = (position as usize / LEAF_POSITIONS) % SERVICE_LEAVES;
    (leaves >> number) & 1 != 0
}

#[inline(always)]
fn backend_at<'t, T: Tables>(
    tables: &'t T,
    service: &Service,
    position: u32,
) -> Option<(u32, &'t Backend)> {
    let leaf = tables.leaf(service.leaf(position)?)?;
    let id = leaf.backend(position)?;
    Some((id, tables.backend(id)?))
}

//! An idle backend, or else the least loaded that constant time can find.
//!
//! Join-idle-queue (Lu et al., Performance Evaluation 2011) in that work goes to a server known
//! to be idle; the power of d choices (Mitzenmacher, IEEE TPDS 2001) with d = 4 when none is.

use crate::{atomic::load32, service::Tables, slot::Want};

use super::{Attempt, Place, Search, Taker, draw::least_of_four, take::take_some};

/// Tries to take an idle backend before settling for a loaded one.
const IDLE_TRIES: u32 = 8;
/// Draws of the best of four before settling for any available backend.
const DRAWS: u32 = 2;

/// Takes a slot on an idle backend, rotating among the idle ones; if none is
/// idle, on the least loaded of four available ones drawn at random.
#[inline(always)]
pub(super) fn idle_first<T: Tables>(
    tables: &T,
    place: &Place<'_>,
    taker: Taker,
    leaves: u64,
) -> Attempt {
    let from = load32(&place.service.cursor).wrapping_add(1);
    let search = Search {
        service: place.service_id,
        from,
        want: Want::Idle,
        taker,
        leaves,
    };
    let attempt = take_some(tables, search, IDLE_TRIES);
    if attempt.is_taken() {
        return attempt;
    }
    let mut draw = 0;
    while draw < DRAWS {
        let Some(position) = least_of_four(tables, place.service_id, leaves) else {
            break;
        };
        let attempt = tables.take_at(place.service_id, position, Want::Available, taker);
        if attempt.is_taken() {
            return attempt;
        }
        draw += 1;
    }
    place.take_any(tables, from, taker, leaves)
}

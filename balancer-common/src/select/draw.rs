//! Drawing available backends at random: `random`, `p2c`, and the best of four of `idle-first`.
//!
//! The power of two choices: Mitzenmacher, IEEE TPDS 2001.

use crate::{
    atomic::load32,
    index::{self, Found, Index},
    service::Tables,
    slot::Want,
};

use super::{Attempt, Place, Taker, backend_at};

/// Draws before settling for any available backend.
const DRAWS: u32 = 4;
/// Draws of a second backend that is not the first again.
const SECOND_DRAWS: u32 = 4;

/// Takes a slot on a random available backend.
#[inline(always)]
pub(super) fn random<T: Tables>(
    tables: &T,
    place: &Place<'_>,
    taker: Taker,
    leaves: u64,
) -> Attempt {
    let mut drawn = 0;
    while drawn < DRAWS {
        let Some(position) = tables.draw(place.service_id, leaves) else {
            break;
        };
        let attempt = tables.take_at(place.service_id, position, Want::Available, taker);
        if attempt.is_taken() {
            return attempt;
        }
        drawn += 1;
    }
    place.take_any(tables, tables.random(), taker, leaves)
}

/// Takes a slot on the less loaded of two random available backends.
#[inline(always)]
pub(super) fn two_choices<T: Tables>(
    tables: &T,
    place: &Place<'_>,
    taker: Taker,
    leaves: u64,
) -> Attempt {
    let service = place.service_id;
    let mut drawn = 0;
    while drawn < DRAWS {
        let Some(first) = tables.draw(service, leaves) else {
            break;
        };
        let second = other(tables, service, first, leaves);
        let (one, two) = (
            candidate(tables, service, first),
            candidate(tables, service, second),
        );
        let best = lesser(one, two);
        let attempt = tables.take_at(service, best.position, Want::Available, taker);
        if attempt.is_taken() {
            return attempt;
        }
        // The other of the two is the natural next.
        let rest = if best.position == first {
            second
        } else {
            first
        };
        let attempt = tables.take_at(service, rest, Want::Available, taker);
        if attempt.is_taken() {
            return attempt;
        }
        drawn += 1;
    }
    place.take_any(tables, tables.random(), taker, leaves)
}

/// A second random position, if possible not the first again.
#[inline(always)]
fn other<T: Tables>(tables: &T, service: u32, first: u32, leaves: u64) -> u32 {
    let mut again = 0;
    while again < SECOND_DRAWS {
        match tables.draw(service, leaves) {
            Some(position) if position != first => return position,
            _ => {}
        }
        again += 1;
    }
    // Whoever stands next, where so few are available that chance does not tell them apart.
    match tables.next_available(service, first + 1, leaves) {
        Some(position) => position,
        None => first,
    }
}

/// The position of the least loaded of four available backends drawn at random.
#[inline(always)]
pub fn least_of_four<T: Tables>(tables: &T, service: u32, leaves: u64) -> Option<u32> {
    // Written out, since the verifier follows no loop whose counter the
    // compiler has turned round.
    let one = lesser(
        drawn(tables, service, leaves),
        drawn(tables, service, leaves),
    );
    let other = lesser(
        drawn(tables, service, leaves),
        drawn(tables, service, leaves),
    );
    let least = lesser(one, other);
    (least.position != NOBODY.position).then_some(least.position)
}

#[inline(always)]
fn drawn<T: Tables>(tables: &T, service: u32, leaves: u64) -> Candidate {
    match tables.draw(service, leaves) {
        Some(position) => candidate(tables, service, position),
        None => NOBODY,
    }
}

#[inline(always)]
fn candidate<T: Tables>(tables: &T, service: u32, position: u32) -> Candidate {
    tables.load_at(service, position).at(position)
}

/// The position of an available backend, drawn at random, uniformly, among those in `leaves`.
#[inline(always)]
pub fn draw<T: Tables>(tables: &T, service_id: u32, leaves: u64) -> Option<u32> {
    match index::draw(tables, service_id, Index::Available, leaves) {
        Found::At(position) => Some(position),
        // None is there, or they went while we looked: then the first that is left.
        _ => tables.next_available(service_id, tables.random(), leaves),
    }
}

/// How loaded a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    inflight: u32,
    granted: u32,
}

impl Load {
    /// More than any backend's: there is none that could be used.
    pub(super) const NONE: Self = Self {
        inflight: u32::MAX,
        granted: 0,
    };

    /// As one word, in which form it crosses a function of the kernel's own.
    #[inline(always)]
    pub const fn into_word(self) -> u64 {
        (self.inflight as u64) << 32 | self.granted as u64
    }

    /// Reads [`Load::into_word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            inflight: (word >> 32) as u32,
            granted: word as u32,
        }
    }

    #[inline(always)]
    pub(super) fn at(self, position: u32) -> Candidate {
        if self.inflight == Self::NONE.inflight {
            return NOBODY;
        }
        Candidate {
            position,
            inflight: self.inflight,
            granted: self.granted,
        }
    }
}

/// The load of the backend at a position, if one stands there that could be used.
#[inline(always)]
pub fn load_at<T: Tables>(tables: &T, service_id: u32, position: u32) -> Load {
    let Some(service) = tables.service(service_id) else {
        return Load::NONE;
    };
    match backend_at(tables, service, position) {
        Some((_, backend)) if backend.is_usable() => Load {
            inflight: backend.inflight() as u32,
            // Nothing is granted for a moment where an earlier backend is not settled yet.
            granted: load32(&backend.granted).max(1),
        },
        _ => Load::NONE,
    }
}

/// A backend that was drawn.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub position: u32,
    inflight: u32,
    granted: u32,
}

/// What is drawn when nobody is available: more loaded than anyone. (An `Option`
/// would leave fields undefined, which the verifier lets no program even copy.)
pub(super) const NOBODY: Candidate = Candidate {
    position: u32::MAX,
    inflight: u32::MAX,
    granted: 1,
};

/// The one with the lower load, inflight/granted; compared without dividing, and
/// within 64 bits, since BPF programs have no wider product.
#[inline(always)]
pub(super) fn lesser(a: Candidate, b: Candidate) -> Candidate {
    let is_less =
        (a.inflight as u64) * (b.granted as u64) <= (b.inflight as u64) * (a.granted as u64);
    if is_less { a } else { b }
}

//! The two-level bitmaps that find an idle or an available backend in constant
//! time.
//!
//! A backend's bits in all its services follow from its slot word and state.
//! Whoever changes one of those calls [`Tables::refresh`], which writes the bits and
//! then reads the word again: the last one to write a bit therefore always
//! checks it against a word at least as new, so a bit cannot stay wrong. (This
//! is the argument; the threaded tests below and in `select` are the proof.)
//! Searching follows bits only as hints, so a stale one costs a retry.

use crate::atomic::AtomicU64;

use core::hint::black_box;

use crate::{
    atomic::{fetch_and, fetch_or, load, load32},
    maps::{MAX_BACKENDS_PER_SERVICE, MAX_MEMBERSHIPS},
    service::{Backend, IndexWords, LEAF_POSITIONS, Membership, SERVICE_LEAVES, Service, Tables},
};

/// Which of the two bitmaps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Index {
    /// Usable backends with nothing in flight and at least one slot.
    Idle,
    /// Usable backends with a slot left.
    Available,
}

impl Index {
    /// As a number, in which form it crosses a function of the kernel's own.
    #[inline(always)]
    pub const fn into_number(self) -> u32 {
        self as u32
    }

    /// Reads [`Index::into_number`].
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Idle,
            _ => Self::Available,
        }
    }
}

impl IndexWords {
    #[inline(always)]
    fn of(&self, index: Index) -> &AtomicU64 {
        match index {
            Index::Idle => &self.idle,
            Index::Available => &self.available,
        }
    }
}

/// Result of a search.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A bit is set at this position.
    At(u32),
    /// No bit is set.
    Nothing,
    /// The summary pointed to an empty leaf; it has been corrected.
    Stale,
}

/// Finds the first set bit at or after position `from`, cyclically, in those leaves whose bit is
/// set in `leaves`.
#[inline(always)]
pub fn next<T: Tables>(
    tables: &T,
    service: &Service,
    index: Index,
    from: u32,
    leaves: u64,
) -> Found {
    let from = from as usize & (MAX_BACKENDS_PER_SERVICE - 1);
    let first = (from / LEAF_POSITIONS) as u32;
    let summary = load(service.summary.of(index)) & leaves;
    if summary == 0 {
        return Found::Nothing;
    }
    if summary >> first & 1 != 0 {
        let rest = leaf_word(tables, service, index, first) & (u64::MAX << (from % LEAF_POSITIONS));
        if rest != 0 {
            return Found::At(position(first, rest));
        }
    }
    // The leaves behind it in turn; its own lower positions come last.
    let turned = summary.rotate_right(first + 1);
    let number = (first + 1 + turned.trailing_zeros()) & (SERVICE_LEAVES as u32 - 1);
    let word = leaf_word(tables, service, index, number);
    if word != 0 {
        return Found::At(position(number, word));
    }
    clear_summary(tables, service, index, number);
    Found::Stale
}

/// Draws one of the set bits at random, uniformly, in those leaves whose bit is set in `leaves`.
///
/// A leaf and a place in it, both blindly, until a bit is set there: then all bits are equally
/// likely, however they are spread. Where bits are few and far between that takes long, so after
/// some tries all are counted.
#[inline(always)]
pub fn draw<T: Tables>(tables: &T, service_id: u32, index: Index, leaves: u64) -> Found {
    const TRIES: u32 = 8;
    let Some(service) = tables.service(service_id) else {
        return Found::Nothing;
    };
    let summary = load(service.summary.of(index)) & leaves;
    if summary == 0 {
        return Found::Nothing;
    }
    let is_one_leaf = summary & (summary - 1) == 0;
    let mut tries = 0;
    while tries < TRIES && !is_one_leaf {
        let number = random_bit(tables, summary);
        let place = tables.random() % LEAF_POSITIONS as u32;
        if tables.leaf_word(service_id, number, index) >> place & 1 != 0 {
            return Found::At(number * LEAF_POSITIONS as u32 + place);
        }
        tries += 1;
    }
    tables.draw_by_count(service_id, index, summary)
}

/// The same by counting all bits.
#[inline(always)]
pub fn draw_by_count<T: Tables>(tables: &T, service_id: u32, index: Index, summary: u64) -> Found {
    let mut count = 0;
    let mut number = 0;
    while number < SERVICE_LEAVES as u32 {
        if summary >> number & 1 != 0 {
            count += tables.leaf_word(service_id, number, index).count_ones() as u64;
        }
        number += 1;
    }
    let mut left = (tables.random() as u64 * count) >> 32;
    number = 0;
    while number < SERVICE_LEAVES as u32 {
        if summary >> number & 1 != 0 {
            let word = tables.leaf_word(service_id, number, index);
            let here = word.count_ones() as u64;
            if left < here {
                let place = tables.place_of_set_bit(word, left);
                return Found::At(number * LEAF_POSITIONS as u32 + place);
            }
            left -= here;
        }
        number += 1;
    }
    // Bits went while they were counted.
    Found::Stale
}

/// A leaf's word, by its number in a service; 0 if there is no such leaf.
#[inline(always)]
pub fn leaf_word_of<T: Tables>(tables: &T, service_id: u32, number: u32, index: Index) -> u64 {
    match tables.service(service_id) {
        Some(service) => leaf_word(tables, service, index, number),
        None => 0,
    }
}

/// The place of one of a word's set bits, at random; the word is not 0.
#[inline(always)]
fn random_bit<T: Tables>(tables: &T, word: u64) -> u32 {
    let number = (tables.random() as u64 * word.count_ones() as u64) >> 32;
    tables.place_of_set_bit(word, number)
}

/// The place of the set bit that has so many set bits below it. By halves, and without branches:
/// the verifier would follow every way through them. Hidden from the compiler, as in [`position`].
#[inline(always)]
pub fn place_of_set_bit(word: u64, number: u64) -> u32 {
    let (mut place, mut left) = (0u32, number as i64);
    let mut half = LEAF_POSITIONS as u32 / 2;
    while half != 0 {
        let lower = word >> place & ((1 << half) - 1);
        let count = lower.count_ones() as i64;
        // All ones if the bit is not in the lower half, else 0.
        let beyond = black_box((count - left - 1) >> 63);
        left -= count & beyond;
        place += half & beyond as u32;
        half /= 2;
    }
    black_box(place)
}

/// The position of the lowest set bit of a leaf's word. It is hidden from the
/// compiler, which would know that it is in bounds and leave out the masks by
/// which the verifier of older kernels learns the same.
#[inline(always)]
fn position(number: u32, word: u64) -> u32 {
    black_box(number * LEAF_POSITIONS as u32 + word.trailing_zeros())
}

/// Makes a backend's bits, in every service it belongs to, agree with its slots
/// and state. To be called after any change of those.
#[inline(always)]
pub fn refresh<T: Tables>(tables: &T, backend: u32) {
    const ROUNDS: u32 = 4;
    let Some(backend) = tables.backend(backend) else {
        return;
    };
    let mut round = 0;
    while round < ROUNDS {
        let seen = classify(backend);
        publish(tables, backend, seen);
        if classify(backend) == seen {
            return;
        }
        round += 1;
    }
    // The word keeps changing under us. A bit too many is only a hint that
    // someone will follow in vain; a bit too few would hide the backend.
    publish(
        tables,
        backend,
        Bits {
            idle: true,
            available: true,
        },
    );
}

/// Clears the bits of a position at which no backend stands.
#[inline(always)]
pub fn clear<T: Tables>(tables: &T, service: &Service, position: u32) {
    let nothing = Bits {
        idle: false,
        available: false,
    };
    write_position(tables, service, position, nothing);
}

/// A backend's two bits.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Bits {
    idle: bool,
    available: bool,
}

#[inline(always)]
fn classify(backend: &Backend) -> Bits {
    let taken = backend.inflight();
    let available = backend.is_usable() && taken < load32(&backend.granted) as u64;
    Bits {
        idle: available && taken == 0,
        available,
    }
}

#[inline(always)]
fn publish<T: Tables>(tables: &T, backend: &Backend, bits: Bits) {
    let mut i = 0;
    while i < MAX_MEMBERSHIPS {
        // Memberships are kept dense, so most backends stop after one.
        let Some((service, position)) = Membership(load(&backend.memberships[i])).parts() else {
            return;
        };
        if let Some(service) = tables.service(service) {
            write_position(tables, service, position, bits);
        }
        i += 1;
    }
}

#[inline(always)]
fn write_position<T: Tables>(tables: &T, service: &Service, position: u32, bits: Bits) {
    write_bit(tables, service, Index::Idle, position, bits.idle);
    write_bit(tables, service, Index::Available, position, bits.available);
}

#[inline(always)]
fn write_bit<T: Tables>(tables: &T, service: &Service, index: Index, position: u32, set: bool) {
    let Some(leaf) = service.leaf(position).and_then(|id| tables.leaf(id)) else {
        return;
    };
    let word = leaf.index.of(index);
    let bit = 1 << (position as usize % LEAF_POSITIONS);
    let number = (position as usize / LEAF_POSITIONS % SERVICE_LEAVES) as u32;
    // Most writes change nothing; a plain read spares them the locked one.
    if (load(word) & bit != 0) == set {
        return;
    }
    if set {
        if fetch_or(word, bit) == 0 {
            fetch_or(service.summary.of(index), 1 << number);
        }
    } else if fetch_and(word, !bit) == bit {
        clear_summary(tables, service, index, number);
    }
}

/// Clears a leaf's summary bit, and sets it again if the leaf was filled meanwhile.
#[inline(always)]
fn clear_summary<T: Tables>(tables: &T, service: &Service, index: Index, number: u32) {
    let bit = 1 << number;
    fetch_and(service.summary.of(index), !bit);
    if leaf_word(tables, service, index, number) != 0 {
        fetch_or(service.summary.of(index), bit);
    }
}

#[inline(always)]
fn leaf_word<T: Tables>(tables: &T, service: &Service, index: Index, number: u32) -> u64 {
    match service
        .leaf(number * LEAF_POSITIONS as u32)
        .and_then(|id| tables.leaf(id))
    {
        Some(leaf) => load(leaf.index.of(index)),
        None => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::place_of_set_bit;

    #[test]
    fn every_set_bit_is_found_by_its_number() {
        for word in [1, u64::MAX, 1 << 63, 0x8000_0001, 0xf0f0_1234_0000_00ff] {
            let places = (0..64).filter(|place| word >> place & 1 != 0);
            for (number, place) in places.enumerate() {
                assert_eq!(place_of_set_bit(word, number as u64), place, "{word:x}");
            }
        }
    }
}

//! A service's table of positions: what the agent works out in advance for the programs.
//!
//! Value of TABLES: an array of 64-bit words. Word 0 says how many positions there are (low half)
//! and what they mean (high half, a [`Kind`]); each further word holds four positions, the first
//! in the lowest bits. A table is never changed once a service has it, only replaced whole.

use crate::{maps::MAX_TABLE_POSITIONS, service::Tables};

/// Positions in a word.
pub const WORD_POSITIONS: u32 = 4;

/// What a table is for.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One period of a weighted turn.
    Turns = 1,
    /// Maglev's look-up table.
    Maglev = 2,
    /// Backends in the order in which they would lead.
    Ranking = 3,
}

/// The words of a table.
pub fn words(kind: Kind, positions: &[u16]) -> impl Iterator<Item = u64> {
    let header = (kind as u64) << 32 | positions.len() as u64;
    let packed = positions.chunks(WORD_POSITIONS as usize).map(|four| {
        let places = four.iter().enumerate();
        places.fold(0, |word, (place, position)| {
            word | u64::from(*position) << (16 * place)
        })
    });
    core::iter::once(header).chain(packed)
}

/// How many positions the service's table has; 0 if it has none of this kind.
#[inline(always)]
pub fn len<T: Tables>(tables: &T, service: u32, kind: Kind) -> u32 {
    let Some(header) = tables.table_word(service, 0) else {
        return 0;
    };
    let (len, found) = (header as u32, (header >> 32) as u32);
    if found == kind as u32 && len <= MAX_TABLE_POSITIONS {
        len
    } else {
        0
    }
}

/// The position in one place of the service's table.
#[inline(always)]
pub fn position<T: Tables>(tables: &T, service: u32, place: u32) -> Option<u32> {
    let word = tables.table_word(service, 1 + place / WORD_POSITIONS)?;
    Some((word >> (16 * (place % WORD_POSITIONS))) as u32 & 0xffff)
}

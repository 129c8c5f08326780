//! Tables of positions: what the kernel indexes instead of working a strategy out.
//!
//! Owns how a weighted turn, a Maglev table and a leader's succession follow from a service's
//! backends, and how such a table lies in 64-bit words. Pure: no maps, no clock, and nothing
//! remembered but hashes. It does not decide which backends stand in a table, nor when one is built:
//! that is the planner's, which also swaps it in whole.

use std::net::SocketAddr;

use balancer_common::table::{self, Kind};

mod apportion;
pub mod maglev;
mod ranking;
pub mod turns;

pub use ranking::ranking;

/// A backend as a table knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Canonical, and no other candidate's.
    pub address: SocketAddr,
    /// Its share, 1 to [`crate::model::MAX_WEIGHT`]. With 0 it stands in no table.
    pub weight: u32,
    /// Where it stands in the service, below [`crate::model::MAX_BACKENDS_PER_SERVICE`].
    pub position: u16,
}

/// Positions of a service's backends, in an order that means something to one strategy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Table {
    /// One period of a weighted turn, see [`turns::sequence`].
    Turns(Vec<u16>),
    /// Where the hash of a client points, see [`maglev::Maglev::positions`].
    Maglev(Vec<u16>),
    /// The leader and, behind it, its successors, see [`ranking`].
    Ranking(Vec<u16>),
}

impl Table {
    /// The entries.
    pub fn positions(&self) -> &[u16] {
        match self {
            Self::Turns(positions) | Self::Maglev(positions) | Self::Ranking(positions) => {
                positions
            }
        }
    }

    /// The table as it lies in memory.
    pub fn words(&self) -> Vec<u64> {
        let kind = match self {
            Self::Turns(_) => Kind::Turns,
            Self::Maglev(_) => Kind::Maglev,
            Self::Ranking(_) => Kind::Ranking,
        };
        table::words(kind, self.positions()).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_are_a_header_and_four_positions_each() {
        let table = Table::Ranking(vec![1, 2, 3, 4, 0xabc]);
        assert_eq!(
            table.words(),
            [0x0000_0003_0000_0005, 0x0004_0003_0002_0001, 0x0abc]
        );
        assert_eq!(Table::Turns(Vec::new()).words(), [1 << 32]);
        assert_eq!(Table::Maglev(vec![7]).words(), [2 << 32 | 1, 7]);
    }

    #[test]
    fn no_table_is_longer_than_it_may_be() {
        let most = balancer_common::maps::MAX_TABLE_POSITIONS as usize;
        let longest = [
            turns::MAX_LENGTH,
            maglev::LENGTH,
            crate::model::MAX_BACKENDS_PER_SERVICE,
        ];
        assert!(longest.into_iter().all(|length| length <= most));
    }

    proptest! {
        #[test]
        fn every_position_is_read_back_where_the_kernel_looks(
            positions in prop::collection::vec(0..4096_u16, 0..40),
        ) {
            let words = Table::Turns(positions.clone()).words();
            prop_assert_eq!(words[0] as u32 as usize, positions.len());
            prop_assert_eq!(words.len(), 1 + positions.len().div_ceil(4));
            for (at, position) in positions.iter().enumerate() {
                let read = (words[1 + at / 4] >> (at % 4 * 16)) as u16;
                prop_assert_eq!(read, *position);
            }
        }
    }
}

//! Who gets the next entry of a table, so that entries follow weights.
//!
//! Webster's method (also Sainte-Laguë's, as parliaments share out their seats), with one entry
//! for everybody first. It is unbiased between heavy and light, and it is monotone: the entries of
//! a shorter table are a prefix of those of a longer one. Integers only, so that every machine
//! comes to the same result. Used by `maglev` for whose turn it is, and by `turns` to scale
//! weights down.

use std::{
    cmp::{Ordering, Reverse},
    collections::BinaryHeap,
};

/// Indexes of the weights, in the order in which they get entries, without end. Nothing at all if
/// there is no weight. No weight may be 0.
pub(super) struct Apportion {
    claims: BinaryHeap<Reverse<Claim>>,
}

impl Apportion {
    pub(super) fn new(weights: impl IntoIterator<Item = u32>) -> Self {
        let claims = weights.into_iter().enumerate().map(|(index, weight)| {
            Reverse(Claim {
                index,
                weight: u64::from(weight),
                divisor: 0,
            })
        });
        Self {
            claims: claims.collect(),
        }
    }
}

impl Iterator for Apportion {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let mut first = self.claims.peek_mut()?;
        let claim = &mut first.0;
        let index = claim.index;
        claim.divisor = if claim.divisor == 0 {
            3
        } else {
            claim.divisor + 2
        };
        Some(index)
    }
}

/// One weight's claim to an entry: the lower `divisor / weight`, the sooner; then by index.
#[derive(PartialEq, Eq)]
struct Claim {
    index: usize,
    weight: u64,
    /// Twice the entries held plus one; but 0 while there are none, so that everybody gets one.
    divisor: u64,
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        // Below 2^32 each (no table has 2^31 entries), so that no product overflows.
        let (own, others) = (self.divisor * other.weight, other.divisor * self.weight);
        own.cmp(&others).then(self.index.cmp(&other.index))
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(weights: &[u32], entries: usize) -> Vec<usize> {
        Apportion::new(weights.iter().copied())
            .take(entries)
            .collect()
    }

    #[test]
    fn equal_weights_take_turns() {
        assert_eq!(first(&[7, 7, 7], 7), [0, 1, 2, 0, 1, 2, 0]);
        assert!(first(&[], 3).is_empty());
    }

    #[test]
    fn entries_follow_weights_once_everybody_has_one() {
        let count = |weights: &[u32], entries: usize| {
            let order = first(weights, entries);
            let of = |index| order.iter().filter(|each| **each == index).count();
            (0..weights.len()).map(of).collect::<Vec<_>>()
        };
        assert_eq!(count(&[1, 2, 5], 8), [1, 2, 5]);
        assert_eq!(count(&[10, 20, 50], 800), [100, 200, 500]);
        // Webster's rounding: 1.4, 2.8 and 2.8 of 7.
        assert_eq!(count(&[1, 2, 2], 7), [1, 3, 3]);
        assert_eq!(count(&[u32::MAX, 1, 1], 10), [8, 1, 1]);
    }
}

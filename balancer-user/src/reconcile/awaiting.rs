//! Counts of awaited responses: whether any is left, and whether they can be right.
//!
//! A response is awaited only while a slot is held. A count that stays although the backend has
//! been without connections for a whole look was left behind, by a socket that ended in just the
//! wrong moment, or by an agent that was killed.

use std::collections::BTreeMap;

use balancer_common::{
    atomic::{compare_exchange, load},
    service::Tables,
};

/// What one look found.
#[derive(Debug, Default)]
pub(super) struct Left {
    /// Responses are awaited.
    pub is_needed: bool,
    /// Counts on backends that serve nothing, by the backend's id.
    pub suspected: BTreeMap<u32, u64>,
}

impl Left {
    /// Looks at one backend.
    pub(super) fn look<T: Tables>(&mut self, tables: &T, id: u32) {
        let Some(backend) = tables.backend(id) else {
            return;
        };
        let count = load(&backend.awaiting);
        if count == 0 {
            return;
        }
        if backend.inflight() == 0 {
            self.suspected.insert(id, count);
        } else {
            self.is_needed = true;
        }
    }
}

/// Counts that looked wrong at the last look.
#[derive(Debug, Default)]
pub(super) struct Suspects(BTreeMap<u32, u64>);

impl Suspects {
    /// Corrects those that still do.
    pub(super) fn correct<T: Tables>(&mut self, tables: &T, suspected: BTreeMap<u32, u64>) {
        for (id, count) in &suspected {
            if self.0.get(id) == Some(count)
                && let Some(backend) = tables.backend(*id)
            {
                compare_exchange(&backend.awaiting, *count, 0);
            }
        }
        self.0 = suspected;
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::{atomic::store, plain::Plain};

    use super::*;

    #[test]
    fn what_is_left_behind_is_corrected_at_the_second_look() {
        let plain = Plain::one_service(&[1; 3]);
        let count = |id| load(&plain.backend(id).unwrap().awaiting);
        store(&plain.backend(0).unwrap().awaiting, 1);
        store(&plain.backend(1).unwrap().awaiting, 1);
        store(&plain.backend(1).unwrap().inflight, 1);
        let mut suspects = Suspects::default();
        let mut look = || {
            let mut left = Left::default();
            (0..3).for_each(|id| left.look(&plain, id));
            suspects.correct(&plain, left.suspected);
            left.is_needed
        };
        assert!(look());
        assert_eq!((count(0), count(1)), (1, 1));
        assert!(look());
        assert_eq!((count(0), count(1)), (0, 1));
        store(&plain.backend(1).unwrap().awaiting, 0);
        assert!(!look());
    }
}

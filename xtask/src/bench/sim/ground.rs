//! What is simulated: backends, their limits and speeds, the strategy, and the queue; and the
//! records that selection runs on. Used by `cases` and `run`.

use balancer_common::{
    atomic::store32,
    plain::Plain,
    service::{Strategy, Tables},
    table::{self, Kind},
};

/// Entries of the table of `consistent-hash`: a prime about as large as the agent's.
const HASH_ENTRIES: usize = 16_361;

/// The one service's id.
pub(super) const SERVICE: u32 = 0;

/// A service with its backends.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub(super) strategy: Strategy,
    pub(super) backends: Vec<Backend>,
    pub(super) limit: Limit,
    /// Without one, who finds no slot is refused at once.
    pub(super) queue: Option<Queue>,
}

/// A backend. What it cannot work on yet waits in a line of its own, first come, first served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Backend {
    /// Requests that it works on at once.
    pub(super) lanes: u32,
    /// How much longer than an ordinary one it works for a request.
    pub(super) slowness: u32,
    pub(super) weight: u32,
}

/// How many slots a backend has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// As many as lanes: nothing ever waits at a backend.
    Lanes,
    Unlimited,
}

/// The overflow queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    pub(super) size: usize,
    pub(super) patience_ns: u64,
}

impl Backend {
    /// One request at a time, at ordinary speed.
    pub(super) const ORDINARY: Self = Self {
        lanes: 1,
        slowness: 1,
        weight: 1,
    };

    pub(super) const fn granted(&self, limit: Limit) -> u32 {
        match limit {
            Limit::Lanes => self.lanes,
            Limit::Unlimited => u32::MAX,
        }
    }

    /// How many requests it can finish in the time that an ordinary one works for one.
    pub(super) fn capacity(&self) -> f64 {
        f64::from(self.lanes) / f64::from(self.slowness)
    }
}

impl Ground {
    /// Capacity of the backends that the strategy uses.
    pub(super) fn capacity(&self) -> f64 {
        self.used_backends().iter().map(Backend::capacity).sum()
    }

    /// All backends, or the leader.
    pub(super) fn used_backends(&self) -> &[Backend] {
        match self.strategy {
            Strategy::Leader => &self.backends[..1],
            _ => &self.backends,
        }
    }

    /// The records, as the agent would have set them.
    pub(super) fn records(&self) -> Plain {
        let granted: Vec<_> = self
            .backends
            .iter()
            .map(|b| b.granted(self.limit))
            .collect();
        let mut plain = Plain::one_service(&granted);
        let service = plain.service(SERVICE).expect("there is one service");
        store32(&service.strategy, self.strategy as u32);
        for (id, backend) in (0..).zip(&self.backends) {
            let record = plain.backend(id).expect("a record for each");
            store32(&record.weight, backend.weight);
        }
        if let Some(words) = self.table() {
            plain.set_table(SERVICE, words);
        }
        plain
    }

    /// The service's table of positions, if its strategy goes by one.
    fn table(&self) -> Option<Vec<u64>> {
        let all = 0..self.backends.len() as u16;
        let (kind, positions) = match self.strategy {
            Strategy::WeightedRoundRobin => (Kind::Turns, self.turns()),
            Strategy::ConsistentHash => {
                // Not in Maglev's order, but with its shares: that order only matters when
                // backends come and go.
                let entries = self.turns().into_iter().cycle().take(HASH_ENTRIES);
                (Kind::Maglev, entries.collect())
            }
            Strategy::Leader => (Kind::Ranking, all.collect()),
            _ => return None,
        };
        Some(table::words(kind, &positions).collect())
    }

    /// One period of the smooth weighted turn: each backend gains its weight at every turn, and
    /// the one that has most is chosen and pays the sum of all.
    fn turns(&self) -> Vec<u16> {
        let weights: Vec<_> = self.backends.iter().map(|b| i64::from(b.weight)).collect();
        let sum: i64 = weights.iter().sum();
        let mut credits = vec![0; weights.len()];
        let turn = |_| {
            for (credit, weight) in credits.iter_mut().zip(&weights) {
                *credit += weight;
            }
            // Of equals the first.
            let richest = (0..credits.len()).rev().max_by_key(|place| credits[*place]);
            let richest = richest.expect("a service has backends");
            credits[richest] -= sum;
            richest as u16
        };
        (0..sum).map(turn).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn weighted(weights: &[u32]) -> Ground {
        let backend = |weight: &u32| Backend {
            weight: *weight,
            ..Backend::ORDINARY
        };
        Ground {
            strategy: Strategy::WeightedRoundRobin,
            backends: weights.iter().map(backend).collect(),
            limit: Limit::Lanes,
            queue: None,
        }
    }

    /// The example in nginx's own description of it.
    #[test]
    fn the_turn_is_smooth() {
        assert_eq!(weighted(&[5, 1, 1]).turns(), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(weighted(&[1, 1, 1]).turns(), [0, 1, 2]);
    }

    #[test]
    fn a_leader_has_the_capacity_of_one() {
        let mut ground = weighted(&[1; 10]);
        assert_eq!(ground.capacity(), 10.0);
        ground.strategy = Strategy::Leader;
        assert_eq!(ground.capacity(), 1.0);
    }
}

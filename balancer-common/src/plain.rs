//! The records in plain memory: what tests and simulations run selection on.

use std::sync::atomic::{self, Ordering};

use crate::{
    atomic::{AtomicU32, AtomicU64},
    service::{
        Backend, IndexWords, LEAF_POSITIONS, Leaf, Membership, SERVICE_LEAVES, SERVICE_PRESENT,
        Service, Tables,
    },
};

/// Vectors of records, all zero at first as in a fresh map.
#[derive(Debug)]
pub struct Plain {
    services: Vec<Service>,
    leaves: Vec<Leaf>,
    backends: Vec<Backend>,
    tables: Vec<Vec<u64>>,
    random: atomic::AtomicU64,
    now_ns: atomic::AtomicU64,
}

impl Plain {
    /// Memory for so many records.
    pub fn new(services: usize, leaves: usize, backends: usize) -> Self {
        Self {
            services: (0..services).map(|_| empty_service()).collect(),
            leaves: (0..leaves).map(|_| empty_leaf()).collect(),
            backends: (0..backends).map(|_| empty_backend()).collect(),
            tables: (0..services).map(|_| Vec::new()).collect(),
            random: atomic::AtomicU64::new(0x9e37_79b9_7f4a_7c15),
            now_ns: atomic::AtomicU64::new(1),
        }
    }

    /// Gives a service a table of positions.
    pub fn set_table(&mut self, service: u32, words: impl IntoIterator<Item = u64>) {
        self.tables[service as usize] = words.into_iter().collect();
    }

    /// Sets the clock.
    pub fn set_now(&self, now_ns: u64) {
        self.now_ns.store(now_ns, Ordering::Relaxed);
    }

    /// One service, id 0, whose backend i stands at position i with so many
    /// slots as `granted[i]` says.
    pub fn one_service(granted: &[u32]) -> Self {
        let plain = Self::new(
            1,
            granted.len().div_ceil(LEAF_POSITIONS).max(1),
            granted.len(),
        );
        let service = &plain.services[0];
        service.flags.store(SERVICE_PRESENT, Ordering::Relaxed);
        service
            .positions
            .store(granted.len() as u32, Ordering::Relaxed);
        service
            .backends
            .store(granted.len() as u32, Ordering::Relaxed);
        service.cursor.store(u32::MAX, Ordering::Relaxed);
        for (position, slots) in granted.iter().enumerate() {
            let (number, place) = (position / LEAF_POSITIONS, position % LEAF_POSITIONS);
            service.leaves[number].store(number as u32 + 1, Ordering::Relaxed);
            plain.leaves[number].backends[place].store(position as u32 + 1, Ordering::Relaxed);
            let backend = &plain.backends[position];
            backend.granted.store(*slots, Ordering::Relaxed);
            backend.memberships[0].store(Membership::new(0, position as u32).0, Ordering::Relaxed);
            plain.refresh(position as u32);
        }
        plain
    }
}

impl Tables for Plain {
    fn service(&self, id: u32) -> Option<&Service> {
        self.services.get(id as usize)
    }

    fn leaf(&self, id: u32) -> Option<&Leaf> {
        self.leaves.get(id as usize)
    }

    fn backend(&self, id: u32) -> Option<&Backend> {
        self.backends.get(id as usize)
    }

    fn table_word(&self, service: u32, index: u32) -> Option<u64> {
        let table = self.tables.get(service as usize)?;
        table.get(index as usize).copied()
    }

    fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }

    /// SplitMix64 (Steele, Lea, Flood; OOPSLA 2014): the same sequence every time.
    fn random(&self) -> u32 {
        let mut z = self
            .random
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) >> 32) as u32
    }
}

fn zero() -> AtomicU32 {
    AtomicU32::new(0)
}

fn zeros<const N: usize>() -> [AtomicU32; N] {
    std::array::from_fn(|_| zero())
}

fn empty_service() -> Service {
    Service {
        flags: zero(),
        strategy: zero(),
        admission: zero(),
        positions: zero(),
        backends: zero(),
        cursor: zero(),
        generation: zero(),
        queue_size: zero(),
        waiting: AtomicU64::new(0),
        sent_at_ns: AtomicU64::new(0),
        summary: IndexWords::default(),
        rate_interval_ns: AtomicU64::new(0),
        rate_ahead_ns: AtomicU64::new(0),
        rate_full_at_ns: AtomicU64::new(0),
        breaker_open_ns: AtomicU64::new(0),
        ejected: AtomicU64::new(0),
        trial_at_ns: AtomicU64::new(0),
        breaker_failures: zero(),
        trial_cursor: zero(),
        turn: AtomicU64::new(0),
        leader: AtomicU64::new(0),
        leaderless_since_ns: AtomicU64::new(0),
        affinity_ns: AtomicU64::new(0),
        near: std::array::from_fn(|_| AtomicU64::new(0)),
        leaves: zeros::<SERVICE_LEAVES>(),
    }
}

fn empty_leaf() -> Leaf {
    Leaf {
        index: IndexWords::default(),
        backends: zeros::<LEAF_POSITIONS>(),
    }
}

fn empty_backend() -> Backend {
    Backend {
        inflight: AtomicU64::new(0),
        granted: zero(),
        state: zero(),
        generation: zero(),
        weight: zero(),
        address: zeros(),
        port: zero(),
        failures: zero(),
        ejected_until_ns: AtomicU64::new(0),
        warm_at_ns: AtomicU64::new(0),
        cold_at_ns: AtomicU64::new(0),
        failing_since_ns: AtomicU64::new(0),
        response_time_ns: AtomicU64::new(0),
        response_time_at_ns: AtomicU64::new(0),
        awaiting: AtomicU64::new(0),
        awaiting_since_ns: AtomicU64::new(0),
        steered: AtomicU64::new(0),
        memberships: std::array::from_fn(|_| AtomicU64::new(0)),
    }
}

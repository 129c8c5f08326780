//! One leader for all connections, and its successor when it goes.
//!
//! The agent ranks the backends: the one that has been ready longest first (a table of positions,
//! the same on every node). Whoever finds the leader gone, program or agent, elects the first usable
//! one of the ranking by compare-and-swap. A leader stays as long as it is usable, whatever the
//! ranking says by then: it is never pre-empted.

use crate::{
    atomic::{compare_exchange, load, load32, store},
    service::{Backend, Service, Tables},
    slot::{Side, Want},
    table::{self, Kind},
};

use super::{Attempt, How, backend_at, take::take as take_slot};

/// Places of the ranking that an election looks at, before it takes any usable backend.
const CANDIDATES: u32 = 32;

/// Who leads a service, as its `leader` word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Id of the backend.
    pub id: u32,
    /// Its generation when it was elected.
    pub generation: u32,
}

/// In the word of [`elect`]: the leader is new.
const ELECTED: u64 = 1 << 63;

impl Leader {
    /// As a word; generations are below 2^31 as long as fewer than two billion backends have been.
    #[inline(always)]
    pub const fn into_word(self) -> u64 {
        (self.generation as u64 & 0x7fff_ffff) << 32 | (self.id as u64 + 1)
    }

    /// Reads [`Leader::into_word`], or the word of [`elect`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Option<Self> {
        match word as u32 {
            0 => None,
            id => Some(Self {
                id: id - 1,
                generation: (word >> 32) as u32 & 0x7fff_ffff,
            }),
        }
    }
}

/// The leader, if there is one that can be used.
#[inline(always)]
pub fn leader_of<T: Tables>(tables: &T, service_id: u32) -> Option<Leader> {
    let service = tables.service(service_id)?;
    let leader = Leader::from_word(load(&service.leader))?;
    leads(tables, service_id, leader).then_some(leader)
}

/// Takes a slot on the leader. Nobody else will do.
#[inline(always)]
pub(super) fn take<T: Tables>(
    tables: &T,
    service_id: u32,
    service: &Service,
    side: Side,
) -> Attempt {
    let word = tables.elect(service_id, side);
    let Some(leader) = Leader::from_word(word) else {
        // All are out. An ejected one whose time is up may show that it is back.
        if load(&service.ejected) != 0
            && let Some(backend) = tables.trial(service_id, side)
        {
            return Attempt::taken(backend, How::Trial);
        }
        return Attempt::NOTHING;
    };
    let Some(backend) = tables.backend(leader.id) else {
        return Attempt::NOTHING;
    };
    let attempt = take_slot(tables, leader.id, backend, Want::Anything, side);
    if !attempt.is_taken() {
        return Attempt::NOTHING;
    }
    if word & ELECTED != 0 {
        return attempt.elected();
    }
    attempt
}

/// The leader's word, after an election if there was none; 0 if nobody can lead. Bit 63 says that
/// the caller elected it.
#[inline(always)]
pub fn elect<T: Tables>(tables: &T, service_id: u32, _: Side) -> u64 {
    let Some(service) = tables.service(service_id) else {
        return 0;
    };
    let before = load(&service.leader);
    if let Some(leader) = Leader::from_word(before)
        && leads(tables, service_id, leader)
    {
        return before;
    }
    let Some(id) = next_in_rank(tables, service_id) else {
        return 0;
    };
    let Some(backend) = tables.backend(id) else {
        return 0;
    };
    let word = Leader {
        id,
        generation: load32(&backend.generation),
    }
    .into_word();
    if !compare_exchange(&service.leader, before, word) {
        // Someone else was faster; theirs leads.
        return load(&service.leader);
    }
    if before == 0 {
        return word | ELECTED;
    }
    store(&service.leaderless_since_ns, lost_at(tables, before));
    word | ELECTED
}

/// When the leader of a word was lost: with the first of the connects that failed, or now.
#[inline(always)]
fn lost_at<T: Tables>(tables: &T, word: u64) -> u64 {
    let former = Leader::from_word(word).and_then(|leader| tables.backend(leader.id));
    match former {
        Some(backend) if load32(&backend.failures) != 0 => load(&backend.failing_since_ns),
        _ => tables.now_ns(),
    }
}

/// Whether the backend still is the one that was elected, belongs to the service and can be used.
#[inline(always)]
fn leads<T: Tables>(tables: &T, service_id: u32, leader: Leader) -> bool {
    let Some(backend) = tables.backend(leader.id) else {
        return false;
    };
    load32(&backend.generation) & 0x7fff_ffff == leader.generation && can_lead(backend, service_id)
}

#[inline(always)]
fn can_lead(backend: &Backend, service_id: u32) -> bool {
    backend.is_usable() && backend.is_in(service_id)
}

/// Id of the first usable backend of the ranking.
#[inline(always)]
pub fn next_in_rank<T: Tables>(tables: &T, service_id: u32) -> Option<u32> {
    let service = tables.service(service_id)?;
    let ranked = table::len(tables, service_id, Kind::Ranking);
    if ranked == 0 {
        // Not known yet; whom this one would pick, others would not.
        return None;
    }
    let mut place = 0;
    while place < CANDIDATES {
        if place >= ranked {
            break;
        }
        if let Some(position) = table::position(tables, service_id, place)
            && let Some((id, backend)) = backend_at(tables, service, position)
            && backend.is_usable()
        {
            return Some(id);
        }
        place += 1;
    }
    let position = tables.next_available(service_id, 0, crate::service::ALL_LEAVES)?;
    let (id, _) = backend_at(tables, service, position)?;
    Some(id)
}

//! One leader for all connections, and its successor when it goes.
//!
//! The agent ranks the backends: the one that has been ready longest first (a table of positions,
//! the same on every node). Whoever finds the leader gone, program or agent, elects the first
//! fit one of the ranking by compare-and-swap. A leader stays as long as it is fit, whatever the
//! ranking says by then: it is never pre-empted.
//!
//! Fit is who can be used and has not just failed as often as the breaker allows. That is not the
//! same as not being ejected: of few backends the breaker must leave half, dead or not. Where
//! nobody is fit, the others take turns: whichever comes back first will be found.

use crate::{
    atomic::{compare_exchange, load, load32, store, store32},
    service::{Backend, Service, Tables},
    slot::{Side, Want},
    table::{self, Kind},
};

use super::{Attempt, backend_at, take::take as take_slot};

/// Places of the ranking that an election looks at.
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
    is_same(tables.backend(leader.id)?, leader, service_id).then_some(leader)
}

/// Takes a slot on the leader. Nobody else will do.
#[inline(always)]
pub(super) fn take<T: Tables>(tables: &T, service_id: u32, side: Side) -> Attempt {
    let word = tables.elect(service_id, side);
    let Some(leader) = Leader::from_word(word) else {
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
    let former = Leader::from_word(before);
    if let Some(leader) = former
        && leads(tables, service_id, service, leader)
    {
        return before;
    }
    let heir = tables.successor(service_id, former_id(tables, former));
    let Some(backend) = tables.backend(heir.id) else {
        // Nobody else; a former leader that can be used is better than none.
        return match leader_of(tables, service_id) {
            Some(_) => before,
            None => 0,
        };
    };
    let word = Leader {
        id: heir.id,
        generation: load32(&backend.generation),
    }
    .into_word();
    if !compare_exchange(&service.leader, before, word) {
        // Someone else was faster; theirs leads.
        return load(&service.leader);
    }
    if !matches!(heir.fitness, Fitness::Fit) {
        give_a_chance(tables, service, heir.id, backend);
    }
    if before == 0 {
        return word | ELECTED;
    }
    store(&service.leaderless_since_ns, lost_at(tables, before));
    word | ELECTED
}

/// The id of a former leader plus one; 0 if there is none, or if the id means another backend by
/// now, which may lead like any other.
#[inline(always)]
fn former_id<T: Tables>(tables: &T, former: Option<Leader>) -> u32 {
    let Some(leader) = former else {
        return 0;
    };
    match tables.backend(leader.id) {
        Some(backend) if load32(&backend.generation) & 0x7fff_ffff == leader.generation => {
            leader.id + 1
        }
        _ => 0,
    }
}

/// Lets a backend lead that is not fit, until it fails once more.
#[inline(always)]
fn give_a_chance<T: Tables>(tables: &T, service: &Service, id: u32, backend: &Backend) {
    if is_failing(service, backend) {
        store32(&backend.failures, load32(&service.breaker_failures) - 1);
    }
    if load(&backend.ejected_until_ns) != 0 {
        tables.readmit(id);
    }
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

/// Whether the backend still is the one that was elected, and fit to lead.
#[inline(always)]
fn leads<T: Tables>(tables: &T, service_id: u32, service: &Service, leader: Leader) -> bool {
    let Some(backend) = tables.backend(leader.id) else {
        return false;
    };
    is_same(backend, leader, service_id) && !is_failing(service, backend)
}

/// Whether the backend still is the one that was elected, and can be used.
#[inline(always)]
fn is_same(backend: &Backend, leader: Leader, service_id: u32) -> bool {
    load32(&backend.generation) & 0x7fff_ffff == leader.generation
        && backend.is_usable()
        && backend.is_in(service_id)
}

/// Whether a backend has failed as often as the service's breaker allows, and not succeeded since.
#[inline(always)]
fn is_failing(service: &Service, backend: &Backend) -> bool {
    let most = load32(&service.breaker_failures);
    most != 0 && load32(&backend.failures) >= most
}

/// How well a backend would lead, from the best to not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fitness {
    /// It can be used, and nothing speaks against it.
    Fit,
    /// It has failed lately.
    Failing,
    /// Its breaker keeps it out.
    Ejected,
    /// It is unhealthy, draining, or not there.
    Unfit,
}

/// A backend that could lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heir {
    /// Its id; [`u32::MAX`] for nobody.
    pub id: u32,
    /// How well it would.
    pub fitness: Fitness,
}

impl Heir {
    const NOBODY: Self = Self {
        id: u32::MAX,
        fitness: Fitness::Unfit,
    };

    /// As one word, in which form it crosses a function of the kernel's own.
    #[inline(always)]
    pub const fn into_word(self) -> u64 {
        (self.fitness as u64) << 32 | self.id as u64
    }

    /// Reads [`Heir::into_word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self {
            id: word as u32,
            fitness: match word >> 32 {
                0 => Fitness::Fit,
                1 => Fitness::Failing,
                2 => Fitness::Ejected,
                _ => Fitness::Unfit,
            },
        }
    }
}

/// The best of the ranking, other than the former leader (its id plus one, or 0).
#[inline(always)]
pub fn successor<T: Tables>(tables: &T, service_id: u32, former: u32) -> Heir {
    // Without a ranking there is nobody: whom this one would pick, others would not.
    let ranked = table::len(tables, service_id, Kind::Ranking);
    let mut best = Heir::NOBODY.into_word();
    let mut place = 0;
    while place < CANDIDATES {
        if place >= ranked {
            break;
        }
        // Words compare by fitness first; of equals the first of the ranking stays.
        let word = tables.heir(service_id, place, former);
        if word >> 32 < best >> 32 {
            best = word;
        }
        if best >> 32 == Fitness::Fit as u64 {
            break;
        }
        place += 1;
    }
    Heir::from_word(best)
}

/// Who stands at a place of the ranking, as a word of [`Heir`].
#[inline(always)]
pub fn heir<T: Tables>(tables: &T, service_id: u32, place: u32, former: u32) -> u64 {
    let nobody = Heir::NOBODY.into_word();
    let Some(service) = tables.service(service_id) else {
        return nobody;
    };
    let Some(position) = table::position(tables, service_id, place) else {
        return nobody;
    };
    let Some((id, backend)) = backend_at(tables, service, position) else {
        return nobody;
    };
    if id + 1 == former || load32(&backend.state) != 0 {
        return nobody;
    }
    let fitness = if load(&backend.ejected_until_ns) != 0 {
        Fitness::Ejected
    } else if is_failing(service, backend) {
        Fitness::Failing
    } else {
        Fitness::Fit
    };
    Heir { id, fitness }.into_word()
}

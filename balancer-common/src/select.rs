//! Choosing a backend and taking its slot, in one step.
//!
//! Pure and generic over where the records lie ([`Tables`]), so that the kernel
//! programs, the agent and the property tests run the same code.
//!
//! `idle-first` follows join-idle-queue (Lu et al., Performance Evaluation
//! 2011) in sending work to a known idle server, and the power of d choices
//! (Mitzenmacher, IEEE TPDS 2001) with d = 4 when none is idle.

use crate::{
    atomic::{fetch_add, load32, store32},
    index::{self, Found, Index},
    service::{Backend, LEAF_POSITIONS, SERVICE_LEAVES, Service, Tables},
    slot::{self, NotTaken, Side, Want},
};

/// A slot that was taken. The backend's generation and address stay as they are
/// until it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Id of the backend.
    pub backend: u32,
    /// Whether it was idle before.
    pub was_idle: bool,
}

/// Why no slot could be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No backend is available.
    NoneAvailable,
    /// One seemed available, but others were faster every time.
    Contended,
}

/// Tries to take an idle backend before settling for a loaded one.
const IDLE_TRIES: u32 = 8;
/// Draws of the best of four before settling for any available backend.
const DRAWS: u32 = 2;
/// Tries to take any available backend at all.
const LAST_TRIES: u32 = 32;

/// Takes a slot on an idle backend, rotating among the idle ones; if none is
/// idle, on the least loaded of four available ones drawn at random.
#[inline(always)]
pub fn idle_first<T: Tables>(tables: &T, service_id: u32, side: Side) -> Result<Taken, Refusal> {
    let Some(service) = tables.service(service_id) else {
        return Err(Refusal::NoneAvailable);
    };
    let start = load32(&service.cursor).wrapping_add(1);
    if let Ok(taken) = take_next(tables, service_id, start, Want::Idle, side, IDLE_TRIES) {
        return Ok(taken);
    }
    let mut draw = 0;
    while draw < DRAWS {
        let Some(position) = tables.least_of_four(service_id) else {
            break;
        };
        if let Attempt::Taken(taken) = tables.attempt(service_id, position, Want::Available, side) {
            return Ok(taken);
        }
        draw += 1;
    }
    take_next(tables, service_id, start, Want::Available, side, LAST_TRIES)
}

/// Draws of [`over_admit`].
const OVER_DRAWS: u32 = 8;

/// Takes a slot on the least loaded of some usable backends drawn at random,
/// even if it is full.
#[inline(always)]
pub fn over_admit<T: Tables>(tables: &T, service_id: u32, side: Side) -> Option<u32> {
    let service = tables.service(service_id)?;
    let positions = load32(&service.positions);
    let mut least = NOBODY;
    let mut drawn = 0;
    while drawn < OVER_DRAWS {
        let position = ((tables.random() as u64 * positions as u64) >> 32) as u32;
        least = lesser(least, tables.load_at(service_id, position).at(position));
        drawn += 1;
    }
    // Where usable ones are rare, the first that there is.
    let mut number = 0;
    while number * (LEAF_POSITIONS as u32) < positions
        && number < SERVICE_LEAVES as u32
        && least.position == NOBODY.position
    {
        if let Some(position) = tables.usable_in_leaf(service_id, number) {
            least = tables.load_at(service_id, position).at(position);
        }
        number += 1;
    }
    if least.position == NOBODY.position {
        return None;
    }
    store32(&service.cursor, least.position);
    let (id, backend) = backend_at(tables, service, least.position)?;
    slot::take_beyond(backend, side);
    fetch_add(&backend.steered, 1);
    tables.refresh(id);
    Some(id)
}

/// How loaded a backend is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    inflight: u32,
    granted: u32,
}

impl Load {
    /// More than any backend's: there is none that could be used.
    const NONE: Self = Self {
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
    fn at(self, position: u32) -> Candidate {
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

/// The first position of a leaf at which a backend stands that could be used.
#[inline(always)]
pub fn usable_in_leaf<T: Tables>(tables: &T, service_id: u32, number: u32) -> Option<u32> {
    let first = number * LEAF_POSITIONS as u32;
    let mut place = 0;
    while place < LEAF_POSITIONS as u32 {
        if tables.load_at(service_id, first + place) != Load::NONE {
            return Some(first + place);
        }
        place += 1;
    }
    None
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

/// Gives back a slot that [`idle_first`] took. `None` if the backend held none.
#[inline(always)]
pub fn give_back<T: Tables>(tables: &T, id: u32, side: Side) -> Option<u64> {
    let backend = tables.backend(id)?;
    let before = slot::give_back(backend, side)?;
    // Only the change to idle and the change from full show in the index.
    if before == 1 || before >= load32(&backend.granted) as u64 {
        tables.refresh(id);
    }
    Some(before)
}

/// Outcome of one attempt: see [`attempt`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attempt {
    /// The index has no backend to offer.
    Nothing,
    /// The one it offered was gone; go on at this position.
    Lost(u32),
    /// A slot was taken.
    Taken(Taken),
}

impl Attempt {
    /// As one word, in which form it crosses a function of the kernel's own.
    #[inline(always)]
    pub const fn into_word(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Lost(from) => 1 << 62 | from as u64,
            Self::Taken(taken) => 2 << 62 | (taken.was_idle as u64) << 32 | taken.backend as u64,
        }
    }

    /// Reads [`Attempt::into_word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        match word >> 62 {
            0 => Self::Nothing,
            1 => Self::Lost(word as u32),
            _ => Self::Taken(Taken {
                backend: word as u32,
                was_idle: word >> 32 & 1 != 0,
            }),
        }
    }
}

/// Tries to take a slot on the first backend, from position `from` on, that the
/// index offers.
#[inline(always)]
pub fn attempt<T: Tables>(
    tables: &T,
    service_id: u32,
    from: u32,
    want: Want,
    side: Side,
) -> Attempt {
    let Some(service) = tables.service(service_id) else {
        return Attempt::Nothing;
    };
    let index = match want {
        Want::Idle => Index::Idle,
        Want::Available => Index::Available,
    };
    let position = match index::next(tables, service, index, from) {
        Found::Nothing => return Attempt::Nothing,
        Found::Stale => return Attempt::Lost(from),
        Found::At(position) => position,
    };
    let Some((id, backend)) = backend_at(tables, service, position) else {
        index::clear(tables, service, position);
        return Attempt::Lost(position + 1);
    };
    let outcome = slot::take(backend, want, side);
    if is_visible(outcome, backend) {
        tables.refresh(id);
    }
    match outcome {
        Ok(before) => {
            store32(&service.cursor, position);
            fetch_add(&backend.steered, 1);
            Attempt::Taken(Taken {
                backend: id,
                was_idle: before == 0,
            })
        }
        Err(_) => Attempt::Lost(position + 1),
    }
}

/// The position of the least loaded of four available backends drawn at random.
#[inline(always)]
pub fn least_of_four<T: Tables>(tables: &T, service_id: u32) -> Option<u32> {
    let service = tables.service(service_id)?;
    // Written out, since the verifier follows no loop whose counter the
    // compiler has turned round.
    let one = lesser(draw(tables, service), draw(tables, service));
    let other = lesser(draw(tables, service), draw(tables, service));
    let least = lesser(one, other);
    (least.position != NOBODY.position).then_some(least.position)
}

/// A backend that was drawn.
#[derive(Clone, Copy)]
struct Candidate {
    position: u32,
    inflight: u32,
    granted: u32,
}

/// What is drawn when nobody is available: more loaded than anyone. (An `Option`
/// would leave fields undefined, which the verifier lets no program even copy.)
const NOBODY: Candidate = Candidate {
    position: u32::MAX,
    inflight: u32::MAX,
    granted: 1,
};

/// Draws an available backend: the first from a random position on.
#[inline(always)]
fn draw<T: Tables>(tables: &T, service: &Service) -> Candidate {
    let positions = load32(&service.positions) as u64;
    let from = ((tables.random() as u64 * positions) >> 32) as u32;
    let Found::At(position) = index::next(tables, service, Index::Available, from) else {
        return NOBODY;
    };
    let Some((_, backend)) = backend_at(tables, service, position) else {
        return NOBODY;
    };
    Candidate {
        position,
        inflight: backend.inflight() as u32,
        granted: load32(&backend.granted),
    }
}

/// The one with the lower load, inflight/granted; compared without dividing, and
/// within 64 bits, since BPF programs have no wider product.
#[inline(always)]
fn lesser(a: Candidate, b: Candidate) -> Candidate {
    let is_less =
        (a.inflight as u64) * (b.granted as u64) <= (b.inflight as u64) * (a.granted as u64);
    if is_less { a } else { b }
}

#[inline(always)]
fn take_next<T: Tables>(
    tables: &T,
    service_id: u32,
    start: u32,
    want: Want,
    side: Side,
    tries: u32,
) -> Result<Taken, Refusal> {
    let mut from = start;
    let mut tried = 0;
    while tried < tries {
        match tables.attempt(service_id, from, want, side) {
            Attempt::Nothing => return Err(Refusal::NoneAvailable),
            Attempt::Lost(next) => from = next,
            Attempt::Taken(taken) => return Ok(taken),
        }
        tried += 1;
    }
    Err(Refusal::Contended)
}

/// Whether an attempt shows in the index: the backend is no longer idle, or is
/// full, or its bit was stale.
#[inline(always)]
fn is_visible(outcome: Result<u64, NotTaken>, backend: &Backend) -> bool {
    match outcome {
        Ok(before) => before == 0 || before + 1 >= load32(&backend.granted) as u64,
        Err(NotTaken::Unsuitable) => true,
        Err(NotTaken::Contended) => false,
    }
}

#[inline(always)]
fn backend_at<'t, T: Tables>(
    tables: &'t T,
    service: &Service,
    position: u32,
) -> Option<(u32, &'t Backend)> {
    let leaf = tables.leaf(service.leaf(position)?)?;
    let id = leaf.backend(position)?;
    Some((id, tables.backend(id)?))
}

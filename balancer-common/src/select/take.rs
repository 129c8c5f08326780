//! Taking a slot at a position, or on the first backend from a position on.

use crate::{
    atomic::{fetch_add, load, load32, store32},
    index::{self, Found, Index},
    service::{Backend, Tables},
    slot::{self, NotTaken, Side, Want},
};

use super::{Refusal, backend_at};

/// Tries to take any available backend at all.
const LAST_TRIES: u32 = 32;

/// A slot that was taken. The backend's generation and address stay as they are
/// until it is given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Id of the backend.
    pub backend: u32,
    /// How it came to be taken.
    pub how: How,
    /// Whether the backend has become the leader by this.
    pub was_elected: bool,
}

/// How a slot came to be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The backend was idle.
    Idle,
    /// It was serving already.
    Shared,
    /// It was ejected, and this is the one connection that tries it.
    Trial,
}

impl Taken {
    /// Whether the backend was idle before.
    pub const fn was_idle(&self) -> bool {
        matches!(self.how, How::Idle)
    }
}

/// Who takes a slot.
#[derive(Clone, Copy, Debug)]
pub struct Taker {
    /// A random number, the same for the whole choice: whether a backend that warms up is passed
    /// over. 0: none is.
    pub luck: u32,
    /// Whose half of the slot word counts it.
    pub side: Side,
}

/// Outcome of one attempt, or of a whole choice: a slot was taken, or nothing is there to take, or
/// what was there was lost to others.
///
/// One word, in which form it crosses functions of the kernel's own; and since the verifier lets no
/// program even copy what an enum leaves undefined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(u64);

impl Attempt {
    /// There is no backend to offer.
    pub const NOTHING: Self = Self(0);
    const LOST: u64 = 1 << 62;
    const TAKEN: u64 = 1 << 63;
    const ELECTED: u64 = 1 << 34;
    const HOW_SHIFT: u32 = 32;

    /// The one on offer was gone; go on at this position.
    #[inline(always)]
    pub const fn lost(next: u32) -> Self {
        Self(Self::LOST | next as u64)
    }

    /// A slot was taken.
    #[inline(always)]
    pub const fn taken(backend: u32, how: How) -> Self {
        Self(Self::TAKEN | (how as u64) << Self::HOW_SHIFT | backend as u64)
    }

    /// The same, and the backend has become the leader by this.
    #[inline(always)]
    pub(super) const fn elected(self) -> Self {
        Self(self.0 | Self::ELECTED)
    }

    /// Whether a slot was taken.
    #[inline(always)]
    pub const fn is_taken(self) -> bool {
        self.0 & Self::TAKEN != 0
    }

    /// Whether there was nothing to take.
    #[inline(always)]
    pub const fn is_nothing(self) -> bool {
        self.0 == 0
    }

    /// Where to go on after a loss.
    #[inline(always)]
    pub const fn next(self) -> u32 {
        self.0 as u32
    }

    /// As a plain word.
    #[inline(always)]
    pub const fn into_word(self) -> u64 {
        self.0
    }

    /// Reads [`Attempt::into_word`].
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        Self(word)
    }

    /// What was taken, or why nothing was.
    #[inline(always)]
    pub const fn result(self) -> Result<Taken, Refusal> {
        if self.is_nothing() {
            return Err(Refusal::NoneAvailable);
        }
        if !self.is_taken() {
            return Err(Refusal::Contended);
        }
        Ok(Taken {
            backend: self.0 as u32,
            how: match self.0 >> Self::HOW_SHIFT & 3 {
                0 => How::Idle,
                1 => How::Shared,
                _ => How::Trial,
            },
            was_elected: self.0 & Self::ELECTED != 0,
        })
    }
}

/// What [`take_next`] looks for.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    /// Id of the service.
    pub service: u32,
    /// Position to begin at.
    pub from: u32,
    /// What will do.
    pub want: Want,
    /// Who takes.
    pub taker: Taker,
    /// Mask of the leaves to look in.
    pub leaves: u64,
}

/// Tries to take a slot on the first backend, from a position on, that the index offers. The
/// service's cursor moves there.
#[inline(always)]
pub fn take_next<T: Tables>(tables: &T, search: &Search) -> Attempt {
    let Some(service) = tables.service(search.service) else {
        return Attempt::NOTHING;
    };
    let index = match search.want {
        Want::Idle => Index::Idle,
        Want::Available | Want::Anything => Index::Available,
    };
    let position = match index::next(tables, service, index, search.from, search.leaves) {
        Found::Nothing => return Attempt::NOTHING,
        Found::Stale => return Attempt::lost(search.from),
        Found::At(position) => position,
    };
    let attempt = take_at(tables, search.service, position, search.want, search.taker);
    if attempt.is_taken() {
        store32(&service.cursor, position);
    }
    attempt
}

/// Tries to take a slot on the backend at a position.
#[inline(always)]
pub fn take_at<T: Tables>(
    tables: &T,
    service_id: u32,
    position: u32,
    want: Want,
    taker: Taker,
) -> Attempt {
    let Some(service) = tables.service(service_id) else {
        return Attempt::NOTHING;
    };
    let Some((id, backend)) = backend_at(tables, service, position) else {
        index::clear(tables, service, position);
        return Attempt::lost(position + 1);
    };
    if !matches!(want, Want::Anything) && is_passed_over(tables, backend, taker.luck) {
        return Attempt::lost(position + 1);
    }
    let attempt = take(tables, id, backend, want, taker.side);
    if attempt.is_taken() {
        return attempt;
    }
    Attempt::lost(position + 1)
}

/// Takes a slot on a backend.
#[inline(always)]
pub(super) fn take<T: Tables>(
    tables: &T,
    id: u32,
    backend: &Backend,
    want: Want,
    side: Side,
) -> Attempt {
    let outcome = slot::take(backend, want, side);
    if is_visible(outcome, backend) {
        tables.refresh(id);
    }
    match outcome {
        Ok(before) => {
            fetch_add(&backend.steered, 1);
            let how = if before == 0 { How::Idle } else { How::Shared };
            Attempt::taken(id, how)
        }
        Err(_) => Attempt::lost(0),
    }
}

/// The first available position from `from` on.
#[inline(always)]
pub fn next_available<T: Tables>(
    tables: &T,
    service_id: u32,
    from: u32,
    leaves: u64,
) -> Option<u32> {
    const TRIES: u32 = 4;
    let service = tables.service(service_id)?;
    let mut tries = 0;
    while tries < TRIES {
        match index::next(tables, service, Index::Available, from, leaves) {
            Found::At(position) => return Some(position),
            Found::Nothing => return None,
            Found::Stale => {}
        }
        tries += 1;
    }
    None
}

/// Takes any slot that is left, on the first backend from a position on.
#[inline(always)]
pub(super) fn take_any<T: Tables>(
    tables: &T,
    service_id: u32,
    from: u32,
    taker: Taker,
    leaves: u64,
) -> Attempt {
    let search = Search {
        service: service_id,
        from,
        want: Want::Anything,
        taker,
        leaves,
    };
    take_some(tables, search, LAST_TRIES)
}

/// [`take_next`], so often.
#[inline(always)]
pub(super) fn take_some<T: Tables>(tables: &T, mut search: Search, tries: u32) -> Attempt {
    let mut tried = 0;
    while tried < tries {
        let attempt = tables.take_next(&search);
        if attempt.is_taken() || attempt.is_nothing() {
            return attempt;
        }
        search.from = attempt.next();
        tried += 1;
    }
    Attempt::lost(search.from)
}

/// Whether a backend that warms up is left out this time: less often the longer it has been there.
#[inline(always)]
pub(super) fn is_passed_over<T: Tables>(tables: &T, backend: &Backend, luck: u32) -> bool {
    if luck == 0 {
        return false;
    }
    let warm_at = load(&backend.warm_at_ns);
    if warm_at == 0 {
        return false;
    }
    let (now, cold_at) = (tables.now_ns(), load(&backend.cold_at_ns));
    if now >= warm_at || now < cold_at {
        return false;
    }
    // In units of about a millisecond, so that the product fits.
    let (age, whole) = ((now - cold_at) >> 20, (warm_at - cold_at) >> 20);
    // From the start a backend gets a little, or it could never show what it can.
    (luck as u64 * whole) >> 32 > age + whole / 16
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

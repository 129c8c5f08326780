//! The word that counts a backend's slots, and the only ways to change it.
//!
//! The low half counts slots that the kernel programs took, the high half those
//! that the agent took. Taking is one compare-and-swap of the whole word, done
//! only while the sum is below `granted`, so no concurrency can overshoot. The
//! halves are apart so that a restarted agent can zero its own.

use crate::{
    atomic::{compare_exchange, fetch_add, fetch_and, load, load32},
    service::Backend,
};

/// Whose half of the word a slot is counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Taken in a connect program.
    Kernel,
    /// Taken by the agent.
    Agent,
}

impl Side {
    /// The bits of the kernel's half of a word.
    pub(crate) const KERNEL_HALF: u64 = 0xffff_ffff;

    /// One in its half of a word.
    pub(crate) const fn one(self) -> u64 {
        match self {
            Self::Kernel => 1,
            Self::Agent => 1 << 32,
        }
    }

    /// What a word counts on this side.
    pub const fn half(self, word: u64) -> u32 {
        match self {
            Self::Kernel => word as u32,
            Self::Agent => (word >> 32) as u32,
        }
    }
}

/// What a taker insists on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Only if nothing is in flight.
    Idle,
    /// Any slot that is left.
    Available,
    /// The same, even of a backend that still warms up.
    Anything,
}

impl Want {
    /// As a number, in which form it crosses a function of the kernel's own.
    #[inline(always)]
    pub const fn into_number(self) -> u32 {
        self as u32
    }

    /// Reads [`Want::into_number`].
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::Idle,
            1 => Self::Available,
            _ => Self::Anything,
        }
    }
}

/// Why no slot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The backend is not (or not any more) what the taker wanted.
    Unsuitable,
    /// Others changed the word faster than we could.
    Contended,
}

/// Gives back all that an agent held that is no more. What the kernel took stays.
pub fn forget_agent(backend: &Backend) {
    for word in [&backend.inflight, &backend.awaiting] {
        fetch_and(word, Side::KERNEL_HALF);
    }
}

/// Takes slots off the kernel's half that nobody holds who could give them back,
/// or all of it if it is less. Returns how many. For the agent, which has counted.
pub fn forget_lost(backend: &Backend, lost: u32) -> u32 {
    loop {
        let word = load(&backend.inflight);
        let off = lost.min(Side::Kernel.half(word));
        if compare_exchange(&backend.inflight, word, word - off as u64) {
            return off;
        }
    }
}

/// Counts slots in the kernel's half that are held but were not counted, over the
/// limit if need be: then nothing more is handed out until enough are back.
pub fn count_held(backend: &Backend, held: u32) {
    fetch_add(&backend.inflight, held as u64);
}

/// Tries of the compare-and-swap: each one lost means that another slot moved.
const TRIES: u32 = 8;

/// Slots taken on both sides.
#[inline(always)]
pub const fn total(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// Takes a slot. Returns how many were taken before.
#[inline(always)]
pub fn take(backend: &Backend, want: Want, side: Side) -> Result<u64, NotTaken> {
    let mut tries = 0;
    while tries < TRIES {
        let word = load(&backend.inflight);
        let before = total(word);
        if !is_open(backend, want, before) {
            return Err(NotTaken::Unsuitable);
        }
        if compare_exchange(&backend.inflight, word, word.wrapping_add(side.one())) {
            return Ok(before);
        }
        tries += 1;
    }
    Err(NotTaken::Contended)
}

/// Takes a slot of a backend that a breaker keeps out, to try it.
#[inline(always)]
pub fn take_for_trial(backend: &Backend, side: Side) -> Result<u64, NotTaken> {
    let mut tries = 0;
    while tries < TRIES {
        let word = load(&backend.inflight);
        let before = total(word);
        if before >= load32(&backend.granted) as u64 {
            return Err(NotTaken::Unsuitable);
        }
        if compare_exchange(&backend.inflight, word, word.wrapping_add(side.one())) {
            return Ok(before);
        }
        tries += 1;
    }
    Err(NotTaken::Contended)
}

/// Takes a slot whether or not one is left, for a service that is set to rather
/// overload its backends than refuse while the agent is gone. Returns how many
/// were taken before.
#[inline(always)]
pub fn take_beyond(backend: &Backend, side: Side) -> u64 {
    total(fetch_add(&backend.inflight, side.one()))
}

/// Whether an agent that is dead holds slots here which the kernel could hand out.
#[inline(always)]
pub fn has_dead(backend: &Backend) -> bool {
    let word = load(&backend.inflight);
    backend.is_usable()
        && Side::Agent.half(word) != 0
        && Side::Kernel.half(word) < load32(&backend.granted)
}

/// Takes a slot of a backend on which a dead agent holds some: those end with its connections, so
/// they are free. Returns how many are taken besides, or `None` if there is none to take.
#[inline(always)]
pub fn take_from_dead(backend: &Backend) -> Option<u64> {
    let mut tries = 0;
    while tries < TRIES {
        let word = load(&backend.inflight);
        let of_kernel = word & Side::KERNEL_HALF;
        if !backend.is_usable() || of_kernel >= load32(&backend.granted) as u64 {
            return None;
        }
        if compare_exchange(&backend.inflight, word, of_kernel + 1) {
            return Some(of_kernel);
        }
        tries += 1;
    }
    None
}

/// Gives a slot back. Returns how many were taken before, or `None` if this
/// side held none: then nothing has changed, and the caller counts a fault.
///
/// Whoever has nothing to give back must not borrow from the other half, not
/// even for a moment: what others give back meanwhile would be lost. Whoever
/// has is counted, and therefore gets its way even where it loses every try.
#[inline(always)]
pub fn give_back(backend: &Backend, side: Side) -> Option<u64> {
    let mut tries = 0;
    while tries < TRIES {
        let word = load(&backend.inflight);
        if side.half(word) == 0 {
            return None;
        }
        if compare_exchange(&backend.inflight, word, word.wrapping_sub(side.one())) {
            return Some(total(word));
        }
        tries += 1;
    }
    let old = fetch_add(&backend.inflight, side.one().wrapping_neg());
    if side.half(old) == 0 {
        fetch_add(&backend.inflight, side.one());
        return None;
    }
    Some(total(old))
}

#[inline(always)]
fn is_open(backend: &Backend, want: Want, taken: u64) -> bool {
    backend.is_usable()
        && taken < load32(&backend.granted) as u64
        && (taken == 0 || !matches!(want, Want::Idle))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{atomic::store, plain::Plain, service::Tables};

    fn with<T>(kernel: u32, agent: u32, act: impl FnOnce(&Backend) -> T) -> (T, u32, u32) {
        let plain = Plain::one_service(&[4]);
        let backend = plain.backend(0).unwrap();
        store(&backend.inflight, (agent as u64) << 32 | kernel as u64);
        let result = act(backend);
        let word = load(&backend.inflight);
        (result, Side::Kernel.half(word), Side::Agent.half(word))
    }

    #[test]
    fn who_holds_nothing_borrows_nothing_from_the_other_half() {
        let give = |side| move |backend: &Backend| give_back(backend, side);
        assert_eq!(with(0, 2, give(Side::Kernel)), (None, 0, 2));
        assert_eq!(with(2, 0, give(Side::Agent)), (None, 2, 0));
        assert_eq!(with(1, 2, give(Side::Kernel)), (Some(3), 0, 2));
        assert_eq!(with(1, 2, give(Side::Agent)), (Some(3), 1, 1));
    }

    #[test]
    fn what_a_dead_agent_holds_is_free() {
        assert_eq!(with(0, 3, take_from_dead), (Some(0), 1, 0));
        assert_eq!(with(2, 1, take_from_dead), (Some(2), 3, 0));
        assert_eq!(with(4, 1, take_from_dead), (None, 4, 1));
        assert_eq!(with(2, 1, has_dead), (true, 2, 1));
        assert_eq!(with(4, 1, has_dead), (false, 4, 1));
        assert_eq!(with(1, 0, has_dead), (false, 1, 0));
    }

    #[test]
    fn lost_slots_go_and_no_more_than_there_are() {
        let forget = |lost| move |backend: &Backend| forget_lost(backend, lost);
        assert_eq!(with(3, 2, forget(1)), (1, 2, 2));
        assert_eq!(with(3, 2, forget(3)), (3, 0, 2));
        assert_eq!(with(3, 2, forget(5)), (3, 0, 2));
        assert_eq!(with(0, 2, forget(1)), (0, 0, 2));
    }

    #[test]
    fn held_slots_count_even_over_the_limit() {
        let outcome = with(3, 1, |backend| {
            count_held(backend, 2);
            take(backend, Want::Available, Side::Kernel)
        });
        assert_eq!(outcome, (Err(NotTaken::Unsuitable), 5, 1));
    }
}

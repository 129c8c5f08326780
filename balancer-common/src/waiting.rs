//! The word that counts who waits for a service.
//!
//! The low half counts connections that the kernel sent to the agent and that
//! have not arrived there yet, the high half those in the agent's queue. While
//! either is above 0, newcomers go to the queue too, so nobody overtakes. Who
//! arrives joins the queue before it is taken off its way, and is thereby never
//! out of sight.

use crate::{
    atomic::{AtomicU64, fetch_add, load},
    slot::total,
};

const QUEUED: u64 = 1 << 32;

/// Those on their way and those in the queue.
#[inline(always)]
pub fn count(word: &AtomicU64) -> u64 {
    total(load(word))
}

/// Those in the agent's queue.
#[inline(always)]
pub fn queued(word: &AtomicU64) -> u32 {
    (load(word) >> 32) as u32
}

/// The kernel sends a connection to the agent. Returns how many there were before.
#[inline(always)]
pub fn send(word: &AtomicU64) -> u64 {
    total(fetch_add(word, 1))
}

/// A connection that was sent is on its way no more: it ended, or has a slot, or
/// has joined the queue.
#[inline(always)]
pub fn unsend(word: &AtomicU64) {
    fetch_add(word, 1u64.wrapping_neg());
}

/// One joins the queue.
#[inline(always)]
pub fn join(word: &AtomicU64) {
    fetch_add(word, QUEUED);
}

/// One leaves the queue.
#[inline(always)]
pub fn leave(word: &AtomicU64) {
    fetch_add(word, QUEUED.wrapping_neg());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_arrives_is_never_out_of_sight() {
        let word = AtomicU64::new(0);
        assert_eq!((send(&word), send(&word)), (0, 1));
        assert_eq!((count(&word), queued(&word)), (2, 0));
        join(&word);
        assert_eq!(count(&word), 3, "counted twice rather than not at all");
        unsend(&word);
        assert_eq!((count(&word), queued(&word)), (2, 1));
        leave(&word);
        unsend(&word);
        assert_eq!(load(&word), 0);
    }
}

//! The word that counts who waits for a service.
//!
//! The low half counts connections that the kernel sent to the agent and that
//! have not arrived there yet, the high half those in the agent's queue. While
//! either is above 0, newcomers go to the queue too, so nobody overtakes. Who
//! arrives joins the queue before it is taken off its way, and is thereby never
//! out of sight.

use crate::{
    atomic::{AtomicU64, compare_exchange, fetch_add, fetch_and, load},
    service::Service,
    slot::{Side, total},
};

const QUEUED: u64 = 1 << 32;

/// For how long one who was sent to the agent can be on the way, unless it is
/// stuck: many times what a connection within a node takes.
const ON_THE_WAY_NS: u64 = 100_000_000;

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

/// Those on their way.
#[inline(always)]
pub fn sent(word: &AtomicU64) -> u32 {
    Side::Kernel.half(load(word))
}

/// Those whom a newcomer has to count with: the queue, and those on their way if
/// they were sent just now. Whoever has been on the way for longer is stuck, and
/// must not keep others from free backends.
#[inline(always)]
pub fn ahead(service: &Service, now_ns: u64) -> u64 {
    let word = load(&service.waiting);
    let is_recent = now_ns.wrapping_sub(load(&service.sent_at_ns)) as i64 <= ON_THE_WAY_NS as i64;
    if is_recent { total(word) } else { word >> 32 }
}

/// The kernel sends a connection to the agent.
#[inline(always)]
pub fn send(word: &AtomicU64) {
    fetch_add(word, 1);
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

/// The queue of an agent that is no more is gone. Whoever is on the way stays counted.
pub fn forget_queued(word: &AtomicU64) {
    fetch_and(word, Side::KERNEL_HALF);
}

/// Takes off so many that were on their way to an agent that had them claimed and is no more, or all
/// of them if they are fewer. For the next agent, which has counted.
pub fn forget_sent(word: &AtomicU64, lost: u32) {
    loop {
        let old = load(word);
        let off = lost.min(Side::Kernel.half(old));
        if compare_exchange(word, old, old - u64::from(off)) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{atomic::store, plain::Plain, service::Tables};

    #[test]
    fn who_arrives_is_never_out_of_sight() {
        let word = AtomicU64::new(0);
        send(&word);
        send(&word);
        assert_eq!((count(&word), queued(&word)), (2, 0));
        join(&word);
        assert_eq!(count(&word), 3, "counted twice rather than not at all");
        unsend(&word);
        assert_eq!((count(&word), queued(&word)), (2, 1));
        leave(&word);
        unsend(&word);
        assert_eq!(load(&word), 0);
    }

    #[test]
    fn those_who_are_lost_go_and_no_more_than_there_are() {
        let word = AtomicU64::new(0);
        send(&word);
        send(&word);
        join(&word);
        forget_sent(&word, 1);
        assert_eq!((count(&word), queued(&word)), (2, 1));
        forget_sent(&word, 5);
        assert_eq!((count(&word), queued(&word)), (1, 1));
    }

    #[test]
    fn who_is_stuck_on_the_way_does_not_count_for_long() {
        let plain = Plain::one_service(&[1]);
        let service = plain.service(0).unwrap();
        store(&service.sent_at_ns, 1_000);
        send(&service.waiting);
        join(&service.waiting);
        assert_eq!(ahead(service, 1_000), 2);
        assert_eq!(ahead(service, 900), 2, "clocks of two CPUs can differ");
        assert_eq!(ahead(service, 1_000 + ON_THE_WAY_NS), 2);
        assert_eq!(ahead(service, 1_001 + ON_THE_WAY_NS), 1);
    }
}

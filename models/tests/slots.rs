//! The slot word: never over the limit, no slot lost, whoever takes and gives back at once.

use std::sync::atomic::Ordering::Relaxed;

use models::{
    atomic::{AtomicU64, as_agent, fetch_add, load, load32, store, store32},
    explore::{Extent, every_order},
    plain::Plain,
    service::{Backend, Tables},
    slot::{Side, Want, forget_agent, give_back, take, take_from_dead},
};

/// One backend, and how many it serves: counted as its server would, not by its slot word.
struct Pod {
    plain: Plain,
    serving: AtomicU64,
    /// Ever.
    taken: AtomicU64,
    limit: u64,
}

impl Pod {
    fn with(slots: u32) -> Self {
        Self {
            plain: Plain::one_service(&[slots]),
            serving: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            limit: slots.into(),
        }
    }

    fn backend(&self) -> &Backend {
        self.plain.backend(0).unwrap()
    }

    fn take(&self, side: Side) -> bool {
        self.serve_if(take(self.backend(), Want::Available, side).is_ok())
    }

    fn serve_if(&self, is_taken: bool) -> bool {
        if is_taken {
            self.taken.fetch_add(1, Relaxed);
            let before = self.serving.fetch_add(1, Relaxed);
            assert!(before < self.limit, "over the limit");
        }
        is_taken
    }

    fn give_back(&self, side: Side) {
        self.serving.fetch_sub(1, Relaxed);
        assert!(give_back(self.backend(), side).is_some(), "a slot was lost");
    }

    fn take_and_give_back(&self, side: Side) {
        if self.take(side) {
            self.give_back(side);
        }
    }

    fn assert_all_free(&self) {
        assert_eq!(load(&self.backend().inflight), 0, "a slot was lost");
        assert_ne!(
            self.taken.load(Relaxed),
            0,
            "a slot was free and nobody got it"
        );
    }
}

fn program(pod: &Pod) {
    pod.take_and_give_back(Side::Kernel);
}

fn agent(pod: &Pod) {
    as_agent(|| pod.take_and_give_back(Side::Agent));
}

#[test]
fn one_slot_is_never_taken_twice_nor_lost() {
    every_order(
        Extent::All,
        || Pod::with(1),
        &[program, agent, program],
        Pod::assert_all_free,
    );
}

#[test]
fn two_slots_are_never_taken_three_times() {
    every_order(
        Extent::Interruptions(3),
        || Pod::with(2),
        &[program, agent, program],
        Pod::assert_all_free,
    );
}

#[test]
fn a_limit_that_sinks_binds_whoever_comes_after() {
    fn lower(pod: &Pod) {
        as_agent(|| {
            store32(&pod.backend().granted, 1);
        });
    }
    fn keep(pod: &Pod) {
        pod.take(Side::Kernel);
    }
    every_order(
        Extent::All,
        || Pod::with(2),
        &[keep, keep, lower],
        |pod| {
            let serving = pod.serving.load(Relaxed);
            assert_eq!(load(&pod.backend().inflight), serving);
            // Those who came before the limit sank keep what they have.
            assert_ne!(serving, 0, "a slot was free and nobody got it");
            assert!(!pod.take(Side::Agent), "over the new limit");
            for _ in 0..serving {
                pod.give_back(Side::Kernel);
            }
            assert!(pod.take(Side::Agent));
        },
    );
}

#[test]
#[should_panic(expected = "over the limit")]
fn looking_first_and_adding_then_is_caught() {
    fn careless(pod: &Pod) {
        let backend = pod.backend();
        let is_free = backend.inflight() < load32(&backend.granted).into();
        if is_free {
            fetch_add(&backend.inflight, 1);
        }
        if pod.serve_if(is_free) {
            pod.give_back(Side::Kernel);
        }
    }
    every_order(Extent::All, || Pod::with(1), &[careless, agent], |_| {});
}

#[test]
#[should_panic(expected = "a slot was lost")]
fn giving_back_by_writing_the_word_is_caught() {
    fn careless(pod: &Pod) {
        if pod.take(Side::Kernel) {
            let word = &pod.backend().inflight;
            pod.serving.fetch_sub(1, Relaxed);
            store(word, load(word) - 1);
        }
    }
    every_order(
        Extent::All,
        || Pod::with(2),
        &[careless, agent],
        Pod::assert_all_free,
    );
}

/// All slots are a dead agent's.
fn held_by_the_dead(slots: u32) -> Pod {
    let pod = Pod::with(slots);
    store(&pod.backend().inflight, u64::from(slots) << 32);
    pod
}

/// A program that finds no slot and knows that the agent is dead.
fn reclaim(pod: &Pod) {
    if pod.serve_if(take_from_dead(pod.backend()).is_some()) {
        pod.give_back(Side::Kernel);
    }
}

/// The next agent, which takes over.
fn take_over(pod: &Pod) {
    as_agent(|| forget_agent(pod.backend()));
}

#[test]
fn what_a_dead_agent_held_is_handed_out_once() {
    every_order(
        Extent::All,
        || held_by_the_dead(1),
        &[reclaim, take_over, reclaim],
        Pod::assert_all_free,
    );
    every_order(
        Extent::Interruptions(3),
        || held_by_the_dead(2),
        &[reclaim, program, take_over],
        |pod| assert_eq!(load(&pod.backend().inflight), 0, "a slot was lost"),
    );
}

#[test]
#[should_panic(expected = "over the limit")]
fn handing_out_what_a_dead_agent_held_in_two_steps_is_caught() {
    fn careless(pod: &Pod) {
        let backend = pod.backend();
        let of_kernel = load(&backend.inflight) & 0xffff_ffff;
        if of_kernel < u64::from(load32(&backend.granted)) {
            store(&backend.inflight, of_kernel + 1);
            pod.serve_if(true);
        }
    }
    every_order(
        Extent::All,
        || held_by_the_dead(1),
        &[careless, careless],
        |_| {},
    );
}

//! The choice of a backend: as many succeed as there are slots, and no more; and what comes back
//! is there for the next.

use models::{
    atomic::{AtomicU64, as_agent, fetch_add, load, load32},
    explore::{Extent, every_order},
    index::Index,
    rig::Rig,
    select::{Attempt, How, Taker, choose, give_back},
    service::Tables,
    slot::{Side, Want},
};

use std::sync::atomic::Ordering::Relaxed;

const SOME: Extent = Extent::First(5_000);

/// A service, and how often each backend was chosen.
struct Chosen {
    rig: Rig,
    times: [AtomicU64; 2],
    refused: AtomicU64,
}

impl Chosen {
    fn from(rig: Rig) -> Self {
        Self {
            rig,
            times: [AtomicU64::new(0), AtomicU64::new(0)],
            refused: AtomicU64::new(0),
        }
    }

    fn choose(&self, side: Side) -> Option<u32> {
        match choose(&self.rig, 0, 0, side) {
            Ok(taken) => {
                self.times[taken.backend as usize].fetch_add(1, Relaxed);
                Some(taken.backend)
            }
            Err(_) => {
                self.refused.fetch_add(1, Relaxed);
                None
            }
        }
    }

    fn assert_each_was_chosen_once(&self) {
        let times = self.times.each_ref().map(|times| times.load(Relaxed));
        assert_eq!(times, [1, 1], "of two slots");
        assert_eq!(self.refused.load(Relaxed), 1);
        for id in 0..2 {
            assert!(!self.rig.shows(id, Index::Available));
        }
    }
}

fn program(chosen: &Chosen) {
    chosen.choose(Side::Kernel);
}

/// The same, but it sees no old values. They would multiply the orders of so long a way by
/// thousands, and the steps of that way are explored with them in `slots` and `index`.
fn attentive_program(chosen: &Chosen) {
    as_agent(|| program(chosen));
}

fn agent(chosen: &Chosen) {
    as_agent(|| chosen.choose(Side::Agent));
}

fn assert_two_were_chosen_and_can_come_back(chosen: &Chosen) {
    chosen.assert_each_was_chosen_once();
    for id in 0..2 {
        let is_programs = load(&chosen.rig.backend_of(id).inflight) == 1;
        let side = if is_programs {
            Side::Kernel
        } else {
            Side::Agent
        };
        assert_eq!(give_back(&chosen.rig, id, side), Some(1));
        assert_eq!(load(&chosen.rig.backend_of(id).inflight), 0);
        assert!(chosen.rig.shows(id, Index::Idle));
        assert!(chosen.rig.shows(id, Index::Available));
    }
}

#[test]
fn of_three_who_want_two_slots_two_get_one_and_what_comes_back_is_seen() {
    every_order(
        Extent::Interruptions(2),
        || Chosen::from(Rig::with(&[1, 1])),
        &[attentive_program, attentive_program, agent],
        assert_two_were_chosen_and_can_come_back,
    );
}

#[test]
fn the_same_holds_if_they_see_old_values() {
    every_order(
        SOME,
        || Chosen::from(Rig::with(&[1, 1])),
        &[program, program, agent],
        assert_two_were_chosen_and_can_come_back,
    );
}

fn with_the_only_slot_taken() -> Chosen {
    let chosen = Chosen::from(Rig::with(&[1]));
    assert_eq!(chosen.choose(Side::Kernel), Some(0));
    chosen
}

fn give_the_first_back(chosen: &Chosen) {
    assert_eq!(give_back(&chosen.rig, 0, Side::Kernel), Some(1));
}

fn assert_the_slot_is_taken_once_or_in_sight(chosen: &Chosen) {
    let again = chosen.times[0].load(Relaxed) - 1;
    assert_eq!(chosen.rig.backend_of(0).inflight(), again);
    assert!(again <= 1, "the slot was taken twice");
    assert_eq!(chosen.rig.shows(0, Index::Idle), again == 0);
}

#[test]
fn who_comes_while_the_only_slot_comes_back_gets_it_or_is_refused() {
    fn give_back_attentively(chosen: &Chosen) {
        as_agent(|| give_the_first_back(chosen));
    }
    every_order(
        Extent::Interruptions(2),
        with_the_only_slot_taken,
        &[give_back_attentively, attentive_program, agent],
        assert_the_slot_is_taken_once_or_in_sight,
    );
}

#[test]
fn that_too_holds_if_they_see_old_values() {
    every_order(
        SOME,
        with_the_only_slot_taken,
        &[give_the_first_back, program, agent],
        assert_the_slot_is_taken_once_or_in_sight,
    );
}

#[test]
#[should_panic(expected = "of two slots")]
fn looking_first_and_adding_then_is_caught() {
    fn careless(rig: &Rig, _: u32, position: u32, _: Want, taker: Taker) -> Attempt {
        let backend = rig.backend_of(position);
        if backend.inflight() >= load32(&backend.granted).into() {
            return Attempt::lost(position + 1);
        }
        let one = if taker.side == Side::Kernel {
            1
        } else {
            1 << 32
        };
        fetch_add(&backend.inflight, one);
        rig.refresh(position);
        Attempt::taken(position, How::Idle)
    }
    every_order(
        SOME,
        || {
            let rig = Rig::with(&[1, 1]);
            Chosen::from(Rig {
                take_at: careless,
                ..rig
            })
        },
        &[program, program, agent],
        Chosen::assert_each_was_chosen_once,
    );
}

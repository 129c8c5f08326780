//! Breakers: one trial at a time, and as many counted out as are out.

use std::sync::atomic::Ordering::Relaxed;

use models::{
    atomic::{AtomicU64, as_agent, load, load32, store, store32},
    breaker::{Failure, failed, is_ejected, succeeded, trial},
    explore::{Extent, every_order},
    index::Index,
    rig::Rig,
    service::Tables,
    slot::{self, Side},
};

const OPEN_NS: u64 = 1_000_000_000;
/// When the time of whoever was ejected at 1 is up.
const LATER_NS: u64 = OPEN_NS + 1;

/// A service of one-slot backends whose breakers open after one failure.
struct Guarded {
    rig: Rig,
    trials: AtomicU64,
    /// At the moment.
    trying: AtomicU64,
}

impl Guarded {
    fn with(granted: &[u32]) -> Self {
        let rig = Rig::with(granted);
        let service = rig.only_service();
        store32(&service.breaker_failures, 1);
        store(&service.breaker_open_ns, OPEN_NS);
        Self {
            rig,
            trials: AtomicU64::new(0),
            trying: AtomicU64::new(0),
        }
    }

    /// Backend 0 is out, and has several slots: they are not what keeps a second trial away.
    fn with_one_out() -> Self {
        let guarded = Self::with(&[3, 1]);
        assert_eq!(failed(&guarded.rig, 0, 0, 1), Failure::Ejected);
        guarded
    }

    fn ejected(&self) -> u64 {
        load(&self.rig.only_service().ejected)
    }

    /// Tries backend 0 if its time is up; says whether this one does.
    fn begin_trial(&self, now_ns: u64, side: Side) -> bool {
        let tried = trial(&self.rig, 0, now_ns, side);
        if tried.is_some() {
            self.trials.fetch_add(1, Relaxed);
            let others = self.trying.fetch_add(1, Relaxed);
            assert_eq!(others, 0, "two trials at once");
        }
        tried.is_some()
    }

    fn end_trial(&self, side: Side) {
        self.trying.fetch_sub(1, Relaxed);
        assert!(self.rig.give_back_of(0, side));
    }

    fn assert_count_is_right(&self) {
        let out = (0..2).filter(|id| is_ejected(self.rig.backend_of(*id)));
        assert_eq!(self.ejected(), out.count() as u64, "counted out");
        for id in 0..2 {
            let backend = self.rig.backend_of(id);
            let is_idle = backend.is_usable() && backend.inflight() == 0;
            assert_eq!(self.rig.shows(id, Index::Idle), is_idle, "backend {id}");
        }
    }
}

fn program_tries(guarded: &Guarded) {
    guarded.begin_trial(LATER_NS, Side::Kernel);
}

fn agent_tries(guarded: &Guarded) {
    as_agent(|| guarded.begin_trial(LATER_NS, Side::Agent));
}

#[test]
fn of_those_who_come_when_the_time_is_up_one_tries() {
    every_order(
        Extent::Interruptions(2),
        Guarded::with_one_out,
        &[program_tries, agent_tries, program_tries],
        |guarded| {
            assert_eq!(guarded.trials.load(Relaxed), 1);
            assert_eq!(guarded.rig.backend_of(0).inflight(), 1);
        },
    );
}

#[test]
fn a_trial_that_fails_leaves_the_backend_out_for_one_that_comes_later() {
    fn try_in_vain(guarded: &Guarded) {
        if guarded.begin_trial(LATER_NS, Side::Kernel) {
            assert_eq!(failed(&guarded.rig, 0, 0, LATER_NS), Failure::TrialFailed);
            guarded.end_trial(Side::Kernel);
        }
    }
    every_order(
        Extent::All,
        Guarded::with_one_out,
        &[try_in_vain, agent_tries],
        |guarded| {
            assert_eq!(guarded.trials.load(Relaxed), 1);
            assert_eq!(guarded.ejected(), 1);
            assert!(is_ejected(guarded.rig.backend_of(0)));
        },
    );
}

#[test]
fn a_trial_that_succeeds_readmits_the_backend_once() {
    fn try_well(guarded: &Guarded) {
        if guarded.begin_trial(LATER_NS, Side::Kernel) {
            assert!(succeeded(&guarded.rig, 0));
            guarded.end_trial(Side::Kernel);
        }
    }
    every_order(
        Extent::Interruptions(4),
        Guarded::with_one_out,
        &[try_well, try_well],
        |guarded| {
            assert_eq!(guarded.trials.load(Relaxed), 1);
            assert_eq!(guarded.ejected(), 0);
            guarded.assert_count_is_right();
        },
    );
}

fn fail<const ID: u32>(guarded: &Guarded) {
    failed(&guarded.rig, 0, ID, 1);
}

fn succeed<const ID: u32>(guarded: &Guarded) {
    as_agent(|| succeeded(&guarded.rig, ID));
}

#[test]
fn backends_that_fail_at_once_are_not_all_put_out() {
    every_order(
        Extent::All,
        || Guarded::with(&[1, 1]),
        &[fail::<0>, fail::<1>],
        |guarded| {
            assert_eq!(guarded.ejected(), 1, "half of two");
            guarded.assert_count_is_right();
        },
    );
}

#[test]
fn failing_and_succeeding_at_once_leaves_the_count_right() {
    every_order(
        Extent::Interruptions(4),
        || Guarded::with(&[1, 1]),
        &[fail::<0>, fail::<0>, succeed::<0>],
        Guarded::assert_count_is_right,
    );
}

#[test]
#[should_panic(expected = "two trials at once")]
fn claiming_the_trial_without_comparing_is_caught() {
    fn careless(rig: &Rig, _: u32, position: u32, now_ns: u64, side: Side) -> Option<u32> {
        let backend = rig.backend(position)?;
        let until = load(&backend.ejected_until_ns);
        if until == 0 || until > now_ns || load32(&backend.state) != 0 {
            return None;
        }
        store(&backend.ejected_until_ns, now_ns + OPEN_NS);
        slot::take_for_trial(backend, side).ok()?;
        Some(position)
    }
    every_order(
        Extent::All,
        || {
            let guarded = Guarded::with_one_out();
            Guarded {
                rig: Rig {
                    try_position: careless,
                    ..guarded.rig
                },
                ..guarded
            }
        },
        &[program_tries, agent_tries],
        |_| {},
    );
}

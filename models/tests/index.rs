//! The two-level bitmaps: once all are done, the index shows every backend that has a slot left.

use models::{
    atomic::{as_agent, fetch_and, fetch_or, load, load32, store32},
    explore::{Extent, every_order},
    index::Index,
    rig::Rig,
    service::STATE_DRAINING,
    slot::Side,
};

/// That no backend is hidden, and none shown that has nothing to give.
fn assert_index_is_right(rig: &Rig, backends: u32) {
    for id in 0..backends {
        let backend = rig.backend_of(id);
        let taken = backend.inflight();
        let is_available = backend.is_usable() && taken < load32(&backend.granted).into();
        let is_idle = is_available && taken == 0;
        let shown = (rig.shows(id, Index::Idle), rig.shows(id, Index::Available));
        assert!(shown.0 || !is_idle, "the idle backend {id} is hidden");
        assert!(shown.1 || !is_available, "backend {id} is hidden");
        assert_eq!(shown, (is_idle, is_available), "backend {id}");
    }
}

fn take_and_give_back<const ID: u32>(rig: &Rig) {
    if rig.take_of(ID, Side::Kernel) {
        assert!(rig.give_back_of(ID, Side::Kernel));
    }
}

fn keep<const ID: u32>(rig: &Rig) {
    rig.take_of(ID, Side::Kernel);
}

fn agent_takes_and_gives_back(rig: &Rig) {
    as_agent(|| {
        if rig.take_of(0, Side::Agent) {
            assert!(rig.give_back_of(0, Side::Agent));
        }
    });
}

fn agent_looks_after_it(rig: &Rig) {
    as_agent(|| (rig.refresh)(rig, 0));
}

#[test]
fn a_slot_that_comes_and_goes_is_seen() {
    every_order(
        Extent::Interruptions(4),
        || Rig::with(&[1]),
        &[take_and_give_back::<0>, agent_takes_and_gives_back],
        |rig| assert_index_is_right(rig, 1),
    );
}

#[test]
fn who_keeps_a_slot_hides_its_backend_and_who_leaves_one_shows_it() {
    every_order(
        Extent::Interruptions(5),
        || Rig::with(&[2]),
        &[keep::<0>, agent_takes_and_gives_back],
        |rig| assert_index_is_right(rig, 1),
    );
}

#[test]
fn a_leaf_that_empties_while_another_fills_it_stays_in_the_summary() {
    every_order(
        Extent::All,
        || Rig::with(&[1, 1]),
        &[take_and_give_back::<0>, keep::<1>],
        |rig| assert_index_is_right(rig, 2),
    );
}

#[test]
fn a_look_by_the_agent_hides_nothing_that_comes_free_meanwhile() {
    fn give_back(rig: &Rig) {
        assert!(rig.give_back_of(0, Side::Kernel));
    }
    every_order(
        Extent::Interruptions(3),
        || {
            let rig = Rig::with(&[1]);
            assert!(rig.take_of(0, Side::Kernel));
            rig
        },
        &[give_back, agent_looks_after_it, take_and_give_back::<0>],
        |rig| assert_index_is_right(rig, 1),
    );
}

#[test]
fn a_grant_that_grows_is_seen_while_slots_come_and_go() {
    fn grant(rig: &Rig) {
        as_agent(|| {
            store32(&rig.backend_of(0).granted, 2);
            (rig.refresh)(rig, 0);
        });
    }
    every_order(
        Extent::All,
        || Rig::with(&[1]),
        &[take_and_give_back::<0>, grant],
        |rig| assert_index_is_right(rig, 1),
    );
    every_order(
        Extent::All,
        || Rig::with(&[1]),
        &[keep::<0>, grant],
        |rig| assert_index_is_right(rig, 1),
    );
}

#[test]
fn a_backend_that_drains_is_hidden_and_shown_again_while_slots_come_and_go() {
    fn drain(rig: &Rig) {
        as_agent(|| {
            store32(&rig.backend_of(0).state, STATE_DRAINING);
            (rig.refresh)(rig, 0);
            store32(&rig.backend_of(0).state, 0);
            (rig.refresh)(rig, 0);
        });
    }
    every_order(
        Extent::Interruptions(4),
        || Rig::with(&[1]),
        &[take_and_give_back::<0>, drain],
        |rig| assert_index_is_right(rig, 1),
    );
}

/// Writes a backend's bits, but does not look again: at the slot word, or at the leaf before its
/// bit in the summary goes.
fn careless_refresh<const AT_WORD: bool, const AT_LEAF: bool>(rig: &Rig, id: u32) {
    let backend = rig.backend_of(id);
    let classify = || {
        let taken = backend.inflight();
        (taken == 0, taken < load32(&backend.granted).into())
    };
    let (leaf, _) = rig.place_of(id);
    let summary = &rig.only_service().summary;
    loop {
        let seen = classify();
        let words = [
            (&leaf.index.idle, &summary.idle, seen.0),
            (&leaf.index.available, &summary.available, seen.1),
        ];
        for (word, summary, is_set) in words {
            let bit = 1 << id;
            if is_set {
                fetch_or(word, bit);
                fetch_or(summary, 1);
            } else if fetch_and(word, !bit) == bit {
                fetch_and(summary, !1);
                if !AT_LEAF && load(word) != 0 {
                    fetch_or(summary, 1);
                }
            }
        }
        if AT_WORD || classify() == seen {
            return;
        }
    }
}

#[test]
#[should_panic(expected = "is hidden")]
fn clearing_a_bit_without_another_look_at_the_slots_is_caught() {
    every_order(
        Extent::All,
        || Rig {
            refresh: careless_refresh::<true, false>,
            ..Rig::with(&[1])
        },
        &[take_and_give_back::<0>, agent_takes_and_gives_back],
        |rig| assert_index_is_right(rig, 1),
    );
}

#[test]
#[should_panic(expected = "is hidden")]
fn clearing_a_summary_bit_without_another_look_at_the_leaf_is_caught() {
    every_order(
        Extent::All,
        || Rig {
            refresh: careless_refresh::<false, true>,
            ..Rig::with(&[1, 1])
        },
        &[take_and_give_back::<0>, keep::<1>],
        |rig| assert_index_is_right(rig, 2),
    );
}

#[test]
fn the_careless_code_is_right_once_it_is_careful() {
    every_order(
        Extent::All,
        || Rig {
            refresh: careless_refresh::<false, false>,
            ..Rig::with(&[1, 1])
        },
        &[take_and_give_back::<0>, keep::<1>],
        |rig| assert_index_is_right(rig, 2),
    );
}

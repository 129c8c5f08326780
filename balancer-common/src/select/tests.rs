//! What each strategy promises, one by one.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::{
    atomic::{load, store, store32},
    breaker,
    plain::Plain,
    response,
    select::{self, give_back},
    service::{SERVICE_LOCAL, SERVICE_WARMS_UP, STATE_DRAINING, Strategy, Tables},
    slot::Side,
    table::{self, Kind},
    tests::service_with,
};

/// Takes a slot and gives it back.
fn visit(plain: &Plain, client: u64) -> u32 {
    let taken = select::choose(plain, 0, client, Side::Kernel).unwrap();
    give_back(plain, taken.backend, Side::Kernel).unwrap();
    taken.backend
}

fn hold(plain: &Plain, id: u32, slots: u64) {
    store(&plain.backend(id).unwrap().inflight, slots);
    plain.refresh(id);
}

fn drain(plain: &Plain, id: u32) {
    store32(&plain.backend(id).unwrap().state, STATE_DRAINING);
    plain.refresh(id);
}

fn shares(plain: &Plain, visits: u64) -> BTreeMap<u32, f64> {
    let mut counts = BTreeMap::new();
    for client in 0..visits {
        *counts.entry(visit(plain, client)).or_insert(0u64) += 1;
    }
    let share = |count| count as f64 / visits as f64;
    counts
        .into_iter()
        .map(|(id, count)| (id, share(count)))
        .collect()
}

/// Pearson's statistic of counts that should be equal, as a multiple of its degrees of freedom.
fn unevenness(shares: &BTreeMap<u32, f64>, backends: usize, visits: u64) -> f64 {
    let expected = visits as f64 / backends as f64;
    let missing = (backends - shares.len()) as f64 * expected;
    let sum: f64 = shares
        .values()
        .map(|share| (share * visits as f64 - expected).powi(2) / expected)
        .sum();
    (sum + missing) / (backends - 1) as f64
}

#[test]
fn random_is_uniform_among_the_available_whatever_holes_there_are() {
    for (backends, holes) in [(10, 0), (10, 3), (64, 40), (640, 0), (640, 320)] {
        let plain = service_with(Strategy::Random, &vec![1; backends]);
        for id in 0..holes {
            // In clusters, behind which nobody must get more than others.
            drain(&plain, id);
        }
        let visits = 200 * (backends as u64);
        let shares = shares(&plain, visits);
        let left = backends - holes as usize;
        let unevenness = unevenness(&shares, left, visits);
        assert!(unevenness < 2.5, "{backends} less {holes}: {unevenness}");
    }
}

#[test]
fn a_backend_that_is_alone_in_its_leaf_gets_no_more_than_others() {
    for strategy in [Strategy::Random, Strategy::TwoChoices] {
        // One leaf but for one backend is out; and of sixteen leaves a few backends each are left.
        for (backends, is_out) in [
            (128, (|id| id < 63) as fn(u32) -> bool),
            (1024, |id| id % 64 > id / 64),
        ] {
            let plain = service_with(strategy, &vec![1; backends as usize]);
            for id in (0..backends).filter(|id| is_out(*id)) {
                drain(&plain, id);
            }
            let left = (0..backends).filter(|id| !is_out(*id)).count();
            let visits = 200 * left as u64;
            let unevenness = unevenness(&shares(&plain, visits), left, visits);
            assert!(
                unevenness < 2.5,
                "{strategy:?}, {left} of {backends}: {unevenness}"
            );
        }
    }
}

#[test]
fn of_two_choices_the_less_loaded_is_taken() {
    let plain = service_with(Strategy::TwoChoices, &[u32::MAX; 100]);
    for id in 0..100 {
        hold(&plain, id, u64::from(id));
    }
    let mean: f64 = shares(&plain, 20_000)
        .iter()
        .map(|(id, share)| f64::from(*id) * share)
        .sum();
    // The lower of two of 0..100 is 32.67 on average if they differ.
    assert!((31.5..33.5).contains(&mean), "{mean}");
    let plain = service_with(Strategy::TwoChoices, &[4, 4]);
    hold(&plain, 0, 3);
    for _ in 0..100 {
        assert_eq!(visit(&plain, 0), 1, "two choices of two leave none out");
    }
}

#[test]
fn turns_are_taken_in_order_and_the_unavailable_are_left_out() {
    let plain = service_with(Strategy::RoundRobin, &[1; 5]);
    let visits: Vec<_> = (0..7).map(|_| visit(&plain, 0)).collect();
    assert_eq!(visits, [0, 1, 2, 3, 4, 0, 1]);
    drain(&plain, 3);
    hold(&plain, 2, 1);
    let visits: Vec<_> = (0..6).map(|_| visit(&plain, 0)).collect();
    assert_eq!(visits, [4, 0, 1, 4, 0, 1]);
}

#[test]
fn turns_taken_at_once_are_different_turns() {
    const THREADS: u64 = 8;
    const VISITS: u64 = 5_000;
    let plain = service_with(Strategy::RoundRobin, &[u32::MAX; 5]);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..VISITS {
                    visit(&plain, 0);
                }
            });
        }
    });
    for id in 0..5 {
        let steered = load(&plain.backend(id).unwrap().steered);
        // Only who loses sixteen claims in a row takes a turn twice.
        let fair = THREADS * VISITS / 5;
        assert!(steered.abs_diff(fair) <= fair / 100, "{id}: {steered}");
    }
}

#[test]
fn a_weighted_turn_follows_its_table_and_skips_who_is_full() {
    let mut plain = service_with(Strategy::WeightedRoundRobin, &[1; 3]);
    plain.set_table(0, table::words(Kind::Turns, &[0, 0, 1, 0, 2, 0, 0]));
    let visits: Vec<_> = (0..8).map(|_| visit(&plain, 0)).collect();
    assert_eq!(visits, [0, 0, 1, 0, 2, 0, 0, 0]);
    hold(&plain, 0, 1);
    let visits: Vec<_> = (0..4).map(|_| visit(&plain, 0)).collect();
    assert_eq!(visits, [1, 2, 1, 2]);
    hold(&plain, 1, 1);
    hold(&plain, 2, 1);
    assert!(select::choose(&plain, 0, 0, Side::Kernel).is_err());
}

#[test]
fn without_its_table_a_weighted_turn_is_a_plain_one() {
    let mut plain = service_with(Strategy::WeightedRoundRobin, &[1; 3]);
    plain.set_table(0, table::words(Kind::Maglev, &[2, 2]));
    let visits: Vec<_> = (0..4).map(|_| visit(&plain, 0)).collect();
    assert_eq!(visits, [0, 1, 2, 0]);
}

proptest! {
    #[test]
    fn nobody_has_fewer_connections_than_the_one_that_is_chosen(
        inflight in prop::collection::vec(0..5u64, 1..300),
    ) {
        let granted = vec![5; inflight.len()];
        let plain = service_with(Strategy::LeastConnections, &granted);
        for (id, slots) in inflight.iter().enumerate() {
            hold(&plain, id as u32, *slots);
        }
        let least = *inflight.iter().min().unwrap();
        let equals = inflight.iter().filter(|slots| **slots == least).count();
        // Equals take turns.
        let mut chosen: Vec<_> = (0..equals).map(|_| visit(&plain, 0)).collect();
        for id in &chosen {
            prop_assert_eq!(inflight[*id as usize], least);
        }
        chosen.sort_unstable();
        chosen.dedup();
        prop_assert_eq!(chosen.len(), equals);
    }

    #[test]
    fn a_client_keeps_its_backend_when_others_go(
        backends in 2..40u32,
        client in any::<u64>(),
        gone in any::<prop::sample::Index>(),
    ) {
        let plain = service_with(Strategy::ConsistentHash, &vec![1; backends as usize]);
        let its = visit(&plain, client);
        prop_assert_eq!(visit(&plain, client), its);
        let gone = gone.index(backends as usize) as u32;
        drain(&plain, gone);
        let after = visit(&plain, client);
        prop_assert_eq!(after == its, gone != its);
        prop_assert_eq!(visit(&plain, client), after, "its next is always the same");
    }
}

#[test]
fn the_fastest_is_chosen_as_long_as_it_is_not_busier() {
    const MS: u64 = 1_000_000;
    let plain = service_with(Strategy::LeastResponseTime, &[10; 3]);
    let now_ns = 1_000 * MS;
    plain.set_now(now_ns);
    for (id, ms) in [(0, 30), (1, 10), (2, 20)] {
        response::record(plain.backend(id).unwrap(), ms * MS, now_ns);
    }
    assert_eq!(visit(&plain, 0), 1);
    hold(&plain, 1, 2);
    assert_eq!(
        visit(&plain, 0),
        2,
        "20 ms at once before 10 ms third in line"
    );
    // Long after, what was measured counts for little, and all are worth a try.
    hold(&plain, 1, 0);
    response::record(plain.backend(0).unwrap(), 5_000 * MS, now_ns);
    plain.set_now(now_ns + 60 * response::HALF_LIFE_NS);
    let visits: Vec<_> = (0..3).map(|_| visit(&plain, 0)).collect();
    assert!(visits.contains(&0), "{visits:?}");
}

#[test]
fn a_leader_stays_until_it_cannot_be_used_and_is_not_pre_empted() {
    let mut plain = service_with(Strategy::Leader, &[1; 4]);
    plain.set_table(0, table::words(Kind::Ranking, &[2, 0, 3, 1]));
    let first = select::choose(&plain, 0, 0, Side::Kernel).unwrap();
    assert_eq!((first.backend, first.was_elected), (2, true));
    assert!(
        select::choose(&plain, 0, 0, Side::Kernel).is_err(),
        "a full leader is waited for"
    );
    let service = plain.service(0).unwrap();
    assert_eq!(load(&service.leaderless_since_ns), 0, "nobody led before");
    give_back(&plain, 2, Side::Kernel);
    plain.set_now(77);
    drain(&plain, 2);
    let next = select::choose(&plain, 0, 0, Side::Agent).unwrap();
    assert_eq!((next.backend, next.was_elected), (0, true));
    assert_eq!(load(&service.leaderless_since_ns), 77);
    give_back(&plain, 0, Side::Agent);
    store32(&plain.backend(2).unwrap().state, 0);
    plain.refresh(2);
    let still = select::choose(&plain, 0, 0, Side::Kernel).unwrap();
    assert_eq!((still.backend, still.was_elected), (0, false));
}

#[test]
fn leaders_that_fail_are_replaced_even_when_no_more_can_be_ejected() {
    let mut plain = service_with(Strategy::Leader, &[10; 3]);
    plain.set_table(0, table::words(Kind::Ranking, &[0, 1, 2]));
    let service = plain.service(0).unwrap();
    store32(&service.breaker_failures, 5);
    store(&service.breaker_open_ns, 30_000_000_000);
    let fail = |id: u32, times: u32| {
        for _ in 0..times {
            breaker::failed(&plain, 0, id, 1);
        }
    };
    assert_eq!(visit(&plain, 0), 0);
    fail(0, 5);
    assert_eq!(load(&service.ejected), 1);
    assert_eq!(visit(&plain, 0), 1);
    fail(1, 5);
    assert_eq!(load(&service.ejected), 1, "two of three would be too many");
    assert_eq!(visit(&plain, 0), 2);
    // The third fails too: whoever failed gets another chance, one failure long, in turn.
    fail(2, 5);
    assert_eq!(
        visit(&plain, 0),
        1,
        "rather one that may be used than one that is ejected"
    );
    assert_eq!(visit(&plain, 0), 1);
    fail(1, 1);
    assert_eq!(visit(&plain, 0), 2);
    breaker::succeeded(&plain, 2);
    assert_eq!(visit(&plain, 0), 2, "it is back, and leads");
}

#[test]
fn a_backend_with_the_id_of_a_former_leader_may_lead() {
    let mut plain = service_with(Strategy::Leader, &[10]);
    assert_eq!(visit(&plain, 0), 0);
    drain(&plain, 0);
    assert!(select::choose(&plain, 0, 0, Side::Kernel).is_err());
    // The id is another backend's now.
    let backend = plain.backend(0).unwrap();
    store32(&backend.generation, 1);
    store32(&backend.state, 0);
    plain.refresh(0);
    plain.set_table(0, table::words(Kind::Ranking, &[0]));
    assert_eq!(visit(&plain, 0), 0);
}

#[test]
fn of_two_the_other_leads_even_if_it_is_ejected() {
    let mut plain = service_with(Strategy::Leader, &[10; 2]);
    plain.set_table(0, table::words(Kind::Ranking, &[0, 1]));
    let service = plain.service(0).unwrap();
    store32(&service.breaker_failures, 5);
    store(&service.breaker_open_ns, 30_000_000_000);
    for (leader, next) in [(0, 1), (1, 0), (0, 1)] {
        assert_eq!(visit(&plain, 0), leader);
        for _ in 0..5 {
            breaker::failed(&plain, 0, leader, 1);
        }
        assert_eq!(visit(&plain, 0), next);
        assert!(load(&service.ejected) <= 1);
    }
    // Nobody else, and failing: still better than none.
    drain(&plain, 0);
    for _ in 0..9 {
        breaker::failed(&plain, 0, 1, 1);
    }
    assert_eq!(visit(&plain, 0), 1);
    drain(&plain, 1);
    assert!(select::choose(&plain, 0, 0, Side::Kernel).is_err());
}

#[test]
fn near_backends_come_first_and_far_ones_when_those_are_full() {
    for strategy in Strategy::ALL {
        if matches!(strategy, Strategy::Leader) {
            continue;
        }
        // Positions 0..64 are far, 64..128 near.
        let plain = service_with(strategy, &[1; 128]);
        let service = plain.service(0).unwrap();
        store(&service.near[1], 0b10);
        store32(&service.flags, load_flags(&plain) | SERVICE_LOCAL);
        let chosen: Vec<_> = (0..128)
            .map(|client| {
                select::choose(&plain, 0, client, Side::Kernel)
                    .unwrap()
                    .backend
            })
            .collect();
        assert!(chosen[..64].iter().all(|id| *id >= 64), "{strategy:?}");
        assert!(chosen[64..].iter().all(|id| *id < 64), "{strategy:?}");
    }
}

fn load_flags(plain: &Plain) -> u32 {
    crate::atomic::load32(&plain.service(0).unwrap().flags)
}

#[test]
fn who_warms_up_gets_a_share_that_grows() {
    const SECOND: u64 = 1_000_000_000;
    for strategy in [
        Strategy::IdleFirst,
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::LeastConnections,
    ] {
        let plain = service_with(strategy, &[1; 4]);
        let service = plain.service(0).unwrap();
        store32(&service.flags, load_flags(&plain) | SERVICE_WARMS_UP);
        let newcomer = plain.backend(3).unwrap();
        store(&newcomer.cold_at_ns, SECOND);
        store(&newcomer.warm_at_ns, 31 * SECOND);
        let share_at = |second: u64| {
            plain.set_now(second * SECOND);
            let shares = shares(&plain, 8_000);
            shares.get(&3).copied().unwrap_or(0.0)
        };
        let (early, half, warm) = (share_at(2), share_at(16), share_at(31));
        assert!((0.005..0.06).contains(&early), "{strategy:?}: {early}");
        assert!((0.09..0.20).contains(&half), "{strategy:?}: {half}");
        assert!((0.22..0.28).contains(&warm), "{strategy:?}: {warm}");
        // Alone it serves all the same.
        plain.set_now(2 * SECOND);
        for id in 0..3 {
            hold(&plain, id, 1);
        }
        assert_eq!(visit(&plain, 0), 3);
    }
}

#[test]
fn many_newcomers_leave_the_choice_among_the_others_to_the_strategy() {
    const SECOND: u64 = 1_000_000_000;
    for strategy in [Strategy::LeastConnections, Strategy::LeastResponseTime] {
        let plain = service_with(strategy, &[9; 40]);
        let service = plain.service(0).unwrap();
        store32(&service.flags, load_flags(&plain) | SERVICE_WARMS_UP);
        plain.set_now(2 * SECOND);
        for id in 0..40 {
            let backend = plain.backend(id).unwrap();
            response::record(backend, SECOND, 2 * SECOND);
            if id >= 10 {
                store(&backend.cold_at_ns, SECOND);
                store(&backend.warm_at_ns, 301 * SECOND);
            }
        }
        let newcomers: f64 = shares(&plain, 8_000)
            .range(10..)
            .map(|(_, share)| share)
            .sum();
        assert!(
            (0.002..0.12).contains(&newcomers),
            "{strategy:?}: {newcomers}"
        );
    }
}

#[test]
fn a_bound_backend_is_taken_only_if_it_is_still_the_same() {
    let plain = service_with(Strategy::IdleFirst, &[1; 3]);
    let taken = |generation| {
        let attempt = select::take_bound(&plain, 0, 1, generation, Side::Kernel);
        attempt.result().ok().map(|taken| taken.backend)
    };
    store32(&plain.backend(1).unwrap().generation, 9);
    assert_eq!(taken(8), None, "another backend had the id");
    assert_eq!(taken(9), Some(1));
    assert_eq!(taken(9), None, "it is full");
    give_back(&plain, 1, Side::Kernel);
    drain(&plain, 1);
    assert_eq!(taken(9), None, "it drains");
    let elsewhere = select::take_bound(&plain, 5, 2, 0, Side::Kernel);
    assert!(!elsewhere.is_taken(), "it is not in that service");
}

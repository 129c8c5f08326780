//! Properties of selection, on the code that runs in the kernel.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    thread,
};

use proptest::prelude::{
    Just, any, prop, prop_assert, prop_assert_eq, prop_assume, prop_oneof, proptest,
};
use proptest::strategy::Strategy as _;

use crate::{
    atomic::load,
    plain::Plain,
    select::{self, Refusal, Taken, give_back},
    service::{LEAF_POSITIONS, STATE_DRAINING, STATE_UNHEALTHY, Strategy, Tables},
    slot::Side,
    table::{self, Kind},
};

fn take(plain: &Plain) -> Result<Taken, Refusal> {
    select::choose(plain, 0, 0, Side::Kernel)
}

/// One service with this strategy, and the table that the strategy needs.
pub(crate) fn service_with(strategy: Strategy, granted: &[u32]) -> Plain {
    let mut plain = Plain::one_service(granted);
    let service = plain.service(0).unwrap();
    service.strategy.store(strategy as u32, Ordering::SeqCst);
    let all: Vec<_> = (0..granted.len() as u16).collect();
    let kind = match strategy {
        Strategy::WeightedRoundRobin => Kind::Turns,
        Strategy::ConsistentHash => Kind::Maglev,
        Strategy::Leader => Kind::Ranking,
        _ => return plain,
    };
    plain.set_table(0, table::words(kind, &all));
    plain
}

fn inflight(plain: &Plain, id: u32) -> u64 {
    plain.backend(id).unwrap().inflight()
}

fn set_state(plain: &Plain, id: u32, state: u32) {
    plain
        .backend(id)
        .unwrap()
        .state
        .store(state, Ordering::SeqCst);
    plain.refresh(id);
}

/// Asserts that every bit of the index agrees with its backend.
fn assert_index_is_exact(plain: &Plain, backends: u32) {
    let service = plain.service(0).unwrap();
    for number in 0..backends.div_ceil(LEAF_POSITIONS as u32) {
        let leaf = plain.leaf(number).unwrap();
        let (mut idle, mut available) = (0u64, 0u64);
        let first = number * LEAF_POSITIONS as u32;
        for id in first..backends.min(first + LEAF_POSITIONS as u32) {
            let backend = plain.backend(id).unwrap();
            let granted = u64::from(backend.granted.load(Ordering::SeqCst));
            let open = backend.is_usable() && backend.inflight() < granted;
            idle |= u64::from(open && backend.inflight() == 0) << (id - first);
            available |= u64::from(open) << (id - first);
        }
        assert_eq!(load(&leaf.index.idle), idle, "idle bits of leaf {number}");
        assert_eq!(
            load(&leaf.index.available),
            available,
            "available bits of leaf {number}"
        );
        assert_eq!(
            load(&service.summary.idle) >> number & 1 == 1,
            idle != 0,
            "summary of leaf {number}"
        );
        assert_eq!(
            load(&service.summary.available) >> number & 1 == 1,
            available != 0
        );
    }
}

#[derive(Clone, Debug)]
enum Step {
    Take,
    GiveBack(prop::sample::Index),
    State(prop::sample::Index, u32),
    Grant(prop::sample::Index, u32),
}

fn steps() -> impl prop::strategy::Strategy<Value = Vec<Step>> {
    let states = prop::sample::select(vec![0, 0, STATE_UNHEALTHY, STATE_DRAINING]);
    let step = prop_oneof![
        5 => Just(Step::Take),
        3 => any::<prop::sample::Index>().prop_map(Step::GiveBack),
        1 => (any::<prop::sample::Index>(), states).prop_map(|(i, s)| Step::State(i, s)),
        1 => (any::<prop::sample::Index>(), 0..4u32).prop_map(|(i, g)| Step::Grant(i, g)),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// Against a model that looks at every backend: what is taken was available,
    /// and idle if any was; a refusal means that none was available.
    #[test]
    fn selection_agrees_with_looking_at_every_backend(
        granted in prop::collection::vec(0..4u32, 1..200),
        strategy in prop::sample::select(Strategy::ALL.to_vec()),
        steps in steps(),
    ) {
        let plain = service_with(strategy, &granted);
        let all = 0..granted.len() as u32;
        let mut held = Vec::new();
        for step in steps {
            match step {
                Step::Take => {
                    let open: HashSet<_> = all.clone().filter(|id| {
                        let backend = plain.backend(*id).unwrap();
                        backend.is_usable() && backend.inflight() < u64::from(backend.granted.load(Ordering::SeqCst))
                    }).collect();
                    let idle: HashSet<_> = open.iter().copied().filter(|id| inflight(&plain, *id) == 0).collect();
                    match take(&plain) {
                        Ok(taken) => {
                            prop_assert!(open.contains(&taken.backend));
                            prop_assert_eq!(taken.was_idle(), idle.contains(&taken.backend));
                            if matches!(strategy, Strategy::IdleFirst | Strategy::LeastConnections) {
                                prop_assert!(idle.is_empty() || taken.was_idle());
                            }
                            held.push(taken.backend);
                        }
                        Err(refusal) => {
                            prop_assert_eq!(refusal, Refusal::NoneAvailable);
                            let leader = select::leader_of(&plain, 0);
                            prop_assert!(open.is_empty() || leader.is_some_and(|it| !open.contains(&it.id)));
                        }
                    }
                }
                Step::GiveBack(index) if !held.is_empty() => {
                    let id = held.swap_remove(index.index(held.len()));
                    prop_assert!(give_back(&plain, id, Side::Kernel).is_some());
                }
                Step::GiveBack(_) => {}
                Step::State(index, state) => set_state(&plain, index.index(granted.len()) as u32, state),
                Step::Grant(index, slots) => {
                    let id = index.index(granted.len()) as u32;
                    plain.backend(id).unwrap().granted.store(slots, Ordering::SeqCst);
                    plain.refresh(id);
                }
            }
            assert_index_is_exact(&plain, granted.len() as u32);
        }
        for id in held {
            prop_assert!(give_back(&plain, id, Side::Kernel).is_some());
        }
        prop_assert!(all.clone().all(|id| inflight(&plain, id) == 0));
    }

    /// Idle backends take turns, whichever others are busy.
    #[test]
    fn rotation_among_the_idle_is_fair(size in 2..300usize, busy in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let plain = Plain::one_service(&vec![1; size]);
        let busy: HashSet<_> = busy.iter().map(|index| index.index(size) as u32).collect();
        prop_assume!(busy.len() < size);
        for id in &busy {
            set_state(&plain, *id, STATE_UNHEALTHY);
        }
        const PICKS: usize = 10_000;
        let mut picks = vec![0usize; size];
        for _ in 0..PICKS {
            let taken = take(&plain).unwrap();
            picks[taken.backend as usize] += 1;
            give_back(&plain, taken.backend, Side::Kernel).unwrap();
        }
        let share = PICKS as f64 / (size - busy.len()) as f64;
        let most = *picks.iter().max().unwrap() as f64;
        prop_assert!(most <= (share * 1.05).max(share.ceil()), "{} picks for a share of {}", most, share);
    }
}

/// With random service times the set of idle backends changes all the time;
/// rotation must stay fair all the same.
#[test]
fn rotation_is_fair_when_the_idle_change() {
    const BACKENDS: usize = 20;
    const PICKS: usize = 10_000;
    let plain = Plain::one_service(&[1; BACKENDS]);
    let mut picks = [0usize; BACKENDS];
    let mut held = Vec::new();
    for _ in 0..PICKS {
        while held.len() >= BACKENDS / 2 {
            let place = plain.random() as usize % held.len();
            give_back(&plain, held.swap_remove(place), Side::Kernel).unwrap();
        }
        let taken = take(&plain).unwrap();
        assert!(taken.was_idle());
        picks[taken.backend as usize] += 1;
        held.push(taken.backend);
    }
    let share = PICKS as f64 / BACKENDS as f64;
    let most = *picks.iter().max().unwrap() as f64;
    assert!(
        most <= share * 1.05,
        "{most} picks for a share of {share}: {picks:?}"
    );
}

/// When none is idle, the choice is as good as the best of four random draws:
/// among 100 loads that is rank 19.2 on average ((100 + 1) / (4 + 1) - 1).
#[test]
fn a_shared_backend_is_as_good_as_the_best_of_four() {
    const BACKENDS: u32 = 100;
    const PICKS: u32 = 20_000;
    let plain = Plain::one_service(&[1_000; BACKENDS as usize]);
    for id in 0..BACKENDS {
        plain
            .backend(id)
            .unwrap()
            .inflight
            .store(u64::from(id) + 1, Ordering::SeqCst);
        plain.refresh(id);
    }
    let mut ranks = 0;
    for _ in 0..PICKS {
        let taken = take(&plain).unwrap();
        assert!(!taken.was_idle());
        ranks += u64::from(taken.backend);
        give_back(&plain, taken.backend, Side::Kernel).unwrap();
    }
    let mean = ranks as f64 / f64::from(PICKS);
    assert!(mean < 19.2 * 1.05, "mean rank {mean}");
}

/// Kernel and agent take and give back at once: never over the limit, nothing
/// lost, every bit right in the end.
#[test]
fn limits_hold_under_many_threads() {
    for strategy in Strategy::ALL {
        limits_hold(strategy);
    }
}

fn limits_hold(strategy: Strategy) {
    const THREADS: u32 = 8;
    const ROUNDS: u32 = 8_000;
    let granted = [1, 1, 3, 1, 2, 1, 3, 1];
    let plain = service_with(strategy, &granted);
    let serving: Vec<_> = granted.iter().map(|_| AtomicU32::new(0)).collect();
    let refused = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (plain, serving, refused) = (&plain, &serving, &refused);
            scope.spawn(move || {
                let side = if thread % 2 == 0 {
                    Side::Kernel
                } else {
                    Side::Agent
                };
                for round in 0..ROUNDS {
                    let client = u64::from(round);
                    let Ok(taken) = select::choose(plain, 0, client, side) else {
                        refused.fetch_add(1, Ordering::Relaxed);
                        continue;
                    };
                    let id = taken.backend as usize;
                    let now = serving[id].fetch_add(1, Ordering::SeqCst) + 1;
                    assert!(
                        now <= granted[id],
                        "{strategy:?}: backend {id} serves {now}"
                    );
                    if round % 3 == 0 {
                        thread::yield_now();
                    }
                    serving[id].fetch_sub(1, Ordering::SeqCst);
                    assert!(give_back(plain, taken.backend, side).is_some());
                }
            });
        }
    });
    for id in 0..granted.len() as u32 {
        assert_eq!(load(&plain.backend(id).unwrap().inflight), 0);
    }
    assert_index_is_exact(&plain, granted.len() as u32);
}

#[test]
fn an_underflow_changes_nothing() {
    let plain = Plain::one_service(&[2]);
    let taken = select::choose(&plain, 0, 0, Side::Agent).unwrap();
    assert_eq!(give_back(&plain, taken.backend, Side::Kernel), None);
    assert_eq!(inflight(&plain, 0), 1);
    assert_eq!(give_back(&plain, taken.backend, Side::Agent), Some(1));
    assert_eq!(give_back(&plain, taken.backend, Side::Agent), None);
    assert_eq!(inflight(&plain, 0), 0);
}

#[test]
fn a_service_without_backends_refuses() {
    let plain = Plain::one_service(&[]);
    assert_eq!(take(&plain), Err(Refusal::NoneAvailable));
}

#[test]
fn over_admission_takes_usable_backends_beyond_their_limit_and_no_others() {
    let plain = Plain::one_service(&[1; 100]);
    for id in 0..100 {
        // Position 99 alone is usable.
        if id != 99 {
            set_state(&plain, id, STATE_DRAINING);
        }
    }
    for _ in 0..200 {
        assert_eq!(select::over_admit(&plain, 0, Side::Kernel), Some(99));
    }
    for _ in 0..200 {
        assert!(select::give_back(&plain, 99, Side::Kernel).is_some());
    }
    assert!(select::choose(&plain, 0, 0, Side::Kernel).is_ok());
}

#[test]
fn over_admission_spreads_evenly_enough() {
    let plain = Plain::one_service(&[1; 10]);
    for _ in 0..1000 {
        select::over_admit(&plain, 0, Side::Kernel).unwrap();
    }
    for id in 0..10 {
        let inflight = plain.backend(id).unwrap().inflight();
        assert!((90..=110).contains(&inflight), "backend {id}: {inflight}");
    }
}

//! Clients that stay with their backends, and strategies that go by the client.

use std::{collections::BTreeSet, time::Duration};

use balancer_common::{
    atomic::{load, load32, store32},
    index,
    response::read,
    service::{STATE_DRAINING, STATE_UNHEALTHY, Tables},
};

use crate::{
    model::{Affinity, Service, Setting, Strategy},
    overflow::{
        Bond, Identity, Slot, Visit,
        ground::{Ground, SERVICE},
    },
};

const TIMEOUT: Duration = Duration::from_secs(600);
const ALICE: Identity = Identity::numbered(7);
const BOB: Identity = Identity::numbered(8);

fn ground(backends: u16, slots: u32, set: impl FnOnce(&mut Service)) -> Ground {
    let addresses: Vec<_> = (0..backends)
        .map(|number| ([192, 0, 2, 1], 1000 + number).into())
        .collect();
    Ground::new(&addresses, slots, set)
}

/// One that keeps its clients.
fn keeping(backends: u16, slots: u32) -> Ground {
    ground(backends, slots, |service| {
        service.affinity = Setting::built_in(Some(Affinity {
            timeout: TIMEOUT,
            cookie: None,
        }));
        service.queue.timeout = Setting::built_in(crate::model::QueueTimeout::Fixed(10 * TIMEOUT));
    })
}

fn visit(ground: &Ground, client: Identity) -> Visit {
    Visit::new(ground.queue(), ground.now(), None).by(client)
}

async fn slot(ground: &Ground, client: Identity) -> Slot {
    visit(ground, client).slot().await.expect("one is free")
}

/// The backend on which this client gets a slot, which goes back at once.
async fn backend(ground: &Ground, client: Identity) -> u32 {
    slot(ground, client).await.backend().0
}

#[tokio::test]
async fn a_client_keeps_its_backend_while_others_go_round() {
    let ground = keeping(4, 5);
    let own = backend(&ground, ALICE).await;
    let mut others = BTreeSet::new();
    for number in 100..120 {
        others.insert(backend(&ground, Identity::numbered(number)).await);
        assert_eq!(backend(&ground, ALICE).await, own);
    }
    assert_eq!(others.len(), 4);
    assert_eq!(ground.memory.bindings().len(), 21);
    assert_eq!(ground.inflight(), 0);
}

#[tokio::test]
async fn a_binding_lasts_as_long_as_it_is_used_and_lapses_after_its_time() {
    let ground = keeping(4, 5);
    let own = backend(&ground, ALICE).await;
    for _ in 0..5 {
        ground.memory.pass(TIMEOUT - Duration::from_secs(10));
        assert_eq!(backend(&ground, ALICE).await, own);
    }
    ground.memory.pass(TIMEOUT);
    let next = backend(&ground, ALICE).await;
    assert_ne!(next, own, "the turn goes on");
    assert_eq!(backend(&ground, ALICE).await, next);
}

#[tokio::test]
async fn a_full_backend_breaks_the_bond_and_a_new_one_is_made() {
    let ground = keeping(2, 1);
    let held = slot(&ground, ALICE).await;
    let second = slot(&ground, ALICE).await;
    assert_ne!(held.backend(), second.backend());
    let bound_to = second.backend().0;
    drop((held, second));
    for _ in 0..4 {
        assert_eq!(backend(&ground, ALICE).await, bound_to);
    }
}

#[tokio::test]
async fn a_backend_that_is_unusable_or_another_by_now_is_not_kept() {
    for change in [
        |ground: &Ground, id| set_state(ground, id, STATE_UNHEALTHY),
        |ground: &Ground, id| set_state(ground, id, STATE_DRAINING),
        |ground: &Ground, id: u32| {
            let record = ground.memory.plain.backend(id).unwrap();
            store32(&record.generation, load32(&record.generation) + 1);
        },
        |ground: &Ground, _| {
            let record = ground.memory.plain.service(SERVICE).unwrap();
            store32(&record.generation, load32(&record.generation) + 1);
            ground.change(|_| {});
        },
    ] {
        let ground = keeping(4, 5);
        let own = backend(&ground, ALICE).await;
        change(&ground, own);
        let next = backend(&ground, ALICE).await;
        assert_ne!(next, own);
        assert_eq!(backend(&ground, ALICE).await, next);
    }
}

fn set_state(ground: &Ground, id: u32, state: u32) {
    let plain = &ground.memory.plain;
    store32(&plain.backend(id).unwrap().state, state);
    index::refresh(plain, id);
}

#[tokio::test]
async fn without_affinity_or_a_known_client_nothing_is_bound() {
    let keeping = keeping(2, 5);
    backend(&keeping, Identity::UNKNOWN).await;
    assert_eq!(keeping.memory.bindings().len(), 0);
    let without = ground(2, 5, |_| {});
    backend(&without, ALICE).await;
    assert_eq!(without.memory.bindings().len(), 0);
}

#[tokio::test]
async fn the_oldest_waiter_takes_what_is_free_and_its_own_if_that_is() {
    let ground = keeping(2, 1);
    let own = slot(&ground, ALICE).await;
    let other = slot(&ground, BOB).await;
    let (own_id, other_id) = (own.backend().0, other.backend().0);
    let wait = async |mut visit: Visit| visit.slot().await.expect("one comes free");
    let first = tokio::spawn(wait(visit(&ground, ALICE)));
    let second = tokio::spawn(wait(visit(&ground, BOB)));
    while ground.queue().waiters() < 2 {
        tokio::task::yield_now().await;
    }
    // That is BOB's, but ALICE came first.
    drop(other);
    let got = first.await.unwrap();
    assert_eq!(got.backend().0, other_id);
    drop(own);
    assert_eq!(second.await.unwrap().backend().0, own_id);
    drop(got);
    assert_eq!(backend(&ground, ALICE).await, other_id, "bound anew");
    assert_eq!(backend(&ground, BOB).await, own_id, "bound anew");
}

#[tokio::test]
async fn a_backend_that_failed_a_client_is_avoided_though_it_is_its_own() {
    let hashing = ground(4, 50, |service| {
        service.strategy = Setting::built_in(Strategy::ConsistentHash);
    });
    for ground in [keeping(4, 50), hashing] {
        let own = backend(&ground, ALICE).await;
        let mut visit = visit(&ground, ALICE);
        let first = visit.slot().await.unwrap();
        assert_eq!(first.backend().0, own);
        visit.again(first).await.unwrap();
        let second = visit.slot().await.unwrap();
        assert_ne!(second.backend().0, own);
        drop(second);
        assert_eq!(ground.inflight(), 0);
    }
}

#[tokio::test]
async fn hashing_goes_by_the_client_and_a_full_backend_passes_it_on() {
    let ground = ground(8, 1, |service| {
        service.strategy = Setting::built_in(Strategy::ConsistentHash);
    });
    let mut used = BTreeSet::new();
    for number in 1..100 {
        let client = Identity::numbered(number);
        let own = slot(&ground, client).await;
        let next = slot(&ground, client).await;
        let (own_id, next_id) = (own.backend().0, next.backend().0);
        assert_ne!(own_id, next_id);
        drop((own, next));
        assert_eq!(backend(&ground, client).await, own_id);
        used.insert(own_id);
    }
    assert_eq!(used.len(), 8);
}

#[tokio::test]
async fn a_cookie_goes_before_the_strategy_and_binds_nothing() {
    let ground = keeping(4, 5);
    let named = |backend| Identity {
        hashed: 7,
        bond: Bond::Cookie(Some(backend)),
    };
    for id in [3, 1, 2, 3, 0] {
        assert_eq!(backend(&ground, named((id, 0))).await, id);
    }
    // Of an earlier generation; and none that there ever was.
    for stale in [(0, 1), (99, 0)] {
        let got = BTreeSet::from([
            backend(&ground, named(stale)).await,
            backend(&ground, named(stale)).await,
        ]);
        assert_eq!(got.len(), 2, "the turn goes on");
    }
    assert_eq!(ground.memory.bindings().len(), 0);
}

#[tokio::test]
async fn the_first_that_a_new_leader_serves_ends_the_failover() {
    let ground = ground(3, 5, |service| {
        service.strategy = Setting::built_in(Strategy::Leader);
    });
    let failovers = || {
        let failovers = ground.queues.journal().failovers();
        let figures = failovers.of(&"default/hello".parse().unwrap());
        figures.map_or((0, Duration::ZERO), |figures| (figures.count, figures.sum))
    };
    let leading = slot(&ground, ALICE).await;
    assert!(leading.grant().was_elected);
    leading.connected();
    assert_eq!((leading.backend().0, failovers().0), (0, 0));
    set_state(&ground, 0, STATE_UNHEALTHY);
    let next = slot(&ground, BOB).await;
    assert!(next.grant().was_elected);
    assert_eq!(next.backend().0, 1);
    ground.memory.pass(Duration::from_millis(30));
    // The leader that was does not end it.
    leading.connected();
    assert_eq!(failovers().0, 0);
    next.answered(Duration::from_millis(1));
    next.connected();
    let (count, took) = failovers();
    assert_eq!(count, 1);
    assert!(took >= Duration::from_millis(30), "{took:?}");
    let record = ground.memory.plain.service(SERVICE).unwrap();
    assert_eq!(load(&record.leaderless_since_ns), 0);
    let third = slot(&ground, ALICE).await;
    assert!(!third.grant().was_elected);
}

#[tokio::test]
async fn the_backend_that_answers_sooner_is_chosen_by_response_time() {
    let ground = ground(2, 5, |service| {
        service.strategy = Setting::built_in(Strategy::LeastResponseTime);
    });
    let slots = [slot(&ground, ALICE).await, slot(&ground, ALICE).await];
    assert_ne!(slots[0].backend(), slots[1].backend());
    for (slot, ms) in slots.iter().zip([80, 20]) {
        slot.answered(Duration::from_millis(ms));
    }
    let [slow, fast] = slots.each_ref().map(|slot| slot.backend().0);
    drop(slots);
    let record = ground.memory.plain.backend(slow).unwrap();
    assert_eq!(read(record).0, 80_000_000);
    for _ in 0..5 {
        assert_eq!(backend(&ground, ALICE).await, fast);
    }
}

//! Who gets a slot, and that nothing is lost on the way.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use balancer_common::{select, service::Tables, slot::Side, waiting};
use tokio::task::JoinSet;

use crate::{
    model::Setting,
    overflow::{
        Reason, Visit,
        ground::{Ground, SERVICE},
    },
};

const LONG: Duration = Duration::from_secs(3600);

fn patient(ground: &Ground) {
    ground.change(|view| {
        view.queue.timeout = Setting::built_in(crate::model::QueueTimeout::Fixed(LONG));
    });
}

#[tokio::test]
async fn a_thousand_waiters_are_served_in_the_order_in_which_they_came() {
    let ground = Ground::without_servers(1, 1, 1000);
    patient(&ground);
    let queue = ground.queue();
    let first = Visit::new(queue.clone(), ground.now(), None).slot().await;
    let served = Arc::new(Mutex::new(Vec::new()));
    let mut tasks = JoinSet::new();
    for number in 0..1000u64 {
        let (queue, served) = (queue.clone(), served.clone());
        // They arrive in another order than that in which they were sent.
        let came_at = Duration::from_nanos((number * 7919) % 1000);
        let mut visit = Visit::new(queue, came_at, None);
        tasks.spawn(async move {
            let slot = visit.slot().await.unwrap();
            served.lock().unwrap().push(came_at);
            drop(slot);
        });
    }
    while queue.waiters() < 1000 {
        tokio::task::yield_now().await;
    }
    drop(first);
    while let Some(result) = tasks.join_next().await {
        result.unwrap();
    }
    let served = served.lock().unwrap();
    assert!(served.is_sorted(), "{served:?}");
    assert_eq!(
        (served.len(), ground.inflight(), ground.waiting_word()),
        (1000, 0, 0)
    );
}

#[tokio::test]
async fn a_newcomer_goes_behind_those_who_wait_unless_overtaking_is_allowed() {
    let ground = Ground::without_servers(1, 1, 10);
    patient(&ground);
    let queue = ground.queue();
    let held = Visit::new(queue.clone(), ground.now(), None)
        .slot()
        .await
        .unwrap();
    let mut waiting = Visit::new(queue.clone(), ground.now(), None);
    let mut waiting = Box::pin(waiting.slot());
    assert!(futures_poll(&mut waiting).await.is_none());
    // A slot comes free without anybody being told.
    ground.ledger().give_back(held_grant(&held));
    std::mem::forget(held);
    let mut newcomer = Visit::new(queue.clone(), ground.now(), None);
    let mut newcomer = Box::pin(newcomer.slot());
    assert!(futures_poll(&mut newcomer).await.is_none());
    let slot = futures_poll(&mut waiting)
        .await
        .expect("it was first")
        .unwrap();
    assert_eq!(queue.waiters(), 1);
    drop(newcomer);

    // The same again, and now overtaking is allowed.
    ground.change(|view| view.queue.overtaking = Setting::built_in(true));
    let queue = ground.queue();
    let mut waiting = Visit::new(queue.clone(), ground.now(), None);
    let mut waiting = Box::pin(waiting.slot());
    assert!(futures_poll(&mut waiting).await.is_none());
    ground.ledger().give_back(held_grant(&slot));
    std::mem::forget(slot);
    let overtaker = Visit::new(queue, ground.now(), None).slot().await;
    assert!(overtaker.is_ok());
}

#[tokio::test]
async fn as_many_wait_as_may_and_the_next_is_refused_at_once() {
    let ground = Ground::without_servers(2, 1, 3);
    patient(&ground);
    let queue = ground.queue();
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(
            Visit::new(queue.clone(), ground.now(), None)
                .slot()
                .await
                .unwrap(),
        );
    }
    let mut visits: Vec<_> = (0..3)
        .map(|_| Visit::new(queue.clone(), ground.now(), None))
        .collect();
    let mut waiting: Vec<_> = visits
        .iter_mut()
        .map(|visit| Box::pin(visit.slot()))
        .collect();
    for waiter in &mut waiting {
        assert!(futures_poll(waiter).await.is_none());
    }
    let refused = Visit::new(queue.clone(), ground.now(), None).slot().await;
    assert_eq!(refused.unwrap_err(), Reason::QueueFull);
    assert_eq!(ground.waiting(), 3);
    // One that goes away makes room, and takes no slot with it.
    drop(waiting.remove(1));
    assert_eq!((queue.waiters(), ground.waiting()), (2, 2));
    drop(held);
    for waiter in waiting {
        assert!(waiter.await.is_ok());
    }
    drop(visits);
    assert_eq!((ground.inflight(), ground.waiting_word()), (0, 0));
    assert_eq!(queue.figures().refused(Reason::QueueFull), 1);
}

#[tokio::test]
async fn a_slot_on_its_way_to_one_who_just_left_goes_to_the_next() {
    let ground = Ground::without_servers(1, 1, 10);
    patient(&ground);
    let queue = ground.queue();
    let held = Visit::new(queue.clone(), ground.now(), None)
        .slot()
        .await
        .unwrap();
    let mut first = Visit::new(queue.clone(), ground.now(), None);
    let mut first = Box::pin(first.slot());
    let mut second = Visit::new(queue.clone(), ground.now(), None);
    let mut second = Box::pin(second.slot());
    assert!(futures_poll(&mut first).await.is_none());
    assert!(futures_poll(&mut second).await.is_none());
    // The slot is sent to the first, which goes before it looks.
    drop(held);
    drop(first);
    assert!(second.await.is_ok());
    assert_eq!((ground.inflight(), ground.waiting_word()), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_kernel_and_the_agent_together_never_exceed_a_limit() {
    let ground = Arc::new(Ground::without_servers(10, 2, 1000));
    patient(&ground);
    let serving: Arc<Vec<AtomicU32>> = Arc::new((0..10).map(|_| AtomicU32::new(0)).collect());
    let begin = |backend: u32| {
        let before = serving[backend as usize].fetch_add(1, SeqCst);
        assert!(before < 2, "backend {backend} serves {before} already");
    };
    let rounds = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..32 {
            // What the programs do: take, give back, tell the agent if someone waits.
            scope.spawn(|| {
                for _ in 0..200 {
                    let plain = &ground.memory.plain;
                    if let Ok(taken) = select::choose(plain, SERVICE, 0, Side::Kernel) {
                        begin(taken.backend);
                        std::thread::yield_now();
                        serving[taken.backend as usize].fetch_sub(1, SeqCst);
                        select::give_back(plain, taken.backend, Side::Kernel);
                        let record = plain.service(SERVICE).unwrap();
                        if waiting::queued(&record.waiting) != 0 {
                            ground.queues.wake(SERVICE);
                        }
                    }
                    rounds.fetch_add(1, SeqCst);
                }
            });
        }
        scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                for _ in 0..32 {
                    let (ground, serving) = (ground.clone(), serving.clone());
                    tasks.spawn(async move {
                        for _ in 0..200 {
                            let mut visit = Visit::new(ground.queue(), ground.now(), None);
                            let slot = visit.slot().await.unwrap();
                            let backend = slot.backend().0 as usize;
                            let before = serving[backend].fetch_add(1, SeqCst);
                            assert!(before < 2, "backend {backend} serves {before} already");
                            tokio::task::yield_now().await;
                            serving[backend].fetch_sub(1, SeqCst);
                        }
                    });
                }
                while let Some(result) = tasks.join_next().await {
                    result.unwrap();
                }
            });
        });
    });
    assert_eq!(rounds.into_inner(), 6400);
    assert_eq!((ground.inflight(), ground.waiting_word()), (0, 0));
}

/// Polls once.
async fn futures_poll<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
    use std::{future::poll_fn, pin::Pin, task::Poll};
    poll_fn(|context| {
        Poll::Ready(match Pin::new(&mut *future).poll(context) {
            Poll::Ready(output) => Some(output),
            Poll::Pending => None,
        })
    })
    .await
}

fn held_grant(slot: &crate::overflow::Slot) -> &crate::overflow::Grant {
    slot.grant()
}

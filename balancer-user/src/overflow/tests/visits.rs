//! Deadlines, attempts and reasons.

use std::time::{Duration, Instant};

use balancer_common::{atomic::store32, index, service::STATE_UNHEALTHY, service::Tables};

use crate::{
    model::{QueueTimeout, Setting},
    overflow::{
        Reason, Sent, Visit,
        ground::{Ground, SERVICE},
    },
};

fn refused() -> std::io::Error {
    std::io::ErrorKind::ConnectionRefused.into()
}

fn visit(ground: &Ground) -> Visit {
    Visit::new(ground.queue(), ground.now(), None)
}

#[tokio::test]
async fn a_waiter_is_refused_when_its_time_is_up() {
    let ground = Ground::without_servers(1, 1, 10);
    let mut first = visit(&ground);
    let held = first.slot().await.unwrap();
    first.served();
    let began = Instant::now();
    let refused = visit(&ground).slot().await.unwrap_err();
    let waited = began.elapsed();
    assert_eq!(refused, Reason::QueueTimeout);
    assert!(waited >= Duration::from_millis(100), "{waited:?}");
    assert_eq!((ground.inflight(), ground.waiting_word()), (1, 0));
    drop(held);
    let figures = ground.queue();
    let times = figures.figures().times();
    assert_eq!(
        (times.selection_ok.count(), times.selection_failed.count()),
        (1, 1)
    );
    assert_eq!(times.waiting.count(), 1);
}

#[tokio::test]
async fn waiting_that_cannot_help_is_refused_at_once_with_its_reason() {
    let none = Ground::without_servers(0, 1, 10);
    assert_eq!(visit(&none).slot().await.unwrap_err(), Reason::NoBackends);

    let unhealthy = Ground::without_servers(2, 1, 10);
    for id in 0..2 {
        store32(
            &unhealthy.memory.plain.backend(id).unwrap().state,
            STATE_UNHEALTHY,
        );
        index::refresh(&unhealthy.memory.plain, id);
    }
    assert_eq!(
        visit(&unhealthy).slot().await.unwrap_err(),
        Reason::NoBackends
    );

    let ejected = Ground::without_servers(2, 1, 10);
    for _ in 0..5 {
        let mut visit = visit(&ejected);
        let slot = visit.slot().await.unwrap();
        let _ = visit.failed(slot, &refused()).await;
    }
    // One of two is out; the other one goes by itself.
    store32(
        &ejected.memory.plain.backend(0).unwrap().state,
        STATE_UNHEALTHY,
    );
    store32(
        &ejected.memory.plain.backend(1).unwrap().state,
        STATE_UNHEALTHY,
    );
    for id in 0..2 {
        index::refresh(&ejected.memory.plain, id);
    }
    assert_eq!(
        visit(&ejected).slot().await.unwrap_err(),
        Reason::NoBackends
    );
}

#[tokio::test]
async fn attempts_are_bounded_and_go_to_another_backend_first() {
    let ground = Ground::without_servers(2, 1, 10);
    ground.change(|view| view.queue.attempts = Setting::built_in(2));
    let mut visit = visit(&ground);
    let first = visit.slot().await.unwrap();
    let tried = first.backend();
    visit.failed(first, &refused()).await.unwrap();
    let second = visit.slot().await.unwrap();
    assert_ne!(second.backend(), tried);
    assert_eq!(
        visit.failed(second, &refused()).await.unwrap_err(),
        Reason::RetriesExhausted
    );
    let queue = ground.queue();
    assert_eq!(queue.figures().retried(), 1);
    assert_eq!(queue.figures().refused(Reason::RetriesExhausted), 1);
    assert_eq!(ground.inflight(), 0);
}

#[tokio::test]
async fn attempts_end_with_the_budget() {
    let ground = Ground::without_servers(1, 1, 10);
    ground.change(|view| {
        view.queue.attempts = Setting::built_in(1000);
        view.queue.timeout = Setting::built_in(QueueTimeout::Fixed(Duration::from_millis(30)));
    });
    let began = Instant::now();
    let mut visit = visit(&ground);
    let reason = loop {
        let slot = match visit.slot().await {
            Ok(slot) => slot,
            Err(reason) => break reason,
        };
        if let Err(reason) = visit.failed(slot, &refused()).await {
            break reason;
        }
    };
    assert_eq!(reason, Reason::RetriesExhausted);
    assert!(
        began.elapsed() < Duration::from_millis(500),
        "{:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn what_the_programs_sent_is_counted_until_it_has_a_slot_or_a_place() {
    let ground = Ground::without_servers(1, 1, 10);
    let record = ground.memory.plain.service(SERVICE).unwrap();
    let send = || {
        balancer_common::waiting::send(&record.waiting);
        Sent::new(ground.queues.clone(), SERVICE)
    };
    let mut first = Visit::new(ground.queue(), ground.now(), Some(send()));
    assert_eq!(ground.waiting(), 1);
    let held = first.slot().await.unwrap();
    assert_eq!(ground.waiting(), 0);
    let gone = Visit::new(ground.queue(), ground.now(), Some(send()));
    assert_eq!(ground.waiting(), 1);
    drop(gone);
    assert_eq!(ground.waiting(), 0);
    let refused = Visit::new(ground.queue(), ground.now(), Some(send()))
        .slot()
        .await;
    assert_eq!(refused.unwrap_err(), Reason::QueueTimeout);
    assert_eq!(ground.waiting_word(), 0);
    drop(held);
}

#[tokio::test]
async fn the_automatic_waiting_time_follows_the_service_time() {
    let ground = Ground::without_servers(1, 1, 10);
    ground.change(|view| view.queue.timeout = Setting::built_in(QueueTimeout::Auto));
    let queue = ground.queue();
    assert_eq!(
        queue.timeout(),
        Duration::from_millis(100),
        "nothing is measured yet"
    );
    queue
        .figures()
        .settle_service_time(10, Duration::from_millis(500));
    assert_eq!(queue.timeout(), Duration::from_millis(100));
    for _ in 0..50 {
        queue
            .figures()
            .settle_service_time(10, Duration::from_secs(2));
    }
    let timeout = queue.timeout().as_secs_f64();
    assert!((timeout - 0.4).abs() < 0.01, "{timeout}");
}

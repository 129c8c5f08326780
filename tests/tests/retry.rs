//! A backend that cannot be connected to is none of the waiters' business: they are sent on to
//! another, as often and as long as they may.

#![forbid(unsafe_code)]

use std::{
    io::{ErrorKind, Read},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::{Value, json};
use tests::{
    scene::{SOON, Scene},
    service::Service,
    wait::eventually_eq,
};

#[test]
fn a_dead_backend_among_live_ones_costs_nobody_their_connection() -> Result<()> {
    const WAITERS: u64 = 12;
    let mut scene = Scene::arranged(3, 1, |service| {
        unbroken(service, json!({"size": 100, "timeout": "30s"}))
    })?;
    let (held, waiters) = full_house(&scene, 3, WAITERS)?;
    scene.close_port(0);
    drop(held);
    for _ in &waiters {
        let (pod, end) = scene.accept_any()?;
        assert_ne!(pod, 0);
        drop(end);
    }
    let queue = scene.queue();
    assert!(queue.retried > 0, "{queue:?}");
    assert_eq!(queue.refused_in_all(), 0, "{queue:?}");
    assert!(scene.backends()[0].failures > 0);
    drop(waiters);
    scene.finish()
}

#[test]
fn when_all_attempts_have_failed_it_is_refused() -> Result<()> {
    const ATTEMPTS: u64 = 3;
    let mut scene = Scene::arranged(2, 1, |service| {
        unbroken(service, json!({"timeout": "30s", "attempts": ATTEMPTS}))
    })?;
    let (held, mut waiters) = full_house(&scene, 2, 1)?;
    scene.close_port(0);
    scene.close_port(1);
    drop(held);
    assert_reset(&mut waiters[0]);
    eventually_eq(SOON, 1, || scene.queue().refused_for("retries-exhausted"));
    assert_eq!(scene.queue().retried, ATTEMPTS - 1);
    scene.wait_inflight(0);
    drop(waiters);
    scene.finish()
}

#[test]
fn attempts_end_with_the_waiting_time_and_a_little_more() -> Result<()> {
    const TIMEOUT: Duration = Duration::from_millis(300);
    const BUDGET: Duration = Duration::from_millis(300 + 50);
    const SLACK: Duration = Duration::from_millis(50);
    const TRIES: u32 = 5;
    let mut best = Duration::MAX;
    let mut scene = Scene::arranged(1, 1, |service| {
        unbroken(service, json!({"timeout": "300ms", "attempts": 1000}))
    })?;
    for _ in 0..TRIES {
        let held = scene.connection()?;
        let begun = Instant::now();
        let mut waiter = scene.dial()?;
        scene.wait_waiters(1);
        scene.close_port(0);
        drop(held);
        assert_reset(&mut waiter);
        best = best.min(begun.elapsed());
        scene.wait_inflight(0);
        scene.open_port(0)?;
    }
    assert!(best < BUDGET + SLACK, "at best after {best:?}");
    let queue = scene.queue();
    let refused = queue.refused_for("retries-exhausted");
    assert_eq!(refused, u64::from(TRIES), "{queue:?}");
    // With pauses of 5, 10, 20, 40, 50, 50 … ms there are about ten attempts in that time.
    let most = u64::from(TRIES) * (TIMEOUT.as_millis() as u64 / 20);
    assert!(queue.retried <= most, "{queue:?}");
    assert!(queue.retried >= u64::from(TRIES) * 3, "{queue:?}");
    scene.finish()
}

#[test]
fn a_backend_that_does_not_answer_holds_nobody_longer_than_that() -> Result<()> {
    const AT_MOST: Duration = Duration::from_secs(1);
    let scene = Scene::arranged(1, 1, |service| {
        unbroken(service, json!({"timeout": "300ms"}))
    })?;
    let (held, mut waiters) = full_house(&scene, 1, 1)?;
    let pod = &scene.topology().pods[0].netns;
    pod.nft(
        "add table inet wall\n\
         add chain inet wall in { type filter hook input priority 0; }\n\
         add rule inet wall in tcp flags & (syn | ack) == syn drop\n",
    )?;
    let begun = Instant::now();
    drop(held);
    assert_reset(&mut waiters[0]);
    let waited = begun.elapsed();
    // The kernel itself would go on for minutes.
    assert!(waited < AT_MOST, "{waited:?}");
    scene.wait_inflight(0);
    pod.nft("delete table inet wall\n")?;
    drop(waiters);
    scene.finish()
}

#[test]
fn a_backend_that_comes_back_while_it_is_retried_serves() -> Result<()> {
    let mut scene = Scene::arranged(1, 1, |service| {
        unbroken(service, json!({"timeout": "30s", "attempts": 1000}))
    })?;
    let (held, waiters) = full_house(&scene, 1, 1)?;
    scene.close_port(0);
    drop(held);
    eventually_eq(SOON, true, || scene.queue().retried >= 3);
    scene.open_port(0)?;
    let (_, pod) = scene.accept_any()?;
    drop((pod, waiters));
    scene.finish()
}

/// The service with this queue, and without a breaker, which would keep failing backends out.
fn unbroken(service: Service, queue: Value) -> Service {
    service
        .with("queue", queue)
        .with("breaker", json!({"failures": 0}))
}

/// Takes all slots, and has so many wait.
#[expect(clippy::type_complexity, reason = "both ends of each connection")]
fn full_house(
    scene: &Scene,
    slots: u64,
    waiters: u64,
) -> Result<(Vec<(TcpStream, TcpStream)>, Vec<TcpStream>)> {
    let held = (0..slots)
        .map(|_| scene.connection())
        .collect::<Result<_>>()?;
    let waiting = (0..waiters)
        .map(|_| scene.dial())
        .collect::<std::io::Result<_>>()?;
    scene.wait_waiters(waiters);
    Ok((held, waiting))
}

#[track_caller]
fn assert_reset(client: &mut TcpStream) {
    let reset = client.read(&mut [0]).expect_err("it must be refused");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset, "{reset}");
}

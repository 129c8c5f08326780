//! A service takes no more than its rate limit: so many at once, and then so many a second. What is
//! beyond is refused in `connect()`.

#![forbid(unsafe_code)]

use std::{
    io::ErrorKind,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::errno::Errno;
use serde_json::json;
use tests::scene::{FRONTEND_V4, Scene, dial, errno};

/// What came of a number of connects.
#[derive(Debug, Default)]
struct Tally {
    admitted: u64,
    refused: u64,
    took: Duration,
}

#[test]
fn as_many_as_the_burst_come_at_once_and_the_next_is_refused() -> Result<()> {
    const BURST: u64 = 5;
    let scene = Scene::arranged(1, 100, |service| {
        service.with("rate_limit", json!({"per_second": 1, "burst": BURST}))
    })?;
    let tally = dial_until(&scene, |tally| tally.admitted + tally.refused == 50)?;
    let since = tally.took.as_secs();
    assert!(
        (BURST..=BURST + since + 1).contains(&tally.admitted),
        "{tally:?}"
    );
    let queue = scene.queue();
    assert_eq!(queue.refused_for("rate-limited"), tally.refused);
    assert_eq!(queue.accepted, 0, "the agent was bothered");
    assert_eq!(
        scene.steered(),
        tally.admitted,
        "who is refused takes no slot"
    );
    scene.finish()
}

#[test]
fn after_a_burst_they_come_at_the_rate() -> Result<()> {
    const RATE: u64 = 100;
    const TIME: Duration = Duration::from_millis(1500);
    let scene = Scene::arranged(1, 100, |service| {
        service.with("rate_limit", json!({"per_second": RATE, "burst": 1}))
    })?;
    let tally = dial_until(&scene, |tally| tally.took >= TIME)?;
    let due = tally.took.as_secs_f64() * RATE as f64;
    let admitted = tally.admitted as f64;
    assert!(admitted <= due + 1.0, "{admitted} of {due}: {tally:?}");
    // A busy machine may let the client sleep now and then.
    assert!(admitted >= due / 2.0, "{admitted} of {due}: {tally:?}");
    scene.finish()
}

#[test]
fn a_limit_can_be_changed_and_lifted_while_clients_come() -> Result<()> {
    let scene = Scene::arranged(1, 100, |service| {
        service.with("rate_limit", json!({"per_second": 1, "burst": 1}))
    })?;
    let all = |tally: &Tally| tally.admitted + tally.refused == 20;
    let limited = dial_until(&scene, all)?;
    assert!(limited.refused > 0, "{limited:?}");
    let change = |limit| {
        let changed = scene.service().with("rate_limit", limit);
        scene.agent().reload(&[changed])
    };
    change(json!({"per_second": 1_000_000}))?;
    let ample = dial_until(&scene, all)?;
    assert_eq!(ample.refused, 0, "{ample:?}");
    change(json!("none"))?;
    let unlimited = dial_until(&scene, all)?;
    assert_eq!(unlimited.refused, 0, "{unlimited:?}");
    scene.finish()
}

#[test]
fn who_is_refused_by_the_limit_does_not_wait() -> Result<()> {
    let scene = Scene::arranged(1, 1, |service| {
        service
            .with("queue", json!({"timeout": "30s"}))
            .with("rate_limit", json!({"per_second": 1, "burst": 2}))
    })?;
    let held = scene.connection()?;
    let waiter = scene.dial()?;
    scene.wait_waiters(1);
    let refused = dial_until(&scene, |tally| tally.refused > 0)?;
    assert!(refused.took < Duration::from_secs(2), "{refused:?}");
    drop((held, waiter));
    scene.wait_inflight(0);
    scene.finish()
}

#[test]
fn every_form_of_connect_is_limited() -> Result<()> {
    let scene = Scene::arranged(1, 100, |service| {
        service.with("rate_limit", json!({"per_second": 1, "burst": 1}))
    })?;
    dial_until(&scene, |tally| tally.refused > 0)?;
    for place in [scene.client(), scene.local_client()] {
        for address in [FRONTEND_V4, tests::scene::mapped(FRONTEND_V4)] {
            // A token may have come meanwhile, but only one.
            let twice = [0, 1].map(|_| place.run(|| dial(address)));
            let refused = twice.into_iter().find(Result::is_err);
            assert_eq!(errno(refused.expect("one too many")), Errno::ECONNREFUSED);
        }
    }
    scene.finish()
}

/// Connects, one after the other and each closed again, until `enough`.
fn dial_until(scene: &Scene, enough: impl Fn(&Tally) -> bool) -> Result<Tally> {
    let begun = Instant::now();
    let mut tally = Tally::default();
    while !enough(&tally) {
        match scene.dial() {
            Ok(client) => {
                drop(scene.accept(&client)?);
                tally.admitted += 1;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => tally.refused += 1,
            Err(error) => return Err(error.into()),
        }
        tally.took = begun.elapsed();
    }
    Ok(tally)
}

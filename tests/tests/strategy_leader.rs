//! One leader gets everything; when it goes, in whatever way, the next takes over, and whoever
//! comes back does not take it away again.

#![forbid(unsafe_code)]

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    roll_call::{RollCall, call},
    scene::SOON,
    service::Service,
    shares::tally,
    wait::eventually,
};

const PODS: usize = 3;
const CLIENTS: u64 = 8;
/// For how long a pod that failed is left out, in tests that wait for the end of it.
const OPEN: &str = "500ms";

#[test]
fn a_leader_that_dies_is_followed_by_one_that_stays() -> Result<()> {
    let mut roll = led(RollCall::new(PODS, 1, 0)?, |service| service)?;
    let first = roll.calls(20)?[0];
    let second = succession(&mut roll, first)?;
    assert_eq!(tally(&roll.calls(100)?, PODS)[second], 100);
    assert_eq!(leader(&roll)?, roll.address(second).to_string());

    // It is back, and nobody goes there.
    roll.open(first)?;
    assert_eq!(tally(&roll.calls(100)?, PODS)[second], 100);
    let third = succession(&mut roll, second)?;
    assert_ne!(third, second);
    roll.open(second)?;
    assert_eq!(tally(&roll.calls(100)?, PODS)[third], 100);
    roll.finish()
}

#[test]
fn of_two_the_one_that_came_back_leads_when_the_other_dies() -> Result<()> {
    let mut roll = led(RollCall::new(2, 1, 0)?, |service| {
        service.with("breaker", json!({"failures": 5, "open": OPEN}))
    })?;
    let first = roll.calls(20)?[0];
    let second = succession(&mut roll, first)?;
    roll.open(first)?;
    let again = succession(&mut roll, second)?;
    assert_eq!((first, second), (again, 1 - again));
    roll.open(second)?;
    roll.finish()
}

#[test]
fn a_leader_that_drains_is_followed_without_a_failure() -> Result<()> {
    let roll = led(RollCall::new(PODS, 1, 0)?, |service| service)?;
    let first = roll.calls(20)?[0];
    let held = roll.hold(1)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let clients = scope.spawn(|| {
            roll.client(0).run_many(CLIENTS, |_| {
                while !stop.load(SeqCst) {
                    call()?;
                }
                Ok(())
            })
        });
        let drained = roll.drain(first);
        stop.store(true, SeqCst);
        clients.join().expect("clients do not panic")?;
        drained
    })?;
    let second = roll.calls(1)?[0];
    assert_ne!(second, first);
    assert_eq!(tally(&roll.calls(50)?, PODS)[second], 50);
    roll.undrain(first)?;
    assert_eq!(tally(&roll.calls(50)?, PODS)[second], 50, "not pre-empted");
    roll.drain(second)?;
    let third = roll.calls(1)?[0];
    assert_ne!(third, second);
    drop(held);
    roll.undrain(second)?;
    roll.finish()
}

#[test]
fn those_for_whom_the_leader_has_no_slot_wait_for_it() -> Result<()> {
    const CALLS: usize = 20;
    let roll = led(RollCall::new(PODS, 1, 1)?, |service| {
        service.with("queue", json!({"size": 100, "timeout": "30s"}))
    })?;
    let leader = roll.calls(1)?[0];
    roll.pod(leader).answer_after(Duration::from_millis(1));
    roll.client(0).run_many(CLIENTS, |_| {
        for _ in 0..CALLS {
            let answered = call()?;
            ensure!(answered == leader, "{answered} is not the leader");
        }
        Ok(())
    })?;
    roll.wait_inflight(0);
    for pod in 0..PODS {
        let seen = roll.pod(pod).seen();
        let expected = if pod == leader {
            CLIENTS as usize * CALLS + 1
        } else {
            0
        };
        assert_eq!(seen.accepted, expected as u64, "{pod}: {seen:?}");
    }
    let queue = roll.agent().queue("roll")?;
    assert!(queue.queued > 0, "{queue:?}");
    roll.finish()
}

/// Nobody calls while the leader dies, so only probes can tell.
#[test]
fn an_unhealthy_leader_is_followed_before_anyone_fails() -> Result<()> {
    let mut roll = led(RollCall::new(PODS, 1, 0)?, |service| {
        let often = json!({"probe": "tcp", "interval": "100ms", "failures": 2});
        service.with("health", often)
    })?;
    let first = roll.calls(20)?[0];
    roll.close(first);
    roll.wait_state(first, |state| state == "unhealthy");
    let calls = roll.calls(50)?;
    let second = calls[0];
    assert_ne!(second, first);
    assert_eq!(tally(&calls, PODS)[second], 50);
    roll.open(first)?;
    roll.wait_state(first, |state| state == "idle");
    assert_eq!(tally(&roll.calls(50)?, PODS)[second], 50, "not pre-empted");
    roll.finish()
}

#[test]
fn a_leader_that_is_taken_out_of_the_configuration_is_followed() -> Result<()> {
    let roll = led(RollCall::new(PODS, 1, 0)?, |service| service)?;
    let first = roll.calls(20)?[0];
    let mut without = roll.service().by("leader");
    without.backends.remove(first);
    roll.arrange(without)?;
    let second = roll.calls(1)?[0];
    assert_ne!(second, first);
    // It is new when it comes back, so the other has been ready for longer.
    roll.arrange(roll.service().by("leader"))?;
    assert_eq!(tally(&roll.calls(50)?, PODS)[second], 50);
    roll.finish()
}

fn led(roll: RollCall, further: fn(Service) -> Service) -> Result<RollCall> {
    roll.arrange(further(roll.service().by("leader")))?;
    Ok(roll)
}

/// Kills a leader while clients call, and waits until each of them has an answer from the same
/// other pod. Gives that.
fn succession(roll: &mut RollCall, leader: usize) -> Result<usize> {
    let server = roll.take(leader);
    let clients = roll.client(0);
    let killed = OnceLock::new();
    let (answers, answered) = mpsc::channel();
    let call_until_answered = |_| {
        let deadline = Instant::now() + 2 * SOON;
        let mut failed = 0;
        loop {
            match call() {
                Ok(pod) if pod != leader => {
                    let since: &Instant = killed.get().context("nobody was killed yet")?;
                    answers.send((pod, since.elapsed(), failed))?;
                    return Ok(());
                }
                Ok(_) => {}
                Err(_) => failed += 1,
            }
            ensure!(Instant::now() < deadline, "nobody follows {leader}");
        }
    };
    thread::scope(|scope| {
        let calling = scope.spawn(|| clients.run_many(CLIENTS, call_until_answered));
        eventually(SOON, || {
            let accepted = server.seen().accepted;
            if accepted < 200 {
                return Err(format!("only {accepted} calls"));
            }
            Ok(())
        });
        killed.set(Instant::now()).expect("it is killed once");
        server.stop();
        calling.join().expect("clients do not panic")
    })?;
    let answers: Vec<(usize, Duration, u32)> = answered.try_iter().collect();
    println!("answered by, after, calls that failed: {answers:?}");
    let next = answers.first().context("nobody was answered")?.0;
    ensure!(
        answers.iter().all(|(pod, ..)| *pod == next),
        "not one leader: {answers:?}"
    );
    Ok(next)
}

fn leader(roll: &RollCall) -> Result<String> {
    let shown = roll.shown()?;
    let leader = shown["leader"].as_str();
    Ok(leader.context("nobody leads")?.to_owned())
}

//! A client stays with the pod that it first reached, until that is full or drains, or until it
//! has not come for a while; whether the programs or the agent let it in.

#![forbid(unsafe_code)]

use std::{collections::BTreeSet, thread, time::Duration};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{
    roll_call::{RollCall, calls_during, hold},
    service::Service,
};

/// By turns, so that each who is not bound would get another every time.
fn sticky(roll: &RollCall, timeout: &str) -> Service {
    let affinity = json!({"client": true, "timeout": timeout});
    roll.service().by("round-robin").with("affinity", affinity)
}

#[test]
fn each_client_has_a_pod_of_its_own_and_keeps_it() -> Result<()> {
    const CLIENTS: usize = 4;
    let roll = RollCall::new(CLIENTS, CLIENTS, 0)?;
    roll.arrange(sticky(&roll, "10m"))?;
    let homes: Vec<_> = (0..CLIENTS)
        .map(|client| bound(&roll, client))
        .collect::<Result<_>>()?;
    let different: BTreeSet<_> = homes.iter().collect();
    assert_eq!(different.len(), CLIENTS, "turns: {homes:?}");
    let again: Vec<_> = (0..CLIENTS)
        .map(|client| bound(&roll, client))
        .collect::<Result<_>>()?;
    assert_eq!(again, homes);

    // Another strategy chooses for those who are new, not for those who are bound.
    roll.arrange(sticky(&roll, "10m").by("random"))?;
    for (client, home) in homes.iter().enumerate() {
        assert_eq!(bound(&roll, client)?, *home);
    }
    // Nobody is bound where that is not wanted.
    roll.arrange(roll.service().by("round-robin"))?;
    let calls: BTreeSet<_> = roll.calls(CLIENTS)?.into_iter().collect();
    assert_eq!(calls.len(), CLIENTS);
    roll.finish()
}

#[test]
fn who_does_not_come_for_a_while_is_forgotten_and_who_comes_is_not() -> Result<()> {
    let while_away = Duration::from_millis(1_500);
    let roll = RollCall::new(3, 2, 0)?;
    roll.arrange(sticky(&roll, "1s"))?;
    let first = bound(&roll, 0)?;
    let calls = roll.client(1).run(|| calls_during(while_away))?;
    ensure!(
        calls.iter().all(|pod| *pod == calls[0]),
        "bound, as long as it comes: {calls:?}"
    );
    let moved = bound(&roll, 0)?;
    assert!(moved != first && moved != calls[0], "the next in turn");
    roll.finish()
}

#[test]
fn a_pod_that_is_full_or_drains_loses_its_client_for_good() -> Result<()> {
    let roll = RollCall::new(3, 1, 1)?;
    roll.arrange(sticky(&roll, "10m"))?;
    let first = bound(&roll, 0)?;
    let held = roll.hold(2)?;
    assert_eq!(held[0].pod, first);
    let second = held[1].pod;
    assert_ne!(second, first);
    drop(held);
    assert_eq!(bound(&roll, 0)?, second, "bound anew");

    roll.drain(second)?;
    let third = bound(&roll, 0)?;
    assert_ne!(third, second);
    roll.undrain(second)?;
    assert_eq!(bound(&roll, 0)?, third);

    // One that leaves and comes back is another.
    let mut without = sticky(&roll, "10m");
    without.backends.remove(third);
    roll.arrange(without)?;
    let fourth = bound(&roll, 0)?;
    assert_ne!(fourth, third);
    roll.arrange(sticky(&roll, "10m"))?;
    assert_eq!(bound(&roll, 0)?, fourth);
    roll.finish()
}

#[test]
fn the_agent_knows_who_is_bound_and_binds_those_who_waited() -> Result<()> {
    const ROUNDS: usize = 12;
    let roll = RollCall::new(2, 2, 1)?;
    let patient = json!({"size": 10, "timeout": "30s"});
    roll.arrange(sticky(&roll, "10m").with("queue", patient))?;
    let mut home = bound(&roll, 0)?;
    for _ in 0..ROUNDS {
        // Both pods come free while the agent does nothing: then it can choose.
        let held = roll.hold_of(1, 2)?;
        let pod = waited_for(&roll, || {
            let stalled = roll.agent().stall();
            drop(held);
            stalled
        })?;
        assert_eq!(pod, home, "the agent forgets who is bound");
        roll.wait_inflight(0);
    }
    for _ in 0..4 {
        // Only the other comes free.
        let mut held = roll.hold_of(1, 2)?;
        held.retain(|held| held.pod == home);
        assert_eq!(held.len(), 1);
        let other = roll.hold_of(1, 1)?;
        assert_ne!(other[0].pod, home);
        let pod = waited_for(&roll, || drop(other))?;
        assert_ne!(pod, home);
        drop(held);
        roll.wait_inflight(0);
        home = bound(&roll, 0)?;
        assert_eq!(home, pod, "the agent binds anew");
    }
    roll.finish()
}

/// Where a client is sent, over and over.
fn bound(roll: &RollCall, client: usize) -> Result<usize> {
    let calls = roll.calls_of(client, 10)?;
    ensure!(
        calls.iter().all(|pod| *pod == calls[0]),
        "client {client} was sent to {calls:?}"
    );
    Ok(calls[0])
}

/// Lets the first client wait, frees what it waits for, and says where it got in.
fn waited_for<T>(roll: &RollCall, free: impl FnOnce() -> T) -> Result<usize> {
    let pod = thread::scope(|scope| {
        let waiting = scope.spawn(|| roll.client(0).run(hold));
        roll.wait_waiters(1);
        // What it returns goes now: a stalled agent goes on.
        drop(free());
        waiting.join().expect("a client does not panic")
    })?
    .pod;
    Ok(pod)
}

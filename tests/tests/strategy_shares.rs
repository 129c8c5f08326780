//! Who gets which connects under each strategy, as the pods count them.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::json;
use tests::{
    roll_call::{Held, RollCall, call},
    scene::SOON,
    shares::{assert_even, assert_proportional, tally},
    wait::eventually,
};

const PODS: usize = 10;
/// Enough for a skew of a fifth on one pod to be no chance.
const DRAWS: usize = 24_000;

#[test]
fn random_and_the_best_of_two_are_fair_among_idle_pods() -> Result<()> {
    let roll = RollCall::new(PODS, 1, 0)?;
    for strategy in ["random", "p2c"] {
        roll.arrange(roll.service().by(strategy))?;
        let calls = roll.calls(DRAWS)?;
        assert_even(&tally(&calls, PODS));
        // No turns either: who was next says nothing of who is.
        let steps: Vec<_> = calls
            .windows(2)
            .map(|pair| (pair[1] + PODS - pair[0]) % PODS)
            .collect();
        assert_even(&tally(&steps, PODS));
    }
    roll.finish()
}

#[test]
fn nobody_gets_the_share_of_those_beside_it_that_drain_or_are_full() -> Result<()> {
    const OUT: [usize; 3] = [3, 4, 5];
    let roll = RollCall::new(PODS, 1, 1)?;
    let by_chance = || roll.service().by("random");
    roll.arrange(by_chance())?;
    for pod in OUT {
        roll.drain(pod)?;
    }
    assert_even(&counts_of_others(&roll, &OUT)?);
    for pod in OUT {
        roll.undrain(pod)?;
    }
    let mut held = roll.hold(PODS)?;
    held.retain(|held| OUT.contains(&held.pod));
    roll.wait_inflight(OUT.len() as u64);
    assert_even(&counts_of_others(&roll, &OUT)?);
    drop(held);
    assert_even(&tally(&roll.calls(DRAWS)?, PODS));
    roll.finish()
}

#[test]
fn the_best_of_two_is_the_less_loaded() -> Result<()> {
    let roll = RollCall::new(3, 1, 0)?;
    let held = loaded(&roll, [1, 2, 3])?;
    roll.arrange(roll.service().by("p2c"))?;
    // Of three pairs the first wins two, and the last none.
    let counts = tally(&roll.calls(9_000)?, 3);
    assert_proportional(&counts, &[2, 1, 0], 0.1);
    drop(held);
    roll.finish()
}

#[test]
fn turns_are_taken_in_the_pods_order_whoever_drains_meanwhile() -> Result<()> {
    const PODS: usize = 5;
    let roll = RollCall::new(PODS, 1, 1)?;
    roll.arrange(roll.service().by("round-robin"))?;
    let everyone: Vec<_> = (0..PODS).collect();
    assert_turns(&roll.calls(3 * PODS)?, &everyone);
    roll.drain(2)?;
    assert_turns(&roll.calls(3 * PODS)?, &[0, 1, 3, 4]);
    roll.undrain(2)?;
    assert_turns(&roll.calls(3 * PODS)?, &everyone);
    let mut held = roll.hold(PODS)?;
    held.retain(|held| [0, 4].contains(&held.pod));
    assert_turns(&roll.calls(3 * PODS)?, &[1, 2, 3]);
    drop(held);
    assert_turns(&roll.calls(3 * PODS)?, &everyone);
    roll.finish()
}

#[test]
fn turns_taken_by_sixteen_clients_at_once_are_different_turns() -> Result<()> {
    const CLIENTS: u64 = 16;
    const CALLS: u64 = 500;
    let roll = RollCall::new(PODS, 1, 0)?;
    roll.arrange(roll.service().by("round-robin"))?;
    roll.client(0)
        .run_many(CLIENTS, |_| (0..CALLS).try_for_each(|_| call().map(drop)))?;
    let counts: Vec<_> = (0..PODS).map(|pod| roll.pod(pod).seen().accepted).collect();
    assert_eq!(counts, [CLIENTS * CALLS / PODS as u64; PODS]);
    roll.finish()
}

#[test]
fn weighted_turns_are_smooth() -> Result<()> {
    let roll = RollCall::new(3, 1, 1)?;
    let weighted = |weights: [u32; 3]| {
        let service = roll.service().by("weighted-round-robin");
        (0..3).fold(service, |service, pod| {
            service.with_backend(pod, "weight", json!(weights[pod]))
        })
    };
    roll.arrange(weighted([5, 1, 1]))?;
    assert_turns(&roll.calls(28)?, &[0, 0, 1, 0, 2, 0, 0]);
    roll.arrange(weighted([1, 2, 1]))?;
    assert_turns(&roll.calls(24)?, &[1, 0, 2, 1]);
    roll.arrange(weighted([1, 1, 1]))?;
    assert_turns(&roll.calls(24)?, &[0, 1, 2]);
    roll.finish()
}

#[test]
fn shares_are_as_the_weights_say_through_reloads_and_drains() -> Result<()> {
    const CALLS: usize = 10_000;
    let roll = RollCall::new(5, 1, 1)?;
    let weighted = |weights: [u64; 5]| {
        let service = roll.service().by("weighted-round-robin");
        (0..5).fold(service, |service, pod| {
            service.with_backend(pod, "weight", json!(weights[pod]))
        })
    };
    roll.arrange(weighted([10, 7, 3, 1, 1]))?;
    let counts = tally(&roll.calls(CALLS)?, 5);
    assert_proportional(&counts, &[10, 7, 3, 1, 1], 0.05);
    // Without the heaviest, the others share what there is as before.
    roll.drain(0)?;
    let counts = tally(&roll.calls(CALLS)?, 5);
    assert_proportional(&counts, &[0, 7, 3, 1, 1], 0.05);
    roll.undrain(0)?;
    roll.arrange(weighted([1, 1, 2, 6, 10]))?;
    let counts = tally(&roll.calls(CALLS)?, 5);
    assert_proportional(&counts, &[1, 1, 2, 6, 10], 0.05);
    roll.finish()
}

#[test]
fn the_next_connect_goes_to_one_of_those_with_the_fewest() -> Result<()> {
    const PODS: usize = 5;
    let roll = RollCall::new(PODS, 1, 0)?;
    let mut held = loaded(&roll, [3, 1, 4, 1, 2])?;
    roll.arrange(roll.service().by("least-connections"))?;
    // Those with one each, in turn.
    let counts = tally(&roll.calls(100)?, PODS);
    assert_eq!(counts, [0, 50, 0, 50, 0]);

    let mut loads = [3, 1, 4, 1, 2];
    for _ in 0..20 {
        let next = roll.hold(1)?.remove(0);
        let least = *loads.iter().min().expect("there are pods");
        assert_eq!(loads[next.pod], least, "{} of {loads:?}", next.pod);
        loads[next.pod] += 1;
        held.push(next);
    }
    assert!(loads.iter().all(|load| (6..=7).contains(load)), "{loads:?}");
    // The only idle one.
    held.retain(|held| held.pod != 2);
    assert_eq!(tally(&roll.calls(20)?, PODS), [0, 0, 20, 0, 0]);
    drop(held);
    assert_eq!(tally(&roll.calls(50)?, PODS), [10; PODS]);
    roll.finish()
}

#[test]
fn idle_pods_come_in_turn_before_any_other() -> Result<()> {
    let roll = RollCall::new(4, 1, 2)?;
    let held = loaded(&roll, [0, 1, 0, 0])?;
    roll.arrange(roll.service().by("idle-first"))?;
    assert_turns(&roll.calls(12)?, &[0, 2, 3]);
    drop(held);
    roll.finish()
}

#[test]
fn the_fastest_gets_the_most_until_it_is_slow() -> Result<()> {
    let roll = RollCall::new(3, 1, 0)?;
    let delays = |delays: [u64; 3]| {
        for (pod, delay) in delays.into_iter().enumerate() {
            roll.pod(pod).answer_after(Duration::from_millis(delay));
        }
    };
    delays([40, 10, 40]);
    roll.arrange(roll.service().by("least-response-time"))?;
    let counts = tally(&roll.calls(60)?, 3);
    assert!(counts[1] >= 50, "the fast one: {counts:?}");
    assert!(counts[0] > 0 && counts[2] > 0, "each was tried: {counts:?}");

    delays([10, 160, 40]);
    let counts = tally(&roll.calls(60)?, 3);
    assert!(counts[1] <= 5, "the one that is slow now: {counts:?}");
    assert!(counts[0] >= 25, "the one that is fast now: {counts:?}");

    // Who was slow when it was last asked is asked again in time, and then preferred.
    delays([20, 2, 40]);
    let begun = Instant::now();
    let asked_again = roll.client(0).run(|| -> Result<Duration> {
        while call()? != 1 {
            ensure!(begun.elapsed() < Duration::from_secs(20), "never again");
        }
        Ok(begun.elapsed())
    })?;
    println!("asked again after {asked_again:?}");
    let counts = tally(&roll.calls(300)?, 3);
    assert!(counts[1] >= 200, "the fast one: {counts:?}");
    roll.finish()
}

#[test]
fn a_client_keeps_its_pod_whatever_becomes_of_the_others() -> Result<()> {
    const CLIENTS: usize = 12;
    const PODS: usize = 5;
    let roll = RollCall::new(PODS, CLIENTS, 2)?;
    roll.arrange(roll.service().by("consistent-hash"))?;
    let pods_of_clients = || -> Result<Vec<usize>> {
        let homes = (0..CLIENTS).map(|client| {
            let calls = roll.calls_of(client, 10)?;
            ensure!(
                calls.iter().all(|pod| *pod == calls[0]),
                "client {client} was sent to {calls:?}"
            );
            Ok(calls[0])
        });
        homes.collect()
    };
    let homes = pods_of_clients()?;
    let counts = tally(&homes, PODS);
    assert!(counts.iter().filter(|count| **count > 0).count() > 1);

    // One goes; only its own clients move, and they come back with it.
    let gone = homes[0];
    roll.drain(gone)?;
    for (home, moved) in homes.iter().zip(pods_of_clients()?) {
        assert_eq!(moved != *home, *home == gone, "{home} → {moved}");
    }
    roll.undrain(gone)?;
    assert_eq!(pods_of_clients()?, homes);

    // Full, it passes its client on, always to the same; and has it again afterwards.
    let held = roll.hold(2)?;
    assert!(held.iter().all(|held| held.pod == homes[0]));
    let next = roll.calls(10)?;
    assert!(
        next[0] != homes[0] && next.iter().all(|pod| *pod == next[0]),
        "{next:?}"
    );
    drop(held);
    assert_eq!(pods_of_clients()?, homes);

    // One is taken out of the configuration: hardly any but its own clients move.
    let mut fewer = roll.service().by("consistent-hash");
    fewer.backends.remove(gone);
    roll.arrange(fewer)?;
    // Memberships are in force at once, the table some milliseconds later.
    let settled = eventually(SOON, &pods_of_clients);
    let moved = homes
        .iter()
        .zip(settled)
        .filter(|(home, now)| **home != gone && *home != now)
        .count();
    assert!(moved <= 2, "{moved} of {CLIENTS} moved");
    // It is back; for a moment it takes nothing, since the pod that had its address before may still
    // be serving.
    roll.arrange(roll.service().by("consistent-hash"))?;
    eventually(SOON, || -> Result<()> {
        let now = pods_of_clients()?;
        ensure!(now == homes, "{now:?} instead of {homes:?}");
        Ok(())
    });
    roll.finish()
}

#[test]
fn the_leader_gets_everything() -> Result<()> {
    let roll = RollCall::new(4, 2, 0)?;
    roll.arrange(roll.service().by("leader"))?;
    let leader = roll.calls(1)?[0];
    for client in 0..2 {
        assert_eq!(tally(&roll.calls_of(client, 100)?, 4)[leader], 100);
    }
    let held = roll.hold(20)?;
    assert!(held.iter().all(|held| held.pod == leader));
    drop(held);
    roll.finish()
}

/// Who of the others gets how many connects.
fn counts_of_others(roll: &RollCall, out: &[usize]) -> Result<Vec<u64>> {
    let counts = tally(&roll.calls(DRAWS)?, PODS);
    let (inside, outside): (Vec<_>, Vec<_>) = (0..PODS).partition(|pod| !out.contains(pod));
    assert!(outside.iter().all(|pod| counts[*pod] == 0), "{counts:?}");
    Ok(inside.into_iter().map(|pod| counts[pod]).collect())
}

/// Connections that stay: so many on each pod.
fn loaded<const PODS: usize>(roll: &RollCall, loads: [usize; PODS]) -> Result<Vec<Held>> {
    roll.arrange(roll.service().by("round-robin"))?;
    let most = loads.iter().max().expect("there are pods");
    let mut left = loads;
    let mut held = roll.hold(PODS * most)?;
    held.retain(|held| {
        let is_wanted = left[held.pod] > 0;
        left[held.pod] = left[held.pod].saturating_sub(1);
        is_wanted
    });
    assert_eq!(left, [0; PODS], "turns of idle pods are even");
    roll.wait_inflight(loads.iter().sum::<usize>() as u64);
    Ok(held)
}

/// Checks that calls went round as said, from wherever that began.
#[track_caller]
fn assert_turns(calls: &[usize], turns: &[usize]) {
    let begins_at = |begin: usize| {
        let round = turns.iter().cycle().skip(begin);
        calls.iter().zip(round).all(|(call, turn)| call == turn)
    };
    assert!(
        (0..turns.len()).any(begins_at),
        "{calls:?} do not go round as {turns:?}"
    );
}

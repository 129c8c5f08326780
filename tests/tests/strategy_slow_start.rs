//! A pod that joins a running service gets less than its share at first, all of it later, and any
//! connection that nobody else can take.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    roll_call::{RollCall, calls_during},
    service::Service,
    shares::tally,
    wait::eventually,
};

const PODS: usize = 4;
const NEWCOMER: usize = 3;
/// Also far more than what the first calls take.
const SLOW_START: Duration = Duration::from_secs(9);
const AT_FIRST: Duration = Duration::from_secs(1);

#[test]
fn by_turns() -> Result<()> {
    starts_slowly("round-robin")
}

#[test]
fn by_chance() -> Result<()> {
    starts_slowly("random")
}

#[test]
fn idle_first() -> Result<()> {
    starts_slowly("idle-first")
}

#[test]
fn alone_or_where_all_others_are_full_it_serves_all_the_same() -> Result<()> {
    let roll = RollCall::new(PODS, 1, 1)?;
    for strategy in ["round-robin", "random", "idle-first"] {
        joined(&roll, strategy)?;
        assert!(warming_up(&roll)?.is_some());
        let mut held = roll.hold(PODS)?;
        held.retain(|held| held.pod != NEWCOMER);
        assert_eq!(held.len(), PODS - 1);
        assert_eq!(roll.calls(20)?, [NEWCOMER; 20], "{strategy}");
        drop(held);
        for pod in 0..NEWCOMER {
            roll.drain(pod)?;
        }
        assert_eq!(roll.calls(20)?, [NEWCOMER; 20], "{strategy}");
        for pod in 0..NEWCOMER {
            roll.undrain(pod)?;
        }
        assert!(warming_up(&roll)?.is_some());
    }
    roll.finish()
}

#[test]
fn in_a_new_service_all_have_their_share_from_the_start() -> Result<()> {
    let roll = RollCall::new(PODS, 1, 1)?;
    roll.agent().reload(&[])?;
    roll.arrange(slow(&roll, "round-robin"))?;
    assert_eq!(warming_up(&roll)?, None);
    assert_eq!(tally(&roll.calls(100)?, PODS), [25; PODS]);
    roll.finish()
}

fn starts_slowly(strategy: &str) -> Result<()> {
    let roll = RollCall::new(PODS, 1, 1)?;
    joined(&roll, strategy)?;
    let at_first = share(&roll)?;
    ensure!(
        warming_up(&roll)?.is_some_and(|left| left > SLOW_START / 2),
        "the machine is too slow for the first calls to be early ones"
    );
    // About a quarter of a pod's share: a sixteenth and what it has warmed up meanwhile.
    assert!(
        (0.002..0.12).contains(&at_first),
        "{strategy}: {at_first} at first"
    );
    eventually(2 * SLOW_START, || match warming_up(&roll)? {
        None => Ok(()),
        Some(left) => Err(anyhow::anyhow!("warm in {left:?}")),
    });
    let later = share(&roll)?;
    assert!((0.21..0.29).contains(&later), "{strategy}: {later} later");
    println!("{strategy}: {at_first:.3}, then {later:.3}");
    roll.finish()
}

/// A running service that one pod has just joined.
fn joined(roll: &RollCall, strategy: &str) -> Result<()> {
    let mut without = slow(roll, strategy);
    without.backends.remove(NEWCOMER);
    roll.arrange(without)?;
    roll.arrange(slow(roll, strategy))
}

fn slow(roll: &RollCall, strategy: &str) -> Service {
    let time = format!("{}s", SLOW_START.as_secs());
    roll.service().by(strategy).with("slow_start", json!(time))
}

/// The newcomer's share of the calls in a while.
fn share(roll: &RollCall) -> Result<f64> {
    let calls = roll.client(0).run(|| calls_during(AT_FIRST))?;
    ensure!(calls.len() >= 500, "only {} calls", calls.len());
    Ok(tally(&calls, PODS)[NEWCOMER] as f64 / calls.len() as f64)
}

/// For how long the newcomer does not get its share yet.
fn warming_up(roll: &RollCall) -> Result<Option<Duration>> {
    let rows = roll.agent().admin().get_json("/v1/backends")?;
    let address = roll.address(NEWCOMER).to_string();
    let mut rows = rows.as_array().context("a list of backends")?.iter();
    let row = rows
        .find(|row| row["address"] == *address)
        .context("the newcomer is not listed")?;
    Ok(row["warming_up_ms"].as_u64().map(Duration::from_millis))
}

//! The agent fails as a whole, or its clock does.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use jiff::SignedDuration;
use rand::{RngExt as _, rngs::SmallRng};

use super::Soak;

/// The programs go on without an agent that says nothing for two seconds.
const STALL: Duration = Duration::from_secs(3);
const KILLED_FOR: Duration = Duration::from_secs(60);
const BETWEEN_KILLS: Duration = Duration::from_secs(1);
/// Longer than the library of the clock takes to look at it.
const CLOCK_SEEN: Duration = Duration::from_millis(1200);

pub(super) fn killed(soak: &mut Soak, random: &mut SmallRng) -> Result<()> {
    soak.agent.kill()?;
    let ended = Instant::now();
    thread::sleep(Duration::from_millis(random.random_range(0..500)));
    soak.start_agent(ended)
}

/// By the same program, if no other was put in its place.
pub(super) fn replaced(soak: &mut Soak) -> Result<()> {
    soak.agent.terminate()?;
    soak.start_agent(Instant::now())
}

pub(super) fn killed_every_second(soak: &mut Soak) -> Result<()> {
    let begun = Instant::now();
    let mut next = begun;
    while begun.elapsed() < KILLED_FOR {
        soak.agent.kill()?;
        soak.start_agent(Instant::now())?;
        soak.check_counts()?;
        next += BETWEEN_KILLS;
        thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    Ok(())
}

pub(super) fn stalled(soak: &mut Soak) -> Result<()> {
    let stalled = soak.agent.stall()?;
    thread::sleep(STALL);
    drop(stalled);
    Ok(())
}

pub(super) fn clock_steps(soak: &mut Soak) -> Result<()> {
    let hour = SignedDuration::from_hours(1);
    for ahead in [24 * hour, -48 * hour, SignedDuration::ZERO] {
        soak.clock.set(ahead)?;
        thread::sleep(CLOCK_SEEN);
    }
    Ok(())
}

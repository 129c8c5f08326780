//! Changes once all is in sync: one at a time, each timed, and many a second. Called by `sync`.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::stage::{Change, Stage};
use crate::bench::cpu;

const DEADLINE: Duration = Duration::from_secs(10);
/// Looks at the kernel between two looks at the clock and at the user's wish.
const LOOKS: u32 = 1_000;
/// How much nicer than others the look is: as much as can be.
const POLITE: i32 = 19;
/// From one timed change to the next: the agent is at rest before each.
const PAUSE: Duration = Duration::from_millis(2);

/// How long changes took, from their last byte's being written to their being in the kernel.
pub(super) struct OneAtATime {
    /// Milliseconds.
    pub(super) ms: Vec<f64>,
}

/// What a rate of changes cost.
pub(super) struct Sustained {
    pub(super) changes: u32,
    /// A second.
    pub(super) rate: f64,
    /// Of one CPU.
    pub(super) agent_cpu_share: f64,
    /// From the last change's being written to its being in the kernel; earlier changes of the
    /// agent's backlog, if there is any, come before it.
    pub(super) last_late: Duration,
}

/// Changes one endpoint, waits until it is in the kernel, and again.
pub(super) fn one_at_a_time(
    stage: &mut Stage<'_>,
    changes: u32,
    stop_if_asked: &dyn Fn() -> Result<()>,
) -> Result<OneAtATime> {
    let mut ms = Vec::with_capacity(changes as usize);
    for number in 0..changes {
        let change = stage.change(number)?;
        let seen = await_in_kernel(stage, change.service, change.newcomer, stop_if_asked)?;
        ms.push(since_written(&change, seen)?.as_secs_f64() * 1e3);
        thread::sleep(PAUSE);
    }
    Ok(OneAtATime { ms })
}

/// Changes so many endpoints a second for so many seconds.
pub(super) fn sustained(
    stage: &mut Stage<'_>,
    rate: u32,
    seconds: u32,
    stop_if_asked: &dyn Fn() -> Result<()>,
) -> Result<Sustained> {
    let pid = stage.agent_pid()?;
    let (changes, interval) = (rate * seconds, Duration::from_secs(1) / rate);
    let (used_before, begun) = (cpu::used_by(pid)?, Instant::now());
    let mut last = None;
    for number in 0..changes {
        if number % LOOKS == 0 {
            stop_if_asked()?;
        }
        thread::sleep((begun + interval * number).saturating_duration_since(Instant::now()));
        last = Some(stage.change(number)?);
    }
    let Some(last) = last else {
        bail!("a rate of no changes cannot be measured");
    };
    let seen = await_in_kernel(stage, last.service, last.newcomer, stop_if_asked)?;
    let (took, used) = (begun.elapsed(), cpu::used_by(pid)? - used_before);
    let last_late = since_written(&last, seen)?;
    let astray = stage.astray()?;
    ensure!(
        astray == 0,
        "{astray} services are not in the kernel as they are in the API, though the last change is"
    );
    Ok(Sustained {
        changes,
        rate: f64::from(changes) / took.as_secs_f64(),
        agent_cpu_share: used.as_secs_f64() / took.as_secs_f64(),
        last_late,
    })
}

/// Looks at the kernel without a pause, but gives way to everybody: a look that kept the agent from
/// a CPU would measure itself. Gives the time of the look that found it.
fn await_in_kernel(
    stage: &Stage<'_>,
    service: usize,
    newcomer: SocketAddr,
    stop_if_asked: &dyn Fn() -> Result<()>,
) -> Result<Instant> {
    let id = stage.id_of(service)?;
    rustix::process::nice(POLITE).context("cannot give way to others")?;
    let seen = look(stage, id, newcomer, stop_if_asked);
    rustix::process::nice(-POLITE).context("cannot stop giving way to others")?;
    seen
}

fn look(
    stage: &Stage<'_>,
    id: u32,
    newcomer: SocketAddr,
    stop_if_asked: &dyn Fn() -> Result<()>,
) -> Result<Instant> {
    let begun = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if stage.has(id, newcomer)? {
                return Ok(Instant::now());
            }
        }
        stop_if_asked()?;
        if begun.elapsed() > DEADLINE {
            bail!("{newcomer} is not in the kernel after {DEADLINE:?}");
        }
    }
}

fn since_written(change: &Change, seen: Instant) -> Result<Duration> {
    let written = change.told.written.wait(DEADLINE)?;
    ensure!(written.streams > 0, "nobody follows the API any more");
    // The agent may be faster than the API server's thread is at looking at the clock.
    Ok(seen.saturating_duration_since(written.at))
}

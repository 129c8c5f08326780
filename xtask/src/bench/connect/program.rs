//! Run time of the programs themselves, as the kernel counts it, over steered connects only.
//!
//! The kernel counts only while it is told to, which costs every BPF program of the machine a
//! little: only for these moments, then. Called by `connect` and `strategies`.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::tests::{agent::Agent, run_time};
use anyhow::{Result, ensure};

use super::{
    dialler::{Dialler, Order},
    stage::Targets,
};

/// The kernel counts while this lives.
pub(in crate::bench) struct Counting {
    _held: run_time::Counting,
}

/// Of an agent's programs, by name.
pub(in crate::bench) type RunTimes = BTreeMap<String, RunTime>;

/// Of one program over a number of connects.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(in crate::bench) struct RunTime {
    pub(in crate::bench) runs: f64,
    pub(in crate::bench) seconds: f64,
}

impl Counting {
    pub(in crate::bench) fn start() -> Result<Self> {
        let held = run_time::Counting::start()?;
        Ok(Self { _held: held })
    }

    /// The run times of an agent's programs over so many connects to its frontends, by name.
    ///
    /// Nobody else may connect in its cgroup meanwhile; the count of runs proves it.
    pub(in crate::bench) fn measure(
        &self,
        agent: &Agent,
        dialler: &Dialler,
        targets: &Targets,
        connects: usize,
    ) -> Result<RunTimes> {
        let before = run_times(agent)?;
        dialler.dial(Order {
            targets: Arc::clone(targets),
            first: 0,
            count: connects,
            pause: Duration::ZERO,
        })?;
        let mut times = run_times(agent)?;
        for (program, time) in &mut times {
            let earlier = before.get(program).copied().unwrap_or_default();
            time.runs -= earlier.runs;
            time.seconds -= earlier.seconds;
        }
        let runs = times.get(CONNECT).copied().unwrap_or_default().runs;
        ensure!(
            runs == connects as f64,
            "{CONNECT} ran {runs} times for {connects} connects: someone else counts or connects here"
        );
        Ok(times)
    }
}

impl RunTime {
    /// Nanoseconds for one run.
    pub(in crate::bench) fn ns(self) -> f64 {
        self.seconds * 1e9 / self.runs
    }
}

/// The program that steers.
pub(in crate::bench) const CONNECT: &str = "idle_connect4";
/// The program that follows a connection; it runs several times for each.
pub(in crate::bench) const TRACK: &str = "idle_track";
/// The program at the last close.
pub(in crate::bench) const RELEASE: &str = "idle_release";

fn run_times(agent: &Agent) -> Result<RunTimes> {
    let answer = agent.admin().get("/metrics")?;
    let mut times = RunTimes::new();
    for line in answer.body.lines() {
        if let Some((program, value)) = sample(line, "idlefirst_program_runs_total") {
            times.entry(program.to_owned()).or_default().runs = value;
        } else if let Some((program, value)) = sample(line, "idlefirst_program_run_seconds_total") {
            times.entry(program.to_owned()).or_default().seconds = value;
        }
    }
    ensure!(
        times.contains_key(CONNECT),
        "the agent's metrics do not tell {CONNECT}'s run time"
    );
    Ok(times)
}

/// `metric{program="name"} value`.
fn sample<'l>(line: &'l str, metric: &str) -> Option<(&'l str, f64)> {
    let labels = line.strip_prefix(metric)?.strip_prefix("{program=\"")?;
    let (program, value) = labels.split_once("\"} ")?;
    Some((program, value.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_metrics_is_read() {
        let line = "idlefirst_program_runs_total{program=\"idle_track\"} 12";
        assert_eq!(
            sample(line, "idlefirst_program_runs_total"),
            Some(("idle_track", 12.0))
        );
        assert_eq!(sample(line, "idlefirst_program_run_seconds_total"), None);
        assert_eq!(sample("# HELP x", "x"), None);
    }
}

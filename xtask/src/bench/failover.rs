//! `cargo xtask bench failover`: how long a service with a leader is without one.
//!
//! Clients hammer one service while its leader goes, again and again: killed, taken out of the
//! configuration, or cut off. Timed from that moment to the end of the first request that its
//! successor serves, by one clock. Called by `bench`.

pub(super) mod backend;
pub(super) mod client;
pub(super) mod results;
pub(super) mod round;
mod stage;

use std::{
    io::{self, Write},
    thread,
};

use anyhow::{Result, bail};
use tests::{cgroup::Cgroup, netns::Netns, place::Place};

use self::{client::Clients, results::Results, round::Watcher, stage::Stage};
use crate::{
    preflight::{self, Interrupt, Needs},
    process::progress,
};

/// How often to do it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object as the last line; all else goes to standard error
    #[arg(long)]
    json: bool,
    /// Failovers of each kind
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    times: u32,
}

/// How a leader goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Going {
    /// Its server is killed: what it had is reset, and connects are refused.
    Refused,
    /// It is taken out of the configuration file; its server stays.
    Deleted,
    /// Whatever is sent to it is dropped.
    Blackholed,
}

impl Going {
    const ALL: [Self; 3] = [Self::Refused, Self::Deleted, Self::Blackholed];
}

/// Runs the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = preflight::prepare(&Needs {
        command: "bench failover",
        tools: &[("ip", "iproute2"), ("nft", "nftables")],
    })?;
    let interrupt = Interrupt::listen()?;
    progress("starting servers and the agent");
    let (netns, cgroup) = (Netns::new()?, Cgroup::threaded("failover")?);
    let mut stage = Stage::set(&binary, &netns, &cgroup)?;
    let clients_place = Place::new(&netns, &cgroup);
    let outcome = measure(options, &mut stage, clients_place, &interrupt);
    stage.strike()?;
    let Some(results) = outcome? else {
        bail!("interrupted; everything is taken away again");
    };
    let text = results.to_string();
    if options.json {
        write!(io::stderr(), "{text}")?;
        println!("{}", serde_json::to_string(&results.figures())?);
    } else {
        write!(io::stdout(), "{text}")?;
    }
    Ok(())
}

/// `None` if it was interrupted.
fn measure(
    options: &Options,
    stage: &mut Stage<'_>,
    clients_place: Place<'_>,
    interrupt: &Interrupt,
) -> Result<Option<Results>> {
    let mut results = Results::default();
    for going in Going::ALL {
        progress(&format!("{} failovers: the leader {going}", options.times));
        stage.prepare(going)?;
        let failovers = thread::scope(|scope| {
            let clients = Clients::start(scope, clients_place, going);
            let watcher = Watcher::new(&clients, interrupt);
            (0..options.times)
                .map(|_| watcher.failover(stage))
                .collect::<Result<Option<Vec<_>>>>()
        })?;
        let Some(failovers) = failovers else {
            return Ok(None);
        };
        results.add(going, &failovers);
    }
    Ok(Some(results))
}

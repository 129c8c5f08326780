//! `cargo xtask bench k8s-failover`: how long a leader service of a cluster is without a leader when
//! the leader's pod is deleted.
//!
//! The pods are servers in network namespaces; all that the agent hears of them comes from an API
//! server of the tests'. Clients hammer the cluster IP meanwhile. Timed from when the API server has
//! told that the pod goes, to the end of the first request that its successor serves. Called by
//! `bench`.

mod stage;

use std::{
    io::{self, Write},
    thread,
};

use anyhow::{Result, bail};
use tests::{cgroup::Cgroup, place::Place, topology::Topology};

use self::stage::{NAMESPACES, Stage};
use super::failover::{
    Going,
    client::Clients,
    results::{Summary, heading, reference},
    round::Watcher,
};
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
    /// Failovers
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    times: u32,
}

/// Runs the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = preflight::prepare(&Needs {
        command: "bench k8s-failover",
        tools: &[("ip", "iproute2")],
    })?;
    let interrupt = Interrupt::listen()?;
    progress("starting the API server, pods and the agent");
    let (topology, cgroup) = (
        Topology::new(NAMESPACES, 1)?,
        Cgroup::threaded("k8s-failover")?,
    );
    let mut stage = Stage::set(&binary, &topology, &cgroup)?;
    let clients_place = Place::new(&topology.clients[0].netns, &cgroup);
    let outcome = measure(options.times, &mut stage, clients_place, &interrupt);
    stage.strike()?;
    let Some(summary) = outcome? else {
        bail!("interrupted; everything is taken away again");
    };
    let text = table(&summary);
    if options.json {
        write!(io::stderr(), "{text}")?;
        println!("{}", serde_json::to_string(&summary.figures())?);
    } else {
        write!(io::stdout(), "{text}")?;
    }
    Ok(())
}

/// `None` if it was interrupted.
fn measure(
    times: u32,
    stage: &mut Stage<'_>,
    clients_place: Place<'_>,
    interrupt: &Interrupt,
) -> Result<Option<Summary>> {
    progress(&format!("{times} failovers: the leader's pod is deleted"));
    let failovers = thread::scope(|scope| {
        let clients = Clients::start(scope, clients_place, Going::Deleted);
        let watcher = Watcher::new(&clients, interrupt);
        (0..times)
            .map(|_| watcher.failover(stage))
            .collect::<Result<Option<Vec<_>>>>()
    })?;
    Ok(failovers.map(|failovers| Summary::of(&failovers)))
}

fn table(summary: &Summary) -> String {
    let (heading, reference) = (heading("deletion's being told"), reference());
    let how = format!("has its pod deleted ({}×)", summary.times);
    let (troubles, verdicts) = (summary.troubles("has its pod deleted"), summary.verdicts());
    format!("{heading}\n  {how:<34}{summary}\n{reference}\n{troubles}{verdicts}")
}

//! `cargo xtask bench sync`: how fast a large cluster, and each change in it, reaches the kernel, and
//! what that costs the agent.
//!
//! The cluster is an API server of the tests' with functions whose pods do not exist: nothing is
//! dialled. The agent is a process of its own. What is in the kernel is read from the kernel's maps,
//! not asked of the agent. Called by `bench`.

mod kernel;
mod memory;
mod results;
mod stage;
mod steps;

use std::io::{self, Write};

use anyhow::{Result, bail};
use tests::{cgroup::Cgroup, netns::Netns};

use self::{
    results::Results,
    stage::Stage,
    steps::{one_at_a_time, sustained},
};
use crate::{
    preflight::{self, Interrupt, Needs},
    process::progress,
};

/// How much.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object as the last line; all else goes to standard error
    #[arg(long)]
    json: bool,
    /// Services
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=16_000))]
    services: u32,
    /// Backends of each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=64))]
    backends: u32,
    /// Endpoint changes that are timed, one at a time
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    changes: u32,
    /// Changes a second, when it is sustained
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// For how long that is
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,
}

/// Runs the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    let backends = u64::from(options.services) * u64::from(options.backends);
    if backends + 1_000 > u64::from(balancer_common::maps::MAX_BACKENDS) {
        bail!(
            "{backends} backends do not fit into the kernel's maps, which have room for {}\n\
             what to do: ask for fewer --services or --backends",
            balancer_common::maps::MAX_BACKENDS
        );
    }
    let binary = preflight::prepare(&Needs {
        command: "bench sync",
        tools: &[("ip", "iproute2")],
    })?;
    let interrupt = Interrupt::listen()?;
    let (services, each) = (options.services, options.backends);
    progress(&format!(
        "filling the API server: {services} services with {each} backends each"
    ));
    let (netns, cgroup) = (Netns::new()?, Cgroup::threaded("sync")?);
    let mut stage = Stage::set(&binary, &netns, &cgroup, services, each)?;
    let outcome = measure(options, &mut stage, &interrupt);
    stage.strike()?;
    let results = match outcome {
        Err(_) if interrupt.came() => bail!("interrupted; everything is taken away again"),
        outcome => outcome?,
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

/// Fails if it is interrupted.
fn measure(options: &Options, stage: &mut Stage<'_>, interrupt: &Interrupt) -> Result<Results> {
    let stop_if_asked = || match interrupt.came() {
        true => bail!("interrupted"),
        false => Ok(()),
    };
    progress("starting the agent, which syncs");
    let first = stage.first_sync(&stop_if_asked)?;
    let changes = options.changes;
    progress(&format!("changing one endpoint, {changes} times"));
    let one = one_at_a_time(stage, changes, &stop_if_asked)?;
    let (rate, seconds) = (options.rate, options.seconds);
    progress(&format!("{rate} changes a second, for {seconds} s"));
    let sustained = sustained(stage, rate, seconds, &stop_if_asked)?;
    let at_end = stage.agent_memory()?;
    Ok(Results {
        services: options.services,
        backends: options.backends,
        first,
        one,
        sustained,
        at_end,
    })
}

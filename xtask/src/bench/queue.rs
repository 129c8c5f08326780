//! `cargo xtask bench queue`: how fast a freed slot reaches the first waiter, and how many are
//! refused under Poisson load, beside one central queue (simulated) and random steering, which get
//! the same arrivals and the same work.
//!
//! Called by `bench`.

mod poisson;
mod results;
mod server;
mod stage;
mod wake;

use std::io::{self, Write};

use anyhow::{Result, bail};

use self::{results::Results, stage::Stage};
use crate::{
    preflight::{self, Interrupt, Needs},
    process::progress,
};

/// Shares of what the backends can do.
const UTILISATIONS: [f64; 3] = [0.5, 0.7, 0.9];

/// How long to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object as the last line; all else goes to standard error
    #[arg(long)]
    json: bool,
    /// How long each of the three loads goes on
    #[arg(long, default_value_t = 45, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Slots that are freed with somebody waiting
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    wakes: u32,
    /// Of the random arrivals: the same seed gives the same load
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = preflight::prepare(&Needs {
        command: "bench queue",
        tools: &[("ip", "iproute2")],
    })?;
    let interrupt = Interrupt::listen()?;
    progress("starting servers and the agent");
    let stage = Stage::set(&binary)?;
    let outcome = measure(options, &stage, &interrupt);
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
fn measure(options: &Options, stage: &Stage, interrupt: &Interrupt) -> Result<Results> {
    let stop_if_asked = || match interrupt.came() {
        true => bail!("interrupted"),
        false => Ok(()),
    };
    progress(&format!("freeing a slot {} times", options.wakes));
    let wakes = wake::measure(stage, options.wakes, &stop_if_asked)?;
    let mut cases = Vec::new();
    for utilisation in UTILISATIONS {
        let seconds = options.seconds;
        progress(&format!(
            "sending {:.0} % of what the backends can do, for {seconds} s",
            utilisation * 100.0
        ));
        let load = poisson::load(utilisation, options);
        cases.push(poisson::measure(stage, utilisation, &load, &stop_if_asked)?);
    }
    Ok(Results { wakes, cases })
}

//! `cargo xtask bench strategies`: what the connect program costs under each strategy, and how that
//! grows with the number of backends, by the kernel's own statistics.
//!
//! All strategies and sizes alternate in short rounds within one run, so that whatever else the
//! machine does falls on all of them. Called by `bench`.

mod results;
mod stage;

use std::{
    io::{self, Write},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Result, bail};

use self::{
    results::Results,
    stage::{Stage, Variant},
};
use super::{
    connect::{
        dialler::{Dialler, Order, Standing},
        program::{CONNECT, Counting},
    },
    cpu,
    report::Samples,
};
use crate::{
    preflight::{self, Interrupt, Needs},
    process::progress,
};

/// Connects before those that are counted: round-robin has then been at every backend.
const WARM_UP: usize = 1_000;
/// Connects of a variant in one round over which the kernel counts.
const COUNTED: usize = 1_000;

/// How long to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object as the last line; all else goes to standard error
    #[arg(long)]
    json: bool,
    /// Rounds; in each, every variant dials 2,000 times
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(3..=1_000))]
    rounds: u32,
}

/// Runs the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = preflight::prepare(&Needs {
        command: "bench strategies",
        tools: &[("ip", "iproute2")],
    })?;
    let interrupt = Interrupt::listen()?;
    let (client_cpu, servers_cpu) = cpu::cpus()?;
    progress("starting servers, and an agent with services of up to 1,000 backends");
    let stage = Stage::set(&binary, servers_cpu)?;
    let bench = Bench {
        stage: &stage,
        interrupt: &interrupt,
        rounds: options.rounds,
        client_cpu,
    };
    let outcome = bench.measure();
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

struct Bench<'b> {
    stage: &'b Stage,
    interrupt: &'b Interrupt,
    rounds: u32,
    client_cpu: usize,
}

impl Bench<'_> {
    /// `None` if it was interrupted.
    fn measure(&self) -> Result<Option<Results>> {
        thread::scope(|scope| {
            let standing = Standing {
                netns: &self.stage.netns,
                cgroup: Some(&self.stage.cgroup),
                cpu: self.client_cpu,
            };
            let dialler = Dialler::start(scope, standing);
            // The services that are to have no idle backend keep theirs busy until the end.
            let _held = self.stage.fill()?;
            self.count(&dialler)
        })
    }

    /// All variants in every round, each time beginning with another one.
    fn count(&self, dialler: &Dialler) -> Result<Option<Results>> {
        let mut variants = Variant::all();
        let mut results = Results::default();
        let counting = Counting::start()?;
        progress(&format!(
            "counting: {} rounds of {} variants",
            self.rounds,
            variants.len()
        ));
        for round in 0..self.rounds {
            for variant in &variants {
                if self.interrupt.came() {
                    return Ok(None);
                }
                let ns = self.connect_ns(&counting, dialler, variant)?;
                let samples: &mut Samples = results.of(variant.state);
                samples.push(ns);
            }
            variants.rotate_left(7);
            if (round + 1) % (self.rounds / 3).max(1) == 0 {
                progress(&format!("round {} of {}", round + 1, self.rounds));
            }
        }
        Ok(Some(results))
    }

    /// Of the connect program, on average over one round.
    fn connect_ns(&self, counting: &Counting, dialler: &Dialler, variant: &Variant) -> Result<f64> {
        let targets = variant.targets();
        dialler.dial(Order {
            targets: Arc::clone(&targets),
            first: 0,
            count: WARM_UP,
            pause: Duration::ZERO,
        })?;
        let times = counting.measure(&self.stage.agent, dialler, &targets, COUNTED)?;
        Ok(times[CONNECT].ns())
    }
}

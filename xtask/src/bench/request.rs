//! `cargo xtask bench request`: admission `request` beside nginx, HAProxy and Envoy as they do the
//! same job: HTTP over kept connections to ten backends of which each serves one request at a time.
//!
//! All take turns in short slices of one run, one worker each, on a CPU of their own. What counts
//! is requests for each second of the proxy's own CPU time. Called by `bench`.

mod backend;
mod client;
mod install;
mod ours;
mod peer;
mod results;
mod settings;
mod stage;

use std::io::{self, Write};

use anyhow::{Context, Result, bail};

use self::{
    client::Job,
    results::{Results, Slice},
    stage::Stage,
};
use crate::{
    preflight::{self, Interrupt, Needs},
    process::progress,
};

/// How long to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object as the last line; all else goes to standard error
    #[arg(long)]
    json: bool,
    /// Rounds; in each, every proxy has its turn at every load
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(3..=1_000))]
    rounds: u32,
}

/// A load that all proxies get.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    /// As many connections as there are slots; the backends answer at once.
    Carried,
    /// Four times as many; the backends take a millisecond.
    Overload,
}

const CASES: [Case; 2] = [Case::Carried, Case::Overload];

impl Case {
    fn job(self) -> Job {
        match self {
            Self::Carried => Job {
                connections: 10,
                request: b"GET /?work_us=0 HTTP/1.1\r\nhost: bench.example\r\nuser-agent: bench\r\naccept: */*\r\n\r\n",
            },
            Self::Overload => Job {
                connections: 40,
                request: b"GET /?work_us=1000 HTTP/1.1\r\nhost: bench.example\r\nuser-agent: bench\r\naccept: */*\r\n\r\n",
            },
        }
    }
}

/// Runs the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = preflight::prepare(&Needs {
        command: "bench request",
        tools: &[
            ("ip", "iproute2"),
            ("nginx", "nginx-light"),
            ("haproxy", "haproxy"),
            ("python3", "python3"),
        ],
    })?;
    let envoy = install::envoy()?;
    let interrupt = Interrupt::listen()?;
    progress("starting backends, the agent, nginx, HAProxy and Envoy");
    let stage = Stage::set(&binary, &envoy)?;
    let outcome = measure(options, &stage, &interrupt);
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

/// All proxies in every round, each time beginning with another one. `None` if it was interrupted.
fn measure(options: &Options, stage: &Stage, interrupt: &Interrupt) -> Result<Option<Results>> {
    let mut results = Results::default();
    let mut proxies: Vec<_> = stage.proxies().collect();
    progress(&format!(
        "asking: {} rounds of {} proxies",
        options.rounds,
        proxies.len()
    ));
    for round in 0..options.rounds {
        for case in CASES {
            for proxy in &proxies {
                if interrupt.came() {
                    return Ok(None);
                }
                let slice = take_slice(stage, *proxy, case)
                    .with_context(|| format!("{} under {case:?} load", proxy.name()))?;
                results.push(case, proxy.name(), slice);
            }
        }
        proxies.rotate_left(1);
        if (round + 1) % (options.rounds / 3).max(1) == 0 {
            progress(&format!("round {} of {}", round + 1, options.rounds));
        }
    }
    Ok(Some(results))
}

fn take_slice(stage: &Stage, proxy: stage::Proxy<'_>, case: Case) -> Result<Slice> {
    let measured = client::measure(stage, proxy, case.job())?;
    stage.check_limits()?;
    Ok(measured)
}

//! `cargo xtask demo`: function servers, an agent and clients on one machine, to be watched.
//!
//! Runs the same seeded load twice, through the balancer and with random steering, shows both side
//! by side, and fails if a pod was ever given more than its limit, a request failed, or a slot was
//! not given back. Leaves nothing behind; what a killed run left is taken away by the next one.
//! Called by `main`.

mod arrivals;
mod client;
mod figures;
mod live;
mod request;
mod stage;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Result, bail};
use tests::{agent::Agent, function::Function};

use self::{
    arrivals::Load,
    client::{Steering, Task},
    figures::Figures,
    live::Live,
    stage::{FRONTEND, Stage},
};
use crate::preflight::{self, Interrupt, Needs};

/// What the demo shows.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// How long the load goes on, for each of the two ways of steering
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Function servers
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u16).range(1..=250))]
    backends: u16,
    /// Requests that each of them serves at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=65535))]
    max_inflight: u32,
    /// Requests per second, over all clients
    #[arg(long, default_value_t = 250.0, allow_negative_numbers = true, value_parser = |text: &str| positive(text, 20_000.0))]
    rate: f64,
    /// Mean time that a request takes, in milliseconds
    #[arg(long, default_value_t = 20.0, allow_negative_numbers = true, value_parser = |text: &str| positive(text, 60_000.0))]
    work_ms: f64,
    /// Print one JSON object as the last line; the live view goes to standard error
    #[arg(long)]
    json: bool,
    /// Leave everything running at the end until Ctrl-C, and print how to look at it
    #[arg(long)]
    keep: bool,
    /// Of the random arrivals: the same seed gives the same load
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The demo's own: be the clients instead
    #[arg(long, hide = true, value_name = "TASK")]
    as_client: Option<String>,
}

/// Runs the demo.
pub(crate) fn run(options: Options) -> Result<()> {
    if let Some(task) = &options.as_client {
        return client::run(task);
    }
    announce(&options)?;
    let binary = preflight::prepare(&Needs {
        command: "demo",
        tools: &[("ip", "iproute2")],
    })?;
    let interrupt = Interrupt::listen()?;
    let outcome = show(&options, binary, &interrupt);
    if interrupt.came() && !matches!(outcome, Ok(Verdict::Complete(_))) {
        bail!("interrupted; everything is taken away again");
    }
    match outcome? {
        Verdict::Complete(failures) if failures.is_empty() => Ok(()),
        Verdict::Complete(failures) => bail!("{}", failures.join("\n")),
        Verdict::Interrupted => bail!("interrupted; everything is taken away again"),
    }
}

/// How far the demo came.
enum Verdict {
    /// To the end, with these reasons for complaint.
    Complete(Vec<String>),
    Interrupted,
}

fn show(options: &Options, binary: PathBuf, interrupt: &Interrupt) -> Result<Verdict> {
    let count = options.backends;
    say(
        options,
        format_args!("Starting {count} function servers and the agent…"),
    )?;
    let stage = Stage::set(options, binary)?;
    say(options, format_args!("{}", stage.picture()))?;
    let verdict = perform_both(options, &stage, interrupt)?;
    if options.keep && matches!(verdict, Verdict::Complete(_)) {
        say(options, format_args!("{}", stage.how_to_look()))?;
        interrupt.wait();
    }
    stage.strike()?;
    Ok(verdict)
}

fn perform_both(options: &Options, stage: &Stage, interrupt: &Interrupt) -> Result<Verdict> {
    let Some(balanced) = perform(options, stage, Steering::Frontend(FRONTEND), interrupt)? else {
        return Ok(Verdict::Interrupted);
    };
    let mut failures = balanced.failures();
    match stage.settle() {
        Ok(()) => say(
            options,
            format_args!("Every counter is back at 0, in the kernel and at the servers."),
        )?,
        Err(error) => failures.push(format!("{error:#}")),
    }
    let pods = stage.functions.iter().map(Function::address).collect();
    let Some(random) = perform(options, stage, Steering::Random(pods), interrupt)? else {
        return Ok(Verdict::Interrupted);
    };
    let table = figures::side_by_side(&balanced, &random);
    say(options, format_args!("{table}"))?;
    if options.json {
        println!("{}", balanced.json(&random)?);
    }
    Ok(Verdict::Complete(failures))
}

/// One of the two runs; `None` if it was interrupted.
fn perform(
    options: &Options,
    stage: &Stage,
    steering: Steering,
    interrupt: &Interrupt,
) -> Result<Option<Figures>> {
    let (title, agent): (&str, Option<&Agent>) = match &steering {
        Steering::Frontend(_) => ("Steered by Idlefirst, in the kernel", Some(&stage.agent)),
        Steering::Random(_) => ("The same arrivals, a pod drawn at random for each", None),
    };
    say(options, format_args!("\n{title}, {} s:", options.seconds))?;
    for function in &stage.functions {
        function.reset();
    }
    let mut client = stage.clients(&Task {
        steering,
        load: options.load(),
    })?;
    let mut live = Live::new(options.json);
    let outcome = loop {
        if interrupt.came() {
            return Ok(None);
        }
        let progress = client.progress();
        live.show(&stage.functions, agent, &progress.tally)?;
        if let Some(outcome) = client.outcome()? {
            live.show_last(&stage.functions, agent, &outcome.tally)?;
            break outcome;
        }
        std::thread::sleep(live.pause());
    };
    Ok(Some(Figures::new(
        outcome,
        &stage.functions,
        options.max_inflight,
    )))
}

impl Options {
    fn load(&self) -> Load {
        Load {
            seed: self.seed,
            rate: self.rate,
            duration: Duration::from_secs(self.seconds),
            mean_work: self.mean_work(),
        }
    }

    fn mean_work(&self) -> Duration {
        Duration::from_secs_f64(self.work_ms / 1000.0)
    }
}

fn announce(options: &Options) -> Result<()> {
    let Options {
        backends,
        max_inflight,
        rate,
        work_ms,
        seconds,
        ..
    } = options;
    let slots = f64::from(*backends) * f64::from(*max_inflight);
    let busy = rate * work_ms / 1000.0 / slots * 100.0;
    say(
        options,
        format_args!(
            "Idlefirst demo: {backends} function servers that serve {max_inflight} request(s) at once each,\n\
             every one in its own network namespace. Clients dial {FRONTEND}; the kernel sends each\n\
             connection to an idle server. {rate} requests/s (Poisson) of {work_ms} ms mean work, for {seconds} s:\n\
             {busy:.0} % of what the servers can do. Then the same arrivals with random steering.\n\
             Expect: no server ever above its limit, and a connect refused only when every server is full\n\
             (this version has no queue); random steering runs into full servers far more often.\n"
        ),
    )
}

/// For the person who watches: on standard output unless that is for programs.
fn say(options: &Options, text: std::fmt::Arguments<'_>) -> Result<()> {
    if options.json {
        writeln!(io::stderr(), "{text}")?;
    } else {
        writeln!(io::stdout(), "{text}")?;
    }
    Ok(())
}

fn positive(text: &str, at_most: f64) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number > 0.0 && number <= at_most {
        Ok(number)
    } else {
        Err(format!("must be above 0 and at most {at_most}"))
    }
}

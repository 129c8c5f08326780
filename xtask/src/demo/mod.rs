//! `cargo xtask demo`: function servers, an agent and clients on one machine, to be watched.
//!
//! Runs the same seeded load through the balancer, through a simulation of one central queue, and
//! with random steering, and shows them side by side. Fails if a pod was ever given more than its
//! limit, a request failed, more were refused than the central queue would have refused, or a slot
//! was not given back. Leaves nothing behind; what a killed run left is taken away by the next one.
//! Called by `main`.

mod client;
mod figures;
mod live;
mod options;
mod stage;
mod strategy;
mod waiting;

use std::{
    io::{self, Write},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tests::function::{Function, Health};

pub(crate) use self::options::Options;
use self::{
    client::{Steering, Task},
    figures::{Comparison, Figures},
    live::{Inside, Live},
    options::Admission,
    stage::{FRONTEND, Stage},
    waiting::{QueueState, Watch},
};
use crate::{
    load::Excess,
    preflight::{self, Interrupt, Needs},
};

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
    let watch = Watch::start(&stage.agent)?;
    let Some(balanced) = perform(options, stage, Some(&watch), interrupt)? else {
        return Ok(Verdict::Interrupted);
    };
    let waiters_peak = watch.stop()?;
    let settled = stage.settle();
    if settled.is_ok() {
        say(
            options,
            format_args!(
                "Every counter is back at 0, in the kernel, in the agent and at the servers."
            ),
        )?;
    }
    let queued = QueueState::of(&stage.agent)?.queued;
    let Some(random) = perform(options, stage, None, interrupt)? else {
        return Ok(Verdict::Interrupted);
    };
    let central = options.central_queue().simulate(&options.load())?;
    let excess = Excess::of(balanced.outcome(), &central, options.duration());
    let waiting = (queued, waiters_peak);
    let comparison = Comparison::new(
        options.strategy,
        balanced,
        waiting,
        (central, excess),
        random,
    );
    say(options, format_args!("\n{}", comparison.table()))?;
    if options.json {
        println!("{}", comparison.json()?);
    }
    let mut failures = comparison.failures();
    failures.extend(settled.err().map(|error| format!("{error:#}")));
    Ok(Verdict::Complete(failures))
}

/// One of the two runs: through the balancer if its queue is watched. `None` if it was interrupted.
fn perform(
    options: &Options,
    stage: &Stage,
    watch: Option<&Watch>,
    interrupt: &Interrupt,
) -> Result<Option<Figures>> {
    let pods = || stage.functions.iter().map(Function::address).collect();
    let (title, steering) = match watch {
        Some(_) => ("Steered by Idlefirst", Steering::Frontend(FRONTEND)),
        None => (
            "The same arrivals, a pod drawn at random for each",
            Steering::Random(pods()),
        ),
    };
    let inside = watch.map(|watch| Inside {
        agent: &stage.agent,
        watch,
    });
    say(options, format_args!("\n{title}, {} s:", options.seconds))?;
    for function in &stage.functions {
        function.set_health(Health::Healthy);
        function.reset();
    }
    let mut client = stage.clients(&Task {
        steering,
        load: options.load(),
        keep_alive: options.admission == Admission::Request,
        namespaces: stage.namespaces(),
    })?;
    let mut live = Live::new(options.json);
    let mut acts = inside.map_or_else(Vec::new, |_| acts(options));
    let begun = Instant::now();
    let outcome = loop {
        if interrupt.came() {
            return Ok(None);
        }
        if let Some((_, act)) = acts.pop_if(|(due, _)| begun.elapsed() >= *due)
            && let Some(note) = act(stage)?
        {
            live.note(&note)?;
        }
        live.show(&stage.functions, inside, &client.tally())?;
        if let Some(outcome) = client.outcome()? {
            live.show_last(&stage.functions, inside, &outcome.tally)?;
            break outcome;
        }
        std::thread::sleep(live.pause());
    };
    let figures = Figures::new(
        outcome,
        &stage.functions,
        options.strategy,
        options.max_inflight(),
    );
    Ok(Some(figures))
}

/// Something done while the load runs; says what.
type Act = fn(&Stage) -> Result<Option<String>>;

/// What is done when, the last first.
fn acts(options: &Options) -> Vec<(Duration, Act)> {
    let mut acts: Vec<(Duration, Act)> = vec![(options.duration() * 3 / 4, Stage::choice)];
    if options.strategy.loses_its_leader() {
        acts.push((options.duration() / 2, Stage::make_leader_ill));
    }
    acts
}

fn announce(options: &Options) -> Result<()> {
    let Options {
        backends,
        strategy,
        rate,
        work_ms,
        seconds,
        queue_size,
        queue_timeout_ms,
        ..
    } = options;
    let busy = options.utilisation() * 100.0;
    let max_inflight = options.max_inflight();
    let expectation = strategy.expectation();
    let can = match strategy.serving(*backends) {
        1 => "that serve at a time (one) can",
        _ => "can",
    };
    let way = match options.admission {
        Admission::Connection => {
            "the kernel sends each\n\
             connection to a server that has a slot, and to the agent's queue if there is none."
        }
        Admission::Request => {
            "the kernel sends their\n\
             connections, which they keep, to the agent, and that each request to a server that has a slot."
        }
    };
    say(
        options,
        format_args!(
            "Idlefirst demo: {backends} function servers that serve {max_inflight} request(s) at once each,\n\
             every one in its own network namespace. Clients dial {FRONTEND}; {way}\n\
             {rate} requests/s (Poisson) of {work_ms} ms mean work, for {seconds} s: {busy:.0} % of what the servers\n\
             {can} do. At most {queue_size} wait, at most {queue_timeout_ms} ms. Then the same arrivals with random\n\
             steering, and through one central queue, simulated.\n\
             Strategy {strategy}: {expectation}.\n\
             Expect: no server ever above its limit, and as few refused as that central queue refuses;\n\
             random steering, where slots are few, runs into full servers all the time.\n"
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

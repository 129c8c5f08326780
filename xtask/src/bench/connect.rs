//! `cargo xtask bench connect`: what steering adds to a `connect()`, against going straight and
//! against iptables; how that grows with backends and services; and the bytes afterwards.
//!
//! Variants alternate in many short rounds within one run, so that whatever else the machine does
//! falls on all of them. Called by `bench`.

mod bytes;
pub(super) mod dialler;
pub(super) mod program;
mod results;
pub(super) mod server;
mod stage;

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    thread::{self, Scope},
    time::Duration,
};

use anyhow::{Result, bail};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};

use self::{
    dialler::{Dialler, Order, Standing},
    program::{Counting, RunTimes},
    results::{Dialled, Results, Way},
    server::{Server, Wait},
    stage::{
        FEW_SERVICES, LIMITED, MANY_SERVICES, Stage, TRANSLATED, Targets, UNLIMITED, WIDE,
        limited_backends, numbered_backends, numbered_frontends, targets, wide_backends,
    },
};
use super::{
    cpu,
    report::{Samples, quantile},
};
use crate::{
    preflight::{self, Interrupt, Needs},
    process::progress,
};

/// Connects of a variant in one round that are counted.
const CONNECTS_PER_ROUND: usize = 200;
/// Connects before them, which find cold caches, or the server still in its other state.
const WARM_UP: usize = 50;
/// Between two connects to a server that is to fall asleep.
const SLEEP_PAUSE: Duration = Duration::from_micros(20);
/// Connects over which the kernel counts the programs' run time.
const COUNTED_CONNECTS: usize = 20_000;

/// How long to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object as the last line; all else goes to standard error
    #[arg(long)]
    json: bool,
    /// Rounds; in each, every variant dials 200 times a server that sleeps, and one that is awake
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    rounds: u32,
}

/// Runs the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = preflight::prepare(&Needs {
        command: "bench connect",
        tools: &[("ip", "iproute2"), ("iptables-restore", "iptables")],
    })?;
    let interrupt = Interrupt::listen()?;
    let (client_cpu, servers_cpu) = cpu::cpus()?;
    progress("starting servers and three agents, one of them with 10,000 services");
    let stage = Stage::set(&binary, servers_cpu)?;
    let bench = Bench {
        options,
        stage: &stage,
        interrupt: &interrupt,
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
    options: &'b Options,
    stage: &'b Stage,
    interrupt: &'b Interrupt,
    client_cpu: usize,
}

struct Variant<'d> {
    way: Way,
    dialler: &'d Dialler,
    /// Of all targets.
    server: &'d Server,
    targets: Targets,
    /// How many were dialled.
    dialled: usize,
    /// Microseconds, the median of a round each.
    asleep: Samples,
    awake: Samples,
}

/// The threads that dial, each in its place.
struct Diallers {
    inside: Dialler,
    outside: Dialler,
    filtered: Dialler,
    few: Dialler,
    many: Dialler,
}

impl Bench<'_> {
    /// `None` if it was interrupted.
    fn measure(&self) -> Result<Option<Results>> {
        let (connects, programs) = thread::scope(|scope| -> Result<_> {
            let diallers = self.diallers(scope);
            let mut variants = diallers.variants(self.stage);
            self.rounds(&mut variants)?;
            let samples = variants.into_iter().flat_map(Variant::into_samples);
            Ok((samples.collect(), self.program_times(&diallers)?))
        })?;
        if self.interrupt.came() {
            return Ok(None);
        }
        progress("sending bytes");
        let throughput = bytes::measure(self.stage, self.client_cpu, &|| self.interrupt.came())?;
        if self.interrupt.came() {
            return Ok(None);
        }
        Ok(Some(Results {
            connects,
            throughput,
            programs,
        }))
    }

    fn diallers<'s>(&'s self, scope: &'s Scope<'s, '_>) -> Diallers {
        let stage = self.stage;
        let start = |netns, cgroup| {
            let cpu = self.client_cpu;
            Dialler::start(scope, Standing { netns, cgroup, cpu })
        };
        Diallers {
            inside: start(&stage.plain, Some(&stage.cgroup)),
            outside: start(&stage.plain, None),
            filtered: start(&stage.filtered, Some(&stage.cgroup)),
            few: start(&stage.plain, Some(&stage.few_cgroup)),
            many: start(&stage.plain, Some(&stage.many_cgroup)),
        }
    }

    /// All variants in every round, each time beginning with another one.
    fn rounds(&self, variants: &mut [Variant<'_>]) -> Result<()> {
        let rounds = self.options.rounds;
        progress(&format!(
            "dialling: {rounds} rounds of {} variants",
            variants.len()
        ));
        for round in 0..rounds {
            if self.interrupt.came() {
                return Ok(());
            }
            for wait in [Wait::Asleep, Wait::Awake] {
                for variant in variants.iter_mut() {
                    variant.dial(wait)?;
                }
            }
            variants.rotate_left(1);
            if (round + 1) % (rounds / 3).max(1) == 0 {
                progress(&format!("round {} of {rounds}", round + 1));
            }
        }
        Ok(())
    }

    /// Of all programs, by what was dialled.
    fn program_times(&self, diallers: &Diallers) -> Result<Vec<(Dialled, RunTimes)>> {
        if self.interrupt.came() {
            return Ok(Vec::new());
        }
        progress("counting the programs' run time");
        let stage = self.stage;
        let (own, inside) = (&stage.agent, &diallers.inside);
        let counting = Counting::start()?;
        let count = |what, agent, dialler, targets: &Targets| {
            let times = counting.measure(agent, dialler, targets, COUNTED_CONNECTS)?;
            Ok((what, times))
        };
        [
            (Dialled::FewBackends, own, inside, vec![LIMITED]),
            (Dialled::ManyBackends, own, inside, vec![WIDE]),
            (
                Dialled::FewServices,
                &stage.few,
                &diallers.few,
                few_frontends(),
            ),
            (
                Dialled::ManyServices,
                &stage.many,
                &diallers.many,
                many_frontends(),
            ),
        ]
        .iter()
        .map(|(what, agent, dialler, dialled)| count(*what, agent, dialler, &targets(dialled)))
        .collect()
    }
}

impl Diallers {
    fn variants<'d>(&'d self, stage: &'d Stage) -> [Variant<'d>; 11] {
        let inside = |way, addresses: &[SocketAddr]| {
            Variant::new(way, &self.inside, &stage.plain_server, targets(addresses))
        };
        let elsewhere = |way, dialler, addresses: &[SocketAddr]| {
            Variant::new(way, dialler, &stage.plain_server, targets(addresses))
        };
        let filtered = |way, address| {
            let server = &stage.filtered_server;
            Variant::new(way, &self.filtered, server, targets(&[address]))
        };
        let backends = limited_backends();
        let all_backends = shuffled(numbered_backends(MANY_SERVICES));
        let (few, many) = (few_frontends(), many_frontends());
        [
            inside(Way::Straight, &backends),
            elsewhere(Way::StraightOutside, &self.outside, &backends),
            inside(Way::StraightWide, &wide_backends()),
            inside(Way::StraightMany, &all_backends),
            inside(Way::Limited, &[LIMITED]),
            inside(Way::Unlimited, &[UNLIMITED]),
            inside(Way::Wide, &[WIDE]),
            filtered(Way::Iptables, TRANSLATED),
            filtered(Way::BesideIptables, LIMITED),
            elsewhere(Way::FewServices, &self.few, &few),
            elsewhere(Way::ManyServices, &self.many, &many),
        ]
    }
}

impl<'d> Variant<'d> {
    fn new(way: Way, dialler: &'d Dialler, server: &'d Server, targets: Targets) -> Self {
        Self {
            way,
            dialler,
            server,
            targets,
            dialled: 0,
            asleep: Samples::default(),
            awake: Samples::default(),
        }
    }

    /// One round's.
    fn dial(&mut self, wait: Wait) -> Result<()> {
        let (samples, pause) = match wait {
            Wait::Asleep => (&mut self.asleep, SLEEP_PAUSE),
            Wait::Awake => (&mut self.awake, Duration::ZERO),
        };
        let order = Order {
            targets: Arc::clone(&self.targets),
            first: self.dialled,
            count: WARM_UP + CONNECTS_PER_ROUND,
            pause,
        };
        self.dialled += order.count;
        self.server.set_wait(wait)?;
        let times = self.dialler.dial(order)?;
        // Two that poll would share their CPU.
        self.server.set_wait(Wait::Asleep)?;
        let counted = times[WARM_UP..].iter();
        let mut micros: Vec<_> = counted.map(|time| time.as_secs_f64() * 1e6).collect();
        samples.push(quantile(&mut micros, 0.5));
        Ok(())
    }

    fn into_samples(self) -> [((Wait, Way), Samples); 2] {
        [
            ((Wait::Asleep, self.way), self.asleep),
            ((Wait::Awake, self.way), self.awake),
        ]
    }
}

fn few_frontends() -> Vec<SocketAddr> {
    shuffled(numbered_frontends(FEW_SERVICES))
}

fn many_frontends() -> Vec<SocketAddr> {
    shuffled(numbered_frontends(MANY_SERVICES))
}

/// In an order that no cache foresees, the same in every run.
fn shuffled(mut addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    addresses.shuffle(&mut SmallRng::seed_from_u64(1));
    addresses
}

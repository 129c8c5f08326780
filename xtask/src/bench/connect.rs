//! `cargo xtask bench connect`: what steering adds to a `connect()`, against going straight and
//! against iptables; how that grows with backends and services; and the bytes afterwards.
//!
//! Variants alternate in many short rounds within one run, so that whatever else the machine does
//! falls on all of them. Called by `bench`.

mod bytes;
mod dialler;
mod program;
mod results;
mod server;
mod stage;

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::SocketAddr,
    thread::{self, Scope},
};

use anyhow::{Result, bail};
use rand::{SeedableRng, rngs::SmallRng, seq::SliceRandom};

use self::{
    dialler::{Dialler, Standing},
    program::{Counting, RunTimes},
    results::{Dialled, Results, Way},
    stage::{
        FEW_SERVICES, LIMITED, MANY_SERVICES, Stage, TRANSLATED, Targets, UNLIMITED, WIDE,
        limited_backends, numbered_backends, numbered_frontends, targets, wide_backends,
    },
};
use super::report::{Samples, quantile};
use crate::{
    preflight::{self, Interrupt, Needs},
    process::progress,
};

/// Connects of a variant in one round that are counted.
const CONNECTS_PER_ROUND: usize = 200;
/// Connects before them, which find cold caches.
const WARM_UP: usize = 50;
/// Connects over which the kernel counts the programs' run time.
const COUNTED_CONNECTS: usize = 20_000;

/// How long to measure.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object as the last line; all else goes to standard error
    #[arg(long)]
    json: bool,
    /// Rounds; in each, every variant dials 200 times
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u32).range(3..=10_000))]
    rounds: u32,
}

/// Runs the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = preflight::prepare(&Needs {
        command: "bench connect",
        tools: &[("ip", "iproute2"), ("iptables-restore", "iptables")],
    })?;
    let interrupt = Interrupt::listen()?;
    let (client_cpu, servers_cpu) = dialler::cpus()?;
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
    targets: Targets,
    /// How many were dialled.
    dialled: usize,
    /// Microseconds, the median of a round each.
    samples: Samples,
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
            let mut variants = diallers.variants();
            self.rounds(&mut variants)?;
            let samples = variants.map(|variant| (variant.way, variant.samples));
            Ok((BTreeMap::from(samples), self.program_times(&diallers)?))
        })?;
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
            for variant in variants.iter_mut() {
                variant.dial()?;
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
            (Dialled::FewBackends, own, inside, targets(&[LIMITED])),
            (Dialled::ManyBackends, own, inside, targets(&[WIDE])),
            (
                Dialled::FewServices,
                &stage.few,
                &diallers.few,
                shuffled(numbered_frontends(FEW_SERVICES)),
            ),
            (
                Dialled::ManyServices,
                &stage.many,
                &diallers.many,
                shuffled(numbered_frontends(MANY_SERVICES)),
            ),
        ]
        .iter()
        .map(|(what, agent, dialler, targets)| count(*what, agent, dialler, targets))
        .collect()
    }
}

impl Diallers {
    fn variants(&self) -> [Variant<'_>; 11] {
        let backends = targets(&limited_backends());
        let variant = Variant::new;
        [
            variant(Way::Straight, &self.inside, backends.clone()),
            variant(Way::StraightOutside, &self.outside, backends),
            variant(Way::StraightWide, &self.inside, targets(&wide_backends())),
            variant(
                Way::StraightMany,
                &self.inside,
                shuffled(numbered_backends(MANY_SERVICES)),
            ),
            variant(Way::Limited, &self.inside, targets(&[LIMITED])),
            variant(Way::Unlimited, &self.inside, targets(&[UNLIMITED])),
            variant(Way::Wide, &self.inside, targets(&[WIDE])),
            variant(Way::Iptables, &self.filtered, targets(&[TRANSLATED])),
            variant(Way::BesideIptables, &self.filtered, targets(&[LIMITED])),
            variant(
                Way::FewServices,
                &self.few,
                shuffled(numbered_frontends(FEW_SERVICES)),
            ),
            variant(
                Way::ManyServices,
                &self.many,
                shuffled(numbered_frontends(MANY_SERVICES)),
            ),
        ]
    }
}

impl<'d> Variant<'d> {
    fn new(way: Way, dialler: &'d Dialler, targets: Targets) -> Self {
        Self {
            way,
            dialler,
            targets,
            dialled: 0,
            samples: Samples::default(),
        }
    }

    fn dial(&mut self) -> Result<()> {
        const COUNT: usize = WARM_UP + CONNECTS_PER_ROUND;
        let times = self.dialler.dial(&self.targets, self.dialled, COUNT)?;
        self.dialled += COUNT;
        let counted = times[WARM_UP..].iter();
        let mut micros: Vec<_> = counted.map(|time| time.as_secs_f64() * 1e6).collect();
        self.samples.push(quantile(&mut micros, 0.5));
        Ok(())
    }
}

/// In an order that no cache foresees, the same in every run.
fn shuffled(mut addresses: Vec<SocketAddr>) -> Targets {
    addresses.shuffle(&mut SmallRng::seed_from_u64(1));
    targets(&addresses)
}

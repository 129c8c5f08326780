//! `cargo xtask soak`: one node under load for as long as one likes, while everything around it fails
//! in random order; then everything must be as if nothing had been.
//!
//! What fails, and what clients may notice of it, is in `tests::soak`; here is in which order, for how
//! long, and what is shown. Refuses to go on after the first thing that is not as it must be. Called by
//! `main`.

mod previous;
mod report;

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng, seq::SliceRandom as _};
use tests::soak::{Fault, Soak};

use crate::{
    preflight::{self, Interrupt, Needs},
    process::progress,
};
use report::Report;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// For how long
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Draws the order of faults; the same one draws the same order
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Seconds without any fault after each, on average
    #[arg(long, default_value_t = 2.0)]
    calm: f64,
    /// Only this fault; can be given more than once. All of them if not given
    #[arg(long = "fault", value_name = "NAME", value_parser = fault)]
    faults: Vec<Fault>,
    /// Begin with the build of this commit (or with this program), and replace it by this one's and
    /// back after each fault
    #[arg(long, value_name = "REVISION")]
    upgrade_from: Option<String>,
}

fn fault(name: &str) -> Result<Fault, String> {
    let known = || Fault::ALL.into_iter();
    let plain = |name: &str| name.to_lowercase().replace([' ', '-'], "_");
    known()
        .find(|fault| plain(fault.name()) == plain(name))
        .ok_or_else(|| {
            let names: Vec<_> = known().map(|fault| plain(fault.name())).collect();
            format!("there is no such fault; there are {}", names.join(", "))
        })
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = preflight::prepare(&Needs {
        command: "soak",
        tools: &[
            ("ip", "iproute2"),
            ("nft", "nftables"),
            ("faketime", "faketime"),
            ("prlimit", "util-linux"),
        ],
    })?;
    let previous = options.upgrade_from.as_deref();
    let previous = previous.map(previous::build).transpose()?;
    let interrupt = Interrupt::listen()?;
    let first = previous.as_ref().unwrap_or(&binary).clone();
    let mut soak = Soak::start(Some(first), options.seed)?;
    let mut report = Report::begin(options.seed, soak.usage()?);
    let mut upgrades = previous.map(|previous| Upgrades::between(previous, binary));
    let outcome = go_on(
        options,
        &mut soak,
        &mut report,
        upgrades.as_mut(),
        &interrupt,
    );
    report.served = soak.served();
    // Shown after a failure too: both are worth knowing, if there still is an agent to ask.
    if let (Ok(usage), Ok(wrongs)) = (soak.usage(), soak.wrongs()) {
        report.usage_last = usage;
        report.print(wrongs)?;
    }
    outcome?;
    if upgrades.is_some_and(|upgrades| upgrades.made < 2) {
        bail!("no upgrade and back in that time\nwhat to do: give it more `--minutes`");
    }
    soak.finish()?;
    if interrupt.came() {
        bail!("interrupted; everything is taken away again");
    }
    Ok(())
}

fn go_on(
    options: &Options,
    soak: &mut Soak,
    report: &mut Report,
    mut upgrades: Option<&mut Upgrades>,
    interrupt: &Interrupt,
) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(options.seed);
    let faults = match options.faults.as_slice() {
        [] => &Fault::ALL,
        some => some,
    };
    let ends = Instant::now() + Duration::from_secs_f64(options.minutes * 60.0);
    let mut next = Vec::new();
    loop {
        if Instant::now() >= ends || interrupt.came() {
            return Ok(());
        }
        if next.is_empty() {
            next = faults.to_vec();
            next.shuffle(&mut random);
        }
        let Some(fault) = next.pop() else {
            return Ok(());
        };
        let outcome = soak
            .suffer(fault, &mut random)
            .with_context(|| format!("after {} exchanges, seed {}", soak.served(), options.seed))?;
        report.note(fault, &outcome, soak.served());
        let calm = random.random_range(0.0..=2.0 * options.calm);
        soak.rest(Duration::from_secs_f64(calm))?;
        if let Some(upgrades) = upgrades.as_deref_mut() {
            let outcome = soak.suffer_upgrade(upgrades.next(), &mut random)?;
            report.note(Fault::AgentReplaced, &outcome, soak.served());
        }
    }
}

/// Two builds, in turn.
struct Upgrades {
    builds: [PathBuf; 2],
    made: usize,
}

impl Upgrades {
    /// The agent runs as the previous build at first.
    fn between(previous: PathBuf, own: PathBuf) -> Self {
        progress(
            "beginning with the previous build, and replacing it by this one and back after each fault",
        );
        Self {
            builds: [own, previous],
            made: 0,
        }
    }

    fn next(&mut self) -> PathBuf {
        let build = self.builds[self.made % 2].clone();
        self.made += 1;
        build
    }
}

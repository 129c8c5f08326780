//! `cargo xtask bench sim`: what each strategy makes of the same load, in a simulation that drives
//! the code that selects backends in the kernel, beside what queueing theory knows.
//!
//! Virtual time only: nothing is attached, sent or slept for, and no root is needed. Called by
//! `bench`.

mod cases;
mod figures;
mod formulas;
mod ground;
mod load;
mod results;
mod run;
#[cfg(test)]
mod tests;

use std::io::{self, Write};

use anyhow::Result;

use self::{cases::Case, results::Results};
use crate::process::progress;

/// How much to simulate.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Print one JSON object as the last line; all else goes to standard error
    #[arg(long)]
    json: bool,
    /// Requests of each simulation; a fifth goes by before counting begins
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..=2_000_000))]
    requests: u64,
    /// Of the random arrivals: the same seed gives the same figures
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Runs the bench.
pub(crate) fn run(options: &Options) -> Result<()> {
    let cases = Case::all();
    progress(&format!(
        "simulating {} cases of {} requests or more",
        cases.len(),
        options.requests
    ));
    if cfg!(debug_assertions) {
        progress(
            "this build is not optimised; `cargo run --release -p xtask -- bench sim` is much faster",
        );
    }
    let figures = cases::simulate_all(&cases, options.seed, options.requests)?;
    let results = Results::new(cases, figures);
    let text = results.to_string();
    if options.json {
        write!(io::stderr(), "{text}")?;
        println!("{}", results.json(options.seed)?);
    } else {
        write!(io::stdout(), "{text}")?;
    }
    Ok(())
}

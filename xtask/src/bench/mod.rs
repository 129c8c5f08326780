//! `cargo xtask bench`: figures, each a ratio of variants that alternate within one run.
//!
//! A figure that misses its target is printed as such and is no failure: the machine may be busy.
//! With `--json` the last line of standard output is one object {figure: value}. Called by `main`.

mod connect;
mod cpu;
mod failover;
mod http;
mod queue;
mod report;
mod request;
mod sim;
mod strategies;

use anyhow::Result;
use clap::Subcommand;

/// Which bench.
#[derive(clap::Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// What steering costs a connect(), and the bytes after it
    Connect(connect::Options),
    /// How long a service with a leader is without one, when that is killed
    Failover(failover::Options),
    /// How fast waiters are woken, and how many are refused, beside one central queue
    Queue(queue::Options),
    /// Admission `request` beside nginx, HAProxy and Envoy
    Request(request::Options),
    /// Wait and refusals under every strategy, simulated; needs no root
    Sim(sim::Options),
    /// What choosing costs under each strategy, and how that grows with the backends
    Strategies(strategies::Options),
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.bench {
        Bench::Connect(options) => connect::run(options),
        Bench::Failover(options) => failover::run(options),
        Bench::Queue(options) => queue::run(options),
        Bench::Request(options) => request::run(options),
        Bench::Sim(options) => sim::run(options),
        Bench::Strategies(options) => strategies::run(options),
    }
}

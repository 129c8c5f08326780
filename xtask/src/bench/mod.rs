//! `cargo xtask bench`: figures, each a ratio of variants that alternate within one run.
//!
//! A figure that misses its target is printed as such and is no failure: the machine may be busy.
//! With `--json` the last line of standard output is one object {figure: value}. Called by `main`.

mod connect;
mod cpu;
mod failover;
mod http;
mod k8s_failover;
mod queue;
mod report;
mod request;
mod sim;
mod strategies;
mod sync;

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
    /// The same in a cluster, when the leader's pod is deleted
    K8sFailover(k8s_failover::Options),
    /// How fast waiters are woken, and how many are refused, beside one central queue
    Queue(queue::Options),
    /// Admission `request` beside nginx, HAProxy and Envoy
    Request(request::Options),
    /// Wait and refusals under every strategy, simulated; needs no root
    Sim(sim::Options),
    /// What choosing costs under each strategy, and how that grows with the backends
    Strategies(strategies::Options),
    /// How fast a cluster of 10,000 services, and each change in it, reaches the kernel
    Sync(sync::Options),
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.bench {
        Bench::Connect(options) => connect::run(options),
        Bench::Failover(options) => failover::run(options),
        Bench::K8sFailover(options) => k8s_failover::run(options),
        Bench::Queue(options) => queue::run(options),
        Bench::Request(options) => request::run(options),
        Bench::Sim(options) => sim::run(options),
        Bench::Strategies(options) => strategies::run(options),
        Bench::Sync(options) => sync::run(options),
    }
}

//! The project's own commands: `cargo xtask build-ebpf | check | test | fuzz | soak | demo | bench`.
//!
//! One module per command. Each sets up what it needs, shows progress on long steps, and
//! says of every failure which command failed and what to do. Called by people and `.ci/run`.

#![forbid(unsafe_code)]

mod agent;
mod bench;
mod build_ebpf;
mod check;
mod demo;
mod fuzz;
mod load;
mod preflight;
mod process;
mod soak;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "The project's own commands")]
struct Arguments {
    #[command(subcommand)]
    command: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measure, and print figures as ratios within one run; needs root
    Bench(bench::Options),
    /// Build the eBPF programs, installing their toolchain if it is missing
    BuildEbpf(build_ebpf::Options),
    /// Check formatting, lints and the rules of the source tree
    Check(check::Options),
    /// Run the main job for a while, on real function servers, and show it; needs root
    Demo(demo::Options),
    /// Run the fuzz targets for a while, on their seeds and what becomes of them
    Fuzz(fuzz::Options),
    /// Let everything fail around a node under load, for as long as you like; needs root
    Soak(soak::Options),
    /// Run every test; needs root
    Test(test::Options),
    /// What a guest of `test vm` starts
    #[command(hide = true)]
    VmGuest,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Task::Bench(options) => bench::run(&options),
        Task::BuildEbpf(options) => build_ebpf::run(&options),
        Task::Check(options) => check::run(&options),
        Task::Demo(options) => demo::run(options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Test(options) => test::run(&options),
        Task::VmGuest => vm::guest::run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nerror: {error:#}");
            ExitCode::FAILURE
        }
    }
}

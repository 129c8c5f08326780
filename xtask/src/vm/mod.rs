//! `cargo xtask test vm`: every kernel that packages offer, each in a machine of its own, with the
//! agent, and the tests that are about what the kernel does.
//!
//! The host only builds, packs, boots and judges: nothing is loaded into its own kernel, and
//! everything is below cargo's target directory. Called by `test`; the guest's side by `main`.

pub(crate) mod guest;
mod image;
mod kernels;
mod machine;
mod outcome;
mod programs;
mod report;

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    process::{progress, repository_root, target_directory},
    test::{ensure_tools, search_path},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Series (6.1) or releases; without any, the newest of each series that packages offer
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// What QEMU runs the guest on; `kvm` where it works
    #[arg(long, default_value = "tcg")]
    accelerator: String,
    /// A kernel that takes longer has failed
    #[arg(long, value_name = "MINUTES", default_value_t = 20)]
    minutes: u64,
    /// Tests that run side by side
    #[arg(long, value_name = "NUMBER", default_value_t = 2)]
    at_once: usize,
    /// Only tests whose program and name, with a space between them, contain this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Only show which kernels packages offer
    #[arg(long)]
    list: bool,
}

/// A program that is called, and the Debian package that has it.
const TOOLS: [(&str, &str); 13] = [
    ("apt-cache", "apt"),
    ("dpkg-deb", "dpkg"),
    (machine::QEMU, "qemu-system-x86"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("objcopy", "binutils"),
    ("ldd", "libc-bin"),
    ("setpriv", "util-linux"),
    ("nsenter", "util-linux"),
    ("bash", "bash"),
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("nft", "nftables"),
];

/// An emulated processor is some ten times slower, and two guests' worth of work share it.
const PATIENCE: u32 = 6;

const TEST_TIMEOUT: Duration = Duration::from_secs(240);

/// Tests on each kernel. Fails if anything did on any.
pub(crate) fn run(options: &Options) -> Result<()> {
    if cfg!(not(target_arch = "x86_64")) {
        bail!(
            "the kernel matrix is for x86-64 only\nwhat to do: run it on such a machine, or `cargo xtask test` for this machine's own kernel"
        );
    }
    let root = repository_root()?;
    ensure_tools(&search_path()?, &TOOLS, "the kernel matrix calls")?;
    let offers = kernels::choose(&options.kernels)?;
    if options.list {
        for offer in &offers {
            println!("{}", offer.release);
        }
        return Ok(());
    }
    let directory = target_directory(&root)?.join("vm");
    fs::create_dir_all(&directory)
        .with_context(|| format!("cannot make {}", directory.display()))?;
    let kernels = offers
        .iter()
        .map(|offer| kernels::fetch(offer, &directory.join("kernels")))
        .collect::<Result<Vec<_>>>()?;

    let mut programs = programs::build(&root)?;
    if let Some(text) = &options.only {
        programs.keep_only(text)?;
    }
    progress(&format!("packing {} tests", programs.tests.len()));
    let settings = image::Settings {
        at_once: options.at_once,
        patience: PATIENCE,
        test_timeout_seconds: TEST_TIMEOUT.as_secs(),
    };
    let packed = directory.join("initramfs");
    let common = image::pack_common(&programs, &settings, &packed)?;
    let outcomes = kernels
        .iter()
        .map(|kernel| boot(options, &programs, kernel, &common, &directory))
        .collect::<Result<Vec<_>>>()?;

    let bad: Vec<_> = outcomes
        .iter()
        .filter(|outcome| !outcome.is_good())
        .collect();
    for outcome in &bad {
        eprintln!("{}", outcome.complaints());
    }
    println!("{}", outcome::table(&outcomes));
    if bad.is_empty() {
        return Ok(());
    }
    bail!(
        "{} of {} kernels failed\nwhat to do: read what is shown for each above; run one again with `cargo xtask test vm KERNEL`",
        bad.len(),
        outcomes.len()
    )
}

fn boot(
    options: &Options,
    programs: &programs::Programs,
    kernel: &kernels::Kernel,
    common: &Path,
    directory: &Path,
) -> Result<outcome::Outcome> {
    progress(&format!("booting {}", kernel.release));
    let initramfs = image::pack_for(kernel, common, &directory.join("initramfs"))?;
    let outcome = machine::Machine {
        kernel,
        initramfs: &initramfs,
        accelerator: &options.accelerator,
        cpus: options.at_once,
        time_limit: Duration::from_secs(options.minutes * 60),
        console: directory.join(format!("{}.console", kernel.release)),
    }
    .run(&programs.tests)?;
    // Some hundred megabytes each.
    fs::remove_file(&initramfs)
        .with_context(|| format!("cannot remove {}", initramfs.display()))?;
    Ok(outcome)
}

//! `cargo xtask test`: sets up what the tests need, runs every one, and sees that none left
//! anything behind.
//!
//! Refuses to run without root, since a test that cannot run must not look passed. How tests
//! are run is in `.config/nextest.toml`. Called by `main`.

mod leftovers;

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use ebpf_build::{InstallPolicy, cargo_home, install_packages, is_root};

use crate::{
    agent, build_ebpf,
    process::{cargo, progress, repository_root, run as run_command, succeeds, target_directory},
    vm,
};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    elsewhere: Option<Elsewhere>,
    /// Test the release build
    #[arg(long)]
    release: bool,
    /// Only tests whose name contains one of these
    #[arg(last = true, value_name = "FILTER")]
    filters: Vec<String>,
}

#[derive(clap::Subcommand)]
enum Elsewhere {
    /// Not here, but on each kernel that packages offer, in a virtual machine
    Vm(vm::Options),
}

/// A program that the tests call, and the Debian package that has it.
const TOOLS: [(&str, &str); 7] = [
    ("ip", "iproute2"),
    ("ss", "iproute2"),
    ("nft", "nftables"),
    ("iptables", "iptables"),
    ("cc", "gcc"),
    ("faketime", "faketime"),
    ("python3", "python3"),
];

/// Fixed so that every machine runs tests alike.
const NEXTEST_VERSION: &str = "0.9.143";

/// Runs the tests.
pub(crate) fn run(options: &Options) -> Result<()> {
    if let Some(Elsewhere::Vm(options)) = &options.elsewhere {
        return vm::run(options);
    }
    if !is_root() {
        bail!(
            "the tests need root: they load eBPF programs and make network namespaces and cgroups\n\
             what to do: run `sudo -E env \"PATH=$PATH\" cargo xtask test`"
        );
    }
    let root = repository_root()?;
    let path = search_path()?;
    ensure_tools(&path, &TOOLS, "the tests call")?;
    ensure_venv()?;
    ensure_nextest(&root)?;

    build_ebpf::build_own(&root)?;
    let binary = build_workspace(&root, options.release)?;
    if options.filters.is_empty() {
        run_command(
            with_profile(
                cargo(&root).args(["test", "--workspace", "--doc"]),
                options.release,
            ),
            "mend the example in the documentation that fails above",
        )?;
    }

    let before = leftovers::Before::take()?;
    let mut nextest = cargo(&root);
    nextest
        .args(["nextest", "run", "--workspace"])
        .env("PATH", &path)
        .env(agent::BINARY_VARIABLE, &binary);
    with_profile(&mut nextest, options.release).args(&options.filters);
    let outcome = run_command(
        &mut nextest,
        "read the failures above; run one again with `cargo xtask test -- NAME`",
    );
    // Looked at even after a failure: both are worth knowing.
    match (outcome, before.compare()) {
        (Err(failed), Err(left)) => bail!("{failed:#}\n\n{left:#}"),
        (outcome, left) => outcome.and(left),
    }
}

fn build_workspace(root: &Path, release: bool) -> Result<PathBuf> {
    run_command(
        with_profile(cargo(root).args(["build", "--workspace"]), release),
        "read the compiler's message above",
    )?;
    let profile = if release { "release" } else { "debug" };
    agent::built(&target_directory(root)?, profile)
}

fn with_profile(command: &mut Command, release: bool) -> &mut Command {
    if release {
        command.arg("--release");
    }
    command
}

/// PATH with the directories of system tools, which `su` and some sudoers leave out.
pub(crate) fn search_path() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    env::join_paths(env::split_paths(&path).chain(system)).context("PATH cannot be extended")
}

/// Installs the packages of those programs that are not there. `whose` completes "… PROGRAM".
pub(crate) fn ensure_tools(
    path: &OsString,
    tools: &[(&'static str, &'static str)],
    whose: &str,
) -> Result<()> {
    let present =
        |tool: &str| env::split_paths(path).any(|directory| directory.join(tool).exists());
    let missing: Vec<_> = tools.iter().filter(|(tool, _)| !present(tool)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.dedup();
    let tools: Vec<_> = missing.iter().map(|(tool, _)| *tool).collect();
    let why = format!("{whose} {}", tools.join(", "));
    install_packages(
        &packages,
        &why,
        InstallPolicy::from_environment(),
        &progress,
    )?;
    Ok(())
}

/// A test gets its server from PyPI, into a virtual environment, which Debian packages apart.
fn ensure_venv() -> Result<()> {
    if succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"])) {
        return Ok(());
    }
    install_packages(
        &["python3-venv"],
        "a test runs against a server from PyPI",
        InstallPolicy::from_environment(),
        &progress,
    )?;
    Ok(())
}

fn ensure_nextest(root: &Path) -> Result<()> {
    let present = || succeeds(cargo(root).args(["nextest", "--version"]));
    if present() {
        return Ok(());
    }
    let by_hand = format!("cargo install cargo-nextest --version {NEXTEST_VERSION} --locked");
    if InstallPolicy::from_environment() == InstallPolicy::Nothing {
        bail!(
            "cargo-nextest is missing, and IDLEFIRST_NO_INSTALL forbids installing it\nwhat to do: run `{by_hand}`"
        );
    }
    progress("installing cargo-nextest (some minutes): it runs the tests");
    let mut install = cargo(root);
    install
        .args(["install", "cargo-nextest", "--locked"])
        .args(["--version", NEXTEST_VERSION])
        .arg("--root")
        .arg(cargo_home());
    let remedy = format!("run `{by_hand}` and read what it says");
    ebpf_build::command::run(&mut install, "building cargo-nextest", &remedy, &progress)?;
    if !present() {
        bail!(
            "cargo-nextest was installed into {} but cargo does not find it\nwhat to do: put that directory on PATH",
            cargo_home().join("bin").display()
        );
    }
    Ok(())
}

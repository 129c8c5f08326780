//! `cargo xtask check`: formatting, lints, and the rules of the source tree.
//!
//! Runs every check even after one has failed, then names those that did. Changes no file.
//! Called by `main`; the rules themselves are in `rules`, reading Rust without its comments
//! and strings in `tokens`.

mod rules;
mod tokens;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use ebpf_build::CRATE_DIRECTORY;

use crate::{
    build_ebpf,
    process::{cargo, progress, repository_root, run as run_command, succeeds, target_directory},
};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the rules of the source tree, which need no compiler
    #[arg(long)]
    rules_only: bool,
}

/// Runs every check.
pub(crate) fn run(options: &Options) -> Result<()> {
    let root = repository_root()?;
    let mut failures = Vec::new();
    let mut step = |name: &str, outcome: Result<()>| {
        if let Err(error) = outcome {
            eprintln!("\nfailed: {name}\n{error:#}\n");
            failures.push(name.to_owned());
        }
    };

    step("rules of the source tree", check_rules(&root));
    if !options.rules_only {
        step("formatting", formatting(&root));
        step("lints", lints(&root));
        step("lints of the eBPF programs", ebpf_lints(&root));
    }

    if failures.is_empty() {
        println!("check: all fine");
        Ok(())
    } else {
        bail!("check failed: {}", failures.join(", "))
    }
}

fn check_rules(root: &Path) -> Result<()> {
    let mut files = Vec::new();
    collect_sources(root, root, &mut files)?;
    files.sort();
    progress(&format!(
        "checking the rules of {} source files",
        files.len()
    ));

    let mut violations = Vec::new();
    for path in &files {
        let text = fs::read_to_string(root.join(path))
            .with_context(|| format!("cannot read {}", path.display()))?;
        violations.extend(rules::violations(path, &text));
    }
    if violations.is_empty() {
        return Ok(());
    }
    let lines: Vec<_> = violations.iter().map(ToString::to_string).collect();
    bail!("{}", lines.join("\n"))
}

/// Every Rust source below `directory`, relative to `root`, leaving out what builds leave.
fn collect_sources(root: &Path, directory: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    let unreadable = || format!("cannot list {}", directory.display());
    for entry in fs::read_dir(directory).with_context(unreadable)? {
        let entry = entry.with_context(unreadable)?;
        let (path, name) = (entry.path(), entry.file_name());
        let name = name.to_string_lossy();
        if entry.file_type()?.is_dir() {
            let built = path.join("CACHEDIR.TAG").exists();
            if !built && name != "target" && !name.starts_with('.') {
                collect_sources(root, &path, found)?;
            }
        } else if name.ends_with(".rs") {
            found.push(path.strip_prefix(root)?.to_owned());
        }
    }
    Ok(())
}

fn formatting(root: &Path) -> Result<()> {
    const REMEDY: &str = "run `cargo fmt --all`, and the same in balancer-ebpf";
    ensure_component(root, "fmt", "rustfmt")?;
    run_command(cargo(root).args(["fmt", "--all", "--check"]), REMEDY)?;
    let ebpf = root.join(CRATE_DIRECTORY);
    run_command(cargo(&ebpf).args(["fmt", "--check"]), REMEDY)
}

fn lints(root: &Path) -> Result<()> {
    ensure_component(root, "clippy", "clippy")?;
    // The agent's build script would do this too, but in silence.
    build_ebpf::build_own(root)?;
    run_command(
        cargo(root)
            .args(["clippy", "--workspace", "--all-targets"])
            .args(["--", "-D", "warnings"]),
        "mend what clippy names above",
    )
}

/// The eBPF crate is linted as if for this machine: the toolchain that builds it for the
/// BPF target need not have clippy. Its own build for that target must be free of warnings.
fn ebpf_lints(root: &Path) -> Result<()> {
    // Cargo repeats the warnings of a crate that it need not compile again.
    let said = build_ebpf::build_own(root)?.compiler_output;
    if said.lines().any(|line| line.starts_with("warning")) {
        bail!(
            "{said}\nthe eBPF build has warnings\nwhat to do: mend what the compiler names above"
        );
    }
    ensure_component(root, "clippy", "clippy")?;
    let ebpf = root.join(CRATE_DIRECTORY);
    run_command(
        cargo(&ebpf)
            .env("RUSTC_BOOTSTRAP", "1")
            .env(
                "CARGO_TARGET_DIR",
                target_directory(root)?.join("ebpf-lints"),
            )
            .args(["clippy", "--bins", "--", "-D", "warnings"]),
        "mend what clippy names above",
    )
}

/// Makes sure that `cargo <subcommand>` is there, through rustup if it is that which lacks it.
fn ensure_component(root: &Path, subcommand: &str, component: &str) -> Result<()> {
    let present = || succeeds(cargo(root).args([subcommand, "--version"]));
    if present() {
        return Ok(());
    }
    let may_install =
        ebpf_build::InstallPolicy::from_environment() != ebpf_build::InstallPolicy::Nothing;
    if may_install && let Some(rustup) = ebpf_build::which("rustup") {
        progress(&format!(
            "installing {component}: `cargo {subcommand}` needs it"
        ));
        let mut add = Command::new(rustup);
        add.args(["component", "add", component]);
        if let Some(toolchain) = env::var_os("RUSTUP_TOOLCHAIN") {
            add.arg("--toolchain").arg(toolchain);
        }
        run_command(&mut add, "see whether rustup reaches its server")?;
    }
    if present() {
        return Ok(());
    }
    bail!(
        "`cargo {subcommand}` does not work: the component {component} is missing\nwhat to do: run `rustup component add {component}`, or install {component} from the distribution that Rust came from"
    )
}

//! Commands that the user watches: shown before they run, on the user's own terminal, and
//! explained when they fail. Also cargo itself, and where it puts what it builds.
//!
//! Refuses to go on after a failure. Called by every subcommand.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use ebpf_build::command::shown;

/// Runs `command` on this terminal, without standard input. `remedy` says what to do if it fails.
pub(crate) fn run(command: &mut Command, remedy: &str) -> Result<()> {
    let line = shown(command);
    eprintln!("$ {line}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("command could not be started: {line}\nwhat to do: {remedy}"))?;
    if !status.success() {
        bail!("command failed: {line}\nit ended with {status}\nwhat to do: {remedy}");
    }
    Ok(())
}

/// Whether a command exists and succeeds, without showing anything.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The cargo that runs this program, in the root of the repository.
pub(crate) fn cargo(root: &Path) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root);
    // Left by `cargo run`; cargo-nextest and build scripts take them for their own.
    for name in [
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_PKG_NAME",
    ] {
        cargo.env_remove(name);
    }
    cargo
}

/// The root of the repository, from where this program was built.
pub(crate) fn repository_root() -> Result<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = here.parent().unwrap_or(here);
    if !root.join("Cargo.toml").exists() {
        bail!(
            "no Cargo.toml in {}: the repository has moved since xtask was built\nwhat to do: run `cargo xtask` inside it",
            root.display()
        );
    }
    Ok(root.to_owned())
}

/// Cargo's target directory, wherever the user's settings put it.
pub(crate) fn target_directory(root: &Path) -> Result<PathBuf> {
    #[derive(serde::Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let mut command = cargo(root);
    command.args(["metadata", "--no-deps", "--format-version", "1"]);
    let line = shown(&command);
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("command could not be started: {line}"))?;
    if !output.status.success() {
        bail!(
            "command failed: {line}\nit ended with {}\nwhat to do: repair the Cargo.toml that cargo names above",
            output.status
        );
    }
    let metadata: Metadata = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("cannot read what this printed: {line}"))?;
    Ok(metadata.target_directory)
}

/// Prints one line of progress.
pub(crate) fn progress(line: &str) {
    eprintln!("  {line}");
}

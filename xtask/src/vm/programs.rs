//! What runs in the guest: the agent, and of the privileged tests those that are about what the
//! kernel does, as many as an emulated machine gets through in some minutes.
//!
//! What tests the agent alone behaves alike on every kernel and is not here; nor is what compares
//! times, or takes a crowd of clients. Called by `mod`.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use ebpf_build::command::shown;
use serde::Deserialize;

use super::report::TestName;
use crate::{
    build_ebpf,
    process::{cargo, progress, run, target_directory},
};

/// Programs of the crate `tests`, and which tests of each; all of them if none is named.
const CHOSEN: &[(&str, &[&str])] = &[
    ("steer", &[]),
    ("families", &[]),
    ("give_back", &[]),
    ("give_back_failed", &[]),
    ("limits", &[]),
    ("overflow", &[]),
    ("agent_loss", &[]),
    ("breaker", &[]),
    ("request_mode", &[]),
    ("strategy_limits", &[]),
    ("strategy_shares", &[]),
    ("strategy_leader", &[]),
    ("strategy_affinity", &[]),
    ("strategy_near", &[]),
    ("intercept_pods", &[]),
    ("untouched", &[]),
    ("connections", &[]),
    ("rate_limit", &[]),
    ("second_agent", &[]),
];

/// Names an agent to take instead of building one, as for the tests.
const BINARY_VARIABLE: &str = "IDLEFIRST_BIN";

/// What was built.
#[derive(Debug)]
pub(super) struct Programs {
    pub(super) agent: PathBuf,
    /// The programs with the chosen tests, by name.
    pub(super) with_tests: BTreeMap<String, PathBuf>,
    /// What the tests start, at the path where they look for it.
    pub(super) started_by_tests: Vec<PathBuf>,
    /// In the order in which they shall run.
    pub(super) tests: Vec<TestName>,
}

/// Builds all, as `cargo xtask test` does, so that one finds the other's work done.
pub(super) fn build(root: &Path, release: bool) -> Result<Programs> {
    let agent = agent(root, release)?;
    let artefacts = build_tests(root, release)?;
    let mut with_tests = BTreeMap::new();
    let mut started_by_tests = Vec::new();
    for artefact in artefacts {
        let Artefact {
            target,
            executable: Some(executable),
            ..
        } = artefact
        else {
            continue;
        };
        if target.kind == ["test"] {
            with_tests.insert(target.name, executable);
        } else if !artefact.profile.test {
            started_by_tests.push(executable);
        }
    }
    let tests = chosen(&with_tests)?;
    Ok(Programs {
        agent,
        with_tests,
        started_by_tests,
        tests,
    })
}

fn agent(root: &Path, release: bool) -> Result<PathBuf> {
    if env::var_os(BINARY_VARIABLE).is_some() {
        let agent = tests::agent::binary()?;
        let path = agent.display();
        progress(&format!("taking {path}, which {BINARY_VARIABLE} names"));
        return Ok(agent);
    }
    build_ebpf::build_own(root)?;
    let mut build = cargo(root);
    build.args(["build", "--workspace", "--bin", "idlefirst"]);
    if release {
        build.arg("--release");
    }
    run(&mut build, "read the compiler's message above")?;
    let profile = if release { "release" } else { "debug" };
    let agent = target_directory(root)?.join(profile).join("idlefirst");
    if !agent.exists() {
        bail!(
            "the build left no {}\nwhat to do: unset CARGO_BUILD_TARGET, which moves it",
            agent.display()
        );
    }
    Ok(agent)
}

/// One of cargo's messages, as far as it matters.
#[derive(Debug, Deserialize)]
struct Artefact {
    target: Target,
    profile: Profile,
    executable: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
struct Target {
    kind: Vec<String>,
    name: String,
}

#[derive(Debug, Deserialize)]
struct Profile {
    test: bool,
}

fn build_tests(root: &Path, release: bool) -> Result<Vec<Artefact>> {
    let mut build = cargo(root);
    build
        .args(["test", "--workspace", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"]);
    for (binary, _) in CHOSEN {
        build.args(["--test", binary]);
    }
    if release {
        build.arg("--release");
    }
    eprintln!("$ {}", shown(&build));
    let output = build
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo ended with {}\nwhat to do: read the compiler's message above",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stdout);
    Ok(text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect())
}

/// The chosen tests, checked against what the programs have.
fn chosen(programs: &BTreeMap<String, PathBuf>) -> Result<Vec<TestName>> {
    let mut chosen = Vec::new();
    for (binary, wanted) in CHOSEN {
        let program = programs
            .get(*binary)
            .with_context(|| format!("cargo built no test program {binary}"))?;
        let present = tests_in(program)?;
        if let Some(stranger) = wanted.iter().find(|name| !present.contains(**name)) {
            bail!("{binary} has no test {stranger}\nwhat to do: name another in CHOSEN");
        }
        let names = present
            .iter()
            .filter(|name| wanted.is_empty() || wanted.contains(&name.as_str()));
        chosen.extend(names.map(|name| TestName {
            binary: (*binary).to_owned(),
            name: name.clone(),
        }));
    }
    Ok(chosen)
}

fn tests_in(program: &Path) -> Result<BTreeSet<String>> {
    let output = Command::new(program)
        .args(["--list", "--format", "terse"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let names: BTreeSet<_> = text
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect();
    ensure!(!names.is_empty(), "{} lists no tests", program.display());
    Ok(names)
}

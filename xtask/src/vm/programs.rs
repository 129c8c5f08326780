//! What runs in the guest: the agent, and of the privileged tests those that are about what the
//! kernel does, as many as an emulated machine gets through in some minutes.
//!
//! What tests the agent alone behaves alike on every kernel and is not here; nor is what compares
//! times, or takes a crowd of clients. Called by `mod`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};
use ebpf_build::command::shown;
use serde::Deserialize;

use super::report::TestName;
use crate::{agent, process::cargo};

/// Programs of the crate `tests`, and which tests of each.
const CHOSEN: &[(&str, &[&str])] = &[
    (
        "steer",
        &[
            "a_pod_behind_two_services_has_one_count",
            "connects_that_stay_each_get_an_idle_pod_and_the_next_is_refused",
            "nothing_available_is_refused_inside_connect_in_every_form",
        ],
    ),
    ("families", &["plain_and_mapped_share_one_count"]),
    (
        "give_back",
        &[
            "a_descriptor_in_a_letter_keeps_the_slot",
            "the_client_is_killed",
            "the_pod_closes_first",
            "the_pod_resets",
        ],
    ),
    (
        "give_back_failed",
        &[
            "no_route_then_another_try_on_the_same_socket",
            "nobody_answers_and_the_client_closes",
            "the_pod_refuses",
        ],
    ),
    (
        "overflow",
        &[
            "a_client_in_a_namespace_of_its_own_waits_for_a_slot",
            "a_client_in_the_agents_namespace_waits_for_a_slot",
        ],
    ),
    (
        "agent_loss",
        &[
            "a_dead_agent_is_left_alone_at_once",
            "without_the_agent_a_full_pod_is_better_than_none",
        ],
    ),
    (
        "breaker",
        &[
            "a_backend_that_refuses_is_out_after_five_failures_without_the_agents_help",
            "a_trial_that_succeeds_lets_the_backend_take_part_again",
        ],
    ),
    (
        "request_mode",
        &[
            "a_connection_holds_no_slot_between_requests",
            "a_slot_is_held_until_the_answer_is_complete",
        ],
    ),
    (
        "strategy_limits",
        &["consistent_hash", "least_response_time", "random"],
    ),
    (
        "strategy_shares",
        &[
            "the_next_connect_goes_to_one_of_those_with_the_fewest",
            "weighted_turns_are_smooth",
        ],
    ),
    (
        "strategy_leader",
        &["those_for_whom_the_leader_has_no_slot_wait_for_it"],
    ),
    (
        "strategy_affinity",
        &["each_client_has_a_pod_of_its_own_and_keeps_it"],
    ),
    (
        "intercept_pods",
        &["a_pod_that_dials_a_busy_pod_gets_an_idle_one_and_sees_whom_it_dialled"],
    ),
    (
        "untouched",
        &[
            "names_of_listeners_and_of_what_they_accept",
            "udp_to_the_frontend",
        ],
    ),
    ("connections", &["they_can_be_listed_by_service"]),
    (
        "second_agent",
        &["sigterm_and_sigint_leave_steering_behind_and_nothing_else"],
    ),
    (
        "restart",
        &[
            "what_changed_while_it_was_away_is_made_up_for",
            "what_connections_hold_counts_across_agents",
        ],
    ),
    (
        "shutdown",
        &["who_waits_still_gets_a_slot_and_nobody_new_is_sent_to_the_agent"],
    ),
    (
        "audit",
        &[
            "a_slot_that_is_held_and_not_counted_counts_again",
            "a_slot_that_was_lost_is_found_and_goes_to_who_waits_for_it",
        ],
    ),
    (
        "least_privilege",
        &["every_thread_has_what_it_needs_and_nothing_else"],
    ),
];

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

impl Programs {
    /// Leaves out the tests that do not contain `text`; one at least must stay.
    pub(super) fn keep_only(&mut self, text: &str) -> Result<()> {
        self.tests.retain(|test| test.to_string().contains(text));
        ensure!(
            !self.tests.is_empty(),
            "no test contains {text:?}\nwhat to do: see CHOSEN in xtask/src/vm/programs.rs"
        );
        let names: BTreeSet<_> = self.tests.iter().map(|test| &test.binary).collect();
        self.with_tests.retain(|name, _| names.contains(name));
        Ok(())
    }
}

/// Builds the agent for release, since it starts for each test, and twice as fast so. The tests are
/// built as `cargo xtask test` builds them, so that one finds the other's work done.
pub(super) fn build(root: &Path) -> Result<Programs> {
    let artefacts = build_tests(root)?;
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
        agent: agent::named_or_built()?,
        with_tests,
        started_by_tests,
        tests,
    })
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

fn build_tests(root: &Path) -> Result<Vec<Artefact>> {
    let mut build = cargo(root);
    build
        .args(["test", "--workspace", "--no-run"])
        .args(["--message-format", "json-render-diagnostics"]);
    for (binary, _) in CHOSEN {
        build.args(["--test", binary]);
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
        chosen.extend(wanted.iter().map(|name| TestName {
            binary: (*binary).to_owned(),
            name: (*name).to_owned(),
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

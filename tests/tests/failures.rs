//! What fails around a node, one after the other, under load: each fault of docs/operations.md as a
//! test of the same name. What clients notice is what is said there; a second after its end nothing
//! fails; no count is wrong, no limit is exceeded, and nothing is left over.

#![forbid(unsafe_code)]

use std::{fs, path::Path, time::Duration};

use anyhow::{Context as _, Result};
use rand::{SeedableRng as _, rngs::SmallRng};
use tests::soak::{Fault, Soak};

/// How often each happens.
const TIMES: usize = 2;
const SEED: u64 = 1;

/// The table, and all tests.
const TABLE: &str = include_str!("../../docs/operations.md");

#[test]
fn each_row_of_the_table_is_a_test_of_the_same_name() -> Result<()> {
    let mut tests = String::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            match path.is_dir() {
                true => directories.push(path),
                false => tests += &fs::read_to_string(path)?,
            }
        }
    }
    let begin = TABLE.find("## When things fail").context("the section")?;
    let section = TABLE[begin..].split("\n## ").next().unwrap_or_default();
    let first_cells = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut rows = 0;
    for cell in first_cells.filter_map(|line| line.split(" | ").next()) {
        for name in format!("`{cell}").split('`').skip(1).step_by(2) {
            let test = format!("#[test]\nfn {name}() -> ");
            assert!(tests.contains(&test), "{name} is no test");
            rows += 1;
        }
    }
    let missing = Fault::ALL.iter().find(|fault| {
        let name = fault.name().to_lowercase().replace(' ', "_");
        !section.contains(&format!("`{name}`"))
    });
    assert_eq!(missing, None, "not in the table");
    assert!(rows > 20, "{rows} rows only");
    Ok(())
}

fn suffer(fault: Fault) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut soak = Soak::start(None, SEED)?;
    for _ in 0..TIMES {
        let outcome = soak.suffer(fault, &mut random)?;
        println!("{}: {outcome:?}", fault.name());
    }
    soak.rest(Duration::from_millis(500))?;
    soak.finish()
}

#[test]
fn agent_killed() -> Result<()> {
    suffer(Fault::AgentKilled)
}

#[test]
fn agent_replaced() -> Result<()> {
    suffer(Fault::AgentReplaced)
}

#[test]
fn agent_killed_every_second() -> Result<()> {
    let mut random = SmallRng::seed_from_u64(SEED);
    let mut soak = Soak::start(None, SEED)?;
    let outcome = soak.suffer(Fault::AgentKilledOften, &mut random)?;
    println!("{outcome:?}");
    soak.finish()
}

#[test]
fn agent_stalled() -> Result<()> {
    suffer(Fault::AgentStalled)
}

#[test]
fn agent_out_of_descriptors() -> Result<()> {
    suffer(Fault::NoDescriptors)
}

#[test]
fn agent_out_of_memory() -> Result<()> {
    suffer(Fault::NoMemory)
}

#[test]
fn clock_steps() -> Result<()> {
    suffer(Fault::ClockSteps)
}

#[test]
fn backend_killed() -> Result<()> {
    suffer(Fault::BackendKilled)
}

#[test]
fn backend_namespace_deleted() -> Result<()> {
    suffer(Fault::NamespaceDeleted)
}

#[test]
fn clients_killed() -> Result<()> {
    suffer(Fault::ClientsKilled)
}

#[test]
fn reset_storm() -> Result<()> {
    suffer(Fault::ResetStorm)
}

#[test]
fn packets_dropped() -> Result<()> {
    suffer(Fault::PacketsDropped)
}

#[test]
fn packets_delayed() -> Result<()> {
    suffer(Fault::PacketsDelayed)
}

#[test]
fn clients_out_of_ports() -> Result<()> {
    suffer(Fault::NoPorts)
}

#[test]
fn frontends_full() -> Result<()> {
    suffer(Fault::FrontendsFull)
}

#[test]
fn overflow_flows_full() -> Result<()> {
    suffer(Fault::FlowsFull)
}

#[test]
fn events_overrun() -> Result<()> {
    suffer(Fault::EventsOverrun)
}

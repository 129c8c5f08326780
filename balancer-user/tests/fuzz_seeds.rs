//! Every seed of the fuzz targets, and every input that once broke something, through the functions
//! that `cargo xtask fuzz` runs.

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

/// The fuzz crate is a workspace of its own; its functions are compiled here once more.
#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

fn inputs(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn replay(target: &str) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let (_, check) = fuzz::TARGETS
        .into_iter()
        .find(|(name, _)| *name == target)
        .expect("a target");
    let seeds = inputs(&root.join("seeds").join(target));
    assert!(!seeds.is_empty(), "{target} has no seeds");
    let findings = inputs(&root.join("findings").join(target));
    let failed: Vec<_> = seeds
        .into_iter()
        .chain(findings)
        .filter(|path| {
            let input = fs::read(path).unwrap();
            catch_unwind(|| check(&input)).is_err()
        })
        .collect();
    assert!(failed.is_empty(), "what must hold does not: {failed:#?}");
}

#[test]
fn admin() {
    replay("admin");
}

#[test]
fn config() {
    replay("config");
}

#[test]
fn events() {
    replay("events");
}

#[test]
fn http() {
    replay("http");
}

#[test]
fn kubernetes() {
    replay("kubernetes");
}

#[test]
fn every_target_is_replayed_and_fuzzed() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let names = fuzz::TARGETS.map(|(name, _)| name);
    for name in names {
        let target = root.join("fuzz_targets").join(name).with_extension("rs");
        assert!(target.exists(), "{} is missing", target.display());
    }
    let known = |path: PathBuf| names.iter().any(|name| path.ends_with(name));
    for directory in ["seeds", "findings"] {
        assert!(inputs(&root.join(directory)).into_iter().all(known));
    }
}

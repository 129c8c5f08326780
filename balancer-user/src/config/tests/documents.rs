//! The documentation and the examples are what the code says.

use std::path::{Path, PathBuf};

use super::super::keys::SECTIONS;
use super::super::{Config, defaults_yaml, reference_markdown};
use super::{parse, problems};
use crate::model::Settings;

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

#[test]
fn the_defaults_parse_to_the_defaults() {
    let text = defaults_yaml();
    let loaded = parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    assert_eq!(loaded.warnings, []);
    let mut config = loaded.config;
    // The values are the same; that they are written down is the one difference.
    let built_in = Config::default().defaults;
    let values = |settings: &Settings| {
        let shown = format!("{settings:#?}");
        shown.replace("origin: Defaults", "origin: BuiltIn")
    };
    assert_ne!(config.defaults, built_in);
    assert_eq!(values(&config.defaults), values(&built_in));
    config.defaults = built_in;
    config.below = Config::default().below;
    assert_eq!(config, Config::default());
}

/// The keys that the reader names when it meets one it does not know.
fn keys_known_at(text: &str) -> Vec<String> {
    let hint = problems(text)[0].hint.clone();
    let keys = hint.split_once(": ").unwrap().1;
    keys.split(", ").map(str::to_owned).collect()
}

fn documented_at(path: &str) -> Vec<&'static str> {
    let section = SECTIONS.iter().find(|section| section.path == path);
    let section = section.unwrap_or_else(|| panic!("{path:?} is not documented"));
    section.keys.iter().map(|key| key.name).collect()
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    // The settings of a service: under `defaults`, below it, and by their short names.
    let settings = || {
        let mut keys = documented_at("defaults");
        keys.extend(documented_at("functions.NAME"));
        keys.extend(["queue", "health", "breaker"]);
        keys
    };
    let also = |path, further: &[&'static str]| {
        let mut keys = documented_at(path);
        keys.extend(further);
        keys
    };
    let at = documented_at;
    let service = also("services[]", &settings());
    let cases = [
        (
            "x: 1",
            also("", &["agent", "defaults", "functions", "services"]),
        ),
        ("agent: {x: 1}", also("agent", &["health_checks", "log"])),
        ("agent: {health_checks: {x: 1}}", at("agent.health_checks")),
        ("agent: {log: {x: 1}}", at("agent.log")),
        ("defaults: {x: 1}", settings()),
        ("defaults: {hash: {x: 1}}", at("defaults.hash")),
        ("defaults: {affinity: {x: 1}}", at("defaults.affinity")),
        ("defaults: {queue: {x: 1}}", at("defaults.queue")),
        ("defaults: {rate_limit: {x: 1}}", at("defaults.rate_limit")),
        ("defaults: {health: {x: 1}}", at("defaults.health")),
        ("defaults: {breaker: {x: 1}}", at("defaults.breaker")),
        ("functions: {a: {x: 1}}", settings()),
        ("services: [{x: 1}]", service),
        (
            "services: [{backends: [{x: 1}]}]",
            at("services[].backends[]"),
        ),
    ];
    assert_eq!(SECTIONS.len(), cases.len(), "a section is missing above");
    for (text, mut documented) in cases {
        documented.sort_unstable();
        let mut known = keys_known_at(text);
        known.sort_unstable();
        assert_eq!(documented, known, "{text}");
    }
}

#[test]
fn the_commented_keys_of_the_defaults_parse_too() {
    // Without the empty mapping and list, and with the comments' marks taken off.
    let shown: String = defaults_yaml()
        .lines()
        .skip_while(|line| *line != "functions: {}")
        .filter_map(|line| line.strip_prefix("# "))
        .map(|line| format!("{line}\n"))
        .collect();
    let loaded = parse(&shown).unwrap_or_else(|error| panic!("{error}\n{shown}"));
    assert_eq!(loaded.warnings, [], "{shown}");
    let state = loaded.config.desired_state();
    assert_eq!(state.services.len(), 1, "{shown}");
    assert_eq!(state.backend_addresses().len(), 1, "{shown}");
}

#[test]
fn the_reference_in_docs_is_the_rendered_one() {
    let file = docs().join("configuration.md");
    let rendered = reference_markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, &rendered).unwrap();
    }
    let written = std::fs::read_to_string(&file)
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    assert!(
        written == rendered,
        "{} is out of date; run: UPDATE_DOCS=1 cargo test -p balancer-user config",
        file.display()
    );
}

#[test]
fn the_examples_are_good() {
    let directory = docs().join("examples");
    let entries = std::fs::read_dir(&directory).unwrap();
    let files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(!files.is_empty(), "{} is empty", directory.display());
    for file in files {
        let loaded = Config::load(&file, &|_| None).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(loaded.warnings, [], "{}", file.display());
        assert!(
            !loaded.config.desired_state().services.is_empty(),
            "{}",
            file.display()
        );
    }
}

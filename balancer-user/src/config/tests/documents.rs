//! The documentation and the examples are what the code says.

use std::path::{Path, PathBuf};

use super::super::keys::SECTIONS;
use super::super::{Config, defaults_yaml, reference_markdown};
use super::{parse, problems};

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
    assert_eq!(config.defaults.strategy.value, built_in.strategy.value);
    assert_eq!(config.defaults.admission.value, built_in.admission.value);
    assert_eq!(config.defaults.protocol.value, built_in.protocol.value);
    assert_eq!(
        config.defaults.max_inflight.value,
        built_in.max_inflight.value
    );
    config.defaults = built_in;
    assert_eq!(config, Config::default());
}

/// The keys that the reader names when it meets one it does not know.
fn keys_known_at(text: &str) -> Vec<String> {
    let hint = problems(text)[0].hint.clone();
    let keys = hint.split_once(": ").unwrap().1;
    keys.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_is_documented_and_every_documented_key_exists() {
    for (path, text, nested) in [
        (
            "",
            "x: 1",
            &["agent", "defaults", "functions", "services"][..],
        ),
        ("agent", "agent: {x: 1}", &["log"]),
        ("agent.log", "agent: {log: {x: 1}}", &[]),
        ("defaults", "defaults: {x: 1}", &[]),
        ("functions.NAME", "functions: {a: {x: 1}}", &[]),
        ("services[]", "services: [{x: 1}]", &[]),
        (
            "services[].backends[]",
            "services: [{backends: [{x: 1}]}]",
            &[],
        ),
    ] {
        let section = SECTIONS
            .iter()
            .find(|section| section.path == path)
            .unwrap();
        let mut documented: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
        documented.extend(nested);
        documented.sort_unstable();
        let mut known = keys_known_at(text);
        known.sort_unstable();
        assert_eq!(documented, known, "keys of {path:?}");
    }
    assert_eq!(SECTIONS.len(), 7, "a section is missing above");
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

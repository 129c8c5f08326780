//! Large files are read, and hostile ones are refused without harm.

use proptest::prelude::*;

use super::super::{Config, ConfigError, raw};
use super::{FILE, parse, problems};
use crate::model::{MAX_BACKENDS, MAX_SERVICES};

/// A file of `services` with `backends` each, all of them distinct.
fn large(services: usize, backends: usize) -> String {
    let mut text = String::from("source: file\nservices:\n");
    for service in 0..services {
        let (net, host) = (service / 250, service % 250 + 1);
        text.push_str(&format!(
            "  - name: function-{service}\n    namespace: tenant\n    max_inflight: 1\n    \
             frontends: [\"10.96.{net}.{host}:8080\"]\n    backends:\n"
        ));
        for backend in service * backends..(service + 1) * backends {
            let (wide, net, host) = (backend / 62_500, backend / 250 % 250, backend % 250 + 1);
            text.push_str(&format!(
                "      - address: \"10.{}.{net}.{host}:8080\"\n",
                100 + wide
            ));
        }
    }
    text
}

#[test]
fn the_largest_desired_state_is_read() {
    let loaded = parse(&large(MAX_SERVICES, 8)).unwrap();
    assert_eq!(loaded.warnings, []);
    let state = loaded.config.desired_state();
    assert_eq!(state.services.len(), MAX_SERVICES);
    assert_eq!(state.backend_addresses().len(), MAX_BACKENDS);
}

#[test]
fn one_more_than_the_largest_is_refused() {
    let found = problems(&large(MAX_SERVICES + 1, 0));
    assert_eq!(found.len(), 1, "{found:?}");
    let message = &found[0].message;
    assert!(
        message.contains("16385 services are listed, and at most 16384"),
        "{message}"
    );

    let found = problems(&large(33, 4000));
    assert_eq!(found.len(), 1, "{found:?}");
    let message = &found[0].message;
    assert!(
        message.contains("132000 backends are listed, and at most 131072"),
        "{message}"
    );
}

#[test]
fn deep_nesting_is_refused() {
    for text in [
        "[".repeat(100_000),
        "{a: ".repeat(100_000),
        format!("source: {}", "[".repeat(10_000)),
        format!(
            "functions:\n  a: {}{}",
            "[".repeat(5_000),
            "]".repeat(5_000)
        ),
        (0..2_000)
            .map(|depth| format!("{}a:\n", " ".repeat(depth)))
            .collect(),
        "- ".repeat(100_000),
        "? ".repeat(100_000),
    ] {
        assert!(!problems(&text).is_empty());
    }
}

#[test]
fn aliases_that_unfold_without_end_are_refused() {
    let mut bomb = String::from("services:\n- &s0 {name: a, frontends: ['10.0.0.1:80']}\n");
    for level in 1..30 {
        let below = format!("*s{}", level - 1);
        bomb.push_str(&format!("- &s{level} [{below}, {below}]\n"));
    }
    problems(&bomb);

    let mut list = String::from("services:\n- name: a\n  frontends: &f [");
    list.push_str(&"10.0.0.1:80, ".repeat(1_000));
    list.push_str("]\n");
    for service in 0..100 {
        list.push_str(&format!("- {{name: b{service}, frontends: *f}}\n"));
    }
    assert_too_many(&list, 50_000);
    assert!(raw::read_within(&list, 200_000).is_ok());

    problems("services: &a [*a]\n");
    problems("services:\n- &a\n  <<: *a\n");
}

#[test]
fn a_file_of_too_many_values_is_refused() {
    let text = format!("services: [{}]", "{},".repeat(60_000));
    assert_too_many(&text, 50_000);
}

fn assert_too_many(text: &str, max_nodes: usize) {
    let problem = raw::read_within(text, max_nodes).unwrap_err();
    assert!(problem.message.contains("too many values"), "{problem:?}");
    assert!(problem.line.is_some(), "{problem:?}");
}

#[test]
fn thousands_of_problems_are_counted_not_shown() {
    let text = format!("services:\n{}", "- name: X\n".repeat(5_000));
    let found = problems(&text);
    assert_eq!(found.len(), 101);
    assert_eq!(found[100].message, "9900 more problems are not shown");
}

/// Text that gets past the first few characters of the reader.
fn near_yaml() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "source",
        "agent",
        "services",
        "functions",
        "defaults",
        "name",
        "frontends",
        "backends",
        "address",
        "weight",
        "max_inflight",
        "admin",
        "log",
        "overflow",
        "queue",
        "timeout",
        "rate_limit",
        "strategy",
        "consistent-hash",
        "leader",
        "hash",
        "header",
        "affinity",
        "cookie",
        "client",
        "locality",
        "prefer-node",
        "slow_start",
        "30s",
        "node",
        "zone",
        "health",
        ": ",
        "\n",
        "\n  ",
        "\n    ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        "&a ",
        "*a",
        "<<: ",
        "'",
        "\"",
        "|",
        ">",
        "#",
        "!x ",
        "? ",
        "10.0.0.1:80",
        "[::1]:80",
        "unix:/x",
        "file",
        "-1",
        "1",
        "a",
        "~",
        "\t",
        "---\n",
        "\u{feff}",
        "\\",
        "%",
        "é",
    ]);
    prop::collection::vec(pieces, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        check_result(&Config::parse_bytes(&bytes, FILE, &|_| None).map(|_| ()));
    }

    #[test]
    fn no_text_near_yaml_makes_it_panic(text in near_yaml()) {
        check_result(&parse(&text).map(|_| ()));
    }

    #[test]
    fn no_value_makes_a_setting_panic(value in "\\PC{0,40}") {
        let lookup = |_: &str| Some(value.clone());
        check_result(&Config::parse("source: file\n", FILE, &lookup).map(|_| ()));
    }
}

/// A refusal says something, and every problem says what to do.
fn check_result(result: &Result<(), ConfigError>) {
    if let Err(error) = result {
        assert!(!error.problems().is_empty());
        for problem in error.problems() {
            assert!(!problem.message.is_empty() && !problem.hint.is_empty());
        }
    }
}

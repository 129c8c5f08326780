//! The configuration file: any bytes, in any environment.
//!
//! Lines that begin with `#env ` at the top of the input are comments for the file, and variables
//! for the environment: `#env QUEUE_BUFFER_SIZE=20`.

use std::collections::BTreeMap;

use balancer_user::{
    config::{Config, ConfigError, MAX_SHOWN, Problem},
    fuzzing,
};

use super::services;

/// Reads the input.
pub fn check(data: &[u8]) {
    let environment = environment(data);
    let lookup = |name: &str| environment.get(name).cloned();
    let read = |bytes: &[u8]| fuzzing::config(bytes, "config.yaml", &lookup);
    // To YAML, CR alone ends a line, too.
    let lines = 1 + data
        .iter()
        .filter(|byte| matches!(byte, b'\n' | b'\r'))
        .count();
    let result = read(data);
    match &result {
        Ok(loaded) => {
            services::check(&loaded.config.desired_state());
            check_problems(&loaded.warnings, lines, "warnings");
            assert_eq!(loaded.warning_lines().count(), loaded.warnings.len());
        }
        Err(error) => check_refusal(error, lines),
    }
    check_same(&result, &read(data));
    check_endings(data, &result, read);
}

/// The variables that the input sets.
fn environment(data: &[u8]) -> BTreeMap<String, String> {
    let lines = data.split(|byte| *byte == b'\n');
    let lines = lines.map_while(|line| std::str::from_utf8(line.strip_prefix(b"#env ")?).ok());
    let pairs = lines.filter_map(|line| line.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn check_refusal(error: &ConfigError, lines: usize) {
    let problems = error.problems();
    assert!(!problems.is_empty(), "{error}");
    check_problems(problems, lines, "problems");
}

/// Each says what is wrong, what to do, and where: in the file, or in a variable.
fn check_problems(problems: &[Problem], lines: usize, what: &str) {
    assert!(problems.len() <= MAX_SHOWN + 1, "{} {what}", problems.len());
    for problem in problems {
        assert!(!problem.message.is_empty(), "{problem:?}");
        assert!(!problem.hint.is_empty(), "{problem:?}");
        assert!(
            problem.line.is_none() || problem.variable.is_none(),
            "{problem:?}"
        );
        if let Some(line) = problem.line {
            assert!((1..=lines).contains(&(line as usize)), "{problem:?}");
        }
    }
}

type Read = Result<balancer_user::config::Loaded, ConfigError>;

/// What is read twice says the same twice.
fn check_same(one: &Read, other: &Read) {
    match (one, other) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        _ => panic!("{one:?} and then {other:?}"),
    }
}

/// A comment at the end changes nothing of what is accepted: nothing was cut off.
fn check_endings(data: &[u8], result: &Read, read: impl Fn(&[u8]) -> Read) {
    let Ok(loaded) = result else { return };
    let commented = [data, b"\n# The end.\n"].concat();
    match read(&commented) {
        Ok(other) => assert_same_config(&loaded.config, &other.config),
        Err(error) => panic!("refused with a comment at its end: {error}"),
    }
}

fn assert_same_config(one: &Config, other: &Config) {
    assert_eq!(one, other);
}

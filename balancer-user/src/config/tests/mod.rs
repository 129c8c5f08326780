//! Tests of the configuration as its callers see it: text in, checked types or problems out.

mod agreement;
mod bad;
mod clashes;
mod documents;
mod good;
mod hostile;
mod layers;
mod selection;
mod settings;

use super::{Config, ConfigError, Loaded, Problem};

const FILE: &str = "test.yaml";

/// Reads `text` in an empty environment.
fn parse(text: &str) -> Result<Loaded, ConfigError> {
    Config::parse(text, FILE, &|_| None)
}

/// Reads `text` in an environment of these variables.
fn parse_with(text: &str, variables: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    Config::parse(text, FILE, &|name| {
        let found = variables.iter().find(|(variable, _)| *variable == name);
        found.map(|(_, value)| (*value).to_owned())
    })
}

/// What is wrong with `text`, which must be something.
fn problems(text: &str) -> Vec<Problem> {
    match parse(text) {
        Ok(loaded) => panic!("accepted:\n{text}\nas {:?}", loaded.config),
        Err(error) => error.problems().to_vec(),
    }
}

/// What `text`, which must be good, is warned of.
fn warnings(text: &str) -> Vec<String> {
    let loaded = parse(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    loaded.warning_lines().collect()
}

/// A file, the line that must be named (0: the whole file), and words that must be said.
type Case = (&'static str, u32, &'static [&'static str]);

fn assert_refused(cases: &[Case]) {
    for (text, line, words) in cases {
        let problems = problems(text);
        assert_eq!(problems.len(), 1, "{problems:#?}\n{text}");
        let problem = &problems[0];
        assert_eq!(problem.line.unwrap_or(0), *line, "{problem:?}\n{text}");
        let said = format!("{}; {}", problem.message, problem.hint);
        for words in *words {
            assert!(said.contains(words), "{said:?} lacks {words:?}\n{text}");
        }
        assert!(!problem.hint.is_empty(), "{problem:?}");
    }
}

//! What a fuzzer's log says of its run. Pure; called by `fuzz`.

use std::fmt;

use anyhow::{Context, Result};

/// How a run ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    executions: u64,
    /// Edges of the program that were reached.
    edges: u64,
    /// What was found, and the path of its input.
    pub(super) finding: Option<String>,
}

impl Outcome {
    /// Reads a log. A run that has failed without a finding is an error.
    pub(super) fn read(log: &str, has_succeeded: bool) -> Result<Self> {
        let executions = last(log, "stat::number_of_executed_units:");
        let finding = match has_succeeded {
            true => None,
            false => Some(finding(log).context("it failed, and has found nothing")?),
        };
        Ok(Self {
            executions: executions.unwrap_or_default(),
            edges: last(log, " cov:").unwrap_or_default(),
            finding,
        })
    }
}

/// The number behind the last such words.
fn last(log: &str, words: &str) -> Option<u64> {
    let (_, after) = log.rsplit_once(words)?;
    after.split_whitespace().next()?.parse().ok()
}

/// The input that did it, and what it did: the message of a panic, or the fuzzer's own.
fn finding(log: &str) -> Option<String> {
    let (_, path) = log.rsplit_once("Test unit written to ")?;
    let path = path.lines().next()?;
    let mut lines = log.lines();
    let panicked = lines.find(|line| line.contains("panicked at "));
    let message = match panicked {
        Some(_) => lines.next(),
        None => log.lines().find(|line| line.contains("ERROR: ")),
    };
    Some(format!("{path}: {}", message.unwrap_or_default().trim()))
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            executions,
            edges,
            finding,
        } = self;
        write!(out, "{executions} executions, {edges} edges reached, ")?;
        match finding {
            Some(finding) => write!(out, "found {finding}"),
            None => write!(out, "nothing found"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: &str = "#512\tpulse  cov: 1033 ft: 2045 corp: 60/9KB\n\
                        #900\tDONE   cov: 1040 ft: 2100 corp: 61/9KB\n\
                        Done 900 runs in 11 second(s)\n\
                        stat::number_of_executed_units: 900\n";

    #[test]
    fn a_run_says_how_far_it_came() {
        let outcome = Outcome::read(FINE, true).unwrap();
        assert_eq!(
            outcome.to_string(),
            "900 executions, 1040 edges reached, nothing found"
        );
    }

    #[test]
    fn a_finding_is_named_with_its_input() {
        let log = "#2\tINITED cov: 10 ft: 10 corp: 1/1b\n\
                   thread '<unnamed>' (1) panicked at src/http.rs:29:9:\nleft is not right\n\
                   Test unit written to /t/findings/http/crash-1\n\
                   stat::number_of_executed_units: 3\n";
        let finding = Outcome::read(log, false).unwrap().finding;
        assert_eq!(
            finding.as_deref(),
            Some("/t/findings/http/crash-1: left is not right")
        );
        let log = "==1== ERROR: libFuzzer: timeout after 10 seconds\n\
                   Test unit written to /t/findings/http/timeout-1\n";
        let finding = Outcome::read(log, false).unwrap().finding.unwrap();
        assert!(finding.ends_with("timeout after 10 seconds"), "{finding}");
    }

    #[test]
    fn a_run_that_could_not_be_is_no_finding() {
        Outcome::read("error while loading shared libraries\n", false).unwrap_err();
    }
}

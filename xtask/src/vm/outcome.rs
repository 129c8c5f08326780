//! What came of one kernel, and the table of all. Passed is only what was planned, reported, and
//! followed by the guest's last word.
//!
//! Called by `machine`, which feeds it, and by `mod`, which prints.

use std::{collections::BTreeSet, fmt::Write, ops::ControlFlow, time::Duration};

use super::report::{Program, Report, TestName};

/// One kernel's.
#[derive(Debug)]
pub(super) struct Outcome {
    release: String,
    missing: BTreeSet<TestName>,
    passed: usize,
    failed: Vec<(TestName, String)>,
    programs: Option<Vec<Program>>,
    ended: Ended,
    /// From QEMU's start to the guest's last word.
    pub(super) time: Duration,
}

#[derive(Debug, PartialEq, Eq)]
enum Ended {
    NotYet,
    InOrder,
    Badly(String),
}

impl Outcome {
    pub(super) fn expecting(release: &str, tests: &[TestName]) -> Self {
        Self {
            release: release.to_owned(),
            missing: tests.iter().cloned().collect(),
            passed: 0,
            failed: Vec::new(),
            programs: None,
            ended: Ended::NotYet,
            time: Duration::ZERO,
        }
    }

    /// Takes a report, and breaks off after the last one.
    pub(super) fn take(&mut self, report: Report) -> ControlFlow<()> {
        match report {
            Report::Booted { release } if release != self.release => {
                self.died(format!("another kernel booted: {release}"));
            }
            Report::Booted { .. } => {}
            Report::Loaded { programs, .. } => self.programs = Some(programs),
            Report::Tested { test, failure, .. } => {
                let was_missing = self.missing.remove(&test);
                match failure {
                    Some(failure) => self.failed.push((test, failure)),
                    None if was_missing => self.passed += 1,
                    None => self.died(format!("a test that was not asked for: {test}")),
                }
            }
            Report::Broken { error } => self.died(error),
            Report::Finished => self.ended = Ended::InOrder,
        }
        match self.ended {
            Ended::NotYet => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    /// The guest will report no more.
    pub(super) fn died(&mut self, why: String) {
        self.ended = Ended::Badly(why);
    }

    /// Whether every program was loaded, every test passed, and the guest said that it was done.
    pub(super) fn is_good(&self) -> bool {
        self.ended == Ended::InOrder
            && self.programs.is_some()
            && self.failed.is_empty()
            && self.missing.is_empty()
    }

    /// All that went wrong, with what was said about it; empty if nothing did.
    pub(super) fn complaints(&self) -> String {
        let mut text = String::new();
        let release = &self.release;
        let mut add = |what: &str, said: &str| {
            let _ = writeln!(text, "--- {release}: {what}\n{}", said.trim_end());
        };
        for (test, failure) in &self.failed {
            add(&test.to_string(), failure);
        }
        match &self.ended {
            Ended::Badly(why) => add("the guest did not come to its end", why),
            Ended::NotYet => add("the guest did not come to its end", "it says nothing"),
            Ended::InOrder => {}
        }
        if self.programs.is_none() {
            add("the programs were not loaded", "see above");
        }
        if !self.missing.is_empty() {
            let missing: Vec<_> = self.missing.iter().map(TestName::to_string).collect();
            add("tests without a result", &missing.join("\n"));
        }
        text
    }
}

/// A line for each kernel, and what the verifier walked through on each.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "{:<32} {:>8} {:>7} {:>7} {:>7} {:>6}\n",
        "kernel", "programs", "passed", "failed", "missing", "time"
    );
    for outcome in outcomes {
        let _ = writeln!(
            text,
            "{:<32} {:>8} {:>7} {:>7} {:>7} {:>4} s",
            outcome.release,
            outcome.programs.as_ref().map_or(0, Vec::len),
            outcome.passed,
            outcome.failed.len(),
            outcome.missing.len(),
            outcome.time.as_secs(),
        );
    }
    text.push_str("\ninstructions that the verifier walked through\n");
    for outcome in outcomes {
        for program in outcome.programs.iter().flatten() {
            let count = program.verified_instructions;
            let _ = writeln!(
                text,
                "{:<32} {:<24} {count:>8}",
                outcome.release, program.name
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(name: &str) -> TestName {
        TestName {
            binary: "steer".to_owned(),
            name: name.to_owned(),
        }
    }

    fn tested(name: &str, failure: Option<&str>) -> Report {
        Report::Tested {
            test: test(name),
            seconds: 1.0,
            failure: failure.map(str::to_owned),
        }
    }

    fn loaded() -> Report {
        Report::Loaded {
            programs: Vec::new(),
            seconds: 1.0,
        }
    }

    fn after(reports: Vec<Report>) -> Outcome {
        let mut outcome = Outcome::expecting("6.1", &[test("one"), test("two")]);
        for report in reports {
            let _ = outcome.take(report);
        }
        outcome
    }

    #[test]
    fn all_reported_and_finished_is_good() {
        let outcome = after(vec![
            loaded(),
            tested("one", None),
            tested("two", None),
            Report::Finished,
        ]);
        assert!(outcome.is_good());
        assert_eq!(outcome.complaints(), "");
    }

    #[test]
    fn whatever_lacks_or_fails_is_not_good_and_is_named() {
        for (reports, named) in [
            (
                vec![loaded(), tested("one", None), tested("two", None)],
                "its end",
            ),
            (
                vec![loaded(), tested("one", None), Report::Finished],
                "steer two",
            ),
            (
                vec![tested("one", None), tested("two", None), Report::Finished],
                "not loaded",
            ),
            (
                vec![
                    loaded(),
                    tested("one", Some("boom")),
                    tested("two", None),
                    Report::Finished,
                ],
                "boom",
            ),
        ] {
            let outcome = after(reports);
            assert!(!outcome.is_good(), "{named}");
            let complaints = outcome.complaints();
            assert!(complaints.contains(named), "{complaints}");
        }
    }
}

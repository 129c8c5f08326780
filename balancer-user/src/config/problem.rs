//! What is wrong with a configuration, said so that a person can put it right.
//!
//! Owns the error of this module and the collector that lets one reading report every independent
//! problem at once. Refuses to print thousands: after [`MAX_SHOWN`] it only counts. Everything in
//! `config` reports here; the CLI, the reload and the admin API show it.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Problems, and warnings, that are shown of one configuration. The rest is counted.
pub const MAX_SHOWN: usize = 100;

/// One thing that is wrong, or (as a warning) one thing that does not do what it seems to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Line in the file, from 1; none if it is about the whole file or a variable.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub line: Option<u32>,
    /// Column in that line, in characters from 1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub column: Option<u32>,
    /// The environment variable that holds the value, if one does.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub variable: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl Problem {
    pub(crate) fn new(
        place: impl Into<Place>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        let (line, column, variable) = match place.into() {
            Place::Spot(spot) => (spot.line(), spot.column(), None),
            Place::Variable(name) => (None, None, Some(name.to_owned())),
            Place::WholeFile => (None, None, None),
        };
        Self {
            line,
            column,
            variable,
            message: message.into(),
            hint: hint.into(),
        }
    }

    /// Something about the file as a whole.
    pub fn of_whole_file(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Place::WholeFile, message, hint)
    }

    /// The line for people: `FILE:LINE:COLUMN: what is wrong; what to do`. A problem with an
    /// environment variable begins with the variable's name instead.
    pub fn in_file<'a>(&'a self, file: &'a str) -> impl fmt::Display + 'a {
        InFile {
            problem: self,
            file,
        }
    }
}

struct InFile<'a> {
    problem: &'a Problem,
    file: &'a str,
}

impl fmt::Display for InFile<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem {
            line,
            column,
            variable,
            message,
            hint,
        } = self.problem;
        match (variable, line, column) {
            (Some(name), _, _) => write!(out, "environment variable {name}")?,
            (None, Some(line), Some(column)) => write!(out, "{}:{line}:{column}", self.file)?,
            (None, Some(line), None) => write!(out, "{}:{line}", self.file)?,
            (None, None, _) => write!(out, "{}", self.file)?,
        }
        write!(out, ": {message}; {hint}")
    }
}

/// Why there is no configuration. Its display names every problem, one a line.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read at all.
    #[error(
        "{file}: cannot be read: {source}; name a readable file with --config (the agent goes by owner \
         and mode, even as root), or create this one (`idlefirst config defaults` prints a start)"
    )]
    Unreadable {
        /// The path as it was given.
        file: String,
        /// What the system said.
        source: io::Error,
    },
    /// The file was read, and something in it, or in the environment, is wrong.
    #[error("{}", Lines { file, problems })]
    Invalid {
        /// The path as it was given.
        file: String,
        /// At least one, by line.
        problems: Vec<Problem>,
    },
}

impl ConfigError {
    /// Every problem found, by line. Empty if the file could not be read.
    pub fn problems(&self) -> &[Problem] {
        match self {
            Self::Unreadable { .. } => &[],
            Self::Invalid { problems, .. } => problems,
        }
    }

    /// One word for a metric's label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "unreadable",
            Self::Invalid { .. } => "invalid",
        }
    }
}

struct Lines<'a> {
    file: &'a str,
    problems: &'a [Problem],
}

impl fmt::Display for Lines<'_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(out)?;
            }
            write!(out, "{}", problem.in_file(self.file))?;
        }
        Ok(())
    }
}

/// A position in the file. Line and column are 0 when the reader could not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot {
    line: u32,
    column: u32,
}

impl Spot {
    pub(crate) fn new(line: u64, column: u64) -> Self {
        let narrow = |figure| u32::try_from(figure).unwrap_or(u32::MAX);
        Self {
            line: narrow(line),
            column: narrow(column),
        }
    }

    fn line(self) -> Option<u32> {
        (self.line > 0).then_some(self.line)
    }

    fn column(self) -> Option<u32> {
        (self.column > 0).then_some(self.column)
    }
}

/// For the middle of a sentence: `line 3`.
impl fmt::Display for Spot {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "line {}", self.line)
    }
}

/// Where a value stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    Spot(Spot),
    Variable(&'static str),
    WholeFile,
}

impl From<Spot> for Place {
    fn from(spot: Spot) -> Self {
        Self::Spot(spot)
    }
}

/// Collects what a reading finds, so that one run reports all of it.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    problems: Shown,
    warnings: Shown,
}

impl Findings {
    /// Notes a problem: the configuration will not be accepted.
    pub(crate) fn reject(
        &mut self,
        place: impl Into<Place>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.problems.add(Problem::new(place, message, hint));
    }

    /// Notes something that a person should know, though the configuration stands.
    pub(crate) fn warn(
        &mut self,
        place: impl Into<Place>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) {
        self.warnings.add(Problem::new(place, message, hint));
    }

    /// The warnings, if nothing was rejected.
    pub(crate) fn conclude(self, file: &str) -> Result<Vec<Problem>, ConfigError> {
        let problems = self.problems.into_sorted("problems");
        if problems.is_empty() {
            return Ok(self.warnings.into_sorted("warnings"));
        }
        Err(ConfigError::Invalid {
            file: file.to_owned(),
            problems,
        })
    }
}

/// The first [`MAX_SHOWN`], and how many more there were.
#[derive(Debug, Default)]
struct Shown {
    first: Vec<Problem>,
    further: usize,
}

impl Shown {
    fn add(&mut self, problem: Problem) {
        if self.first.len() < MAX_SHOWN {
            self.first.push(problem);
        } else {
            self.further += 1;
        }
    }

    fn into_sorted(mut self, what: &str) -> Vec<Problem> {
        self.first
            .sort_by_key(|problem| (problem.line.unwrap_or(u32::MAX), problem.column));
        if self.further > 0 {
            self.first.push(Problem::new(
                Place::WholeFile,
                format!("{} more {what} are not shown", self.further),
                "put these right first",
            ));
        }
        self.first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_are_shown_by_line_and_at_most_a_hundred() {
        let mut findings = Findings::default();
        for line in (1..=150).rev() {
            findings.reject(Spot::new(line, 1), format!("wrong {line}"), "mend it");
        }
        let error = findings.conclude("f.yaml").unwrap_err();
        assert_eq!(error.problems().len(), MAX_SHOWN + 1);
        let text = error.to_string();
        assert!(
            text.starts_with("f.yaml:51:1: wrong 51; mend it\n"),
            "{text}"
        );
        assert!(
            text.ends_with("f.yaml: 50 more problems are not shown; put these right first"),
            "{text}"
        );
    }

    #[test]
    fn a_problem_names_its_variable_instead_of_a_line() {
        let problem = Problem::new(Place::Variable("SOME"), "it is wrong", "mend it");
        assert_eq!(
            problem.in_file("f.yaml").to_string(),
            "environment variable SOME: it is wrong; mend it"
        );
        let json = serde_json::to_value(&problem).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"variable": "SOME", "message": "it is wrong", "hint": "mend it"})
        );
    }
}

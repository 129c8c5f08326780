//! The environment variables that stand in for keys of the file.
//!
//! Owns their names and the rule that an empty value is as good as none. Reads nothing itself: the
//! caller passes the look-up, so that tests need no process-wide state.

use super::problem::{Findings, Place};
use super::value::Written;

/// Stands in for `defaults.strategy`.
pub(crate) const STRATEGY: &str = "POD_SELECTION_STRATEGY";
/// Stands in for `agent.cgroup`.
pub(crate) const CGROUP: &str = "IDLEFIRST_CGROUP";
/// Stands in for `agent.pin_path`.
pub(crate) const PIN_PATH: &str = "IDLEFIRST_PIN_PATH";
/// Stands in for `agent.admin`; its entries are separated by commas.
pub(crate) const ADMIN: &str = "IDLEFIRST_ADMIN";
/// Stands in for `agent.metrics`.
pub(crate) const METRICS: &str = "IDLEFIRST_METRICS";
/// Stands in for `agent.log.level`.
pub(crate) const LOG_LEVEL: &str = "IDLEFIRST_LOG";
/// Stands in for `agent.log.format`.
pub(crate) const LOG_FORMAT: &str = "IDLEFIRST_LOG_FORMAT";

/// Variables of the contract that nothing in this version goes by.
pub(crate) const WITHOUT_EFFECT: &[&str] = &[
    "QUEUE_BUFFER_SIZE",
    "QUEUE_TIMEOUT_MS",
    "QUEUE_RETRY_COUNT",
    "QUEUE_TICK_INTERVAL_MS",
    "HEALTH_CHECK_TIMEOUT_MS",
    "HEALTH_CHECK_CACHE_TTL_SEC",
    "HEALTH_CHECK_ENABLED",
    "POD_AVAILABILITY_RETRIES",
    "MAX_CONCURRENT_HEALTH_CHECKS",
    "POD_CACHE_REFRESH_INTERVAL_SEC",
    "CACHE_MAX_SIZE",
    "METRICS_COLLECTION_ENABLED",
];

/// A variable's value by its name. Pass [`process_environment`], or a table in a test.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process. What is not UTF-8 is marked as such, and then fails the check
/// of its setting rather than passing for unset.
pub fn process_environment(variable: &str) -> Option<String> {
    std::env::var_os(variable).map(|value| value.to_string_lossy().into_owned())
}

/// One variable that is set to something.
#[derive(Debug)]
pub(crate) struct Variable {
    name: &'static str,
    value: String,
}

impl Variable {
    pub(crate) fn look_up(lookup: Lookup<'_>, name: &'static str) -> Option<Self> {
        let value = lookup(name)?;
        let value = value.trim().to_owned();
        (!value.is_empty()).then_some(Self { name, value })
    }

    pub(crate) fn written(&self) -> Written<'_> {
        self.part(&self.value)
    }

    /// The entries of a list, separated by commas.
    pub(crate) fn entries(&self) -> impl Iterator<Item = Written<'_>> {
        let entries = self.value.split(',').map(str::trim);
        entries
            .filter(|entry| !entry.is_empty())
            .map(|entry| self.part(entry))
    }

    fn part<'a>(&self, text: &'a str) -> Written<'a> {
        Written {
            text,
            place: Place::Variable(self.name),
        }
    }
}

/// Warns of variables that someone set for nothing.
pub(crate) fn warn_of_those_without_effect(lookup: Lookup<'_>, findings: &mut Findings) {
    for name in WITHOUT_EFFECT {
        if Variable::look_up(lookup, name).is_some() {
            findings.warn(
                Place::Variable(name),
                "it has no effect in this version",
                "unset it, or leave it for a later version",
            );
        }
    }
}

//! The environment variables that stand in for keys of the file.
//!
//! Owns their names and the rule that an empty value is as good as none, and knows what this host
//! is called. The checks read nothing themselves: the caller passes the look-up, so that tests need
//! no process-wide state.

use std::sync::Arc;

use super::problem::Place;
use super::value::Written;

/// Stands in for `defaults.strategy`.
pub(crate) const STRATEGY: &str = "POD_SELECTION_STRATEGY";
/// Stands in for `agent.node`.
pub(crate) const NODE: &str = "IDLEFIRST_NODE";
/// Stands in for `agent.zone`.
pub(crate) const ZONE: &str = "IDLEFIRST_ZONE";
/// Stands in for `agent.cgroup`.
pub(crate) const CGROUP: &str = "IDLEFIRST_CGROUP";
/// Stands in for `agent.pin_path`.
pub(crate) const PIN_PATH: &str = "IDLEFIRST_PIN_PATH";
/// Stands in for `agent.admin`; its entries are separated by commas.
pub(crate) const ADMIN: &str = "IDLEFIRST_ADMIN";
/// Stands in for `agent.admin_token_file`, for the agent and for commands.
pub(crate) const ADMIN_TOKEN_FILE: &str = "IDLEFIRST_ADMIN_TOKEN_FILE";
/// Stands in for `agent.metrics`.
pub(crate) const METRICS: &str = "IDLEFIRST_METRICS";
/// Stands in for `agent.log.level`.
pub(crate) const LOG_LEVEL: &str = "IDLEFIRST_LOG";
/// Stands in for `agent.log.format`.
pub(crate) const LOG_FORMAT: &str = "IDLEFIRST_LOG_FORMAT";

/// Stands in for `agent.health_checks.enabled`.
pub(crate) const PROBES_ENABLED: &str = "HEALTH_CHECK_ENABLED";
/// Stands in for `agent.health_checks.at_once`.
pub(crate) const PROBES_AT_ONCE: &str = "MAX_CONCURRENT_HEALTH_CHECKS";
/// Stands in for `agent.health_checks.cache_ttl`, in seconds.
pub(crate) const PROBES_CACHE_TTL: &str = "HEALTH_CHECK_CACHE_TTL_SEC";
/// Stands in for `agent.cache_max_size`.
pub(crate) const CACHE_MAX_SIZE: &str = "CACHE_MAX_SIZE";
/// Stands in for `agent.metrics_collection`.
pub(crate) const METRICS_COLLECTION: &str = "METRICS_COLLECTION_ENABLED";
/// Stands in for `agent.resync`, in seconds.
pub(crate) const RESYNC: &str = "POD_CACHE_REFRESH_INTERVAL_SEC";
/// Stands in for `defaults.queue.size`.
pub(crate) const QUEUE_SIZE: &str = "QUEUE_BUFFER_SIZE";
/// Stands in for `defaults.queue.timeout`, in milliseconds.
pub(crate) const QUEUE_TIMEOUT: &str = "QUEUE_TIMEOUT_MS";
/// Stands in for `defaults.queue.attempts`.
pub(crate) const QUEUE_ATTEMPTS: &str = "QUEUE_RETRY_COUNT";
/// Stands in for `defaults.queue.tick`, in milliseconds.
pub(crate) const QUEUE_TICK: &str = "QUEUE_TICK_INTERVAL_MS";
/// Stands in for `defaults.health.timeout`, in milliseconds.
pub(crate) const HEALTH_TIMEOUT: &str = "HEALTH_CHECK_TIMEOUT_MS";
/// Stands in for `defaults.health.failures`.
pub(crate) const HEALTH_FAILURES: &str = "POD_AVAILABILITY_RETRIES";

/// What messages call a variable's value; the variable is named beside it.
pub(crate) const VALUE: &str = "its value";

/// A variable's value by its name. Pass [`process_environment`], or a table in a test.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process. What is not UTF-8 is marked as such, and then fails the check
/// of its setting rather than passing for unset.
pub fn process_environment(variable: &str) -> Option<String> {
    std::env::var_os(variable).map(|value| value.to_string_lossy().into_owned())
}

/// What this host is called, which stands in for an unset `agent.node`. None where it has no name.
pub fn host_name() -> Option<Arc<str>> {
    let text = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = text.trim();
    (!name.is_empty() && name != "(none)").then(|| name.into())
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

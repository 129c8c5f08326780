//! The agent's log: lines on standard error, as text or JSON, at a level that can be changed
//! while the agent runs.
//!
//! Installed once by `agent`; the level is changed through the admin API. Other crates' lines are
//! shown from `info` up at most, so that `debug` is about balancing and not about HTTP framing.

use std::{
    io::{self, IsTerminal},
    sync::{Arc, Mutex, PoisonError},
};

use tracing::Level;
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    layer::SubscriberExt,
    reload,
    util::SubscriberInitExt,
};

use crate::config::{LogConfig, LogFormat, LogLevel};

/// Whose lines follow the level: the agent's, the command's and the eBPF programs'.
const OWN_TARGETS: [&str; 3] = ["balancer_user", "balancer_ebpf", "idlefirst"];

/// Who has a line, as an error, for every request that fails, at every try. The agent itself says
/// what comes of them; these are shown with level `debug`.
const TOLD_ELSEWHERE: [&str; 2] = ["kube_client::client::builder", "kube_runtime::watcher"];

/// Changes how much is logged. Clones control the same log.
#[derive(Clone, Debug)]
pub struct LogControl {
    level: Arc<Mutex<LogLevel>>,
    filter: reload::Handle<Targets, Registry>,
}

/// Starts to log. A process has one log: a second call changes nothing but gives a control that
/// controls nothing.
pub fn init(config: &LogConfig) -> LogControl {
    let (filter, handle) = reload::Layer::new(targets(config.level));
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        // Otherwise a closed standard error would end the agent by a panic.
        .log_internal_errors(false);
    let lines = match config.format {
        LogFormat::Text => lines.boxed(),
        LogFormat::Json => lines.with_ansi(false).json().flatten_event(true).boxed(),
    };
    // Fails only if there is a log already: see above.
    let _ = tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .try_init();
    LogControl {
        level: Arc::new(Mutex::new(config.level)),
        filter: handle,
    }
}

impl LogControl {
    /// The level in force.
    pub fn level(&self) -> LogLevel {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another level in force.
    pub fn set(&self, level: LogLevel) {
        // Fails only if the log is gone, and then nothing is shown anyway.
        let _ = self.filter.reload(targets(level));
        *self.level.lock().unwrap_or_else(PoisonError::into_inner) = level;
    }

    /// Whether the finest lines are shown: then the eBPF programs log, too.
    pub fn shows_trace(&self) -> bool {
        self.level() == LogLevel::Trace
    }
}

fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => Level::ERROR,
        LogLevel::Warn => Level::WARN,
        LogLevel::Info => Level::INFO,
        LogLevel::Debug => Level::DEBUG,
        LogLevel::Trace => Level::TRACE,
    };
    // A greater level shows more.
    let targets = Targets::new().with_default(level.min(Level::INFO));
    let targets = targets.with_targets(OWN_TARGETS.map(|target| (target, level)));
    match level < Level::DEBUG {
        true => targets.with_targets(TOLD_ELSEWHERE.map(|target| (target, LevelFilter::OFF))),
        false => targets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_lines_follow_the_level_and_others_stop_at_info() {
        let trace = targets(LogLevel::Trace);
        assert!(trace.would_enable("balancer_user::admin", &Level::TRACE));
        assert!(trace.would_enable("hyper", &Level::INFO));
        assert!(!trace.would_enable("hyper", &Level::DEBUG));
        let error = targets(LogLevel::Error);
        assert!(!error.would_enable("balancer_user", &Level::WARN));
        assert!(!error.would_enable("hyper", &Level::WARN));
    }

    #[test]
    fn requests_that_fail_are_told_by_the_agent_alone() {
        let info = targets(LogLevel::Info);
        for target in TOLD_ELSEWHERE {
            assert!(!info.would_enable(target, &Level::ERROR), "{target}");
            let debug = targets(LogLevel::Debug);
            assert!(debug.would_enable(target, &Level::ERROR), "{target}");
        }
        assert!(info.would_enable("kube_client::config", &Level::WARN));
    }

    #[test]
    fn a_changed_level_is_the_one_shown() {
        let log = init(&LogConfig::default());
        log.set(LogLevel::Trace);
        assert!(log.clone().shows_trace());
        log.set(LogLevel::Warn);
        assert_eq!(log.clone().level(), LogLevel::Warn);
        assert!(!log.shows_trace());
    }
}

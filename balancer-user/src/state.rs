//! The one writer of the desired state.
//!
//! Sources hand it what they have read; it keeps the last good state in force,
//! numbers each one, and shows it to `reconcile`, the admin API and the metrics.
//! A bad change is remembered as such and changes nothing else.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use tokio::sync::watch;

use crate::{
    config::{Config, ConfigError, Loaded, Problem},
    model::DesiredState,
};

/// What is wanted, since when, and what was wrong with the last attempt to
/// change it.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Counts accepted changes from 1.
    pub generation: u64,
    /// The services that should be balanced.
    pub desired: Arc<DesiredState>,
    /// The configuration that they come from.
    pub config: Arc<Config>,
    /// Its file.
    pub file: PathBuf,
    /// When it was accepted.
    pub accepted_at: SystemTime,
    /// What its author should know.
    pub warnings: Vec<Problem>,
    /// Why the newest change of the file is not in force; empty if it is.
    pub problems: Vec<Problem>,
    /// Changes rejected since the start.
    pub rejected: u64,
}

/// Holds the state. Dropping it ends every task that waits for changes.
#[derive(Debug)]
pub struct State {
    sender: watch::Sender<Arc<Snapshot>>,
}

impl State {
    /// Starts from a first good configuration.
    pub fn new(loaded: Loaded, file: PathBuf) -> Self {
        let snapshot = Snapshot {
            generation: 1,
            desired: Arc::new(loaded.config.desired_state()),
            config: Arc::new(loaded.config),
            file,
            accepted_at: SystemTime::now(),
            warnings: loaded.warnings,
            problems: Vec::new(),
            rejected: 0,
        };
        Self {
            sender: watch::Sender::new(Arc::new(snapshot)),
        }
    }

    /// Follows the state.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.sender.subscribe()
    }

    /// Puts a new configuration in force.
    pub fn accept(&self, loaded: Loaded) {
        self.sender.send_modify(|current| {
            let next = Arc::make_mut(current);
            next.generation += 1;
            next.desired = Arc::new(loaded.config.desired_state());
            next.config = Arc::new(loaded.config);
            next.accepted_at = SystemTime::now();
            next.warnings = loaded.warnings;
            next.problems = Vec::new();
        });
    }

    /// Remembers that a change was bad; what is in force stays.
    pub fn reject(&self, error: &ConfigError) {
        self.sender.send_modify(|current| {
            let next = Arc::make_mut(current);
            next.problems = match error {
                ConfigError::Invalid { problems, .. } => problems.clone(),
                ConfigError::Unreadable { source, .. } => vec![Problem::of_unreadable_file(source)],
            };
            next.rejected += 1;
        });
    }
}

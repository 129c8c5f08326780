//! The one writer of the desired state.
//!
//! Sources hand it what they have read; it keeps the last good state in force,
//! numbers each one, and shows it to `reconcile`, the admin API and the metrics.
//! A bad change is remembered as such and changes nothing else.

use std::{
    collections::{BTreeSet, HashSet},
    fmt,
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use imbl::OrdMap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    config::{AgentConfig, Config, ConfigError, Loaded, Problem, Source},
    model::{DesiredState, Service, ServiceName},
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
    /// Whether the source has told all that it knows at least once.
    pub is_synced: bool,
    /// What is wrong with objects of the source, by the service that it is about.
    pub config_errors: OrdMap<ServiceName, Arc<[ObjectProblem]>>,
    /// Objects of the source that cannot be read. What is wrong with a service's own is among its
    /// `config_errors` too.
    pub unreadable: Arc<BTreeSet<ObjectProblem>>,
}

impl Snapshot {
    /// Everything that is wrong with objects of the source, once each.
    pub fn object_problems(&self) -> Vec<ObjectProblem> {
        let of_services = self.config_errors.values().flat_map(|them| them.iter());
        let mut seen = HashSet::new();
        let all = of_services.chain(&*self.unreadable);
        all.filter(|each| seen.insert(*each)).cloned().collect()
    }
}

/// Something wrong with an object of the source. What was good before stays in force.
#[derive(
    Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
pub struct ObjectProblem {
    /// Its kind: `Service`, `Deployment`, `EndpointSlice`.
    pub kind: String,
    /// Where it is.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The annotation at fault, if it is one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub annotation: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: String,
}

impl fmt::Display for ObjectProblem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            namespace,
            name,
            annotation,
            message,
            hint,
        } = self;
        write!(out, "{kind} {namespace}/{name}: ")?;
        if let Some(annotation) = annotation {
            write!(out, "{annotation}: ")?;
        }
        write!(out, "{message}; {hint}")
    }
}

/// How one service should be from now on.
#[derive(Clone, Debug)]
pub struct Change {
    /// Its name.
    pub name: ServiceName,
    /// The service; `None`: it is not to be balanced (any more).
    pub service: Option<Arc<Service>>,
    /// What is wrong with the objects that it is made of.
    pub problems: Vec<ObjectProblem>,
}

/// Holds the state. Dropping it ends every task that waits for changes.
#[derive(Debug)]
pub struct State {
    sender: watch::Sender<Arc<Snapshot>>,
    /// The agent's own settings, as it was started with them.
    agent: AgentConfig,
}

impl State {
    /// Starts from a first good configuration.
    pub fn new(loaded: Loaded, file: PathBuf) -> Self {
        let agent = loaded.config.agent.clone();
        let is_synced = loaded.config.source == Source::File;
        let snapshot = Snapshot {
            generation: 1,
            desired: Arc::new(loaded.config.desired_state()),
            config: Arc::new(loaded.config),
            file,
            accepted_at: SystemTime::now(),
            warnings: loaded.warnings,
            problems: Vec::new(),
            rejected: 0,
            is_synced,
            config_errors: OrdMap::new(),
            unreadable: Arc::default(),
        };
        Self {
            sender: watch::Sender::new(Arc::new(snapshot)),
            agent,
        }
    }

    /// Follows the state.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.sender.subscribe()
    }

    /// Whether this very configuration is in force, and nothing is known to be wrong with the file.
    pub fn is_in_force(&self, config: &Config) -> bool {
        let current = self.sender.borrow();
        current.problems.is_empty() && *current.config == *config
    }

    /// Puts a new configuration in force: its services. What it says under
    /// `agent:` holds from the next start on, and that is said if it differs.
    pub fn accept(&self, mut loaded: Loaded) {
        if loaded.config.agent != self.agent {
            let warning = Problem::of_whole_file(
                "the changes under agent: are not in force",
                "restart the agent to put them in force",
            );
            tracing::warn!("{}", warning.in_file(&loaded.file));
            loaded.warnings.push(warning);
        }
        self.sender.send_modify(|current| {
            let next = Arc::make_mut(current);
            next.generation += 1;
            if loaded.config.source == Source::File {
                next.desired = Arc::new(loaded.config.desired_state());
            }
            next.config = Arc::new(loaded.config);
            next.accepted_at = SystemTime::now();
            next.warnings = loaded.warnings;
            next.problems = Vec::new();
        });
    }

    /// Puts changed services in force, all at once. From the first call on the source is taken to
    /// have told all that it knows.
    pub fn amend(&self, changes: Vec<Change>) {
        self.sender.send_if_modified(|current| {
            if changes.is_empty() && current.is_synced {
                return false;
            }
            let next = Arc::make_mut(current);
            let desired = Arc::make_mut(&mut next.desired);
            for change in changes {
                if change.problems.is_empty() {
                    next.config_errors.remove(&change.name);
                } else {
                    let problems = change.problems.into();
                    next.config_errors.insert(change.name.clone(), problems);
                }
                match change.service {
                    Some(service) => desired.services.insert(change.name, service),
                    None => desired.services.remove(&change.name),
                };
            }
            next.generation += 1;
            next.accepted_at = SystemTime::now();
            next.is_synced = true;
            true
        });
    }

    /// Remembers which objects of the source cannot be read. Nothing that is in force changes.
    pub fn note_unreadable(&self, unreadable: BTreeSet<ObjectProblem>) {
        self.sender.send_if_modified(|current| {
            if *current.unreadable == unreadable {
                return false;
            }
            Arc::make_mut(current).unreadable = Arc::new(unreadable);
            true
        });
    }

    /// Remembers that a change was bad; what is in force stays.
    pub fn reject(&self, error: &ConfigError) {
        self.sender.send_modify(|current| {
            let next = Arc::make_mut(current);
            next.problems = match error {
                ConfigError::Invalid { problems, .. } => problems.clone(),
                ConfigError::Unreadable { source, .. } => vec![Problem::of_whole_file(
                    format!("the file cannot be read: {source}"),
                    "put it back, or make it readable; what was read before stays in force",
                )],
            };
            next.rejected += 1;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(text: &str) -> Loaded {
        Config::parse(text, "config.yaml", &|_| None).unwrap()
    }

    #[test]
    fn changes_under_agent_are_said_to_wait_for_a_restart() {
        let state = State::new(loaded("source: file\n"), "config.yaml".into());
        let snapshots = state.subscribe();
        state.accept(loaded("source: file\nagent: {metrics: none}\n"));
        let warnings = snapshots.borrow().warnings.clone();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].hint.contains("restart"), "{warnings:?}");
        state.accept(loaded("source: file\n"));
        assert_eq!(snapshots.borrow().warnings, []);
        assert_eq!(snapshots.borrow().generation, 3);
    }

    #[test]
    fn what_cannot_be_read_is_told_once_and_changes_nothing_in_force() {
        let state = State::new(loaded("source: file\n"), "config.yaml".into());
        let mut snapshots = state.subscribe();
        let problem = |name: &str| ObjectProblem {
            kind: "EndpointSlice".to_owned(),
            namespace: "fn".to_owned(),
            name: name.to_owned(),
            annotation: None,
            message: "it cannot be read".to_owned(),
            hint: "correct it".to_owned(),
        };
        state.amend(vec![Change {
            name: "fn/hello".parse().unwrap(),
            service: None,
            problems: vec![problem("hello-1")],
        }]);
        let generation = snapshots.borrow_and_update().generation;
        let all = BTreeSet::from([problem("hello-1"), problem("stray")]);
        state.note_unreadable(all.clone());
        assert!(snapshots.has_changed().unwrap());
        let snapshot = snapshots.borrow_and_update().clone();
        assert_eq!(snapshot.generation, generation);
        assert_eq!(
            snapshot.object_problems(),
            [problem("hello-1"), problem("stray")]
        );
        state.note_unreadable(all);
        assert!(!snapshots.has_changed().unwrap());
        state.note_unreadable(BTreeSet::new());
        assert_eq!(snapshots.borrow().object_problems(), [problem("hello-1")]);
    }
}

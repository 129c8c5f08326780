//! Tells people what is wrong with their objects: Kubernetes Events, and the log.
//!
//! A task of its own, so that a slow API holds nothing up. What is wrong is told when it comes up,
//! not again while it stays; the kube library counts repetitions up instead of adding Events.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{self, Event, EventType, Recorder};
use tokio::sync::mpsc;

use super::object::Key;
use crate::model::ServiceName;
use crate::state::{Change, ObjectProblem};

/// Problems that may wait for the API. Beyond, they are in the log and the admin API only.
const WAITING: usize = 1024;

/// Problems whose repetitions are counted up; beyond, all begin anew.
const MAX_RECORDERS: usize = 1024;

/// Bytes of an Event's note at most, as the API has it.
const MAX_NOTE_BYTES: usize = 1024;

/// Reports problems.
pub(super) struct Reporter {
    told: HashMap<ServiceName, Vec<ObjectProblem>>,
    events: mpsc::Sender<(ObjectProblem, Option<String>)>,
}

impl Reporter {
    /// Starts the task.
    pub(super) fn start(client: Client, node: Option<&str>) -> Self {
        let (events, waiting) = mpsc::channel(WAITING);
        let reporter = events::Reporter {
            controller: "idlefirst".into(),
            instance: node.map(Into::into),
        };
        tokio::spawn(publish(client, reporter, waiting));
        Self {
            told: HashMap::new(),
            events,
        }
    }

    /// Reports what has come up. `uid` gives that of a Service.
    pub(super) fn report(&mut self, changes: &[Change], uid: impl Fn(&Key) -> Option<String>) {
        for change in changes {
            let before = match change.problems.is_empty() {
                true => self.told.remove(&change.name),
                false => self
                    .told
                    .insert(change.name.clone(), change.problems.clone()),
            };
            let before = before.unwrap_or_default();
            for problem in change.problems.iter().filter(|each| !before.contains(each)) {
                tracing::warn!("{problem}");
                let key = Key {
                    namespace: problem.namespace.as_str().into(),
                    name: problem.name.as_str().into(),
                };
                let uid = uid(&key).filter(|_| problem.kind == "Service");
                let _ = self.events.try_send((problem.clone(), uid));
            }
        }
    }

    /// Reports an object that cannot be read.
    pub(super) fn unreadable(&mut self, kind: &'static str, key: &Key, error: &serde_json::Error) {
        let problem = ObjectProblem {
            kind: kind.to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            annotation: None,
            message: format!("it cannot be read: {error}"),
            hint: "correct it; what was read of it before stays in force".to_owned(),
        };
        tracing::warn!("{problem}");
        let _ = self.events.try_send((problem, None));
    }
}

/// Each problem has a recorder of its own: one recorder takes all problems of an object for
/// repetitions of the first, whose note alone would be read.
async fn publish(
    client: Client,
    reporter: events::Reporter,
    mut waiting: mpsc::Receiver<(ObjectProblem, Option<String>)>,
) {
    let mut recorders = HashMap::<String, Recorder>::new();
    while let Some((problem, uid)) = waiting.recv().await {
        let event = Event {
            type_: EventType::Warning,
            reason: "InvalidConfiguration".to_owned(),
            note: Some(note(&problem)),
            action: "Balance".to_owned(),
            secondary: None,
        };
        let reference = ObjectReference {
            api_version: Some(api_version(&problem.kind).to_owned()),
            kind: Some(problem.kind.clone()),
            namespace: Some(problem.namespace.clone()),
            name: Some(problem.name.clone()),
            uid,
            ..ObjectReference::default()
        };
        if recorders.len() >= MAX_RECORDERS {
            recorders.clear();
        }
        let recorder = recorders
            .entry(problem.to_string())
            .or_insert_with(|| Recorder::new(client.clone(), reporter.clone()));
        if let Err(error) = recorder.publish(&event, &reference).await {
            tracing::debug!(error = &error as &dyn std::error::Error, %problem, "an Event could not be written");
        }
    }
}

fn note(problem: &ObjectProblem) -> String {
    let mut note = match &problem.annotation {
        Some(annotation) => format!("{annotation}: {}; {}", problem.message, problem.hint),
        None => format!("{}; {}", problem.message, problem.hint),
    };
    if note.len() > MAX_NOTE_BYTES {
        let end = (0..=MAX_NOTE_BYTES)
            .rev()
            .find(|at| note.is_char_boundary(*at));
        note.truncate(end.unwrap_or_default());
    }
    note
}

fn api_version(kind: &str) -> &'static str {
    match kind {
        "EndpointSlice" => "discovery.k8s.io/v1",
        "Deployment" => "apps/v1",
        _ => "v1",
    }
}

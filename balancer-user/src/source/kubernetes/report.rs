//! Tells people what is wrong with their objects: Kubernetes Events, and the log.
//!
//! What is wrong is told when it comes up, not again while it stays. Every agent sees the same, so
//! an Event's name follows from what it says: of all agents one writes it, the others find it
//! there. A task of its own, so that a slow API holds nothing up.

use std::collections::{BTreeSet, HashMap};
use std::hash::{Hash as _, Hasher as _};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use siphasher::sip::SipHasher24;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::kinds::{DeploymentBody, SliceBody};
use super::object::Body;
use crate::model::ServiceName;
use crate::state::{Change, ObjectProblem};

/// Problems that may wait for the API. Beyond, they are in the log and the admin API only.
const WAITING: usize = 1024;

/// Events whose repetitions are counted; beyond, all begin anew.
const MAX_COUNTED: usize = 4096;

/// Agents that see the same at once write within this time, not at once.
const SPREAD: Duration = Duration::from_millis(250);

/// How long one write may take.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of an Event's note at most, as the API has it: a little less than 1 KiB.
const MAX_NOTE_BYTES: usize = 1023;

/// Bytes of the object's name in that of its Event; with what follows it is within the API's 253.
const MAX_NAME_BYTES: usize = 200;

/// Who reports.
const CONTROLLER: &str = "idlefirst.dev/agent";

/// Reports problems.
#[derive(Debug)]
pub(super) struct Reporter {
    /// What is wrong, by the service that it is about; `None`: whatever cannot be read.
    told: HashMap<Option<ServiceName>, Vec<ObjectProblem>>,
    /// In how many of those each problem is.
    held: HashMap<ObjectProblem, usize>,
    events: mpsc::Sender<Complaint>,
}

/// A problem, and of whom.
#[derive(Debug)]
struct Complaint {
    problem: ObjectProblem,
    uid: Option<String>,
}

impl Reporter {
    /// Starts the task.
    pub(super) fn start(client: Client, node: Option<&str>) -> Self {
        let (reporter, waiting) = Self::new();
        tokio::spawn(publish(client, node.unwrap_or("agent").to_owned(), waiting));
        reporter
    }

    fn new() -> (Self, mpsc::Receiver<Complaint>) {
        let (events, waiting) = mpsc::channel(WAITING);
        let reporter = Self {
            told: HashMap::new(),
            held: HashMap::new(),
            events,
        };
        (reporter, waiting)
    }

    /// Reports what has come up. `uid` gives that of an object, where it is known.
    pub(super) fn report(
        &mut self,
        changes: &[Change],
        unreadable: &BTreeSet<ObjectProblem>,
        uid: impl Fn(&ObjectProblem) -> Option<String>,
    ) {
        let unreadable: Vec<_> = unreadable.iter().cloned().collect();
        let of_services = changes
            .iter()
            .map(|change| (Some(change.name.clone()), change.problems.clone()));
        let mut settled = Vec::new();
        for (of, problems) in of_services.chain([(None, unreadable)]) {
            for problem in &problems {
                let held = self.held.entry(problem.clone()).or_default();
                *held += 1;
                if *held > 1 {
                    continue;
                }
                tracing::warn!("{problem}");
                let _ = self.events.try_send(Complaint {
                    uid: uid(problem),
                    problem: problem.clone(),
                });
            }
            let before = match problems.is_empty() {
                true => self.told.remove(&of),
                false => self.told.insert(of, problems),
            };
            settled.extend(before.unwrap_or_default());
        }
        // Only now: a problem may have gone from one service to another.
        for problem in settled {
            if let Some(held) = self.held.get_mut(&problem) {
                *held -= 1;
                if *held == 0 {
                    self.held.remove(&problem);
                }
            }
        }
    }
}

/// Writes Events until the reporter is gone.
async fn publish(client: Client, node: String, mut waiting: mpsc::Receiver<Complaint>) {
    let mut counted = HashMap::<String, i32>::new();
    let mut are_refused = false;
    while let Some(complaint) = waiting.recv().await {
        if waiting.is_empty() {
            sleep(SPREAD.mul_f64(fastrand::f64())).await;
        }
        if counted.len() >= MAX_COUNTED {
            counted.clear();
        }
        let event = complaint.event(&node);
        let name = event.metadata.name.clone().unwrap_or_default();
        let count = counted.entry(name).or_default();
        *count += 1;
        let written = timeout(TIMEOUT, write(&client, &event, *count)).await;
        let is_refused = match written {
            Ok(Ok(())) => false,
            Ok(Err(error)) => {
                if !are_refused {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "Events cannot be written; what is wrong with objects is in the log and \
                         under config_errors in the admin API"
                    );
                }
                true
            }
            // The API is away, which its watches tell.
            Err(_) => are_refused,
        };
        are_refused = is_refused;
    }
}

/// Writes an Event that this agent has come to for the `count`th time.
async fn write(client: &Client, event: &Event, count: i32) -> Result<(), kube::Error> {
    let namespace = event.metadata.namespace.as_deref().unwrap_or("default");
    let name = event.metadata.name.as_deref().unwrap_or_default();
    let api = Api::<Event>::namespaced(client.clone(), namespace);
    if count > 1 {
        let series = json!({"series": {"count": count, "lastObservedTime": event.event_time}});
        let patch = Patch::Merge(&series);
        match api.patch(name, &PatchParams::default(), &patch).await {
            // The API keeps Events for an hour or so.
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return other.map(drop),
        }
    }
    match api.create(&PostParams::default(), event).await {
        // Another agent has seen the same, or this one before it was started again.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        other => other.map(drop),
    }
}

impl Complaint {
    fn event(&self, node: &str) -> Event {
        let problem = &self.problem;
        Event {
            metadata: ObjectMeta {
                name: Some(self.name()),
                namespace: Some(problem.namespace.clone()),
                ..ObjectMeta::default()
            },
            type_: Some("Warning".to_owned()),
            reason: Some("InvalidConfiguration".to_owned()),
            action: Some("Balance".to_owned()),
            note: Some(note(problem)),
            event_time: Some(MicroTime(Timestamp::now())),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(node.to_owned()),
            regarding: Some(ObjectReference {
                api_version: Some(api_version(&problem.kind)),
                kind: Some(problem.kind.clone()),
                namespace: Some(problem.namespace.clone()),
                name: Some(problem.name.clone()),
                uid: self.uid.clone(),
                ..ObjectReference::default()
            }),
            ..Event::default()
        }
    }

    /// The same for every agent, and another for every problem.
    fn name(&self) -> String {
        let mut hasher = SipHasher24::new();
        (&self.problem, &self.uid).hash(&mut hasher);
        let name = prefix(&self.problem.name, MAX_NAME_BYTES);
        let name = name.trim_end_matches(['.', '-']);
        format!("{name}.{:016x}", hasher.finish())
    }
}

fn note(problem: &ObjectProblem) -> String {
    let note = match &problem.annotation {
        Some(annotation) => format!("{annotation}: {}; {}", problem.message, problem.hint),
        None => format!("{}; {}", problem.message, problem.hint),
    };
    prefix(&note, MAX_NOTE_BYTES).to_owned()
}

/// As much of a text as fits.
fn prefix(text: &str, max_bytes: usize) -> &str {
    let fits = |end: &usize| text.is_char_boundary(*end);
    let end = (0..=max_bytes.min(text.len())).rev().find(fits);
    &text[..end.unwrap_or_default()]
}

fn api_version(kind: &str) -> String {
    fn of<B: Body>() -> String {
        format!("{}/{}", B::GROUP, B::VERSION)
    }
    match kind {
        SliceBody::KIND => of::<SliceBody>(),
        DeploymentBody::KIND => of::<DeploymentBody>(),
        _ => "v1".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str) -> ObjectProblem {
        ObjectProblem {
            kind: "Service".to_owned(),
            namespace: "openfaas-fn".to_owned(),
            name: "hello".to_owned(),
            annotation: None,
            message: message.to_owned(),
            hint: "correct it".to_owned(),
        }
    }

    fn change(name: &str, problems: &[&str]) -> Change {
        Change {
            name: name.parse().unwrap(),
            service: None,
            problems: problems.iter().map(|message| problem(message)).collect(),
        }
    }

    fn told(waiting: &mut mpsc::Receiver<Complaint>) -> Vec<String> {
        std::iter::from_fn(|| waiting.try_recv().ok())
            .map(|complaint| complaint.problem.message)
            .collect()
    }

    #[test]
    fn a_problem_is_told_once_while_it_stays_whoever_has_it() {
        let (mut reporter, mut waiting) = Reporter::new();
        let none = BTreeSet::new();
        let mut report = |changes: &[Change], unreadable: &BTreeSet<_>| {
            reporter.report(changes, unreadable, |_| None);
            told(&mut waiting)
        };
        assert_eq!(report(&[change("a", &["x", "y"])], &none), ["x", "y"]);
        assert_eq!(report(&[change("a", &["y", "x"])], &none), [""; 0]);
        // Another service goes by the same object.
        assert_eq!(report(&[change("b", &["x"])], &none), [""; 0]);
        assert_eq!(report(&[change("a", &[])], &none), [""; 0]);
        // It cannot be read any more, and the service that it was told of is gone.
        let unreadable = BTreeSet::from([problem("x")]);
        assert_eq!(report(&[change("b", &[])], &unreadable), [""; 0]);
        assert_eq!(report(&[], &unreadable), [""; 0]);
        assert_eq!(report(&[], &none), [""; 0]);
        assert_eq!(report(&[change("a", &["x"])], &none), ["x"]);
        report(&[change("a", &[])], &none);
        assert!(reporter.held.is_empty() && reporter.told.is_empty());
    }

    #[test]
    fn all_agents_give_an_event_the_same_name_and_each_problem_another() {
        let event = |message: &str, uid: Option<&str>, node: &str| {
            let complaint = Complaint {
                problem: problem(message),
                uid: uid.map(str::to_owned),
            };
            complaint.event(node).metadata.name.unwrap()
        };
        let name = event("x", Some("1"), "node-1");
        // Agents of several versions have to agree.
        assert_eq!(name, "hello.317a74374c9b5dfa");
        assert_eq!(event("x", Some("1"), "node-2"), name);
        assert_ne!(event("y", Some("1"), "node-1"), name);
        assert_ne!(event("x", Some("2"), "node-1"), name);
    }

    #[test]
    fn names_and_notes_stay_within_what_the_api_takes() {
        let complaint = Complaint {
            problem: ObjectProblem {
                name: format!("{}.{}", "a".repeat(199), "b".repeat(50)),
                message: "\u{1F980}".repeat(500),
                ..problem("")
            },
            uid: None,
        };
        let event = complaint.event("node-1");
        let name = event.metadata.name.unwrap();
        assert!(name.len() <= 253 && !name.contains(".."), "{name}");
        let note = event.note.unwrap();
        assert!(note.len() < 1024 && note.len() > 1000, "{}", note.len());
    }
}

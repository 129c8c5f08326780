//! Objects of the Kubernetes API, and what services become of them.
//!
//! Each line of the input is one object in JSON that is new or changed; one behind a `-` is gone;
//! `relist` has all that there are told anew. Other lines are passed over.

use std::collections::BTreeMap;
use std::sync::Arc;

use balancer_user::fuzzing::{KINDS, Objects};
use balancer_user::state::Snapshot;
use fastrand::Rng;
use serde_json::Value;

use super::{number_of, services};

const CONFIG: &str = "source: kubernetes\n";
/// Lines that are looked at.
const MAX_LINES: usize = 48;

/// One line.
enum Step {
    Put(Value),
    Gone(Value),
    Relist,
}

/// What names an object: kind, namespace, name.
type Name = [String; 3];

/// Tells the cluster line by line, and then its last state in other ways.
pub fn check(data: &[u8]) {
    let steps = steps(data);
    if steps.is_empty() {
        return;
    }
    let mut cluster = Objects::new(CONFIG);
    let mut there = BTreeMap::new();
    let mut before = cluster.look();
    for step in &steps {
        before = play(&mut cluster, step, &mut there, &before);
    }
    check_relist(&mut cluster, &there, &before);
    check_orders(&there, number_of(data));
    check_end(&mut cluster, &there);
}

fn steps(data: &[u8]) -> Vec<Step> {
    let lines = data.split(|byte| *byte == b'\n').take(MAX_LINES);
    let steps = lines.filter_map(|line| {
        let line = line.trim_ascii();
        if line == b"relist" {
            return Some(Step::Relist);
        }
        match line.strip_prefix(b"-") {
            Some(line) => serde_json::from_slice(line).ok().map(Step::Gone),
            None => serde_json::from_slice(line).ok().map(Step::Put),
        }
    });
    steps.collect()
}

fn play(
    cluster: &mut Objects,
    step: &Step,
    there: &mut BTreeMap<Name, Value>,
    before: &Arc<Snapshot>,
) -> Arc<Snapshot> {
    match step {
        Step::Put(object) => {
            if cluster.put(object) {
                there.insert(name(object), object.clone());
            }
        }
        Step::Gone(object) => {
            if cluster.gone(object) {
                there.remove(&name(object));
            }
        }
        Step::Relist => relist(cluster, there),
    }
    let after = cluster.look();
    check_snapshot(&after);
    if let Step::Put(object) = step
        && is_unreadable(object, &after)
    {
        assert_eq!(before.desired, after.desired, "half applied: {object}");
    }
    after
}

fn relist(cluster: &mut Objects, there: &BTreeMap<Name, Value>) {
    let objects: Vec<_> = there.values().collect();
    for kind in KINDS {
        cluster.relist(kind, &objects);
    }
}

fn name(object: &Value) -> Name {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let metadata = &object["metadata"];
    [
        text(&object["kind"]),
        text(&metadata["namespace"]),
        text(&metadata["name"]),
    ]
}

/// Whether an object is told to be one that cannot be read.
fn is_unreadable(object: &Value, snapshot: &Snapshot) -> bool {
    let name = name(object);
    let mut unreadable = snapshot.unreadable.iter();
    unreadable.any(|it| [&*it.kind, &*it.namespace, &*it.name] == name.each_ref().map(|it| &**it))
}

/// The services keep their promises, and every problem says what is wrong and what to do.
fn check_snapshot(snapshot: &Snapshot) {
    services::check(&snapshot.desired);
    for problem in snapshot.object_problems() {
        assert!(!problem.message.is_empty(), "{problem:?}");
        assert!(!problem.hint.is_empty(), "{problem:?}");
    }
}

/// Told anew, the same objects change nothing.
fn check_relist(cluster: &mut Objects, there: &BTreeMap<Name, Value>, before: &Snapshot) {
    relist(cluster, there);
    let after = cluster.look();
    assert_eq!(before.desired, after.desired, "a relist changes services");
    assert_eq!(
        problems(before),
        problems(&after),
        "a relist changes problems"
    );
}

/// Told to an agent that has just started, in whatever order, the same objects make the same
/// services.
fn check_orders(there: &BTreeMap<Name, Value>, seed: u64) {
    let mut objects: Vec<_> = there.values().collect();
    let at_once = told_at_once(&objects);
    Rng::with_seed(seed).shuffle(&mut objects);
    let otherwise = told_at_once(&objects);
    assert_eq!(
        at_once.desired, otherwise.desired,
        "the order changes services"
    );
    assert_eq!(problems(&at_once), problems(&otherwise));

    let mut cluster = Objects::new(CONFIG);
    let mut last = cluster.look();
    for object in objects {
        cluster.put(object);
        last = cluster.look();
    }
    // Of what is in conflict the first is preferred, and of what is bad the last that was good.
    if problems(&at_once).is_empty() && problems(&last).is_empty() {
        assert_eq!(
            at_once.desired, last.desired,
            "one by one is not all at once"
        );
    }
}

fn told_at_once(objects: &[&Value]) -> Arc<Snapshot> {
    let mut cluster = Objects::new(CONFIG);
    for object in objects {
        cluster.put(object);
    }
    cluster.look()
}

fn problems(snapshot: &Snapshot) -> Vec<String> {
    let problems = snapshot.object_problems();
    let mut problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    problems.sort();
    problems
}

/// When everything is gone, nothing is left.
fn check_end(cluster: &mut Objects, there: &BTreeMap<Name, Value>) {
    for object in there.values() {
        cluster.gone(object);
    }
    let last = cluster.look();
    assert!(last.desired.services.is_empty(), "{:?}", last.desired);
    assert_eq!(problems(&last), [""; 0]);
}

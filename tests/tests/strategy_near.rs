//! Pods on the client's own node, or in its zone, come first; others when those are full; and the
//! near ones again as soon as they are not.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::json;
use tests::{roll_call::RollCall, service::Service};

const PODS: usize = 6;
/// Pods on the agent's node.
const HERE: [usize; 2] = [0, 1];
/// On another node in its zone.
const BESIDE: [usize; 2] = [2, 3];
/// In another zone; and where nobody knows.
const AWAY: [usize; 2] = [4, 5];
/// Those for which nearness counts.
const STRATEGIES: [&str; 7] = [
    "idle-first",
    "least-connections",
    "round-robin",
    "weighted-round-robin",
    "random",
    "p2c",
    "least-response-time",
];

#[test]
fn pods_of_the_own_node_come_first_then_those_of_its_zone() -> Result<()> {
    let roll = roll()?;
    for strategy in STRATEGIES {
        roll.arrange(placed(&roll, strategy, "prefer-node"))?;
        spills_over(&roll, strategy, &[&HERE, &BESIDE, &AWAY])?;
    }
    roll.finish()
}

#[test]
fn pods_of_the_own_zone_come_first_whatever_their_node() -> Result<()> {
    let roll = roll()?;
    for strategy in STRATEGIES {
        roll.arrange(placed(&roll, strategy, "prefer-zone"))?;
        spills_over(&roll, strategy, &[&[0, 1, 2, 3], &AWAY])?;
    }
    roll.finish()
}

#[test]
fn locality_changes_while_the_service_runs() -> Result<()> {
    let roll = roll()?;
    let visited = || -> Result<BTreeSet<usize>> { Ok(roll.calls(60)?.into_iter().collect()) };
    let all: BTreeSet<_> = (0..PODS).collect();
    let held = roll.hold(1)?;
    for _ in 0..2 {
        roll.arrange(placed(&roll, "round-robin", "none"))?;
        let idle: BTreeSet<_> = all
            .iter()
            .copied()
            .filter(|pod| *pod != held[0].pod)
            .collect();
        assert_eq!(visited()?, idle);
        roll.arrange(placed(&roll, "round-robin", "prefer-node"))?;
        let near: BTreeSet<_> = idle
            .iter()
            .copied()
            .filter(|pod| HERE.contains(pod))
            .collect();
        assert_eq!(visited()?, near);
    }
    drop(held);
    // A pod may turn out to be near, or not to be.
    let service = placed(&roll, "round-robin", "prefer-node");
    let service = service
        .with_backend(0, "node", json!("n9"))
        .with_backend(5, "node", json!("n1"));
    roll.arrange(service)?;
    assert_eq!(visited()?, BTreeSet::from([1, 5]));
    // Near ones that drain are as good as none.
    roll.drain(1)?;
    roll.drain(5)?;
    let next: BTreeSet<_> = visited()?;
    assert_eq!(next, BTreeSet::from([0, 2, 3]), "those of the zone");
    roll.undrain(1)?;
    roll.undrain(5)?;
    roll.finish()
}

fn roll() -> Result<RollCall> {
    let here = [("IDLEFIRST_NODE", "n1"), ("IDLEFIRST_ZONE", "z1")];
    RollCall::with_environment(PODS, 1, 1, &here)
}

fn placed(roll: &RollCall, strategy: &str, locality: &str) -> Service {
    let places = [
        ("n1", "z1"),
        ("n1", "z1"),
        ("n2", "z1"),
        ("n2", "z1"),
        ("n3", "z2"),
    ];
    let service = roll
        .service()
        .by(strategy)
        .with("locality", json!(locality));
    places
        .into_iter()
        .enumerate()
        .fold(service, |service, (pod, (node, zone))| {
            service
                .with_backend(pod, "node", json!(node))
                .with_backend(pod, "zone", json!(zone))
        })
}

/// Checks that connects fill up one circle after another, and that a pod that comes free is found
/// by how near it is.
fn spills_over(roll: &RollCall, strategy: &str, circles: &[&[usize]]) -> Result<()> {
    for _ in 0..3 {
        let mut held = roll.hold(PODS)?;
        let mut order = held.iter().map(|held| held.pod);
        for circle in circles {
            let mut filled: Vec<_> = order.by_ref().take(circle.len()).collect();
            filled.sort_unstable();
            assert_eq!(filled, *circle, "{strategy}");
        }
        // One of each circle comes free, the farthest first; the next connect goes to the nearest.
        for circle in circles.iter().rev() {
            held.retain(|held| held.pod != circle[0]);
            let calls = roll.calls(10)?;
            let rows = roll.agent().backends()?;
            assert_eq!(calls, [circle[0]; 10], "{strategy}: {rows:?}");
        }
        drop(held);
        let near: BTreeSet<_> = roll.calls(40)?.into_iter().collect();
        assert!(
            near.iter().all(|pod| circles[0].contains(pod)),
            "{strategy}: {near:?}"
        );
    }
    Ok(())
}

//! Agents that know nothing of each other send the same client to the same pod, in whatever order
//! they were told of the pods, and after a restart too.
//!
//! Two nodes with the same addresses; a client is known by its namespace, so it can be steered by
//! one agent or the other, by the cgroup that it is in.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{
    place::Place,
    roll_call::{RollCall, call},
    service::Service,
};

const PODS: usize = 7;
const CLIENTS: usize = 24;

#[test]
fn two_agents_have_the_same_table_whatever_the_order_of_the_pods() -> Result<()> {
    let one = RollCall::new(PODS, CLIENTS, 0)?;
    let mut other = RollCall::new(PODS, 1, 0)?;
    one.arrange(hashed(&one))?;
    // Another order; and not at once, so that the pods come by other ids, too.
    let mut reversed = hashed(&other);
    reversed.backends.reverse();
    let mut few = reversed.clone();
    few.backends.truncate(2);
    other.arrange(few.clone())?;
    other.arrange(reversed)?;

    let homes = homes(&one, &one)?;
    let used: BTreeSet<_> = homes.iter().collect();
    assert!(used.len() > PODS / 2, "hardly a table: {homes:?}");
    assert_eq!(self::homes(&one, &other)?, homes);
    assert_eq!(shares(&one)?, shares(&other)?);

    other.agent_mut().restart()?;
    assert_eq!(self::homes(&one, &other)?, homes, "after a restart");
    // They disagree where they know of different pods.
    other.arrange(few)?;
    assert_ne!(self::homes(&one, &other)?, homes);
    one.finish()?;
    other.finish()
}

fn hashed(roll: &RollCall) -> Service {
    let service = roll.service().by("consistent-hash");
    service.with_backend(3, "weight", json!(1))
}

/// Where an agent sends the clients of a node.
fn homes(node: &RollCall, agent: &RollCall) -> Result<Vec<usize>> {
    let clients = node.topology().clients.iter();
    clients
        .map(|client| Place::new(&client.netns, agent.cgroup()).run(call))
        .collect()
}

/// How many places of its table each pod has, by address.
fn shares(roll: &RollCall) -> Result<BTreeSet<(String, u64)>> {
    let dump = roll.agent().admin().get_json("/v1/maps/TABLES")?;
    let entries = dump["entries"].as_array().context("a list of tables")?;
    let shares = entries[0]["shares"]
        .as_array()
        .context("a list of shares")?;
    let share = |share: &Value| {
        let address = share["backend"].as_str().context("a pod")?;
        let places = share["places"].as_u64().context("a number of places")?;
        Ok((address.to_owned(), places))
    };
    shares.iter().map(share).collect()
}

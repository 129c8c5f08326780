//! Who waits is served in the order in which they came, and a newcomer does not overtake them.

#![forbid(unsafe_code)]

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::json;
use tests::scene::{FRONTEND_V4, Scene, dial};

#[test]
fn a_thousand_waiters_are_served_in_the_order_in_which_they_came() -> Result<()> {
    const WAITERS: u32 = 1000;
    // Three descriptors for each: the client's, the pod's, and what the test ground needs.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let scene = Scene::arranged(1, 1, |service| {
        service.with("queue", json!({"size": 1000, "timeout": "2m"}))
    })?;
    let held = scene.connection()?;
    let waiters = scene.client().run(|| {
        let waiters = (0..WAITERS).map(dial_numbered);
        waiters.collect::<Result<Vec<_>>>()
    })?;
    scene.wait_waiters(WAITERS.into());
    drop(held);
    let mut served = Vec::new();
    for _ in &waiters {
        let (_, mut pod) = scene.accept_any()?;
        served.push(number_of(&mut pod)?);
        // The pod's end frees the slot for the next.
    }
    assert!(served.is_sorted(), "served in this order: {served:?}");
    assert_eq!(served.len(), WAITERS as usize);
    drop(waiters);
    scene.finish()
}

#[test]
fn several_slots_that_come_free_one_by_one_go_to_the_oldest() -> Result<()> {
    const SLOTS: u32 = 4;
    const WAITERS: u32 = 40;
    let scene = Scene::arranged(2, SLOTS / 2, |service| {
        service.with("queue", json!({"size": 100, "timeout": "30s"}))
    })?;
    let mut held: Vec<_> = (0..SLOTS)
        .map(|_| scene.connection())
        .collect::<Result<_>>()?;
    let mut waiters = Vec::new();
    for number in 0..WAITERS {
        waiters.push(numbered(&scene, number)?);
    }
    scene.wait_waiters(WAITERS.into());
    for number in 0..WAITERS {
        held.remove(0);
        let (_, mut pod) = scene.accept_any()?;
        assert_eq!(number_of(&mut pod)?, number);
        held.push((waiters.remove(0), pod));
    }
    drop(held);
    scene.finish()
}

#[test]
fn a_newcomer_does_not_get_the_slot_for_which_another_waits() -> Result<()> {
    const ROUNDS: u32 = 30;
    let scene = Scene::arranged(1, 1, |service| {
        service.with("queue", json!({"timeout": "30s"}))
    })?;
    for round in 0..ROUNDS {
        let held = scene.connection()?;
        let waiter = numbered(&scene, round)?;
        scene.wait_waiters(1);
        // The slot is free when this returns; nothing lies between it and the newcomer's connect.
        let newcomer = scene.client().run(|| {
            drop(held);
            dial_numbered(ROUNDS + round)
        })?;
        for (number, client) in [(round, waiter), (ROUNDS + round, newcomer)] {
            let (_, mut pod) = scene.accept_any()?;
            assert_eq!(number_of(&mut pod)?, number);
            drop((client, pod));
        }
        scene.wait_inflight(0);
    }
    scene.finish()
}

/// With the agent stopped for a moment, so that the slot stays free.
#[test]
fn overtaking_is_for_those_who_ask_for_it() -> Result<()> {
    for (overtaking, takes_the_slot) in [(false, false), (true, true)] {
        let scene = Scene::arranged(
            1,
            1,
            match overtaking {
                true => {
                    |service| service.with("queue", json!({"timeout": "30s", "overtaking": true}))
                }
                false => |service| service.with("queue", json!({"timeout": "30s"})),
            },
        )?;
        let held = scene.connection()?;
        let waiter = numbered(&scene, 1)?;
        scene.wait_waiters(1);

        let stalled = scene.agent().stall()?;
        drop(held);
        let newcomer = numbered(&scene, 2)?;
        drop(stalled);

        let expected = match takes_the_slot {
            true => [(2, newcomer), (1, waiter)],
            false => [(1, waiter), (2, newcomer)],
        };
        for (number, client) in expected {
            let (_, mut pod) = scene.accept_any()?;
            assert_eq!(number_of(&mut pod)?, number, "overtaking: {overtaking}");
            let is_direct = pod.peer_addr()? == client.local_addr()?;
            assert_eq!(is_direct, overtaking && number == 2);
        }
        scene.finish()?;
    }
    Ok(())
}

/// A client that says its number at once.
fn numbered(scene: &Scene, number: u32) -> Result<TcpStream> {
    scene.client().run(|| dial_numbered(number))
}

/// The same, from where the calling thread is.
fn dial_numbered(number: u32) -> Result<TcpStream> {
    let mut stream = dial(FRONTEND_V4).with_context(|| format!("client {number}"))?;
    stream.write_all(&number.to_be_bytes())?;
    Ok(stream)
}

/// What the client on the other end said.
fn number_of(pod: &mut TcpStream) -> Result<u32> {
    let mut number = [0; 4];
    pod.read_exact(&mut number)?;
    Ok(u32::from_be_bytes(number))
}

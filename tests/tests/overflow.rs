//! What finds no slot goes to the agent and waits there: from every kind of client, and the client
//! notices nothing but the time.
//!
//! Each scene has one pod with one slot, taken by a first connection; whoever comes then waits.

#![forbid(unsafe_code)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    place::Place,
    scene::{FRONTEND_V4, FRONTEND_V6, SOON, Scene, SceneOptions, dial, mapped},
    service::Service,
    wait::eventually,
};

/// What of a frontend is dialled.
type Form = fn(SocketAddr) -> SocketAddr;

/// Every family, as it is dialled, and the service's frontend behind it.
const FORMS: [(Form, SocketAddr); 3] = [
    (|frontend| frontend, FRONTEND_V4),
    (mapped, FRONTEND_V4),
    (|frontend| frontend, FRONTEND_V6),
];

#[test]
fn a_client_in_a_namespace_of_its_own_waits_for_a_slot() -> Result<()> {
    for_every_form(|scene, dialled| waits(scene, scene.client(), dialled))
}

#[test]
fn a_client_in_the_agents_namespace_waits_for_a_slot() -> Result<()> {
    for_every_form(|scene, dialled| waits(scene, scene.local_client(), dialled))
}

#[test]
fn a_nonblocking_client_waits_for_a_slot() -> Result<()> {
    let scene = patient(FRONTEND_V4)?;
    let held = scene.connection()?;
    let client = scene.client().run(|| -> Result<TcpStream> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()?;
        let stream = runtime.block_on(tokio::net::TcpStream::connect(FRONTEND_V4))?;
        Ok(stream.into_std()?)
    })?;
    client.set_nonblocking(false)?;
    scene.wait_waiters(1);
    drop(held);
    talk(&scene, client)?;
    scene.finish()
}

#[test]
fn what_was_said_while_waiting_is_heard() -> Result<()> {
    let scene = patient(FRONTEND_V4)?;
    let held = scene.connection()?;
    let mut client = scene.dial()?;
    client.write_all(b"said while waiting")?;
    scene.wait_waiters(1);
    drop(held);
    let (_, mut pod) = scene.accept_any()?;
    let mut heard = [0; 18];
    pod.read_exact(&mut heard)?;
    assert_eq!(&heard, b"said while waiting");
    drop((client, pod));
    scene.finish()
}

#[test]
fn an_idle_pod_is_reached_without_the_agent() -> Result<()> {
    let scene = patient(FRONTEND_V4)?;
    for _ in 0..3 {
        let (client, pod) = scene.connection()?;
        assert_eq!(pod.peer_addr()?, client.local_addr()?);
    }
    assert_eq!(scene.queue().accepted, 0);
    scene.finish()
}

#[test]
fn a_slot_that_the_agent_took_is_taken_for_the_kernel_too() -> Result<()> {
    let scene = patient(FRONTEND_V4)?;
    let held = scene.connection()?;
    let first = scene.dial()?;
    scene.wait_waiters(1);
    drop(held);
    let (_, first_pod) = scene.accept_any()?;
    scene.wait_waiters(0);
    let second = scene.dial()?;
    scene.wait_waiters(1);
    assert_eq!(scene.inflight(), 1);
    scene.assert_no_arrival();
    drop((first, first_pod));
    talk(&scene, second)?;
    scene.finish()
}

#[test]
fn a_relayed_connection_gives_its_slot_back_as_soon_as_its_client_is_gone() -> Result<()> {
    let scene = patient(FRONTEND_V4)?;
    let held = scene.connection()?;
    let client = scene.dial()?;
    scene.wait_waiters(1);
    drop(held);
    let (_, mut pod) = scene.accept_any()?;
    scene.wait_waiters(0);
    assert_eq!(scene.inflight(), 1);
    drop(client);
    // The pod has not closed its end.
    scene.wait_inflight(0);
    assert_eq!(pod.read(&mut [0])?, 0);
    drop(pod);
    scene.finish()
}

#[test]
fn the_agent_is_seen_by_no_one_but_in_its_figures() -> Result<()> {
    let scene = patient(FRONTEND_V4)?;
    let held = scene.connection()?;
    let client = scene.dial()?;
    scene.wait_waiters(1);
    eventually(SOON, || {
        let queue = scene.queue();
        ensure!(
            queue.accepted == 1 && queue.oldest_ms.is_some(),
            "{queue:?}"
        );
        Ok(())
    });
    drop(held);
    talk(&scene, client)?;
    let queue = scene.queue();
    assert_eq!((queue.waiters, queue.oldest_ms), (0, None), "{queue:?}");
    assert_eq!((queue.accepted, queue.queued), (1, 1), "{queue:?}");
    assert_eq!(queue.refused_in_all(), 0, "{queue:?}");
    scene.finish()
}

/// One pod, one slot; waiters are patient.
fn patient(frontend: SocketAddr) -> Result<Scene> {
    let options = SceneOptions {
        frontend,
        arrange: Some(|service: Service| service.with("queue", json!({"timeout": "30s"}))),
        ..SceneOptions::default()
    };
    options.start()
}

fn for_every_form(check: impl Fn(&Scene, SocketAddr) -> Result<()>) -> Result<()> {
    for (form, frontend) in FORMS {
        let dialled = form(frontend);
        let scene = patient(frontend)?;
        check(&scene, dialled).with_context(|| format!("dialling {dialled}"))?;
        scene.finish()?;
    }
    Ok(())
}

/// A client waits, gets the slot when it comes free, and is served.
fn waits(scene: &Scene, place: Place<'_>, dialled: SocketAddr) -> Result<()> {
    let held = scene.connection()?;
    let client = place.run(|| dial(dialled))?;
    assert_eq!(client.peer_addr()?, dialled);
    scene.wait_waiters(1);
    assert_eq!(scene.inflight(), 1);
    scene.assert_no_arrival();
    drop(held);
    talk(scene, client)
}

/// A relayed client and its pod say something to each other and part.
fn talk(scene: &Scene, mut client: TcpStream) -> Result<()> {
    client.set_read_timeout(Some(SOON))?;
    let (_, mut pod) = scene.accept_any()?;
    scene.wait_waiters(0);
    assert_eq!(scene.inflight(), 1);
    client.write_all(b"question")?;
    let mut heard = [0; 8];
    pod.read_exact(&mut heard)?;
    assert_eq!(&heard, b"question");
    pod.write_all(b"answer")?;
    let mut heard = [0; 6];
    client.read_exact(&mut heard)?;
    assert_eq!(&heard, b"answer");
    drop(pod);
    assert_eq!(client.read(&mut [0])?, 0);
    scene.wait_inflight(0);
    Ok(())
}

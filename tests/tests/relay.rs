//! A connection that goes through the agent is like any other: every byte arrives, each side's end
//! reaches the other, whoever reads slowly slows the other down, and the agent holds next to
//! nothing of it.

#![forbid(unsafe_code)]

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use socket2::SockRef;
use tests::{
    process::resident,
    scene::{SOON, Scene},
};

const MIB: usize = 1 << 20;

#[test]
fn the_client_says_all_it_has_to_say_and_then_hears_the_answer() -> Result<()> {
    let (scene, mut client, mut pod) = relayed()?;
    client.write_all(b"question")?;
    client.shutdown(Shutdown::Write)?;
    assert_eq!(read_all(&mut pod)?, b"question");
    assert_eq!(scene.inflight(), 1, "the pod has not answered yet");
    pod.write_all(b"answer")?;
    drop(pod);
    assert_eq!(read_all(&mut client)?, b"answer");
    scene.wait_inflight(0);
    drop(client);
    scene.finish()
}

#[test]
fn a_client_that_ended_its_half_while_it_waited_is_served() -> Result<()> {
    let scene = scene(1)?;
    let held = scene.connection()?;
    let mut client = scene.dial()?;
    client.write_all(b"question")?;
    client.shutdown(Shutdown::Write)?;
    scene.wait_waiters(1);
    drop(held);
    let (_, mut pod) = scene.accept_any()?;
    assert_eq!(read_all(&mut pod)?, b"question");
    pod.write_all(b"answer")?;
    drop(pod);
    assert_eq!(read_all(&mut client)?, b"answer");
    drop(client);
    scene.finish()
}

#[test]
fn the_pod_ends_its_half_and_goes_on_listening() -> Result<()> {
    let (scene, mut client, mut pod) = relayed()?;
    pod.write_all(b"all I have to say")?;
    pod.shutdown(Shutdown::Write)?;
    assert_eq!(read_all(&mut client)?, b"all I have to say");
    // As for a connection that the kernel steered.
    scene.wait_inflight(0);
    client.write_all(b"last word")?;
    drop(client);
    assert_eq!(read_all(&mut pod)?, b"last word");
    drop(pod);
    scene.finish()
}

#[test]
fn a_reset_by_the_pod_is_a_reset_for_the_client() -> Result<()> {
    let (scene, mut client, pod) = relayed()?;
    SockRef::from(&pod).set_linger(Some(Duration::ZERO))?;
    drop(pod);
    let reset = client.read(&mut [0]).expect_err("no orderly end");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    scene.wait_inflight(0);
    drop(client);
    scene.finish()
}

#[test]
fn a_reset_by_the_client_is_a_reset_for_the_pod() -> Result<()> {
    let (scene, client, mut pod) = relayed()?;
    SockRef::from(&client).set_linger(Some(Duration::ZERO))?;
    drop(client);
    let reset = pod.read(&mut [0]).expect_err("no orderly end");
    assert_eq!(reset.kind(), ErrorKind::ConnectionReset);
    scene.wait_inflight(0);
    drop(pod);
    scene.finish()
}

#[test]
fn what_the_client_sent_before_it_left_arrives() -> Result<()> {
    let (scene, mut client, mut pod) = relayed()?;
    let sent = vec![b'x'; MIB];
    let received = thread::scope(|scope| {
        let reader = scope.spawn(move || read_all(&mut pod));
        client.write_all(&sent)?;
        drop(client);
        reader.join().expect("reading does not panic")
    })?;
    assert!(received == sent, "{} bytes arrived", received.len());
    scene.wait_inflight(0);
    scene.finish()
}

#[test]
fn a_hundred_megabytes_arrive_intact_each_way() -> Result<()> {
    const BLOCKS: u64 = 100;
    let (scene, client, pod) = relayed()?;
    let block = random_block();
    let (block, client, pod) = (&block, &client, &pod);
    thread::scope(|scope| -> Result<()> {
        let passings = [
            scope.spawn(|| send(client, block, BLOCKS)),
            scope.spawn(|| send(pod, block, BLOCKS)),
            scope.spawn(|| receive(client, block, BLOCKS)),
            scope.spawn(|| receive(pod, block, BLOCKS)),
        ];
        passings
            .into_iter()
            .try_for_each(|passing| passing.join().expect("passing bytes does not panic"))
    })?;
    scene.wait_inflight(0);
    scene.finish()
}

#[test]
fn whoever_does_not_read_slows_the_writer_down_and_costs_the_agent_nothing() -> Result<()> {
    const CONNECTIONS: u32 = 8;
    // What the kernel may buffer for the four sockets of a connection, and a good deal more.
    const STALLS_WITHIN: usize = 64 * MIB;
    const AGENT_GROWS_BY: usize = 16 * MIB;
    let scene = scene(CONNECTIONS)?;
    let mut ends = Vec::new();
    let held: Vec<_> = (0..CONNECTIONS)
        .map(|_| scene.connection())
        .collect::<Result<_>>()?;
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| scene.dial())
        .collect::<io::Result<_>>()?;
    scene.wait_waiters(CONNECTIONS.into());
    drop(held);
    for _ in &clients {
        ends.push(scene.accept_any()?.1);
    }
    let before = resident(scene.agent().pid())?;
    let stalls = clients
        .iter()
        .map(|client| || write_until_it_stalls(client, STALLS_WITHIN));
    let written = sum_of(stalls)?;
    let grown = resident(scene.agent().pid())?.saturating_sub(before);
    assert!(
        grown < AGENT_GROWS_BY,
        "the agent grew by {grown} bytes while {written} were under way"
    );

    // Nothing of it is lost.
    drop(clients);
    let reads = ends.iter_mut().map(|pod| || Ok(read_all(pod)?.len()));
    assert_eq!(sum_of(reads)?, written);
    scene.wait_inflight(0);
    scene.finish()
}

/// One pod with so many slots; waiters are patient.
fn scene(slots: u32) -> Result<Scene> {
    Scene::arranged(1, slots, |service| {
        service.with("queue", json!({"size": 100, "timeout": "30s"}))
    })
}

/// A connection that goes through the agent: the client's end and the pod's.
fn relayed() -> Result<(Scene, TcpStream, TcpStream)> {
    let scene = scene(1)?;
    let held = scene.connection()?;
    let client = scene.dial()?;
    scene.wait_waiters(1);
    drop(held);
    let (_, pod) = scene.accept_any()?;
    scene.wait_waiters(0);
    ensure!(pod.peer_addr()?.ip() != client.local_addr()?.ip());
    Ok((scene, client, pod))
}

fn read_all(stream: &mut TcpStream) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    stream
        .read_to_end(&mut all)
        .with_context(|| format!("no orderly end after {} bytes", all.len()))?;
    Ok(all)
}

fn random_block() -> Vec<u8> {
    let mut block = vec![0; MIB];
    SmallRng::seed_from_u64(1).fill(&mut block[..]);
    block
}

/// Sends the block so many times, each beginning with its number, and ends.
fn send(mut stream: &TcpStream, block: &[u8], blocks: u64) -> Result<()> {
    let mut block = block.to_vec();
    for number in 0..blocks {
        block[..8].copy_from_slice(&number.to_ne_bytes());
        stream.write_all(&block)?;
    }
    stream.shutdown(Shutdown::Write).context("cannot end")
}

/// Checks that exactly what [`send`] sends arrives.
fn receive(mut stream: &TcpStream, block: &[u8], blocks: u64) -> Result<()> {
    stream.set_read_timeout(Some(SOON))?;
    let mut received = vec![0; block.len()];
    for number in 0..blocks {
        stream
            .read_exact(&mut received)
            .with_context(|| format!("block {number}"))?;
        ensure!(received[..8] == number.to_ne_bytes(), "not block {number}");
        ensure!(received[8..] == block[8..], "block {number} is damaged");
    }
    ensure!(stream.read(&mut [0])? == 0, "there is more");
    Ok(())
}

/// Writes until nothing more is taken for a while. Gives how much was.
fn write_until_it_stalls(mut stream: &TcpStream, at_most: usize) -> Result<usize> {
    const A_WHILE: Duration = Duration::from_millis(150);
    // The time is the subject: that nothing moves can only be seen by waiting.
    stream.set_write_timeout(Some(A_WHILE))?;
    let block = vec![b'x'; 64 * 1024];
    let mut written = 0;
    loop {
        match stream.write(&block) {
            Ok(more) => written += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error).context("cannot write"),
        }
        ensure!(written < at_most, "{written} bytes were taken, and unread");
    }
    stream.set_write_timeout(Some(SOON))?;
    Ok(written)
}

/// Does all of it at once, and adds up.
fn sum_of<F>(work: impl Iterator<Item = F>) -> Result<usize>
where
    F: FnOnce() -> Result<usize> + Send,
{
    thread::scope(|scope| {
        let threads: Vec<_> = work.map(|work| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("passing bytes does not panic"))
            .sum()
    })
}

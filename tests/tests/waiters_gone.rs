//! A waiter that is gone leaves the queue at once: it takes no slot, and nothing of it is left.

#![forbid(unsafe_code)]

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rustix::net::connect_unspec;
use serde_json::json;
use socket2::SockRef;
use tests::{
    agent::Agent,
    crowd::{Crowd, assert_no_slot_astray, frontend_address, service, settle},
    exact::Request,
    process::Process,
    scene::Scene,
    service::Service,
    wait::eventually_eq,
};

/// Long after any of these tests is over.
const WAIT: &str = "2m";
/// How soon a waiter's end must show, on a busy machine; far below [`WAIT`].
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn half_of_the_waiters_close() -> Result<()> {
    leave_by_half(drop)
}

#[test]
fn half_of_the_waiters_reset() -> Result<()> {
    leave_by_half(|waiter| {
        let lingering = SockRef::from(&waiter).set_linger(Some(Duration::ZERO));
        lingering.expect("a socket can be told to reset");
    })
}

#[test]
fn half_of_the_waiters_had_ended_their_half_before_they_close() -> Result<()> {
    leave_by_half(|waiter| {
        let ended = waiter.shutdown(Shutdown::Write);
        ended.expect("a connection's half can be ended");
    })
}

#[test]
fn half_of_the_waiters_are_killed() -> Result<()> {
    const WAITERS: usize = 16;
    let crowd = Crowd::new(1)?;
    let server = crowd.serve(0, 1, Duration::from_millis(1))?;
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[patient(1, [0])])?;
    let frontend = frontend_address(0);
    let held = crowd.dial(frontend)?;
    let mut waiters = (0..WAITERS)
        .map(|_| {
            let mut command = crowd.place().command(env!("CARGO_BIN_EXE_dialler"));
            command.arg(frontend.to_string());
            Process::start(command)
        })
        .collect::<Result<Vec<_>>>()?;
    wait_waiters(&agent, WAITERS);
    for waiter in waiters.drain(..WAITERS / 2) {
        waiter.signal(Signal::SIGKILL)?;
    }
    eventually_eq(AT_ONCE, WAITERS / 2, || waiting(&agent));
    assert_eq!(agent.inflight()?, 1, "only the first has a slot");
    drop(held);

    // The others are served, over and over.
    eventually_eq(AT_ONCE, true, || {
        server.tally().served >= 10 * WAITERS as u64
    });
    for waiter in &mut waiters {
        if let Some(status) = waiter.ended()? {
            waiter.wait(AT_ONCE)?;
            anyhow::bail!("a client ended by itself ({status}): {}", waiter.stderr());
        }
        waiter.kill()?;
    }
    settle(&agent, [&server]);
    agent.wait_nobody_waits();
    assert_no_slot_astray(&agent)?;
    agent.stop()
}

#[test]
fn a_slot_that_comes_free_when_all_waiters_are_gone_stays_free() -> Result<()> {
    let scene = scene()?;
    let held = scene.connection()?;
    let waiters: Vec<_> = (0..10).map(|_| scene.dial()).collect::<Result<_, _>>()?;
    scene.wait_waiters(10);
    drop(waiters);
    eventually_eq(AT_ONCE, 0, || scene.waiters());
    drop(held);
    assert_eq!(scene.inflight(), 0);
    // The way past the agent is open again.
    let direct = scene.connection()?;
    assert_eq!(direct.1.peer_addr()?, direct.0.local_addr()?);
    scene.assert_no_arrival();
    assert_eq!(scene.queue().refused_in_all(), 0);
    drop(direct);
    scene.finish()
}

#[test]
fn a_waiter_dissolves_its_connection_and_keeps_its_socket() -> Result<()> {
    let scene = scene()?;
    let held = scene.connection()?;
    let waiter = scene.dial()?;
    scene.wait_waiters(1);
    connect_unspec(&waiter)?;
    eventually_eq(AT_ONCE, 0, || scene.waiters());
    drop(held);
    assert_eq!(scene.inflight(), 0);
    drop(waiter);
    scene.finish()
}

#[test]
fn a_waiter_stays_until_the_last_one_who_has_its_socket_closes_it() -> Result<()> {
    let scene = scene()?;
    let held = scene.connection()?;
    let waiter = scene.dial()?;
    let copy = waiter.try_clone()?;
    scene.wait_waiters(1);
    drop(waiter);
    drop(held);
    let (_, mut pod) = scene.accept_any()?;
    pod.write_all(b"!")?;
    (&copy).read_exact(&mut [0])?;
    drop(copy);
    eventually_eq(AT_ONCE, 0, || scene.inflight());
    drop(pod);
    scene.finish()
}

#[test]
fn one_that_leaves_while_its_pod_is_connected_to_gives_the_slot_to_the_next() -> Result<()> {
    let scene = scene()?;
    let held = scene.connection()?;
    let waiters = [scene.dial()?, scene.dial()?];
    scene.wait_waiters(2);
    let pod = &scene.topology().pods[0].netns;
    pod.nft(
        "add table inet wall\n\
         add chain inet wall in { type filter hook input priority 0; }\n\
         add rule inet wall in tcp flags & (syn | ack) == syn drop\n",
    )?;
    drop(held);
    scene.wait_waiters(1);
    let [first, mut second] = waiters;
    second.write_all(b"2")?;
    drop(first);
    // The slot is the second's at once: its connect is what gets through.
    eventually_eq(AT_ONCE, 0, || scene.waiters());
    pod.nft("delete table inet wall\n")?;
    let (_, mut pod) = scene.accept_any()?;
    let mut heard = [0];
    pod.read_exact(&mut heard)?;
    assert_eq!(&heard, b"2");
    drop((second, pod));
    scene.wait_inflight(0);
    scene.assert_no_arrival();
    scene.finish()
}

#[test]
fn waiters_that_come_and_go_while_slots_come_and_go_leave_nothing_behind() -> Result<()> {
    const THREADS: u64 = 16;
    const SERVED: u64 = 500;
    let crowd = Crowd::new(2)?;
    let servers = [0, 1].map(|pod| crowd.serve(pod, 1, Duration::from_micros(300)));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[patient(1, [0, 1])])?;
    let served = || -> u64 { servers.iter().map(|server| server.tally().served).sum() };
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let threads: Vec<_> = (0..THREADS)
            .map(|seed| {
                let (crowd, is_over) = (&crowd, &is_over);
                scope.spawn(move || -> Result<()> {
                    crowd.place().enter()?;
                    let mut random = SmallRng::seed_from_u64(seed);
                    while !is_over.load(Relaxed) {
                        come_and_go(&mut random)?;
                    }
                    Ok(())
                })
            })
            .collect();
        eventually_eq(Duration::from_secs(60), true, || {
            served() >= SERVED || threads.iter().any(thread::ScopedJoinHandle::is_finished)
        });
        is_over.store(true, Relaxed);
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a client does not panic"))
    })?;
    settle(&agent, &servers);
    agent.wait_nobody_waits();
    assert_no_slot_astray(&agent)?;
    let given_up: u64 = servers.iter().map(|server| server.tally().given_up).sum();
    assert!(given_up > 0, "nobody left in the middle of being served");
    agent.stop()
}

/// Waits for a random while only, or until it is served.
fn come_and_go(random: &mut SmallRng) -> Result<()> {
    let mut stream = TcpStream::connect(frontend_address(0))?;
    let patience = Duration::from_micros(random.random_range(1..20_000));
    stream.set_read_timeout(Some(patience))?;
    if random.random_bool(0.5) {
        stream.write_all(&[Request::Answer as u8])?;
    }
    match stream.read(&mut [0]) {
        Ok(1) => Ok(()),
        Ok(_) => anyhow::bail!("the connection was ended, not answered"),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error).context("the connection broke"),
    }
}

/// Of ten waiters every other one leaves; the rest are served in their order.
fn leave_by_half(leave: impl Fn(TcpStream)) -> Result<()> {
    const WAITERS: u8 = 10;
    let scene = scene()?;
    let held = scene.connection()?;
    let mut staying = Vec::new();
    let mut leaving = Vec::new();
    for number in 0..WAITERS {
        let mut waiter = scene.dial()?;
        waiter.write_all(&[number])?;
        match number % 2 {
            0 => leaving.push(waiter),
            _ => staying.push(waiter),
        }
    }
    scene.wait_waiters(WAITERS.into());
    leaving.into_iter().for_each(leave);
    eventually_eq(AT_ONCE, staying.len() as u64, || scene.waiters());
    drop(held);
    let mut served = Vec::new();
    for _ in &staying {
        let (_, mut pod) = scene.accept_any()?;
        let mut number = [0];
        pod.read_exact(&mut number)?;
        served.push(number[0]);
    }
    assert_eq!(served, [1, 3, 5, 7, 9]);
    scene.wait_waiters(0);
    scene.assert_no_arrival();
    assert_eq!(scene.queue().refused_in_all(), 0);
    drop(staying);
    scene.finish()
}

/// One pod with one slot; waiters are very patient.
fn scene() -> Result<Scene> {
    Scene::arranged(1, 1, |service| {
        service.with("queue", json!({"size": 100, "timeout": WAIT}))
    })
}

fn patient(max_inflight: u32, pods: impl IntoIterator<Item = u8>) -> Service {
    service(0, max_inflight, pods).with("queue", json!({"size": 100, "timeout": WAIT}))
}

#[track_caller]
fn waiting(agent: &Agent) -> usize {
    let queue = agent.queue("service-0");
    queue.expect("the agent lists its queues").waiters as usize
}

#[track_caller]
fn wait_waiters(agent: &Agent, expected: usize) {
    eventually_eq(tests::scene::SOON, expected, || waiting(agent));
}

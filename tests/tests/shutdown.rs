//! An agent that is told to end takes nothing more, lets what it has finish, and leaves in time.

#![forbid(unsafe_code)]

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    agent::{Agent, AgentOptions},
    crowd::{Crowd, SOON, ask, dial, frontend_address, pod_address, service},
    exact::Request,
    function::{Function, FunctionOptions, Work},
    service::Service,
    wait::{eventually, eventually_eq, within},
};

/// Long enough for whatever a test does meanwhile.
const LONG: Duration = Duration::from_secs(8);
/// Nothing that is to end within this is ended by it.
const SHORT: Duration = Duration::from_millis(500);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// One pod with one slot, for which clients wait. As by default, rather overloaded than refused when
/// the agent is gone; which it is not before it has ended.
fn stage(crowd: &Crowd, shutdown_timeout: Duration) -> Result<Agent> {
    let queue = json!({"size": 10, "timeout": "30s"});
    let service = service(0, 1, [0]).with("queue", queue);
    start(crowd, shutdown_timeout, service)
}

fn start(crowd: &Crowd, shutdown_timeout: Duration, service: Service) -> Result<Agent> {
    let options = AgentOptions {
        shutdown_timeout,
        ..AgentOptions::new(&crowd.netns, &crowd.cgroup)
    };
    options.start(&[service])
}

/// Waits until it says that it is not ready, which it does until the end.
fn wait_waiters(agent: &Agent, expected: u32) {
    eventually_eq(SOON, Some(expected), || {
        agent.queue("service-0").ok().map(|it| it.waiters)
    });
}

#[test]
fn who_waits_still_gets_a_slot_and_nobody_new_is_sent_to_the_agent() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let server = crowd.serve(0, 1, Duration::ZERO)?;
    let mut agent = stage(&crowd, LONG)?;
    let held = crowd.dial(frontend_address(0))?;
    let waiting = crowd.dial(frontend_address(0))?;
    wait_waiters(&agent, 1);
    agent.signal_end()?;
    agent.wait_not_ready();
    // That it is not ready goes first; until the programs know, it is sent more.
    let refused = eventually(SOON, || match crowd.dial(frontend_address(0)) {
        Ok(_) => Err("there is no slot and nobody to wait with"),
        Err(refused) => Ok(refused),
    });
    ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
    wait_waiters(&agent, 1);
    drop(held);
    ask(&waiting, Request::Answer)?;
    drop(waiting);
    agent.wait_ended()?;
    assert_eq!(server.tally().breaches, 0);
    agent.restart()?;
    assert_eq!(agent.inflight()?, 0);
    agent.uninstall()
}

#[test]
fn what_takes_too_long_is_cut_off_and_gives_its_slot_back() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let _server = crowd.serve(0, 1, Duration::ZERO)?;
    let mut agent = stage(&crowd, SHORT)?;
    let held = crowd.dial(frontend_address(0))?;
    let mut relayed = crowd.dial(frontend_address(0))?;
    wait_waiters(&agent, 1);
    drop(held);
    wait_waiters(&agent, 0);
    let mut waiting = crowd.dial(frontend_address(0))?;
    wait_waiters(&agent, 1);
    let began = Instant::now();
    agent.signal_end()?;
    agent.wait_ended()?;
    let took = began.elapsed();
    ensure!(took >= SHORT && took < SHORT + SOON, "{took:?}");
    for stream in [&mut relayed, &mut waiting] {
        let end = stream.read(&mut [0]);
        ensure!(!matches!(end, Ok(1..)), "{end:?}");
    }
    drop((relayed, waiting));
    agent.restart()?;
    assert_eq!(agent.inflight()?, 0);
    ask(&crowd.dial(frontend_address(0))?, Request::Answer)?;
    agent.uninstall()
}

#[test]
fn a_request_in_flight_is_answered_and_its_connection_closed() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let work = Work::Fixed(Duration::from_millis(500));
    let options = FunctionOptions {
        work,
        ..FunctionOptions::default()
    };
    let function = Function::start(&crowd.netns, pod_address(0), options)?;
    let by_request = service(0, 1, [0])
        .with("protocol", json!("http"))
        .with("admission", json!("request"))
        .with("health", json!({"probe": "none"}));
    let mut agent = start(&crowd, LONG, by_request)?;
    let mut idle = crowd.dial(frontend_address(0))?;
    exchange(&mut idle)?;
    let mut busy = crowd.dial(frontend_address(0))?;
    busy.write_all(GET)?;
    eventually(SOON, || {
        let inflight = agent.inflight()?;
        ensure!(inflight == 1, "{inflight}");
        Ok(())
    });
    agent.signal_end()?;
    assert_eq!(
        idle.read(&mut [0])?,
        0,
        "idle connections are closed at once"
    );
    let mut answer = String::new();
    busy.read_to_string(&mut answer)?;
    ensure!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let head = answer.to_ascii_lowercase();
    ensure!(head.contains("\r\nconnection: close\r\n"), "{answer}");
    agent.wait_ended()?;
    drop(function);
    agent.uninstall()
}

/// Sends a request and reads as much as comes at once.
fn exchange(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(GET)?;
    let mut answer = [0; 1024];
    let read = stream.read(&mut answer).context("no answer")?;
    ensure!(answer[..read].starts_with(b"HTTP/1.1 200"), "{read} bytes");
    Ok(())
}

#[test]
fn a_second_signal_ends_it_at_once() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let _server = crowd.serve(0, 1, Duration::ZERO)?;
    let mut agent = stage(&crowd, Duration::from_secs(600))?;
    let held = crowd.dial(frontend_address(0))?;
    let _waiting = crowd.dial(frontend_address(0))?;
    wait_waiters(&agent, 1);
    agent.signal_end()?;
    agent.wait_not_ready();
    agent.signal_end()?;
    agent.wait_ended()?;
    drop(held);
    agent.uninstall()
}

#[test]
fn nobody_on_the_way_is_lost_when_it_ends_under_load() -> Result<()> {
    const CLIENTS: usize = 8;
    let crowd = Crowd::new(1)?;
    let server = crowd.serve(0, 1, Duration::from_millis(1))?;
    let mut agent = stage(&crowd, LONG)?;
    for _ in 0..5 {
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let client = || connect_until(&is_over, &crowd);
            let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
            let outcome = end_while_many_wait(&mut agent);
            is_over.store(true, Relaxed);
            for client in clients {
                client.join().expect("no client panics")?;
            }
            outcome
        })?;
        agent.restart()?;
    }
    assert_eq!(server.tally().breaches, 0);
    assert_eq!(agent.inflight()?, 0);
    agent.uninstall()
}

fn end_while_many_wait(agent: &mut Agent) -> Result<()> {
    let many_wait = within(SOON, || {
        let waiters = agent.queue("service-0")?.waiters;
        ensure!(waiters >= 3, "{waiters}");
        Ok(())
    });
    many_wait.map_err(|late| anyhow::anyhow!("{late:#}"))?;
    agent.signal_end()?;
    agent.wait_ended()
}

/// Connects and is served, again and again: whoever has connected, be it to the agent, has an answer.
fn connect_until(is_over: &AtomicBool, crowd: &Crowd) -> Result<()> {
    while !is_over.load(Relaxed) {
        match crowd.place().run(|| dial(frontend_address(0))) {
            Ok(stream) => ask(&stream, Request::Answer)?,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => return Err(error).context("connect"),
        }
    }
    Ok(())
}

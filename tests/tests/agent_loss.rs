//! An agent that does nothing any more is left alone within two seconds; whoever finds no slot then
//! gets a full pod or a refusal, as the service says. When the agent goes on, so does the queue.

#![forbid(unsafe_code)]

use std::{
    io::ErrorKind,
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    agent::{Agent, Stalled},
    crowd::{
        Crowd, SOON, ask, assert_no_slot_astray, dial, frontend_address, pod_address, service,
    },
    exact::Request,
    function::{Function, FunctionOptions},
    http::Http,
    raw::{Behaviour, RawServer},
    scene::Scene,
    service::Service,
    wait::{eventually, eventually_eq, within},
};

/// From the agent's last sign of life on.
const LEFT_ALONE_WITHIN: Duration = Duration::from_secs(2);
/// Between two attempts, so that they are not too many.
const BETWEEN: Duration = Duration::from_millis(20);
/// No load goes on for longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// For a busy machine.
const SLACK: Duration = Duration::from_millis(500);

#[test]
fn without_the_agent_a_full_pod_is_better_than_none() -> Result<()> {
    let scene = Scene::arranged(1, 1, patient)?;
    let held = scene.connection()?;
    let stalled = scene.agent().stall()?;
    let (on_their_way, (admitted, pod)) = until_left_alone(&scene, &stalled)?;
    drop(stalled);
    eventually(SOON, || {
        let inflight = scene.agent().inflight()?;
        ensure!(inflight == 2, "{inflight} slots taken");
        Ok(())
    });
    back_to_queueing(&scene)?;
    drop((held, admitted, pod, on_their_way));
    scene.finish()
}

/// Not only when it has been silent for long enough. But it may soon be back, so no limit is exceeded
/// before that.
#[test]
fn a_dead_agent_is_left_alone_at_once() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let function = Function::start(&crowd.netns, pod_address(0), FunctionOptions::default())?;
    let by_request = service(0, 1, [0])
        .with("protocol", json!("http"))
        .with("admission", json!("request"))
        .with("queue", json!({"size": 10, "timeout": "5s"}))
        .with("health", json!({"probe": "none"}));
    let mut agent = Agent::start(&crowd.netns, &crowd.cgroup, &[by_request])?;
    let killed = Instant::now();
    agent.kill()?;
    let mut straight = Http::new(crowd.dial(frontend_address(0))?);
    assert_eq!(straight.get("/")?.status(), 200);
    let refused = crowd
        .dial(frontend_address(0))
        .expect_err("the slot is taken");
    ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
    let beyond = eventually(SOON, || crowd.dial(frontend_address(0)));
    let silent = killed.elapsed();
    ensure!(silent >= LEFT_ALONE_WITHIN - SLACK, "after {silent:?}");
    drop((straight, beyond));
    agent.restart()?;
    let mut forwarded = Http::new(crowd.dial(frontend_address(0))?);
    assert_eq!(forwarded.get("/")?.status(), 200);
    eventually_eq(SOON, Some(0), || agent.inflight().ok());
    drop(function);
    agent.uninstall()
}

/// The slots of connections that passed it end with them.
#[test]
fn what_a_dead_agent_held_is_free_and_no_more() -> Result<()> {
    for policy in ["refuse", "over-admit"] {
        let crowd = Crowd::new(1)?;
        let server = crowd.serve(0, 1, Duration::ZERO)?;
        let service = service(0, 1, [0])
            .with("queue", json!({"size": 10, "timeout": "5s"}))
            .with("on_agent_loss", json!(policy));
        let mut agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service])?;
        let held = crowd.dial(frontend_address(0))?;
        let relayed = crowd.dial(frontend_address(0))?;
        eventually_eq(SOON, Some(1), || {
            agent.queue("service-0").ok().map(|queue| queue.waiters)
        });
        drop(held);
        eventually_eq(SOON, Some(0), || {
            agent.queue("service-0").ok().map(|queue| queue.waiters)
        });
        agent.kill()?;
        let straight = crowd.dial(frontend_address(0)).context(policy)?;
        let refused = crowd
            .dial(frontend_address(0))
            .expect_err("the slot is taken");
        ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
        ask(&straight, Request::Answer)?;
        drop((straight, relayed));
        agent.restart()?;
        eventually_eq(SOON, Some(0), || agent.inflight().ok());
        assert_eq!(server.tally().breaches, 0, "{policy}");
        agent.uninstall()?;
    }
    Ok(())
}

#[test]
fn without_the_agent_a_service_can_refuse() -> Result<()> {
    let scene = Scene::arranged(1, 1, refusing)?;
    let held = scene.connection()?;
    let stalled = scene.agent().stall()?;
    let mut on_their_way = Vec::new();
    loop {
        match scene.dial() {
            Ok(client) => on_their_way.push(client),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => break,
            Err(error) => return Err(error.into()),
        }
        let waited = stalled.elapsed();
        assert!(waited < LEFT_ALONE_WITHIN + SLACK, "not after {waited:?}");
        thread::sleep(BETWEEN);
    }
    assert!(!on_their_way.is_empty(), "the agent was given up at once");
    drop(stalled);
    assert_eq!(scene.queue().refused_for("agent-gone"), 1);
    assert_eq!(scene.agent().inflight()?, 1);
    back_to_queueing(&scene)?;
    drop((held, on_their_way));
    scene.finish()
}

#[test]
fn without_the_agent_idle_pods_are_steered_to_although_clients_wait_for_it() -> Result<()> {
    let scene = Scene::arranged(1, 1, refusing)?;
    let held = scene.connection()?;
    let waiter = scene.dial()?;
    scene.wait_waiters(1);
    all_have_arrived(&scene);
    let stalled = scene.agent().stall()?;
    drop(held);
    let (mut on_their_way, direct) = until_left_alone(&scene, &stalled)?;
    drop(stalled);
    on_their_way.push(waiter);
    drop(direct);
    // Whoever waits is served after all.
    let (_, pod) = scene.accept_any()?;
    back_to_queueing(&scene)?;
    drop((on_their_way, pod));
    scene.finish()
}

#[test]
fn under_load_nobody_is_sent_to_a_stalled_agent_and_every_count_comes_back() -> Result<()> {
    for (policy, refuses) in [("over-admit", false), ("refuse", true)] {
        under_load(policy, refuses).with_context(|| format!("on_agent_loss: {policy}"))?;
    }
    Ok(())
}

fn under_load(policy: &str, refuses: bool) -> Result<()> {
    const THREADS: usize = 8;
    let crowd = Crowd::new(2)?;
    let answer = Behaviour::Answer {
        after: Duration::from_millis(2),
    };
    let servers: Vec<_> = (0..2)
        .map(|pod| RawServer::start(&crowd.netns, pod_address(pod), answer, 0))
        .collect::<Result<_>>()?;
    let service = service(0, 1, 0..2)
        .with("queue", json!({"size": 100, "timeout": "30s"}))
        .with("on_agent_loss", json!(policy));
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service])?;
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| -> Result<()> {
        let clients: Vec<_> = (0..THREADS)
            .map(|_| {
                let (crowd, is_over) = (&crowd, &is_over);
                scope.spawn(move || crowd.place().enter().and_then(|()| hammer(is_over)))
            })
            .collect();
        eventually(SOON, || -> Result<()> {
            let queue = agent.queue("service-0")?;
            ensure!(queue.accepted >= 50, "{queue:?}");
            Ok(())
        });
        let stalled = agent.stall()?;
        // Afterwards, all that begins, ends. Those who were sent to the agent before hang, but
        // other threads take their place.
        let left_alone = Instant::now() + LEFT_ALONE_WITHIN + SLACK;
        thread::sleep(left_alone.saturating_duration_since(Instant::now()));
        let newcomers = crowd.place().run(|| -> Result<(u32, u32)> {
            let (mut served, mut refused) = (0, 0);
            for _ in 0..200 {
                match attempt()? {
                    true => served += 1,
                    false => refused += 1,
                }
            }
            Ok((served, refused))
        });
        drop(stalled);
        is_over.store(true, Relaxed);
        let (served, refused) = newcomers?;
        // The stalled agent may hold every slot, and then all are refused.
        assert!(refuses || refused == 0, "{refused} were refused");
        assert_eq!(served + refused, 200);
        clients
            .into_iter()
            .try_for_each(|client| client.join().expect("a client does not panic"))
    })?;
    eventually_eq(SOON, 0, || agent.inflight().expect("the agent counts"));
    agent.wait_nobody_waits();
    for server in &servers {
        eventually_eq(SOON, 0, || server.seen().current);
    }
    assert_no_slot_astray(&agent)?;
    agent.stop()
}

/// Requests, one after the other.
fn hammer(is_over: &AtomicBool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !is_over.load(Relaxed) && Instant::now() < deadline {
        attempt()?;
    }
    Ok(())
}

/// Whether a request was served. It may be refused in `connect()`, and in no other way.
fn attempt() -> Result<bool> {
    match dial(frontend_address(0)) {
        Ok(stream) => ask(&stream, Request::Answer).map(|()| true),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Dials until a connection is not sent to the agent, which must be soon enough. Gives those that
/// were, and both ends of this one.
fn until_left_alone(
    scene: &Scene,
    stalled: &Stalled<'_>,
) -> Result<(Vec<TcpStream>, (TcpStream, TcpStream))> {
    let mut on_their_way = Vec::new();
    loop {
        let client = scene.dial()?;
        let waited = stalled.elapsed();
        if scene.agent().flows()? == on_their_way.len() {
            let (_, pod) = scene.accept(&client)?;
            ensure!(!on_their_way.is_empty(), "the agent was given up at once");
            return Ok((on_their_way, (client, pod)));
        }
        on_their_way.push(client);
        ensure!(waited < LEFT_ALONE_WITHIN + SLACK, "not after {waited:?}");
        thread::sleep(BETWEEN);
    }
}

/// Waits until whoever was sent to the agent is there.
#[track_caller]
fn all_have_arrived(scene: &Scene) {
    eventually_eq(SOON, 0, || {
        let flows = scene.agent().flows();
        flows.expect("the map of flows can be read")
    });
}

/// Waits until connections are sent to the agent again.
fn back_to_queueing(scene: &Scene) -> Result<()> {
    all_have_arrived(scene);
    eventually(SOON, || -> Result<()> {
        let before = scene.queue().accepted;
        let client = scene.dial()?;
        within(10 * BETWEEN, || match scene.queue().accepted > before {
            true => Ok(()),
            false => Err("nobody new has come to the agent"),
        })?;
        drop(client);
        Ok(())
    });
    Ok(())
}

/// Waiters are patient, and there is room for them.
fn patient(service: Service) -> Service {
    service.with("queue", json!({"size": 1000, "timeout": "30s"}))
}

fn refusing(service: Service) -> Service {
    patient(service).with("on_agent_loss", json!("refuse"))
}

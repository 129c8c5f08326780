//! The agent may be killed and started again at any moment: connects go on being steered, exactly
//! within the limit, and every count is where it was.

use std::{
    collections::BTreeMap,
    io::{self, ErrorKind},
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use serde_json::json;
use tests::{
    agent::Agent,
    crowd::{
        Crowd, SOON, ask, assert_no_slot_astray, frontend_address, service, settle, slots_taken,
    },
    exact::{ExactServer, Request},
    wait::{eventually, eventually_eq},
};

const CLIENTS: usize = 16;
const PODS: u8 = 8;
/// Twice as many as clients in all: a process that is being started holds a copy of every client's
/// socket until its program runs, and whoever closes one meanwhile does not end the connection.
const SLOTS: u32 = 4;
const WORK: Duration = Duration::from_millis(1);

/// Clients that dial and are served, again and again.
struct Clients<'a> {
    crowd: &'a Crowd,
    stop: AtomicBool,
    served: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
}

impl<'a> Clients<'a> {
    /// Goes on for as long as `meanwhile` takes; gives how many were served.
    fn under(crowd: &'a Crowd, meanwhile: impl FnOnce(&Self) -> Result<()>) -> Result<u64> {
        let clients = Self {
            crowd,
            stop: AtomicBool::new(false),
            served: AtomicU64::new(0),
            failures: Mutex::default(),
        };
        thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| clients.go_on());
            }
            let outcome = meanwhile(&clients);
            clients.stop.store(true, SeqCst);
            outcome
        })?;
        let failures = clients.failures.into_inner().expect("nobody panicked");
        ensure!(failures.is_empty(), "connects failed: {failures:?}");
        Ok(clients.served.into_inner())
    }

    fn go_on(&self) {
        while !self.stop.load(SeqCst) {
            let exchanged = self
                .crowd
                .dial(frontend_address(0))
                .context("connect")
                .and_then(|stream| ask(&stream, Request::Answer).context("exchange"));
            match exchanged {
                Ok(()) => {
                    self.served.fetch_add(1, SeqCst);
                }
                Err(error) => {
                    let mut failures = self.failures.lock().expect("nobody panicked");
                    *failures.entry(format!("{error:#}")).or_default() += 1;
                }
            }
        }
    }

    /// Waits until so many more have been served.
    fn wait_for(&self, more: u64) {
        let goal = self.served.load(SeqCst) + more;
        eventually(SOON, || {
            let served = self.served.load(SeqCst);
            ensure!(served >= goal, "{served} of {goal}");
            Ok(())
        });
    }
}

fn pods(crowd: &Crowd, slots: u32) -> Result<Vec<ExactServer>> {
    (0..PODS).map(|pod| crowd.serve(pod, slots, WORK)).collect()
}

fn assert_limits_held(servers: &[ExactServer]) -> Result<()> {
    for (pod, server) in servers.iter().enumerate() {
        let tally = server.tally();
        ensure!(tally.breaches == 0, "pod {pod}: {tally:?}");
    }
    Ok(())
}

#[test]
fn killed_again_and_again_it_fails_no_connect_and_loses_no_count() -> Result<()> {
    let crowd = Crowd::new(PODS)?;
    let servers = pods(&crowd, SLOTS)?;
    let mut agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(0, SLOTS, 0..PODS)])?;
    let served = Clients::under(&crowd, |clients| {
        let until = Instant::now() + Duration::from_secs(10);
        while Instant::now() < until {
            agent.kill()?;
            clients.wait_for(200);
            agent.restart()?;
            clients.wait_for(200);
        }
        Ok(())
    })?;
    ensure!(served > 1000, "{served} only");
    assert_limits_held(&servers)?;
    settle(&agent, &servers);
    assert_no_slot_astray(&agent)?;
    agent.uninstall()
}

#[test]
fn what_connections_hold_counts_across_agents() -> Result<()> {
    let crowd = Crowd::new(2)?;
    let server = crowd.serve(0, 1, WORK)?;
    let mut agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(0, 1, [0])])?;
    let held = crowd.dial(frontend_address(0))?;
    for _ in 0..3 {
        agent.kill()?;
        let refused = crowd
            .dial(frontend_address(0))
            .expect_err("its slot is taken");
        ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
        agent.restart()?;
        assert_eq!(slots_taken(&agent, 0)?, [1]);
    }
    // Given back while nobody looks.
    agent.kill()?;
    ask(&held, Request::Answer)?;
    drop(held);
    eventually(SOON, || {
        ask(&crowd.dial(frontend_address(0))?, Request::Answer)
    });
    agent.restart()?;
    eventually_eq(SOON, Some(vec![0]), || slots_taken(&agent, 0).ok());
    assert_eq!(server.tally().breaches, 0);
    agent.uninstall()
}

/// An agent that is killed between claiming a connection and counting it out leaves it counted.
#[test]
fn who_was_claimed_by_an_agent_that_is_no_more_does_not_stay_counted() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let server = crowd.serve(0, 1, WORK)?;
    let queued = service(0, 1, [0]).with("queue", json!({"size": 10, "timeout": "5s"}));
    let mut agent = Agent::start(&crowd.netns, &crowd.cgroup, &[queued])?;
    agent.kill()?;
    count_as_sent(&agent, 2)?;
    agent.restart()?;
    assert_eq!(agent.queue("service-0")?.waiters, 0);
    ask(&crowd.dial(frontend_address(0))?, Request::Answer)?;
    assert_eq!(server.tally().breaches, 0);
    agent.uninstall()
}

#[test]
fn what_an_agent_held_and_who_waited_in_it_ends_with_it() -> Result<()> {
    let crowd = Crowd::new(2)?;
    let servers = [crowd.serve(0, 1, WORK)?, crowd.serve(1, 1, WORK)?];
    let queued =
        |number| service(number, 1, [number]).with("queue", json!({"size": 10, "timeout": "30s"}));
    let mut agent = Agent::start(&crowd.netns, &crowd.cgroup, &[queued(0), queued(1)])?;
    let waiters = |agent: &Agent, name| agent.queue(name).ok().map(|queue| queue.waiters);
    let dial_both = || -> io::Result<Vec<TcpStream>> {
        (0..2)
            .map(|number| crowd.dial(frontend_address(number)))
            .collect()
    };
    let held = dial_both()?;
    let sent = dial_both()?;
    for name in ["service-0", "service-1"] {
        eventually_eq(SOON, Some(1), || waiters(&agent, name));
    }
    let mut held = held.into_iter();
    let keeps_its_slot = held.next();
    // Its waiter has the slot then, from the agent.
    drop(held);
    eventually_eq(SOON, Some(0), || waiters(&agent, "service-1"));
    agent.kill()?;
    agent.restart()?;
    assert_eq!(waiters(&agent, "service-0"), Some(0));
    eventually_eq(SOON, Some(1), || agent.inflight().ok());
    ask(&crowd.dial(frontend_address(1))?, Request::Answer)?;
    drop((keeps_its_slot, sent));
    ask(&crowd.dial(frontend_address(0))?, Request::Answer)?;
    for server in &servers {
        assert_eq!(server.tally().breaches, 0);
    }
    agent.uninstall()
}

/// Counts so many more as on their way to the agent's first service.
fn count_as_sent(agent: &Agent, more: u64) -> Result<()> {
    /// SERVICES' values, which nobody takes apart here but for the word of those who wait.
    type Services = Array<MapData, [u64; 53]>;
    const WAITING: usize = 4;
    let pinned = MapData::from_pin(agent.pin_path().join("SERVICES"))?;
    let mut services: Services = Map::from_map_data(pinned).and_then(Array::try_from)?;
    let mut record = services.get(&0, 0)?;
    record[WAITING] += more;
    services.set(0, record, 0)?;
    Ok(())
}

#[test]
fn what_changed_while_it_was_away_is_made_up_for() -> Result<()> {
    let crowd = Crowd::new(PODS)?;
    let servers = pods(&crowd, SLOTS)?;
    let mut agent = Agent::start(
        &crowd.netns,
        &crowd.cgroup,
        &[service(0, SLOTS, 0..4), service(1, 1, [4])],
    )?;
    let held = crowd.dial(frontend_address(1))?;
    agent.kill()?;
    agent.write_services(&[service(0, SLOTS, 2..7), service(2, 1, [4])])?;
    agent.restart()?;
    let gone = crowd
        .dial(frontend_address(1))
        .expect_err("nobody steers it");
    ensure!(gone.kind() == ErrorKind::NetworkUnreachable, "{gone}");
    let full = crowd
        .dial(frontend_address(2))
        .expect_err("the pod's slot is taken");
    ensure!(full.kind() == ErrorKind::ConnectionRefused, "{full}");
    drop(held);
    eventually(SOON, || {
        ask(&crowd.dial(frontend_address(2))?, Request::Answer)
    });
    let before: Vec<_> = servers.iter().map(|server| server.tally().served).collect();
    for _ in 0..50 {
        ask(&crowd.dial(frontend_address(0))?, Request::Answer)?;
    }
    let after: Vec<_> = servers.iter().map(|server| server.tally().served).collect();
    assert_eq!(before[..2], after[..2], "they left");
    ensure!(after[5] > before[5], "who came is not used: {after:?}");
    assert_limits_held(&servers)?;
    agent.uninstall()
}

//! Probes find out which pods serve, and never stand in a request's way.

#![forbid(unsafe_code)]

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    agent::{Agent, BackendState},
    cgroup::Cgroup,
    function::{Function, FunctionOptions, Health},
    http::Http,
    place::Place,
    scene::{SOON, dial},
    service::Service,
    topology::Topology,
    wait::{eventually, eventually_eq, within},
};

const FRONTEND: &str = "10.96.0.10:80";
const OTHER: &str = "10.96.0.11:80";
const PORT: u16 = 8080;

/// A service of HTTP functions that are probed often.
struct Stage {
    agent: Agent,
    functions: Vec<Function>,
    cgroup: Cgroup,
    topology: Topology,
}

#[test]
fn an_unhealthy_pod_gets_nothing_until_it_is_well_again() -> Result<()> {
    let stage = Stage::new(2, often())?;
    stage.functions[0].set_health(Health::Sick);
    stage.wait_state(0, "unhealthy");
    stage.reset();
    for _ in 0..20 {
        stage.request(FRONTEND)?;
    }
    assert_eq!(stage.served(), [0, 20]);
    stage.functions[0].set_health(Health::Healthy);
    stage.wait_state(0, "idle");
    stage.reset();
    for _ in 0..20 {
        stage.request(FRONTEND)?;
    }
    assert_eq!(stage.served(), [10, 10]);
    stage.finish()
}

#[test]
fn one_failure_between_successes_is_forgiven() -> Result<()> {
    let stage = Stage::new(1, json!({"interval": "100ms", "failures": 3}))?;
    let function = &stage.functions[0];
    for _ in 0..3 {
        let before = function.probes();
        function.set_health(Health::Sick);
        eventually_eq(SOON, true, || function.probes() > before);
        function.set_health(Health::Healthy);
        assert_ne!(stage.backend(0).state, "unhealthy");
        let before = function.probes();
        eventually_eq(SOON, true, || function.probes() > before);
    }
    stage.finish()
}

#[test]
fn a_busy_pod_is_alive() -> Result<()> {
    let stage = Stage::new(1, often())?;
    stage.functions[0].set_health(Health::Busy);
    let before = stage.functions[0].probes();
    eventually_eq(SOON, true, || stage.functions[0].probes() >= before + 10);
    assert_eq!(stage.backend(0).state, "idle");
    stage.request(FRONTEND)?;
    stage.finish()
}

#[test]
fn a_pod_that_is_gone_is_unhealthy_and_with_it_the_service_refuses_at_once() -> Result<()> {
    let mut stage = Stage::new(1, often())?;
    stage.functions.remove(0).stop();
    stage.wait_state(0, "unhealthy");
    let begun = Instant::now();
    let answer = stage.ask(FRONTEND, "/")?;
    assert_eq!(answer, (503, Some("no-backends".to_owned())));
    // Far less than anyone may wait.
    assert!(begun.elapsed() < Duration::from_secs(5));
    stage.finish()
}

#[test]
fn when_all_become_unhealthy_those_who_wait_are_not_sent_to_them() -> Result<()> {
    let stage = Stage::new(1, often())?;
    let held = stage
        .place()
        .run(|| dial(FRONTEND.parse().expect("an address")))?;
    let waiter = stage
        .place()
        .run(|| dial(FRONTEND.parse().expect("an address")))?;
    eventually_eq(SOON, 1, || stage.waiters());
    stage.functions[0].set_health(Health::Sick);
    stage.wait_state(0, "unhealthy");
    drop(held);
    eventually_eq(SOON, 0, || {
        stage.agent.inflight().expect("the agent counts")
    });
    stage.reset();
    stage.functions[0].set_health(Health::Healthy);
    // Now the slot is the waiter's.
    let mut waiter = Http::new(waiter);
    assert_eq!(waiter.get("/")?.status(), 200);
    drop(waiter);
    stage.finish()
}

#[test]
fn a_health_endpoint_that_hangs_delays_no_request() -> Result<()> {
    const REQUESTS: u32 = 100;
    // Longer than all the requests together may take.
    let hanging = json!({"interval": "50ms", "timeout": "1m", "failures": 3});
    let stage = Stage::new(1, hanging)?;
    stage.functions[0].set_health(Health::Silent);
    let probes = stage.functions[0].probes();
    eventually_eq(SOON, true, || stage.functions[0].probes() > probes);
    let begun = Instant::now();
    for _ in 0..REQUESTS {
        stage.request(FRONTEND)?;
    }
    let took = begun.elapsed();
    assert!(took < SOON, "{took:?} for {REQUESTS} requests");
    assert_eq!(stage.backend(0).state, "idle");
    stage.finish()
}

#[test]
fn a_health_endpoint_that_hangs_makes_its_pod_unhealthy_in_time() -> Result<()> {
    let stage = Stage::new(
        2,
        json!({"interval": "50ms", "timeout": "50ms", "failures": 2}),
    )?;
    stage.functions[1].set_health(Health::Silent);
    stage.wait_state(1, "unhealthy");
    assert_eq!(stage.backend(0).state, "idle");
    stage.functions[1].set_health(Health::Healthy);
    stage.wait_state(1, "idle");
    stage.finish()
}

#[test]
fn a_pod_of_two_services_is_probed_once() -> Result<()> {
    const INTERVAL: Duration = Duration::from_millis(200);
    let stage = Stage::new(1, json!({"interval": "200ms"}))?;
    let mut other = stage.service(json!({"interval": "200ms"}));
    other.name = "other".to_owned();
    other.frontends = vec![OTHER.to_owned()];
    stage
        .agent
        .reload(&[stage.service(json!({"interval": "200ms"})), other])?;
    let function = &stage.functions[0];
    let begun = Instant::now();
    let before = function.probes();
    eventually_eq(SOON, true, || function.probes() >= before + 6);
    let took = begun.elapsed();
    // Five intervals at least, each up to a tenth shorter by chance.
    assert!(took >= INTERVAL * 4, "six probes in {took:?}");
    function.set_health(Health::Sick);
    stage.wait_state(0, "unhealthy");
    for frontend in [FRONTEND, OTHER] {
        assert_eq!(stage.ask(frontend, "/")?.0, 503);
    }
    function.set_health(Health::Healthy);
    stage.wait_state(0, "idle");
    for frontend in [FRONTEND, OTHER] {
        stage.request(frontend)?;
    }
    stage.finish()
}

#[test]
fn probes_are_switched_off_where_they_are_not_wanted() -> Result<()> {
    let stage = Stage::new(1, often())?;
    stage.functions[0].set_health(Health::Sick);
    stage.wait_state(0, "unhealthy");
    stage
        .agent
        .reload(&[stage.service(json!({"probe": "none"}))])?;
    stage.wait_state(0, "idle");
    let probes = stage.functions[0].probes();
    stage.request(FRONTEND)?;
    let more = within(Duration::from_millis(300), || {
        match stage.functions[0].probes() > probes + 1 {
            true => Ok(()),
            false => Err("no more than one that was under way"),
        }
    });
    assert!(more.is_err(), "it is still probed");
    stage.finish()
}

#[test]
fn a_tcp_probe_is_content_with_a_connection() -> Result<()> {
    let mut stage = Stage::new(
        2,
        json!({"probe": "tcp", "interval": "50ms", "failures": 2}),
    )?;
    stage.functions[0].set_health(Health::Sick);
    stage.functions.remove(1).stop();
    stage.wait_state(1, "unhealthy");
    assert_eq!(stage.backend(0).state, "idle");
    assert_eq!(stage.functions[0].probes(), 0);
    stage.finish()
}

#[test]
fn probes_take_no_slot_and_are_not_steered() -> Result<()> {
    let stage = Stage::new(1, often())?;
    let held = stage
        .place()
        .run(|| dial(FRONTEND.parse().expect("an address")))?;
    let probes = stage.functions[0].probes();
    eventually(SOON, || -> Result<()> {
        let inflight = stage.agent.inflight()?;
        assert_eq!(inflight, 1);
        ensure!(stage.functions[0].probes() >= probes + 10);
        Ok(())
    });
    drop(held);
    stage.finish()
}

fn often() -> Value {
    json!({"interval": "30ms", "failures": 3})
}

impl Stage {
    fn new(pods: usize, health: Value) -> Result<Self> {
        let topology = Topology::new(pods, 1)?;
        let functions = topology.functions(PORT, &FunctionOptions::default())?;
        let cgroup = Cgroup::threaded("health")?;
        let addresses: Vec<_> = functions.iter().map(Function::address).collect();
        let service = service(&addresses, health);
        Ok(Self {
            agent: Agent::start(&topology.node, &cgroup, &[service])?,
            functions,
            cgroup,
            topology,
        })
    }

    fn service(&self, health: Value) -> Service {
        let addresses: Vec<_> = self.functions.iter().map(Function::address).collect();
        service(&addresses, health)
    }

    fn place(&self) -> Place<'_> {
        Place::new(&self.topology.clients[0].netns, &self.cgroup)
    }

    /// The status of the answer to a request on a connection of its own, and the reason if it is
    /// refused.
    fn ask(&self, frontend: &str, path: &str) -> Result<(u16, Option<String>)> {
        let frontend: SocketAddr = frontend.parse()?;
        let client = self.place().run(|| dial(frontend));
        let mut client = Http::new(client.context("connect")?);
        let answer = client.get(path)?;
        let reason = answer.header("x-idlefirst-reason");
        Ok((answer.status(), reason.map(str::to_owned)))
    }

    fn request(&self, frontend: &str) -> Result<()> {
        let answer = self.ask(frontend, "/")?;
        ensure!(answer == (200, None), "{answer:?}");
        Ok(())
    }

    fn served(&self) -> Vec<u64> {
        let functions = self.functions.iter();
        functions.map(|function| function.seen().served).collect()
    }

    fn reset(&self) {
        self.functions.iter().for_each(Function::reset);
    }

    #[track_caller]
    fn waiters(&self) -> u32 {
        let queue = self.agent.queue("hello");
        queue.expect("the agent lists its queues").waiters
    }

    #[track_caller]
    fn backend(&self, pod: usize) -> BackendState {
        let address = self.topology.pods[pod].at_v4(PORT).to_string();
        let backends = self.agent.backends().expect("the agent lists its backends");
        let mut backends = backends.into_iter();
        let found = backends.find(|backend| backend.address == address);
        found.expect("every pod is listed")
    }

    #[track_caller]
    fn wait_state(&self, pod: usize, state: &str) {
        eventually_eq(SOON, state.to_owned(), || self.backend(pod).state);
    }

    /// No slot is taken and nobody waits in the end.
    fn finish(self) -> Result<()> {
        eventually_eq(SOON, 0, || self.agent.inflight().expect("the agent counts"));
        self.agent.wait_nobody_waits();
        self.agent.stop()
    }
}

fn service(pods: &[SocketAddr], health: Value) -> Service {
    Service::new("hello", [FRONTEND], 1, pods.iter().copied())
        .with("protocol", json!("http"))
        .with("queue", json!({"timeout": "30s"}))
        .with("health", health)
}

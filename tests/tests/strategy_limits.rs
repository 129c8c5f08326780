//! A pod never serves more than its `max_inflight` under any strategy, whoever takes the slot,
//! program or agent; and whoever can wait is served.

#![forbid(unsafe_code)]

use std::time::Duration;

use anyhow::{Result, ensure};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use tests::{
    agent::Agent,
    crowd::{Crowd, Outcome, assert_no_slot_astray, exchange, frontend_address, service, settle},
    exact::Request,
    wait::eventually_eq,
};

const THREADS: u64 = 32;
const EXCHANGES: u64 = 100;
/// What a request takes, so that slots are wanted while they are taken.
const WORK: Duration = Duration::from_micros(500);

/// Four pods with one slot each.
const SINGLE: u8 = 0;
/// Four with three each.
const TRIPLE: u8 = 1;
const PODS: u8 = 8;

#[test]
fn idle_first() -> Result<()> {
    keeps_its_limits("idle-first")
}

#[test]
fn least_connections() -> Result<()> {
    keeps_its_limits("least-connections")
}

#[test]
fn round_robin() -> Result<()> {
    keeps_its_limits("round-robin")
}

#[test]
fn weighted_round_robin() -> Result<()> {
    keeps_its_limits("weighted-round-robin")
}

#[test]
fn random() -> Result<()> {
    keeps_its_limits("random")
}

#[test]
fn the_best_of_two() -> Result<()> {
    keeps_its_limits("p2c")
}

#[test]
fn least_response_time() -> Result<()> {
    keeps_its_limits("least-response-time")
}

#[test]
fn consistent_hash() -> Result<()> {
    keeps_its_limits("consistent-hash")
}

#[test]
fn leader() -> Result<()> {
    keeps_its_limits("leader")
}

#[test]
fn adaptive() -> Result<()> {
    keeps_its_limits("adaptive")
}

fn keeps_its_limits(strategy: &str) -> Result<()> {
    let crowd = Crowd::new(PODS)?;
    let servers = (0..PODS)
        .map(|pod| crowd.serve(pod, if pod < 4 { 1 } else { 3 }, WORK))
        .collect::<Result<Vec<_>>>()?;
    let patient = json!({"size": 1000, "timeout": "60s"});
    let services = [service(SINGLE, 1, 0..4), service(TRIPLE, 3, 4..8)].map(|service| {
        let service = service.by(strategy).with("queue", patient.clone());
        service.with_backend(1, "weight", json!(3))
    });
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &services)?;
    crowd.place().run_many(THREADS, |thread| {
        let mut random = SmallRng::seed_from_u64(thread);
        for _ in 0..EXCHANGES {
            let frontend = frontend_address(random.random_range(SINGLE..=TRIPLE));
            let outcome = exchange(frontend, Request::Answer)?;
            ensure!(outcome == Outcome::Served, "{frontend}: {outcome:?}");
        }
        Ok(())
    })?;

    settle(&agent, &servers);
    agent.wait_nobody_waits();
    let served: u64 = servers.iter().map(|server| server.tally().served).sum();
    assert_eq!(served, THREADS * EXCHANGES);
    let busy: Vec<_> = servers
        .iter()
        .filter(|server| server.tally().peak > 0)
        .collect();
    let used = if strategy == "leader" { 2 } else { PODS.into() };
    assert_eq!(busy.len(), used, "pods that served anything");
    // `settle` has checked that no limit was passed; this, that there was something to pass it. On
    // a busy machine few clients run at once, so that all three slots may never be wanted.
    for (limit, least) in [(1, 1), (3, 2)] {
        let of_limit = busy.iter().filter(|server| server.limit() == limit);
        let peak = of_limit.map(|server| server.tally().peak).max();
        assert!(peak >= Some(least), "not enough load to speak of: {peak:?}");
    }
    assert_no_slot_astray(&agent)?;

    // Every slot is there to be taken again, and there is not one more.
    let strict = [service(SINGLE, 1, 0..4), service(TRIPLE, 3, 4..8)];
    agent.reload(&strict)?;
    let held = [(SINGLE, 4), (TRIPLE, 12)].map(|(service, slots)| {
        let frontend = frontend_address(service);
        let held: Vec<_> = (0..slots).map(|_| crowd.dial(frontend)).collect();
        let newcomer = crowd.dial(frontend);
        let refused = newcomer.expect_err("every slot is taken").kind();
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
        held.into_iter().collect::<std::io::Result<Vec<_>>>()
    });
    for held in held {
        held?;
    }
    eventually_eq(tests::crowd::SOON, Some(0), || agent.inflight().ok());
    assert!(!agent.stderr().contains("panicked"), "{}", agent.stderr());
    agent.stop()
}

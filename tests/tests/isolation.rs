//! A service that drowns in load is its own problem: the queue, the refusals and the latency of
//! another service are what they were.

#![forbid(unsafe_code)]

use std::{
    io::Read,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;
use tests::{
    agent::Agent,
    crowd::{Crowd, SOON, ask, assert_no_slot_astray, dial, frontend_address, service, settle},
    exact::Request,
    wait::eventually_eq,
};

const DROWNED: u8 = 0;
const CALM: u8 = 1;
/// Of those who drown the one.
const THREADS: usize = 4;
/// Between two connects of each: the machine has other things to do.
const PAUSE: Duration = Duration::from_micros(500);
/// Of the other, in each half of the run.
const EXCHANGES: usize = 300;
/// Beyond the noise of a small machine on which everything runs: clients, pods, and those who
/// drown a service.
const FACTOR: u32 = 5;
const NOISE: Duration = Duration::from_millis(5);

#[test]
fn a_drowned_service_leaves_the_latency_of_another_alone() -> Result<()> {
    let crowd = Crowd::new(2)?;
    let servers = [0, 1].map(|pod| crowd.serve(pod, 1, Duration::from_micros(200)));
    let servers = servers.into_iter().collect::<Result<Vec<_>>>()?;
    let services = [
        service(DROWNED, 1, [0]).with("queue", json!({"size": 10, "timeout": "100ms"})),
        service(CALM, 1, [1]).with("queue", json!({"size": 10, "timeout": "10s"})),
    ];
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &services)?;
    let held = crowd.dial(frontend_address(DROWNED))?;

    let alone = crowd.place().run(median_of_queued)?;
    let is_over = AtomicBool::new(false);
    let refused = AtomicU64::new(0);
    let beside = thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| drown(&crowd, &is_over, &refused));
        }
        eventually_eq(SOON, true, || refused.load(Relaxed) >= 100);
        let beside = crowd.place().run(median_of_queued);
        is_over.store(true, Relaxed);
        beside
    })?;
    let queue = agent.queue(&format!("service-{CALM}"))?;
    assert_eq!(queue.refused_in_all(), 0, "{queue:?}");
    assert!(
        queue.queued >= EXCHANGES as u64,
        "hardly any waited: {queue:?}"
    );
    let drowned = agent.queue(&format!("service-{DROWNED}"))?;
    assert!(drowned.refused_in_all() >= 500, "{drowned:?}");
    assert!(
        beside <= alone * FACTOR + NOISE,
        "{beside:?} beside a drowned service, {alone:?} alone; refused: {refused:?}"
    );
    drop(held);
    settle(&agent, &servers);
    agent.wait_nobody_waits();
    assert_no_slot_astray(&agent)?;
    agent.stop()
}

/// Two at a time for one slot, so that one of them waits. Gives the median time of all.
fn median_of_queued() -> Result<Duration> {
    let mut times = Vec::with_capacity(2 * EXCHANGES);
    thread::scope(|scope| -> Result<()> {
        let pair = [(); 2].map(|()| {
            scope.spawn(|| -> Result<Vec<Duration>> {
                (0..EXCHANGES)
                    .map(|_| {
                        let begun = Instant::now();
                        let stream = dial(frontend_address(CALM))?;
                        ask(&stream, Request::Answer).context("the calm service")?;
                        Ok(begun.elapsed())
                    })
                    .collect()
            })
        });
        for one in pair {
            times.extend(one.join().expect("a client does not panic")?);
        }
        Ok(())
    })?;
    times.sort();
    Ok(times[times.len() / 2])
}

/// Connects over and over, for nothing.
fn drown(crowd: &Crowd, is_over: &AtomicBool, refused: &AtomicU64) {
    let entered = crowd.place().enter();
    entered.expect("a place of ours can be entered");
    let mut waiting = Vec::new();
    while !is_over.load(Relaxed) {
        if let Ok(mut stream) = dial(frontend_address(DROWNED)) {
            let waits = stream.set_read_timeout(Some(Duration::from_millis(1)));
            waits.expect("a timeout can be set");
            match stream.read(&mut [0]) {
                // It has a place in the queue.
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    waiting.push(stream);
                }
                _ => drop(refused.fetch_add(1, Relaxed)),
            }
            if waiting.len() > 20 {
                waiting.clear();
            }
        }
        thread::sleep(PAUSE);
    }
}

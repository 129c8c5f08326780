//! A service changes its strategy under load: no connection is lost, none refused or left waiting
//! that need not be, and in the end every slot is back.

#![forbid(unsafe_code)]

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    agent::Agent,
    crowd::{
        Crowd, Outcome, SOON, ask, assert_no_slot_astray, exchange, frontend_address, service,
        settle,
    },
    exact::Request,
    service::Service,
    wait::eventually,
};

const CLIENTS: u64 = 16;
const WORK: Duration = Duration::from_micros(500);
const ROUNDS: usize = 3;
/// Served under each strategy before the next.
const SERVED_EACH: u64 = 300;
const STRATEGIES: [&str; 10] = [
    "idle-first",
    "leader",
    "random",
    "consistent-hash",
    "round-robin",
    "least-response-time",
    "p2c",
    "weighted-round-robin",
    "least-connections",
    "adaptive",
];

/// Any of its pods has a slot for everyone, so nobody is ever refused.
const AMPLE: u8 = 0;
const AMPLE_SLOTS: u32 = 24;
/// One slot on each of four pods, and a queue in which everyone may wait.
const TIGHT: u8 = 1;
const PODS: u8 = 8;
/// Held on `ample` all the time.
const HELD: usize = 4;

#[test]
fn thirty_changes_of_strategy_under_load_lose_nothing() -> Result<()> {
    let crowd = Crowd::new(PODS)?;
    let servers = (0..PODS)
        .map(|pod| crowd.serve(pod, if pod < 4 { AMPLE_SLOTS } else { 1 }, WORK))
        .collect::<Result<Vec<_>>>()?;
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &services(0))?;
    let held = (0..HELD)
        .map(|_| crowd.dial(frontend_address(AMPLE)))
        .collect::<std::io::Result<Vec<_>>>()?;
    let traffic = Traffic::default();
    thread::scope(|scope| -> Result<()> {
        let clients = scope.spawn(|| {
            let work = |client| traffic.run(client);
            crowd.place().run_many(CLIENTS, work)
        });
        let changed = change_often(&agent, &traffic);
        traffic.stop.store(true, SeqCst);
        clients.join().expect("clients do not panic")?;
        changed
    })?;
    traffic.still_fine()?;

    for stream in &held {
        ask(stream, Request::Answer).context("a connection from before the changes")?;
    }
    drop(held);
    settle(&agent, &servers);
    agent.wait_nobody_waits();
    assert_no_slot_astray(&agent)?;
    let served: u64 = servers.iter().map(|server| server.tally().served).sum();
    assert_eq!(served, traffic.served() + HELD as u64);
    assert!(!agent.stderr().contains("panicked"), "{}", agent.stderr());
    agent.stop()
}

fn change_often(agent: &Agent, traffic: &Traffic) -> Result<()> {
    for change in 1..=ROUNDS * STRATEGIES.len() {
        agent
            .reload(&services(change))
            .with_context(|| format!("change {change}"))?;
        for (service, served) in [AMPLE, TIGHT].into_iter().zip(&traffic.served) {
            let before = served.load(SeqCst);
            eventually(3 * SOON, || -> Result<()> {
                let new = served.load(SeqCst) - before;
                ensure!(
                    new >= SERVED_EACH,
                    "change {change}: service-{service} has served {new}"
                );
                Ok(())
            });
        }
        traffic.still_fine()?;
    }
    Ok(())
}

/// As configured after so many changes: each service has another strategy every time, and what
/// else bears on the choice comes and goes.
fn services(change: usize) -> [Service; 2] {
    let ample = service(AMPLE, AMPLE_SLOTS, 0..4);
    let tight = service(TIGHT, 1, 4..8).with("queue", json!({"size": 1000, "timeout": "60s"}));
    let strategy = |shift: usize| STRATEGIES[(change + shift) % STRATEGIES.len()];
    let mut services = [ample.by(strategy(0)), tight.by(strategy(5))];
    for (number, service) in services.iter_mut().enumerate() {
        let mut next = service
            .clone()
            .with_backend(change % 4, "weight", json!(2 + change % 5));
        if (change + number).is_multiple_of(3) {
            next = next.with("affinity", json!({"client": true, "timeout": "1s"}));
        }
        *service = next;
    }
    services
}

/// What clients do meanwhile.
#[derive(Debug, Default)]
struct Traffic {
    stop: AtomicBool,
    /// Of `ample` and `tight`.
    served: [AtomicU64; 2],
    complaints: Mutex<Vec<String>>,
}

impl Traffic {
    /// Half of the clients dial each service, so that one in which all wait does not silence the
    /// other.
    fn run(&self, client: u64) -> Result<()> {
        let service = if client.is_multiple_of(2) {
            AMPLE
        } else {
            TIGHT
        };
        while !self.stop.load(SeqCst) {
            match exchange(frontend_address(service), Request::Answer) {
                Ok(Outcome::Served) => {
                    self.served[usize::from(service)].fetch_add(1, SeqCst);
                }
                other => {
                    let mut complaints = self.complaints.lock().expect("nobody panics with it");
                    complaints.push(format!("service-{service}: {other:?}"));
                    ensure!(complaints.len() < 20, "{complaints:#?}");
                }
            }
        }
        Ok(())
    }

    fn served(&self) -> u64 {
        self.served.iter().map(|served| served.load(SeqCst)).sum()
    }

    fn still_fine(&self) -> Result<()> {
        let complaints = self.complaints.lock().expect("nobody panics with it");
        ensure!(complaints.is_empty(), "{complaints:#?}");
        Ok(())
    }
}

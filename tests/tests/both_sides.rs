//! The kernel and the agent take slots on the same words: together they never take one too many.
//! Counted on the servers' side, with both at it at once.

#![forbid(unsafe_code)]

use std::{
    io::ErrorKind,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread::{self, Scope, ScopedJoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use tests::{
    agent::Agent,
    crowd::{Crowd, ask, assert_no_slot_astray, dial, frontend_address, service, settle},
    exact::{ExactServer, Request},
    service::Service,
};

/// On each side.
const THREADS: u64 = 32;
const PODS: u8 = 4;
const SLOTS: u32 = 2;
const WORK: Duration = Duration::from_micros(300);
const SERVED: u64 = 6_000;
/// By each of the services, however many by the other.
const SERVED_EACH: u64 = 100;
/// No stress goes on for longer, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Its clients get a slot in `connect()`, or are refused there and try again.
const IMPATIENT: u8 = 0;
/// After a refusal: long enough for the agent to get its share.
const PAUSE: Duration = Duration::from_millis(2);
/// Its clients wait in the queue, for slots that the agent takes.
const PATIENT: u8 = 1;

#[test]
fn thirty_two_threads_each_way_never_get_more_than_the_slots_there_are() -> Result<()> {
    hammer(&Request::ALL[..1])
}

#[test]
fn nor_when_servers_close_and_reset_and_clients_leave() -> Result<()> {
    hammer(&Request::ALL)
}

#[test]
fn nor_while_pods_and_settings_change() -> Result<()> {
    const RELOADS: u32 = 20;
    let stage = Stage::new()?;
    let mut random = SmallRng::seed_from_u64(1);
    let load = Load::new(&Request::ALL[..1], u64::MAX);
    thread::scope(|scope| -> Result<()> {
        let threads = stage.start(scope, &load);
        let mut reload = || -> Result<()> {
            // The first two stay, so that nobody waits for nothing.
            let pods = (0..PODS).filter(|pod| *pod < 2 || random.random_bool(0.5));
            let pods: Vec<u8> = pods.collect();
            let tick = random.random_range(1..=50);
            let [impatient, patient] = services(&pods);
            let mut queue = patient.settings["queue"].clone();
            queue["tick"] = json!(format!("{tick}ms"));
            stage
                .agent
                .reload(&[impatient, patient.with("queue", queue)])
        };
        let mut result = Ok(());
        for _ in 0..RELOADS {
            let before = load.served();
            result = result.and_then(|()| reload());
            let deadline = Instant::now() + PATIENCE;
            while result.is_ok() && load.served() < before + 50 {
                if Instant::now() > deadline || threads.iter().any(|thread| thread.is_finished()) {
                    result = Err(anyhow::anyhow!("nobody is served any more"));
                }
                thread::sleep(Duration::from_millis(1));
            }
        }
        load.is_over.store(true, Relaxed);
        join(threads)?;
        result
    })?;
    stage.agent.reload(&services(&[0, 1, 2, 3]))?;
    stage.settle()?;
    stage.agent.stop()
}

fn hammer(requests: &'static [Request]) -> Result<()> {
    let stage = Stage::new()?;
    let load = Load::new(requests, SERVED);
    thread::scope(|scope| join(stage.start(scope, &load)))?;
    stage.settle()?;
    assert_both_took_part(&stage.agent, &stage.servers)?;
    stage.agent.stop()
}

/// Pods, and two services that share them.
struct Stage {
    agent: Agent,
    servers: Vec<ExactServer>,
    crowd: Crowd,
}

type Clients<'s> = Vec<ScopedJoinHandle<'s, Result<()>>>;

impl Stage {
    fn new() -> Result<Self> {
        let crowd = Crowd::new(PODS)?;
        let servers = (0..PODS)
            .map(|pod| crowd.serve(pod, SLOTS, WORK))
            .collect::<Result<Vec<_>>>()?;
        let pods: Vec<u8> = (0..PODS).collect();
        let agent = Agent::start(&crowd.netns, &crowd.cgroup, &services(&pods))?;
        Ok(Self {
            agent,
            servers,
            crowd,
        })
    }

    /// Starts all clients, half of them on each service.
    fn start<'s>(&'s self, scope: &'s Scope<'s, '_>, load: &'s Load) -> Clients<'s> {
        let clients = (0..2 * THREADS).map(|seed| {
            scope.spawn(move || -> Result<()> {
                self.crowd.place().enter()?;
                let service = match seed < THREADS {
                    true => IMPATIENT,
                    false => PATIENT,
                };
                load.be_served(service, seed)
            })
        });
        clients.collect()
    }

    fn settle(&self) -> Result<()> {
        settle(&self.agent, &self.servers);
        self.agent.wait_nobody_waits();
        assert_no_slot_astray(&self.agent)
    }
}

/// The same pods behind both.
fn services(pods: &[u8]) -> [Service; 2] {
    let service = |number| service(number, SLOTS, pods.iter().copied());
    [
        service(IMPATIENT),
        service(PATIENT).with("queue", json!({"size": 1000, "timeout": "1m"})),
    ]
}

fn join(clients: Clients<'_>) -> Result<()> {
    clients
        .into_iter()
        .try_for_each(|client| client.join().expect("a client thread does not panic"))
}

/// What the clients do, and how far they are.
struct Load {
    requests: &'static [Request],
    enough: u64,
    /// By service.
    served: [AtomicU64; 2],
    is_over: AtomicBool,
}

impl Load {
    fn new(requests: &'static [Request], enough: u64) -> Self {
        Self {
            requests,
            enough,
            served: Default::default(),
            is_over: AtomicBool::new(false),
        }
    }

    fn served(&self) -> u64 {
        self.served.iter().map(|served| served.load(Relaxed)).sum()
    }

    fn is_enough(&self) -> bool {
        let mut each = self.served.iter();
        self.is_over.load(Relaxed)
            || self.served() >= self.enough
                && each.all(|served| served.load(Relaxed) >= SERVED_EACH)
    }

    /// Exchanges, one after the other, until that is enough. Some leave without a question if there
    /// is more than one kind of request.
    fn be_served(&self, service: u8, seed: u64) -> Result<()> {
        let mut random = SmallRng::seed_from_u64(seed);
        let deadline = Instant::now() + PATIENCE;
        while !self.is_enough() {
            ensure!(
                Instant::now() < deadline,
                "only {:?} were served",
                self.served
            );
            let stream = match dial(frontend_address(service)) {
                Ok(stream) => stream,
                Err(error)
                    if service == IMPATIENT && error.kind() == ErrorKind::ConnectionRefused =>
                {
                    thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if self.requests.len() > 1 && random.random_ratio(1, 16) {
                continue;
            }
            let request = self.requests[random.random_range(0..self.requests.len())];
            ask(&stream, request)?;
            self.served[usize::from(service)].fetch_add(1, Relaxed);
        }
        Ok(())
    }
}

/// The agent had its part, by its own count; and every slot was taken at some time.
fn assert_both_took_part(agent: &Agent, servers: &[ExactServer]) -> Result<()> {
    let impatient = agent.queue(&format!("service-{IMPATIENT}"))?;
    assert_eq!(impatient.accepted, 0, "{impatient:?}");
    let patient = agent.queue(&format!("service-{PATIENT}"))?;
    assert!(patient.queued >= SERVED_EACH / 2, "{patient:?}");
    assert_eq!(patient.refused_in_all(), 0, "{patient:?}");
    for server in servers {
        let tally = server.tally();
        assert_eq!(tally.peak, SLOTS, "{} saw {tally:?}", server.address());
    }
    Ok(())
}

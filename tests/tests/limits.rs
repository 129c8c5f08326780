//! A pod never serves more than its `max_inflight`, whatever its clients do, and in the end every
//! slot is back. Counted on the servers' side, under many threads and processes.

use std::{
    collections::BTreeMap,
    net::TcpStream,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tests::{
    agent::Agent,
    crowd::{
        Crowd, Outcome, SOON, ask, assert_no_slot_astray, dial, exchange, frontend_address,
        pod_address, service, settle,
    },
    exact::{ExactServer, Request},
    process::Process,
    wait::{eventually, eventually_eq},
};

const THREADS: u64 = 32;
/// After a refusal: long enough for the servers to get the processor, which would otherwise be
/// busy with refusing.
const PAUSE: Duration = Duration::from_micros(300);
/// What a request takes, so that slots are wanted while they are taken.
const WORK: Duration = Duration::from_micros(500);
/// No stress goes on for longer, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(100);

/// Two services on one agent: four pods with one slot each, four with three each.
struct Stage {
    agent: Agent,
    servers: Vec<ExactServer>,
    crowd: Crowd,
}

const SINGLE: u8 = 0;
const TRIPLE: u8 = 1;

#[derive(Debug, Default)]
struct Figures {
    attempts: AtomicU64,
    served: AtomicU64,
    refused: AtomicU64,
}

impl Stage {
    fn new(work: Duration) -> Result<Self> {
        let crowd = Crowd::new(8)?;
        let servers = (0..8)
            .map(|pod| crowd.serve(pod, if pod < 4 { 1 } else { 3 }, work))
            .collect::<Result<Vec<_>>>()?;
        let services = [service(SINGLE, 1, 0..4), service(TRIPLE, 3, 4..8)];
        let agent = Agent::start(&crowd.netns, &crowd.cgroup, &services)?;
        Ok(Self {
            agent,
            servers,
            crowd,
        })
    }

    /// Every slot is back and can be taken, and there is not one more.
    fn finish(self) -> Result<()> {
        settle(&self.agent, &self.servers);
        for (frontend, slots) in [(SINGLE, 4), (TRIPLE, 12)] {
            let frontend = frontend_address(frontend);
            let held: Vec<_> = (0..slots)
                .map(|slot| {
                    let held = self.crowd.dial(frontend);
                    held.with_context(|| format!("slot {slot} of {slots} is lost"))
                })
                .collect::<Result<_>>()?;
            let newcomer = self.crowd.dial(frontend);
            let refused = newcomer.expect_err("every slot is taken").kind();
            assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
            drop(held);
        }
        settle(&self.agent, &self.servers);
        assert_no_slot_astray(&self.agent)?;
        self.agent.stop()
    }
}

#[test]
fn thirty_two_threads_never_get_more_than_the_slots_there_are() -> Result<()> {
    const ATTEMPTS: u64 = 200_000;
    const SERVED: u64 = 50_000;
    let stage = Stage::new(WORK)?;
    let figures = hammer(&stage.crowd, |figures| {
        figures.attempts.load(Relaxed) >= ATTEMPTS && figures.served.load(Relaxed) >= SERVED
    })?;

    settle(&stage.agent, &stage.servers);
    for server in &stage.servers {
        assert_eq!(server.tally().peak, server.limit(), "{}", server.address());
    }
    let totals = totals(&stage.agent)?;
    let (served, refused) = (figures.served.load(Relaxed), figures.refused.load(Relaxed));
    assert!(refused > 0, "{figures:?}");
    let steered = totals["idle"] + totals["shared"];
    assert_eq!(steered, served, "steered: {totals:?}, {figures:?}");
    assert_eq!(
        totals["released"], served,
        "released: {totals:?}, {figures:?}"
    );
    assert_eq!(
        totals["refused"], refused,
        "refused: {totals:?}, {figures:?}"
    );
    let seen: u64 = stage
        .servers
        .iter()
        .map(|server| server.tally().served)
        .sum();
    assert_eq!(seen, served);
    stage.finish()
}

#[test]
fn a_pod_of_two_services_has_one_count() -> Result<()> {
    let crowd = Crowd::new(3)?;
    // The tightest limit of its services holds for each pod.
    let servers = [2, 1, 1]
        .into_iter()
        .zip(0..)
        .map(|(limit, pod)| crowd.serve(pod, limit, WORK))
        .collect::<Result<Vec<_>>>()?;
    let services = [service(SINGLE, 2, 0..3), service(TRIPLE, 1, 1..3)];
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &services)?;
    hammer(&crowd, |figures| figures.served.load(Relaxed) >= 20_000)?;
    settle(&agent, &servers);
    for server in &servers {
        assert_eq!(server.tally().peak, server.limit(), "{}", server.address());
    }
    assert_no_slot_astray(&agent)?;
    agent.stop()
}

#[test]
fn servers_that_reset_and_clients_that_leave_give_every_slot_back_once() -> Result<()> {
    let stage = Stage::new(Duration::ZERO)?;
    let served = AtomicU64::new(0);
    in_threads(&stage.crowd, |thread| {
        let mut random = SmallRng::seed_from_u64(thread);
        let deadline = Instant::now() + PATIENCE;
        while served.load(Relaxed) < 40_000 {
            ensure!(Instant::now() < deadline, "only {served:?} were served");
            let frontend = frontend_address(random.random_range(SINGLE..=TRIPLE));
            if random.random_ratio(1, 16) {
                // Leaves without a question.
                drop(dial(frontend));
                continue;
            }
            let request = Request::ALL[random.random_range(0..Request::ALL.len())];
            match exchange(frontend, request)? {
                Outcome::Served => served.fetch_add(1, Relaxed),
                Outcome::Refused => {
                    thread::sleep(PAUSE);
                    continue;
                }
                Outcome::Unsteered => anyhow::bail!("{frontend} was not steered"),
            };
        }
        Ok(())
    })?;
    settle(&stage.agent, &stage.servers);
    let given_up: u64 = stage
        .servers
        .iter()
        .map(|server| server.tally().given_up)
        .sum();
    assert!(given_up > 0, "no client left without a question");
    stage.finish()
}

#[test]
fn clients_killed_in_the_middle_of_a_request_give_their_slots_back() -> Result<()> {
    const CLIENTS: usize = 24;
    const ROUNDS: usize = 5;
    const SERVED_EACH_ROUND: u64 = 500;
    let stage = Stage::new(Duration::from_millis(4))?;
    let served = || -> u64 {
        stage
            .servers
            .iter()
            .map(|server| server.tally().served)
            .sum()
    };
    let mut clients = (0..CLIENTS)
        .map(|_| client(&stage.crowd))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..ROUNDS {
        let before = served();
        eventually(SOON, || {
            let new = served() - before;
            if new >= SERVED_EACH_ROUND {
                Ok(())
            } else {
                Err(format!("only {new} served"))
            }
        });
        for mut killed in clients.drain(..CLIENTS / 3) {
            kill(&mut killed)?;
        }
        while clients.len() < CLIENTS {
            clients.push(client(&stage.crowd)?);
        }
    }
    for client in &mut clients {
        kill(client)?;
    }
    settle(&stage.agent, &stage.servers);
    let given_up: u64 = stage
        .servers
        .iter()
        .map(|server| server.tally().given_up)
        .sum();
    assert!(
        given_up >= 10,
        "only {given_up} were killed in the middle of a request"
    );
    stage.finish()
}

/// What the tests above believe in.
#[test]
fn an_exact_server_tells_one_too_many_from_one_that_has_gone() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let server = crowd.serve(0, 1, Duration::ZERO)?;
    for _ in 0..200 {
        // Not steered: nothing keeps the next from arriving before this one's end is seen.
        drop(dial_directly(&crowd)?);
        let stream = dial_directly(&crowd)?;
        ask(&stream, Request::Answer)?;
    }
    assert_eq!(server.tally().breaches, 0);

    let _held = [dial_directly(&crowd)?, dial_directly(&crowd)?];
    eventually_eq(SOON, 1, || server.tally().breaches);
    assert_eq!(server.tally().peak, 2);
    Ok(())
}

fn dial_directly(crowd: &Crowd) -> std::io::Result<TcpStream> {
    crowd.netns.connect(pod_address(0))
}

/// A process that dials both services, the one with fewer slots less often.
fn client(crowd: &Crowd) -> Result<Process> {
    let mut command = crowd.place().command(env!("CARGO_BIN_EXE_dialler"));
    let frontends = [SINGLE, TRIPLE, TRIPLE, TRIPLE];
    command.args(frontends.map(|frontend| frontend_address(frontend).to_string()));
    Process::start(command)
}

/// Kills a client; one that has ended by itself has met something wrong.
fn kill(client: &mut Process) -> Result<()> {
    if let Some(status) = client.ended()? {
        client.wait(SOON)?;
        anyhow::bail!("a client ended by itself ({status}): {}", client.stderr());
    }
    client.kill().map(drop)
}

/// All threads exchange with both services until `enough`.
fn hammer(crowd: &Crowd, enough: impl Fn(&Figures) -> bool + Sync) -> Result<Figures> {
    let figures = Figures::default();
    let deadline = Instant::now() + PATIENCE;
    in_threads(crowd, |thread| {
        let mut random = SmallRng::seed_from_u64(thread);
        while !enough(&figures) {
            ensure!(Instant::now() < deadline, "too slow: {figures:?}");
            let frontend = frontend_address(random.random_range(SINGLE..=TRIPLE));
            figures.attempts.fetch_add(1, Relaxed);
            match exchange(frontend, Request::Answer)? {
                Outcome::Served => figures.served.fetch_add(1, Relaxed),
                Outcome::Refused => {
                    thread::sleep(PAUSE);
                    figures.refused.fetch_add(1, Relaxed)
                }
                Outcome::Unsteered => anyhow::bail!("{frontend} was not steered"),
            };
        }
        Ok(())
    })?;
    Ok(figures)
}

/// Runs `work` on every thread, where clients stand. The first error counts.
fn in_threads(crowd: &Crowd, work: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let work = &work;
                scope.spawn(move || {
                    crowd.place().enter()?;
                    work(thread)
                })
            })
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a client thread does not panic"))
    })
}

/// The counters of all services, added up.
fn totals(agent: &Agent) -> Result<BTreeMap<String, u64>> {
    let mut totals = BTreeMap::new();
    for name in [SINGLE, TRIPLE] {
        let service = agent
            .admin()
            .get_json(&format!("/v1/services/default/service-{name}"))?;
        let counters = service["counters"].as_object();
        for (counter, count) in counters.context("a service has counters")? {
            let count = count.as_u64().context("a counter is a number")?;
            *totals.entry(counter.clone()).or_default() += count;
        }
    }
    Ok(totals)
}

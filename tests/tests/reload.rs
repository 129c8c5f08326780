//! A changed configuration applies to live traffic: no connection is lost, none fails that the
//! configuration does not explain, no pod serves more than the limit in force; a bad one changes
//! nothing.

use std::{
    fs,
    io::ErrorKind,
    net::TcpStream,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tests::{
    agent::Agent,
    crowd::{
        Crowd, Outcome, SOON, ask, assert_no_slot_astray, exchange, frontend_address, pod_address,
        service, settle, slots_taken,
    },
    exact::{ExactServer, Request},
    service::Service,
    wait::{eventually, eventually_eq},
};

const WORK: Duration = Duration::from_millis(1);
const CLIENTS: usize = 16;
const RELOADS: usize = 40;

/// Always there, and never full: its two steady pods alone have a slot for every client.
const AMPLE: u8 = 0;
const AMPLE_SLOTS: u32 = CLIENTS as u32 / 2;
/// Always there, often full or without a pod.
const TIGHT: u8 = 1;
/// Comes and goes. Its second pod is in `tight` too, now and then.
const FLEETING: u8 = 2;
/// Always there; connections are held on its pods, of which one comes and goes.
const KEPT: u8 = 3;
/// What is held there all the time.
const HELD: u32 = 2;

const PODS: u8 = 12;
const AMPLE_STEADY: [u8; 2] = [0, 1];
const AMPLE_GUESTS: [u8; 2] = [2, 3];
const TIGHT_PODS: [u8; 4] = [4, 5, 6, 7];
const FLEETING_PODS: [u8; 2] = [8, 7];
const KEPT_STEADY: u8 = 9;
const KEPT_GUEST: u8 = 10;

/// A configuration as the test thinks of it.
#[derive(Clone, Debug)]
struct Plan {
    services: Vec<(u8, u32, Vec<u8>)>,
}

impl Plan {
    fn first() -> Self {
        let services = vec![
            (AMPLE, AMPLE_SLOTS, AMPLE_STEADY.to_vec()),
            (TIGHT, 1, TIGHT_PODS.to_vec()),
            (FLEETING, 2, FLEETING_PODS.to_vec()),
            (KEPT, 3, vec![KEPT_STEADY, KEPT_GUEST]),
        ];
        Self { services }
    }

    fn random(random: &mut SmallRng) -> Self {
        let mut some = |pods: &[u8]| -> Vec<u8> {
            let chosen = pods.iter().filter(|_| random.random_bool(0.6));
            chosen.copied().collect()
        };
        let ample = [AMPLE_STEADY.to_vec(), some(&AMPLE_GUESTS)].concat();
        let tight = some(&TIGHT_PODS);
        let kept = [vec![KEPT_STEADY], some(&[KEPT_GUEST])].concat();
        let mut services = vec![
            (AMPLE, random.random_range(AMPLE_SLOTS..=12), ample),
            (TIGHT, random.random_range(1..=3), tight),
            (KEPT, random.random_range(HELD..=4), kept),
        ];
        if random.random_bool(0.5) {
            let limit = random.random_range(1..=2);
            services.push((FLEETING, limit, FLEETING_PODS.to_vec()));
        }
        Self { services }
    }

    fn has(&self, service: u8) -> bool {
        self.services.iter().any(|(own, ..)| *own == service)
    }

    /// The tightest limit of a pod's services; `None` if it is in none.
    fn limit_of(&self, pod: u8) -> Option<u32> {
        let of_pod = self
            .services
            .iter()
            .filter(|(.., pods)| pods.contains(&pod));
        of_pod.map(|(_, limit, _)| *limit).min()
    }

    fn services(&self) -> Vec<Service> {
        let services = self.services.iter();
        services
            .map(|(own, limit, pods)| service(*own, *limit, pods.iter().copied()))
            .collect()
    }
}

#[test]
fn forty_reloads_under_load_lose_nothing_and_admit_nothing_too_much() -> Result<()> {
    let crowd = Crowd::new(PODS)?;
    let plan = Plan::first();
    let servers = (0..PODS)
        .map(|pod| crowd.serve(pod, plan.limit_of(pod).unwrap_or(0), WORK))
        .collect::<Result<Vec<_>>>()?;
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &plan.services())?;
    let held = hold(&crowd, &agent)?;

    let traffic = Traffic::default();
    traffic.fleeting.store(IN_FORCE, SeqCst);
    thread::scope(|scope| -> Result<()> {
        for client in 0..CLIENTS {
            let (crowd, traffic) = (&crowd, &traffic);
            scope.spawn(move || traffic.run(crowd, client as u64));
        }
        let reloaded = reload_often(&agent, &servers, plan, &traffic);
        traffic.stop.store(true, SeqCst);
        reloaded
    })?;
    traffic.verdict()?;

    for stream in &held {
        ask(stream, Request::Answer).context("a connection from before the reloads")?;
    }
    drop(held);
    settle(&agent, &servers);
    assert_no_slot_astray(&agent)?;
    assert!(!agent.stderr().contains("panicked"), "{}", agent.stderr());
    agent.stop()
}

/// As many connections on each pod of `kept`, one of which comes and goes. Idle pods come first,
/// but between two that serve one each the draw may fall on the same four times; then once more.
fn hold(crowd: &Crowd, agent: &Agent) -> Result<Vec<TcpStream>> {
    const TRIES: usize = 20;
    for _ in 0..TRIES {
        let streams = (0..2 * HELD)
            .map(|_| crowd.dial(frontend_address(KEPT)))
            .collect::<std::io::Result<Vec<_>>>()?;
        let steady = slots_taken(agent, KEPT_STEADY)?;
        let guest = slots_taken(agent, KEPT_GUEST)?;
        ensure!(
            !steady.contains(&0) && !guest.contains(&0),
            "an idle pod was passed over: {steady:?}, {guest:?}"
        );
        if steady == [u64::from(HELD)] && guest == steady {
            return Ok(streams);
        }
        drop(streams);
        eventually_eq(SOON, Some(0), || agent.inflight().ok());
    }
    bail!("{TRIES} times, the draws were uneven")
}

fn reload_often(
    agent: &Agent,
    servers: &[ExactServer],
    mut plan: Plan,
    traffic: &Traffic,
) -> Result<()> {
    let mut random = SmallRng::seed_from_u64(7);
    for reload in 0..RELOADS {
        let next = Plan::random(&mut random);
        traffic.announce(&plan, &next);
        for (pod, server) in (0..).zip(servers) {
            // Before: a pod may have more from the moment on at which the agent reads the file.
            if let Some(limit) = next.limit_of(pod).filter(|limit| *limit > server.limit()) {
                server.set_limit(limit);
            }
        }
        agent
            .reload(&next.services())
            .with_context(|| format!("reload {reload}: {next:?}"))?;
        traffic.confirm(&next);
        for (pod, server) in (0..).zip(servers) {
            if let Some(limit) = next.limit_of(pod) {
                lower(server, limit)?;
            }
        }
        traffic.still_fine()?;
        plan = next;
    }
    Ok(())
}

/// What was admitted under the old limit may end first.
fn lower(server: &ExactServer, limit: u32) -> Result<()> {
    eventually(SOON, || {
        let current = server.tally().current;
        ensure!(
            current <= limit,
            "{} serves {current} > {limit}",
            server.address()
        );
        Ok(())
    });
    server.set_limit(limit);
    Ok(())
}

/// What clients do meanwhile, and what they know of the configuration.
#[derive(Debug, Default)]
struct Traffic {
    stop: AtomicBool,
    /// Changes twice at each reload; see the constants.
    fleeting: AtomicU32,
    served: AtomicU64,
    complaints: Mutex<Vec<String>>,
}

/// Modulo 4: what `fleeting` says of the service of this name.
const ABSENT: u32 = 0;
const IN_FORCE: u32 = 2;

impl Traffic {
    /// Before a reload: where the services differ, anything may be until it is confirmed.
    fn announce(&self, old: &Plan, new: &Plan) {
        if old.has(FLEETING) != new.has(FLEETING) {
            self.fleeting.fetch_add(1, SeqCst);
        }
    }

    fn confirm(&self, new: &Plan) {
        let known = self.fleeting.load(SeqCst);
        if known % 2 == 1 {
            let next = self.fleeting.fetch_add(1, SeqCst) + 1;
            assert_eq!(next % 4 == IN_FORCE, new.has(FLEETING));
        }
    }

    fn run(&self, crowd: &Crowd, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        crowd
            .place()
            .enter()
            .expect("a place of ours can be entered");
        while !self.stop.load(SeqCst) {
            let service = [AMPLE, TIGHT, FLEETING, KEPT][random.random_range(0..4)];
            let known = self.fleeting.load(SeqCst);
            let outcome = exchange(frontend_address(service), Request::Answer);
            let certain = self.fleeting.load(SeqCst) == known && known.is_multiple_of(2);
            if let Err(complaint) = self.judge(service, outcome, certain.then_some(known % 4)) {
                self.complain(format!("service-{service}: {complaint:#}"));
            }
        }
    }

    /// Whether the configuration explains it. `fleeting`: what was certain of that service.
    fn judge(&self, service: u8, outcome: Result<Outcome>, fleeting: Option<u32>) -> Result<()> {
        match (service, outcome?) {
            (FLEETING, Outcome::Unsteered) => {
                ensure!(fleeting != Some(IN_FORCE), "unsteered though configured");
            }
            (FLEETING, _) if fleeting == Some(ABSENT) => bail!("steered though not configured"),
            (_, Outcome::Unsteered) => bail!("unsteered though it was there all the time"),
            (AMPLE, Outcome::Refused) => bail!("refused though it is never full"),
            (_, Outcome::Refused) => thread::sleep(Duration::from_micros(300)),
            (_, Outcome::Served) => {
                self.served.fetch_add(1, SeqCst);
            }
        }
        Ok(())
    }

    fn complain(&self, complaint: String) {
        let mut complaints = self.complaints.lock().expect("nobody panics with it");
        if complaints.len() < 20 {
            complaints.push(complaint);
        }
    }

    fn still_fine(&self) -> Result<()> {
        let complaints = self.complaints.lock().expect("nobody panics with it");
        ensure!(complaints.is_empty(), "{complaints:#?}");
        Ok(())
    }

    fn verdict(&self) -> Result<()> {
        self.still_fine()?;
        let served = self.served.load(SeqCst);
        ensure!(
            served >= 10_000,
            "only {served} requests were served: no load to speak of"
        );
        Ok(())
    }
}

#[test]
fn a_pod_that_comes_back_keeps_the_count_of_what_it_still_serves() -> Result<()> {
    let crowd = Crowd::new(2)?;
    let server = crowd.serve(0, 2, Duration::ZERO)?;
    let with_pod = [service(AMPLE, 2, [0])];
    let without = [service(AMPLE, 2, [])];
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &with_pod)?;
    let held = crowd.dial(frontend_address(AMPLE))?;

    for _ in 0..3 {
        agent.reload(&without)?;
        assert_refused(&crowd);
        agent.reload(&with_pod)?;
    }
    // The pod has one slot left, once the agent is sure that no more are taken under the old id.
    let second = eventually(SOON, || crowd.dial(frontend_address(AMPLE)));
    for _ in 0..50 {
        assert_refused(&crowd);
    }
    assert_eq!(slots_taken(&agent, 0)?.iter().sum::<u64>(), 2);
    eventually_eq(SOON, 2, || server.tally().current);

    drop(held);
    let third = eventually(SOON, || crowd.dial(frontend_address(AMPLE)));
    assert_refused(&crowd);
    ask(&second, Request::Answer)?;
    drop((second, third));
    settle(&agent, [&server]);
    eventually(SOON, || -> Result<()> {
        let granted: Vec<_> = agent.backends()?.iter().map(|row| row.granted).collect();
        ensure!(granted == [Some(2)], "granted: {granted:?}");
        Ok(())
    });
    assert_no_slot_astray(&agent)?;
    agent.stop()
}

#[test]
fn a_lowered_limit_admits_nothing_until_enough_has_ended() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let server = crowd.serve(0, 3, Duration::ZERO)?;
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(AMPLE, 3, [0])])?;
    let mut held = (0..3)
        .map(|_| crowd.dial(frontend_address(AMPLE)))
        .collect::<std::io::Result<Vec<_>>>()?;
    agent.reload(&[service(AMPLE, 1, [0])])?;
    server.set_limit(1);
    while let Some(stream) = held.pop() {
        assert_refused(&crowd);
        ask(&stream, Request::Answer).context("admitted under the old limit")?;
        drop(stream);
    }
    let one = crowd.dial(frontend_address(AMPLE))?;
    assert_refused(&crowd);

    agent.reload(&[service(AMPLE, 0, [0])])?;
    server.set_limit(0);
    let many = (0..100)
        .map(|_| crowd.dial(frontend_address(AMPLE)))
        .collect::<std::io::Result<Vec<_>>>()?;
    drop((one, many));
    settle(&agent, [&server]);
    assert_no_slot_astray(&agent)?;
    agent.stop()
}

#[test]
fn a_service_that_goes_leaves_its_connections_alone() -> Result<()> {
    let crowd = Crowd::new(2)?;
    let servers = [
        crowd.serve(0, 2, Duration::ZERO)?,
        crowd.serve(1, 0, Duration::ZERO)?,
    ];
    let other = || service(TIGHT, 0, [1]);
    let agent = Agent::start(
        &crowd.netns,
        &crowd.cgroup,
        &[service(AMPLE, 2, [0]), other()],
    )?;
    let held = [
        crowd.dial(frontend_address(AMPLE))?,
        crowd.dial(frontend_address(AMPLE))?,
    ];

    agent.reload(&[other()])?;
    let gone = crowd
        .dial(frontend_address(AMPLE))
        .expect_err("it is no frontend any more");
    assert_eq!(gone.kind(), ErrorKind::NetworkUnreachable);
    let row = |agent: &Agent| -> Result<Vec<(String, u64)>> {
        let pod = pod_address(0).to_string();
        let rows = agent
            .backends()?
            .into_iter()
            .filter(|row| row.address == pod);
        Ok(rows.map(|row| (row.state, row.inflight)).collect())
    };
    assert_eq!(row(&agent)?, [("draining".to_owned(), 2)]);
    for stream in &held {
        ask(stream, Request::Answer)?;
    }
    drop(held);
    eventually(SOON, || -> Result<()> {
        let rows = row(&agent)?;
        ensure!(rows.is_empty(), "{rows:?}");
        Ok(())
    });

    agent.reload(&[service(AMPLE, 2, [0]), other()])?;
    let again = eventually(SOON, || crowd.dial(frontend_address(AMPLE)));
    ask(&again, Request::Answer)?;
    drop(again);
    settle(&agent, &servers);
    assert_no_slot_astray(&agent)?;
    agent.stop()
}

#[test]
fn of_a_burst_of_changes_the_last_is_in_force() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(AMPLE, 1, [0])])?;
    let text = fs::read_to_string(agent.config_path())?;
    for limit in 2..=60 {
        let new = text.replace("\"max_inflight\": 1", &format!("\"max_inflight\": {limit}"));
        ensure!(
            new != text,
            "the limit is not where it is looked for: {text}"
        );
        fs::write(agent.config_path(), new)?;
    }
    eventually_eq(SOON, 60, || {
        let services = agent.admin().get_json("/v1/services").expect("it answers");
        services[0]["max_inflight"].as_u64().expect("a number")
    });
    assert!(agent.configuration()?.problems.is_empty());
    agent.stop()
}

fn assert_refused(crowd: &Crowd) {
    let refused = crowd.dial(frontend_address(AMPLE)).expect_err("it is full");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
}

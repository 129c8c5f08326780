//! The audit: it finds nothing wrong where nothing is, however much goes on, and puts right what is
//! made wrong on purpose, without letting a pod go over its limit.

#![forbid(unsafe_code)]

use std::{
    process::Command,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use serde::Deserialize;
use serde_json::{Value, json};
use tests::{
    agent::Agent,
    crowd::{
        Crowd, Outcome, SOON, ask, assert_no_slot_astray, exchange, frontend_address, pod_address,
        service, settle, slots_taken,
    },
    exact::{ExactServer, Request},
    wait::eventually_eq,
};

const CLIENTS: usize = 16;
const PODS: u8 = 4;
const SLOTS: u32 = 2;
/// More than the kernel lists in one portion.
const HELD: usize = 800;

/// What the audit answers.
#[derive(Debug, Deserialize)]
struct Audit {
    connections: u64,
    backends_checked: u64,
    drift: Vec<Value>,
    drift_total: u64,
}

fn audit(agent: &Agent) -> Result<Audit> {
    let answer = agent.admin().send("POST", "/v1/audit", "")?;
    ensure!(
        answer.status == 200,
        "POST /v1/audit: {}: {}",
        answer.status,
        answer.body
    );
    serde_json::from_value(answer.json()?).context("POST /v1/audit: not in the shape expected")
}

fn assert_nothing_wrong(agent: &Agent) -> Result<Audit> {
    let audit = audit(agent)?;
    ensure!(
        audit.drift.is_empty() && audit.drift_total == 0,
        "{audit:?}"
    );
    Ok(audit)
}

/// A metric without labels.
fn metric(agent: &Agent, name: &str) -> Result<String> {
    let text = agent.admin().get("/metrics")?.body;
    let value = text.lines().find_map(|line| line.strip_prefix(name));
    Ok(value
        .with_context(|| format!("no {name}"))?
        .trim()
        .to_owned())
}

/// Makes the programs' count of a pod's slots wrong by so much. Nothing else may change it
/// meanwhile.
fn miscount(agent: &Agent, pod: u8, by: i64) -> Result<()> {
    /// A backend's record; its first word counts slots, the programs' in its low half.
    type Backends = Array<MapData, [u64; 23]>;
    let dump = agent.admin().get_json("/v1/maps/BACKENDS")?;
    let entries = dump["entries"].as_array().context("a list of backends")?;
    let address = pod_address(pod).to_string();
    let entry = entries.iter().find(|entry| entry["backend"] == address);
    let id = entry.context("no such backend")?["backend_id"]
        .as_u64()
        .context("an id")?;
    let id = u32::try_from(id)?;
    let pinned = MapData::from_pin(agent.pin_path().join("BACKENDS"))?;
    let mut backends: Backends = Map::from_map_data(pinned).and_then(Array::try_from)?;
    let mut record = backends.get(&id, 0)?;
    record[0] = record[0]
        .checked_add_signed(by)
        .context("below or above all")?;
    backends.set(id, record, 0)?;
    Ok(())
}

/// Clients that dial and are served, again and again, for as long as `meanwhile` takes. Gives how
/// many were served.
fn under_load(crowd: &Crowd, meanwhile: impl FnOnce() -> Result<()>) -> Result<u64> {
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let client = || -> Result<()> {
        crowd.place().run(|| {
            while !stop.load(SeqCst) {
                for request in Request::ALL {
                    if exchange(frontend_address(0), request)? == Outcome::Served {
                        served.fetch_add(1, SeqCst);
                    }
                }
            }
            Ok(())
        })
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let outcome = meanwhile();
        stop.store(true, SeqCst);
        for client in clients {
            client.join().expect("no client panics")?;
        }
        outcome
    })?;
    Ok(served.into_inner())
}

#[test]
fn under_load_every_count_is_right() -> Result<()> {
    let crowd = Crowd::new(PODS + 1)?;
    let servers: Vec<ExactServer> = (0..PODS)
        .map(|pod| crowd.serve(pod, SLOTS, Duration::ZERO))
        .collect::<Result<_>>()?;
    let keeping = crowd.serve(PODS, HELD as u32, Duration::ZERO)?;
    let services = [service(0, SLOTS, 0..PODS), service(1, HELD as u32, [PODS])];
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &services)?;
    let held: Vec<_> = (0..HELD)
        .map(|_| crowd.dial(frontend_address(1)))
        .collect::<Result<_, _>>()?;
    let mut audits = 0;
    let served = under_load(&crowd, || {
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            let audit = assert_nothing_wrong(&agent)?;
            assert_eq!(audit.backends_checked, u64::from(PODS) + 1);
            // Seen one by one, so together they can be more than ever held slots at once.
            ensure!(audit.connections >= HELD as u64, "{audit:?}");
            audits += 1;
        }
        Ok(())
    })?;
    ensure!(
        served > 1000 && audits > 20,
        "{served} served, {audits} audits"
    );
    assert_eq!(assert_nothing_wrong(&agent)?.connections, HELD as u64);
    drop(held);
    settle(&agent, servers.iter().chain([&keeping]));
    assert_eq!(assert_nothing_wrong(&agent)?.connections, 0);
    assert_no_slot_astray(&agent)?;
    assert_eq!(metric(&agent, "idlefirst_drift_total")?, "0");
    agent.uninstall()
}

#[test]
fn a_slot_that_was_lost_is_found_and_goes_to_who_waits_for_it() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let server = crowd.serve(0, 1, Duration::ZERO)?;
    let queue = json!({"size": 10, "timeout": "60s"});
    let services = [service(0, 1, [0]).with("queue", queue)];
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &services)?;
    assert_nothing_wrong(&agent)?;
    miscount(&agent, 0, 1)?;
    assert_eq!(slots_taken(&agent, 0)?, [1]);
    thread::scope(|scope| -> Result<()> {
        let waiter = scope.spawn(|| {
            crowd
                .place()
                .run(|| exchange(frontend_address(0), Request::Answer))
        });
        eventually_eq(SOON, Some(1), || {
            agent.queue("service-0").ok().map(|queue| queue.waiters)
        });
        assert_eq!(server.tally().served, 0, "the slot is lost");
        let audit = audit(&agent)?;
        let finding = json!({
            "address": pod_address(0), "service": "default/service-0",
            "counted": 1, "found": 0, "repaired": true,
        });
        assert_eq!((audit.drift, audit.drift_total), (vec![finding], 1));
        let outcome = waiter.join().expect("the waiter does not panic")?;
        assert_eq!(outcome, Outcome::Served);
        Ok(())
    })?;
    settle(&agent, [&server]);
    let again = audit(&agent)?;
    assert_eq!((again.drift.len(), again.drift_total), (0, 1));
    assert_eq!(metric(&agent, "idlefirst_drift_total")?, "1");
    assert_eq!(
        metric(&agent, "idlefirst_events_total{kind=\"drift\"}")?,
        "1"
    );
    agent.uninstall()
}

#[test]
fn slots_that_are_lost_are_found_under_load_too() -> Result<()> {
    let crowd = Crowd::new(PODS)?;
    let servers: Vec<ExactServer> = (0..PODS)
        .map(|pod| crowd.serve(pod, SLOTS, Duration::ZERO))
        .collect::<Result<_>>()?;
    let services = [service(0, SLOTS, 0..PODS)];
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &services)?;
    assert_nothing_wrong(&agent)?;
    miscount(&agent, 0, i64::from(SLOTS))?;
    miscount(&agent, 1, 1)?;
    under_load(&crowd, || {
        let until = Instant::now() + SOON;
        // One slot of pod 1 still comes and goes, and a look cannot always tell.
        while audit(&agent)?.drift_total < u64::from(SLOTS) + 1 {
            ensure!(Instant::now() < until, "{:?}", audit(&agent)?);
        }
        Ok(())
    })?;
    settle(&agent, &servers);
    assert_eq!(audit(&agent)?.drift_total, u64::from(SLOTS) + 1);
    assert_no_slot_astray(&agent)?;
    agent.uninstall()
}

#[test]
fn a_slot_that_is_held_and_not_counted_counts_again() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let server = crowd.serve(0, 1, Duration::ZERO)?;
    let agent = Agent::start(&crowd.netns, &crowd.cgroup, &[service(0, 1, [0])])?;
    let held = crowd.dial(frontend_address(0))?;
    assert_eq!(assert_nothing_wrong(&agent)?.connections, 1);
    miscount(&agent, 0, -1)?;
    assert_eq!(slots_taken(&agent, 0)?, [0]);
    let told = run_audit(&agent, &["-o", "json"])?;
    let told: Audit = serde_json::from_str(&told)?;
    let finding = json!({
        "address": pod_address(0), "service": "default/service-0",
        "counted": 0, "found": 1, "repaired": true,
    });
    assert_eq!(told.drift, [finding]);
    assert_eq!(slots_taken(&agent, 0)?, [1]);
    let dialled = crowd
        .place()
        .run(|| exchange(frontend_address(0), Request::Answer))?;
    assert_eq!(dialled, Outcome::Refused);
    ask(&held, Request::Answer)?;
    drop(held);
    settle(&agent, [&server]);
    let told = run_audit(&agent, &[])?;
    assert_eq!(
        told,
        "0 slots held, 1 backends checked: every count is right\n"
    );
    assert_no_slot_astray(&agent)?;
    agent.uninstall()
}

/// What `idlefirst audit` prints, which must succeed.
fn run_audit(agent: &Agent, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(agent.binary());
    command.arg("audit").args(arguments);
    command.env("IDLEFIRST_ADMIN", agent.admin().to_string());
    let output = command.output()?;
    ensure!(output.status.success(), "{output:?}");
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn only_the_unix_socket_takes_it() -> Result<()> {
    let crowd = Crowd::new(1)?;
    let mut options = tests::agent::AgentOptions::new(&crowd.netns, &crowd.cgroup);
    options.admin_tcp = Some("127.0.0.1:9090".parse()?);
    let agent = options.start(&[service(0, 1, [0])])?;
    let over_tcp = crowd.netns.run(|| {
        let admin = tests::admin::Admin::Tcp("127.0.0.1:9090".parse()?);
        admin.send("POST", "/v1/audit", "")
    })?;
    assert_eq!(over_tcp.status, 403);
    agent.uninstall()
}

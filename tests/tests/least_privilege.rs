//! An agent that runs has what it needs and nothing else, in every thread, and can do all it does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    agent::{Agent, AgentOptions},
    crowd::{Crowd, SOON, ask, frontend_address, pod_address, service},
    exact::Request,
    process::Process,
    refusal::{LEAST, START, Stage, assert_steered},
    wait::{eventually, within},
};

/// Bits of CAP_NET_ADMIN and CAP_BPF (include/uapi/linux/capability.h).
const NEEDED: u64 = 1 << 12 | 1 << 39;
/// That of CAP_SYS_ADMIN.
const SYS_ADMIN: u64 = 1 << 21;
/// In a thread's status: the sets that give capabilities, and those that may give them again.
const HELD: [&str; 2] = ["CapEff", "CapPrm"];
const TO_COME: [&str; 3] = ["CapInh", "CapAmb", "CapBnd"];

/// What `/proc` says of every thread of a process, by the thread's name and number.
fn threads(pid: u32) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut threads = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // It may have ended since.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        let fields = status.lines().filter_map(|line| line.split_once(":\t"));
        let fields: BTreeMap<_, _> = fields
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        threads.insert(format!("{} {}", fields["Name"], fields["Pid"]), fields);
    }
    Ok(threads)
}

/// Checks every thread: these capabilities, and none that can be had again but `bounded`.
fn assert_least(pid: u32, held: u64, bounded: u64) -> Result<BTreeSet<String>> {
    let threads = threads(pid)?;
    for (thread, status) in &threads {
        let set = |key: &str| -> Result<u64> {
            let hex = status.get(key).context("no such field")?;
            Ok(u64::from_str_radix(hex, 16)?)
        };
        for key in HELD {
            ensure!(set(key)? == held, "{thread}: {key} {:x}", set(key)?);
        }
        for key in TO_COME {
            let expected = if key == "CapBnd" { bounded } else { 0 };
            ensure!(set(key)? == expected, "{thread}: {key} {:x}", set(key)?);
        }
        ensure!(status["NoNewPrivs"] == "1", "{thread}: {status:?}");
    }
    let names = threads.values().map(|status| status["Name"].clone());
    Ok(names.collect())
}

#[test]
fn every_thread_has_what_it_needs_and_nothing_else() -> Result<()> {
    let crowd = Crowd::new(2)?;
    let _servers = [
        crowd.serve(0, 1, Duration::ZERO)?,
        crowd.serve(1, 1, Duration::ZERO)?,
    ];
    let options = AgentOptions::new(&crowd.netns, &crowd.cgroup);
    let mut agent = options.start(&[service(0, 1, [0])])?;
    let names = assert_least(agent.pid(), NEEDED, 0)?;
    for name in ["tokio-rt-worker", "overflow-0", "tables"] {
        assert!(names.contains(name), "no thread {name} in {names:?}");
    }

    // What takes capabilities after the start: a service with a table of positions (a new map), one
    // whose response times are measured (a program attached), overflow and probes (marked sockets).
    let hashed = service(1, 1, [0, 1]).by("consistent-hash");
    let timed = service(2, 1, [0, 1]).by("least-response-time");
    let probed = service(3, 1, [1])
        .with("queue", json!({"timeout": "10s"}))
        .with("health", json!({"probe": "tcp", "interval": "10ms"}));
    agent.reload(&[service(0, 1, [0]), hashed, timed, probed])?;
    for number in 0..4 {
        let stream = crowd.dial(frontend_address(number))?;
        ask(&stream, Request::Answer)?;
    }
    let held = crowd.dial(frontend_address(3))?;
    let waits = crowd.dial(frontend_address(3))?;
    eventually(SOON, || waiters(&agent, 1));
    drop(held);
    ask(&waits, Request::Answer)?;
    drop(waits);
    eventually(SOON, || healthy(&agent));
    assert_least(agent.pid(), NEEDED, 0)?;
    ensure!(agent.admin().send("POST", "/v1/audit", "")?.status == 200);
    ensure!(agent.admin().get("/v1/connections")?.status == 200);
    ensure!(agent.admin().get("/metrics")?.status == 200);

    // And taking over from an agent that was killed.
    agent.kill()?;
    agent.restart()?;
    assert_least(agent.pid(), NEEDED, 0)?;
    let stream = crowd.dial(frontend_address(1))?;
    ask(&stream, Request::Answer)?;
    drop(stream);
    let said = agent.stderr();
    for word in ["not permitted", "privileges", "EPERM"] {
        assert!(!said.contains(word), "{said}");
    }
    agent.uninstall()
}

fn waiters(agent: &Agent, expected: u64) -> Result<()> {
    let queues = agent.admin().get_json("/v1/queues")?;
    let waiting = |row: &serde_json::Value| row["waiters"].as_u64().unwrap_or(0);
    let sum: u64 = queues
        .as_array()
        .context("a list")?
        .iter()
        .map(waiting)
        .sum();
    ensure!(sum == expected, "{queues}");
    Ok(())
}

fn healthy(agent: &Agent) -> Result<()> {
    let rows = agent.admin().get_json("/v1/backends")?;
    let pod = pod_address(1).to_string();
    let row = rows.as_array().context("a list")?.iter();
    let row = row
        .into_iter()
        .find(|row| row["address"] == *pod)
        .context("no row")?;
    ensure!(row["last_probe"]["outcome"] == "ok", "{row}");
    Ok(())
}

#[test]
fn an_agent_started_with_the_least_gives_up_what_is_left_of_it() -> Result<()> {
    let stage = Stage::new()?;
    let _server = stage.crowd.serve(0, 1, Duration::ZERO)?;
    let bounded = NEEDED | 1 << 38;
    for (launcher, held, bounded) in [
        // It may not change the bounding set, as in a container.
        (LEAST.to_vec(), NEEDED, bounded),
        (
            vec!["setpriv", "--bounding-set=-all,+sys_admin,+net_admin", "--"],
            1 << 12 | SYS_ADMIN,
            1 << 12 | SYS_ADMIN,
        ),
        (
            vec![
                "setpriv",
                "--inh-caps=+sys_admin,+dac_override",
                "--ambient-caps=+sys_admin,+dac_override",
                "--",
            ],
            NEEDED,
            0,
        ),
    ] {
        let file = stage.path("config.yaml");
        fs::write(&file, stage.config())?;
        let mut process = Process::start(stage.command(&launcher, &file)?)?;
        let steered = within(START, || assert_steered(&stage.crowd));
        steered.map_err(|late| anyhow::anyhow!("{launcher:?}: {late:#}\n{}", process.stderr()))?;
        assert_least(process.pid(), held, bounded).with_context(|| format!("{launcher:?}"))?;
        process.signal(nix::sys::signal::Signal::SIGTERM)?;
        process.wait(START)?;
        stage.uninstall(&file)?;
        fs::remove_file(&file)?;
        stage.assert_nothing_left()?;
    }
    Ok(())
}

//! Something is used up: descriptors, memory, ports, room in a map.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use aya::{
    Pod,
    maps::{HashMap, Map, MapData, PerCpuArray},
};
use nix::{
    errno::Errno,
    time::{ClockId, clock_gettime},
};

use super::{BY_CONNECTION, SLOTS, SOON, Soak, Usage, network, pods, services};
use serde_json::json;

use crate::{cgroup, crowd, name, service::Service, wait::within};

const LASTS: Duration = Duration::from_millis(1500);
/// So many connects as that takes are soon made, but not on every machine.
const OVERRUN_WITHIN: Duration = Duration::from_secs(40);
/// What an agent may have in its cgroup when it is to need more.
const TOO_LITTLE: &str = "4M";
/// Of a configuration for which that is too little.
const MANY_SERVICES: usize = 8_000;
/// Indexes of FAULTS.
const NOT_PUBLISHED: u32 = 7;
const EVENT_LOST: u32 = 8;
/// More entries than any map has.
const MANY: u32 = 1 << 20;

pub(super) fn descriptors(soak: &mut Soak) -> Result<()> {
    let open = Usage::of(&mut soak.agent)?.descriptors;
    let before = soft_limit(soak)?;
    let told = || {
        soak.agent
            .stderr()
            .matches("connections cannot be accepted")
            .count()
    };
    let told_before = told();
    set_soft_limit(soak, &open.to_string())?;
    thread::sleep(LASTS);
    set_soft_limit(soak, &before)?;
    ensure!(told() > told_before, "it had descriptors left");
    Ok(())
}

fn soft_limit(soak: &Soak) -> Result<String> {
    let path = format!("/proc/{}/limits", soak.agent.pid());
    let limits = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next());
    Ok(soft.context("a limit of open files")?.to_owned())
}

fn set_soft_limit(soak: &Soak, soft: &str) -> Result<()> {
    let pid = soak.agent.pid().to_string();
    let limit = format!("--nofile={soft}:");
    let status = Command::new("prlimit")
        .args(["--pid", &pid, &limit])
        .status();
    let status = status.context("cannot run prlimit; install util-linux")?;
    ensure!(status.success(), "prlimit {limit}: {status}");
    Ok(())
}

pub(super) fn memory(soak: &mut Soak) -> Result<()> {
    let cgroup = Limited::new()?;
    cgroup.join(soak.agent.pid())?;
    let pod = soak.topology.pods[0].at_v4(pods::PORT);
    let many: Vec<_> = (0..MANY_SERVICES)
        .map(|number| {
            let frontend = format!("10.{}.{}.1:80", 100 + number / 250, number % 250);
            Service::new(&format!("many-{number}"), [&*frontend], SLOTS, [pod])
        })
        .collect();
    soak.agent
        .write_services(&services(&soak.topology, &many))?;
    soak.agent.wait_killed(SOON)?;
    let ended = Instant::now();
    soak.agent.write_services(&services(&soak.topology, &[]))?;
    soak.start_agent(ended)
}

/// A cgroup that has little memory.
struct Limited(PathBuf);

impl Limited {
    /// In the unified hierarchy, or beside it where memory is limited there.
    fn new() -> Result<Self> {
        let unified = cgroup::unified()?;
        let controllers = fs::read_to_string(unified.join("cgroup.subtree_control"));
        let is_unified =
            controllers.is_ok_and(|all| all.split_whitespace().any(|it| it == "memory"));
        let (parent, limit) = match is_unified {
            true => (unified, "memory.max"),
            false => (
                PathBuf::from("/sys/fs/cgroup/memory"),
                "memory.limit_in_bytes",
            ),
        };
        let path = parent.join(name::unique("limited"));
        fs::create_dir(&path)
            .with_context(|| format!("cannot make {}, where memory is limited", path.display()))?;
        let limited = Self(path);
        limited.write(limit, TOO_LITTLE)?;
        Ok(limited)
    }

    fn join(&self, pid: u32) -> Result<()> {
        self.write("cgroup.procs", &pid.to_string())
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path: &Path = &self.0.join(file);
        fs::write(path, text).with_context(|| format!("cannot write {text} to {}", path.display()))
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let removed = within(SOON, || fs::remove_dir(&self.0));
        if let Err(late) = removed {
            eprintln!("{} stays: {late}", self.0.display());
        }
    }
}

pub(super) fn ports(soak: &Soak) -> Result<()> {
    let range = |range| {
        soak.clients
            .netns
            .set_sysctl("net/ipv4/ip_local_port_range", range)
    };
    let failed_before = soak.load.failed();
    range("40000 40003")?;
    thread::sleep(LASTS);
    range("1024 65535")?;
    let failed = soak.load.failed() - failed_before;
    ensure!(failed > 0, "there were ports enough");
    Ok(())
}

/// Another service comes meanwhile. It is there once there is room, and nobody else minds.
pub(super) fn frontends(soak: &mut Soak) -> Result<()> {
    let (frontend, pod) = (
        crowd::frontend_address(9),
        soak.topology.pods[0].at_v4(pods::PORT),
    );
    let newcomer = Service::new("newcomer", [&*frontend.to_string()], SLOTS, [pod]);
    let filling = Filling::<20, 4>::new(soak, "FRONTENDS", |_| [0; 4])?;
    let told = || {
        soak.agent
            .stderr()
            .matches("a change could not be made")
            .count()
    };
    let told_before = told();
    soak.agent
        .write_services(&services(&soak.topology, &[newcomer]))?;
    let is_told = within(SOON, || match told() {
        times if times > told_before => Ok(()),
        _ => Err("nothing is said of it"),
    });
    is_told.map_err(|late| anyhow::anyhow!("FRONTENDS is full, and {late}"))?;
    drop(filling);
    let served = within(SOON, || {
        let stream = soak.clients.place().run(|| crowd::dial(frontend))?;
        crowd::ask(&stream, crate::exact::Request::Answer)
    });
    served.map_err(|late| anyhow::anyhow!("there is room again, and the newcomer: {late:#}"))?;
    soak.agent.reload(&services(&soak.topology, &[]))
}

pub(super) fn flows(soak: &Soak) -> Result<()> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    let now_ns = Duration::from(now).as_nanos() as u64;
    let filling = Filling::<20, 24>::new(soak, "OVERFLOW_FLOWS", |_| {
        let mut target = [0; 24];
        target[..8].copy_from_slice(&now_ns.to_ne_bytes());
        target
    })?;
    let lost_before = faults(soak, NOT_PUBLISHED)?;
    thread::sleep(LASTS);
    drop(filling);
    let lost = faults(soak, NOT_PUBLISHED)?;
    ensure!(
        lost > lost_before,
        "there was room for who was sent to the agent"
    );
    Ok(())
}

/// How often the programs could not do something.
fn faults(soak: &Soak, index: u32) -> Result<u64> {
    let faults = Map::PerCpuArray(pinned(soak, "FAULTS")?);
    let faults = PerCpuArray::<MapData, u64>::try_from(faults).context("FAULTS is another map")?;
    Ok(faults.get(&index, 0)?.iter().sum())
}

/// Entries of our own in a map of the agent's, until it has no room. They go when it is dropped.
struct Filling<const KEY: usize, const VALUE: usize>
where
    [u8; KEY]: Pod,
    [u8; VALUE]: Pod,
{
    map: HashMap<MapData, [u8; KEY], [u8; VALUE]>,
    keys: Vec<[u8; KEY]>,
}

impl<const KEY: usize, const VALUE: usize> Filling<KEY, VALUE>
where
    [u8; KEY]: Pod,
    [u8; VALUE]: Pod,
{
    fn new(soak: &Soak, name: &str, value: impl Fn(u32) -> [u8; VALUE]) -> Result<Self> {
        let map = Map::HashMap(pinned(soak, name)?);
        let mut filling = Self {
            map: map
                .try_into()
                .with_context(|| format!("{name} is another map"))?,
            keys: Vec::new(),
        };
        for number in 0..MANY {
            // No address begins like this.
            let mut key = [0xfe; KEY];
            key[..4].copy_from_slice(&number.to_be_bytes());
            match filling.map.insert(key, value(number), 0) {
                Ok(()) => filling.keys.push(key),
                Err(error) if is_full(&error) => return Ok(filling),
                Err(error) => return Err(error).with_context(|| format!("cannot fill {name}")),
            }
        }
        bail!("{name} is never full")
    }
}

impl<const KEY: usize, const VALUE: usize> Drop for Filling<KEY, VALUE>
where
    [u8; KEY]: Pod,
    [u8; VALUE]: Pod,
{
    fn drop(&mut self) {
        for key in &self.keys {
            // What the agent has taken away is gone too.
            let _ = self.map.remove(key);
        }
    }
}

fn is_full(error: &aya::maps::MapError) -> bool {
    use std::error::Error;
    let mut cause: Option<&dyn Error> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.raw_os_error() == Some(Errno::E2BIG as i32);
        }
        cause = error.source();
    }
    false
}

fn pinned(soak: &Soak, name: &str) -> Result<MapData> {
    let path = soak.agent.pin_path().join(name);
    MapData::from_pin(&path).with_context(|| format!("cannot open the map at {}", path.display()))
}

/// One waits for a leader whose slots are all taken, so each slot that comes free at another pod is
/// told; and the agent, stalled, takes none of it.
pub(super) fn events(soak: &mut Soak) -> Result<()> {
    let frontend = crowd::frontend_address(8);
    let pods = soak.topology.pods.iter().map(|pod| pod.at_v4(pods::PORT));
    let led = Service::new("led", [&*frontend.to_string()], SLOTS, pods)
        .by("leader")
        .with("queue", json!({"size": 10, "timeout": "60s"}));
    soak.agent.reload(&services(&soak.topology, &[led]))?;
    let dial = || soak.clients.place().run(|| crowd::dial(frontend));
    let holders = (0..SLOTS).map(|_| dial()).collect::<Result<Vec<_>, _>>();
    let holders = holders.context("the leader's slots")?;
    let waiter = dial().context("who waits")?;
    let waits = within(SOON, || match soak.agent.queue("led") {
        Ok(queue) if queue.waiters == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    });
    waits.map_err(|late| anyhow::anyhow!("nobody waits: {late}"))?;
    overrun(soak)?;
    drop((holders, waiter));
    soak.agent.reload(&services(&soak.topology, &[]))
}

fn overrun(soak: &Soak) -> Result<()> {
    let lost = || faults(soak, EVENT_LOST);
    let lost_before = lost()?;
    let stalled = soak.agent.stall()?;
    let ends = Instant::now() + OVERRUN_WITHIN;
    let connects = AtomicU32::new(0);
    network::storm(soak, &[BY_CONNECTION], || {
        // Looking takes longer than a connect.
        let looks = connects.fetch_add(1, Relaxed).is_multiple_of(64);
        Ok((!looks || lost()? == lost_before) && Instant::now() < ends)
    })?;
    drop(stalled);
    ensure!(lost()? > lost_before, "EVENTS has room for everything");
    Ok(())
}

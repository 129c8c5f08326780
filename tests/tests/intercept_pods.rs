//! `intercept: pods`: a pod that dials another's own address is steered as to any frontend; the
//! kubelet, the agent itself and whoever bypasses the balancer reach just what they dial.
//!
//! Pods are addresses of one namespace's loopback device. Nothing is routed to a frontend, so a
//! connect to one that is not steered fails as such.

#![forbid(unsafe_code)]

use std::{
    cell::RefCell,
    fs,
    io::{self, ErrorKind},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use nix::errno::Errno;
use serde_json::{Value, json};
use tests::{
    agent::Agent,
    crowd::{self, Crowd, SOON, assert_no_slot_astray, pod_address},
    scene::errno,
    service::Service,
    wait::{eventually, eventually_eq, within},
};

/// Pods of the service. Each has one slot.
const PODS: u8 = 2;
/// A client in a pod.
const POD: &str = "kubepods/burstable/pod1";
/// Another, which bypasses the balancer where the configuration says so.
const OTHER_POD: &str = "kubepods/pod2";
/// A client in no pod.
const SYSTEM: &str = "system";

#[test]
fn a_pod_that_dials_a_busy_pod_gets_an_idle_one_and_sees_whom_it_dialled() -> Result<()> {
    let stage = Stage::new(&[headless()])?;
    let first = stage.dial(POD, pod_address(0))?;
    let busy = stage.arrived_at(&first)?;
    let second = stage.dial(POD, pod_address(busy))?;
    assert_eq!(stage.arrived_at(&second)?, 1 - busy, "the idle one");
    for (client, dialled) in [(&first, 0), (&second, busy)] {
        assert_eq!(client.peer_addr()?, pod_address(dialled));
    }
    assert_eq!(stage.inflight(), 2);
    for pod in 0..PODS {
        let refused = errno(stage.dial(POD, pod_address(pod)));
        assert_eq!(refused, Errno::ECONNREFUSED, "every slot is taken");
    }
    let listed = stage.listed("FRONTENDS")?;
    assert_eq!(listed.len(), usize::from(PODS));
    for entry in listed {
        assert_eq!(entry["is_backend"], true, "{entry}");
        assert_eq!(entry["service"], "default/hello", "{entry}");
    }
    drop((first, second));
    stage.finish()
}

#[test]
fn whoever_is_in_no_pod_reaches_the_very_pod_that_it_dials() -> Result<()> {
    let stage = Stage::new(&[service("pods")])?;
    let held = stage.fill()?;
    for pod in 0..PODS {
        let probe = stage.dial(SYSTEM, pod_address(pod))?;
        assert_eq!(stage.arrived_at(&probe)?, pod);
        assert_eq!(probe.peer_addr()?, pod_address(pod));
    }
    assert_eq!(stage.inflight(), u64::from(PODS), "probes take no slot");
    let refused = errno(stage.dial(SYSTEM, frontend()));
    assert_eq!(refused, Errno::ECONNREFUSED, "frontends are for everyone");
    drop(held);
    let steered = stage.dial(SYSTEM, frontend())?;
    eventually_eq(SOON, 1, || stage.inflight());
    drop(steered);
    stage.finish()
}

#[test]
fn the_agents_own_probes_reach_each_pod() -> Result<()> {
    let health = json!({"probe": "tcp", "interval": "50ms", "failures": 1});
    let mut stage = Stage::new(&[service("pods").with("health", health.clone())])?;
    // Where its probes would be steered if they were not its own.
    stage.move_in(POD, stage.agent.pid())?;
    // Only probes that began there count: a change makes them all begin anew.
    let health = json!({"probe": "tcp", "interval": "60ms", "failures": 1});
    stage
        .agent
        .reload(&[service("pods").with("health", health)])?;
    stage.listeners[0] = None;
    eventually_eq(
        SOON,
        ["unhealthy", "idle"].map(str::to_owned).to_vec(),
        || stage.states(),
    );
    let client = stage.dial(POD, pod_address(0))?;
    assert_eq!(stage.arrived_at(&client)?, 1, "the healthy one");
    // While it is busy too, what answers the probes is still the pod that they are for.
    assert_eq!(stage.inflight(), 1);
    stage.listeners[0] = Some(stage.listen(0)?);
    eventually_eq(SOON, ["idle", "full"].map(str::to_owned).to_vec(), || {
        stage.states()
    });
    drop(client);
    stage.finish()
}

#[test]
fn a_pod_that_bypasses_the_balancer_reaches_what_it_dials_until_it_does_so_no_more() -> Result<()> {
    let mut stage = Stage::new(&[service("pods")])?;
    let later = stage.path("kubepods/later");
    stage.restart_with(&[stage.path(OTHER_POD), later.clone()])?;
    assert_eq!(stage.listed("BYPASS")?.len(), 1);
    let missing = later.display().to_string();
    assert!(stage.agent.stderr().contains(&missing), "it is said");

    let held = stage.fill()?;
    for pod in 0..PODS {
        let direct = stage.dial(OTHER_POD, pod_address(pod))?;
        assert_eq!(stage.arrived_at(&direct)?, pod);
    }
    let below = stage.dial(&format!("{OTHER_POD}/container"), pod_address(0))?;
    assert_eq!(stage.arrived_at(&below)?, 0, "its containers bypass it too");
    let unsteered = stage.dial(OTHER_POD, frontend()).map(drop);
    assert_eq!(errno(unsteered), Errno::ENETUNREACH);
    let refused = errno(stage.dial(POD, pod_address(0)));
    assert_eq!(refused, Errno::ECONNREFUSED, "others are steered");
    assert_eq!(stage.inflight(), u64::from(PODS));

    // A cgroup that is made later counts as soon as it is there.
    stage.make("kubepods/later")?;
    eventually(SOON, || {
        let listed = stage.listed("BYPASS")?.len();
        ensure!(listed == 2, "{listed} cgroups are listed");
        Ok(())
    });
    let direct = stage.dial("kubepods/later", pod_address(1))?;
    assert_eq!(stage.arrived_at(&direct)?, 1);
    drop((held, below, direct));

    stage.restart_with(&[])?;
    assert_eq!(stage.listed("BYPASS")?.len(), 0);
    let held = stage.fill()?;
    let refused = errno(stage.dial(OTHER_POD, pod_address(0)));
    assert_eq!(refused, Errno::ECONNREFUSED);
    drop(held);
    stage.finish()
}

#[test]
fn a_change_of_intercept_applies_at_once_both_ways() -> Result<()> {
    let stage = Stage::new(&[service("service")])?;
    for _ in 0..3 {
        let held = stage.fill()?;
        let direct = stage.dial(POD, pod_address(1))?;
        assert_eq!(
            stage.arrived_at(&direct)?,
            1,
            "only the frontend is steered"
        );
        assert_eq!(stage.inflight(), u64::from(PODS));
        stage.agent.reload(&[service("pods")])?;
        let refused = errno(stage.dial(POD, pod_address(1)));
        assert_eq!(refused, Errno::ECONNREFUSED);
        // What stands is not touched, and its slots come back.
        drop((held, direct));
        eventually_eq(SOON, 0, || stage.inflight());
        let held = stage.dial(POD, pod_address(0))?;
        stage.agent.reload(&[service("service")])?;
        assert_eq!(stage.inflight(), 1);
        assert_eq!(held.peer_addr()?, pod_address(0));
        drop(held);
        eventually_eq(SOON, 0, || stage.inflight());
    }
    stage.finish()
}

#[test]
fn a_pod_of_two_services_leads_to_the_one_whose_name_is_the_first() -> Result<()> {
    let second = |backends: &[u8]| {
        let backends = backends.iter().map(|pod| pod_address(*pod));
        Service::new("another", [], 1, backends).with("intercept", "pods".into())
    };
    let stage = Stage::new(&[headless()])?;
    let leads_to = |pod: u8| -> Result<Value> {
        let listed = stage.listed("FRONTENDS")?;
        let address = pod_address(pod).to_string();
        let entry = listed.iter().find(|entry| entry["frontend"] == *address);
        Ok(entry.context("no such frontend")?["service"].clone())
    };
    for (services, expected) in [
        (
            vec![headless(), second(&[0])],
            ["default/another", "default/hello"],
        ),
        (vec![headless()], ["default/hello"; 2]),
        (vec![headless(), second(&[0, 1])], ["default/another"; 2]),
        (vec![second(&[0, 1])], ["default/another"; 2]),
    ] {
        stage.agent.reload(&services)?;
        assert_eq!([leads_to(0)?, leads_to(1)?], expected);
    }
    stage.finish()
}

#[test]
fn nobody_is_steered_from_a_pod_to_a_pod_before_it_is_known_who_is_one() -> Result<()> {
    let mut stage = Stage::without_pods(&[service("pods")])?;
    let said = "no cgroup of all pods is found";
    eventually_eq(SOON, true, || stage.agent.stderr().contains(said));
    let held = stage.fill_from(SYSTEM)?;
    let direct = stage.dial(SYSTEM, pod_address(0))?;
    assert_eq!(stage.arrived_at(&direct)?, 0);
    stage.make_pods()?;
    eventually(SOON, || {
        let agent = stage.listed("AGENT")?;
        ensure!(agent[0]["pods_cgroup"].is_string(), "{agent:?}");
        Ok(())
    });
    let refused = errno(stage.dial(POD, pod_address(0)));
    assert_eq!(refused, Errno::ECONNREFUSED, "every slot is taken");
    let direct = stage.dial(SYSTEM, pod_address(0))?;
    assert_eq!(stage.arrived_at(&direct)?, 0);
    drop(held);
    stage.finish()
}

/// Two pods, an agent, and cgroups in which clients are.
struct Stage {
    // In this order: the agent ends before the cgroup goes that it may be in.
    agent: Agent,
    listeners: Vec<Option<TcpListener>>,
    /// Pods' ends of connections, which stay open, and whose they are.
    accepted: RefCell<Vec<(u8, SocketAddr, TcpStream)>>,
    cgroups: Cgroups,
    crowd: Crowd,
}

/// Threaded cgroups below the one that the agent works on; the last that was made goes first.
struct Cgroups(Vec<PathBuf>);

impl Stage {
    fn new(services: &[Service]) -> Result<Self> {
        Self::with(services, true)
    }

    fn without_pods(services: &[Service]) -> Result<Self> {
        Self::with(services, false)
    }

    fn with(services: &[Service], with_pods: bool) -> Result<Self> {
        let crowd = Crowd::new(PODS)?;
        let mut cgroups = Cgroups(Vec::new());
        cgroups.make(&crowd.cgroup.path().join(SYSTEM))?;
        if with_pods {
            cgroups.make_pods(crowd.cgroup.path())?;
        }
        let mut stage = Self {
            agent: Agent::start(&crowd.netns, &crowd.cgroup, services)?,
            listeners: Vec::new(),
            accepted: RefCell::default(),
            cgroups,
            crowd,
        };
        for pod in 0..PODS {
            let listener = stage.listen(pod)?;
            stage.listeners.push(Some(listener));
        }
        Ok(stage)
    }

    fn listen(&self, pod: u8) -> Result<TcpListener> {
        let listener = self.crowd.netns.listen(pod_address(pod))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    fn path(&self, cgroup: &str) -> PathBuf {
        self.crowd.cgroup.path().join(cgroup)
    }

    fn make(&mut self, cgroup: &str) -> Result<()> {
        self.cgroups.make(&self.crowd.cgroup.path().join(cgroup))
    }

    fn make_pods(&mut self) -> Result<()> {
        self.cgroups.make_pods(self.crowd.cgroup.path())
    }

    /// Moves a process to a cgroup.
    fn move_in(&self, cgroup: &str, pid: u32) -> Result<()> {
        let procs = self.path(cgroup).join("cgroup.procs");
        fs::write(&procs, pid.to_string())
            .with_context(|| format!("cannot move the agent by {}", procs.display()))
    }

    /// Starts the agent again with these as `agent.bypass_cgroups`.
    fn restart_with(&mut self, bypass_cgroups: &[PathBuf]) -> Result<()> {
        let config = json!({
            "source": "file",
            "agent": {
                "cgroup": "{cgroup}",
                "pin_path": "{pin_path}",
                "admin": ["{admin}"],
                "metrics": "none",
                "bypass_cgroups": bypass_cgroups,
            },
            "services": [service("pods")],
        });
        self.agent.reload_text(&config.to_string())?;
        self.agent.terminate()?;
        self.agent.restart()
    }

    /// Dials from a cgroup.
    fn dial(&self, cgroup: &str, address: SocketAddr) -> io::Result<TcpStream> {
        let threads = self.path(cgroup).join("cgroup.threads");
        self.crowd.place().run(|| {
            fs::write(&threads, "0").expect("a threaded cgroup of ours can be entered");
            crowd::dial(address)
        })
    }

    /// Takes every slot from a pod.
    fn fill(&self) -> Result<Vec<TcpStream>> {
        self.fill_from(POD)
    }

    fn fill_from(&self, cgroup: &str) -> Result<Vec<TcpStream>> {
        eventually_eq(SOON, 0, || self.inflight());
        let held = (0..PODS)
            .map(|_| self.dial(cgroup, frontend()))
            .collect::<io::Result<_>>()?;
        assert_eq!(self.inflight(), u64::from(PODS));
        Ok(held)
    }

    /// The pod that has this connection.
    fn arrived_at(&self, client: &TcpStream) -> Result<u8> {
        let local = client.local_addr()?;
        let arrived = within(SOON, || {
            for (pod, listener) in (0..).zip(&self.listeners) {
                let Some(listener) = listener else { continue };
                loop {
                    match listener.accept() {
                        Ok((end, peer)) => self.accepted.borrow_mut().push((pod, peer, end)),
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error.to_string()),
                    }
                }
            }
            let accepted = self.accepted.borrow();
            let found = accepted.iter().rfind(|(_, peer, _)| *peer == local);
            let pod = found.map(|(pod, ..)| *pod);
            pod.ok_or_else(|| format!("no pod has a connection from {local}"))
        });
        arrived.map_err(|late| anyhow::anyhow!("{late:#}"))
    }

    #[track_caller]
    fn inflight(&self) -> u64 {
        self.agent.inflight().expect("the agent lists its backends")
    }

    /// The backends' states, by address.
    #[track_caller]
    fn states(&self) -> Vec<String> {
        let backends = self.agent.backends().expect("the agent lists its backends");
        backends.into_iter().map(|backend| backend.state).collect()
    }

    /// The entries of a map.
    fn listed(&self, map: &str) -> Result<Vec<Value>> {
        let dump = self.agent.admin().get_json(&format!("/v1/maps/{map}"))?;
        let entries = dump["entries"].as_array();
        entries
            .cloned()
            .with_context(|| format!("no entries: {dump}"))
    }

    /// Checks that nothing is left over, and stops the agent.
    fn finish(mut self) -> Result<()> {
        eventually_eq(SOON, 0, || self.inflight());
        assert_no_slot_astray(&self.agent)?;
        self.agent.terminate()
    }
}

impl Cgroups {
    fn make_pods(&mut self, root: &Path) -> Result<()> {
        for cgroup in [
            "kubepods",
            "kubepods/burstable",
            POD,
            OTHER_POD,
            "kubepods/pod2/container",
        ] {
            self.make(&root.join(cgroup))?;
        }
        Ok(())
    }

    fn make(&mut self, path: &Path) -> Result<()> {
        fs::create_dir(path).with_context(|| format!("cannot make {}", path.display()))?;
        self.0.push(path.to_owned());
        fs::write(path.join("cgroup.type"), "threaded")
            .with_context(|| format!("cannot make {} threaded", path.display()))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // The last thread in it may be just ending.
            if let Err(late) = within(SOON, || fs::remove_dir(path)) {
                eprintln!("cannot remove {}: {late:#}", path.display());
            }
        }
    }
}

fn frontend() -> SocketAddr {
    crowd::frontend_address(0)
}

fn service(intercept: &str) -> Service {
    let frontend = frontend().to_string();
    let pods = (0..PODS).map(pod_address);
    Service::new("hello", [&*frontend], 1, pods).with("intercept", intercept.into())
}

/// A service that has no frontend but its pods.
fn headless() -> Service {
    Service::new("hello", [], 1, (0..PODS).map(pod_address)).with("intercept", "pods".into())
}

//! What is measured on: an API server full of functions, and the agent that follows it, in a
//! network namespace of their own.
//!
//! Addresses are private ones at which nobody is. Dropping it takes everything away. Called by
//! `sync`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    cluster::{Changed, Cluster, objects::Function},
    netns::Netns,
    run_dir::RunDir,
};

use super::{kernel::Kernel, memory::Memory};

const NAMESPACE: &str = "openfaas-fn";
/// Nodes that the pods are spread over.
const NODES: u32 = 100;
/// Of services and of pods.
const PORT: u16 = 8080;
/// The first cluster IP, and the first pod's address.
const CLUSTER_IPS: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
const POD_IPS: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 1);
const SYNC_DEADLINE: Duration = Duration::from_secs(120);
/// From one look whether the agent is ready to the next.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The cluster, and the agent once it runs.
pub(super) struct Stage<'g> {
    netns: &'g Netns,
    cgroup: &'g Cgroup,
    binary: PathBuf,
    agent: Option<Agent>,
    kernel: Option<Kernel>,
    cluster: Cluster,
    functions: Vec<Live>,
    /// Addresses given to pods so far.
    pods: u32,
    dir: RunDir,
}

/// A function, and the addresses of its pods now.
struct Live {
    function: Function,
    pods: Vec<u32>,
}

/// How the first sync went.
pub(super) struct FirstSync {
    pub(super) took: Duration,
    /// Until `/readyz` said so.
    pub(super) ready_after: Duration,
    pub(super) memory: Memory,
}

/// One endpoint that another has replaced.
pub(super) struct Change {
    pub(super) service: usize,
    pub(super) newcomer: SocketAddr,
    pub(super) told: Changed,
}

impl<'g> Stage<'g> {
    /// Fills the API server. The agent does not run yet.
    pub(super) fn set(
        binary: &Path,
        netns: &'g Netns,
        cgroup: &'g Cgroup,
        services: u32,
        backends: u32,
    ) -> Result<Self> {
        let cluster = Cluster::start(netns.listen("127.0.0.1:0".parse()?)?)?;
        let mut stage = Self {
            netns,
            cgroup,
            binary: binary.to_owned(),
            agent: None,
            kernel: None,
            cluster,
            functions: Vec::new(),
            pods: services * backends,
            dir: RunDir::new("cluster")?,
        };
        for number in 0..services {
            let name = format!("function-{number:05}");
            let ip = plus(CLUSTER_IPS, number).to_string();
            let function = Function::new(NAMESPACE, &name, &ip)
                .max_inflight(1)
                .replicas(backends);
            stage.cluster.put_all(function.objects())?;
            let pods = (number * backends..(number + 1) * backends).collect();
            let live = Live { function, pods };
            stage.cluster.put(live.slice())?;
            stage.functions.push(live);
        }
        Ok(stage)
    }

    /// Starts the agent, and waits until all is in the kernel.
    pub(super) fn first_sync(
        &mut self,
        stop_if_asked: &dyn Fn() -> Result<()>,
    ) -> Result<FirstSync> {
        let kubeconfig = self.cluster.kubeconfig_file(self.dir.path())?;
        let options = AgentOptions {
            binary: Some(self.binary.clone()),
            environment: vec![("KUBECONFIG".to_owned(), kubeconfig.display().to_string())],
            ..AgentOptions::new(self.netns, self.cgroup)
        };
        let config = serde_json::to_string_pretty(&config())?;
        let begun = Instant::now();
        let agent = self.agent.insert(options.spawn(&config)?);
        let (mut ready_after, mut seen) = (None, 0);
        while ready_after.is_none() || seen < self.functions.len() {
            stop_if_asked()?;
            if begun.elapsed() > SYNC_DEADLINE {
                let (all, said) = (self.functions.len(), agent.stderr());
                bail!(
                    "after {SYNC_DEADLINE:?}, {seen} of {all} services are in the kernel; the agent said:\n{said}"
                );
            }
            if ready_after.is_none() && is_ready(agent) {
                ready_after = Some(begun.elapsed());
            }
            if self.kernel.is_none() {
                self.kernel = Kernel::open(agent.pin_path()).ok();
            }
            if let Some(kernel) = &self.kernel {
                seen = in_kernel(kernel, &self.functions, seen)?;
            }
            if ready_after.is_none() || seen < self.functions.len() {
                std::thread::sleep(LOOK_INTERVAL);
            }
        }
        let took = begun.elapsed();
        let configuration = agent.configuration()?;
        ensure!(configuration.in_force(), "{configuration:?}");
        Ok(FirstSync {
            took,
            ready_after: ready_after.unwrap_or(took),
            memory: self.agent_memory()?,
        })
    }

    /// Replaces one endpoint of a service by one that was not there before.
    pub(super) fn change(&mut self, number: u32) -> Result<Change> {
        // A prime, so that neighbours in time are none in memory.
        let service = (number as usize * 7919) % self.functions.len();
        let newcomer = self.pods;
        self.pods += 1;
        let live = &mut self.functions[service];
        let place = number as usize / 7919 % live.pods.len();
        live.pods[place] = newcomer;
        Ok(Change {
            service,
            newcomer: pod_address(newcomer),
            told: self.cluster.put(live.slice())?,
        })
    }

    /// Whether a service's newcomer is in the kernel.
    pub(super) fn has(&self, id: u32, newcomer: SocketAddr) -> Result<bool> {
        self.kernel()?.offers(id, newcomer)
    }

    /// The id of a service in the kernel.
    pub(super) fn id_of(&self, service: usize) -> Result<u32> {
        let at = self.kernel()?.service_at(frontend(service))?;
        let (id, _) = at.context("a service is no longer in the kernel")?;
        Ok(id)
    }

    /// Services whose pods in the kernel are not those in the API.
    pub(super) fn astray(&self) -> Result<usize> {
        let kernel = self.kernel()?;
        let mut astray = 0;
        for (service, live) in self.functions.iter().enumerate() {
            let id = self.id_of(service)?;
            for pod in &live.pods {
                if !kernel.offers(id, pod_address(*pod))? {
                    astray += 1;
                    break;
                }
            }
        }
        Ok(astray)
    }

    /// The agent's pid.
    pub(super) fn agent_pid(&self) -> Result<u32> {
        Ok(self.agent.as_ref().context("no agent runs")?.pid())
    }

    /// The agent's memory now.
    pub(super) fn agent_memory(&self) -> Result<Memory> {
        Memory::of(self.agent_pid()?)
    }

    /// Ends it in order.
    pub(super) fn strike(self) -> Result<()> {
        match self.agent {
            Some(agent) => agent.stop().context("at the end of the bench"),
            None => Ok(()),
        }
    }

    fn kernel(&self) -> Result<&Kernel> {
        self.kernel.as_ref().context("no agent has pinned its maps")
    }
}

impl Live {
    fn slice(&self) -> Value {
        let pods: Vec<_> = self
            .pods
            .iter()
            .map(|number| {
                let ip = pod_address(*number).ip().to_string();
                let node = format!("node-{}", number % NODES);
                self.function.pod(*number, &ip, &node)
            })
            .collect();
        self.function.slice("1", &pods)
    }
}

fn config() -> Value {
    json!({
        "source": "kubernetes",
        "agent": {
            "cgroup": "{cgroup}",
            "pin_path": "{pin_path}",
            "admin": ["{admin}"],
            "metrics": "none",
            "node": "node-of-the-agent",
            "zone": "zone-1",
            // Nobody would answer: all would be unhealthy, and probing is not what is measured.
            "health_checks": {"enabled": false},
        },
    })
}

fn is_ready(agent: &Agent) -> bool {
    let answer = agent.admin().get("/readyz");
    answer.is_ok_and(|answer| answer.status == 200)
}

/// How many are in the kernel with all their backends, counted on from those known to be.
fn in_kernel(kernel: &Kernel, functions: &[Live], from: usize) -> Result<usize> {
    for (service, live) in functions.iter().enumerate().skip(from) {
        match kernel.service_at(frontend(service))? {
            Some((_, backends)) if backends as usize == live.pods.len() => {}
            _ => return Ok(service),
        }
    }
    Ok(functions.len())
}

fn frontend(service: usize) -> SocketAddr {
    let ip = plus(CLUSTER_IPS, u32::try_from(service).unwrap_or(u32::MAX));
    SocketAddr::new(IpAddr::V4(ip), PORT)
}

fn pod_address(number: u32) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(plus(POD_IPS, number)), PORT)
}

fn plus(first: Ipv4Addr, number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(first.to_bits() + number)
}

//! One node under load for as long as one likes, while everything around it fails, one after the
//! other; and the proof that nothing is lost by that.
//!
//! | part | does |
//! |---|---|
//! | `load` | clients, and what fails for them |
//! | `fault` | what can fail |
//! | `network`, `pods`, `agents`, `exhaustion` | how each is made to fail, and made good again |
//!
//! Three services. Of one whose pods count connections exactly, and of one whose functions count
//! requests, there are more slots than clients can hold, so whoever is refused is refused wrongly. Of the
//! third there are fewer: its clients wait, and its limits would be exceeded if they could be. Used by the
//! tests of failures, one fault each, and by `cargo xtask soak`, in random order.

mod agents;
mod exhaustion;
mod fault;
mod load;
mod network;
mod pods;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rand::rngs::SmallRng;
use serde_json::json;

pub use fault::{Fault, Tolerance};
pub use load::{Clients, Failure, Kind, Load};

use crate::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    clock::Clock,
    exact::{ExactServer, Tally},
    function::{Function, FunctionOptions, Work},
    process::resident,
    service::Service,
    topology::Topology,
    wait::within,
};

/// What clients of either service dial; nothing is routed there.
const BY_CONNECTION: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 1)), 80);
const SCARCE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 3)), 80);
const BY_REQUEST: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 2)), 80);

const PODS: usize = 8;
/// Of each pod; in all three times as many as clients. A process that is being started holds a copy
/// of every client's socket, some clients are others' than the load's, and a pod may be away.
const SLOTS: u32 = 6;
const CLIENTS: usize = 16;
const FUNCTIONS: usize = 4;
const FUNCTION_SLOTS: u32 = 4;
const HTTP_CLIENTS: usize = 4;
/// Pods of the third service, of one slot each, and its clients.
const SCARCE_PODS: usize = 2;
const SCARCE_CLIENTS: usize = 6;
const WORK: Duration = Duration::from_micros(200);

/// Within this everything is well again after a fault.
const RECOVERY: Duration = Duration::from_secs(1);
/// For how long it is then watched that it stays so.
const WATCHED: Duration = Duration::from_millis(1500);
/// For whatever has to happen without any doing.
const SOON: Duration = Duration::from_secs(10);
/// Memory that an agent may have more than at first, for what its allocator keeps.
const MEMORY_SLACK: usize = 16 << 20;
/// Descriptors that come and go.
const DESCRIPTOR_SLACK: usize = 16;

/// The node, under load.
pub struct Soak {
    load: Load,
    agent: Agent,
    clients: Arc<Clients>,
    clock: Clock,
    pods: Vec<Option<ExactServer>>,
    functions: Vec<Function>,
    scarce: Vec<ExactServer>,
    topology: Topology,
    /// What pods that are no more have seen.
    gone: Vec<Tally>,
    /// When the agent has ended, during the last fault.
    ended: Vec<Instant>,
    /// Faults that are over: what failed because of them may become known later.
    past: Vec<Past>,
    usage: Usage,
}

/// A fault that was.
#[derive(Clone, Debug)]
struct Past {
    fault: Fault,
    begun: Instant,
    /// When the agent ended.
    agent_ended: Vec<Instant>,
    /// Nothing that is begun later may fail.
    over: Instant,
}

/// What an agent takes of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Bytes of memory.
    pub memory: usize,
    /// Open descriptors.
    pub descriptors: usize,
}

/// What must not be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wrongs {
    /// How often a pod had more to do at once than it may.
    pub over_limit: u64,
    /// Slots that this agent's audits found counted and not held, or held and not counted.
    pub drift: u64,
}

/// What became of the load during a fault and after it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Exchanges.
    pub served: u64,
    /// What failed while it was allowed to.
    pub tolerated: usize,
    /// After the end of the fault, until the last failure.
    pub recovered_in: Duration,
}

impl Soak {
    /// Sets it up, with this program as its agent or else the one that [`crate::agent::binary`] finds.
    pub fn start(binary: Option<PathBuf>, seed: u64) -> Result<Self> {
        let topology = Topology::new(PODS, 1)?;
        let cgroup = Cgroup::threaded("soak")?;
        let pods = (0..PODS)
            .map(|pod| pods::serve(&topology, pod).map(Some))
            .collect::<Result<Vec<_>>>()?;
        let functions = (0..FUNCTIONS)
            .map(|pod| {
                let options = FunctionOptions {
                    max_inflight: FUNCTION_SLOTS,
                    work: Work::Fixed(WORK),
                    ..FunctionOptions::default()
                };
                let pod = &topology.pods[PODS - 1 - pod];
                Function::start(&pod.netns, pod.at_v4(8081), options)
            })
            .collect::<Result<Vec<_>>>()?;
        let scarce = (0..SCARCE_PODS)
            .map(|pod| {
                let pod = &topology.pods[PODS - 1 - pod];
                ExactServer::start(&pod.netns, pod.at_v4(8082), 1, WORK)
            })
            .collect::<Result<Vec<_>>>()?;
        let clock = Clock::new()?;
        let mut agent = AgentOptions {
            binary,
            environment: clock.environment()?,
            ..AgentOptions::new(&topology.node, &cgroup)
        }
        .start(&services(&topology, &[]))?;
        Clock::tidy(agent.pid())?;
        let clients = Arc::new(Clients {
            netns: topology.clients[0].netns.share()?,
            cgroup,
        });
        let load = Load::start(
            &clients,
            [
                (Kind::Connection, CLIENTS, BY_CONNECTION),
                (Kind::Request, HTTP_CLIENTS, BY_REQUEST),
                (Kind::Scarce, SCARCE_CLIENTS, SCARCE),
            ],
            seed,
        )?;
        // What is needed once is there after a while.
        wait_served(&load, 2_000)?;
        let usage = Usage::of(&mut agent)?;
        Ok(Self {
            load,
            agent,
            clients,
            clock,
            pods,
            functions,
            scarce,
            topology,
            gone: Vec::new(),
            ended: Vec::new(),
            past: Vec::new(),
            usage,
        })
    }

    /// Exchanges so far.
    pub fn served(&self) -> u64 {
        self.load.served()
    }

    /// What the agent takes of the machine now.
    pub fn usage(&mut self) -> Result<Usage> {
        Usage::of(&mut self.agent)
    }

    /// Lets it run undisturbed; nothing may fail.
    pub fn rest(&mut self, time: Duration) -> Result<()> {
        thread::sleep(time);
        let (_, wrong) = sift(&self.past, self.load.take_failures());
        ensure!(wrong.is_empty(), "at rest: {}", digest(&wrong));
        self.check_counts()
    }

    /// Has a fault happen, and checks that everything is well again a second after its end.
    pub fn suffer(&mut self, fault: Fault, random: &mut SmallRng) -> Result<Outcome> {
        self.undergo(fault, random)
            .with_context(|| format!("fault: {}", fault.name()))
    }

    fn undergo(&mut self, fault: Fault, random: &mut SmallRng) -> Result<Outcome> {
        let before = self.load.served();
        let begun = Instant::now();
        fault.happen(self, random)?;
        let ended = Instant::now();
        let over = ended + RECOVERY;
        self.past.push(Past {
            fault,
            begun,
            agent_ended: std::mem::take(&mut self.ended),
            over,
        });
        thread::sleep(RECOVERY);
        let recovered = self.load.served();
        thread::sleep(WATCHED);
        let served = self.load.served();
        ensure!(served > recovered, "nobody is served any more");
        let (tolerated, wrong) = sift(&self.past, self.load.take_failures());
        ensure!(wrong.is_empty(), "{}", digest(&wrong));
        let last = tolerated.iter().map(|failure| failure.begun).max();
        self.check_counts()?;
        Ok(Outcome {
            served: served - before,
            tolerated: tolerated.len(),
            recovered_in: last.map_or(Duration::ZERO, |last| last.saturating_duration_since(ended)),
        })
    }

    /// Has the agent replaced by this program; see [`Soak::suffer`].
    pub fn suffer_upgrade(&mut self, binary: PathBuf, random: &mut SmallRng) -> Result<Outcome> {
        self.agent.replace_binary(binary);
        self.suffer(Fault::AgentReplaced, random)
    }

    /// Starts the agent again, which has ended just now.
    fn start_agent(&mut self, ended: Instant) -> Result<()> {
        self.ended.push(ended);
        self.agent.relaunch()?;
        let ready = self.agent.wait_ready();
        Clock::tidy(self.agent.pid())?;
        ready
    }

    /// What is wrong now by the agent's count, and what was ever wrong by the pods'.
    pub fn wrongs(&self) -> Result<Wrongs> {
        let audit = self.agent.admin().send("POST", "/v1/audit", "")?;
        ensure!(audit.status == 200, "no audit: {audit:?}");
        let drift = audit.json()?["drift_total"].as_u64();
        let here = self.pods.iter().flatten().chain(&self.scarce);
        let tallies = here
            .map(ExactServer::tally)
            .chain(self.gone.iter().copied());
        let breaches: u64 = tallies.map(|it| it.breaches).sum();
        let functions: u64 = self.functions.iter().map(|it| it.seen().over_limit).sum();
        Ok(Wrongs {
            over_limit: breaches + functions,
            drift: drift.context("the audit says nothing of drift")?,
        })
    }

    fn check_counts(&self) -> Result<()> {
        let wrongs = self.wrongs()?;
        ensure!(
            wrongs == Wrongs::default(),
            "counts were wrong or limits exceeded: {wrongs:?}"
        );
        Ok(())
    }

    /// Ends the load, and checks that all counts are 0 and that nothing is left over, then that
    /// everything can be taken away.
    pub fn finish(self) -> Result<()> {
        let Self {
            load,
            clients,
            mut agent,
            pods,
            functions,
            past,
            usage,
            topology,
            ..
        } = self;
        let (_, wrong) = sift(&past, load.stop());
        ensure!(wrong.is_empty(), "at the end: {}", digest(&wrong));
        let settled = within(SOON, || {
            for row in agent.backends()? {
                ensure!(
                    row.inflight == 0,
                    "{} slots at {}",
                    row.inflight,
                    row.address
                );
            }
            let flows = agent.flows()?;
            ensure!(flows == 0, "{flows} connections on their way");
            for queue in agent
                .admin()
                .get_json("/v1/queues")?
                .as_array()
                .context("queues")?
            {
                ensure!(queue["waiters"] == 0, "{queue}");
            }
            let sockets = clients.netns.open_sockets()?;
            ensure!(sockets == 0, "clients still have {sockets} sockets");
            let now = Usage::of(&mut agent)?;
            let is_flat = now.memory <= usage.memory + MEMORY_SLACK
                && now.descriptors <= usage.descriptors + DESCRIPTOR_SLACK;
            ensure!(is_flat, "{now:?}, and at first {usage:?}");
            Ok(())
        });
        settled
            .map_err(|late: crate::wait::TimedOut<anyhow::Error>| anyhow::anyhow!("{late:#}"))?;
        let objects = agent.bpf_objects()?;
        agent.uninstall()?;
        let left = objects.remaining();
        let left = within(SOON, || match &left {
            _ if objects.remaining().is_ok_and(|left| left.is_empty()) => Ok(()),
            left => Err(format!("{left:?}")),
        });
        left.map_err(|late| anyhow::anyhow!("left behind: {late:#}"))?;
        drop((pods, functions, topology));
        Ok(())
    }
}

impl Usage {
    fn of(agent: &mut Agent) -> Result<Self> {
        let pid = agent.pid();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).context("the agent is gone")?;
        Ok(Self {
            memory: resident(pid)?,
            descriptors: open.count(),
        })
    }
}

/// The three services, and further ones.
fn services(topology: &Topology, further: &[Service]) -> Vec<Service> {
    let pods = topology.pods.iter();
    let functions = topology.pods.iter().rev().take(FUNCTIONS);
    let queue = json!({"size": 1000, "timeout": "2s"});
    let common = |service: Service| {
        service
            .with("queue", queue.clone())
            .with("on_agent_loss", json!("refuse"))
            .with("health", json!({"probe": "none"}))
    };
    let by_connection = Service::new(
        "by-connection",
        [&*BY_CONNECTION.to_string()],
        SLOTS,
        pods.map(|pod| pod.at_v4(pods::PORT)),
    );
    let by_request = Service::new(
        "by-request",
        [&*BY_REQUEST.to_string()],
        FUNCTION_SLOTS,
        functions.map(|pod| pod.at_v4(8081)),
    );
    let by_request = by_request
        .with("protocol", json!("http"))
        .with("admission", json!("request"));
    let scarce = Service::new(
        "scarce",
        [&*SCARCE.to_string()],
        1,
        topology
            .pods
            .iter()
            .rev()
            .take(SCARCE_PODS)
            .map(|pod| pod.at_v4(8082)),
    );
    let mut all = vec![common(by_connection), common(by_request), common(scarce)];
    all.extend_from_slice(further);
    all
}

fn wait_served(load: &Load, more: u64) -> Result<()> {
    let goal = load.served() + more;
    let served = within(SOON * 3, || match load.served() {
        served if served >= goal => Ok(()),
        served => Err(format!("{served} of {goal} served")),
    });
    match served {
        Ok(()) => Ok(()),
        Err(late) => bail!("{late}; {}", digest(&load.take_failures())),
    }
}

/// Those that a fault explains, and those that none does.
fn sift(past: &[Past], failures: Vec<Failure>) -> (Vec<Failure>, Vec<Failure>) {
    failures.into_iter().partition(|failure| {
        past.iter().any(|past| {
            // A request may be in flight when the fault begins.
            // A reset that was lost is not sent again: its client keeps one of the few slots until it has
            // lost patience.
            let over = match (failure.kind, past.fault.tolerance()) {
                (Kind::Scarce, Tolerance::Anything) => past.over + load::PATIENCE,
                _ => past.over,
            };
            let is_of = failure.ended >= past.begun && failure.begun <= over;
            is_of && past.fault.tolerates(failure, &past.agent_ended)
        })
    })
}

/// The different ones, and how often.
fn digest(failures: &[Failure]) -> String {
    let mut kinds = std::collections::BTreeMap::<_, usize>::new();
    for Failure { kind, what, .. } in failures {
        *kinds.entry(format!("{kind:?}: {what}")).or_default() += 1;
    }
    let lines = kinds
        .into_iter()
        .map(|(what, times)| format!("{times} x {what}"));
    lines.collect::<Vec<_>>().join("; ")
}

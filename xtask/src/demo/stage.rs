//! What stands while the demo runs: function servers in their namespaces, the cgroup, the agent.
//!
//! Dropping it takes everything away; [`Stage::strike`] does so and sees that the agent ends well.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    function::{Function, FunctionOptions, Health, Work},
    service::{Backend, Service},
    topology::Topology,
    wait::within,
};

use super::{
    Options,
    client::{Clients, Steering, Task},
    strategy::Strategy,
    waiting::QueueState,
};

/// What clients dial. No machine has this address: only the programs know it.
pub(super) const FRONTEND: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 8080);

const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

/// Everything on one machine. Dropped in this order: the cgroup goes after its agent.
pub(super) struct Stage {
    pub(super) agent: Agent,
    pub(super) functions: Vec<Function>,
    cgroup: Cgroup,
    topology: Topology,
}

impl Stage {
    /// Sets it up; everything answers when this returns.
    pub(super) fn set(options: &Options, binary: PathBuf) -> Result<Self> {
        let topology = Topology::new(options.backends.into(), options.strategy.clients())?;
        let functions = topology.functions(
            8080,
            &FunctionOptions {
                max_inflight: options.max_inflight(),
                work: Work::Exponential(options.mean_work()),
                spin: false,
                seed: options.seed,
            },
        )?;
        let cgroup = Cgroup::domain("demo")?;
        let service = service(options, &functions);
        let agent_options = AgentOptions {
            binary: Some(binary),
            ..AgentOptions::new(&topology.node, &cgroup)
        };
        let agent = agent_options.start(&[service])?;
        Ok(Self {
            agent,
            functions,
            cgroup,
            topology,
        })
    }

    /// Sends clients on their way: through the agent's cgroup, or past everything of ours.
    pub(super) fn clients(&self, task: &Task) -> Result<Clients> {
        let cgroup = match task.steering {
            Steering::Frontend(_) => Some(self.cgroup.path()),
            Steering::Random(_) => None,
        };
        Clients::start(&self.topology.clients[0].netns, cgroup, task)
    }

    /// The namespaces of all clients; none if there is only one.
    pub(super) fn namespaces(&self) -> Vec<PathBuf> {
        match self.topology.clients.as_slice() {
            [_] => Vec::new(),
            clients => clients.iter().map(|client| client.netns.path()).collect(),
        }
    }

    /// Makes the pod that has served most fall ill, and says so.
    pub(super) fn make_leader_ill(&self) -> Result<Option<String>> {
        let served = |function: &&Function| function.seen().served;
        Ok(self.functions.iter().max_by_key(served).map(|leader| {
            leader.set_health(Health::Sick);
            format!("{}, which leads, falls ill", leader.address())
        }))
    }

    /// What the agent has to say of its choice: why `adaptive` has put what in force, or who leads.
    pub(super) fn choice(&self) -> Result<Option<String>> {
        let service = self.agent.admin().get_json("/v1/services/default/demo")?;
        if let Some(reason) = service["strategy_reason"].as_str() {
            let in_force = service["strategy_in_force"].as_str().unwrap_or("?");
            return Ok(Some(format!("in force is {in_force}: {reason}")));
        }
        let failovers = &service["failovers"];
        let longest_ms = failovers["longest_ms"].as_f64().unwrap_or_default();
        Ok(service["leader"].as_str().map(|leader| {
            format!(
                "{leader} leads; failovers: {}, the longest {longest_ms:.1} ms",
                failovers["count"]
            )
        }))
    }

    /// Waits until the kernel, the agent and the servers agree that nothing is in flight.
    pub(super) fn settle(&self) -> Result<()> {
        let settled = within(SETTLE_DEADLINE, || {
            for backend in self.agent.backends()? {
                ensure!(
                    backend.inflight == 0,
                    "the kernel counts {} at {}",
                    backend.inflight,
                    backend.address
                );
            }
            let waiters = QueueState::of(&self.agent)?.waiters;
            ensure!(waiters == 0, "the agent counts {waiters} who wait");
            for function in &self.functions {
                let current = function.seen().current;
                ensure!(current == 0, "{} is serving {current}", function.address());
            }
            Ok(())
        });
        settled.map_err(|late| anyhow::anyhow!("all clients are gone, but {}", late.last))
    }

    /// Ends it in order.
    pub(super) fn strike(self) -> Result<()> {
        let Self {
            agent,
            functions,
            cgroup,
            topology,
        } = self;
        agent.stop().context("at the end of the demo")?;
        functions.into_iter().for_each(Function::stop);
        cgroup.remove()?;
        drop(topology);
        Ok(())
    }

    /// Where what is.
    pub(super) fn picture(&self) -> String {
        let first = self.functions.first().map(Function::address);
        let last = self.functions.last().map(Function::address);
        format!(
            "clients ──connect({FRONTEND})──► kernel programs on {}\n   ├──► {} … {}\n   └──► none is idle: the agent's queue ──► the first that is",
            self.cgroup.path().display(),
            first.map_or_else(String::new, |address| address.to_string()),
            last.map_or_else(String::new, |address| address.to_string()),
        )
    }

    /// Commands for the curious.
    pub(super) fn how_to_look(&self) -> String {
        let cgroup = self.cgroup.path().display();
        let netns = self.topology.clients[0].netns.path();
        let netns = netns.display();
        let admin = self.agent.admin();
        let socket = admin.to_string();
        let socket = socket.trim_start_matches("unix:");
        let binary = self.agent.binary().display();
        format!(
            "\nIt stays as it is until Ctrl-C. From another terminal, as root:\n\
             \n  a request through the balancer:\n    \
               sh -c 'echo $$ > {cgroup}/cgroup.procs && exec nsenter --net={netns} curl -si http://{FRONTEND}/'\n\
             \n  one that holds a slot for 30 s:\n    \
               sh -c 'echo $$ > {cgroup}/cgroup.procs && exec nsenter --net={netns} curl -s \"http://{FRONTEND}/?work_us=30000000\"'\n\
             \n  what the agent sees:\n    \
               {binary} --admin {admin} services\n    \
               {binary} --admin {admin} backends\n    \
               {binary} --admin {admin} connections\n    \
               {binary} --admin {admin} queues\n    \
               curl -s --unix-socket {socket} http://localhost/v1/backends\n    \
               curl -s --unix-socket {socket} http://localhost/metrics\n"
        )
    }
}

fn service(options: &Options, functions: &[Function]) -> Service {
    let strategy = options.strategy;
    let max_inflight = options.max_inflight();
    let mut service = Service::new("demo", [FRONTEND.to_string().as_str()], max_inflight, [])
        .with("protocol", json!("http"))
        .with("admission", json!(options.admission.as_str()))
        .with("strategy", json!(strategy.word()))
        .with("queue", options.queue());
    if strategy.loses_its_leader() {
        let often = json!({"interval": "100ms", "failures": 1});
        service = service.with("health", often);
    }
    let backends = functions.iter().enumerate();
    service.backends = backends
        .map(|(number, function)| backend(strategy, number, function))
        .collect();
    service
}

fn backend(strategy: Strategy, number: usize, function: &Function) -> Backend {
    let mut backend = Backend::at(function.address());
    if strategy == Strategy::WeightedRoundRobin {
        let weight = json!(strategy.weight(number));
        backend.settings.insert("weight".to_owned(), weight);
    }
    backend
}

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
    function::{Function, FunctionOptions, Work},
    service::Service,
    topology::Topology,
    wait::within,
};

use super::{
    Options,
    client::{Clients, Steering, Task},
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
        let topology = Topology::new(options.backends.into(), 1)?;
        let functions = topology.functions(
            8080,
            &FunctionOptions {
                max_inflight: options.max_inflight,
                work: Work::Exponential(options.mean_work()),
                spin: false,
                seed: options.seed,
            },
        )?;
        let cgroup = Cgroup::domain("demo")?;
        let service = Service::new(
            "demo",
            [FRONTEND.to_string().as_str()],
            options.max_inflight,
            functions.iter().map(Function::address),
        )
        .with("protocol", json!("http"))
        .with("admission", json!(options.admission.as_str()))
        .with("queue", options.queue());
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

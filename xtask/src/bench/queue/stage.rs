//! What is measured on: a network namespace, servers on its loopback addresses, a cgroup for
//! clients, and an agent with one service for each part of the bench.
//!
//! Dropping it takes everything away. Called by `queue`.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::json;
use tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    netns::Netns,
    service::Service,
};

use super::server::Servers;

/// Backends under Poisson load, of one slot each.
pub(super) const BACKENDS: u8 = 10;
/// So many may wait that the waiting time is what refuses.
pub(super) const QUEUE_SIZE: usize = 100;
pub(super) const QUEUE_TIMEOUT_MS: u64 = 100;

/// What clients of the Poisson load dial. Nothing is routed there.
pub(super) const POISSON: SocketAddr = at([10, 96, 0, 20]);
/// What clients dial to be woken.
pub(super) const WAKE: SocketAddr = at([10, 96, 0, 21]);
const WAKE_BACKEND: SocketAddr = at([127, 7, 0, 1]);

/// In the order of its going: the agent leaves its cgroup first.
pub(super) struct Stage {
    pub(super) agent: Agent,
    pub(super) cgroup: Cgroup,
    /// Behind [`POISSON`].
    pub(super) balanced: Servers,
    /// Dialled at random.
    _random: Servers,
    /// The one backend behind [`WAKE`].
    pub(super) wake_listener: TcpListener,
    pub(super) netns: Netns,
}

impl Stage {
    /// Sets it up; everything answers when this returns.
    pub(super) fn set(binary: &Path) -> Result<Self> {
        let netns = Netns::new()?;
        let balanced = Servers::start(&netns, &balanced_addresses())?;
        let random = Servers::start(&netns, &random_addresses())?;
        let wake_listener = netns.listen(WAKE_BACKEND)?;
        let cgroup = Cgroup::threaded("bench-queue")?;
        let options = AgentOptions {
            binary: Some(PathBuf::from(binary)),
            ..AgentOptions::new(&netns, &cgroup)
        };
        Ok(Self {
            agent: options.start(&services())?,
            cgroup,
            balanced,
            _random: random,
            wake_listener,
            netns,
        })
    }

    /// Ends it in order.
    pub(super) fn strike(self) -> Result<()> {
        self.agent.stop().context("at the end of the bench")
    }
}

/// Of the servers that are dialled at random.
pub(super) fn random_addresses() -> Vec<SocketAddr> {
    (1..=BACKENDS).map(|n| at([127, 6, 0, n])).collect()
}

fn balanced_addresses() -> Vec<SocketAddr> {
    (1..=BACKENDS).map(|n| at([127, 5, 0, n])).collect()
}

fn services() -> [Service; 2] {
    let service = |name, frontend: SocketAddr, backends: Vec<SocketAddr>| {
        Service::new(name, [&*frontend.to_string()], 1, backends)
    };
    let timeout = format!("{QUEUE_TIMEOUT_MS}ms");
    [
        service("poisson", POISSON, balanced_addresses())
            .with("protocol", json!("http"))
            .with("health", json!({"probe": "none"}))
            .with("queue", json!({"size": QUEUE_SIZE, "timeout": timeout})),
        // A machine that stands still for a moment must not refuse anybody.
        service("wake", WAKE, vec![WAKE_BACKEND])
            .with("queue", json!({"size": 10, "timeout": "5s"})),
    ]
}

const fn at([a, b, c, d]: [u8; 4]) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(a, b, c, d)), 8080)
}

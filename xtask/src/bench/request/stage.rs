//! What is measured on: a network namespace with backends and all proxies, and a cgroup for the
//! clients of ours. Dropping it takes everything away. Called by `request`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use tests::{agent::Agent, cgroup::Cgroup, netns::Netns, run_dir::RunDir, wait::within};

use super::{
    super::cpu,
    backend::Backend,
    client, ours,
    peer::{Ground, Kind, Peer},
    results::Name,
};

const BACKENDS: u8 = 10;
const FRONTEND: SocketAddr = at([10, 96, 0, 30], 8080);
const START_DEADLINE: Duration = Duration::from_secs(20);

/// In the order of its going: proxies before what they need.
pub(super) struct Stage {
    agent: Agent,
    peers: Vec<Peer>,
    backends: Vec<Backend>,
    pub(super) cgroup: Cgroup,
    _dir: RunDir,
    pub(super) netns: Netns,
    /// Where clients and backends run; proxies have the other.
    pub(super) load_cpu: usize,
}

/// One of the proxies, as clients see it.
#[derive(Clone, Copy)]
pub(super) enum Proxy<'s> {
    Ours(&'s Agent),
    Peer(&'s Peer),
}

impl Stage {
    /// Sets it up; every proxy answers when this returns.
    pub(super) fn set(binary: &Path, envoy: &Path) -> Result<Self> {
        let (proxy_cpu, load_cpu) = cpu::cpus()?;
        let netns = Netns::new()?;
        let addresses: Vec<_> = (1..=BACKENDS).map(|n| at([127, 8, 0, n], 8080)).collect();
        let start = |address: &SocketAddr| Backend::start(&netns, *address, load_cpu);
        let backends = addresses.iter().map(start).collect::<Result<_>>()?;
        let dir = RunDir::new("bench-request")?;
        let ground = Ground {
            netns: &netns,
            dir: dir.path(),
            backends: &addresses,
        };
        let peer = |kind: Kind, port| {
            let program = match kind {
                Kind::Envoy => envoy.to_owned(),
                packaged => packaged.program(),
            };
            Peer::start(kind, &program, at([127, 0, 0, 1], port), &ground)
        };
        let peers = vec![
            peer(Kind::Nginx, 8101)?,
            peer(Kind::HaProxy, 8102)?,
            peer(Kind::Envoy, 8103)?,
        ];
        let cgroup = Cgroup::threaded("bench-request")?;
        let agent = ours::start(binary, &netns, &cgroup, FRONTEND, addresses)?;
        let stage = Self {
            agent,
            peers,
            backends,
            cgroup,
            _dir: dir,
            netns,
            load_cpu,
        };
        for proxy in stage.proxies() {
            stage.wait_for(proxy)?;
            cpu::bind_process(proxy.pid(), proxy_cpu)?;
        }
        Ok(stage)
    }

    /// All that are compared, ours first.
    pub(super) fn proxies(&self) -> impl Iterator<Item = Proxy<'_>> {
        let peers = self.peers.iter().map(Proxy::Peer);
        [Proxy::Ours(&self.agent)].into_iter().chain(peers)
    }

    /// No backend was ever sent a second request at once.
    pub(super) fn check_limits(&self) -> Result<()> {
        let over_limit: u64 = self.backends.iter().map(Backend::over_limit).sum();
        ensure!(
            over_limit == 0,
            "{over_limit} requests came to a backend that was serving another: \
             one of the proxies does not do the same job"
        );
        Ok(())
    }

    /// Ends it in order.
    pub(super) fn strike(self) -> Result<()> {
        self.agent.stop().context("at the end of the bench")
    }

    fn wait_for(&self, proxy: Proxy<'_>) -> Result<()> {
        let answers = within(START_DEADLINE, || client::ask_once(self, proxy));
        answers.map_err(|late| {
            let (name, complaints) = (proxy.name(), proxy.complaints());
            anyhow!("{name} does not answer: {:#}\n{complaints}", late.last)
        })
    }
}

impl Proxy<'_> {
    pub(super) fn name(self) -> Name {
        match self {
            Self::Ours(_) => Name::Ours,
            Self::Peer(peer) => Name::Peer(peer.kind),
        }
    }

    /// What clients dial.
    pub(super) fn address(self) -> SocketAddr {
        match self {
            Self::Ours(_) => FRONTEND,
            Self::Peer(peer) => peer.address,
        }
    }

    pub(super) fn pid(self) -> u32 {
        match self {
            Self::Ours(agent) => agent.pid(),
            Self::Peer(peer) => peer.pid(),
        }
    }

    fn complaints(self) -> String {
        match self {
            Self::Ours(agent) => agent.stderr(),
            Self::Peer(peer) => peer.complaints(),
        }
    }
}

const fn at([a, b, c, d]: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

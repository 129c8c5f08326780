//! What is measured on: one namespace whose loopback addresses are the backends, and one agent that
//! has a service for every strategy, size and state.
//!
//! Every service has backends of its own; one listener on the wildcard address answers for all that
//! are idle. Dropping it takes everything away. Called by `strategies`.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use socket2::{SockAddr, Socket, Type};
use tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    netns::Netns,
    place::Place,
    service::Service,
};

use super::super::connect::server::{self, Server};

/// All that the kernel has.
pub(super) const STRATEGIES: [&str; 9] = [
    "idle-first",
    "least-connections",
    "round-robin",
    "weighted-round-robin",
    "random",
    "p2c",
    "least-response-time",
    "consistent-hash",
    "leader",
];
/// Those that fill their backends evenly, so that none is idle, and look for idle ones first.
pub(super) const FILLED: [&str; 2] = ["idle-first", "least-connections"];
/// Backends of a service.
pub(super) const SIZES: [u16; 3] = [10, 100, 1_000];

/// Of the backends that are idle.
const PORT: u16 = 8080;
/// Of the first service without an idle one; the others' follow.
const FIRST_FILLED_PORT: u16 = 8081;

/// In what state the program finds the backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// What is dialled is no frontend: the program looks it up, and is done.
    Untouched,
    /// A service with a single backend: nothing to choose.
    Single,
    /// All idle, each with one slot.
    OneSlot(&'static str, u16),
    /// All idle, without a limit.
    Unlimited(&'static str, u16),
    /// None idle: each has a connection already, and no limit.
    NoneIdle(&'static str, u16),
}

/// A state, with what is dialled to meet it.
pub(super) struct Variant {
    pub(super) state: State,
    /// Tells variants apart: their frontends, backends and ports.
    number: u8,
}

/// Everything, in the order of its going: the agent leaves its cgroup first.
pub(super) struct Stage {
    pub(super) agent: Agent,
    pub(super) cgroup: Cgroup,
    _servers: Vec<Server>,
    pub(super) netns: Netns,
}

impl Variant {
    /// Every one of them.
    pub(super) fn all() -> Vec<Self> {
        let mut states = vec![State::Untouched, State::Single];
        for size in SIZES {
            states.extend(STRATEGIES.map(|strategy| State::OneSlot(strategy, size)));
            states.extend(STRATEGIES.map(|strategy| State::Unlimited(strategy, size)));
            states.extend(FILLED.map(|strategy| State::NoneIdle(strategy, size)));
        }
        let numbered = states.into_iter().zip(1..);
        numbered
            .map(|(state, number)| Self { state, number })
            .collect()
    }

    /// What is dialled.
    pub(super) fn targets(&self) -> Arc<[SockAddr]> {
        let dialled = match self.state {
            State::Untouched => SocketAddr::new(Ipv4Addr::new(127, 1, 0, 1).into(), PORT),
            _ => self.frontend(),
        };
        Arc::new([dialled.into()])
    }

    fn frontend(&self) -> SocketAddr {
        SocketAddr::new(Ipv4Addr::new(10, 96, 1, self.number).into(), PORT)
    }

    fn port(&self) -> u16 {
        match self.state {
            State::NoneIdle(..) => FIRST_FILLED_PORT + u16::from(self.number),
            _ => PORT,
        }
    }

    fn service(&self) -> Option<Service> {
        let (strategy, size, max_inflight) = match self.state {
            State::Untouched => return None,
            State::Single => (STRATEGIES[0], 1, 1),
            State::OneSlot(strategy, size) => (strategy, size, 1),
            State::Unlimited(strategy, size) | State::NoneIdle(strategy, size) => {
                (strategy, size, 0)
            }
        };
        let first = Ipv4Addr::new(127, 16 + self.number, 0, 1).to_bits();
        let backends = (first..first + u32::from(size))
            .map(|bits| SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(bits)), self.port()));
        let name = format!("service-{}", self.number);
        let frontend = self.frontend().to_string();
        let service = Service::new(&name, [frontend.as_str()], max_inflight, backends);
        Some(service.with("strategy", json!(strategy)))
    }
}

impl Stage {
    /// Sets it up; everything answers when this returns.
    pub(super) fn set(binary: &Path, servers_cpu: usize) -> Result<Self> {
        let netns = Netns::new()?;
        let cgroup = Cgroup::threaded("strategies")?;
        let variants = Variant::all();
        let start = |port, service| {
            let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            Server::start(&netns, everywhere, service, servers_cpu)
        };
        let mut servers = vec![start(PORT, server::Service::Close)?];
        for variant in &variants {
            if let State::NoneIdle(_, size) = variant.state {
                let first = usize::from(size);
                servers.push(start(variant.port(), server::Service::Keep { first })?);
            }
        }
        let services: Vec<_> = variants.iter().filter_map(Variant::service).collect();
        let options = AgentOptions {
            binary: Some(binary.to_owned()),
            ..AgentOptions::new(&netns, &cgroup)
        };
        Ok(Self {
            agent: options.start(&services)?,
            cgroup,
            _servers: servers,
            netns,
        })
    }

    /// Leaves no backend idle where none is to be, as long as what is returned lives.
    pub(super) fn fill(&self) -> Result<Vec<Socket>> {
        let variants = Variant::all();
        let held = Place::new(&self.netns, &self.cgroup).run(|| {
            let mut held = Vec::new();
            for variant in &variants {
                if let State::NoneIdle(_, size) = variant.state {
                    let target = &variant.targets()[0];
                    for _ in 0..size {
                        held.push(connect(target)?);
                    }
                }
            }
            Ok::<_, anyhow::Error>(held)
        })?;
        self.ensure_filled()?;
        Ok(held)
    }

    fn ensure_filled(&self) -> Result<()> {
        let backends = self.agent.backends()?;
        for variant in Variant::all() {
            let State::NoneIdle(strategy, size) = variant.state else {
                continue;
            };
            let port = format!(":{}", variant.port());
            let busy = backends
                .iter()
                .filter(|backend| backend.inflight == 1 && backend.address.ends_with(&port));
            let busy = busy.count();
            ensure!(
                busy == usize::from(size),
                "{strategy} gave {size} connections to {busy} of {size} idle backends; each was to get one"
            );
        }
        Ok(())
    }

    /// Ends it in order.
    pub(super) fn strike(self) -> Result<()> {
        self.agent.stop().context("at the end of the bench")
    }
}

fn connect(target: &SockAddr) -> Result<Socket> {
    let connect = || {
        let socket = Socket::new(target.domain(), Type::STREAM, None)?;
        socket.set_linger(Some(std::time::Duration::ZERO))?;
        socket.connect(target)?;
        Ok::<_, std::io::Error>(socket)
    };
    connect().with_context(|| format!("cannot connect to {:?}", target.as_socket()))
}

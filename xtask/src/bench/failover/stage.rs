//! What is measured on: a namespace with five backends on loopback addresses, an agent, and the ways
//! in which a leader goes and comes back.
//!
//! Dropping it takes everything away. Called by `failover`.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    netns::Netns,
    service::Service,
    wait::within,
};

use super::{Going, backend::Backend, client::FRONTEND, round::Ground};

/// At most half of a service's backends are out at once.
const BACKENDS: u8 = 5;
/// The default is 30 s, in which all would have been killed; the rest is as it comes.
const BREAKER_OPEN: &str = "500ms";
const RETURN_DEADLINE: Duration = Duration::from_secs(10);

/// Everything on a ground that stays.
pub(super) struct Stage<'g> {
    agent: Agent,
    backends: Vec<Backend>,
    going: Going,
    netns: &'g Netns,
}

impl<'g> Stage<'g> {
    /// Sets it up; everything answers when this returns.
    pub(super) fn set(binary: &Path, netns: &'g Netns, cgroup: &Cgroup) -> Result<Self> {
        netns
            .nft("add table ip cut\nadd chain ip cut in { type filter hook input priority 0; }")?;
        let start = |number| {
            let address = Ipv4Addr::new(127, 7, 0, number + 1);
            Backend::start(netns, SocketAddr::new(address.into(), 8080), number)
        };
        let backends: Vec<_> = (0..BACKENDS).map(start).collect::<Result<_>>()?;
        let going = Going::Refused;
        let options = AgentOptions {
            binary: Some(binary.to_owned()),
            ..AgentOptions::new(netns, cgroup)
        };
        Ok(Self {
            agent: options.start(&[service(&backends, going)])?,
            backends,
            going,
            netns,
        })
    }

    /// Settings for the leaders to go that way.
    pub(super) fn prepare(&mut self, going: Going) -> Result<()> {
        self.going = going;
        self.agent.reload(&[service(&self.backends, going)])
    }

    /// Ends it in order.
    pub(super) fn strike(self) -> Result<()> {
        self.agent.stop().context("at the end of the bench")
    }

    /// Rewrites the agent's file as an operator does, without waiting for the effect.
    fn delete(&self, address: &str) -> Result<Instant> {
        let path = self.agent.config_path();
        let text = fs::read_to_string(&path)?;
        let mut config: Value = serde_json::from_str(&text)?;
        let backends = config["services"][0]["backends"].as_array_mut();
        let backends = backends.context("the agent's configuration has no backends")?;
        backends.retain(|backend| backend["address"] != address);
        let draft = path.with_extension("draft");
        fs::write(&draft, serde_json::to_string(&config)?)?;
        let begun = Instant::now();
        fs::rename(&draft, &path).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(begun)
    }
}

impl Ground for Stage<'_> {
    fn remove(&mut self, number: u8) -> Result<Instant> {
        let backend = &mut self.backends[usize::from(number)];
        match self.going {
            Going::Refused => backend.kill(),
            Going::Deleted => {
                let address = backend.address.to_string();
                self.delete(&address)
            }
            Going::Blackholed => {
                let begun = Instant::now();
                let address = backend.address.ip();
                self.netns
                    .nft(&format!("add rule ip cut in ip daddr {address} drop"))?;
                Ok(begun)
            }
        }
    }

    /// Waits until the agent takes all for healthy.
    fn restore(&mut self, number: u8) -> Result<()> {
        match self.going {
            Going::Refused => self.backends[usize::from(number)].come_back(self.netns)?,
            Going::Deleted => self.agent.reload(&[service(&self.backends, self.going)])?,
            Going::Blackholed => drop(self.netns.nft("flush chain ip cut in")?),
        }
        let all_back = within(RETURN_DEADLINE, || {
            let backends = self.agent.backends()?;
            let out = backends
                .iter()
                .find(|backend| !matches!(backend.state.as_str(), "idle" | "busy"));
            ensure!(out.is_none(), "{out:?}");
            ensure!(backends.len() == self.backends.len(), "one is missing");
            Ok::<_, anyhow::Error>(())
        });
        all_back.context("a backend that is up again is not taken back")
    }
}

fn service(backends: &[Backend], going: Going) -> Service {
    let addresses = backends.iter().map(|backend| backend.address);
    let service = Service::new("led", [FRONTEND.to_string().as_str()], 0, addresses)
        .with("strategy", json!("leader"))
        .with("breaker", json!({"open": BREAKER_OPEN}));
    match going {
        Going::Refused | Going::Deleted => service,
        // Nobody refuses: only probes tell.
        Going::Blackholed => service.with(
            "health",
            json!({"probe": "tcp", "interval": "50ms", "timeout": "50ms", "failures": 2}),
        ),
    }
}

//! What is measured on: two network namespaces, servers on their loopback addresses, three agents
//! on cgroups of their own, and an iptables rule set like kube-proxy's.
//!
//! A frontend is routed nowhere: a connect that is not steered fails, and is never a figure.
//! Dropping it takes everything away. Called by `connect`.

use std::{
    fmt::Write as _,
    fs,
    io::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use socket2::SockAddr;
use tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    netns::Netns,
    place,
    service::Service,
};

use super::server::{self, Server};

/// Backends of the services that are compared with a single address.
const FEW_BACKENDS: u32 = 10;
const MANY_BACKENDS: u32 = 1_000;
pub(super) const FEW_SERVICES: u32 = 10;
pub(super) const MANY_SERVICES: u32 = 10_000;

/// Bytes between two acknowledgements of the server that swallows.
pub(super) const SLICE_BYTES: usize = 512 << 10;

const BACKENDS_PER_SERVICE: u32 = 2;
const ACCEPT_PORT: u16 = 8080;
const SWALLOW_PORT: u16 = 8081;

/// Everything, in the order of its going: agents leave their cgroups first.
pub(super) struct Stage {
    /// Balances the services of [`Names`].
    pub(super) agent: Agent,
    /// Balances [`FEW_SERVICES`].
    pub(super) few: Agent,
    /// Balances [`MANY_SERVICES`].
    pub(super) many: Agent,
    pub(super) cgroup: Cgroup,
    pub(super) few_cgroup: Cgroup,
    pub(super) many_cgroup: Cgroup,
    /// Accept and close, in each namespace.
    pub(super) plain_server: Server,
    pub(super) filtered_server: Server,
    _swallower: Server,
    /// Without any netfilter rule.
    pub(super) plain: Netns,
    /// With the iptables rules: every connection in it is tracked.
    pub(super) filtered: Netns,
}

/// Addresses that are dialled one after the other.
pub(super) type Targets = Arc<[SockAddr]>;

impl Stage {
    /// Sets it up; everything answers when this returns.
    pub(super) fn set(binary: &Path, servers_cpu: usize) -> Result<Self> {
        let (plain, filtered) = (Netns::new()?, Netns::new()?);
        add_iptables_rules(&filtered)?;
        let start = |netns, port, service| {
            let everywhere = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port);
            Server::start(netns, everywhere, service, servers_cpu)
        };
        let swallow = server::Service::Swallow {
            slice_bytes: SLICE_BYTES,
        };
        let cgroup = Cgroup::threaded("bench")?;
        let few_cgroup = Cgroup::threaded("bench-few")?;
        let many_cgroup = Cgroup::threaded("bench-many")?;
        let agent = |cgroup, services: &[Service]| {
            let options = AgentOptions {
                binary: Some(PathBuf::from(binary)),
                ..AgentOptions::new(&plain, cgroup)
            };
            options.start(services)
        };
        Ok(Self {
            agent: agent(&cgroup, &own_services())?,
            few: agent(&few_cgroup, &numbered_services(FEW_SERVICES))?,
            many: agent(&many_cgroup, &numbered_services(MANY_SERVICES))?,
            cgroup,
            few_cgroup,
            many_cgroup,
            plain_server: start(&plain, ACCEPT_PORT, server::Service::Close)?,
            filtered_server: start(&filtered, ACCEPT_PORT, server::Service::Close)?,
            _swallower: start(&plain, SWALLOW_PORT, swallow)?,
            plain,
            filtered,
        })
    }

    /// Ends it in order.
    pub(super) fn strike(self) -> Result<()> {
        let Self {
            agent, few, many, ..
        } = self;
        for agent in [agent, few, many] {
            agent.stop().context("at the end of the bench")?;
        }
        Ok(())
    }
}

/// [`FEW_BACKENDS`] backends that serve one connection at a time each.
pub(super) const LIMITED: SocketAddr = frontend([10, 96, 0, 10], ACCEPT_PORT);
/// As many, without a limit.
pub(super) const UNLIMITED: SocketAddr = frontend([10, 96, 0, 11], ACCEPT_PORT);
/// [`MANY_BACKENDS`] backends that serve one connection at a time each.
pub(super) const WIDE: SocketAddr = frontend([10, 96, 0, 12], ACCEPT_PORT);
/// The server that swallows.
pub(super) const SWALLOWING: SocketAddr = frontend([10, 96, 0, 13], SWALLOW_PORT);
/// The backend behind it.
pub(super) const SWALLOWING_BACKEND: SocketAddr = frontend([127, 4, 0, 1], SWALLOW_PORT);
/// What iptables translates to the backends of [`LIMITED`]; no frontend.
pub(super) const TRANSLATED: SocketAddr = frontend([10, 97, 0, 10], ACCEPT_PORT);

const fn frontend([a, b, c, d]: [u8; 4], port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(a, b, c, d)), port)
}

/// The backends of [`LIMITED`].
pub(super) fn limited_backends() -> Vec<SocketAddr> {
    numbered(Ipv4Addr::new(127, 1, 0, 1), FEW_BACKENDS)
}

/// The backends of [`WIDE`].
pub(super) fn wide_backends() -> Vec<SocketAddr> {
    numbered(Ipv4Addr::new(127, 3, 0, 1), MANY_BACKENDS)
}

/// The backends of so many services.
pub(super) fn numbered_backends(services: u32) -> Vec<SocketAddr> {
    let first = Ipv4Addr::new(127, 16, 0, 1);
    numbered(first, services * BACKENDS_PER_SERVICE)
}

/// The frontends of so many services.
pub(super) fn numbered_frontends(services: u32) -> Vec<SocketAddr> {
    numbered(Ipv4Addr::new(10, 100, 0, 1), services)
}

/// As a dialler wants them.
pub(super) fn targets(addresses: &[SocketAddr]) -> Targets {
    addresses.iter().copied().map(SockAddr::from).collect()
}

fn own_services() -> [Service; 4] {
    let service = |name, frontend: SocketAddr, max_inflight, backends: Vec<SocketAddr>| {
        Service::new(
            name,
            [frontend.to_string().as_str()],
            max_inflight,
            backends,
        )
    };
    let unlimited = numbered(Ipv4Addr::new(127, 2, 0, 1), FEW_BACKENDS);
    [
        service("limited", LIMITED, 1, limited_backends()),
        service("unlimited", UNLIMITED, 0, unlimited),
        service("wide", WIDE, 1, wide_backends()),
        service("swallow", SWALLOWING, 0, vec![SWALLOWING_BACKEND]),
    ]
}

/// Services alike in all but their number.
fn numbered_services(count: u32) -> Vec<Service> {
    numbered_frontends(count)
        .iter()
        .zip(numbered_backends(count).chunks(BACKENDS_PER_SERVICE as usize))
        .enumerate()
        .map(|(index, (frontend, backends))| {
            Service::new(
                &format!("service-{index}"),
                [frontend.to_string().as_str()],
                1,
                backends.iter().copied(),
            )
        })
        .collect()
}

/// So many addresses from `first` on.
fn numbered(first: Ipv4Addr, count: u32) -> Vec<SocketAddr> {
    let first = first.to_bits();
    (first..first + count)
        .map(|bits| SocketAddr::new(Ipv4Addr::from_bits(bits).into(), ACCEPT_PORT))
        .collect()
}

fn add_iptables_rules(netns: &Netns) -> Result<()> {
    // Connections that are over would slow iptables down for ten seconds each.
    const FORGET_SECONDS: &str = "/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_close";
    // Translated before it leaves; until then it needs a route and a source address.
    netns.ip_batch(&format!(
        "route add {}/32 dev lo src 127.0.0.1\n",
        TRANSLATED.ip()
    ))?;
    let path = ["/usr/sbin/iptables-restore", "/sbin/iptables-restore"];
    let restore = path.iter().find(|path| Path::new(path).exists());
    let program = restore.map_or("iptables-restore", |path| path);
    let mut command = place::command(Some(netns), None, Path::new(program));
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run iptables-restore: install the package iptables")?;
    let mut stdin = child.stdin.take().context("its input is piped")?;
    stdin
        .write_all(iptables_rules(&limited_backends())?.as_bytes())
        .context("cannot write to iptables-restore")?;
    drop(stdin);
    let output = child
        .wait_with_output()
        .context("cannot wait for iptables-restore")?;
    ensure!(
        output.status.success(),
        "iptables-restore failed ({}): {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    netns
        .run(|| fs::write(FORGET_SECONDS, "1"))
        .with_context(|| format!("cannot write to {FORGET_SECONDS}"))
}

/// As kube-proxy does it: services, then one service with a chance for each of its endpoints,
/// then the endpoint. With one service in the first chain, its best case.
fn iptables_rules(backends: &[SocketAddr]) -> Result<String> {
    let mut rules = String::from("*nat\n:SERVICES - [0:0]\n:SERVICE - [0:0]\n");
    for index in 0..backends.len() {
        writeln!(rules, ":ENDPOINT-{index} - [0:0]")?;
    }
    writeln!(rules, "-A OUTPUT -j SERVICES")?;
    let (address, port) = (TRANSLATED.ip(), TRANSLATED.port());
    writeln!(
        rules,
        "-A SERVICES -d {address}/32 -p tcp -m tcp --dport {port} -j SERVICE"
    )?;
    for (index, backend) in backends.iter().enumerate() {
        let chance = 1.0 / (backends.len() - index) as f64;
        writeln!(
            rules,
            "-A SERVICE -m statistic --mode random --probability {chance:.10} -j ENDPOINT-{index}\n\
             -A ENDPOINT-{index} -p tcp -m tcp -j DNAT --to-destination {backend}"
        )?;
    }
    rules.push_str("COMMIT\n");
    Ok(rules)
}

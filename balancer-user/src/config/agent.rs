//! The agent's own settings: where it attaches, pins, listens and logs.
//!
//! Owns the keys under `agent:`, their environment variables and their flags. Refuses relative
//! paths and addresses out of reach. Nothing here opens, binds or creates anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::environment::{self, Lookup, Variable};
use super::listen::{AdminAddress, Listener, Metrics, admin_addresses, listener, refuse_collision};
use super::problem::{Findings, Place};
use super::raw::{RawAgent, Text};
use super::value::{self, Written};
use crate::model::words;

/// The agent's settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// The cgroup whose processes are balanced; none: the root of the unified hierarchy, found.
    pub cgroup: Option<PathBuf>,
    /// The directory, on a bpffs, where programs and maps are pinned.
    pub pin_path: PathBuf,
    /// Where the admin API listens. May be empty.
    pub admin: Vec<AdminAddress>,
    /// Where metrics are served besides the admin API.
    pub metrics: Metrics,
    /// The addresses on which the agent takes overflow.
    pub overflow: Overflow,
    /// Threads that forward overflow; none: one per CPU.
    pub workers: Option<usize>,
    /// What holds for all probes.
    pub probes: ProbeConfig,
    /// Entries in any cache at most.
    pub cache_max_size: usize,
    /// Whether metrics are collected and served.
    pub collect_metrics: bool,
    /// How often endpoints are read again although nothing seems to have changed.
    pub resync: Duration,
    /// What the agent logs at first.
    pub log: LogConfig,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            cgroup: None,
            pin_path: PathBuf::from("/sys/fs/bpf/idlefirst"),
            admin: vec![
                AdminAddress::Unix(PathBuf::from("/run/idlefirst/admin.sock")),
                AdminAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 9090))),
            ],
            metrics: Metrics::On(SocketAddr::from(([0, 0, 0, 0], 9102))),
            overflow: Overflow::Auto,
            workers: None,
            probes: ProbeConfig::default(),
            cache_max_size: 10_000,
            collect_metrics: true,
            resync: Duration::from_secs(30),
            log: LogConfig::default(),
        }
    }
}

/// Logging, as it starts; the level can be changed at run time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogConfig {
    /// The least severe level that is logged.
    pub level: LogLevel,
    /// How a line looks.
    pub format: LogFormat,
}

words! {
    /// How much is logged.
    LogLevel, "log level" {
        /// Only what failed.
        Error = "error",
        /// And what a person should look at.
        Warn = "warn",
        /// And what the agent does.
        #[default]
        Info = "info",
        /// And why.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}

words! {
    /// How log lines look.
    LogFormat, "log format" {
        /// For people.
        #[default]
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

/// What holds for all probes together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProbeConfig {
    /// Whether anything is probed.
    pub enabled: bool,
    /// Probes under way at once at most.
    pub at_once: usize,
    /// How long a result holds for every service that shares the backend.
    pub cache_ttl: Duration,
}

impl Default for ProbeConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            at_once: 50,
            cache_ttl: Duration::from_secs(5),
        }
    }
}

/// The addresses on which the agent takes overflow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Overflow {
    /// The agent finds, for each family, one that clients on this node can reach.
    #[default]
    Auto,
    /// These: at most one of each family. Clients of the other family get no overflow.
    Addresses {
        /// For clients of IPv4 frontends.
        v4: Option<Ipv4Addr>,
        /// For clients of IPv6 frontends.
        v6: Option<Ipv6Addr>,
    },
}

impl From<IpAddr> for Overflow {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::Addresses {
                v4: Some(v4),
                v6: None,
            },
            IpAddr::V6(v6) => Self::Addresses {
                v4: None,
                v6: Some(v6),
            },
        }
    }
}

/// Settings from the command line. What is set here wins over environment and file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Instead of `agent.cgroup`.
    pub cgroup: Option<PathBuf>,
    /// Instead of `agent.pin_path`.
    pub pin_path: Option<PathBuf>,
    /// Instead of `agent.admin`, the whole list.
    pub admin: Option<Vec<AdminAddress>>,
    /// Instead of `agent.metrics`.
    pub metrics: Option<Metrics>,
    /// Instead of `agent.log.level`.
    pub log_level: Option<LogLevel>,
    /// Instead of `agent.log.format`.
    pub log_format: Option<LogFormat>,
}

impl AgentConfig {
    pub(crate) fn apply(&mut self, overrides: &Overrides) {
        fn put<T: Clone>(setting: &mut T, value: &Option<T>) {
            if let Some(value) = value {
                setting.clone_from(value);
            }
        }
        if overrides.cgroup.is_some() {
            self.cgroup.clone_from(&overrides.cgroup);
        }
        put(&mut self.pin_path, &overrides.pin_path);
        put(&mut self.admin, &overrides.admin);
        put(&mut self.metrics, &overrides.metrics);
        put(&mut self.log.level, &overrides.log_level);
        put(&mut self.log.format, &overrides.log_format);
    }
}

/// Checks `agent:` and the variables that stand in for its keys.
pub(crate) fn check(raw: &RawAgent, lookup: Lookup<'_>, findings: &mut Findings) -> AgentConfig {
    let mut agent = AgentConfig::default();
    let log = raw.log.as_ref();
    let level = log.and_then(|log| log.level.as_ref());
    let format = log.and_then(|log| log.format.as_ref());
    let mut reader = Reader { lookup, findings };

    let cgroup =
        |written: Written<'_>, findings: &mut Findings| value::path(written, "cgroup", findings);
    agent.cgroup = reader.read(raw.cgroup.as_ref(), environment::CGROUP, cgroup);
    let pin_path =
        |written: Written<'_>, findings: &mut Findings| value::path(written, "pin_path", findings);
    if let Some(path) = reader.read(raw.pin_path.as_ref(), environment::PIN_PATH, pin_path) {
        agent.pin_path = path;
    }
    if let Some(value) = reader.read(level, environment::LOG_LEVEL, |written, findings| {
        value::word(written, LogLevel::ALL, findings)
    }) {
        agent.log.level = value;
    }
    if let Some(value) = reader.read(format, environment::LOG_FORMAT, |written, findings| {
        value::word(written, LogFormat::ALL, findings)
    }) {
        agent.log.format = value;
    }
    listeners(raw, &mut agent, &mut reader);
    if let Some(text) = &raw.overflow {
        agent.overflow = overflow(text, findings);
    }
    agent
}

/// Reads a setting from the file and from the environment. Both are checked; the latter wins.
struct Reader<'a> {
    lookup: Lookup<'a>,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn read<T>(
        &mut self,
        text: Option<&Text>,
        variable: &'static str,
        check: impl Fn(Written<'_>, &mut Findings) -> Option<T>,
    ) -> Option<T> {
        let of_file = text.and_then(|text| check(text.into(), self.findings));
        Variable::look_up(self.lookup, variable)
            .and_then(|variable| check(variable.written(), self.findings))
            .or(of_file)
    }
}

fn listeners(raw: &RawAgent, agent: &mut AgentConfig, reader: &mut Reader<'_>) {
    let mut taken: Vec<Listener> = Vec::new();
    let variable = Variable::look_up(reader.lookup, environment::ADMIN);
    let of_file = raw.admin.as_ref().map(|texts| {
        let written = texts.iter().map(Written::from);
        admin_addresses(written, reader.findings)
    });
    let of_environment =
        variable.map(|variable| admin_addresses(variable.entries(), reader.findings));
    if let Some(admin) = of_environment.or(of_file) {
        agent.admin = admin.iter().map(|(address, _)| address.clone()).collect();
        taken = admin;
    } else {
        let defaults = agent.admin.iter().cloned();
        taken.extend(defaults.map(|address| (address, Place::WholeFile)));
    }

    let metrics = reader.read(
        raw.metrics.as_ref(),
        environment::METRICS,
        |written, findings| {
            let parsed: Option<Metrics> =
                listener(written, "metrics address", "IP:PORT or none", findings);
            parsed.map(|metrics| (metrics, written.place))
        },
    );
    let (metrics, place) = metrics.unwrap_or((agent.metrics, Place::WholeFile));
    agent.metrics = metrics;
    if let Metrics::On(address) = metrics {
        refuse_collision(
            &taken,
            &(AdminAddress::Tcp(address), place),
            reader.findings,
        );
    }
}

fn overflow(text: &Text, findings: &mut Findings) -> Overflow {
    if &*text.value == "auto" {
        return Overflow::Auto;
    }
    let Ok(address) = text.value.parse::<IpAddr>() else {
        findings.reject(
            text.spot,
            format!(
                "overflow {:?} is neither auto nor an IP address",
                text.value
            ),
            "write auto, or an IP address (no port) that clients on this node can reach",
        );
        return Overflow::Auto;
    };
    if address.is_unspecified() || address.is_multicast() || address.is_loopback() {
        findings.reject(
            text.spot,
            format!(
                "overflow {address} is not an address that clients in other network namespaces \
                 can reach"
            ),
            "write auto, or an address of one of this node's interfaces",
        );
    }
    findings.warn(
        text.spot,
        "overflow has no effect in this version: a connection that finds no available backend \
         is refused",
        "remove the key, or leave it for a later version",
    );
    address.to_canonical().into()
}

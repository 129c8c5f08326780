//! The agent's own settings: where it attaches, pins, listens and logs.
//!
//! Owns the keys under `agent:`, their environment variables and their flags. Refuses relative
//! paths and two listeners on one address. Nothing here opens, binds or creates anything.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::environment::{self, Lookup, Variable};
use super::problem::{Findings, Place};
use super::raw::{RawAgent, Text};
use super::value::{self, Written};
use crate::model::{AddressFault, parse_address, words};

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
    /// The address on which the agent takes overflow.
    pub overflow: Overflow,
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

/// One address of the admin API: `unix:PATH` or `IP:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum AdminAddress {
    /// A unix socket at an absolute path.
    Unix(PathBuf),
    /// A TCP address. Port 0 is any free port.
    Tcp(SocketAddr),
}

/// Bytes in the path of a unix socket, the closing zero not counted (`sun_path` in unix(7)).
const MAX_SOCKET_PATH_BYTES: usize = 107;

impl FromStr for AdminAddress {
    type Err = ListenFault;

    fn from_str(text: &str) -> Result<Self, ListenFault> {
        let Some(path) = text.strip_prefix("unix:") else {
            return listen_address(text).map(Self::Tcp);
        };
        if !Path::new(path).is_absolute() || path.contains('\0') {
            Err(ListenFault::RelativePath)
        } else if path.len() > MAX_SOCKET_PATH_BYTES {
            Err(ListenFault::LongPath(path.len()))
        } else {
            Ok(Self::Unix(PathBuf::from(path)))
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(out, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(out),
        }
    }
}

/// Where metrics are served besides the admin API: `IP:PORT` or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Metrics {
    /// Only on the admin API.
    Off,
    /// On this address too. Port 0 is any free port.
    On(SocketAddr),
}

impl FromStr for Metrics {
    type Err = ListenFault;

    fn from_str(text: &str) -> Result<Self, ListenFault> {
        match text {
            "none" => Ok(Self::Off),
            text => listen_address(text).map(Self::On),
        }
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => out.write_str("none"),
            Self::On(address) => address.fmt(out),
        }
    }
}

/// Why a text is no address to listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ListenFault {
    /// Neither a unix socket nor an IP address and port.
    #[error("{0}")]
    Address(#[from] AddressFault),
    /// A unix socket needs an absolute path.
    #[error("the path after `unix:` is not absolute")]
    RelativePath,
    /// The kernel has no room for it.
    #[error("its path has {0} bytes, and a socket's has at most {MAX_SOCKET_PATH_BYTES}")]
    LongPath(usize),
}

fn listen_address(text: &str) -> Result<SocketAddr, ListenFault> {
    let address = parse_address(text)?;
    if address.ip().is_multicast() {
        return Err(AddressFault::Multicast.into());
    }
    Ok(address)
}

/// The address on which the agent takes overflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overflow {
    /// The agent finds one that clients on this node can reach.
    #[default]
    Auto,
    /// This one.
    Address(IpAddr),
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

/// A listener that has been read, for finding two on one address.
type Listener = (AdminAddress, Place);

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

fn admin_addresses<'a>(
    entries: impl Iterator<Item = Written<'a>>,
    findings: &mut Findings,
) -> Vec<Listener> {
    let mut admin: Vec<Listener> = Vec::new();
    for written in entries {
        let hint = "unix:/ABSOLUTE/PATH or IP:PORT";
        if let Some(address) = listener(written, "admin address", hint, findings) {
            let new = (address, written.place);
            refuse_collision(&admin, &new, findings);
            admin.push(new);
        }
    }
    admin
}

fn listener<T: FromStr<Err = ListenFault>>(
    written: Written<'_>,
    what: &str,
    shape: &str,
    findings: &mut Findings,
) -> Option<T> {
    let Written { text, place } = written;
    text.parse()
        .map_err(|fault: ListenFault| {
            findings.reject(
                place,
                format!("{text:?} cannot be an address to listen on ({what}): {fault}"),
                format!("write {shape}"),
            );
        })
        .ok()
}

fn refuse_collision(taken: &[Listener], new: &Listener, findings: &mut Findings) {
    let (address, place) = new;
    if let Some((other, _)) = taken.iter().find(|(other, _)| collide(other, address)) {
        findings.reject(
            *place,
            format!("{address} cannot be listened on beside {other}"),
            "give every listener an address or port of its own",
        );
    }
}

/// Whether binding both at once must fail.
fn collide(one: &AdminAddress, other: &AdminAddress) -> bool {
    match (one, other) {
        (AdminAddress::Tcp(one), AdminAddress::Tcp(other)) => {
            let any = one.ip().is_unspecified() || other.ip().is_unspecified();
            one.port() != 0 && one.port() == other.port() && (any || one.ip() == other.ip())
        }
        (one, other) => one == other,
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
            format!("overflow {address} is not an address that clients in other network namespaces can reach"),
            "write auto, or an address of one of this node's interfaces",
        );
    }
    findings.warn(
        text.spot,
        "overflow has no effect in this version: a connection that finds no available backend is refused",
        "remove the key, or leave it for a later version",
    );
    Overflow::Address(address.to_canonical())
}

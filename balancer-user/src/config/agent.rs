//! The agent's own settings: where it attaches, pins, listens and logs, and how it works.
//!
//! Owns the keys under `agent:`, their environment variables and their flags. Refuses relative
//! paths and addresses out of reach. Nothing here opens, binds or creates anything.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::environment::{self, Lookup, Variable};
use super::listen::{AdminAddress, Listener, Metrics, admin_addresses, listener, refuse_collision};
use super::overflow::{self, Overflow};
use super::problem::{Findings, Place};
use super::raw::{RawAgent, RawProbes, Text};
use super::value::{self, Written};
use crate::model::words;

/// The agent's settings, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentConfig {
    /// The name of the node that the agent runs on; none: the host name.
    pub node: Option<Arc<str>>,
    /// The zone of that node; none: it is in no zone.
    pub zone: Option<Arc<str>>,
    /// The cgroup whose processes are balanced; none: the root of the unified hierarchy, found.
    pub cgroup: Option<PathBuf>,
    /// The cgroup that all pods are in; none: found.
    pub pods_cgroup: Option<PathBuf>,
    /// Cgroups whose processes are never steered: absolute, or below the root of the hierarchy.
    pub bypass_cgroups: Vec<PathBuf>,
    /// The directory, on a bpffs, where programs and maps are pinned.
    pub pin_path: PathBuf,
    /// Where the admin API listens. May be empty.
    pub admin: Vec<AdminAddress>,
    /// The file with the token for changes over TCP; none: there are none.
    pub admin_token_file: Option<PathBuf>,
    /// Where metrics are served besides the admin API.
    pub metrics: Metrics,
    /// The addresses on which the agent takes overflow.
    pub overflow: Overflow,
    /// Threads that forward overflow; none: one for every two CPUs.
    pub workers: Option<usize>,
    /// What holds for all probes.
    pub probes: ProbeConfig,
    /// Entries in any cache at most.
    pub cache_max_size: usize,
    /// Whether metrics are collected and served.
    pub collect_metrics: bool,
    /// How often endpoints are read again although nothing seems to have changed.
    pub resync: Duration,
    /// How long what the agent forwards may take to finish when the agent ends.
    pub shutdown_timeout: Duration,
    /// What the agent logs at first.
    pub log: LogConfig,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            node: None,
            zone: None,
            cgroup: None,
            pods_cgroup: None,
            bypass_cgroups: Vec::new(),
            pin_path: PathBuf::from("/sys/fs/bpf/idlefirst"),
            admin: vec![
                AdminAddress::Unix(PathBuf::from("/run/idlefirst/admin.sock")),
                AdminAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], 9090))),
            ],
            admin_token_file: None,
            metrics: Metrics::On(SocketAddr::from(([0, 0, 0, 0], 9102))),
            overflow: Overflow::Auto,
            workers: None,
            probes: ProbeConfig::default(),
            cache_max_size: 10_000,
            collect_metrics: true,
            resync: Duration::from_secs(30),
            shutdown_timeout: Duration::from_secs(20),
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

/// Settings from the command line. What is set here wins over environment and file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Instead of `agent.cgroup`.
    pub cgroup: Option<PathBuf>,
    /// Instead of `agent.pin_path`.
    pub pin_path: Option<PathBuf>,
    /// Instead of `agent.admin`, the whole list.
    pub admin: Option<Vec<AdminAddress>>,
    /// Instead of `agent.admin_token_file`.
    pub admin_token_file: Option<PathBuf>,
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
        if overrides.admin_token_file.is_some() {
            self.admin_token_file
                .clone_from(&overrides.admin_token_file);
        }
        put(&mut self.pin_path, &overrides.pin_path);
        put(&mut self.admin, &overrides.admin);
        put(&mut self.metrics, &overrides.metrics);
        put(&mut self.log.level, &overrides.log_level);
        put(&mut self.log.format, &overrides.log_format);
    }
}

/// Threads that forward.
const WORKERS: RangeInclusive<u32> = 1..=256;
/// Probes at once.
const PROBES_AT_ONCE: RangeInclusive<u32> = 1..=10_000;
/// Entries in a cache.
const CACHE_SIZES: RangeInclusive<u32> = 1..=10_000_000;
const CACHE_TTLS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const SHUTDOWN_TIMEOUTS: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(3600);
const RESYNCS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(86_400);

/// Checks `agent:` and the variables that stand in for its keys.
pub(crate) fn check(raw: &RawAgent, lookup: Lookup<'_>, findings: &mut Findings) -> AgentConfig {
    let mut agent = AgentConfig::default();
    let log = raw.log.as_ref();
    let level = log.and_then(|log| log.level.as_ref());
    let format = log.and_then(|log| log.format.as_ref());
    let mut reader = Reader { lookup, findings };

    let node =
        |written: Written<'_>, findings: &mut Findings| value::location(written, "node", findings);
    agent.node = reader.read(raw.node.as_ref(), environment::NODE, node);
    let zone =
        |written: Written<'_>, findings: &mut Findings| value::location(written, "zone", findings);
    agent.zone = reader.read(raw.zone.as_ref(), environment::ZONE, zone);
    let cgroup =
        |written: Written<'_>, findings: &mut Findings| value::path(written, "cgroup", findings);
    agent.cgroup = reader.read(raw.cgroup.as_ref(), environment::CGROUP, cgroup);
    let pin_path =
        |written: Written<'_>, findings: &mut Findings| value::path(written, "pin_path", findings);
    if let Some(path) = reader.read(raw.pin_path.as_ref(), environment::PIN_PATH, pin_path) {
        agent.pin_path = path;
    }
    agent.admin_token_file = reader.read(
        raw.admin_token_file.as_ref(),
        environment::ADMIN_TOKEN_FILE,
        |written, findings| value::path(written, "admin_token_file", findings),
    );
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
    let findings = &mut *reader.findings;
    let pods_cgroup = raw.pods_cgroup.as_ref();
    agent.pods_cgroup =
        pods_cgroup.and_then(|text| value::path(text.into(), "pods_cgroup", findings));
    let bypassing = raw.bypass_cgroups.iter().flatten();
    let bypassing = bypassing.filter_map(|text| value::cgroup(text.into(), findings));
    agent.bypass_cgroups = bypassing.collect();
    listeners(raw, &mut agent, &mut reader);
    forwarding(raw, &mut agent, &mut reader);
    probes(raw, &mut agent, &mut reader);
    upkeep(raw, &mut agent, &mut reader);
    agent
}

fn forwarding(raw: &RawAgent, agent: &mut AgentConfig, reader: &mut Reader<'_>) {
    if let Some(workers) = &raw.workers {
        let workers = value::count(workers.into(), "workers", WORKERS, reader.findings);
        agent.workers = workers.map(|workers| workers as usize);
    }
    if let Some(raw) = &raw.overflow {
        agent.overflow = overflow::check(raw, reader.findings);
    }
}

fn probes(raw: &RawAgent, agent: &mut AgentConfig, reader: &mut Reader<'_>) {
    let silent = RawProbes::default();
    let raw = raw.health_checks.as_ref().unwrap_or(&silent);
    let probes = &mut agent.probes;
    let enabled = reader.read(
        raw.enabled.as_ref(),
        environment::PROBES_ENABLED,
        |written, findings| value::switch(written, "enabled", findings),
    );
    let at_once = reader.read(
        raw.at_once.as_ref(),
        environment::PROBES_AT_ONCE,
        |written, findings| value::count(written, "at_once", PROBES_AT_ONCE, findings),
    );
    let cache_ttl = reader.read_two(
        raw.cache_ttl.as_ref(),
        |written, findings| value::duration(written, "cache_ttl", CACHE_TTLS, findings),
        environment::PROBES_CACHE_TTL,
        |written, findings| value::seconds(written, environment::VALUE, CACHE_TTLS, findings),
    );
    probes.enabled = enabled.unwrap_or(probes.enabled);
    probes.at_once = at_once.map_or(probes.at_once, |probes| probes as usize);
    probes.cache_ttl = cache_ttl.unwrap_or(probes.cache_ttl);
}

fn upkeep(raw: &RawAgent, agent: &mut AgentConfig, reader: &mut Reader<'_>) {
    let entries = reader.read(
        raw.cache_max_size.as_ref(),
        environment::CACHE_MAX_SIZE,
        |written, findings| value::count(written, "cache_max_size", CACHE_SIZES, findings),
    );
    let collect = reader.read(
        raw.metrics_collection.as_ref(),
        environment::METRICS_COLLECTION,
        |written, findings| value::switch(written, "metrics_collection", findings),
    );
    let resync = reader.read_two(
        raw.resync.as_ref(),
        |written, findings| value::duration(written, "resync", RESYNCS, findings),
        environment::RESYNC,
        |written, findings| value::seconds(written, environment::VALUE, RESYNCS, findings),
    );
    agent.cache_max_size = entries.map_or(agent.cache_max_size, |entries| entries as usize);
    agent.collect_metrics = collect.unwrap_or(agent.collect_metrics);
    agent.resync = resync.unwrap_or(agent.resync);
    let written = raw.shutdown_timeout.as_ref();
    let timeout = written.and_then(|text| {
        let key = "shutdown_timeout";
        value::duration(text.into(), key, SHUTDOWN_TIMEOUTS, reader.findings)
    });
    agent.shutdown_timeout = timeout.unwrap_or(agent.shutdown_timeout);
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
        self.read_two(text, &check, variable, &check)
    }

    /// Reads a setting that is written in another way in the environment.
    fn read_two<T>(
        &mut self,
        text: Option<&Text>,
        check: impl Fn(Written<'_>, &mut Findings) -> Option<T>,
        variable: &'static str,
        check_variable: impl Fn(Written<'_>, &mut Findings) -> Option<T>,
    ) -> Option<T> {
        let of_file = text.and_then(|text| check(text.into(), self.findings));
        Variable::look_up(self.lookup, variable)
            .and_then(|variable| check_variable(variable.written(), self.findings))
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

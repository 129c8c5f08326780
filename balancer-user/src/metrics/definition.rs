//! Names, kinds, labels and meanings of the metrics: the one table, and the page made from it.

use std::fmt::Write;

use super::MAX_SHOWN;

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only up, until the agent starts again.
    Counter,
    /// Up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Its name.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Definition {
    Definition {
        name,
        kind,
        labels,
        help,
    }
}

const SERVICE: &[&str] = &["namespace", "service"];

pub(super) const BUILD_INFO: Definition = metric(
    "idlefirst_build_info",
    Kind::Gauge,
    &["version", "map_abi", "kernel"],
    "Always 1; the labels say what runs.",
);
pub(super) const READY: Definition = metric(
    "idlefirst_ready",
    Kind::Gauge,
    &[],
    "1 while the programs are attached, else 0.",
);
pub(super) const UPTIME: Definition = metric(
    "idlefirst_uptime_seconds",
    Kind::Gauge,
    &[],
    "Since the agent started.",
);
pub(super) const SERVICES: Definition = metric(
    "idlefirst_services",
    Kind::Gauge,
    &[],
    "Services in the kernel.",
);
pub(super) const BACKENDS: Definition = metric(
    "idlefirst_backends",
    Kind::Gauge,
    &["state"],
    "Distinct backends by state: idle, busy, full, unhealthy, ejected or draining.",
);
pub(super) const SERVICE_BACKENDS: Definition = metric(
    "idlefirst_service_backends",
    Kind::Gauge,
    &["namespace", "service", "state"],
    "Backends of a service by state, as above.",
);
pub(super) const SERVICE_INFLIGHT: Definition = metric(
    "idlefirst_service_inflight",
    Kind::Gauge,
    SERVICE,
    "Slots taken on the backends of a service. A backend of two services counts in both.",
);
pub(super) const CONNECTS: Definition = metric(
    "idlefirst_connects_total",
    Kind::Counter,
    &["namespace", "service", "result"],
    "Connects to a service by result: idle (steered to an idle backend), shared (steered to one \
     that was serving already), refused (none was available), no_backends (it has none).",
);
pub(super) const CONNECT_FAILURES: Definition = metric(
    "idlefirst_connect_failures_total",
    Kind::Counter,
    SERVICE,
    "Steered connects that were never established.",
);
pub(super) const SLOTS_RELEASED: Definition = metric(
    "idlefirst_slots_released_total",
    Kind::Counter,
    SERVICE,
    "Slots given back by connections to a service.",
);
pub(super) const BACKEND_INFLIGHT: Definition = metric(
    "idlefirst_backend_inflight",
    Kind::Gauge,
    &["backend"],
    "Slots taken on a backend.",
);
pub(super) const BACKEND_GRANTED: Definition = metric(
    "idlefirst_backend_granted",
    Kind::Gauge,
    &["backend"],
    "Slots of a backend that this node may hand out; absent if there is no limit.",
);
pub(super) const BACKEND_STEERED: Definition = metric(
    "idlefirst_backend_steered_total",
    Kind::Counter,
    &["backend"],
    "Connects steered to a backend.",
);
pub(super) const FAULTS: Definition = metric(
    "idlefirst_faults_total",
    Kind::Counter,
    &["reason"],
    "What the eBPF programs could not do, by reason. Anything but contended deserves a look.",
);
pub(super) const DECISION: Definition = metric(
    "idlefirst_decision_duration_seconds",
    Kind::Histogram,
    &[],
    "Time that a connect program took to choose a backend, of one connect in 64. The sum is an \
     estimate, from the middle of each bucket of the kernel's finer histogram.",
);
pub(super) const PROGRAM_RUN_SECONDS: Definition = metric(
    "idlefirst_program_run_seconds_total",
    Kind::Counter,
    &["program"],
    "Time spent in an eBPF program. Counts only while kernel.bpf_stats_enabled is 1.",
);
pub(super) const PROGRAM_RUNS: Definition = metric(
    "idlefirst_program_runs_total",
    Kind::Counter,
    &["program"],
    "Runs of an eBPF program. Counts only while kernel.bpf_stats_enabled is 1.",
);
pub(super) const MAP_ENTRIES: Definition = metric(
    "idlefirst_map_entries",
    Kind::Gauge,
    &["map"],
    "Entries in use of FRONTENDS, SERVICES, LEAVES and BACKENDS.",
);
pub(super) const MAP_CAPACITY: Definition = metric(
    "idlefirst_map_capacity",
    Kind::Gauge,
    &["map"],
    "Entries that those maps have room for.",
);
pub(super) const CONFIG_GENERATION: Definition = metric(
    "idlefirst_config_generation",
    Kind::Gauge,
    &["stage"],
    "Newest configuration that was accepted, and newest that is in the kernel. Apart for longer \
     than a moment: see the agent's log.",
);
pub(super) const CONFIG_ACCEPTED: Definition = metric(
    "idlefirst_config_accepted_timestamp_seconds",
    Kind::Gauge,
    &[],
    "When the newest configuration was accepted, in seconds since 1970.",
);
pub(super) const CONFIG_REJECTED: Definition = metric(
    "idlefirst_config_rejected_total",
    Kind::Counter,
    &[],
    "Changes of the configuration that were rejected.",
);
pub(super) const OMITTED: Definition = metric(
    "idlefirst_metrics_omitted",
    Kind::Gauge,
    &["kind"],
    "Services and backends beyond the bound, which have no metrics of their own.",
);

/// Every metric, in the order in which they are served.
pub const METRICS: &[Definition] = &[
    BUILD_INFO,
    READY,
    UPTIME,
    SERVICES,
    BACKENDS,
    SERVICE_BACKENDS,
    SERVICE_INFLIGHT,
    CONNECTS,
    CONNECT_FAILURES,
    SLOTS_RELEASED,
    BACKEND_INFLIGHT,
    BACKEND_GRANTED,
    BACKEND_STEERED,
    FAULTS,
    DECISION,
    PROGRAM_RUN_SECONDS,
    PROGRAM_RUNS,
    MAP_ENTRIES,
    MAP_CAPACITY,
    CONFIG_GENERATION,
    CONFIG_ACCEPTED,
    CONFIG_REJECTED,
    OMITTED,
];

/// The page on metrics: `docs/metrics.md`.
pub fn reference_markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    let bound = format!(
        "Labels are bounded: the first {MAX_SHOWN} services by name and the first {MAX_SHOWN} \
         backends by address have\nmetrics of their own; `idlefirst_metrics_omitted` says how many \
         have not. `idlefirst_backends`\ncounts all of them.\n\n"
    );
    out.push_str(&bound);
    out.push_str("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for metric in METRICS {
        let labels: Vec<_> = metric
            .labels
            .iter()
            .map(|label| format!("`{label}`"))
            .collect();
        writeln!(
            out,
            "| `{}` | {} | {} | {} |",
            metric.name,
            metric.kind.as_str(),
            labels.join(", "),
            metric.help
        )
        .expect("writing to a String cannot fail");
    }
    out
}

const INTRODUCTION: &str = "\
# Metrics

<!-- Generated from balancer-user/src/metrics/definition.rs. To change it, change that, then run:
UPDATE_DOCS=1 cargo test -p balancer-user metrics -->

Prometheus text at `/metrics`, on every address of the admin API and on `agent.metrics`
(`0.0.0.0:9102` unless configured otherwise), where nothing else is served.

Every value is read from the kernel when it is asked for. Counters start at 0 with the agent, and
those of a service also when the service comes into the kernel anew.

";

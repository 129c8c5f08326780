//! Names, kinds, labels and meanings of the metrics: the one table, and the page made from it.

use std::fmt::Write;

use super::MAX_SHOWN;
use crate::health;

/// How a metric moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only up, until the agent starts again.
    Counter,
    /// Up and down.
    Gauge,
    /// Counts by size.
    Histogram,
    /// Quantiles.
    Summary,
}

impl Kind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
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
const FUNCTION: &[&str] = &["function", "namespace"];

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
     that was serving already), trial (steered to one whose breaker was half-open), over_admitted \
     (steered to a full one because the agent was gone), sent (sent to the agent), queue_full, \
     rate_limited, agent_gone and no_backends (refused).",
);
pub(super) const CONNECT_FAILURES: Definition = metric(
    "idlefirst_connect_failures_total",
    Kind::Counter,
    SERVICE,
    "Steered connects that were never established.",
);
pub(super) const EJECTIONS: Definition = metric(
    "idlefirst_ejections_total",
    Kind::Counter,
    SERVICE,
    "Backends that the programs shut out because too many connects to the service failed in a row.",
);
pub(super) const STRATEGY_IN_FORCE: Definition = metric(
    "idlefirst_strategy_in_force",
    Kind::Gauge,
    &["function", "namespace", "strategy"],
    "Always 1; the label strategy says how a backend of a service is picked now: with strategy \
     adaptive, one of the others.",
);
pub(super) const FAILOVERS: Definition = metric(
    "idlefirst_failovers_total",
    Kind::Counter,
    FUNCTION,
    "Leaders of a service that were lost and replaced, each counted when the first connection to the \
     new one stands. Of services with strategy leader.",
);
pub(super) const FAILOVER_TIME: Definition = metric(
    "idlefirst_failover_duration_seconds",
    Kind::Histogram,
    FUNCTION,
    "Time from the loss of a service's leader to the first connection to the new one.",
);
pub(super) const REQUESTS: Definition = metric(
    "idlefirst_requests_total",
    Kind::Counter,
    SERVICE,
    "Requests: connections, or with admission request, HTTP requests. Those that were decided on \
     in the kernel and those that came to the agent.",
);
pub(super) const SELECTIONS: Definition = metric(
    "idlefirst_successful_selections_total",
    Kind::Counter,
    SERVICE,
    "Requests for which a backend was selected, in the kernel or by the agent.",
);
pub(super) const QUEUED: Definition = metric(
    "idlefirst_queued_total",
    Kind::Counter,
    SERVICE,
    "Requests that had to wait for a slot.",
);
pub(super) const RETRIES: Definition = metric(
    "idlefirst_retries_total",
    Kind::Counter,
    SERVICE,
    "Attempts of the agent at upstream connections after the first.",
);
pub(super) const REFUSALS: Definition = metric(
    "idlefirst_refusals_total",
    Kind::Counter,
    &["namespace", "service", "reason"],
    "Requests that were refused, in the kernel or by the agent: queue-full, queue-timeout, \
     retries-exhausted, no-backends, breaker-open, rate-limited or agent-gone.",
);
pub(super) const SELECTION_TIME: Definition = metric(
    "idlefirst_selection_seconds",
    Kind::Summary,
    SERVICE,
    "Time from a request's arrival to the selection of a backend, of successful selections since \
     the service's first. The average is the sum over the count. For those in the kernel see \
     idlefirst_decision_duration_seconds.",
);
pub(super) const QUEUE_TIME: Definition = metric(
    "idlefirst_queue_seconds",
    Kind::Summary,
    SERVICE,
    "Time in the queue, of those that had to wait, whatever became of them.",
);
pub(super) const ACTIVE_QUEUES: Definition = metric(
    "idlefirst_active_queues",
    Kind::Gauge,
    &[],
    "Services for which anyone waits.",
);
pub(super) const WAITERS: Definition = metric(
    "idlefirst_waiters",
    Kind::Gauge,
    SERVICE,
    "Requests in a service's queue, and on their way to it.",
);
pub(super) const QUEUE_SIZE: Definition = metric(
    "idlefirst_queue_size",
    Kind::Gauge,
    SERVICE,
    "Requests that may wait for a slot of a service.",
);
pub(super) const QUEUE_DEPTH: Definition = metric(
    "openfaas_queue_depth",
    Kind::Gauge,
    FUNCTION,
    "Requests in a function's queue, and on their way to it: idlefirst_waiters by another name.",
);
pub(super) const POD_SELECTION: Definition = metric(
    "openfaas_pod_selection_duration_seconds",
    Kind::Histogram,
    &["function", "namespace", "result"],
    "Time that it took to select a pod for a request (result success) or to refuse it (failure). \
     Selections in the kernel are in the lowest bucket; their sum is their number times the mean \
     of idlefirst_decision_duration_seconds.",
);
pub(super) const HEALTH_CHECK: Definition = metric(
    health::DURATION_NAME,
    Kind::Histogram,
    &health::DURATION_LABELS,
    health::DURATION_HELP,
);
pub(super) const PROBES: Definition = metric(
    "idlefirst_probes_total",
    Kind::Counter,
    &["result"],
    "Health probes by result: success, failure, or fault (it could not be made, which says nothing \
     about a backend).",
);
pub(super) const CACHE_LOOKUPS: Definition = metric(
    "idlefirst_cache_lookups_total",
    Kind::Counter,
    &["cache", "result"],
    "Look-ups by result (hit or miss) in the caches health, stats and routing, and in the pool of \
     the probes' connections, probe_pool.",
);
pub(super) const CACHE_HIT_RATE: Definition = metric(
    "idlefirst_cache_hit_ratio",
    Kind::Gauge,
    &["cache"],
    "Hits over look-ups of those caches, since the start; 0 before the first look-up.",
);
pub(super) const CACHE_ENTRIES: Definition = metric(
    "idlefirst_cache_entries",
    Kind::Gauge,
    &["cache"],
    "Entries in those caches.",
);
pub(super) const EVENTS: Definition = metric(
    "idlefirst_events_total",
    Kind::Counter,
    &["kind"],
    "What /v1/events tells, by kind, whether or not anyone listens; without refusals and steering \
     decisions, which have counters of their own.",
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
pub(super) const BACKEND_UTILISATION: Definition = metric(
    "idlefirst_backend_utilisation_ratio",
    Kind::Gauge,
    &["backend"],
    "Slots taken over slots granted, of a backend that has a limit. Backends beyond the bound \
     appear together, as other.",
);
pub(super) const BACKEND_STEERED: Definition = metric(
    "idlefirst_backend_steered_total",
    Kind::Counter,
    &["backend"],
    "Connects steered to a backend.",
);
pub(super) const BACKEND_RESPONSE_TIME: Definition = metric(
    "idlefirst_backend_response_time_seconds",
    Kind::Gauge,
    &["backend"],
    "Moving average of a backend's response time: from the first byte of a request to the first \
     of its response. Absent until it is measured, which it is for services with strategy \
     least-response-time or adaptive.",
);
pub(super) const FAULTS: Definition = metric(
    "idlefirst_faults_total",
    Kind::Counter,
    &["reason"],
    "What the eBPF programs could not do, by reason. Anything but contended deserves a look. \
     event_lost counts losses of the ring buffer EVENTS.",
);
pub(super) const DRIFT: Definition = metric(
    "idlefirst_drift_total",
    Kind::Counter,
    &[],
    "Slots by which backends' counts were found to be wrong by an audit, which corrects them. \
     Anything but 0 is a fault of Idlefirst.",
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
    "Time spent in an eBPF program. Counts only while kernel.bpf_stats_enabled is 1, or something holds BPF_ENABLE_STATS.",
);
pub(super) const PROGRAM_RUNS: Definition = metric(
    "idlefirst_program_runs_total",
    Kind::Counter,
    &["program"],
    "Runs of an eBPF program. Counts only while kernel.bpf_stats_enabled is 1, or something holds BPF_ENABLE_STATS.",
);
pub(super) const MAP_ENTRIES: Definition = metric(
    "idlefirst_map_entries",
    Kind::Gauge,
    &["map"],
    "Entries in use of FRONTENDS, SERVICES, LEAVES, BACKENDS, TABLES, AFFINITY and OVERFLOW_FLOWS.",
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
pub(super) const API_WATCH_UP: Definition = metric(
    "idlefirst_api_watch_up",
    Kind::Gauge,
    &["kind"],
    "1 while all watches of a kind of objects of the Kubernetes API work, 0 while one of them keeps \
     failing or has not told everything yet: what has changed since is not known.",
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
    ACTIVE_QUEUES,
    QUEUE_DEPTH,
    POD_SELECTION,
    HEALTH_CHECK,
    SERVICE_BACKENDS,
    SERVICE_INFLIGHT,
    CONNECTS,
    CONNECT_FAILURES,
    EJECTIONS,
    SLOTS_RELEASED,
    STRATEGY_IN_FORCE,
    FAILOVERS,
    FAILOVER_TIME,
    REQUESTS,
    SELECTIONS,
    QUEUED,
    RETRIES,
    REFUSALS,
    WAITERS,
    QUEUE_SIZE,
    SELECTION_TIME,
    QUEUE_TIME,
    BACKEND_INFLIGHT,
    BACKEND_GRANTED,
    BACKEND_UTILISATION,
    BACKEND_STEERED,
    BACKEND_RESPONSE_TIME,
    PROBES,
    CACHE_LOOKUPS,
    CACHE_HIT_RATE,
    CACHE_ENTRIES,
    EVENTS,
    DRIFT,
    FAULTS,
    DECISION,
    PROGRAM_RUN_SECONDS,
    PROGRAM_RUNS,
    MAP_ENTRIES,
    MAP_CAPACITY,
    CONFIG_GENERATION,
    CONFIG_ACCEPTED,
    CONFIG_REJECTED,
    API_WATCH_UP,
    OMITTED,
];

/// The page on metrics: `docs/metrics.md`.
pub fn reference_markdown() -> String {
    let mut out = String::from(INTRODUCTION);
    let bound = format!(
        "Labels are bounded: the first {MAX_SHOWN} services by name, the first {MAX_SHOWN} backends \
         by address and {} pods that\nare probed have metrics of their own; \
         `idlefirst_metrics_omitted` says how many services and backends have\nnot. \
         `idlefirst_backends` and `idlefirst_active_queues` count all of them.\n\n",
        health::MAX_POD_IPS
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
(`0.0.0.0:9102` unless configured otherwise), where nothing else is served. With
`agent.metrics_collection: false` it is served nowhere.

The names that begin with `openfaas_` are those that dashboards for OpenFaaS query; a function is a
service.

Every value is read when it is asked for: from the kernel what the kernel decides, from the agent
what comes to the agent. Counters start at 0 with the agent, and those of a service also when the
service comes into the kernel anew.

";

//! The keys under `agent:`; see [`super`].

use super::{LOCATION, PATH, SWITCH};
use crate::config::{
    environment,
    key::{Section, key},
};

pub(super) const AGENT: Section = Section {
    path: "agent",
    meaning: "The agent itself. A change of these needs a restart.",
    keys: &[
        key(
            "node",
            LOCATION,
            "null",
            "The name of the node that the agent runs on, as backends name theirs. Unset: the \
             host name.",
        )
        .or_variable(environment::NODE),
        key(
            "zone",
            LOCATION,
            "null",
            "The zone of that node, as backends name theirs. Unset: no backend is in the agent's \
             zone.",
        )
        .or_variable(environment::ZONE),
        key(
            "cgroup",
            PATH,
            "null",
            "The cgroup (v2) whose processes are balanced. \
             Unset: the root of the unified hierarchy, which the agent finds.",
        )
        .or_variable(environment::CGROUP),
        key(
            "pods_cgroup",
            PATH,
            "null",
            "The cgroup that all pods are in: only connections from there to the own address of a \
             backend are steered (`intercept: pods`), so that kubelet probes reach the pod they \
             are for. Unset: kubepods, kubepods.slice or kubelet-kubepods.slice, found up to 4 \
             levels below `agent.cgroup`.",
        ),
        key(
            "bypass_cgroups",
            "list of paths",
            "[]",
            "Cgroups whose processes are never steered: absolute, or below the root of the \
             unified hierarchy.",
        ),
        key(
            "pin_path",
            PATH,
            "/sys/fs/bpf/idlefirst",
            "The directory on a bpffs where programs and maps are pinned.",
        )
        .or_variable(environment::PIN_PATH),
        key(
            "admin",
            "list of `unix:PATH`, `IP:PORT`",
            "[\"unix:/run/idlefirst/admin.sock\", \"127.0.0.1:9090\"]",
            "Where the admin API listens.",
        )
        .or_variable(environment::ADMIN),
        key(
            "admin_token_file",
            PATH,
            "null",
            "A file with the token that lets whoever sends it (`Authorization: Bearer TOKEN`) \
             change things over the admin API, be it over TCP: 16 to 1024 visible ASCII characters. \
             It is read whenever such a request comes, so a new token is in force at once. Unset: \
             only the unix socket's owner and root may, over that.",
        )
        .or_variable(environment::ADMIN_TOKEN_FILE),
        key(
            "metrics",
            "`IP:PORT`, `none`",
            "\"0.0.0.0:9102\"",
            "Where metrics are served besides the admin API.",
        )
        .or_variable(environment::METRICS),
        key(
            "metrics_collection",
            SWITCH,
            "true",
            "Whether metrics are collected and served at all.",
        )
        .or_variable(environment::METRICS_COLLECTION),
        key(
            "overflow",
            "`auto`, an IP address, list of one IPv4 and one IPv6 address",
            "auto",
            "The addresses of this node on which the agent takes connections that found no \
             available backend; clients must be able to reach them. A family without an address \
             has no overflow.",
        ),
        key(
            "workers",
            "1 to 256",
            "null",
            "Threads that forward overflow. Unset: one for every two CPUs.",
        ),
        key(
            "cache_max_size",
            "1 to 10000000",
            "10000",
            "Entries in any cache at most.",
        )
        .or_variable(environment::CACHE_MAX_SIZE),
        key(
            "resync",
            "`1s` to `24h`",
            "30s",
            "How often endpoints are read again although nothing seems to have changed.",
        )
        .or_variable(environment::RESYNC),
        key(
            "shutdown_timeout",
            "`0ms` to `1h`",
            "20s",
            "How long what the agent forwards may take to finish when the agent ends. It should be \
             less than whoever ends the agent waits.",
        ),
    ],
};

pub(super) const HEALTH_CHECKS: Section = Section {
    path: "agent.health_checks",
    meaning: "What holds for all probes together.",
    keys: &[
        key("enabled", SWITCH, "true", "Whether anything is probed.")
            .or_variable(environment::PROBES_ENABLED),
        key(
            "at_once",
            "1 to 10000",
            "50",
            "Probes under way at once at most.",
        )
        .or_variable(environment::PROBES_AT_ONCE),
        key(
            "cache_ttl",
            "`0ms` to `1h`",
            "5s",
            "How long a result holds for every service that shares the backend.",
        )
        .or_variable(environment::PROBES_CACHE_TTL),
    ],
};

pub(super) const LOG: Section = Section {
    path: "agent.log",
    meaning: "What the agent logs.",
    keys: &[
        key(
            "level",
            "`error`, `warn`, `info`, `debug`, `trace`",
            "info",
            "The least severe level that is logged.",
        )
        .or_variable(environment::LOG_LEVEL),
        key("format", "`text`, `json`", "text", "How a line looks.")
            .or_variable(environment::LOG_FORMAT),
    ],
};

//! Every key of the configuration, once: what it may be, what it is by default, what it does.
//!
//! The generated documentation and `idlefirst config defaults` are rendered from this table, and
//! a test holds it against what the reader accepts. Owns words only; the checks are elsewhere.

mod agent;

use super::environment;
use super::key::{Section, key, required, short};
use agent::{AGENT, HEALTH_CHECKS, LOG};

/// Kinds of values, said the same way everywhere.
const PATH: &str = "absolute path";
const ADDRESS: &str = "`IP:PORT`, `[IPv6]:PORT`";
const LOCATION: &str = "name, up to 253 visible ASCII characters";
const TOKEN: &str = "name, up to 128 characters of an HTTP token";
const SWITCH: &str = "`true`, `false`";
const ATTEMPTS: &str = "1 to 1000";
const QUEUE_SIZE: &str = "0 to 100000";

pub(crate) const SECTIONS: &[Section] = &[
    TOP,
    AGENT,
    HEALTH_CHECKS,
    LOG,
    DEFAULTS,
    HASH,
    AFFINITY,
    QUEUE,
    RATE_LIMIT,
    HEALTH,
    BREAKER,
    FUNCTIONS,
    SERVICES,
    BACKENDS,
];

const TOP: Section = Section {
    path: "",
    meaning: "The top of the file.",
    keys: &[key(
        "source",
        "`file`, `kubernetes`",
        "file",
        "Where services come from: this file, or the Kubernetes API. A change needs a restart.",
    )],
};

const DEFAULTS: Section = Section {
    path: "defaults",
    meaning: "What holds for services that say nothing themselves. Each of these keys, with the \
              mappings below it, may also stand in a service and in its entry under functions.",
    keys: &[
        key(
            "strategy",
            "`idle-first`, `least-connections`, `round-robin`, `weighted-round-robin`, `random`, \
             `p2c`, `least-response-time`, `consistent-hash`, `leader`, `adaptive`",
            "idle-first",
            "How a backend is picked among the available ones: an idle one, else the least loaded \
             of a few; the one with the fewest slots taken; the next in turn, or in a smooth turn \
             by weight; any; the less loaded of two random ones; the one with the lowest expected \
             response time; by the client (see hash), the same on every node; the one that has \
             been ready longest, until it goes; whichever of these fits what is measured.",
        )
        .or_variable(environment::STRATEGY),
        key(
            "hash",
            "`client`, `{header: NAME}`, `{cookie: NAME}`",
            "client",
            "What strategy consistent-hash hashes: where a connection comes from, or a part of a \
             request. The latter two need that strategy and admission request; where they are \
             only inherited and do not fit, they do not apply.",
        ),
        key(
            "affinity",
            "`none`, `{client: true, timeout: TIME, cookie: NAME}`",
            "none",
            "Whether a client stays with the backend that it first reached, while that is \
             available. Does not apply to strategy leader.",
        ),
        key(
            "locality",
            "`none`, `prefer-node`, `prefer-zone`",
            "none",
            "Whether available backends on the agent's own node, or in its own zone, come before \
             the others. Contradicts strategies consistent-hash and leader, which pick the same \
             backend on every node; where one of the two is inherited, locality does not apply.",
        ),
        key(
            "slow_start",
            "`0ms` to `1h`",
            "0ms",
            "How long a backend that joins a running service, or is healthy again, gets less than \
             its share; with 0 it gets its share at once. Contradicts strategy leader; where one \
             of the two is inherited, slow_start does not apply.",
        ),
        key(
            "intercept",
            "`service`, `pods`",
            "service",
            "What is steered to the service: what dials its frontends, or also what dials the own \
             address of one of its backends, if that comes from a pod (see `agent.pods_cgroup`). \
             A backend of several such services leads to the one whose name is the first.",
        ),
        key(
            "max_inflight",
            "0 to 1000000",
            "0",
            "Requests that one backend may serve at a time; 0 is unlimited. A backend of several \
             services has the tightest of their limits.",
        ),
        key(
            "admission",
            "`connection`, `request`",
            "connection",
            "What takes a slot: a connection until it ends, or (with protocol http only) one \
             request in flight.",
        ),
        key(
            "protocol",
            "`tcp`, `http`",
            "tcp",
            "What is spoken over the connections.",
        ),
        key(
            "on_agent_loss",
            "`over-admit`, `refuse`",
            "over-admit",
            "What happens to overflow while the agent is gone: it goes to the least loaded \
             healthy backend, even if that is full, or it is refused.",
        ),
        key(
            "rate_limit",
            "`none`, `{per_second: NUMBER, burst: NUMBER}`",
            "none",
            "The rate beyond which connections (with admission request: requests) are refused.",
        ),
    ],
};

const HASH: Section = Section {
    path: "defaults.hash",
    meaning: "The part of a request that is hashed: one of these. A request without it goes by \
              where it comes from. It is one setting, as is rate_limit.",
    keys: &[
        key(
            "header",
            TOKEN,
            "null",
            "The request header whose value is hashed.",
        ),
        key("cookie", TOKEN, "null", "The cookie whose value is hashed."),
    ],
};

const AFFINITY: Section = Section {
    path: "defaults.affinity",
    meaning: "Sticky sessions. A backend that is full or gone breaks the bond, and the next one \
              begins another. It is one setting: a mapping replaces that of a layer below as a \
              whole.",
    keys: &[
        key(
            "client",
            SWITCH,
            "true",
            "Whether clients stay at all; `false` is the same as `affinity: none`.",
        ),
        key(
            "timeout",
            "`1s` to `24h`",
            "10m",
            "How long a backend is remembered after its client's last use of it.",
        ),
        key(
            "cookie",
            TOKEN,
            "null",
            "The cookie that the agent issues to tell clients apart, with admission request only; \
             where it is only inherited and does not fit, it does not apply. Unset: a client is \
             where it connects from.",
        ),
    ],
};

const QUEUE: Section = Section {
    path: "defaults.queue",
    meaning: "Where what finds no available backend waits: first come, first served.",
    keys: &[
        key(
            "size",
            QUEUE_SIZE,
            "10",
            "Waiters at most; with 0 nobody waits.",
        )
        .or_variable(environment::QUEUE_SIZE),
        key(
            "timeout",
            "`0ms` to `1h`, `auto`",
            "100ms",
            "Waiting time at most; `auto` follows the measured service time.",
        )
        .or_variable(environment::QUEUE_TIMEOUT),
        key(
            "attempts",
            ATTEMPTS,
            "10",
            "Attempts to reach a backend at most.",
        )
        .or_variable(environment::QUEUE_ATTEMPTS),
        short("retries", ATTEMPTS, "queue.attempts"),
        key(
            "tick",
            "`1ms` to `1s`",
            "10ms",
            "How often waiters look for a slot unasked: a net only, since a freed slot wakes the \
             first waiter at once.",
        )
        .or_variable(environment::QUEUE_TICK),
        key(
            "overtaking",
            SWITCH,
            "false",
            "Whether newcomers may take a free slot before those who wait.",
        ),
        key(
            "refuse",
            "`agent`, `kernel`",
            "agent",
            "Who refuses what finds the queue full: the agent, which says why, or the kernel in \
             connect(), at no cost to the agent.",
        ),
        key(
            "adaptive",
            SWITCH,
            "false",
            "Whether the size doubles, up to 100, under load, and goes back after it.",
        ),
    ],
};

const RATE_LIMIT: Section = Section {
    path: "defaults.rate_limit",
    meaning: "A token bucket: what a service takes. It is one setting: a mapping replaces that of \
              a layer below as a whole.",
    keys: &[
        required(
            "per_second",
            "1 to 10000000",
            "100",
            "Connections (with admission request: requests) a second.",
        ),
        key(
            "burst",
            "1 to 1000000",
            "null",
            "How many may come at once after a quiet time. Unset: as many as a second gives, \
             1000000 at most.",
        ),
    ],
};

const HEALTH: Section = Section {
    path: "defaults.health",
    meaning: "How backends are probed. A backend of several services is probed once.",
    keys: &[
        key(
            "probe",
            "`http`, `tcp`, `none`",
            "null",
            "What a probe does: GET, of which 200 is healthy and 429 is busy; connect; nothing. \
             Unset: http if the protocol is http, none otherwise.",
        ),
        key(
            "path",
            "path, up to 1024 bytes",
            "/_/health",
            "What an HTTP probe asks for.",
        ),
        key(
            "interval",
            "`10ms` to `1h`",
            "5s",
            "From one probe to the next.",
        ),
        key(
            "timeout",
            "`1ms` to `1m`",
            "500ms",
            "How long a probe may take.",
        )
        .or_variable(environment::HEALTH_TIMEOUT),
        key(
            "failures",
            "1 to 100",
            "3",
            "Consecutive failures that make a backend unhealthy.",
        )
        .or_variable(environment::HEALTH_FAILURES),
    ],
};

const BREAKER: Section = Section {
    path: "defaults.breaker",
    meaning: "When a backend is shut out for failing.",
    keys: &[
        key(
            "failures",
            "0 to 1000",
            "5",
            "Consecutive failures that open the breaker; with 0 it never opens.",
        ),
        key(
            "open",
            "`1ms` to `1h`",
            "30s",
            "How long it stays open before one trial is let through.",
        ),
    ],
};

const FUNCTIONS: Section = Section {
    path: "functions.NAME",
    meaning: "Overrides for the service NAME, in any namespace, or for NAMESPACE/NAME, which wins \
              over the former. They win over the service's own keys. Beside every key of defaults \
              there are these short names, which may stand under defaults and in a service too; a \
              short name and its long form in one mapping are an error.",
    keys: &[
        short("queue_timeout_ms", "0 to 3600000, `auto`", "queue.timeout"),
        short("queue_buffer_size", QUEUE_SIZE, "queue.size"),
        short("max_retries", ATTEMPTS, "queue.attempts"),
        short(
            "health_check_interval_ms",
            "10 to 3600000",
            "health.interval",
        ),
    ],
};

const SERVICES: Section = Section {
    path: "services[]",
    meaning: "What is balanced. Beside these keys there are all those of defaults, and the short \
              names.",
    keys: &[
        required("name", "DNS label", "hello", "The service's name."),
        key("namespace", "DNS label", "default", "Its namespace."),
        required(
            "frontends",
            "list of `IP:PORT`, `[IPv6]:PORT`",
            "[\"10.96.0.10:8080\"]",
            "What clients dial: at least one, and no other service's.",
        ),
        key(
            "backends",
            "list, see below",
            "[]",
            "What serves. While it is empty, every connection is refused.",
        ),
    ],
};

const BACKENDS: Section = Section {
    path: "services[].backends[]",
    meaning: "One pod's address and port. In two services it is one backend with one count.",
    keys: &[
        required(
            "address",
            ADDRESS,
            "\"10.1.0.2:8080\"",
            "Where the backend listens. Not a frontend of any service.",
        ),
        key(
            "weight",
            "1 to 10000",
            "1",
            "Its share where weights apply, as in strategy weighted-round-robin.",
        ),
        key(
            "node",
            LOCATION,
            "null",
            "The node that it runs on, for locality prefer-node.",
        ),
        key(
            "zone",
            LOCATION,
            "null",
            "The zone that it is in, for locality prefer-zone.",
        ),
    ],
};

//! Every key of the configuration, once: what it may be, what it is by default, what it does.
//!
//! The generated documentation and `idlefirst config defaults` are rendered from this table, and
//! a test holds it against what the reader accepts. Owns words only; the checks are elsewhere.

use super::environment;

/// A mapping of the file, with its keys in the order of the documentation.
pub(crate) struct Section {
    /// The path of the mapping: empty for the top, `NAME` and `[]` for what repeats.
    pub(crate) path: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) keys: &'static [Key],
}

/// One key.
pub(crate) struct Key {
    pub(crate) name: &'static str,
    /// What may be written.
    pub(crate) values: &'static str,
    /// The default as YAML; for a required key, an example.
    pub(crate) default: &'static str,
    pub(crate) required: bool,
    pub(crate) variable: Option<&'static str>,
    pub(crate) meaning: &'static str,
    /// Whether this version goes by it.
    pub(crate) in_force: bool,
}

const fn key(
    name: &'static str,
    values: &'static str,
    default: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        name,
        values,
        default,
        required: false,
        variable: None,
        meaning,
        in_force: true,
    }
}

const fn required(
    name: &'static str,
    values: &'static str,
    example: &'static str,
    meaning: &'static str,
) -> Key {
    Key {
        required: true,
        ..key(name, values, example, meaning)
    }
}

impl Key {
    const fn or_variable(self, name: &'static str) -> Self {
        Self {
            variable: Some(name),
            ..self
        }
    }

    const fn without_effect(self) -> Self {
        Self {
            in_force: false,
            ..self
        }
    }
}

/// Kinds of values, said the same way everywhere.
const PATH: &str = "absolute path";
const ADDRESS: &str = "`IP:PORT`, `[IPv6]:PORT`";
const STRATEGY: &str = "`idle-first`";
const ADMISSION: &str = "`connection`";
const PROTOCOL: &str = "`tcp`, `http`";
const LIMIT: &str = "0 to 1000000";

const STRATEGY_MEANING: &str = "How a backend is picked among the available ones.";
const ADMISSION_MEANING: &str = "What takes a slot.";
const PROTOCOL_MEANING: &str = "What is spoken over the connections.";
const LIMIT_MEANING: &str = "Requests that one backend may serve at a time; 0 is unlimited. \
                             A backend of several services has the tightest of their limits.";

pub(crate) const SECTIONS: &[Section] = &[
    Section {
        path: "",
        meaning: "The top of the file.",
        keys: &[key(
            "source",
            "`file`",
            "file",
            "Where services come from: this file.",
        )],
    },
    Section {
        path: "agent",
        meaning: "The agent itself. A change of these needs a restart.",
        keys: &[
            key(
                "cgroup",
                PATH,
                "null",
                "The cgroup (v2) whose processes are balanced. \
                 Unset: the root of the unified hierarchy, which the agent finds.",
            )
            .or_variable(environment::CGROUP),
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
                "metrics",
                "`IP:PORT`, `none`",
                "\"0.0.0.0:9102\"",
                "Where metrics are served besides the admin API.",
            )
            .or_variable(environment::METRICS),
            key(
                "overflow",
                "`auto`, IP address",
                "auto",
                "The address of this node on which the agent takes connections that found no \
                 available backend.",
            )
            .without_effect(),
        ],
    },
    Section {
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
    },
    Section {
        path: "defaults",
        meaning: "What holds for services that say nothing themselves.",
        keys: &[
            key("strategy", STRATEGY, "idle-first", STRATEGY_MEANING)
                .or_variable(environment::STRATEGY),
            key("max_inflight", LIMIT, "0", LIMIT_MEANING),
            key("admission", ADMISSION, "connection", ADMISSION_MEANING),
            key("protocol", PROTOCOL, "tcp", PROTOCOL_MEANING),
        ],
    },
    Section {
        path: "functions.NAME",
        meaning: "Overrides for the service NAME, in any namespace, or for NAMESPACE/NAME, which \
                  wins over the former. They win over the service's own keys.",
        keys: &[
            key(
                "strategy",
                STRATEGY,
                "null",
                "Overrides the service's strategy.",
            ),
            key(
                "max_inflight",
                LIMIT,
                "null",
                "Overrides the service's max_inflight.",
            ),
            key(
                "queue_timeout_ms",
                "0 to 3600000",
                "null",
                "The longest that a waiter waits, in milliseconds.",
            )
            .without_effect(),
            key(
                "queue_buffer_size",
                "0 to 100000",
                "null",
                "The most waiters at a time.",
            )
            .without_effect(),
            key(
                "max_retries",
                "0 to 1000",
                "null",
                "The most attempts to find a backend.",
            )
            .without_effect(),
            key(
                "health_check_interval_ms",
                "10 to 3600000",
                "null",
                "Time between two probes of a backend, in milliseconds.",
            )
            .without_effect(),
        ],
    },
    Section {
        path: "services[]",
        meaning: "What is balanced.",
        keys: &[
            required("name", "DNS label", "hello", "The service's name."),
            key("namespace", "DNS label", "default", "Its namespace."),
            key("protocol", PROTOCOL, "null", PROTOCOL_MEANING),
            key("admission", ADMISSION, "null", ADMISSION_MEANING),
            key("strategy", STRATEGY, "null", STRATEGY_MEANING),
            key("max_inflight", LIMIT, "null", LIMIT_MEANING),
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
    },
    Section {
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
                "Its share in weighted strategies.",
            )
            .without_effect(),
        ],
    },
];

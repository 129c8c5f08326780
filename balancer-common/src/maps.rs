//! Names and capacities of the maps, and the version of their layout.
//!
//! Names are at most 15 bytes (BPF_OBJ_NAME_LEN, v6.1). The capacities are the
//! limits that the configuration is checked against.

/// Version of everything in this crate that lies in a map. Raised by any change
/// to a layout, a name, a flag's meaning or a counter's place.
pub const ABI: u32 = 5;

/// Services at most; ids are 0..MAX_SERVICES.
pub const MAX_SERVICES: u32 = 16_384;
/// Distinct backends at most; ids are 0..MAX_BACKENDS.
pub const MAX_BACKENDS: u32 = 131_072;
/// Frontends that are no backends at most.
pub const MAX_FRONTENDS: u32 = 65_536;
/// Entries of FRONTENDS at most: every backend may be one too.
pub const MAX_FRONTEND_ENTRIES: u32 = MAX_FRONTENDS + MAX_BACKENDS;
/// Leaves at most: one per service, and one more for every further 64 backends.
pub const MAX_LEAVES: u32 = 65_536;
/// Backends of one service at most.
pub const MAX_BACKENDS_PER_SERVICE: usize = 4_096;
/// Services that one backend can belong to at most.
pub const MAX_MEMBERSHIPS: usize = 8;

/// Connections on their way to the agent at most, over all services.
pub const MAX_FLOWS: u32 = 65_536;
/// Clients that are bound to a backend at most, over all services; beyond that the one that was
/// bound the longest ago is forgotten.
pub const MAX_AFFINITIES: u32 = 65_536;
/// Cgroups whose processes are left alone at most.
pub const MAX_BYPASSES: u32 = 4_096;
/// Positions in a table at most.
pub const MAX_TABLE_POSITIONS: u32 = 65_536;
/// Bytes of a service's name in NAMES: `namespace/name`, and zeros behind it.
pub const NAME_BYTES: usize = 256;
/// Bytes of the ring buffer.
pub const EVENT_BYTES: u32 = 1 << 20;

/// [`crate::address::FrontendKey`] → [`crate::address::LeadsTo`].
pub const FRONTENDS: &str = "FRONTENDS";
/// Service id → [`crate::service::Service`].
pub const SERVICES: &str = "SERVICES";
/// Leaf id → [`crate::service::Leaf`].
pub const LEAVES: &str = "LEAVES";
/// Backend id → [`crate::service::Backend`].
pub const BACKENDS: &str = "BACKENDS";
/// Socket → [`crate::connection::Connection`].
pub const CONNECTIONS: &str = "CONNECTIONS";
/// Service id → [`crate::counter::ServiceCounter`]s, per CPU.
pub const COUNTERS: &str = "COUNTERS";
/// [`crate::counter::Fault`] → count, per CPU.
pub const FAULTS: &str = "FAULTS";
/// [`crate::histogram`] bucket → count, per CPU.
pub const DECISION_TIME: &str = "DECISION_TIME";
/// Index 0 → [`crate::connection::AgentState`].
pub const AGENT: &str = "AGENT";
/// [`crate::connection::Flow`] → [`crate::connection::FlowTarget`].
pub const OVERFLOW_FLOWS: &str = "OVERFLOW_FLOWS";
/// [`LISTENER_V4`] and [`LISTENER_V6`] → the agent's listening sockets.
pub const OVERFLOW_SOCK: &str = "OVERFLOW_SOCK";
/// Service id → its [`crate::table`], an array of words.
pub const TABLES: &str = "TABLES";
/// [`crate::affinity::Binding`] → [`crate::affinity::Bound`].
pub const AFFINITY: &str = "AFFINITY";
/// Id of a cgroup whose processes are left alone → 1.
pub const BYPASS: &str = "BYPASS";
/// Ring buffer of [`crate::event::Event`]s.
pub const EVENTS: &str = "EVENTS";
/// Names of services by their ids, for agents that come later; no program reads it.
pub const NAMES: &str = "NAMES";
/// Backend id → live connections that hold a slot of it, as the agent has them counted now and
/// then. Not pinned: nobody needs an old count.
pub const RECOUNT: &str = "RECOUNT";

/// Index of the IPv4 listener in OVERFLOW_SOCK.
pub const LISTENER_V4: u32 = 0;
/// Index of the IPv6 listener in OVERFLOW_SOCK.
pub const LISTENER_V6: u32 = 1;

const _: () = assert!(MAX_SERVICES <= MAX_LEAVES);

//! What is kept per socket, and the agent's switches.

use crate::atomic::AtomicU64;

use crate::address::{Address, Port};

/// Value of CONNECTIONS: the steering of one client socket.
///
/// All zero when new. Written by the connect programs (all but `client`), by `sock_ops`
/// (`client`, `held`) and by `sock_release` (`held`). Freed by the kernel with
/// the socket.
#[repr(C)]
#[derive(Debug)]
pub struct Connection {
    /// What the socket holds: one of `HELD_*`. Whoever swaps it to nothing, and
    /// only they, gives it back.
    pub held: AtomicU64,
    /// When the connect program chose the backend (or, for a connection to the agent, when it
    /// was published), on the monotonic clock.
    pub steered_at_ns: u64,
    /// When the SYN went, on the monotonic clock; once the connection stands, how long that took.
    /// Writer: `sock_ops`, for connections that are measured.
    pub connect_ns: u64,
    /// While a response is awaited: when the first byte of the request went, less `connect_ns`;
    /// else 0. Writers: `sock_ops`, and the program that sees the response.
    pub awaited_since_ns: AtomicU64,
    /// Id of the service that was dialled.
    pub service: u32,
    /// Id of the backend that was chosen.
    pub backend: u32,
    /// The backend's generation at that moment; a give-back with another one is
    /// counted and dropped.
    pub generation: u32,
    /// Port of the frontend, for `getpeername()`.
    pub frontend_port: Port,
    /// Port of the client, known from `BPF_SOCK_OPS_TCP_CONNECT_CB` on; 0 before.
    pub client_port: Port,
    /// Address of the frontend, for `getpeername()`.
    pub frontend: Address,
    /// Address of the client, known from `BPF_SOCK_OPS_TCP_CONNECT_CB` on.
    pub client: Address,
    /// Address of the backend, to tell whether a later connect on the same
    /// socket still goes there.
    pub destination: Address,
    /// Port of the backend.
    pub destination_port: Port,
    /// Bits of `STEERED_*`.
    pub flags: u16,
    /// Keeps the record free of padding; always 0.
    pub reserved: [u16; 2],
}

const _: () = assert!(size_of::<Connection>() == 104);

/// The socket holds no slot.
pub const HELD_NOTHING: u64 = 0;
/// The socket holds one slot of its backend, in the kernel's half.
pub const HELD_SLOT: u64 = 1;
/// The socket is steered to the agent, and holds nothing yet.
pub const HELD_WAY: u64 = 2;
/// Its flow is published in OVERFLOW_FLOWS, and counts as sent in the service's
/// [`crate::waiting`] word. Whoever removes the flow there, agent or program,
/// takes over the count.
pub const HELD_FLOW: u64 = 3;

/// The connection is established.
pub const STEERED_ESTABLISHED: u16 = 1;
/// It was steered to the agent.
pub const STEERED_TO_AGENT: u16 = 2;
/// It was steered to the leader of its service.
pub const STEERED_TO_LEADER: u16 = 4;
/// Its response time is to be measured.
pub const STEERED_MEASURED: u16 = 8;

/// Key of OVERFLOW_FLOWS: where a connection to the agent comes from.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Address of the client.
    pub client: Address,
    /// Port of the client.
    pub port: Port,
    /// Keeps the key free of padding; always 0.
    pub reserved: u16,
}

const _: () = assert!(size_of::<Flow>() == 20);

/// Value of OVERFLOW_FLOWS: what the client dialled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowTarget {
    /// When it was steered, on the monotonic clock.
    pub steered_at_ns: u64,
    /// Identity of the client: the cookie of its network namespace.
    pub client: u64,
    /// Id of the service.
    pub service: u32,
    /// Keeps the value free of padding; always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<FlowTarget>() == 24);

/// Value of AGENT: what the programs need to know about the agent.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentState {
    /// Last sign of life on the monotonic clock; written by the agent.
    pub heartbeat_ns: u64,
    /// [`crate::maps::ABI`] of the agent that wrote this.
    pub abi: u32,
    /// Bits of `SWITCH_*`.
    pub switches: u32,
    /// Cookie of the agent's network namespace: clients there reach it over loopback.
    pub netns_cookie: u64,
    /// Where clients of IPv4 frontends in other namespaces reach the agent; all zero: nowhere.
    pub overflow_v4: Address,
    /// The same for clients of IPv6 frontends.
    pub overflow_v6: Address,
    /// Port of the agent's listener for IPv4; 0: it has none.
    pub port_v4: Port,
    /// Port of the agent's listener for IPv6; 0: it has none.
    pub port_v6: Port,
    /// How far below the root the pods' cgroup is; meaningless without one.
    pub pods_level: u32,
    /// Id of the cgroup that all pods are in: whoever is outside is left alone where the own
    /// address of a backend is dialled. 0: none is known, and everybody is.
    pub pods_cgroup: u64,
    /// How far below the root cgroups of BYPASS are: a bit for each level that has any.
    pub bypass_levels: u32,
    /// Keeps the record free of padding; always 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<AgentState>() == 80);

/// Levels below the root at which a cgroup can be one of BYPASS, the root's being 0.
pub const BYPASS_LEVELS: u32 = 16;

/// Mark (`SO_MARK`) of the agent's own sockets, which the programs leave alone. It
/// shares no bit with the marks of kube-proxy, Cilium and Calico.
pub const AGENT_MARK: u32 = 0xd1;

/// Age of the heartbeat from which the agent counts as gone.
pub const AGENT_GONE_AFTER_NS: u64 = 2_000_000_000;

/// Log every decision through aya-log: for looking, never for production load.
pub const SWITCH_LOG: u32 = 1;
/// The agent is there and takes nothing: not yet, or not any more. What it has counts.
pub const SWITCH_CLOSED: u32 = 4;
/// Report a sample of the decisions in EVENTS.
pub const SWITCH_STEER_EVENTS: u32 = 2;

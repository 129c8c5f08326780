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
    /// What the socket holds: [`HELD_NOTHING`] or [`HELD_SLOT`]. Whoever swaps
    /// it to nothing, and only they, gives the slot back.
    pub held: AtomicU64,
    /// When the connect program chose the backend, on the monotonic clock.
    pub steered_at_ns: u64,
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
    /// Keeps the record free of padding; always 0.
    pub reserved: [u16; 3],
}

const _: () = assert!(size_of::<Connection>() == 88);

/// The socket holds no slot.
pub const HELD_NOTHING: u64 = 0;
/// The socket holds one slot of its backend, in the kernel's half.
pub const HELD_SLOT: u64 = 1;

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
}

const _: () = assert!(size_of::<AgentState>() == 16);

/// Log every decision through aya-log: for looking, never for production load.
pub const SWITCH_LOG: u32 = 1;

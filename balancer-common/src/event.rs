//! What the programs tell the agent as it happens.

use crate::address::{Address, Port};

/// One entry of EVENTS.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// When, on the monotonic clock.
    pub at_ns: u64,
    /// When the connection was steered or published, if one is concerned: with the client's
    /// address it means this connection and no other. For [`EventKind::Elected`] and
    /// [`EventKind::FailedOver`]: since when there was no leader.
    pub steered_at_ns: u64,
    /// An [`EventKind`].
    pub kind: u32,
    /// Id of the service.
    pub service: u32,
    /// Id of the backend, if one is concerned.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
    /// Address of the client, if one is concerned.
    pub client: Address,
    /// Port of the client.
    pub client_port: Port,
    /// Keeps the record free of padding; always 0.
    pub reserved: [u16; 3],
}

const _: () = assert!(size_of::<Event>() == 56);

/// What happened.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A slot came free while the service's queue was not empty.
    SlotFreed = 1,
    /// A client whose connection went to the agent closed it.
    ClientGone = 2,
    /// A breaker shut a backend out.
    Ejected = 3,
    /// The trial of a backend succeeded: it takes part again.
    Readmitted = 4,
    /// The trial of a backend failed: it stays out.
    TrialFailed = 5,
    /// A connect was steered to a backend. Only a sample of them is reported.
    Steered = 6,
    /// A backend became the leader of a service. `steered_at_ns` is 0 if it is the first.
    Elected = 7,
    /// The first connection to a new leader stands.
    FailedOver = 8,
}

impl EventKind {
    /// The kind with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::SlotFreed,
            2 => Self::ClientGone,
            3 => Self::Ejected,
            4 => Self::Readmitted,
            5 => Self::TrialFailed,
            6 => Self::Steered,
            7 => Self::Elected,
            8 => Self::FailedOver,
            _ => return None,
        })
    }
}

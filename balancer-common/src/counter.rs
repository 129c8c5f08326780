//! Counters that the programs keep, per CPU.

/// What is counted for each service: an index into its row of COUNTERS.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceCounter {
    /// Connects steered to a backend that was idle.
    Idle = 0,
    /// Connects steered to a backend that was serving already.
    Shared = 1,
    /// Connects refused by the programs because the queue was full.
    QueueFull = 2,
    /// Steered connects that never became established.
    ConnectFailed = 3,
    /// Slots given back.
    Released = 4,
    /// Connects that found the service configured with no backend at all.
    NoBackends = 5,
    /// Connects sent to the agent.
    Sent = 6,
    /// Connects refused by the rate limit.
    RateLimited = 7,
    /// Connects steered to a full backend because the agent was gone.
    OverAdmitted = 8,
    /// Connects refused because the agent was gone.
    AgentGone = 9,
    /// Connects that tried a backend whose breaker was half-open.
    Trial = 10,
    /// Time for which slots given back had been held, in nanoseconds.
    HeldNs = 11,
    /// Backends shut out by their breaker.
    Ejected = 12,
    /// Sum of the squares of the times of [`Self::HeldNs`], each in units of 2^[`HELD_UNIT_BITS`]
    /// ns.
    HeldSquares = 13,
}

/// See [`ServiceCounter::HeldSquares`]: 16.4 µs, so that days of full load fit.
pub const HELD_UNIT_BITS: u32 = 14;

/// Counters in one row; some are kept free for what comes.
pub const SERVICE_COUNTERS: usize = 16;

/// Value of COUNTERS, indexed by [`ServiceCounter`].
pub type ServiceCounters = [u64; SERVICE_COUNTERS];

/// Why a program could not do its work. Each has a counter in FAULTS.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// FRONTENDS names a service that SERVICES does not have.
    NoService = 0,
    /// The kernel could not allocate the socket's record.
    NoConnection = 1,
    /// A slot was available but every try to take it lost against another CPU.
    Contended = 2,
    /// A slot came back to a backend of another generation; dropped.
    StaleGeneration = 3,
    /// A slot came back to a backend whose count was 0 already; dropped.
    Underflow = 4,
    /// The chosen backend is IPv6 but the socket is IPv4.
    FamilyMismatch = 5,
    /// State callbacks could not be switched on for a socket.
    NoCallbacks = 6,
    /// A connection to the agent could not be published, for want of room or because another
    /// with the same client's address is; it will be refused.
    FlowNotPublished = 7,
    /// The ring buffer had no room for an event; it is lost.
    EventLost = 8,
    /// The agent takes no overflow of this address family.
    NoOverflow = 9,
}

/// All faults, in the order of their index, with the name metrics show.
pub const FAULTS: [(Fault, &str); 10] = [
    (Fault::NoService, "no_service"),
    (Fault::NoConnection, "no_connection"),
    (Fault::Contended, "contended"),
    (Fault::StaleGeneration, "stale_generation"),
    (Fault::Underflow, "underflow"),
    (Fault::FamilyMismatch, "family_mismatch"),
    (Fault::NoCallbacks, "no_callbacks"),
    (Fault::FlowNotPublished, "flow_not_published"),
    (Fault::EventLost, "event_lost"),
    (Fault::NoOverflow, "no_overflow"),
];

/// Entries of the FAULTS map; some are kept free for what comes.
pub const FAULT_COUNTERS: u32 = 16;

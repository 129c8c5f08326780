//! The most that one desired state may hold.
//!
//! Each figure is a capacity of a kernel map or a field width there. They are checked when a
//! configuration is read, so that a plan never fails half-way for want of room.

/// Services in one desired state.
pub const MAX_SERVICES: usize = 16_384;

/// Distinct backend addresses in one desired state.
pub const MAX_BACKENDS: usize = 131_072;

/// Frontends in one desired state.
pub const MAX_FRONTENDS: usize = 65_536;

/// Backends of one service: what its two-level idle bitmap covers.
pub const MAX_BACKENDS_PER_SERVICE: usize = 4096;

/// Services that may name one backend address. It stays one backend with one count.
pub const MAX_SERVICES_PER_BACKEND: usize = 8;

/// Frontends of one service. Only a guard against slips: the kernel has one table for all.
pub const MAX_FRONTENDS_PER_SERVICE: usize = 64;

/// The highest `max_inflight`, in slots. 0 stands for unlimited.
pub const MAX_INFLIGHT: u32 = 1_000_000;

/// The highest weight of a backend. The lowest is 1.
pub const MAX_WEIGHT: u32 = 10_000;

/// Bytes in one part of a service's name (a DNS label).
pub const MAX_NAME_BYTES: usize = 63;

/// The largest queue of one service, in waiters.
pub const MAX_QUEUE_SIZE: u32 = 100_000;

/// What an adaptive queue grows to, in waiters.
pub const MAX_ADAPTIVE_QUEUE_SIZE: u32 = 100;

/// The highest rate limit, in tokens a second.
pub const MAX_RATE_PER_SECOND: u32 = 10_000_000;

/// The largest burst of a rate limit, in tokens.
pub const MAX_RATE_BURST: u32 = 1_000_000;

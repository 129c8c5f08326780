//! Clients that are bound to a backend for a while: sticky sessions without a proxy.
//!
//! A binding is found by the client's identity (the cookie of its network namespace, where the
//! programs look; what the agent knows it by, there) and lasts until it has not been used for the
//! service's time. Where the backend is full or gone, the strategy chooses another, and the
//! binding moves there.

use crate::{
    atomic::{load, load32},
    service::{SERVICE_AFFINITY, Service},
};

/// Key of AFFINITY: a client of a service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Binding {
    /// Identity of the client; never 0.
    pub client: u64,
    /// Id of the service.
    pub service: u32,
    /// Its generation: bindings of an earlier service with the id count for nothing.
    pub generation: u32,
}

const _: () = assert!(size_of::<Binding>() == 16);

/// Value of AFFINITY: what it is bound to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bound {
    /// When it was last used, on the monotonic clock.
    pub used_at_ns: u64,
    /// Id of the backend.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
}

const _: () = assert!(size_of::<Bound>() == 16);

/// Whether the service binds its clients.
#[inline(always)]
pub fn is_on(service: &Service) -> bool {
    load32(&service.flags) & SERVICE_AFFINITY != 0
}

/// Whether a binding has not lapsed.
#[inline(always)]
pub fn holds(service: &Service, bound: &Bound, now_ns: u64) -> bool {
    now_ns.saturating_sub(bound.used_at_ns) < load(&service.affinity_ns)
}

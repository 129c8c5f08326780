//! The maps, and safe access to them for the other modules. What selection reads of them is in
//! `tables`.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock,
    },
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage, SockMap},
    helpers::{bpf_map_lookup_elem, bpf_sk_release, bpf_sk_storage_get, bpf_skc_to_mptcp_sock},
    macros::btf_map,
    programs::SkLookupContext,
};
use balancer_common::{
    address::{FrontendKey, LeadsTo},
    affinity::{Binding, Bound},
    atomic::{AtomicU64, fetch_add},
    connection::{AgentState, Connection, Flow, FlowTarget},
    counter::{FAULT_COUNTERS, Fault, ServiceCounter, ServiceCounters},
    event::Event,
    histogram,
    maps::{
        EVENT_BYTES, MAX_AFFINITIES, MAX_BACKENDS, MAX_BYPASSES, MAX_FLOWS, MAX_FRONTEND_ENTRIES,
        MAX_LEAVES, MAX_SERVICES, NAME_BYTES,
    },
    service::{Backend, Leaf, Service},
};

/// The agent maps these arrays into its memory.
const SHARED: usize = BPF_F_MMAPABLE as usize;
/// A service's table may have any length, and is filled through memory before it is put in place.
const TABLE: usize = (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize;

#[btf_map]
static FRONTENDS: HashMap<FrontendKey, LeadsTo, { MAX_FRONTEND_ENTRIES as usize }> = HashMap::new();
#[btf_map]
static BYPASS: HashMap<u64, u32, { MAX_BYPASSES as usize }> = HashMap::new();
#[btf_map]
pub static SERVICES: Array<Service, { MAX_SERVICES as usize }, SHARED> = Array::new();
#[btf_map]
pub static LEAVES: Array<Leaf, { MAX_LEAVES as usize }, SHARED> = Array::new();
#[btf_map]
pub static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }, SHARED> = Array::new();
#[btf_map]
pub static TABLES: ArrayOfMaps<Array<u64, 1, TABLE>, { MAX_SERVICES as usize }> =
    ArrayOfMaps::new();
#[btf_map]
static AFFINITY: LruHashMap<Binding, Bound, { MAX_AFFINITIES as usize }> = LruHashMap::new();
#[btf_map]
static CONNECTIONS: SkStorage<Connection> = SkStorage::new();
#[btf_map]
static COUNTERS: PerCpuArray<ServiceCounters, { MAX_SERVICES as usize }> = PerCpuArray::new();
#[btf_map]
static FAULTS: PerCpuArray<u64, { FAULT_COUNTERS as usize }> = PerCpuArray::new();
#[btf_map]
static DECISION_TIME: PerCpuArray<u64, { histogram::BUCKETS as usize }> = PerCpuArray::new();
#[btf_map]
static AGENT: Array<AgentState, 1> = Array::new();
#[btf_map]
static OVERFLOW_FLOWS: HashMap<Flow, FlowTarget, { MAX_FLOWS as usize }> = HashMap::new();
#[btf_map]
static OVERFLOW_SOCK: SockMap<2> = SockMap::new();
#[btf_map]
static NAMES: Array<[u8; NAME_BYTES], { MAX_SERVICES as usize }> = Array::new();
#[btf_map]
static RECOUNT: Array<AtomicU64, { MAX_BACKENDS as usize }, SHARED> = Array::new();
#[btf_map]
static EVENTS: RingBuf<Event, { EVENT_BYTES as usize }> = RingBuf::new();

/// Counts a connection that holds a slot of a backend, in the agent's recount.
#[inline(always)]
pub fn recount(backend: u32) {
    if let Some(connections) = RECOUNT.get(backend) {
        fetch_add(connections, 1);
    }
}

/// What a client is bound to; null if it is not. An entry that others forget meanwhile may be
/// written all the same: at worst it lives longer.
#[inline(always)]
pub fn bound(binding: &Binding) -> *mut Bound {
    match AFFINITY.get_ptr_mut(binding) {
        Some(bound) => bound,
        None => core::ptr::null_mut(),
    }
}

/// Binds a client.
#[inline(always)]
pub fn bind(binding: &Binding, bound: &Bound) {
    // Without room for it the client is simply not bound.
    let _ = AFFINITY.insert(binding, bound, 0);
}

/// Whether processes of the cgroup with this id are left alone.
#[inline(always)]
pub fn bypasses(cgroup: u64) -> bool {
    // SAFETY: as in `leads_to`.
    unsafe { BYPASS.get(cgroup).is_some() }
}

/// Where a frontend leads.
#[inline(always)]
pub fn leads_to(frontend: &FrontendKey) -> Option<LeadsTo> {
    // SAFETY: the value is a plain word, copied at once; the map is
    // preallocated, so its memory stays valid while the program runs.
    unsafe { FRONTENDS.get(frontend).copied() }
}

/// Whether the kernel has Multipath TCP; set by the agent before loading. Where
/// it is 0 the verifier never looks at the helper, which such kernels lack.
#[unsafe(no_mangle)]
static MULTIPATH: u8 = 0;

/// The Multipath TCP socket above a subflow, which is the one that the client
/// holds: only that one passes through `sock_release` and `getpeername()`. Null
/// for any other socket.
#[inline(always)]
fn above(socket: *mut bpf_sock) -> *mut c_void {
    // SAFETY: read-only data, set once before the program is loaded.
    if unsafe { (&raw const MULTIPATH).read_volatile() } == 0 {
        return core::ptr::null_mut();
    }
    // SAFETY: `socket` comes from the program's context and is not null.
    unsafe { bpf_skc_to_mptcp_sock(socket.cast()) }.cast()
}

/// The steering record of the socket that a client holds; null if it has none.
#[inline(always)]
pub fn record(socket: *mut bpf_sock) -> *mut Connection {
    let own = own_record(socket);
    if socket.is_null() || !own.is_null() {
        return own;
    }
    let above = above(socket);
    if above.is_null() {
        return core::ptr::null_mut();
    }
    storage(above, 0)
}

/// The record of this very socket, subflow or not; null if it has none.
#[inline(always)]
pub fn own_record(socket: *mut bpf_sock) -> *mut Connection {
    if socket.is_null() {
        return core::ptr::null_mut();
    }
    storage(socket.cast(), 0)
}

/// The record of the socket that a client connects, made if it has none: all
/// zero, holding nothing. Null when the kernel has no memory for it.
#[inline(always)]
pub fn record_or_new(socket: *mut bpf_sock) -> *mut Connection {
    if socket.is_null() {
        return core::ptr::null_mut();
    }
    let above = above(socket);
    let held = if above.is_null() {
        socket.cast()
    } else {
        above
    };
    storage(held, BPF_SK_STORAGE_GET_F_CREATE.into())
}

#[inline(always)]
fn storage(socket: *mut c_void, flags: u64) -> *mut Connection {
    let map = (&raw const CONNECTIONS).cast_mut().cast();
    // SAFETY: `socket` is one of the program's context or above one, not null.
    unsafe { bpf_sk_storage_get(map, socket, core::ptr::null_mut(), flags).cast() }
}

/// Counts one event of a service.
#[inline(always)]
pub fn count(service: u32, counter: ServiceCounter) {
    if let Some(row) = COUNTERS.get_ptr_mut(service) {
        // SAFETY: this CPU's own copy; a program that preempts us on it could
        // lose one count, never corrupt one.
        unsafe { (*row)[counter as usize] += 1 };
    }
}

/// Counts a fault.
#[inline(always)]
pub fn count_fault(fault: Fault) {
    if let Some(cell) = FAULTS.get_ptr_mut(fault as u32) {
        // SAFETY: as in `count`.
        unsafe { *cell += 1 };
    }
}

/// Counts the time one decision took.
#[inline(always)]
pub fn count_decision(ns: u64) {
    if let Some(cell) = DECISION_TIME.get_ptr_mut(histogram::bucket(ns)) {
        // SAFETY: as in `count`.
        unsafe { *cell += 1 };
    }
}

/// What the agent has said of itself.
#[inline(always)]
pub fn agent() -> Option<&'static AgentState> {
    AGENT.get(0)
}

/// The agent's switches.
#[inline(always)]
pub fn switches() -> u32 {
    match agent() {
        Some(agent) => agent.switches,
        None => 0,
    }
}

/// What a flow to the agent dialled, if it was published.
#[inline(always)]
pub fn flow(flow: &Flow) -> Option<FlowTarget> {
    // SAFETY: as in `leads_to`.
    unsafe { OVERFLOW_FLOWS.get(flow).copied() }
}

/// Publishes a flow to the agent. Says whether there was room, and no other from
/// the same address.
#[inline(always)]
pub fn publish(flow: &Flow, target: &FlowTarget) -> bool {
    OVERFLOW_FLOWS
        .insert(flow, target, BPF_NOEXIST.into())
        .is_ok()
}

/// Takes a flow back. Says whether it was still there: of all who try, one
/// succeeds.
#[inline(always)]
pub fn withdraw(flow: &Flow) -> bool {
    OVERFLOW_FLOWS.remove(flow).is_ok()
}

/// Hands a connection to the agent's listener. Says whether there is one.
#[inline(always)]
pub fn hand_over(ctx: &SkLookupContext, listener: u32) -> bool {
    OVERFLOW_SOCK.redirect_sk_lookup(ctx, listener, 0).is_ok()
}

/// Whether the agent listens. The kernel takes a listener out of the map when it is closed, however the
/// agent ends (net/core/sock_map.c, v6.1, `sock_map_close`).
#[inline(always)]
pub fn has_listener(listener: u32) -> bool {
    let map = (&raw const OVERFLOW_SOCK).cast_mut().cast();
    // SAFETY: the map is one of sockets, and the key as long as its keys are.
    let socket = unsafe { bpf_map_lookup_elem(map, (&raw const listener).cast()) };
    if socket.is_null() {
        return false;
    }
    // SAFETY: not null; it was referenced by the look-up, and is not used any more.
    unsafe { bpf_sk_release(socket) };
    true
}

/// Sends an event to the agent.
#[inline(always)]
pub fn output(event: &Event) -> Result<(), i32> {
    EVENTS.output(event, 0)
}

/// Adds to one of a service's counters.
#[inline(always)]
pub fn add(service: u32, counter: ServiceCounter, amount: u64) {
    if let Some(row) = COUNTERS.get_ptr_mut(service) {
        // SAFETY: as in `count`.
        unsafe { (*row)[counter as usize] += amount };
    }
}

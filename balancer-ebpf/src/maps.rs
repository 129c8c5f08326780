//! The maps, and safe access to them for the other modules.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{
        BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_NOEXIST, BPF_SK_STORAGE_GET_F_CREATE, bpf_sock,
    },
    btf_maps::{Array, ArrayOfMaps, HashMap, LruHashMap, PerCpuArray, RingBuf, SkStorage, SockMap},
    helpers::{
        bpf_get_prandom_u32, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns, bpf_sk_storage_get,
        bpf_skc_to_mptcp_sock,
    },
    macros::btf_map,
    programs::SkLookupContext,
};
use balancer_common::{
    address::FrontendKey,
    affinity::{Binding, Bound},
    breaker::{self, Failure},
    connection::{AgentState, Connection, Flow, FlowTarget},
    counter::{FAULT_COUNTERS, Fault, ServiceCounter, ServiceCounters},
    event::Event,
    histogram,
    index::{self, Found, Index},
    maps::{
        EVENT_BYTES, MAX_AFFINITIES, MAX_BACKENDS, MAX_FLOWS, MAX_FRONTENDS, MAX_LEAVES,
        MAX_SERVICES,
    },
    select::{self, Attempt, By, Heir, Load, Search, Taker},
    service::{Backend, Leaf, Service, Tables},
    slot::{Side, Want},
};

/// The agent maps these arrays into its memory.
const SHARED: usize = BPF_F_MMAPABLE as usize;
/// A service's table may have any length, and is filled through memory before it is put in place.
const TABLE: usize = (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize;

#[btf_map]
static FRONTENDS: HashMap<FrontendKey, u32, { MAX_FRONTENDS as usize }> = HashMap::new();
#[btf_map]
static SERVICES: Array<Service, { MAX_SERVICES as usize }, SHARED> = Array::new();
#[btf_map]
static LEAVES: Array<Leaf, { MAX_LEAVES as usize }, SHARED> = Array::new();
#[btf_map]
static BACKENDS: Array<Backend, { MAX_BACKENDS as usize }, SHARED> = Array::new();
#[btf_map]
static TABLES: ArrayOfMaps<Array<u64, 1, TABLE>, { MAX_SERVICES as usize }> = ArrayOfMaps::new();
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
static EVENTS: RingBuf<Event, { EVENT_BYTES as usize }> = RingBuf::new();

/// The records of selection, as BPF maps.
pub struct Maps;

impl Tables for Maps {
    #[inline(always)]
    fn service(&self, id: u32) -> Option<&Service> {
        SERVICES.get(id)
    }

    #[inline(always)]
    fn leaf(&self, id: u32) -> Option<&Leaf> {
        LEAVES.get(id)
    }

    #[inline(always)]
    fn backend(&self, id: u32) -> Option<&Backend> {
        BACKENDS.get(id)
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn table_word(&self, service: u32, index: u32) -> Option<u64> {
        let table = TABLES.get(service)?;
        table.get(index).copied()
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn refresh(&self, backend: u32) {
        idle_refresh(backend);
    }

    #[inline(always)]
    fn place_of_set_bit(&self, word: u64, number: u64) -> u32 {
        idle_place(word, number) as u32
    }

    #[inline(always)]
    fn draw_by_count(&self, service: u32, index: Index, summary: u64) -> Found {
        match u32::try_from(idle_count_draw(service, index.into_number(), summary)) {
            Ok(position) => Found::At(position),
            Err(_) => Found::Stale,
        }
    }

    #[inline(always)]
    fn leaf_word(&self, service: u32, number: u32, index: Index) -> u64 {
        idle_leaf(service, number, index.into_number())
    }

    #[inline(always)]
    fn within(&self, service: u32, client: u64, leaves: u64, taker: Taker) -> Attempt {
        Attempt::from_word(idle_within(service, client, leaves, taker.luck))
    }

    #[inline(always)]
    fn take_next(&self, search: &Search) -> Attempt {
        Attempt::from_word(idle_take_next(
            search.service,
            search.from,
            search.want.into_number(),
            search.taker.luck,
            search.leaves,
        ))
    }

    #[inline(always)]
    fn take_at(&self, service: u32, position: u32, want: Want, taker: Taker) -> Attempt {
        let want = want.into_number();
        Attempt::from_word(idle_take_at(service, position, want, taker.luck))
    }

    #[inline(always)]
    fn draw(&self, service: u32, leaves: u64) -> Option<u32> {
        u32::try_from(idle_draw(service, leaves)).ok()
    }

    #[inline(always)]
    fn next_available(&self, service: u32, from: u32, leaves: u64) -> Option<u32> {
        u32::try_from(idle_next(service, from, leaves)).ok()
    }

    #[inline(always)]
    fn best(&self, service: u32, by: By, leaves: u64) -> Option<u32> {
        u32::try_from(idle_best(service, by.into_number(), leaves)).ok()
    }

    #[inline(always)]
    fn best_in_leaf(&self, service: u32, number: u32, start: u32, by: By) -> u64 {
        idle_best_of(service, number, start, by.into_number())
    }

    #[inline(always)]
    fn score(&self, leaf: u32, place: u32, by: By, now_ns: u64) -> u64 {
        idle_score(leaf, place, by.into_number(), now_ns)
    }

    #[inline(always)]
    fn load_at(&self, service: u32, position: u32) -> Load {
        Load::from_word(idle_load(service, position))
    }

    #[inline(always)]
    fn elect(&self, service: u32, _: Side) -> u64 {
        idle_elect(service)
    }

    #[inline(always)]
    fn successor(&self, service: u32, former: u32) -> Heir {
        Heir::from_word(idle_successor(service, former))
    }

    #[inline(always)]
    fn heir(&self, service: u32, place: u32, former: u32) -> u64 {
        idle_heir(service, place, former)
    }

    #[inline(always)]
    fn readmit(&self, backend: u32) -> bool {
        idle_readmit(backend) != 0
    }

    #[inline(always)]
    fn usable_in_leaf(&self, service: u32, number: u32) -> Option<u32> {
        u32::try_from(idle_usable(service, number)).ok()
    }

    #[inline(always)]
    fn trial(&self, service: u32, _: Side) -> Option<u32> {
        u32::try_from(idle_trial(service)).ok()
    }

    #[inline(always)]
    fn try_position(&self, service: u32, position: u32, now_ns: u64, _: Side) -> Option<u32> {
        u32::try_from(idle_try(service, position, now_ns)).ok()
    }
}

/// An option as a word, in which form it crosses a function of the kernel's own.
#[inline(always)]
fn word(number: Option<u32>) -> u64 {
    match number {
        Some(number) => number as u64,
        None => u64::MAX,
    }
}

// Global functions: the verifier checks each once, for any arguments, and not
// again at every call. They take and return plain words for that.

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_refresh(backend: u32) -> u64 {
    index::refresh(&Maps, backend);
    0
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_take_next(service: u32, from: u32, want: u32, luck: u32, leaves: u64) -> u64 {
    let search = Search {
        service,
        from,
        want: Want::from_number(want),
        taker: taker(luck),
        leaves,
    };
    select::take_next(&Maps, &search).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_take_at(service: u32, position: u32, want: u32, luck: u32) -> u64 {
    let want = Want::from_number(want);
    select::take_at(&Maps, service, position, want, taker(luck)).into_word()
}

#[inline(always)]
fn taker(luck: u32) -> Taker {
    Taker {
        luck,
        side: Side::Kernel,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_place(word: u64, number: u64) -> u64 {
    index::place_of_set_bit(word, number) as u64
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_count_draw(service: u32, index: u32, summary: u64) -> u64 {
    match index::draw_by_count(&Maps, service, Index::from_number(index), summary) {
        Found::At(position) => position as u64,
        _ => u64::MAX,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_leaf(service: u32, number: u32, index: u32) -> u64 {
    index::leaf_word_of(&Maps, service, number, Index::from_number(index))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_draw(service: u32, leaves: u64) -> u64 {
    word(select::draw(&Maps, service, leaves))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_next(service: u32, from: u32, leaves: u64) -> u64 {
    word(select::next_available(&Maps, service, from, leaves))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_best(service: u32, by: u32, leaves: u64) -> u64 {
    word(select::best(&Maps, service, By::from_number(by), leaves))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_best_of(service: u32, number: u32, start: u32, by: u32) -> u64 {
    select::best_in_leaf(&Maps, service, number, start, By::from_number(by))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_score(leaf: u32, place: u32, by: u32, now_ns: u64) -> u64 {
    select::score(&Maps, leaf, place, By::from_number(by), now_ns)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_load(service: u32, position: u32) -> u64 {
    select::load_at(&Maps, service, position).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_elect(service: u32) -> u64 {
    select::elect(&Maps, service, Side::Kernel)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_successor(service: u32, former: u32) -> u64 {
    select::successor(&Maps, service, former).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_heir(service: u32, place: u32, former: u32) -> u64 {
    select::heir(&Maps, service, place, former)
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_usable(service: u32, number: u32) -> u64 {
    word(select::usable_in_leaf(&Maps, service, number))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_try(service: u32, position: u32, now_ns: u64) -> u64 {
    word(breaker::try_position(
        &Maps,
        service,
        position,
        now_ns,
        Side::Kernel,
    ))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_choose(service: u32, client: u64) -> u64 {
    select::attempt(&Maps, service, client, Side::Kernel).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_within(service: u32, client: u64, leaves: u64, luck: u32) -> u64 {
    select::within(&Maps, service, client, leaves, taker(luck)).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_bound(service: u32, backend: u32, generation: u32) -> u64 {
    select::take_bound(&Maps, service, backend, generation, Side::Kernel).into_word()
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_over_admit(service: u32) -> u64 {
    word(select::over_admit(&Maps, service, Side::Kernel))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_trial(service: u32) -> u64 {
    word(breaker::trial_if_due(&Maps, service, Side::Kernel))
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_failed(service: u32, backend: u32) -> u64 {
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    match breaker::failed(&Maps, service, backend, now_ns) {
        Failure::Counted => 0,
        Failure::Ejected => 1,
        Failure::TrialFailed => 2,
    }
}

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_readmit(backend: u32) -> u64 {
    breaker::readmit(&Maps, backend) as u64
}

/// See [`select::choose`].
#[inline(always)]
pub fn choose(service: u32, client: u64) -> Attempt {
    Attempt::from_word(idle_choose(service, client))
}

/// See [`select::take_bound`].
#[inline(always)]
pub fn take_bound(service: u32, bound: &Bound) -> Attempt {
    Attempt::from_word(idle_bound(service, bound.backend, bound.generation))
}

/// See [`select::over_admit`].
#[inline(always)]
pub fn over_admit(service: u32) -> Option<u32> {
    u32::try_from(idle_over_admit(service)).ok()
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

/// See [`breaker::failed`].
#[inline(always)]
pub fn failed(service: u32, backend: u32) -> Failure {
    match idle_failed(service, backend) {
        0 => Failure::Counted,
        1 => Failure::Ejected,
        _ => Failure::TrialFailed,
    }
}

/// See [`breaker::readmit`].
#[inline(always)]
pub fn readmit(backend: u32) -> bool {
    idle_readmit(backend) != 0
}

/// The service behind a frontend.
#[inline(always)]
pub fn service_of(frontend: &FrontendKey) -> Option<u32> {
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
    // SAFETY: as in `service_of`.
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

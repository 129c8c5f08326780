//! Steering a `connect()`: frontend look-up, choice of a backend, slot, rewrite.
//!
//! The order keeps the promises: the frontend is looked up first, so a
//! connection to anything else costs one failed look-up; what the socket still
//! holds from an earlier attempt is given back before anything new is taken;
//! the socket's record is there before the slot is, so no slot is ever unowned.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_get_netns_cookie, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use balancer_common::{
    address::{Address, FrontendKey, Port, TCP},
    affinity::{self, Binding, Bound},
    atomic::{load32, store},
    connection::{
        AGENT_MARK, Connection, HELD_SLOT, STEERED_MEASURED, STEERED_TO_LEADER, SWITCH_LOG,
        SWITCH_STEER_EVENTS,
    },
    counter::{Fault, ServiceCounter},
    event::EventKind,
    rate,
    select::{self, Attempt, How, Refusal},
    service::{
        Admission, SERVICE_MEASURED, SERVICE_OVERTAKING, SERVICE_PRESENT, SERVICE_REFUSE_IN_KERNEL,
        SERVICE_REFUSE_WITHOUT_AGENT, Service, Strategy, Tables,
    },
    slot::Side,
    waiting,
};

use crate::{
    exempt,
    fault::{self, Verdict},
    maps,
    overflow::{self, State},
    report,
    tables::{self, Maps},
    track,
};

/// One steering decision in so many is reported when someone watches.
const STEER_SAMPLE: u32 = 16;

/// How a family reads and writes the address in the hook's context.
pub trait Family {
    /// The destination, IPv4-mapped for IPv4.
    fn read(addr: *const bpf_sock_addr) -> Address;
    /// Replaces it. Says whether this family can hold `address`.
    fn write(addr: *mut bpf_sock_addr, address: Address) -> bool;
}

/// `AF_INET` hooks.
pub struct V4;
/// `AF_INET6` hooks, mapped addresses included.
pub struct V6;

impl Family for V4 {
    #[inline(always)]
    fn read(addr: *const bpf_sock_addr) -> Address {
        // SAFETY: the context is valid; v4 hooks may read this field.
        Address::mapped(unsafe { (*addr).user_ip4 })
    }

    #[inline(always)]
    fn write(addr: *mut bpf_sock_addr, address: Address) -> bool {
        if !address.is_mapped() {
            return false;
        }
        // SAFETY: as above, and v4 hooks may write it.
        unsafe { (*addr).user_ip4 = address.0[3] };
        true
    }
}

impl Family for V6 {
    #[inline(always)]
    fn read(addr: *const bpf_sock_addr) -> Address {
        // SAFETY: the context is valid; v6 hooks may read these fields. They are
        // read word by word: the verifier knows no wider access to them.
        unsafe {
            Address([
                (&raw const (*addr).user_ip6[0]).read_volatile(),
                (&raw const (*addr).user_ip6[1]).read_volatile(),
                (&raw const (*addr).user_ip6[2]).read_volatile(),
                (&raw const (*addr).user_ip6[3]).read_volatile(),
            ])
        }
    }

    #[inline(always)]
    fn write(addr: *mut bpf_sock_addr, address: Address) -> bool {
        let [a, b, c, d] = address.0;
        // SAFETY: as above, and v6 hooks may write them, word by word.
        unsafe {
            (&raw mut (*addr).user_ip6[0]).write_volatile(a);
            (&raw mut (*addr).user_ip6[1]).write_volatile(b);
            (&raw mut (*addr).user_ip6[2]).write_volatile(c);
            (&raw mut (*addr).user_ip6[3]).write_volatile(d);
        }
        true
    }
}

/// Body of both connect programs.
#[inline(always)]
pub fn connect<F: Family>(ctx: &SockAddrContext) -> i32 {
    let addr = ctx.sock_addr;
    // SAFETY: the context is valid; these fields are readable in every hook.
    let (protocol, port) = unsafe { ((*addr).protocol, (*addr).user_port) };
    if protocol != TCP as u32 {
        return Verdict::Proceed.into_return();
    }
    let (frontend, port) = (F::read(addr), Port(port as u16));
    let Some(leads_to) = maps::leads_to(&FrontendKey::tcp(frontend, port)) else {
        leave_alone(ctx);
        return Verdict::Proceed.into_return();
    };
    if is_agents(ctx) || exempt::is_exempt(leads_to) {
        leave_alone(ctx);
        return Verdict::Proceed.into_return();
    }
    let timer = Timer::start();
    let verdict = match try_connect::<F>(ctx, leads_to.id(), frontend, port) {
        Ok(verdict) => verdict,
        Err(fault) => fault::verdict(fault),
    };
    timer.stop();
    verdict.into_return()
}

/// Times one decision in [`Timer::EVERY`]: reading the precise clock twice can
/// cost as much as a decision.
struct Timer {
    /// 0: this one is not timed.
    started_ns: u64,
}

impl Timer {
    const EVERY: u32 = 64;

    #[inline(always)]
    fn start() -> Self {
        if !Maps.random().is_multiple_of(Self::EVERY) {
            return Self { started_ns: 0 };
        }
        // SAFETY: the helper has no preconditions.
        let started_ns = unsafe { bpf_ktime_get_ns() };
        Self { started_ns }
    }

    #[inline(always)]
    fn stop(self) {
        if self.started_ns != 0 {
            // SAFETY: as in `start`.
            maps::count_decision(unsafe { bpf_ktime_get_ns() } - self.started_ns);
        }
    }
}

#[inline(always)]
fn try_connect<F: Family>(
    ctx: &SockAddrContext,
    service_id: u32,
    frontend: Address,
    port: Port,
) -> Result<Verdict, Fault> {
    let service = Maps.service(service_id).ok_or(Fault::NoService)?;
    if load32(&service.flags) & SERVICE_PRESENT == 0 {
        leave_alone(ctx);
        return Err(Fault::NoService);
    }
    let dial = Dial {
        record: empty_record(ctx)?,
        service: service_id,
        frontend,
        port,
    };
    let by_request = load32(&service.admission) == Admission::Request as u32;
    // With admission by request the agent counts requests, not connections.
    if !by_request && !rate::admit(service, rate_clock(service)) {
        maps::count(service_id, ServiceCounter::RateLimited);
        return Ok(Verdict::Refuse);
    }
    let mut way = None;
    if by_request || must_queue(service) {
        way = overflow::way(ctx, &dial);
        if way.is_some() && waiting::queued(&service.waiting) != 0 {
            // The agent takes what it is sent, so those on their way count too.
            store(&service.sent_at_ns, overflow::coarse_clock());
        }
    }
    let mut choice = Choice::NONE;
    if way.is_none() && is_after_those_who_wait(service) {
        maps::count(service_id, ServiceCounter::AgentGone);
        return Ok(Verdict::Refuse);
    }
    if way.is_none() {
        choice = choose(ctx, service_id, service);
        if choice.backend == Choice::NONE.backend {
            if refuses_all(service) {
                maps::count(service_id, ServiceCounter::NoBackends);
                return Ok(Verdict::Refuse);
            }
            way = overflow::way(ctx, &dial);
            if way.is_some() {
                store(&service.sent_at_ns, overflow::coarse_clock());
            } else {
                choice = without_agent(service_id, service);
            }
        }
    }
    match way {
        Some(way) => overflow::send::<F>(ctx, &dial, service, &way),
        None if choice.backend == Choice::NONE.backend => {
            maps::count(service_id, choice.counter);
            Ok(Verdict::Refuse)
        }
        None => dial.steer_to_backend::<F>(ctx, service, &choice),
    }
}

/// A backend on which a slot is taken, and how that is counted.
#[derive(Clone, Copy)]
pub struct Choice {
    /// Its id; or that of [`Choice::NONE`].
    backend: u32,
    counter: ServiceCounter,
}

impl Choice {
    /// No backend. (An `Option` would leave fields undefined, which the verifier
    /// lets no program even copy.)
    const NONE: Self = Self {
        backend: u32::MAX,
        counter: ServiceCounter::NoBackends,
    };

    #[inline(always)]
    fn of(service_id: u32, attempt: Attempt) -> Self {
        let taken = match attempt.result() {
            Ok(taken) => taken,
            Err(refusal) => {
                if matches!(refusal, Refusal::Contended) {
                    maps::count_fault(Fault::Contended);
                }
                return Self::NONE;
            }
        };
        if taken.was_elected {
            report::elected(service_id, taken.backend);
        }
        Self {
            backend: taken.backend,
            counter: match taken.how {
                How::Idle => ServiceCounter::Idle,
                How::Shared => ServiceCounter::Shared,
                How::Trial => ServiceCounter::Trial,
            },
        }
    }
}

/// Takes a slot on an available backend, if there is one.
#[inline(always)]
fn choose(ctx: &SockAddrContext, service_id: u32, service: &Service) -> Choice {
    let client = client_of(ctx, service);
    if affinity::is_on(service) {
        return choose_bound(service_id, service, client);
    }
    Choice::of(service_id, tables::choose(service_id, client))
}

/// The same for a client that is bound to a backend, and otherwise will be.
#[inline(always)]
fn choose_bound(service_id: u32, service: &Service, client: u64) -> Choice {
    let now_ns = overflow::coarse_clock();
    let binding = Binding {
        client,
        service: service_id,
        generation: load32(&service.generation),
    };
    let bound = maps::bound(&binding);
    // SAFETY: null, or an entry of the map, which stays readable and writable until the program
    // ends; one that is reused meanwhile names another backend, by a generation of its own.
    if let Some(bound) = unsafe { bound.as_mut() }
        && affinity::holds(service, bound, now_ns)
    {
        let attempt = tables::take_bound(service_id, bound);
        if attempt.is_taken() {
            bound.used_at_ns = now_ns;
            return Choice::of(service_id, attempt);
        }
    }
    let attempt = tables::choose(service_id, client);
    let choice = Choice::of(service_id, attempt);
    if let Some(backend) = Maps.backend(choice.backend) {
        let bound = Bound {
            used_at_ns: now_ns,
            backend: choice.backend,
            generation: load32(&backend.generation),
        };
        maps::bind(&binding, &bound);
    }
    choice
}

/// The identity of the client, for services that go by it: the cookie of its network namespace,
/// since the hook knows no source address.
#[inline(always)]
fn client_of(ctx: &SockAddrContext, service: &Service) -> u64 {
    let by_client = load32(&service.strategy) == Strategy::ConsistentHash as u32;
    if !by_client && !affinity::is_on(service) {
        return 0;
    }
    // SAFETY: the context is valid.
    unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) }
}

/// What becomes of a connection that finds no backend available and no agent:
/// the choice of a full backend, or the counter for its refusal. What a dead agent held is free. No limit
/// is exceeded for an agent that has been gone for but a moment, or that is still there to give slots
/// back.
#[inline(always)]
fn without_agent(service_id: u32, service: &Service) -> Choice {
    let state = overflow::agent_state();
    if matches!(state, State::JustGone | State::Gone)
        && let Some(backend) = tables::reclaim(service_id)
    {
        let counter = ServiceCounter::Shared;
        return Choice { backend, counter };
    }
    let refuses = load32(&service.flags) & SERVICE_REFUSE_WITHOUT_AGENT != 0;
    if refuses || matches!(state, State::JustGone | State::Closed) {
        return Choice {
            counter: ServiceCounter::AgentGone,
            ..Choice::NONE
        };
    }
    match tables::over_admit(service_id) {
        Some(backend) => Choice {
            backend,
            counter: ServiceCounter::OverAdmitted,
        },
        None => Choice::NONE,
    }
}

/// Whether the service has no backend at all, and the programs are to say so.
#[inline(always)]
fn refuses_all(service: &Service) -> bool {
    load32(&service.backends) == 0 && load32(&service.flags) & SERVICE_REFUSE_IN_KERNEL != 0
}

/// Whether newcomers have to go where others wait already.
#[inline(always)]
fn must_queue(service: &Service) -> bool {
    waiting::count(&service.waiting) != 0
        && load32(&service.flags) & SERVICE_OVERTAKING == 0
        && waiting::ahead(service, overflow::coarse_clock()) != 0
}

/// Whether a newcomer would take the slot of those who still wait with an agent that is about to end,
/// and takes nobody any more.
#[inline(always)]
fn is_after_those_who_wait(service: &Service) -> bool {
    waiting::queued(&service.waiting) != 0
        && load32(&service.flags) & SERVICE_OVERTAKING == 0
        && matches!(overflow::agent_state(), State::Closed)
}

/// The clock by which the rate limit goes; services without one are spared it.
#[inline(always)]
fn rate_clock(service: &Service) -> u64 {
    if !rate::is_limited(service) {
        return 0;
    }
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Whether the socket is one of the agent's own, by its mark.
#[inline(always)]
fn is_agents(ctx: &SockAddrContext) -> bool {
    // SAFETY: the context is valid; the socket is null or may be read.
    unsafe {
        let socket = (*ctx.sock_addr).__bindgen_anon_1.sk;
        !socket.is_null() && (*socket).mark == AGENT_MARK
    }
}

/// A connect to a frontend, on its way to somewhere.
pub struct Dial {
    /// The socket's record, holding nothing.
    record: *mut Connection,
    /// Id of the service.
    pub service: u32,
    /// What the client dials.
    pub frontend: Address,
    /// Its port.
    port: Port,
}

/// Where a connect is steered, and what the socket's record says of it.
pub struct Target {
    /// Id of the backend; 0 for the agent.
    pub backend: u32,
    /// Its generation.
    pub generation: u32,
    /// Where to go.
    pub address: Address,
    /// The port there.
    pub port: Port,
    /// One of `HELD_*`.
    pub held: u64,
    /// Bits of `STEERED_*`.
    pub flags: u16,
}

impl Dial {
    /// Steers to a backend on which a slot is taken, which is given back if that
    /// fails.
    #[inline(always)]
    pub fn steer_to_backend<F: Family>(
        &self,
        ctx: &SockAddrContext,
        service: &Service,
        choice: &Choice,
    ) -> Result<Verdict, Fault> {
        let id = choice.backend;
        let backend = Maps.backend(id).ok_or(Fault::NoService)?;
        let (address, port) = backend.address();
        let target = Target {
            backend: id,
            generation: load32(&backend.generation),
            address,
            port,
            held: HELD_SLOT,
            flags: flags_of(service),
        };
        if !self.steer::<F>(ctx, &target) {
            select::give_back(&Maps, id, Side::Kernel);
            return Err(Fault::FamilyMismatch);
        }
        maps::count(self.service, choice.counter);
        self.tell(ctx, &target);
        Ok(Verdict::Proceed)
    }

    /// Rewrites the destination and fills the record. Says whether the socket's
    /// family can hold the address; if not, nothing has changed.
    #[inline(always)]
    pub fn steer<F: Family>(&self, ctx: &SockAddrContext, target: &Target) -> bool {
        if !F::write(ctx.sock_addr, target.address) {
            return false;
        }
        let record = self.record;
        // SAFETY: the context is valid and connect hooks may write the port.
        // `record` is this socket's own, and connects on one socket are
        // serialised by the socket lock.
        unsafe {
            (*ctx.sock_addr).user_port = target.port.0 as u32;
            // Coarse: good to a scheduler tick, enough for an age, and far cheaper.
            (*record).steered_at_ns = bpf_ktime_get_coarse_ns();
            (*record).service = self.service;
            (*record).backend = target.backend;
            (*record).generation = target.generation;
            (*record).frontend = self.frontend;
            (*record).frontend_port = self.port;
            (*record).client_port = Port(0);
            (*record).destination = target.address;
            (*record).destination_port = target.port;
            (*record).flags = target.flags;
            store(&(*record).held, target.held);
        }
        true
    }

    /// Shows the decision to whoever wants to look.
    #[inline(always)]
    fn tell(&self, ctx: &SockAddrContext, target: &Target) {
        let switches = maps::switches();
        if switches & SWITCH_LOG != 0 {
            debug!(
                ctx,
                "service {} steered to backend {}", self.service, target.backend
            );
        }
        if switches & SWITCH_STEER_EVENTS != 0 && Maps.random().is_multiple_of(STEER_SAMPLE) {
            let (service, backend) = (self.service, target.backend);
            report::send(EventKind::Steered, service, backend, target.generation);
        }
    }
}

/// What is to be noted of the connection on its way.
#[inline(always)]
fn flags_of(service: &Service) -> u16 {
    let mut flags = 0;
    if load32(&service.flags) & SERVICE_MEASURED != 0 {
        flags |= STEERED_MEASURED;
    }
    if load32(&service.strategy) == Strategy::Leader as u32 {
        flags |= STEERED_TO_LEADER;
    }
    flags
}

/// The socket dials something that is no frontend. If an earlier connect on it
/// was steered and failed before the kernel told us, that one ends here.
#[inline(always)]
fn leave_alone(ctx: &SockAddrContext) {
    // The record of this very socket: further subflows of a steered Multipath
    // TCP connection pass here too, and must not end it.
    // SAFETY: the context is valid.
    let record = maps::own_record(unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk });
    if !record.is_null() {
        track::end(record);
    }
}

/// The socket's record, holding nothing.
#[inline(always)]
fn empty_record(ctx: &SockAddrContext) -> Result<*mut Connection, Fault> {
    // SAFETY: the context is valid.
    let record = maps::record_or_new(unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk });
    if record.is_null() {
        return Err(Fault::NoConnection);
    }
    // A connect that failed earlier on this socket may have left its slot:
    track::end(record);
    Ok(record)
}

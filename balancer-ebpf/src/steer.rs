//! Steering a `connect()`: frontend look-up, choice of a backend, slot, rewrite.
//!
//! The order keeps the promises: the frontend is looked up first, so a
//! connection to anything else costs one failed look-up; what the socket still
//! holds from an earlier attempt is given back before anything new is taken;
//! the socket's record is there before the slot is, so no slot is ever unowned.

use aya_ebpf::{
    bindings::bpf_sock_addr,
    helpers::{bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    programs::SockAddrContext,
};
use aya_log_ebpf::debug;
use balancer_common::{
    address::{Address, FrontendKey, Port, TCP},
    atomic::{load32, store},
    connection::{Connection, HELD_SLOT, SWITCH_LOG},
    counter::{Fault, ServiceCounter},
    select::{self, Refusal},
    service::{SERVICE_PRESENT, Service, Tables},
    slot::Side,
};

use crate::{
    fault::{self, Verdict},
    maps::{self, Maps},
    track,
};

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
    let frontend = (F::read(addr), Port(port as u16));
    let Some(service_id) = maps::service_of(&FrontendKey::tcp(frontend.0, frontend.1)) else {
        leave_alone(ctx);
        return Verdict::Proceed.into_return();
    };
    let timer = Timer::start();
    let verdict = match try_connect::<F>(ctx, service_id, frontend) {
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
    frontend: (Address, Port),
) -> Result<Verdict, Fault> {
    let service = Maps.service(service_id).ok_or(Fault::NoService)?;
    if load32(&service.flags) & SERVICE_PRESENT == 0 {
        return Err(Fault::NoService);
    }
    let record = empty_record(ctx)?;
    let taken = match select::idle_first(&Maps, service_id, Side::Kernel) {
        Ok(taken) => taken,
        Err(refusal) => return refuse(ctx, service_id, service, refusal),
    };
    let backend = Maps.backend(taken.backend).ok_or(Fault::NoService)?;
    let (address, port) = backend.address();
    if !F::write(ctx.sock_addr, address) {
        select::give_back(&Maps, taken.backend, Side::Kernel);
        return Err(Fault::FamilyMismatch);
    }
    // SAFETY: the context is valid and connect hooks may write the port.
    unsafe { (*ctx.sock_addr).user_port = port.0 as u32 };
    // SAFETY: `record` is this socket's own, and connects on one socket are
    // serialised by the socket lock.
    unsafe {
        let chosen = (taken.backend, load32(&backend.generation));
        fill_record(record, service_id, chosen, frontend, (address, port));
    };
    maps::count(
        service_id,
        if taken.was_idle {
            ServiceCounter::Idle
        } else {
            ServiceCounter::Shared
        },
    );
    if maps::switches() & SWITCH_LOG != 0 {
        debug!(
            ctx,
            "service {} steered to backend {}", service_id, taken.backend
        );
    }
    Ok(Verdict::Proceed)
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

/// # Safety
///
/// `record` must be the record of the socket whose lock is held.
#[inline(always)]
unsafe fn fill_record(
    record: *mut Connection,
    service: u32,
    (backend, generation): (u32, u32),
    frontend: (Address, Port),
    destination: (Address, Port),
) {
    // SAFETY: the caller vouches for `record`.
    unsafe {
        // Coarse: good to a scheduler tick, enough for an age, and far cheaper.
        (*record).steered_at_ns = bpf_ktime_get_coarse_ns();
        (*record).service = service;
        (*record).backend = backend;
        (*record).generation = generation;
        (*record).frontend = frontend.0;
        (*record).frontend_port = frontend.1;
        (*record).client_port = Port(0);
        (*record).destination = destination.0;
        (*record).destination_port = destination.1;
        store(&(*record).held, HELD_SLOT);
    }
}

#[inline(always)]
fn refuse(
    ctx: &SockAddrContext,
    service_id: u32,
    service: &Service,
    refusal: Refusal,
) -> Result<Verdict, Fault> {
    if maps::switches() & SWITCH_LOG != 0 {
        debug!(ctx, "service {} refused: no backend available", service_id);
    }
    match refusal {
        Refusal::Contended => maps::count_fault(Fault::Contended),
        Refusal::NoneAvailable => {}
    }
    let empty = load32(&service.backends) == 0;
    maps::count(
        service_id,
        if empty {
            ServiceCounter::NoBackends
        } else {
            ServiceCounter::Refused
        },
    );
    Ok(Verdict::Refuse)
}

//! Sending a connection to the agent, if it is there to take it.

use aya_ebpf::{
    helpers::{bpf_get_netns_cookie, bpf_ktime_get_coarse_ns},
    programs::SockAddrContext,
};
use balancer_common::{
    address::{Address, Port},
    atomic::load32,
    connection::{AGENT_GONE_AFTER_NS, AgentState, HELD_WAY, STEERED_TO_AGENT, SWITCH_CLOSED},
    counter::{Fault, ServiceCounter},
    maps::LISTENER_V4,
    service::{Admission, SERVICE_REFUSE_IN_KERNEL, Service},
    waiting,
};

use crate::{
    fault::Verdict,
    maps,
    steer::{Dial, Family, Target},
};

/// The agent, if it lives and takes overflow where this client can reach it.
///
/// It lives if it has given a sign of life not long ago, and still listens: the former ends some time
/// after it is stuck, the latter as soon as it is dead.
pub struct Way {
    address: Address,
    port: Port,
}

/// How to reach the agent; `None` if it is gone.
#[inline(always)]
pub fn way(ctx: &SockAddrContext, dial: &Dial) -> Option<Way> {
    let agent = maps::agent()?;
    if !matches!(state(agent), State::Alive) {
        return None;
    }
    let way = reachable(ctx, agent, dial.frontend.is_mapped());
    if way.is_none() {
        maps::count_fault(Fault::NoOverflow);
    }
    way
}

/// How the agent is.
#[derive(Clone, Copy)]
pub enum State {
    /// It takes what it is sent.
    Alive,
    /// It takes nothing yet, or nothing more, and goes on with what it has.
    Closed,
    /// Its process is there and says nothing.
    Stalled,
    /// It has ended a moment ago, and may well be back before it counts as gone.
    JustGone,
    /// It ended long ago.
    Gone,
}

/// How the agent is.
#[inline(always)]
pub fn agent_state() -> State {
    match maps::agent() {
        Some(agent) => state(agent),
        None => State::Gone,
    }
}

#[inline(always)]
fn state(agent: &AgentState) -> State {
    let is_silent = is_silent(agent);
    if has_closed(agent) {
        return if is_silent {
            State::Gone
        } else {
            State::JustGone
        };
    }
    if agent.switches & SWITCH_CLOSED != 0 {
        return State::Closed;
    }
    if is_silent {
        State::Stalled
    } else {
        State::Alive
    }
}

#[inline(always)]
fn is_silent(agent: &AgentState) -> bool {
    coarse_clock().wrapping_sub(agent.heartbeat_ns) as i64 > AGENT_GONE_AFTER_NS as i64
}

/// Whether the agent had a listener, and has it no more. It always has one for IPv4.
#[inline(always)]
fn has_closed(agent: &AgentState) -> bool {
    agent.port_v4 != Port(0) && !maps::has_listener(LISTENER_V4)
}

/// Where a client reaches the agent: over loopback in the agent's own network
/// namespace, at the node's address from any other.
#[inline(always)]
fn reachable(ctx: &SockAddrContext, agent: &AgentState, v4: bool) -> Option<Way> {
    // SAFETY: the context is valid.
    let is_local = unsafe { bpf_get_netns_cookie(ctx.sock_addr.cast()) } == agent.netns_cookie;
    let (address, port) = match (v4, is_local) {
        (true, true) => (Address::LOOPBACK_V4, agent.port_v4),
        (true, false) => (agent.overflow_v4, agent.port_v4),
        (false, true) => (Address::LOOPBACK_V6, agent.port_v6),
        (false, false) => (agent.overflow_v6, agent.port_v6),
    };
    (port != Port(0) && !address.is_none()).then_some(Way { address, port })
}

/// Steers the connection to the agent, unless its queue is full and the
/// programs are to refuse what finds it so.
#[inline(always)]
pub fn send<F: Family>(
    ctx: &SockAddrContext,
    dial: &Dial,
    service: &Service,
    way: &Way,
) -> Result<Verdict, Fault> {
    if load32(&service.flags) & SERVICE_REFUSE_IN_KERNEL != 0 && is_full(service) {
        maps::count(dial.service, ServiceCounter::QueueFull);
        return Ok(Verdict::Refuse);
    }
    let target = Target {
        backend: 0,
        generation: 0,
        address: way.address,
        port: way.port,
        // It counts as sent once it is published, when nothing can go wrong any more.
        held: HELD_WAY,
        flags: STEERED_TO_AGENT,
    };
    if !dial.steer::<F>(ctx, &target) {
        return Err(Fault::FamilyMismatch);
    }
    maps::count(dial.service, ServiceCounter::Sent);
    Ok(Verdict::Proceed)
}

/// Whether as many wait as may. With admission by request it is requests that
/// wait, and a connection may bring one that need not.
#[inline(always)]
fn is_full(service: &Service) -> bool {
    let size = load32(&service.queue_size);
    if load32(&service.admission) == Admission::Request as u32 {
        return waiting::queued(&service.waiting) >= size.max(1);
    }
    waiting::ahead(service, coarse_clock()) >= size as u64
}

/// Good to a scheduler tick, and cheap.
#[inline(always)]
pub fn coarse_clock() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

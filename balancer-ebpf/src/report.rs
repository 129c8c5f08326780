//! Telling the agent what happened, through the ring buffer.
//!
//! Nobody waits for these: the agent looks for itself every few milliseconds,
//! so a lost event costs time and no more. Losses are counted.

use aya_ebpf::helpers::bpf_ktime_get_ns;
use balancer_common::{
    atomic::{load, load32},
    connection::Connection,
    counter::Fault,
    event::{Event, EventKind},
    maps::MAX_MEMBERSHIPS,
    service::{Backend, Membership, Tables},
    waiting,
};

use crate::{maps, tables::Maps};

/// A slot of this backend came free: wakes the queues of all its services.
#[inline(always)]
pub fn slot_freed(id: u32, backend: &Backend) {
    let mut number = 0;
    while number < MAX_MEMBERSHIPS {
        let Some((service, _)) = Membership(load(&backend.memberships[number])).parts() else {
            return;
        };
        if Maps
            .service(service)
            .is_some_and(|service| waiting::queued(&service.waiting) != 0)
        {
            send(
                EventKind::SlotFreed,
                service,
                id,
                load32(&backend.generation),
            );
        }
        number += 1;
    }
}

/// A backend became the leader of a service.
#[inline(always)]
pub fn elected(service: u32, backend: u32) {
    let (Some(record), Some(leader)) = (Maps.service(service), Maps.backend(backend)) else {
        return;
    };
    // SAFETY: the helper has no preconditions.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let event = Event {
        at_ns,
        steered_at_ns: load(&record.leaderless_since_ns),
        kind: EventKind::Elected as u32,
        service,
        backend,
        generation: load32(&leader.generation),
        ..Event::default()
    };
    output(&event);
}

/// The first connection to a new leader stands.
#[inline(always)]
pub fn failed_over(connection: &Connection, since_ns: u64) {
    // SAFETY: the helper has no preconditions.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let event = Event {
        at_ns,
        steered_at_ns: since_ns,
        kind: EventKind::FailedOver as u32,
        service: connection.service,
        backend: connection.backend,
        generation: connection.generation,
        ..Event::default()
    };
    output(&event);
}

/// Something happened to a backend of a service.
#[inline(always)]
pub fn send(kind: EventKind, service: u32, backend: u32, generation: u32) {
    // SAFETY: the helper has no preconditions.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let event = Event {
        at_ns,
        kind: kind as u32,
        service,
        backend,
        generation,
        ..Event::default()
    };
    output(&event);
}

/// Something happened to a steered connection.
#[inline(always)]
pub fn send_of(kind: EventKind, connection: &Connection) {
    // SAFETY: the helper has no preconditions.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let event = Event {
        at_ns,
        kind: kind as u32,
        service: connection.service,
        backend: connection.backend,
        generation: connection.generation,
        client: connection.client,
        client_port: connection.client_port,
        steered_at_ns: connection.steered_at_ns,
        reserved: [0; 3],
    };
    output(&event);
}

#[inline(always)]
fn output(event: &Event) {
    if maps::output(event).is_err() {
        maps::count_fault(Fault::EventLost);
    }
}

//! Following a steered socket to its end, and giving its slot back once.
//!
//! Facts this rests on (Linux 6.1 and 6.18, net/ipv4/tcp.c and tcp_output.c):
//! `BPF_SOCK_OPS_TCP_CONNECT_CB` comes when the source address is known and
//! before the SYN; state callbacks are silent until switched on per socket;
//! `sock_release` comes at the last close, before the FIN. A connect that fails
//! before the SYN (no route, no port) causes none of these: its slot goes back
//! at the next connect on the socket or at its close.

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_HDR_OPT_LEN_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
        BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE,
        BPF_TCP_ESTABLISHED, BPF_TCP_SYN_RECV, BPF_TCP_SYN_SENT, bpf_sock, bpf_sock_ops,
    },
    helpers::{bpf_get_netns_cookie, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns},
    programs::{SockContext, SockOpsContext},
};
use balancer_common::{
    address::{Address, Port},
    atomic::{load, load32, store32, swap},
    breaker::Failure,
    connection::{
        Connection, Flow, FlowTarget, HELD_FLOW, HELD_NOTHING, HELD_SLOT, HELD_WAY,
        STEERED_ESTABLISHED, STEERED_TO_AGENT, STEERED_TO_LEADER,
    },
    counter::{Fault, HELD_UNIT_BITS, ServiceCounter},
    event::EventKind,
    select,
    service::Tables,
    slot::Side,
    waiting,
};

use crate::{
    maps, report, response,
    tables::{self, Maps},
};

/// How long a client must have waited for its connection before giving up
/// counts as a failure of the backend: as long as the first SYN waits for an
/// answer (TCP_TIMEOUT_INIT, RFC 6298).
const PATIENCE_NS: u64 = 1_000_000_000;

const AF_INET: u32 = 2;

/// Body of `sock_ops`.
#[inline(always)]
pub fn on_event(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => on_connect(ctx),
        BPF_SOCK_OPS_STATE_CB => on_state(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => on_listen(ctx),
        BPF_SOCK_OPS_HDR_OPT_LEN_CB => response::on_segment(ctx),
        _ => {}
    }
}

/// Body of `sock_release`.
#[inline(always)]
pub fn on_release(ctx: &SockContext) {
    let record = maps::own_record(ctx.sock);
    if !record.is_null() {
        end(record);
    }
}

/// The socket is no steered connection any more: gives back what it still holds,
/// and forgets the rest. `record` must not be null.
#[inline(always)]
pub fn end(record: *mut Connection) {
    // SAFETY: not null, and it lives as long as the socket.
    let connection = unsafe { &*record };
    if connection.flags & STEERED_TO_AGENT != 0 {
        end_way(connection);
    } else {
        note_abandoned(connection);
        release(connection);
    }
    // SAFETY: as above; nobody else writes these fields.
    unsafe {
        (*record).steered_at_ns = 0;
        (*record).flags = 0;
    }
}

/// Gives the socket's slot back, if it still holds one.
#[inline(always)]
fn release(connection: &Connection) {
    if load(&connection.held) != HELD_SLOT || swap(&connection.held, HELD_NOTHING) != HELD_SLOT {
        return;
    }
    let id = connection.backend;
    let Some(backend) = Maps.backend(id) else {
        return;
    };
    if load32(&backend.generation) != connection.generation {
        maps::count_fault(Fault::StaleGeneration);
        return;
    }
    response::on_release(connection, backend);
    if select::give_back(&Maps, id, Side::Kernel).is_none() {
        maps::count_fault(Fault::Underflow);
    } else {
        maps::count(connection.service, ServiceCounter::Released);
        let held_ns = age_ns(connection);
        let units = held_ns >> HELD_UNIT_BITS;
        maps::add(connection.service, ServiceCounter::HeldNs, held_ns);
        maps::add(
            connection.service,
            ServiceCounter::HeldSquares,
            units * units,
        );
        report::slot_freed(id, backend);
    }
}

/// A connection to the agent ends. Either it never arrived, and is not on its
/// way any more; or the agent has it, and learns that the client is gone.
#[inline(always)]
fn end_way(connection: &Connection) {
    if swap(&connection.held, HELD_NOTHING) != HELD_FLOW {
        return;
    }
    if !maps::withdraw(&flow_of(connection)) {
        report::send_of(EventKind::ClientGone, connection);
    } else if let Some(service) = Maps.service(connection.service) {
        waiting::unsend(&service.waiting);
    }
}

/// A client that gives up before its connection stands has seen its backend
/// time out, if it was patient.
#[inline(always)]
fn note_abandoned(connection: &Connection) {
    if load(&connection.held) == HELD_SLOT
        && connection.flags & STEERED_ESTABLISHED == 0
        && connection.client_port != Port(0)
        && age_ns(connection) >= PATIENCE_NS
    {
        note_failure(connection);
    }
}

/// The backend did not take the connection.
#[inline(always)]
fn note_failure(connection: &Connection) {
    maps::count(connection.service, ServiceCounter::ConnectFailed);
    let kind = match tables::failed(connection.service, connection.backend) {
        Failure::Counted => return,
        Failure::Ejected => EventKind::Ejected,
        Failure::TrialFailed => EventKind::TrialFailed,
    };
    if matches!(kind, EventKind::Ejected) {
        maps::count(connection.service, ServiceCounter::Ejected);
    }
    report::send_of(kind, connection);
}

/// The backend took the connection.
#[inline(always)]
fn note_success(connection: &Connection) {
    let Some(backend) = Maps.backend(connection.backend) else {
        return;
    };
    if load32(&backend.failures) != 0 {
        store32(&backend.failures, 0);
    }
    if load(&backend.ejected_until_ns) != 0 && tables::readmit(connection.backend) {
        report::send_of(EventKind::Readmitted, connection);
    }
    if connection.flags & STEERED_TO_LEADER != 0 {
        note_new_leader(connection);
    }
}

/// If this is the first connection to a new leader, the failover is over.
#[inline(always)]
fn note_new_leader(connection: &Connection) {
    let Some(service) = Maps.service(connection.service) else {
        return;
    };
    if load(&service.leaderless_since_ns) != 0
        && load(&service.leader) as u32 == connection.backend + 1
    {
        let since_ns = swap(&service.leaderless_since_ns, 0);
        if since_ns != 0 {
            report::failed_over(connection, since_ns);
        }
    }
}

/// How long ago the connection was steered, good to a scheduler tick.
#[inline(always)]
fn age_ns(connection: &Connection) -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }.saturating_sub(connection.steered_at_ns)
}

#[inline(always)]
fn flow_of(connection: &Connection) -> Flow {
    Flow {
        client: connection.client,
        port: connection.client_port,
        reserved: 0,
    }
}

/// The socket has its source address and is about to send its SYN.
#[inline(always)]
fn on_connect(ctx: &SockOpsContext) {
    let record = maps::record(socket(ctx));
    // SAFETY: null, or a record that lives as long as the socket.
    let Some(connection) = (unsafe { record.as_ref() }) else {
        return;
    };
    // A record that holds nothing is of an earlier connection; one that has its
    // client already is of a Multipath TCP connection with a further subflow.
    let held = load(&connection.held);
    if !matches!(held, HELD_SLOT | HELD_WAY) || connection.client_port != Port(0) {
        return;
    }
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_STATE_CB_FLAG;
    if ctx.set_cb_flags(flags as i32).is_err() {
        // The slot will still come back at close; it only comes later.
        maps::count_fault(Fault::NoCallbacks);
    }
    let (client, port) = local(ctx.ops);
    // SAFETY: as above, and nobody else writes these fields.
    unsafe {
        (*record).client = client;
        (*record).client_port = port;
    }
    if held == HELD_WAY {
        // SAFETY: as above.
        unsafe { publish(ctx, record) };
    } else {
        // SAFETY: as above.
        unsafe { response::on_syn(record) };
    }
}

/// Lets the connection reach the agent. If it cannot be published, it will be
/// refused as a stranger's.
///
/// # Safety
///
/// `record` must be the record of the program's socket.
#[inline(always)]
unsafe fn publish(ctx: &SockOpsContext, record: *mut Connection) {
    // Precise, since it decides the order in which clients are served.
    // SAFETY: the helper has no preconditions; the caller vouches for `record`.
    let connection = unsafe {
        (*record).steered_at_ns = bpf_ktime_get_ns();
        &*record
    };
    let Some(service) = Maps.service(connection.service) else {
        return;
    };
    // Counted first: the agent may take it over as soon as it is published.
    waiting::send(&service.waiting);
    let target = FlowTarget {
        steered_at_ns: connection.steered_at_ns,
        // SAFETY: the context is valid.
        client: unsafe { bpf_get_netns_cookie(ctx.ops.cast()) },
        service: connection.service,
        reserved: 0,
    };
    if maps::publish(&flow_of(connection), &target) {
        swap(&connection.held, HELD_FLOW);
    } else {
        waiting::unsend(&service.waiting);
        maps::count_fault(Fault::FlowNotPublished);
    }
}

/// The socket changes its state.
#[inline(always)]
fn on_state(ctx: &SockOpsContext) {
    let (old, new) = (argument(ctx.ops, 0), argument(ctx.ops, 1));
    if matches!(new, BPF_TCP_SYN_SENT | BPF_TCP_SYN_RECV) {
        return;
    }
    let record = maps::record(socket(ctx));
    // SAFETY: null, or a record that lives as long as the socket.
    let Some(connection) = (unsafe { record.as_ref() }) else {
        return;
    };
    if new == BPF_TCP_ESTABLISHED {
        // SAFETY: as above, and nobody else writes this field.
        unsafe { (*record).flags |= STEERED_ESTABLISHED };
        if load(&connection.held) == HELD_SLOT {
            note_success(connection);
            // SAFETY: as above.
            unsafe { response::on_established(ctx, record) };
        }
        return;
    }
    if old == BPF_TCP_SYN_SENT && new == BPF_TCP_CLOSE && load(&connection.held) == HELD_SLOT {
        // Answered, by a reset, or given up after a while. Otherwise it was the
        // client that ended it.
        if segments_in(ctx.ops) != 0 || age_ns(connection) >= PATIENCE_NS {
            note_failure(connection);
        }
        release(connection);
    }
    if new == BPF_TCP_CLOSE {
        end(record);
    } else {
        release(connection);
    }
}

/// The socket becomes a listener, after a connect that failed unnoticed.
#[inline(always)]
fn on_listen(ctx: &SockOpsContext) {
    let record = maps::record(socket(ctx));
    if !record.is_null() {
        end(record);
    }
}

#[inline(always)]
pub fn socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: the context is valid; the field is null unless this is a full socket.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk }
}

#[inline(always)]
fn argument(ops: *const bpf_sock_ops, index: usize) -> u32 {
    // SAFETY: the context is valid and has four arguments.
    unsafe { (&raw const (*ops).__bindgen_anon_1.args[index]).read_volatile() }
}

/// Segments that the socket has received.
#[inline(always)]
fn segments_in(ops: *const bpf_sock_ops) -> u32 {
    // SAFETY: the context is valid.
    unsafe { (&raw const (*ops).segs_in).read_volatile() }
}

/// The socket's own address and port.
#[inline(always)]
fn local(ops: *const bpf_sock_ops) -> (Address, Port) {
    // SAFETY: the context is valid; fields are read word by word.
    unsafe {
        let address = if (*ops).family == AF_INET {
            Address::mapped((*ops).local_ip4)
        } else {
            Address([
                (&raw const (*ops).local_ip6[0]).read_volatile(),
                (&raw const (*ops).local_ip6[1]).read_volatile(),
                (&raw const (*ops).local_ip6[2]).read_volatile(),
                (&raw const (*ops).local_ip6[3]).read_volatile(),
            ])
        };
        // `local_port` is in host order.
        (address, Port(((*ops).local_port as u16).to_be()))
    }
}

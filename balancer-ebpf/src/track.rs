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
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
        BPF_SOCK_OPS_TCP_LISTEN_CB, BPF_TCP_CLOSE, BPF_TCP_ESTABLISHED, BPF_TCP_SYN_RECV,
        BPF_TCP_SYN_SENT, bpf_sock, bpf_sock_ops,
    },
    programs::{SockContext, SockOpsContext},
};
use balancer_common::{
    address::{Address, Port},
    atomic::{load, load32, swap},
    connection::{Connection, HELD_NOTHING, HELD_SLOT},
    counter::{Fault, ServiceCounter},
    select,
    service::Tables,
    slot::Side,
};

use crate::maps::{self, Maps};

const AF_INET: u32 = 2;

/// Body of `sock_ops`.
#[inline(always)]
pub fn on_event(ctx: &SockOpsContext) {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => on_connect(ctx),
        BPF_SOCK_OPS_STATE_CB => on_state(ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => on_listen(ctx),
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

/// The socket is no steered connection any more: gives its slot back if it still
/// holds one, and forgets the rest. `record` must not be null.
#[inline(always)]
pub fn end(record: *mut Connection) {
    // SAFETY: not null, and it lives as long as the socket.
    unsafe {
        release(&*record);
        (*record).steered_at_ns = 0;
    }
}

/// Gives the socket's slot back, if it still holds one.
#[inline(always)]
fn release(connection: &Connection) {
    if load(&connection.held) != HELD_SLOT || swap(&connection.held, HELD_NOTHING) != HELD_SLOT {
        return;
    }
    let Some(backend) = Maps.backend(connection.backend) else {
        return;
    };
    if load32(&backend.generation) != connection.generation {
        maps::count_fault(Fault::StaleGeneration);
    } else if select::give_back(&Maps, connection.backend, Side::Kernel).is_none() {
        maps::count_fault(Fault::Underflow);
    } else {
        maps::count(connection.service, ServiceCounter::Released);
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
    if load(&connection.held) != HELD_SLOT || connection.client_port != Port(0) {
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
}

/// The socket changes its state.
#[inline(always)]
fn on_state(ctx: &SockOpsContext) {
    let (old, new) = (argument(ctx.ops, 0), argument(ctx.ops, 1));
    if matches!(
        new,
        BPF_TCP_SYN_SENT | BPF_TCP_SYN_RECV | BPF_TCP_ESTABLISHED
    ) {
        return;
    }
    let record = maps::record(socket(ctx));
    // SAFETY: null, or a record that lives as long as the socket.
    let Some(connection) = (unsafe { record.as_ref() }) else {
        return;
    };
    if old == BPF_TCP_SYN_SENT && new == BPF_TCP_CLOSE && load(&connection.held) == HELD_SLOT {
        maps::count(connection.service, ServiceCounter::ConnectFailed);
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
fn socket(ctx: &SockOpsContext) -> *mut bpf_sock {
    // SAFETY: the context is valid; the field is null unless this is a full socket.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk }
}

#[inline(always)]
fn argument(ops: *const bpf_sock_ops, index: usize) -> u32 {
    // SAFETY: the context is valid and has four arguments.
    unsafe { (&raw const (*ops).__bindgen_anon_1.args[index]).read_volatile() }
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

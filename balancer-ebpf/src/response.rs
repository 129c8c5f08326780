//! Measuring how fast backends answer: from the first byte of a connection's request to the first
//! byte of its response, and before that the time that the connection takes to stand.
//!
//! Only the first request of a connection is measured, so that what follows costs nothing.
//! The request is seen where `sock_ops` is asked for header options (Linux 6.1 and 6.18,
//! net/ipv4/tcp_output.c, `bpf_skops_hdr_opt_len`), which is switched off again at once. No
//! `sock_ops` callback sees the response: that for header options is skipped on the receive fast
//! path (net/ipv4/tcp_input.c, `tcp_rcv_established`). So a `cgroup_skb/ingress` program looks at
//! what arrives; it is attached only while a service wants its backends measured.

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock_ops},
    helpers::bpf_ktime_get_ns,
    programs::{SkBuffContext, SockOpsContext},
};
use balancer_common::{
    address::TCP,
    atomic::{load, load32, store, swap},
    connection::{Connection, HELD_SLOT, STEERED_MEASURED},
    response,
    service::{Backend, Tables},
    slot::Side,
};

use crate::{maps, tables::Maps, track};

/// The SYN is about to go.
///
/// # Safety
///
/// `record` must be the record of the program's socket.
#[inline(always)]
pub unsafe fn on_syn(record: *mut Connection) {
    // SAFETY: the caller vouches for it; nobody else writes this field.
    unsafe {
        if (*record).flags & STEERED_MEASURED != 0 {
            (*record).connect_ns = bpf_ktime_get_ns();
            store(&(*record).awaited_since_ns, 0);
        }
    }
}

/// The connection stands: the next thing to look out for is its first segment.
///
/// # Safety
///
/// `record` must be the record of the program's socket.
#[inline(always)]
pub unsafe fn on_established(ctx: &SockOpsContext, record: *mut Connection) {
    // SAFETY: as in `on_syn`.
    unsafe {
        if (*record).flags & STEERED_MEASURED == 0 {
            return;
        }
        (*record).connect_ns = bpf_ktime_get_ns() - (*record).connect_ns;
    }
    let flags = ctx.cb_flags() | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
    // Without it the connection is not measured, and nothing else is amiss.
    let _ = ctx.set_cb_flags(flags as i32);
}

/// A segment is about to go; if it is the first with data, the response is awaited from now on.
#[inline(always)]
pub fn on_segment(ctx: &SockOpsContext) {
    if bytes(ctx.ops) == 0 {
        return;
    }
    let flags = ctx.cb_flags() & !BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
    let _ = ctx.set_cb_flags(flags as i32);
    let record = maps::own_record(track::socket(ctx));
    // SAFETY: null, or a record that lives as long as the socket.
    let Some(connection) = (unsafe { record.as_ref() }) else {
        return;
    };
    // SAFETY: the helper has no preconditions.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    let Some(backend) = Maps.backend(connection.backend) else {
        return;
    };
    if load(&connection.held) == HELD_SLOT && load32(&backend.generation) == connection.generation {
        response::asked(backend, Side::Kernel, now_ns);
        store(&connection.awaited_since_ns, now_ns - connection.connect_ns);
    }
}

/// The connection is about to give its slot back: what it still awaits will not come, or will not
/// be measured.
#[inline(always)]
pub fn on_release(connection: &Connection, backend: &Backend) {
    if load(&connection.awaited_since_ns) != 0 && swap(&connection.awaited_since_ns, 0) != 0 {
        response::settled(backend, Side::Kernel);
    }
}

/// Body of `cgroup_skb/ingress`: something arrives at a socket.
#[inline(always)]
pub fn on_arrival(ctx: &SkBuffContext) {
    // SAFETY: the context is valid; the field is null or a socket.
    let socket = unsafe { (*ctx.skb.skb).__bindgen_anon_2.sk };
    let record = maps::own_record(socket);
    // SAFETY: null, or a record that lives as long as the socket.
    let Some(connection) = (unsafe { record.as_ref() }) else {
        return;
    };
    if load(&connection.awaited_since_ns) == 0 || !has_data(ctx) {
        return;
    }
    let since_ns = swap(&connection.awaited_since_ns, 0);
    let Some(backend) = Maps.backend(connection.backend) else {
        return;
    };
    if since_ns != 0 {
        response::settled(backend, Side::Kernel);
        // SAFETY: the helper has no preconditions.
        let now_ns = unsafe { bpf_ktime_get_ns() };
        response::record(backend, now_ns - since_ns, now_ns);
    }
}

/// Whether a segment has more than headers.
#[inline(always)]
fn has_data(ctx: &SkBuffContext) -> bool {
    const V6_HEADER: u32 = 40;
    let Ok(first) = ctx.load::<u8>(0) else {
        return false;
    };
    let (next_header, tcp_at) = match first >> 4 {
        4 => (ctx.load::<u8>(9), (first as u32 & 0xf) * 4),
        _ => (ctx.load::<u8>(6), V6_HEADER),
    };
    if next_header != Ok(TCP) {
        return false;
    }
    let Ok(offset) = ctx.load::<u8>(tcp_at as usize + 12) else {
        return false;
    };
    ctx.len() > tcp_at + (offset as u32 >> 4) * 4
}

/// Bytes of data in the segment that is about to go; 0 where the kernel only asks how long headers
/// will be.
#[inline(always)]
fn bytes(ops: *const bpf_sock_ops) -> u32 {
    // SAFETY: the context is valid.
    unsafe { (&raw const (*ops).skb_len).read_volatile() }
}

//! `getpeername()`: a client sees the frontend that it dialled.

use aya_ebpf::programs::SockAddrContext;
use balancer_common::address::Port;

use crate::{maps, steer::Family};

/// Replaces the backend's address by the frontend's, if this socket was steered
/// and is still the connection that was.
#[inline(always)]
pub fn peer_name<F: Family>(ctx: &SockAddrContext) {
    let addr = ctx.sock_addr;
    // SAFETY: the context is valid; the record is null or lives as long as the
    // socket, which outlives the program.
    let record = unsafe { maps::record((*addr).__bindgen_anon_1.sk).as_ref() };
    let Some(connection) = record else {
        return;
    };
    // SAFETY: the context is valid.
    let port = Port(unsafe { (*addr).user_port } as u16);
    if connection.steered_at_ns == 0
        || F::read(addr) != connection.destination
        || port != connection.destination_port
    {
        return;
    }
    if F::write(addr, connection.frontend) {
        // SAFETY: the context is valid and this hook may write the port.
        unsafe { (*addr).user_port = connection.frontend_port.0 as u32 };
    }
}

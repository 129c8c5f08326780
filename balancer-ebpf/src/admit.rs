//! Letting exactly those connections reach the agent that the programs sent
//! there.
//!
//! Runs when a packet looks for a listener in the agent's network namespace. A
//! connection to the agent's port that was not published is told, as for any
//! closed port, that nobody listens; one that was is handed to the agent's
//! listener, on whichever address of the node it arrives.

use aya_ebpf::{bindings::bpf_sk_lookup, programs::SkLookupContext};
use balancer_common::{
    address::{Address, Port, TCP},
    connection::Flow,
    maps::{LISTENER_V4, LISTENER_V6},
};

use crate::maps;

const AF_INET: u32 = 2;
/// Goes on looking as if this program were not there, or with what it assigned.
const PASS: u32 = 1;
/// Finds nothing.
const DROP: u32 = 0;

/// Body of `sk_lookup`.
#[inline(always)]
pub fn on_lookup(ctx: &SkLookupContext) -> u32 {
    let lookup = ctx.lookup;
    // SAFETY: the context is valid; these fields are readable in this hook.
    let (protocol, family, local_port) =
        unsafe { ((*lookup).protocol, (*lookup).family, (*lookup).local_port) };
    let Some(agent) = maps::agent() else {
        return PASS;
    };
    let (own_port, listener) = if family == AF_INET {
        (agent.port_v4, LISTENER_V4)
    } else {
        (agent.port_v6, LISTENER_V6)
    };
    // `local_port` is in host order.
    let port = Port((local_port as u16).to_be());
    if protocol != TCP as u32 || port != own_port || own_port == Port(0) {
        return PASS;
    }
    // The port may be anyone's on other addresses of the node.
    let address = local(lookup, family);
    let is_agents = if family == AF_INET {
        address == Address::LOOPBACK_V4 || address == agent.overflow_v4
    } else {
        address == Address::LOOPBACK_V6 || address == agent.overflow_v6
    };
    if !is_agents {
        return PASS;
    }
    if maps::flow(&remote(lookup, family)).is_some() && maps::hand_over(ctx, listener) {
        PASS
    } else {
        DROP
    }
}

/// Where the packet goes to; see [`remote`].
#[inline(always)]
fn local(lookup: *const bpf_sk_lookup, family: u32) -> Address {
    // SAFETY: as in `remote`.
    let (v4, v6) = unsafe {
        (
            Address::mapped((&raw const (*lookup).local_ip4).read_volatile()),
            Address([
                (&raw const (*lookup).local_ip6[0]).read_volatile(),
                (&raw const (*lookup).local_ip6[1]).read_volatile(),
                (&raw const (*lookup).local_ip6[2]).read_volatile(),
                (&raw const (*lookup).local_ip6[3]).read_volatile(),
            ]),
        )
    };
    if family == AF_INET { v4 } else { v6 }
}

/// Where the packet comes from. Both families' fields are read (those of the
/// other one are 0), since the verifier wants each at a fixed offset.
#[inline(always)]
fn remote(lookup: *const bpf_sk_lookup, family: u32) -> Flow {
    // SAFETY: the context is valid; fields are read word by word, as the
    // verifier wants it.
    let (v4, v6, port) = unsafe {
        (
            Address::mapped((&raw const (*lookup).remote_ip4).read_volatile()),
            Address([
                (&raw const (*lookup).remote_ip6[0]).read_volatile(),
                (&raw const (*lookup).remote_ip6[1]).read_volatile(),
                (&raw const (*lookup).remote_ip6[2]).read_volatile(),
                (&raw const (*lookup).remote_ip6[3]).read_volatile(),
            ]),
            Port((&raw const (*lookup).remote_port).read_volatile()),
        )
    };
    Flow {
        client: if family == AF_INET { v4 } else { v6 },
        port,
        reserved: 0,
    }
}

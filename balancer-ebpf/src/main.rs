//! Idlefirst's eBPF programs: entry points only.
//!
//! | program | hook | does |
//! |---|---|---|
//! | `idle_connect4/6` | `cgroup/connect4,6` | [`steer`]: frontend → idle backend, slot taken; or [`overflow`]: → the agent |
//! | `idle_name4/6` | `cgroup/getpeername4,6` | [`reveal`]: shows the frontend that was dialled |
//! | `idle_track` | `sock_ops` | [`track`]: gives the slot back when the connection ends |
//! | `idle_release` | `cgroup/sock_release` | [`track`]: the same at last close, as a net |
//! | `idle_answered` | `cgroup_skb/ingress` | [`response`]: sees first bytes of responses, while a service is measured |
//! | `idle_admit` | `sk_lookup` | [`admit`]: lets what was sent to the agent reach it, and nothing else |
//! | `idle_dump` | `iter/bpf_sk_storage_map` | [`dump`]: lists steered sockets to the agent |
//! | `idle_recount` | `iter/bpf_sk_storage_map` | [`dump`]: counts those that hold slots, by backend |
//!
//! v4 and v6 share one body; only reading and writing the address differs.
//! Oldest kernel: 6.1.

#![no_std]
#![no_main]

mod admit;
mod dump;
mod exempt;
mod fault;
mod maps;
mod overflow;
mod report;
mod response;
mod reveal;
mod steer;
mod tables;
mod track;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, sk_lookup, sock_ops},
    programs::{SkBuffContext, SkLookupContext, SockAddrContext, SockContext, SockOpsContext},
};

/// Lets the system call go on.
const ALLOW: i32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn idle_connect4(ctx: SockAddrContext) -> i32 {
    steer::connect::<steer::V4>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn idle_connect6(ctx: SockAddrContext) -> i32 {
    steer::connect::<steer::V6>(&ctx)
}

#[cgroup_sock_addr(getpeername4)]
pub fn idle_name4(ctx: SockAddrContext) -> i32 {
    reveal::peer_name::<steer::V4>(&ctx);
    ALLOW
}

#[cgroup_sock_addr(getpeername6)]
pub fn idle_name6(ctx: SockAddrContext) -> i32 {
    reveal::peer_name::<steer::V6>(&ctx);
    ALLOW
}

#[sock_ops]
pub fn idle_track(ctx: SockOpsContext) -> u32 {
    track::on_event(&ctx);
    0
}

#[cgroup_sock(sock_release)]
pub fn idle_release(ctx: SockContext) -> i32 {
    track::on_release(&ctx);
    ALLOW
}

#[cgroup_skb(ingress)]
pub fn idle_answered(ctx: SkBuffContext) -> i32 {
    response::on_arrival(&ctx);
    ALLOW
}

#[sk_lookup]
pub fn idle_admit(ctx: SkLookupContext) -> u32 {
    admit::on_lookup(&ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // Never reached: the verifier accepts no program that could panic.
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

//! Which clients are left alone although they dial a frontend: those that bypass the balancer, and,
//! where the own address of a backend is dialled, everyone who is in no pod.
//!
//! Clients are told apart by the cgroup of the process that calls `connect()`. Nothing here is
//! called for the agent's own sockets, which have a mark.

use aya_ebpf::helpers::bpf_get_current_ancestor_cgroup_id;
use balancer_common::{address::LeadsTo, connection::BYPASS_LEVELS};

use crate::maps;

/// Whether the client is left alone. Costs next to nothing for frontends that are no backends,
/// while nobody bypasses the balancer.
#[inline(always)]
pub fn is_exempt(leads_to: LeadsTo) -> bool {
    let Some(agent) = maps::agent() else {
        return true;
    };
    if leads_to.is_of_backend() && !is_in_pods(agent.pods_cgroup, agent.pods_level) {
        return true;
    }
    agent.bypass_levels != 0 && idle_bypasses(agent.bypass_levels) != 0
}

/// Whether the client is below the pods' cgroup, if there is one (id 0: there is none).
#[inline(always)]
fn is_in_pods(cgroup: u64, level: u32) -> bool {
    cgroup != 0 && ancestor(level) == cgroup
}

/// The id of the cgroup so far below the root that the client is in; 0 if there is none.
#[inline(always)]
fn ancestor(level: u32) -> u64 {
    // SAFETY: the helper takes any level.
    unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) }
}

/// Whether the client is in a cgroup of BYPASS, or below one. A global function: see `tables`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn idle_bypasses(levels: u32) -> u64 {
    let mut level = 0;
    while level < BYPASS_LEVELS {
        if levels >> level & 1 != 0 && maps::bypasses(ancestor(level)) {
            return 1;
        }
        level += 1;
    }
    0
}

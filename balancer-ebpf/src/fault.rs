//! What a program does when it cannot do its work: every [`Fault`] has an
//! explicit verdict and is counted.

use aya_ebpf::helpers::bpf_set_retval;
use balancer_common::counter::Fault;

use crate::{ALLOW, maps};

/// What happens to the system call.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// It goes on, with whatever destination the context now holds.
    Proceed,
    /// `connect()` fails with `ECONNREFUSED`.
    Refuse,
}

impl Verdict {
    /// The value that the program returns.
    #[inline(always)]
    pub fn into_return(self) -> i32 {
        const DENY: i32 = 0;
        const ECONNREFUSED: i32 = 111;
        match self {
            Self::Proceed => ALLOW,
            Self::Refuse => {
                // SAFETY: the helper has no preconditions in cgroup programs.
                unsafe { bpf_set_retval(-ECONNREFUSED) };
                DENY
            }
        }
    }
}

/// Counts the fault and decides: a frontend that leads nowhere is left to
/// whatever the system does without us; a connection that could not be counted
/// is refused, since letting it through could put a backend over its limit.
#[inline(always)]
pub fn verdict(fault: Fault) -> Verdict {
    maps::count_fault(fault);
    match fault {
        Fault::NoService => Verdict::Proceed,
        Fault::NoConnection
        | Fault::Contended
        | Fault::StaleGeneration
        | Fault::Underflow
        | Fault::FamilyMismatch
        | Fault::NoCallbacks
        | Fault::FlowNotPublished
        | Fault::EventLost
        | Fault::NoOverflow => Verdict::Refuse,
    }
}

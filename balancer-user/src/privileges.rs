//! What the agent may do: the capabilities that it needs, and none of the others that it was
//! started with.
//!
//! Capabilities belong to threads. Before the agent has a second one, [`keep_for_start`] leaves
//! those in the table below and forbids new ones for good; every thread made later inherits that.
//! Threads of the runtime begin with [`keep_for_work`], and so goes on the first thread once the
//! programs are loaded, before it makes the threads that serve overflow.
//!
//! | capability | for | until |
//! |---|---|---|
//! | `CAP_BPF` | loading programs; tables of positions, each a map of its own, made when backends change | the end |
//! | `CAP_NET_ADMIN` | programs that steer; the mark on sockets of probes and overflow (`SO_MARK`); attaching the program that measures responses, when a service first needs it | the end |
//! | `CAP_PERFMON` | loops and pointer arithmetic in programs, which the verifier asks for alone | programs are loaded |
//! | `CAP_NET_BIND_SERVICE` | listening below port 1024, if so configured | the same: listeners come first |
//! | `CAP_SYS_ADMIN` | in place of `CAP_BPF` and `CAP_PERFMON`, if one of them is missing | as what it stands for |
//!
//! None is demanded here: `kernel` says which it misses. Files are read and made as the user that
//! the agent runs as, without `CAP_DAC_OVERRIDE`. Called by `cli` and `agent`; other commands keep
//! what they have.

use rustix::{
    io::Errno,
    thread::{
        CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
        clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
        set_no_new_privs,
    },
};

/// Until the programs are loaded.
const FOR_START: CapabilitySet = FOR_WORK
    .union(CapabilitySet::PERFMON)
    .union(CapabilitySet::NET_BIND_SERVICE);

/// From then on.
const FOR_WORK: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN);

/// The kernel knows no more than this many, or fewer (include/uapi/linux/capability.h).
const MOST: u32 = 64;

/// A privilege that cannot be given up.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot {what}: {source}; allow the system calls capget, capset and prctl, as every runtime's \
     default seccomp profile does"
)]
pub struct PrivilegeError {
    what: &'static str,
    source: Errno,
}

/// Gives up, in this thread and those that it will make, what start-up does not need, and the way
/// to get it back: no program that this process executes gets anything.
///
/// # Errors
/// If the kernel does not even let go of what one has.
pub fn keep_for_start() -> Result<(), PrivilegeError> {
    set_no_new_privs(true).map_err(failed("set no_new_privs"))?;
    clear_ambient_capability_set().map_err(failed("clear the ambient capabilities"))?;
    empty_bounding_set()?;
    keep(FOR_START)
}

/// Gives up, in this thread and those that it will make, what only loading the programs needs.
///
/// # Errors
/// If the kernel does not even let go of what one has.
pub fn keep_for_work() -> Result<(), PrivilegeError> {
    keep(FOR_WORK)
}

/// [`keep_for_work`] as a thread begins that has nobody to tell of a failure.
pub fn begin_thread() {
    if let Err(error) = keep_for_work() {
        tracing::error!(%error, "a thread keeps more privileges than it needs");
    }
}

fn keep(needed: CapabilitySet) -> Result<(), PrivilegeError> {
    let has = capabilities(None).map_err(failed("read this thread's capabilities"))?;
    let kept = has.permitted & with_substitute(needed, has.permitted);
    let sets = CapabilitySets {
        effective: kept,
        permitted: kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets).map_err(failed("give capabilities up"))
}

/// What is needed, by a thread that has these: `CAP_SYS_ADMIN` stands for those two of which one is
/// missing, as in the kernel (include/linux/capability.h, v6.1, `bpf_capable`, `perfmon_capable`).
fn with_substitute(needed: CapabilitySet, has: CapabilitySet) -> CapabilitySet {
    let narrow = needed & (CapabilitySet::BPF | CapabilitySet::PERFMON);
    match has.contains(narrow) {
        true => needed,
        false => needed | CapabilitySet::SYS_ADMIN,
    }
}

/// Whoever may not change it has been bounded by whoever started the agent, and what this process
/// executes is bounded by `no_new_privs` too.
fn empty_bounding_set() -> Result<(), PrivilegeError> {
    for number in 0..MOST {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => {}
            Ok(false) => continue,
            // The kernel knows no such capability, nor one beyond.
            Err(Errno::INVAL) => break,
            Err(error) => return Err(failed("read the bounding set")(error)),
        }
        match remove_capability_from_bounding_set(capability) {
            Ok(()) => {}
            Err(Errno::PERM) => break,
            Err(error) => return Err(failed("empty the bounding set")(error)),
        }
    }
    Ok(())
}

fn failed(what: &'static str) -> impl FnOnce(Errno) -> PrivilegeError {
    move |source| PrivilegeError { what, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADMIN: CapabilitySet = CapabilitySet::SYS_ADMIN;

    #[test]
    fn sys_admin_stays_only_for_what_is_missing() {
        let all = CapabilitySet::all();
        for needed in [FOR_START, FOR_WORK] {
            assert_eq!(all & with_substitute(needed, all), needed);
            let without_bpf = all.difference(CapabilitySet::BPF);
            let kept = without_bpf & with_substitute(needed, without_bpf);
            assert!(kept.contains(ADMIN | CapabilitySet::NET_ADMIN), "{kept:?}");
        }
        let without_perfmon = all.difference(CapabilitySet::PERFMON);
        assert!(with_substitute(FOR_START, without_perfmon).contains(ADMIN));
        assert!(!with_substitute(FOR_WORK, without_perfmon).contains(ADMIN));
        assert!(FOR_START.contains(FOR_WORK) && !FOR_START.contains(ADMIN));
    }

    #[test]
    fn a_thread_keeps_what_work_needs_and_so_do_those_that_it_makes() {
        let of_this_thread = || capabilities(None).unwrap();
        let before = of_this_thread();
        let (parent, child) = std::thread::spawn(move || {
            keep_for_work().unwrap();
            let child = std::thread::spawn(move || capabilities(None).unwrap());
            (capabilities(None).unwrap(), child.join().unwrap())
        })
        .join()
        .unwrap();
        assert_eq!(parent.permitted, before.permitted & FOR_WORK);
        assert_eq!(parent.effective, parent.permitted);
        assert_eq!(parent.inheritable, CapabilitySet::empty());
        assert_eq!(child.permitted, parent.permitted);
        assert_eq!(of_this_thread().permitted, before.permitted);
    }
}

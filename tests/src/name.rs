//! Names of everything that the ground leaves visible on the machine: `idlefirst-`, the pid and
//! start time of the process that owns it, a count, and what it is for.
//!
//! The start time is there because pids are used again: a sweep must never take a living owner's
//! things, nor spare a dead one's. No dots: bpffs refuses them.

use std::{
    fmt, fs,
    sync::atomic::{AtomicU32, Ordering},
};

/// What every name of ours begins with.
pub const PREFIX: &str = "idlefirst-";

/// The process that owns a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    pid: u32,
    /// Clock ticks after boot, field 22 of `/proc/PID/stat`.
    start_ticks: u64,
}

impl Owner {
    /// This process.
    pub fn this() -> Self {
        Self::of(std::process::id()).expect("/proc/self/stat can be read: is /proc mounted?")
    }

    /// A living process; `None` if there is none with this pid.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The command name is in parentheses and may contain anything, parentheses too.
        let mut fields = stat[stat.rfind(')')? + 1..].split_ascii_whitespace();
        let state = fields.next()?;
        let start_ticks = fields.nth(18)?.parse().ok()?;
        (!matches!(state, "Z" | "X")).then_some(Self { pid, start_ticks })
    }

    /// Whoever a name says owns it; `None` if the name is not one of ours.
    pub fn in_name(name: &str) -> Option<Self> {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
        let pid = parts.next()?.parse().ok()?;
        let start_ticks = parts.next()?.parse().ok()?;
        Some(Self { pid, start_ticks })
    }

    /// Whether the process is still there.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// The process's pid.
    pub fn pid(self) -> u32 {
        self.pid
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.pid, self.start_ticks)
    }
}

/// A name that nothing else on this machine has.
pub fn unique(purpose: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("{PREFIX}{}-{count}-{purpose}", Owner::this())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_tells_its_owner() {
        let name = unique("some-purpose");
        assert_eq!(Owner::in_name(&name), Some(Owner::this()));
        assert_ne!(name, unique("some-purpose"));
        assert!(Owner::this().is_alive());
    }

    #[test]
    fn a_pid_used_again_is_another_owner() {
        let earlier = format!("{PREFIX}{}-1-0-x", std::process::id());
        assert!(!Owner::in_name(&earlier).expect("a name of ours").is_alive());
    }

    #[test]
    fn names_of_others_have_no_owner() {
        for name in ["idlefirst", "idlefirst-agent", "idlefirst-1", "other-1-2-x"] {
            assert_eq!(Owner::in_name(name), None, "{name}");
        }
    }
}

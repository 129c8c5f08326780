//! The memory of a process, by kind. Called by `stage`.

use std::fs;

use anyhow::{Context, Result};

/// In MB of 10⁶ bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Memory {
    pub(super) resident_mb: f64,
    /// Its own: heap and stacks.
    pub(super) anonymous_mb: f64,
    /// The program file, and the kernel's maps as far as they are mapped and touched.
    pub(super) mapped_mb: f64,
}

impl Memory {
    /// What a process has now.
    pub(super) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        Self::in_status(&status).with_context(|| format!("{path} is not as expected: {status}"))
    }

    fn in_status(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
            Some(kib * 1024.0 / 1e6)
        };
        Some(Self {
            resident_mb: field("VmRSS:")?,
            anonymous_mb: field("RssAnon:")?,
            mapped_mb: field("RssFile:")? + field("RssShmem:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_files_and_shared_memory_are_told_apart_from_the_rest() {
        let status =
            "VmRSS:\t 3000 kB\nRssAnon:\t 1000 kB\nRssFile:\t 1500 kB\nRssShmem:\t 500 kB\n";
        let memory = Memory::in_status(status).expect("it has all fields");
        assert_eq!(memory.resident_mb, 3.072);
        assert_eq!(memory.anonymous_mb, 1.024);
        assert_eq!(memory.mapped_mb, 2.048);
        assert!(Memory::in_status("VmRSS:\t 3000 kB\n").is_none());
    }
}

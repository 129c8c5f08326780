//! Checks before anything is touched: kernel version, capabilities, BPF file
//! system. Each failure says what to do about it.

use std::{fs, path::Path};

use super::{KernelError, syscall};

/// Oldest kernel whose hooks behave as the programs need.
const OLDEST: (u32, u32) = (6, 1);
const OLDEST_NAME: &str = "6.1";

/// Capabilities by bit number (include/uapi/linux/capability.h).
const CAP_NET_ADMIN: (u32, &str) = (12, "CAP_NET_ADMIN");
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: (u32, &str) = (38, "CAP_PERFMON");
const CAP_BPF: (u32, &str) = (39, "CAP_BPF");

/// Runs every check that needs no configuration.
pub(super) fn check() -> Result<(), KernelError> {
    check_version(&syscall::kernel_release())?;
    const STATUS: &str = "/proc/self/status";
    let status = fs::read_to_string(STATUS).map_err(|source| KernelError::Proc {
        path: STATUS,
        source,
    })?;
    check_capabilities(effective_capabilities(&status))
}

/// Whether this kernel has Multipath TCP.
pub(super) fn has_multipath() -> bool {
    Path::new("/proc/sys/net/mptcp/enabled").exists()
}

/// Checks that pins can be made at `path`, which need not exist yet.
pub(super) fn check_bpffs(path: &Path) -> Result<(), KernelError> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    match existing.map(syscall::file_system_magic) {
        Some(Ok(libc::BPF_FS_MAGIC)) => Ok(()),
        _ => Err(KernelError::NoBpffs {
            path: path.to_owned(),
        }),
    }
}

fn check_version(release: &str) -> Result<(), KernelError> {
    let mut numbers = release
        .split(|c: char| !c.is_ascii_digit())
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        return Err(KernelError::TooOld {
            found: release.to_owned(),
            needed: OLDEST_NAME,
        });
    }
    Ok(())
}

fn effective_capabilities(status: &str) -> u64 {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn check_capabilities(effective: u64) -> Result<(), KernelError> {
    let has = |bit: u32| effective >> bit & 1 != 0;
    if has(CAP_SYS_ADMIN) && has(CAP_NET_ADMIN.0) {
        return Ok(());
    }
    let missing: Vec<_> = [CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON]
        .into_iter()
        .filter(|(bit, _)| !has(*bit))
        .map(|(_, name)| name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    Err(KernelError::Capability {
        missing: missing.join(", "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for release in ["6.1.0-18-amd64", "6.1", "6.10.3", "7.0.0-rc1", "10.2"] {
            assert!(check_version(release).is_ok(), "{release}");
        }
        for release in ["6.0.19", "5.15.0-91-generic", "2.6.78", "", "unknown"] {
            assert!(check_version(release).is_err(), "{release}");
        }
    }

    #[test]
    fn a_missing_capability_is_named() {
        let bit = |(bit, _): (u32, &str)| 1u64 << bit;
        let enough = bit(CAP_BPF) | bit(CAP_NET_ADMIN) | bit(CAP_PERFMON);
        assert!(check_capabilities(enough).is_ok());
        assert!(check_capabilities(1 << CAP_SYS_ADMIN | bit(CAP_NET_ADMIN)).is_ok());
        let error = check_capabilities(enough & !bit(CAP_BPF))
            .unwrap_err()
            .to_string();
        assert!(error.contains("capability CAP_BPF is missing"), "{error}");
    }

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        assert_eq!(
            effective_capabilities("Name:\tx\nCapEff:\t000001ffffffffff\n"),
            0x1ff_ffff_ffff
        );
        assert_eq!(effective_capabilities("Name:\tx\n"), 0);
    }
}

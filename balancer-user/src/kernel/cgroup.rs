//! Finding the cgroup to attach to.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use super::{KernelError, syscall};

const MOUNTS: &str = "/proc/self/mountinfo";

/// Where the unified hierarchy is mounted: `/sys/fs/cgroup`, or the place of its
/// own that it has beside v1 hierarchies.
///
/// # Errors
/// If none is mounted.
pub fn find_unified() -> Result<PathBuf, KernelError> {
    let mounts = fs::read_to_string(MOUNTS).map_err(|source| KernelError::Proc {
        path: MOUNTS,
        source,
    })?;
    unified_mount(&mounts).ok_or(KernelError::NoUnifiedHierarchy)
}

/// Opens a directory of a cgroup2 hierarchy, to attach to or to lock.
pub(super) fn open(path: &Path) -> Result<File, KernelError> {
    let not_a_cgroup = |hint| KernelError::NotACgroup {
        path: path.to_owned(),
        hint,
    };
    if !path.exists() {
        return Err(not_a_cgroup(" (it does not exist)"));
    }
    if !path.is_dir() {
        return Err(not_a_cgroup(" (it is not a directory)"));
    }
    match syscall::file_system_magic(path) {
        Ok(libc::CGROUP2_SUPER_MAGIC) => {}
        Ok(libc::CGROUP_SUPER_MAGIC) => {
            return Err(not_a_cgroup(" (it is a cgroup v1 controller)"));
        }
        _ => return Err(not_a_cgroup("")),
    }
    File::open(path).map_err(|source| KernelError::Open {
        path: path.to_owned(),
        source,
    })
}

/// The mount point of the first cgroup2 file system in `/proc/self/mountinfo`
/// (proc_pid_mountinfo(5): the type follows a lone dash).
fn unified_mount(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mount_point = left.split(' ').nth(4)?;
        (right.split(' ').next()? == "cgroup2").then(|| PathBuf::from(unescape(mount_point)))
    })
}

/// Mount points show blanks and backslashes as three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\012", "\n")
        .replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_in_both_layouts() {
        let hybrid = "30 20 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:27 / /sys/fs/cgroup/cpu rw shared:5 - cgroup cgroup rw,cpu\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw shared:6 - cgroup2 cgroup2 rw\n";
        assert_eq!(unified_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        let unified = "30 20 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n";
        assert_eq!(unified_mount(unified), Some("/sys/fs/cgroup".into()));
        let spaced = "30 20 0:26 / /mnt/a\\040b rw - cgroup2 none rw\n";
        assert_eq!(unified_mount(spaced), Some("/mnt/a b".into()));
        assert_eq!(
            unified_mount("30 20 0:26 / / rw - ext4 /dev/vda rw\n"),
            None
        );
    }
}

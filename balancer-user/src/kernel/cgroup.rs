//! Finding cgroups: the one to attach to, that of all pods, that of one pod.

use std::{
    ffi::OsStr,
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::{KernelError, syscall};

const MOUNTS: &str = "/proc/self/mountinfo";

/// What the kubelet calls the cgroup of all pods: with the cgroupfs driver, with systemd, and with
/// systemd inside a node that is a container itself.
const PODS: [&str; 3] = ["kubepods", "kubepods.slice", "kubelet-kubepods.slice"];
/// How far below the agent's cgroup that one is looked for.
const PODS_DEPTH: usize = 4;

/// A cgroup as the programs know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cgroup {
    /// Its id, which is the inode of its directory (`kernfs_ino`, v6.1, on 64-bit machines).
    pub id: u64,
    /// How far it is below the hierarchy's root, whose level is 0.
    pub level: u32,
}

/// Why a path is no cgroup that the programs could know.
#[derive(Debug, thiserror::Error)]
pub enum NoCgroup {
    /// It cannot be looked at.
    #[error("cannot look at the cgroup {path}: {source}")]
    Unseen {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path} is not a directory of a cgroup2 hierarchy")]
    OfOtherKind {
        /// The path.
        path: PathBuf,
    },
    /// It cannot be told how deep it is.
    #[error(
        "how deep the cgroup {path} is cannot be told, because the hierarchy's root is not mounted; \
         mount the host's whole hierarchy"
    )]
    WithoutRoot {
        /// The path.
        path: PathBuf,
    },
}

impl Cgroup {
    /// The one with this directory.
    ///
    /// # Errors
    /// If there is none, or too little of the hierarchy is mounted.
    pub fn at(path: &Path) -> Result<Self, NoCgroup> {
        let unseen = |source| NoCgroup::Unseen {
            path: path.to_owned(),
            source,
        };
        let path = fs::canonicalize(path).map_err(unseen)?;
        let directory = fs::metadata(&path).map_err(unseen)?;
        if !directory.is_dir() || !is_unified(&path) {
            return Err(NoCgroup::OfOtherKind { path });
        }
        let within = path.ancestors().take_while(|above| is_unified(above));
        // The root alone has no events (Documentation/admin-guide/cgroup-v2.rst, v6.1).
        let mut levels = within.zip(0..);
        match levels.find(|(above, _)| !above.join("cgroup.events").exists()) {
            Some((_, level)) => Ok(Self {
                id: directory.ino(),
                level,
            }),
            None => Err(NoCgroup::WithoutRoot { path }),
        }
    }
}

/// The cgroup of all pods, if there is one not far below this one: the highest, by its name.
pub fn find_pods(below: &Path) -> Option<PathBuf> {
    let mut level = vec![below.to_owned()];
    for _ in 0..PODS_DEPTH {
        let mut next: Vec<_> = level.iter().flat_map(|path| children(path)).collect();
        next.sort();
        let is_pods = |path: &&PathBuf| {
            let name = path.file_name().and_then(OsStr::to_str);
            name.is_some_and(|name| PODS.contains(&name))
        };
        if let Some(pods) = next.iter().find(is_pods) {
            return Some(pods.clone());
        }
        level = next;
    }
    None
}

/// The cgroup of the pod with this UID, below that of all pods, if the kubelet has made it.
pub fn pod_cgroup(pods_cgroup: &Path, pod_uid: &str) -> Option<Cgroup> {
    // It becomes a part of a path.
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if pod_uid.is_empty() || !pod_uid.bytes().all(is_plain) {
        return None;
    }
    let places = places_of_pod(pods_cgroup, pod_uid);
    places.iter().find_map(|path| Cgroup::at(path).ok())
}

/// Where the kubelet puts a pod: guaranteed ones right below the cgroup of all, others below that
/// of their class.
fn places_of_pod(pods_cgroup: &Path, pod_uid: &str) -> [PathBuf; 3] {
    let name = pods_cgroup.file_name().and_then(OsStr::to_str);
    match name.and_then(|name| name.strip_suffix(".slice")) {
        Some(stem) => {
            // A dash means "below" in the name of a slice.
            let uid = pod_uid.replace('-', "_");
            let slice = |class: &str| format!("{stem}{class}-pod{uid}.slice");
            let below = |class: &str| {
                let parent = pods_cgroup.join(format!("{stem}{class}.slice"));
                parent.join(slice(class))
            };
            [
                pods_cgroup.join(slice("")),
                below("-burstable"),
                below("-besteffort"),
            ]
        }
        None => {
            let directory = format!("pod{pod_uid}");
            ["", "burstable", "besteffort"].map(|class| pods_cgroup.join(class).join(&directory))
        }
    }
}

/// Those above a cgroup, from the next one on.
pub(super) fn above(path: &Path) -> impl Iterator<Item = &Path> {
    let ancestors = path.ancestors().skip(1);
    ancestors.take_while(|ancestor| is_unified(ancestor))
}

/// Those below a cgroup, at whatever depth.
pub(super) fn below(path: &Path) -> Vec<PathBuf> {
    let mut found = children(path);
    let mut looked_at = 0;
    while let Some(next) = found.get(looked_at) {
        let further = children(next);
        found.extend(further);
        looked_at += 1;
    }
    found
}

fn is_unified(path: &Path) -> bool {
    matches!(
        syscall::file_system_magic(path),
        Ok(libc::CGROUP2_SUPER_MAGIC)
    )
}

/// The directories in a directory; none if it is gone.
fn children(path: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

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
    fn pods_are_where_either_driver_of_the_kubelet_puts_them() {
        let uid = "3c0b1d2e-0000-4000-8000-000000000001";
        let slice = |stem: &str| format!("{stem}-pod3c0b1d2e_0000_4000_8000_000000000001.slice");
        for (pods, expected) in [
            (
                "/c/kubepods",
                ["", "/burstable", "/besteffort"].map(|class| format!("{class}/pod{uid}")),
            ),
            (
                "/c/kubepods.slice",
                [
                    format!("/{}", slice("kubepods")),
                    format!("/kubepods-burstable.slice/{}", slice("kubepods-burstable")),
                    format!(
                        "/kubepods-besteffort.slice/{}",
                        slice("kubepods-besteffort")
                    ),
                ],
            ),
            (
                "/k/kubelet-kubepods.slice",
                [
                    format!("/{}", slice("kubelet-kubepods")),
                    format!(
                        "/kubelet-kubepods-burstable.slice/{}",
                        slice("kubelet-kubepods-burstable")
                    ),
                    format!(
                        "/kubelet-kubepods-besteffort.slice/{}",
                        slice("kubelet-kubepods-besteffort")
                    ),
                ],
            ),
        ] {
            let expected = expected.map(|below| PathBuf::from(format!("{pods}{below}")));
            assert_eq!(places_of_pod(Path::new(pods), uid), expected);
        }
        assert_eq!(pod_cgroup(Path::new("/c/kubepods"), "../../c"), None);
        assert_eq!(pod_cgroup(Path::new("/c/kubepods"), ""), None);
    }

    #[test]
    fn what_is_no_cgroup_is_said_to_be_none() {
        let absent = Cgroup::at(Path::new("/nowhere/at/all"));
        assert!(matches!(absent, Err(NoCgroup::Unseen { .. })), "{absent:?}");
        let other = Cgroup::at(Path::new("/proc"));
        assert!(
            matches!(other, Err(NoCgroup::OfOtherKind { .. })),
            "{other:?}"
        );
    }

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

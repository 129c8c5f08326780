//! One agent per cgroup and per pin path, and none above another.
//!
//! The locks are advisory ones on the directories themselves: they are seen
//! across containers that share the hierarchy, and the kernel drops them when
//! the agent ends, however it ends. An agent holds its own cgroup exclusively
//! and every cgroup above it shared, so that two in one line of descent exclude
//! each other whichever starts first, and two side by side do not.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use super::{KernelError, cgroup};

/// Locks an open directory for as long as `directory` stays open.
pub(super) fn exclusive(directory: &File, path: &Path) -> Result<(), KernelError> {
    taken(directory.try_lock(), path, || KernelError::InUse {
        path: path.to_owned(),
    })
}

/// Locks a cgroup, and those above it against agents of their own. The locks
/// last as long as `directory` and what is returned.
pub(super) fn hierarchy(directory: &File, path: &Path) -> Result<Vec<File>, KernelError> {
    let own = path.canonicalize().map_err(open_error(path))?;
    let mut above = Vec::new();
    for ancestor in cgroup::above(&own) {
        let directory = File::open(ancestor).map_err(open_error(ancestor))?;
        taken(directory.try_lock_shared(), ancestor, || {
            KernelError::AlreadyBalanced {
                path: path.to_owned(),
                by: ancestor.to_owned(),
            }
        })?;
        above.push(directory);
    }
    exclusive(directory, path)?;
    Ok(above)
}

fn taken(
    outcome: Result<(), TryLockError>,
    path: &Path,
    in_use: impl FnOnce() -> KernelError,
) -> Result<(), KernelError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(in_use()),
        Err(TryLockError::Error(source)) => Err(open_error(path)(source)),
    }
}

fn open_error(path: &Path) -> impl FnOnce(std::io::Error) -> KernelError {
    let path = path.to_owned();
    move |source| KernelError::Open { path, source }
}

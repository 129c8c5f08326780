//! One agent per cgroup and per pin path.
//!
//! The lock is an advisory one on the directory itself: it is seen across
//! containers that share the hierarchy, and the kernel drops it when the agent
//! ends, however it ends.

use std::{
    fs::{File, TryLockError},
    path::Path,
};

use super::KernelError;

/// Locks an open directory for as long as `directory` stays open.
pub(super) fn exclusive(directory: &File, path: &Path) -> Result<(), KernelError> {
    match directory.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(KernelError::InUse {
            path: path.to_owned(),
        }),
        Err(TryLockError::Error(source)) => Err(KernelError::Open {
            path: path.to_owned(),
            source,
        }),
    }
}

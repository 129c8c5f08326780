//! Whether connections are still steered: whether the cgroup is still there, and the programs on it.
//!
//! Neither goes by itself: a runtime makes its cgroup anew, somebody removes pins or detaches a
//! program. Repairs nothing; called by `load`.

use std::{
    fs::{self, File},
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::Path,
    sync::{Mutex, PoisonError},
};

use aya::Ebpf;
use aya_obj::generated::bpf_attach_type;

use super::{attach, syscall};

/// Ids of the programs that were attached to the cgroup, and as what; empty before.
#[derive(Debug, Default)]
pub(super) struct Attached(Mutex<Vec<(u32, bpf_attach_type)>>);

impl Attached {
    /// From now on they are to be there.
    pub(super) fn note(&self, ebpf: &Ebpf) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = attach::on_cgroup(ebpf);
    }

    /// Whether all of them are. Who may not know takes it for granted.
    pub(super) fn are_on(&self, cgroup: &File) -> bool {
        let programs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        programs.iter().all(|(program, attach_type)| {
            let ids = syscall::attached_programs(cgroup.as_fd(), *attach_type);
            ids.map_or(true, |ids| ids.contains(program))
        })
    }
}

/// Whether this is the cgroup that goes by the path now.
pub(super) fn is_at(cgroup: &File, path: &Path) -> bool {
    let here = cgroup.metadata().map(|it| it.ino());
    let there = fs::metadata(path).map(|it| it.ino());
    matches!((here, there), (Ok(here), Ok(there)) if here == there)
}

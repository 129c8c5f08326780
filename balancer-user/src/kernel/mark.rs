//! A note on the cgroup itself: where the programs are pinned that steer it.
//!
//! The locks of `lock` go with the agent, but its programs stay. A second agent with pins of its own
//! would attach a second copy beside them, and every connection would count twice. The note is an
//! extended attribute, which the kernel forgets with the cgroup. It names one of the programs too: a note
//! about programs that are no more says nothing.

use std::{
    fs::File,
    io, iter,
    os::{fd::AsFd as _, unix::fs::MetadataExt as _},
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type;
use rustix::fs::{XattrFlags, fgetxattr, fremovexattr, fsetxattr};

use super::{KernelError, cgroup, syscall};

const NAME: &str = "user.idlefirst.pins";
/// Paths are no longer (PATH_MAX), and two numbers stand before them.
const MAX_BYTES: usize = 4096 + 64;

/// Refuses if programs that are pinned elsewhere steer this cgroup, or one above or below it:
/// connections there would count twice.
pub(super) fn check(path: &Path, pins: &Path) -> Result<(), KernelError> {
    let own = path.canonicalize().map_err(|source| KernelError::Open {
        path: path.to_owned(),
        source,
    })?;
    let related = cgroup::above(&own).map(Path::to_owned);
    let related = related.chain(cgroup::below(&own));
    for cgroup in iter::once(own.clone()).chain(related) {
        check_one(&cgroup, pins)?;
    }
    Ok(())
}

/// The same of this cgroup only.
pub(super) fn check_one(path: &Path, pins: &Path) -> Result<(), KernelError> {
    // It may be gone by now.
    let Ok(cgroup) = File::open(path) else {
        return Ok(());
    };
    let Some(other) =
        read(&cgroup).filter(|other| identity(pins).is_none_or(|own| other.identity != own))
    else {
        return Ok(());
    };
    let attached =
        syscall::attached_programs(cgroup.as_fd(), bpf_attach_type::BPF_CGROUP_INET4_CONNECT)
            .map_err(KernelError::system("asking which programs are attached"))?;
    if !attached.contains(&other.program) {
        return Ok(());
    }
    Err(KernelError::PinnedElsewhere {
        cgroup: path.to_owned(),
        pins: other.pins,
    })
}

/// Notes that the programs that steer this cgroup are pinned here; `program` is the id of the one for
/// IPv4 connects.
pub(super) fn put(cgroup: &File, pins: &Path, program: u32) {
    let Some(identity) = identity(pins) else {
        return;
    };
    let note = format!("{identity} {program} {}", pins.display());
    if let Err(error) = fsetxattr(cgroup, NAME, note.as_bytes(), XattrFlags::empty()) {
        // A read-only mount of the hierarchy, most likely. It is a safeguard only.
        tracing::debug!(%error, "cannot note on the cgroup where its programs are pinned");
    }
}

/// Takes the note off, if it says that they are pinned here.
pub(super) fn remove(cgroup: &File, pins: &Path) {
    if read(cgroup).is_some_and(|note| identity(pins).is_some_and(|own| note.identity == own)) {
        let _ = fremovexattr(cgroup, NAME);
    }
}

/// What is noted.
struct Note {
    /// See [`identity`].
    identity: String,
    program: u32,
    /// The path that it went by.
    pins: PathBuf,
}

fn read(cgroup: &File) -> Option<Note> {
    let mut bytes = vec![0; MAX_BYTES];
    let len = fgetxattr(cgroup, NAME, &mut bytes[..]).ok()?;
    let note = String::from_utf8(bytes[..len].to_vec()).ok()?;
    let mut parts = note.splitn(3, ' ');
    Some(Note {
        identity: parts.next()?.to_owned(),
        program: parts.next()?.parse().ok()?,
        pins: parts.next()?.into(),
    })
}

/// The directory, the same under whatever path a container sees it.
fn identity(pins: &Path) -> Option<String> {
    let metadata: io::Result<_> = std::fs::metadata(pins);
    let metadata = metadata.ok()?;
    Some(format!("{}:{}", metadata.dev(), metadata.ino()))
}

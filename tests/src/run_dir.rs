//! A directory of our own for sockets, configuration and pins, with a bpffs mounted in it.
//!
//! The bpffs is separate from the machine's at `/sys/fs/bpf`: pins of ours cannot meet anyone
//! else's, and unmounting lets go of everything that was pinned.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::name;

/// Where such directories are. Short, since a unix socket's path has at most 107 bytes.
pub(crate) const PARENT: &str = "/run";

/// `/run/idlefirst-…/`, removed with everything in it on drop.
#[derive(Debug)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes one and mounts its bpffs.
    pub fn new(purpose: &str) -> Result<Self> {
        let path = Path::new(PARENT).join(name::unique(purpose));
        fs::create_dir(&path)
            .with_context(|| format!("cannot make {}: this needs root", path.display()))?;
        let dir = Self { path };
        let bpffs = dir.bpffs();
        fs::create_dir(&bpffs).with_context(|| format!("cannot make {}", bpffs.display()))?;
        mount(
            Some("bpf"),
            &bpffs,
            Some("bpf"),
            MsFlags::empty(),
            Some("mode=0700"),
        )
        .with_context(|| {
            format!(
                "cannot mount a bpffs on {}: this needs root and a kernel with BPF",
                bpffs.display()
            )
        })?;
        Ok(dir)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The bpffs in it.
    pub fn bpffs(&self) -> PathBuf {
        self.path.join("bpf")
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

/// Unmounts the bpffs of a directory like this and removes the directory.
///
/// Pins go with the bpffs's last mount. They are unlinked first all the same: a copy of the mount
/// in another mount namespace would keep them.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let bpffs = path.join("bpf");
    unlink_pins(&bpffs)
        .with_context(|| format!("cannot unlink the pins in {}", bpffs.display()))?;
    match umount2(&bpffs, MntFlags::MNT_DETACH) {
        // EINVAL: not a mount; the owner was killed before it mounted.
        Ok(()) | Err(nix::Error::EINVAL | nix::Error::ENOENT) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot unmount {}", bpffs.display()));
        }
    }
    fs::remove_dir_all(path).with_context(|| format!("cannot remove {}", path.display()))
}

fn unlink_pins(bpffs: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(bpffs) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        // The kernel's own `maps.debug` and `progs.debug` cannot be unlinked; nobody else's name
        // can have a dot (kernel/bpf/inode.c, bpf_lookup).
        if entry.file_name().as_encoded_bytes().contains(&b'.') {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

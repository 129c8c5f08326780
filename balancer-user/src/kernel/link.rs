//! Links: what keeps a program attached, pinned so that it outlives the agent.
//!
//! aya attaches too, but neither exchanges the program behind a link that exists (for these types)
//! nor tells what a link is attached to. Called by `attach`.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd},
    path::Path,
};

use aya_obj::generated::bpf_attach_type;

use super::syscall::{self, LinkTarget};

/// Where a program is attached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    /// The cgroup's directory, or the network namespace.
    pub(super) target: BorrowedFd<'a>,
    /// What the kernel would say of a link there.
    pub(super) is: LinkTarget,
    pub(super) attach_type: bpf_attach_type,
}

/// Why a program is not attached.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    /// The kernel refuses to attach it.
    #[error(transparent)]
    Refused(io::Error),
    /// The link cannot be pinned, opened or looked at.
    #[error("its pin {path} is of no use: {source}")]
    Pin {
        path: std::path::PathBuf,
        source: io::Error,
    },
    /// An earlier agent attached it somewhere else.
    #[error("an earlier agent has attached it elsewhere, as its pin {path} says")]
    Elsewhere { path: std::path::PathBuf },
}

/// A pinned link. It stays when this goes.
#[derive(Debug)]
pub(super) struct Link(OwnedFd);

impl Link {
    /// The one that is pinned here; `None` if there is none, or it has lost what it was attached to.
    pub(super) fn pinned(path: &Path) -> Result<Option<(Self, LinkTarget)>, LinkError> {
        let unusable = |source| LinkError::Pin {
            path: path.to_owned(),
            source,
        };
        let fd = match syscall::open_pinned(path) {
            Ok(fd) => fd,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unusable(error)),
        };
        let target = syscall::link_target(fd.as_fd()).map_err(unusable)?;
        Ok(target.map(|target| (Self(fd), target)))
    }

    /// Has the program run at this place: behind the link that is pinned here already, or a new one
    /// that is pinned then. No call in between runs neither the old program nor the new.
    pub(super) fn put(
        path: &Path,
        place: &Place<'_>,
        program: BorrowedFd<'_>,
    ) -> Result<(), LinkError> {
        if let Some((link, target)) = Self::pinned(path)? {
            if target != place.is {
                return Err(LinkError::Elsewhere {
                    path: path.to_owned(),
                });
            }
            let before = link.program_tag();
            match syscall::update_link(link.0.as_fd(), program) {
                Ok(()) => {
                    let after = link.program_tag();
                    if before != after {
                        let program = path.file_name().unwrap_or_default();
                        tracing::info!(?program, %before, %after, "another build's program is replaced");
                    }
                    return Ok(());
                }
                // Its cgroup went this very moment, and another of its name has come.
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {}
                Err(error) => return Err(LinkError::Refused(error)),
            }
        }
        let unusable = |source| LinkError::Pin {
            path: path.to_owned(),
            source,
        };
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
            _ => {}
        }
        let link = syscall::create_link(program, place.target, place.attach_type)
            .map_err(LinkError::Refused)?;
        syscall::pin(link.as_fd(), path).map_err(unusable)
    }

    /// The digest of the program behind it, by which builds can be told apart.
    fn program_tag(&self) -> String {
        let fdinfo = fs::read_to_string(format!("/proc/self/fdinfo/{}", self.0.as_raw_fd()));
        let fdinfo = fdinfo.unwrap_or_default();
        let tag = fdinfo
            .lines()
            .find_map(|line| line.strip_prefix("prog_tag:"));
        tag.unwrap_or_default().trim().to_owned()
    }

    /// Detaches the program now, not only when the last who has the link open lets go of it.
    pub(super) fn detach(&self) -> io::Result<()> {
        syscall::detach_link(self.0.as_fd())
    }
}

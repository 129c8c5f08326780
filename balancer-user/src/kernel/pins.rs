//! Pins: the maps under `agent.pin_path`, for `bpftool` and for whoever looks.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::Ebpf;
use balancer_common::maps;

use super::{KernelError, lock, preflight};

/// The maps that are pinned, under their own names.
pub(super) const PINNED: [&str; 13] = [
    maps::FRONTENDS,
    maps::SERVICES,
    maps::LEAVES,
    maps::BACKENDS,
    maps::CONNECTIONS,
    maps::COUNTERS,
    maps::FAULTS,
    maps::DECISION_TIME,
    maps::AGENT,
    maps::OVERFLOW_FLOWS,
    maps::OVERFLOW_SOCK,
    maps::BYPASS,
    maps::EVENTS,
];

/// The agent's directory on the BPF file system. Dropping it removes the pins
/// and, if nothing else is in it, the directory.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    /// Held for its lock.
    _directory: File,
}

impl Pins {
    /// Makes the directory and locks it. Pins that a killed agent left there
    /// are removed: its programs went with it, so nothing uses them.
    pub(super) fn claim(path: &Path) -> Result<Self, KernelError> {
        preflight::check_bpffs(path)?;
        let open_error = |source| KernelError::Open {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(open_error)?;
        let directory = File::open(path).map_err(open_error)?;
        lock::exclusive(&directory, path)?;
        if remove_pins(path).map_err(open_error)? > 0 {
            tracing::warn!(path = %path.display(), "an earlier agent was killed here; its pinned maps are replaced");
        }
        Ok(Self {
            path: path.to_owned(),
            _directory: directory,
        })
    }

    /// Pins the maps.
    pub(super) fn pin(&self, ebpf: &Ebpf) -> Result<(), KernelError> {
        for name in PINNED {
            let map = ebpf
                .map(name)
                .ok_or(KernelError::Missing { what: "map", name })?;
            let path = self.path.join(name);
            map.pin(&path).map_err(|source| KernelError::Pin {
                name,
                path,
                source: Box::new(source),
            })?;
        }
        Ok(())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(error) = remove_pins(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the pinned maps");
        }
        // Not ours alone if this fails: then it stays.
        let _ = fs::remove_dir(&self.path);
    }
}

fn remove_pins(directory: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for name in PINNED {
        match fs::remove_file(directory.join(name)) {
            Ok(()) => removed += 1,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(removed)
}

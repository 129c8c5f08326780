//! Pins: maps and links under `agent.pin_path`. They outlive the agent, and with them steering and
//! every count do; the next agent takes over what it finds.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use aya::{
    EbpfLoader,
    maps::{Array, Map, MapData},
};
use balancer_common::{connection::AgentState, maps};

use super::{KernelError, attach, cgroup, link::Link, lock, mark, preflight, record::Record};

/// The maps that are pinned, under their own names.
pub(super) const PINNED: [&str; 16] = [
    maps::FRONTENDS,
    maps::SERVICES,
    maps::LEAVES,
    maps::BACKENDS,
    maps::TABLES,
    maps::AFFINITY,
    maps::CONNECTIONS,
    maps::COUNTERS,
    maps::FAULTS,
    maps::DECISION_TIME,
    maps::AGENT,
    maps::OVERFLOW_FLOWS,
    maps::OVERFLOW_SOCK,
    maps::BYPASS,
    maps::NAMES,
    maps::EVENTS,
];

/// Where links are, below the pin path.
const LINKS: &str = "links";

/// The agent's directory on the BPF file system.
#[derive(Debug)]
pub(super) struct Pins {
    path: PathBuf,
    /// Held for its lock.
    _directory: File,
    /// Whether an earlier agent's programs are attached, and its maps in use.
    pub(super) is_earlier: bool,
    /// Whether everything goes when this does.
    is_temporary: bool,
}

impl Pins {
    /// Makes the directory and locks it, and looks at what an earlier agent left there. Maps that
    /// no attached program uses are of no worth and go.
    ///
    /// # Errors
    /// If another agent is at work, or if what is there is of another layout.
    pub(super) fn claim(path: &Path) -> Result<Self, KernelError> {
        preflight::check_bpffs(path)?;
        let open_error = |source| KernelError::Open {
            path: path.to_owned(),
            source,
        };
        fs::create_dir_all(path).map_err(open_error)?;
        let directory = File::open(path).map_err(open_error)?;
        lock::exclusive(&directory, path)?;
        let mut pins = Self {
            path: path.to_owned(),
            _directory: directory,
            is_earlier: false,
            is_temporary: true,
        };
        let mut is_attached = false;
        for name in attach::attached() {
            let link = Link::pinned(&pins.link(name)).map_err(|error| pins.unusable(error))?;
            is_attached |= link.is_some();
        }
        if is_attached {
            // From here on nothing of it may be lost, whatever happens.
            pins.is_temporary = false;
            pins.check_layout()?;
            pins.is_earlier = true;
        } else {
            remove(path).map_err(open_error)?;
        }
        fs::create_dir_all(path.join(LINKS)).map_err(open_error)?;
        Ok(pins)
    }

    /// Checks that the maps of an earlier agent are laid out as ours are.
    fn check_layout(&self) -> Result<(), KernelError> {
        let other = |found| KernelError::OtherLayout {
            path: self.path.clone(),
            found,
        };
        let missing = PINNED.iter().find(|name| !self.path.join(name).exists());
        if let Some(map) = missing {
            return Err(KernelError::PinMissing {
                path: self.path.clone(),
                map,
            });
        }
        let agent = MapData::from_pin(self.path.join(maps::AGENT))
            .map_err(KernelError::map("open the pinned", maps::AGENT))?;
        let size = agent.info().map(|info| info.value_size());
        if size.is_ok_and(|size| size as usize != size_of::<AgentState>()) {
            return Err(other(None));
        }
        let agent: Array<_, Record<AgentState>> = Map::Array(agent)
            .try_into()
            .map_err(KernelError::map("open the pinned", maps::AGENT))?;
        let Record(state) = agent
            .get(&0, 0)
            .map_err(KernelError::map("read", maps::AGENT))?;
        match state.abi {
            maps::ABI => Ok(()),
            found => Err(other(Some(found))),
        }
    }

    /// Has maps taken from their pins, or pinned as they are made.
    pub(super) fn bind<'a>(&'a self, loader: &mut EbpfLoader<'a>) {
        for name in PINNED {
            loader.map_pin_path(name, self.path.join(name));
        }
    }

    /// Where the link of a program is pinned.
    pub(super) fn link(&self, program: &str) -> PathBuf {
        self.path.join(LINKS).join(program)
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on everything stays when the agent ends.
    pub(super) fn keep(&mut self) {
        self.is_temporary = false;
    }

    pub(super) fn unusable(&self, error: super::link::LinkError) -> KernelError {
        KernelError::Pins {
            path: self.path.clone(),
            source: Box::new(error),
        }
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if !self.is_temporary {
            return;
        }
        if let Err(error) = remove(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the pins");
        }
        // Not ours alone if this fails: then it stays.
        let _ = fs::remove_dir(&self.path);
    }
}

/// Ends steering: detaches what an agent has pinned here and removes the pins, and what is noted on
/// the cgroup (found if it is not given). Gives whether there was anything.
///
/// # Errors
/// If an agent is still at work, the cgroup is steered by what is pinned elsewhere, or something
/// cannot be removed.
pub fn uninstall(path: &Path, cgroup: Option<&Path>) -> Result<bool, KernelError> {
    let open_error = |source| KernelError::Open {
        path: path.to_owned(),
        source,
    };
    let found = cgroup.is_none().then(cgroup::find_unified);
    let found = found.and_then(Result::ok);
    let cgroup = cgroup.or(found.as_deref());
    if let Some(cgroup) = cgroup {
        mark::check_one(cgroup, path)?;
    }
    let directory = match File::open(path) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(open_error(error)),
    };
    preflight::check_bpffs(path)?;
    lock::exclusive(&directory, path).map_err(|error| match error {
        KernelError::InUse { path } => KernelError::AtWork { path },
        error => error,
    })?;
    if let Some(Ok(cgroup)) = cgroup.map(File::open) {
        mark::remove(&cgroup, path);
    }
    let removed = remove(path).map_err(open_error)?;
    let _ = fs::remove_dir(path);
    Ok(removed > 0)
}

/// Removes links, takers first so that no slot is taken while trackers still give them back, and
/// then maps. Gives how many.
fn remove(directory: &Path) -> io::Result<usize> {
    let mut removed = 0;
    let links = directory.join(LINKS);
    for name in attach::detach_order() {
        let path = links.join(name);
        if let Ok(Some((link, _))) = Link::pinned(&path) {
            // Otherwise it is, a moment later, when the last who has it open lets go.
            let _ = link.detach();
        }
        removed += remove_file(&path)?;
    }
    match fs::remove_dir(&links) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for name in PINNED {
        removed += remove_file(&directory.join(name))?;
    }
    Ok(removed)
}

fn remove_file(path: &Path) -> io::Result<usize> {
    match fs::remove_file(path) {
        Ok(()) => Ok(1),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

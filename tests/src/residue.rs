//! Nothing may be left behind: what a process of ours has on the machine, the assertion that it is
//! gone, and the sweep for owners that were killed.
//!
//! Owners are known by name (cgroups, directories, mounts), by environment (processes) and by id
//! (BPF objects that were seen in use). Anonymous namespaces need no sweep; the processes that
//! could keep them alive are looked for instead.

use std::{
    collections::BTreeSet,
    fmt, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::{
    maps::loaded_maps,
    programs::{
        links::{FdLink, PinnedLink},
        loaded_links, loaded_programs,
    },
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cgroup,
    name::Owner,
    process::OWNER_VARIABLE,
    run_dir,
    wait::{eventually, within},
};

/// Something that an owner has on the machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Thing {
    /// A cgroup.
    Cgroup(PathBuf),
    /// A directory of sockets, configuration and pins.
    RunDir(PathBuf),
    /// A mount below such a directory.
    Mount(PathBuf),
    /// A process.
    Process(u32),
}

/// Ids of BPF objects. The kernel does not give an id twice before it has gone through all 2³¹.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BpfObjects {
    programs: BTreeSet<u32>,
    links: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

/// What this process had at a moment; compared with later ones.
#[derive(Debug)]
pub struct Snapshot {
    before: BTreeSet<Thing>,
}

impl Snapshot {
    /// Takes one.
    pub fn take() -> Result<Self> {
        Ok(Self {
            before: things_of(Owner::this())?,
        })
    }

    /// Panics unless everything that came after the snapshot is gone within a few seconds: the
    /// kernel frees some things a moment later.
    ///
    /// It counts everything of this process, so other tests must not run in it meanwhile.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        eventually(Duration::from_secs(10), || {
            let now = things_of(Owner::this())?;
            let left: Vec<_> = now.difference(&self.before).map(Thing::to_string).collect();
            if left.is_empty() {
                Ok(())
            } else {
                Err(anyhow::anyhow!("left behind: {}", left.join(", ")))
            }
        });
    }
}

impl BpfObjects {
    /// Those that a process has open, and those that are pinned in a directory.
    pub fn in_use(pid: u32, pins: &Path) -> Result<Self> {
        let mut objects = Self::default();
        objects.add_open(pid)?;
        objects.add_pinned(pins)?;
        Ok(objects)
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.links.is_empty() && self.maps.is_empty()
    }

    /// Those that the kernel still has.
    pub fn remaining(&self) -> Result<Self> {
        let programs = loaded_programs().map(|program| program.map(|program| program.id()));
        let programs = programs
            .collect::<Result<BTreeSet<_>, _>>()
            .context("cannot list BPF programs")?;
        let links = loaded_links().map(|link| link.map(|link| link.id()));
        let links = links
            .collect::<Result<BTreeSet<_>, _>>()
            .context("cannot list BPF links")?;
        let maps = loaded_maps().map(|map| map.map(|map| map.id()));
        let maps = maps
            .collect::<Result<BTreeSet<_>, _>>()
            .context("cannot list BPF maps")?;
        Ok(Self {
            programs: &self.programs & &programs,
            links: &self.links & &links,
            maps: &self.maps & &maps,
        })
    }

    /// Panics unless the kernel has freed all of them within a few seconds.
    #[track_caller]
    pub fn assert_gone(&self) {
        eventually(Duration::from_secs(10), || {
            let left = self.remaining()?;
            if left.is_empty() {
                Ok(())
            } else {
                Err(anyhow::anyhow!("still in the kernel: {left:?}"))
            }
        });
    }

    fn add_open(&mut self, pid: u32) -> Result<()> {
        let dir = format!("/proc/{pid}/fdinfo");
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot list {dir}"))? {
            // A descriptor may be closed between listing and reading.
            let Ok(info) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            self.add_info(&info);
        }
        Ok(())
    }

    fn add_pinned(&mut self, dir: &Path) -> Result<()> {
        let Ok(entries) = fs::read_dir(dir) else {
            return Ok(());
        };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                self.add_pinned(&path)?;
            } else if let Ok(link) = PinnedLink::from_pin(&path) {
                let link: FdLink = link.into();
                if let Ok(info) = link.info() {
                    self.links.insert(info.id());
                    self.programs.insert(info.program_id());
                }
            }
        }
        Ok(())
    }

    fn add_info(&mut self, info: &str) {
        for line in info.lines() {
            let Some((key, value)) = line.split_once(':') else {
                continue;
            };
            let Ok(id) = value.trim().parse() else {
                continue;
            };
            match key {
                "prog_id" => self.programs.insert(id),
                "link_id" => self.links.insert(id),
                "map_id" => self.maps.insert(id),
                _ => false,
            };
        }
    }
}

/// Everything that an owner has, alive or dead.
pub fn things_of(owner: Owner) -> Result<BTreeSet<Thing>> {
    Ok(all_things()?
        .into_iter()
        .filter(|(whose, _)| *whose == owner)
        .map(|(_, thing)| thing)
        .collect())
}

/// Takes away what owners left that are no more. Gives what was taken.
pub fn sweep() -> Result<Vec<Thing>> {
    let orphans: Vec<_> = all_things()?
        .into_iter()
        .filter(|(owner, _)| !owner.is_alive())
        .collect();
    // Processes first: they keep cgroups busy, and the agent among them would write pins again.
    for (owner, thing) in &orphans {
        if let Thing::Process(pid) = thing {
            end_process(*owner, *pid)?;
        }
    }
    for (_, thing) in &orphans {
        match thing {
            Thing::Cgroup(path) => cgroup::remove(path)?,
            Thing::RunDir(path) => run_dir::remove(path)?,
            // A mount goes with its directory.
            Thing::Mount(_) | Thing::Process(_) => {}
        }
    }
    Ok(orphans.into_iter().map(|(_, thing)| thing).collect())
}

fn end_process(owner: Owner, pid: u32) -> Result<()> {
    let target = Pid::from_raw(i32::try_from(pid)?);
    let ended = within(Duration::from_secs(5), || {
        // Looked at again just before: the pid may be someone else's by now.
        if owner_of_process(pid) != Some(owner) {
            return Ok(());
        }
        match kill(target, Signal::SIGKILL) {
            Ok(()) | Err(nix::Error::ESRCH) => Err("it is still there after SIGKILL".to_owned()),
            Err(error) => Err(format!("cannot kill it: {error}")),
        }
    });
    ended.with_context(|| {
        format!(
            "process {pid}, left by process {}, which is gone",
            owner.pid()
        )
    })
}

fn all_things() -> Result<BTreeSet<(Owner, Thing)>> {
    let mut things = BTreeSet::new();
    add_named(&mut things, &cgroup::unified()?, Thing::Cgroup);
    add_named(&mut things, &cgroup::home()?, Thing::Cgroup);
    add_named(&mut things, Path::new(run_dir::PARENT), Thing::RunDir);
    add_mounts(&mut things)?;
    add_processes(&mut things)?;
    Ok(things)
}

fn add_named(
    things: &mut BTreeSet<(Owner, Thing)>,
    parent: &Path,
    thing: impl Fn(PathBuf) -> Thing,
) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        if let Some(owner) = entry.file_name().to_str().and_then(Owner::in_name) {
            things.insert((owner, thing(entry.path())));
        }
    }
}

fn add_mounts(things: &mut BTreeSet<(Owner, Thing)>) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").context("cannot read mountinfo")?;
    for point in mounts.lines().filter_map(|line| line.split(' ').nth(4)) {
        let path = Path::new(point);
        let owner = path
            .iter()
            .find_map(|part| part.to_str().and_then(Owner::in_name));
        if let Some(owner) = owner {
            things.insert((owner, Thing::Mount(path.to_owned())));
        }
    }
    Ok(())
}

fn add_processes(things: &mut BTreeSet<(Owner, Thing)>) -> Result<()> {
    for entry in fs::read_dir("/proc")
        .context("cannot list /proc")?
        .flatten()
    {
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        if let Some(owner) = owner_of_process(pid) {
            things.insert((owner, Thing::Process(pid)));
        }
    }
    Ok(())
}

fn owner_of_process(pid: u32) -> Option<Owner> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    variables.find_map(|variable| {
        let (name, value) = std::str::from_utf8(variable).ok()?.split_once('=')?;
        (name == OWNER_VARIABLE)
            .then(|| Owner::in_name(&format!("{}{value}-", crate::name::PREFIX)))?
    })
}

impl fmt::Display for Thing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::RunDir(path) => write!(f, "directory {}", path.display()),
            Self::Mount(path) => write!(f, "mount {}", path.display()),
            Self::Process(pid) => write!(f, "process {pid}"),
        }
    }
}

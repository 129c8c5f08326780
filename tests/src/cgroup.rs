//! Scratch cgroups of the unified hierarchy, to which an agent attaches its programs, and the ways
//! in: for one thread, or for a whole process.
//!
//! The unified hierarchy is found in `mountinfo`, so a hybrid layout works too. A cgroup is removed
//! when its value is dropped; that waits for processes that are just exiting.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    name,
    wait::{TimedOut, within},
};

const REMOVAL_DEADLINE: Duration = Duration::from_secs(5);

/// A cgroup of our own.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

/// Where the whole process was before [`Cgroup::adopt_process`]; dropping it moves it back.
#[derive(Debug)]
#[must_use = "dropping this moves the process back at once"]
pub struct Adopted {
    home: PathBuf,
}

impl Cgroup {
    /// A cgroup that single threads of this process can enter (so that tests in one process can
    /// each have their own), and children started from such threads or by `Place::command`.
    pub fn threaded(purpose: &str) -> Result<Self> {
        Self::create(&home()?, &name::unique(purpose))?.with_threads()
    }

    /// One of just this name below a [`Cgroup::threaded`], and of the same kind.
    pub fn below(&self, name: &str) -> Result<Self> {
        Self::create(&self.path, name)?.with_threads()
    }

    /// A cgroup that any process of the machine can be moved to, below the hierarchy's root.
    pub fn domain(purpose: &str) -> Result<Self> {
        Self::create(&unified()?, &name::unique(purpose))
    }

    fn create(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(name);
        fs::create_dir(&path).with_context(|| {
            format!(
                "cannot make the cgroup {}: this needs root and a writable cgroup2 mount",
                path.display()
            )
        })?;
        Ok(Self { path })
    }

    fn with_threads(self) -> Result<Self> {
        make_threaded(&self.path)?;
        Ok(self)
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves the calling thread in, for good. Only for [`Cgroup::threaded`].
    pub fn enter(&self) -> Result<()> {
        move_this_thread(&self.path)
    }

    /// Runs `work` inside, on a thread of its own, and waits for it. A panic goes on here. Only for
    /// [`Cgroup::threaded`].
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter()
                .expect("a threaded cgroup of ours can be entered");
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Moves this whole process in, until the returned value is dropped.
    pub fn adopt_process(&self) -> Result<Adopted> {
        let home = home()?;
        join_process(&self.path)?;
        Ok(Adopted { home })
    }

    /// Removes it and makes another of the same name. Only for [`Cgroup::threaded`].
    pub fn make_anew(&self) -> Result<()> {
        remove(&self.path)?;
        fs::create_dir(&self.path)
            .with_context(|| format!("cannot make {} again", self.path.display()))?;
        make_threaded(&self.path)
    }

    /// Removes it now and says why if that fails. Dropping does the same and prints the reason.
    pub fn remove(mut self) -> Result<()> {
        let path = std::mem::take(&mut self.path);
        remove(&path)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = remove(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

impl Drop for Adopted {
    fn drop(&mut self) {
        if let Err(error) = join_process(&self.home) {
            eprintln!("{error:#}");
        }
    }
}

fn make_threaded(cgroup: &Path) -> Result<()> {
    fs::write(cgroup.join("cgroup.type"), "threaded").with_context(|| {
        format!(
            "cannot make {} threaded: the cgroup above hands out memory or io controllers; \
             start this from a cgroup that does not",
            cgroup.display()
        )
    })
}

/// Where the unified hierarchy is mounted.
pub fn unified() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")
        .context("cannot read mountinfo: is /proc mounted?")?;
    match unified_in(&mounts) {
        Some(path) => Ok(path),
        None => {
            bail!("no cgroup2 is mounted: mount one with `mount -t cgroup2 cgroup2 /sys/fs/cgroup`")
        }
    }
}

/// The cgroup that this process is in (its first thread: other threads may be elsewhere).
pub fn home() -> Result<PathBuf> {
    let memberships =
        fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
    let own = memberships
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .context(
            "/proc/self/cgroup names no unified hierarchy: is the kernel built with cgroup2?",
        )?;
    let path = unified()?.join(own.trim_start_matches('/'));
    ensure!(
        path.is_dir(),
        "this process is in the cgroup {own}, which the cgroup2 mount {} does not show",
        unified()?.display()
    );
    Ok(path)
}

/// Moves this whole process to a cgroup.
pub fn join_process(path: &Path) -> Result<()> {
    let procs = path.join("cgroup.procs");
    fs::write(&procs, "0")
        .with_context(|| format!("cannot move this process: writing to {}", procs.display()))
}

/// Moves the calling thread to where the process's first thread is.
pub(crate) fn move_this_thread_home() -> Result<()> {
    let read = |path| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    if read("/proc/thread-self/cgroup")? == read("/proc/self/cgroup")? {
        return Ok(());
    }
    move_this_thread(&home()?)
}

/// Moves the calling thread to a cgroup of the same threaded domain.
fn move_this_thread(path: &Path) -> Result<()> {
    let threads = path.join("cgroup.threads");
    fs::write(&threads, "0")
        .with_context(|| format!("cannot move this thread: writing to {}", threads.display()))
}

/// Removes a cgroup and those below, each as soon as nothing is in it any more.
pub(crate) fn remove(path: &Path) -> Result<()> {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path())?;
        }
    }
    let removed = within(REMOVAL_DEADLINE, || match fs::remove_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    });
    removed.map_err(|TimedOut { last, .. }| {
        let inside = ["cgroup.procs", "cgroup.threads"]
            .iter()
            .find_map(|file| fs::read_to_string(path.join(file)).ok())
            .unwrap_or_default();
        anyhow::anyhow!(
            "cannot remove the cgroup {}: {last}; still in it: [{}]",
            path.display(),
            inside.split_whitespace().collect::<Vec<_>>().join(" ")
        )
    })
}

/// Prefers a mount that shows the hierarchy's root over a bind mount of some part.
fn unified_in(mountinfo: &str) -> Option<PathBuf> {
    let mounts: Vec<(&str, &str)> = mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, filesystem) = line.split_once(" - ")?;
            let mut fields = mount.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            filesystem.starts_with("cgroup2 ").then_some((root, point))
        })
        .collect();
    let whole = mounts.iter().find(|(root, _)| *root == "/");
    whole
        .or(mounts.first())
        .map(|(_, point)| PathBuf::from(point))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw
";

    #[test]
    fn a_hybrid_layout_is_understood() {
        assert_eq!(
            unified_in(HYBRID),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
    }

    #[test]
    fn the_whole_hierarchy_comes_before_a_part() {
        let part = "50 31 0:38 /some/part /mnt/part rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            unified_in(&format!("{part}{HYBRID}")),
            Some(PathBuf::from("/sys/fs/cgroup/unified"))
        );
        assert_eq!(unified_in(part), Some(PathBuf::from("/mnt/part")));
        assert_eq!(unified_in(""), None);
    }
}

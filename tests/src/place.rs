//! Where a client stands: a network namespace and a cgroup. Threads and processes are put there.

use std::{path::Path, process::Command, thread};

use anyhow::Result;

use crate::{cgroup::Cgroup, netns::Netns};

/// A namespace together with a cgroup.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    netns: &'a Netns,
    cgroup: &'a Cgroup,
}

impl<'a> Place<'a> {
    /// That namespace and that cgroup. Threads can only enter a [`Cgroup::threaded`].
    pub fn new(netns: &'a Netns, cgroup: &'a Cgroup) -> Self {
        Self { netns, cgroup }
    }

    /// Moves the calling thread there, for good. Threads it starts afterwards begin there.
    pub fn enter(self) -> Result<()> {
        self.cgroup.enter()?;
        self.netns.enter()
    }

    /// Runs `work` there, on a thread of its own, and waits for it. A panic goes on here.
    pub fn run<T: Send>(self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            self.enter().expect("a place of ours can be entered");
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// Runs `work` there on so many threads at once, each with its number, and waits for all of
    /// them. The first error counts.
    pub fn run_many(self, threads: u64, work: impl Fn(u64) -> Result<()> + Sync) -> Result<()> {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|number| {
                    let work = &work;
                    scope.spawn(move || {
                        self.enter()?;
                        work(number)
                    })
                })
                .collect();
            let ended = threads.into_iter().map(|thread| match thread.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            });
            // All of them end before the first error counts.
            ended.collect::<Vec<_>>().into_iter().collect()
        })
    }

    /// A command whose process will be there. It dies with the thread that starts it.
    pub fn command(self, program: impl AsRef<Path>) -> Command {
        command(Some(self.netns), Some(self.cgroup.path()), program.as_ref())
    }
}

/// A command that moves itself into a namespace and a cgroup, and is killed when the thread that
/// started it ends. The pid that it is started with is the program's own: each step is an `exec`.
pub fn command(netns: Option<&Netns>, cgroup: Option<&Path>, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]);
    if let Some(cgroup) = cgroup {
        command
            .args(["sh", "-c", "echo $$ >\"$0\"/cgroup.procs && exec \"$@\""])
            .arg(cgroup);
    }
    if let Some(netns) = netns {
        command
            .arg("nsenter")
            .arg(format!("--net={}", netns.path().display()))
            .arg("--");
    }
    command.arg(program);
    command
}

//! The ground for agents that must not start: everything that one needs, a good configuration to
//! spoil, and the proof that a failed start leaves nothing behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{
    agent::{self, AgentOptions},
    crowd::{Crowd, ask, frontend_address, pod_address},
    exact::Request,
    place,
    process::Process,
    run_dir::RunDir,
};

/// A debug build on a busy machine.
pub const START: Duration = Duration::from_secs(20);

/// Starts an agent with the capabilities that it asks for, and no other.
pub const LEAST: [&str; 3] = [
    "setpriv",
    "--bounding-set=-all,+bpf,+net_admin,+perfmon",
    "--",
];

/// Everything that an agent needs, and what it must leave as it was.
#[derive(Debug)]
pub struct Stage {
    dir: RunDir,
    /// Where it all is.
    pub crowd: Crowd,
}

impl Stage {
    /// With one pod's address, and nothing on it.
    pub fn new() -> Result<Self> {
        Ok(Self {
            dir: RunDir::new("refusal")?,
            crowd: Crowd::new(1)?,
        })
    }

    /// A file in a directory of its own, in which only a bpffs is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A good `pin_path`.
    pub fn pins(&self) -> PathBuf {
        self.dir.bpffs().join("pins")
    }

    /// A good configuration: `agent:` in lines 2 to 6, `services:` in line 7.
    pub fn config(&self) -> String {
        self.config_for(self.crowd.cgroup.path(), &self.pins())
    }

    /// [`Stage::config`] with another cgroup and pin path.
    pub fn config_for(&self, cgroup: &Path, pins: &Path) -> String {
        format!(
            "source: file\n\
             agent:\n\
             \x20 cgroup: {}\n\
             \x20 pin_path: {}\n\
             \x20 admin: [\"unix:{}\"]\n\
             \x20 metrics: none\n\
             services:\n\
             - {{name: hello, frontends: [\"{}\"], max_inflight: 1, backends: [{{address: \"{}\"}}]}}\n",
            cgroup.display(),
            pins.display(),
            self.path("admin.sock").display(),
            frontend_address(0),
            pod_address(0),
        )
    }

    /// Starts an agent, which must end with 1. Gives what it said.
    pub fn refused(&self, config: &str) -> Result<String> {
        self.refused_under(&[], config)
    }

    /// [`Stage::refused`], started by another program.
    pub fn refused_under(&self, launcher: &[&str], config: &str) -> Result<String> {
        let file = self.path("config.yaml");
        fs::write(&file, config)?;
        let said = self.refused_with(launcher, &file)?;
        fs::remove_file(&file)?;
        self.assert_nothing_left()?;
        Ok(said)
    }

    /// [`Stage::refused_under`] with any file, and without a look at what is left.
    pub fn refused_with(&self, launcher: &[&str], file: &Path) -> Result<String> {
        let mut process = Process::start(self.command(launcher, file)?)?;
        let status = process.wait(START)?;
        let said = process.stderr();
        ensure!(
            status.code() == Some(1),
            "it ended with {status}, saying:\n{said}"
        );
        ensure!(!said.contains("panicked"), "{said}");
        let error = said.lines().filter(|line| line.contains("error: ")).count();
        ensure!(error == 1, "one error and no more:\n{said}");
        Ok(said)
    }

    /// Ends steering. Gives what that says.
    pub fn uninstall(&self, file: &Path) -> Result<String> {
        let agent = agent::binary()?;
        let mut command = place::command(Some(&self.crowd.netns), None, &agent);
        let done = command.args(["uninstall", "--config"]).arg(file).output()?;
        ensure!(done.status.success(), "{done:?}");
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }

    /// What starts an agent, by another program if one is given.
    pub fn command(&self, launcher: &[&str], file: &Path) -> Result<Command> {
        let agent = agent::binary()?;
        let program = launcher.first().map_or(agent.as_path(), Path::new);
        let mut command = place::command(Some(&self.crowd.netns), None, program);
        if let Some((_, arguments)) = launcher.split_first() {
            command.args(arguments).arg(&agent);
        }
        command.args(["agent", "--config"]).arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(command)
    }

    /// No pin, no socket, no file; and no program: another agent finds the cgroup free.
    pub fn assert_nothing_left(&self) -> Result<()> {
        let left = entries(self.dir.path())?;
        ensure!(left == ["bpf"], "left behind: {left:?}");
        let pinned = entries(&self.dir.bpffs())?;
        ensure!(pinned.is_empty(), "left pinned: {pinned:?}");
        let options = AgentOptions {
            pin_path: Some(self.pins()),
            ..AgentOptions::new(&self.crowd.netns, &self.crowd.cgroup)
        };
        options.start(&[])?.uninstall()?;
        let pinned = entries(&self.dir.bpffs())?;
        ensure!(pinned.is_empty(), "left pinned: {pinned:?}");
        Ok(())
    }
}

/// Names in a directory, without those that every bpffs has.
pub fn entries(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !matches!(&*name, "maps.debug" | "progs.debug") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Checks that each of these words was said.
#[track_caller]
pub fn assert_says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "no {word:?} in:\n{said}");
    }
}

/// Checks that the first service's connects are steered and served.
pub fn assert_steered(crowd: &Crowd) -> Result<()> {
    let stream = crowd.dial(frontend_address(0))?;
    ask(&stream, Request::Answer)
}

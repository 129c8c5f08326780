//! The proxies that ours is compared with, each a process in the bench's namespace that ends with
//! its value. Called by `stage`.

use std::{
    fmt, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};
use tests::{netns::Netns, place, process::Process};

use super::settings;

/// Which of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Nginx,
    HaProxy,
    Envoy,
}

/// One that runs.
pub(super) struct Peer {
    pub(super) kind: Kind,
    pub(super) address: SocketAddr,
    process: Process,
}

/// What it needs to run.
pub(super) struct Ground<'g> {
    pub(super) netns: &'g Netns,
    /// For its files.
    pub(super) dir: &'g Path,
    pub(super) backends: &'g [SocketAddr],
}

impl Peer {
    /// Starts one; it may not answer yet. `program` is looked up if it is no path.
    pub(super) fn start(
        kind: Kind,
        program: &Path,
        address: SocketAddr,
        ground: &Ground<'_>,
    ) -> Result<Self> {
        let Ground {
            netns,
            dir,
            backends,
        } = ground;
        let (file, text) = match kind {
            Kind::Nginx => ("nginx.conf", settings::nginx(address, backends, dir)),
            Kind::HaProxy => ("haproxy.cfg", settings::haproxy(address, backends)),
            Kind::Envoy => ("envoy.json", settings::envoy(address, backends)),
        };
        let file = dir.join(file);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = place::command(Some(netns), None, program);
        kind.add_arguments(&mut command, &file);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        // Some sudoers leave the directories of system tools out.
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        command.env("PATH", path);
        Ok(Self {
            kind,
            address,
            process: Process::start(command)?,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// What it complained of so far.
    pub(super) fn complaints(&self) -> String {
        self.process.stderr()
    }
}

impl Kind {
    /// The program's name, if it is installed as a package of the system.
    pub(super) fn program(self) -> PathBuf {
        match self {
            Self::Nginx => "nginx".into(),
            Self::HaProxy => "haproxy".into(),
            Self::Envoy => "envoy".into(),
        }
    }

    fn add_arguments(self, command: &mut Command, file: &Path) {
        match self {
            Self::Nginx => command.args(["-e", "stderr", "-c"]).arg(file),
            Self::HaProxy => command.args(["-db", "-q", "-f"]).arg(file),
            Self::Envoy => command
                .args([
                    "--concurrency",
                    "1",
                    "--disable-hot-restart",
                    "-l",
                    "error",
                    "-c",
                ])
                .arg(file),
        };
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "HAProxy",
            Self::Envoy => "Envoy",
        })
    }
}

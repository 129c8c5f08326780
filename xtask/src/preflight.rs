//! What the commands need that run the agent on a ground of their own: root, tools, the agent's
//! program, a machine without leftovers; and the user's wish to stop. Called by `demo` and `bench`.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use ebpf_build::{InstallPolicy, install_packages, is_root, which};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use tests::residue;

use crate::{agent, process::progress};

/// Who asks, and for what.
pub(crate) struct Needs<'n> {
    /// `cargo xtask` …
    pub(crate) command: &'n str,
    /// Programs that it calls, and the Debian packages that have them.
    pub(crate) tools: &'n [(&'n str, &'n str)],
}

/// Makes the machine ready and builds the agent. Gives its program.
pub(crate) fn prepare(needs: &Needs<'_>) -> Result<PathBuf> {
    let Needs { command, tools } = needs;
    if !is_root() {
        bail!(
            "{command} needs root: it makes network namespaces and a cgroup, and loads eBPF programs\n\
             what to do: run `sudo -E env \"PATH=$PATH\" cargo xtask {command}`"
        );
    }
    for (tool, package) in *tools {
        if !is_installed(tool) {
            let why = format!("{command} calls {tool}");
            let policy = InstallPolicy::from_environment();
            install_packages(&[*package], &why, policy, &progress)?;
        }
    }
    for thing in residue::sweep().context("cannot take away what an earlier run left")? {
        progress(&format!("removed what an earlier run left: {thing}"));
    }
    raise_descriptor_limit()?;
    agent::named_or_built()
}

/// `su` and some sudoers leave the directories of system tools out of `PATH`.
fn is_installed(tool: &str) -> bool {
    let system = ["/usr/sbin", "/sbin"];
    which(tool).is_some()
        || system
            .iter()
            .any(|directory| Path::new(directory).join(tool).exists())
}

/// Many connections at once need many descriptors; most shells allow 1,024.
pub(crate) fn raise_descriptor_limit() -> Result<()> {
    let (_, hard) =
        getrlimit(Resource::RLIMIT_NOFILE).context("cannot read the limit on descriptors")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("cannot raise the limit on descriptors")
}

/// Whether the user wants it to stop.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on SIGINT and SIGTERM no longer end the process at once.
    pub(crate) fn listen() -> Result<Self> {
        let flag = Arc::<AtomicBool>::default();
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag))
                .context("cannot watch for signals")?;
        }
        Ok(Self(flag))
    }

    /// Whether one came.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Waits for one.
    pub(crate) fn wait(&self) {
        while !self.came() {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

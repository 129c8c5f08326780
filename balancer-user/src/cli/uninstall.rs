//! `idlefirst uninstall`: ends steering on this machine.
//!
//! The one command but `agent` that does not go through the admin API: there is no agent then.

use std::io;

use anyhow::Context as _;
use serde_json::json;
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
};

use super::{Output, Report, UninstallArguments, print};
use crate::{
    config::{AgentConfig, Config, ConfigError, process_environment},
    kernel,
};

/// [`uninstall`]; then nothing, until told to end. A DaemonSet has no other way to say that a node is
/// done with.
pub(super) fn and_wait(arguments: &UninstallArguments, output: Output) -> anyhow::Result<Report> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // From here on a signal ends it in order.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        print(&uninstall(arguments, output)?.text)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(Report::fine(String::new()))
    })
}

/// Detaches the programs and removes the pins. That nothing is there is fine, too, unless the cgroup is
/// steered by what is pinned elsewhere.
pub(super) fn uninstall(arguments: &UninstallArguments, output: Output) -> anyhow::Result<Report> {
    let agent = match Config::load(&arguments.config, &process_environment) {
        Ok(loaded) => loaded.config.agent,
        Err(ConfigError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            AgentConfig::default()
        }
        Err(_) if arguments.pin_path.is_some() => AgentConfig::default(),
        Err(error) => {
            return Err(error)
                .context("where the agent pins is not known; name it with --pin-path");
        }
    };
    let path = arguments.pin_path.clone().unwrap_or(agent.pin_path);
    let removed = kernel::uninstall(&path, agent.cgroup.as_deref()).context("steering goes on")?;
    let path = path.display();
    Ok(Report::fine(match (output, removed) {
        (Output::Json, removed) => {
            json!({"pin_path": path.to_string(), "removed": removed}).to_string()
        }
        (Output::Table, true) => format!("steering has ended; the pins in {path} are gone\n"),
        (Output::Table, false) => format!("nothing is pinned in {path}\n"),
    }))
}

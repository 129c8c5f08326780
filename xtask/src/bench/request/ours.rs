//! Our agent with one worker, and the service that clients dial. Called by `stage`.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    netns::Netns,
    service::Service,
};

/// Starts it.
pub(super) fn start(
    binary: &Path,
    netns: &Netns,
    cgroup: &Cgroup,
    frontend: SocketAddr,
    backends: impl IntoIterator<Item = SocketAddr>,
) -> Result<Agent> {
    let service = Service::new("bench", [&*frontend.to_string()], 1, backends)
        .with("protocol", json!("http"))
        .with("admission", json!("request"))
        .with("health", json!({"probe": "none"}))
        .with("queue", json!({"size": 100, "timeout": "100ms"}));
    let options = AgentOptions {
        binary: Some(PathBuf::from(binary)),
        ..AgentOptions::new(netns, cgroup)
    };
    let mut agent = options.start(&[service])?;
    restart_with_one_worker(&mut agent)?;
    Ok(agent)
}

/// A key of the agent itself is read when it starts.
fn restart_with_one_worker(agent: &mut Agent) -> Result<()> {
    agent.terminate()?;
    let path = agent.config_path();
    let rewrite = || -> Result<()> {
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        config["agent"]["workers"] = json!(1);
        Ok(fs::write(&path, config.to_string())?)
    };
    rewrite().with_context(|| format!("cannot rewrite {}", path.display()))?;
    agent.restart()
}

//! The ground's hold on the agent: what other tests rely on when they reload, kill and restart it.

use std::path::Path;

use anyhow::Result;
use tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    residue::Snapshot,
    service::Service,
    topology::Topology,
};

#[test]
fn an_agent_is_reloaded_killed_restarted_and_leaves_nothing() -> Result<()> {
    let snapshot = Snapshot::take()?;
    let topology = Topology::new(2, 0)?;
    let cgroup = Cgroup::threaded("agent")?;
    let service = |pods: usize, max_inflight| {
        let backends = topology.pods.iter().take(pods).map(|pod| pod.at_v4(8080));
        Service::new("hello", ["10.96.0.10:80"], max_inflight, backends)
    };

    let mut agent = Agent::start(&topology.node, &cgroup, &[service(1, 1)])?;
    assert_eq!(addresses(&agent)?, ["10.111.1.1:8080"]);
    let objects = agent.bpf_objects()?;
    assert!(!objects.is_empty());

    agent.reload(&[service(2, 3)])?;
    assert_eq!(addresses(&agent)?, ["10.111.1.1:8080", "10.111.1.2:8080"]);
    assert!(
        agent
            .backends()?
            .iter()
            .all(|backend| backend.granted == Some(3))
    );

    let complaints = agent.reload_expecting_rejection("source: file\nno_such_key: 1\n")?;
    assert_eq!(complaints[0].line, Some(2), "{complaints:?}");
    assert_eq!(addresses(&agent)?.len(), 2);
    agent.reload(&[service(1, 3)])?;

    agent.kill()?;
    agent.restart()?;
    assert_eq!(addresses(&agent)?, ["10.111.1.1:8080"]);

    let objects_after = agent.bpf_objects()?;
    agent.stop()?;
    objects.assert_gone();
    objects_after.assert_gone();
    cgroup.remove()?;
    drop(topology);
    snapshot.assert_nothing_left();
    Ok(())
}

#[test]
fn an_agent_that_cannot_start_says_why() -> Result<()> {
    let topology = Topology::new(0, 0)?;
    let cgroup = Cgroup::threaded("agent")?;
    let options = AgentOptions {
        cgroup: Path::new("/no/such/cgroup"),
        ..AgentOptions::new(&topology.node, &cgroup)
    };
    let config =
        "agent: {cgroup: '{cgroup}', pin_path: '{pin_path}', admin: ['{admin}'], metrics: none}\n";
    let failed = options.start_expecting_failure(config)?;
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        failed.stderr.contains("/no/such/cgroup"),
        "{}",
        failed.stderr
    );
    Ok(())
}

fn addresses(agent: &Agent) -> Result<Vec<String>> {
    Ok(agent
        .backends()?
        .into_iter()
        .map(|backend| backend.address)
        .collect())
}

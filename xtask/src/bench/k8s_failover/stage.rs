//! What is measured on: a cluster with a leader service of three pods, each a server in a network
//! namespace of its own, an agent that follows it, and a further namespace for the pod that comes in
//! the place of the one that goes.
//!
//! Dropping it takes everything away. Called by `k8s_failover`.

use std::{
    collections::BTreeMap,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::{
    agent::{Agent, AgentOptions},
    cgroup::Cgroup,
    cluster::{
        Cluster, Kind,
        objects::{Function, Pod},
    },
    run_dir::RunDir,
    topology::Topology,
    wait::within,
};

use crate::bench::failover::{backend::Backend, client::FRONTEND, round::Ground};

/// Pods of the service, and one namespace more: a new pod has an address of its own.
pub(super) const NAMESPACES: usize = PODS + 1;
const PODS: usize = 3;
const NAMESPACE: &str = "default";
const NODE: &str = "node-1";
/// What pods listen on.
const PORT: u16 = 8080;
/// Since when the first pod is ready, before the bench begins; each further one is younger.
const FIRST_READY_AGO: Duration = Duration::from_secs(86_400);
/// How long a pod's server goes on after its successor serves: it ends what it has begun, as one
/// that is told to terminate does.
const GRACE: Duration = Duration::from_millis(100);
const WRITTEN_DEADLINE: Duration = Duration::from_secs(5);
const TAKEN_IN_DEADLINE: Duration = Duration::from_secs(10);

/// Everything on a ground that stays.
pub(super) struct Stage<'g> {
    agent: Agent,
    cluster: Cluster,
    topology: &'g Topology,
    service: Function,
    /// By the number of their namespace.
    running: BTreeMap<u8, Running>,
    /// Pods made so far.
    made: u32,
    _dir: RunDir,
}

struct Running {
    server: Backend,
    pod: Pod,
}

impl<'g> Stage<'g> {
    /// Sets it up; everything answers when this returns.
    pub(super) fn set(binary: &Path, topology: &'g Topology, cgroup: &Cgroup) -> Result<Self> {
        let cluster = Cluster::start(topology.node.listen("127.0.0.1:0".parse()?)?)?;
        let dir = RunDir::new("cluster")?;
        let kubeconfig = cluster.kubeconfig_file(dir.path())?;
        let service = Function::plain(NAMESPACE, "led", &FRONTEND.ip().to_string())
            .port("tcp", FRONTEND.port(), PORT)
            .annotation("idlefirst.dev/enabled", "true")
            .annotation("idlefirst.dev/strategy", "leader");
        let config = json!({
            "source": "kubernetes",
            "agent": {
                "cgroup": "{cgroup}",
                "pin_path": "{pin_path}",
                "admin": ["{admin}"],
                "metrics": "none",
                "node": NODE,
                "zone": "zone-1",
            },
        });
        cluster.put_all(service.objects())?;
        let options = AgentOptions {
            binary: Some(binary.to_owned()),
            environment: vec![("KUBECONFIG".to_owned(), kubeconfig.display().to_string())],
            ..AgentOptions::new(&topology.node, cgroup)
        };
        let mut stage = Self {
            agent: options.spawn(&serde_json::to_string_pretty(&config)?)?,
            cluster,
            topology,
            service,
            running: BTreeMap::new(),
            made: 0,
            _dir: dir,
        };
        stage.agent.wait_ready()?;
        for number in 0..PODS {
            stage.join(u8::try_from(number)?)?;
        }
        Ok(stage)
    }

    /// Ends it in order.
    pub(super) fn strike(self) -> Result<()> {
        self.agent.stop().context("at the end of the bench")
    }

    /// A pod starts in this namespace and becomes ready, later than all others. Waits until it takes
    /// part.
    fn join(&mut self, number: u8) -> Result<()> {
        let endpoint = &self.topology.pods[usize::from(number)];
        let server = Backend::start(&endpoint.netns, endpoint.at_v4(PORT), number)?;
        // Objects have whole seconds, and rounds are shorter.
        let younger = Duration::from_secs(self.made.into());
        let pod = self
            .service
            .pod(self.made, &endpoint.v4.to_string(), NODE)
            .ready_for(FIRST_READY_AGO.saturating_sub(younger));
        self.made += 1;
        self.cluster.put(pod.object())?;
        self.running.insert(number, Running { server, pod });
        self.put_slice()?;
        self.wait_taken_in()
    }

    fn put_slice(&self) -> Result<()> {
        let pods = self.running.values().map(|running| &running.pod);
        self.cluster.put(self.service.slice("1", pods)).map(drop)
    }

    /// Waits until the agent has exactly the pods that are.
    fn wait_taken_in(&self) -> Result<()> {
        let mut expected: Vec<_> = self
            .running
            .values()
            .map(|running| running.server.address.to_string())
            .collect();
        expected.sort();
        let taken_in = within(TAKEN_IN_DEADLINE, || {
            let mut found: Vec<_> = self
                .agent
                .backends()?
                .into_iter()
                .filter(|backend| matches!(backend.state.as_str(), "idle" | "busy"))
                .map(|backend| backend.address)
                .collect();
            found.sort();
            ensure!(found == expected, "{found:?}, expected {expected:?}");
            Ok::<_, anyhow::Error>(())
        });
        taken_in.context("the agent does not take in a pod that has joined")
    }
}

impl Ground for Stage<'_> {
    /// Deletes its pod as a cluster does: the Pod is marked, its endpoint terminates. The server
    /// goes on for now.
    fn remove(&mut self, number: u8) -> Result<Instant> {
        let running = self
            .running
            .get_mut(&number)
            .context("someone answers whose pod is gone")?;
        running.pod = running.pod.clone().terminating(true);
        let marked = self.cluster.put(running.pod.object())?;
        self.put_slice()?;
        Ok(marked.written.wait(WRITTEN_DEADLINE)?.at)
    }

    /// Its server ends and its Pod is gone; a new pod comes in its place, elsewhere.
    fn restore(&mut self, number: u8) -> Result<()> {
        thread::sleep(GRACE);
        let gone = self.running.remove(&number);
        let gone = gone.context("a pod can be deleted only once")?;
        self.put_slice()?;
        self.cluster.delete(Kind::Pod, NAMESPACE, gone.pod.name())?;
        drop(gone);
        let free =
            (0..u8::try_from(NAMESPACES)?).find(|n| !self.running.contains_key(n) && *n != number);
        self.join(free.context("no namespace is free")?)
    }
}

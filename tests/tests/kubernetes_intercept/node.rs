//! A node with an agent, pods that serve, cgroups of pods from which clients call, and somebody else
//! at the cluster IP, whom those reach who are not steered.

use std::{
    collections::BTreeMap,
    io,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tests::{
    cgroup::Cgroup,
    cluster::objects::{self, Function},
    crowd::{self, Crowd, pod_address},
    function,
    kubepods::{Class, Driver, Kubepods, PodCgroup},
    kubernetes::{self, NAMESPACE, NODE, Outcome, SOON, Stage, assert_no_breach},
    place::Place,
    wait::eventually_eq,
};

/// Pods that serve, with one slot each.
pub(crate) const PODS: u8 = 3;
const IP: &str = "10.96.0.10";
/// How long each request takes.
const WORK: Duration = Duration::from_millis(1);

pub(crate) struct Node {
    // In this order: the agent ends before the cgroups go.
    pub(crate) stage: Stage,
    /// The pods' servers.
    pub(crate) servers: Vec<function::Function>,
    /// Who is at the cluster IP, as far as the network is concerned.
    elsewhere: function::Function,
    kubepods: Kubepods,
    /// Where a kubelet would be.
    pub(crate) system: Cgroup,
}

/// A pod that calls others.
pub(crate) struct Client {
    /// As the API knows it.
    pub(crate) pod: objects::Pod,
    // In this order: the container's goes first.
    pub(crate) container: Cgroup,
    pub(crate) cgroup: PodCgroup,
}

/// Whom a call reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reached {
    Pod(u8),
    Elsewhere,
}

impl Node {
    /// Starts the agent with these objects, and waits until it is ready.
    pub(crate) fn new(driver: Driver, objects: impl IntoIterator<Item = Value>) -> Result<Self> {
        let crowd = Crowd::new(PODS)?;
        crowd
            .netns
            .ip_batch(&format!("address add {IP}/32 dev lo\n"))?;
        let kubepods = Kubepods::make(&crowd.cgroup, driver)?;
        let system = crowd.cgroup.below("system.slice")?;
        let keys = json!({"pods_cgroup": kubepods.path()});
        let mut stage = Stage::begin_with(crowd, keys, objects, |_| Ok(()))?;
        stage.agent_mut().wait_ready()?;
        let servers = (0..PODS)
            .map(|pod| stage.serve(pod, 1, WORK))
            .collect::<Result<_>>()?;
        let unlimited = function::FunctionOptions {
            max_inflight: 0,
            ..function::FunctionOptions::default()
        };
        let netns = &stage.crowd().netns;
        Ok(Self {
            elsewhere: function::Function::start(netns, cluster_ip(), unlimited)?,
            servers,
            kubepods,
            system,
            stage,
        })
    }

    /// A pod on this node that the API need not know, with a container.
    pub(crate) fn client(&self, number: u8, class: Class) -> Result<Client> {
        let pod = client_pod(number, NODE);
        let cgroup = self.pod_cgroup(&pod, class)?;
        Ok(Client {
            container: cgroup.container(1)?,
            cgroup,
            pod,
        })
    }

    pub(crate) fn pod_cgroup(&self, pod: &objects::Pod, class: Class) -> Result<PodCgroup> {
        self.kubepods.pod(pod.uid(), class)
    }

    pub(crate) fn place<'a>(&'a self, cgroup: &'a Cgroup) -> Place<'a> {
        Place::new(&self.stage.crowd().netns, cgroup)
    }

    /// A connection that the caller holds.
    pub(crate) fn dial(&self, from: &Cgroup, address: SocketAddr) -> io::Result<TcpStream> {
        self.place(from).run(|| crowd::dial(address))
    }

    /// Calls once.
    pub(crate) fn call(&self, from: &Cgroup, address: SocketAddr) -> Outcome {
        self.place(from).run(|| kubernetes::call(address))
    }

    /// Calls once while nobody else does, and gives whom that reached.
    pub(crate) fn reaches(&self, from: &Cgroup, address: SocketAddr) -> Result<Reached> {
        let before = self.served();
        let outcome = self.call(from, address);
        ensure!(outcome == Outcome::Served, "{address}: {outcome:?}");
        let now = self.served();
        let mut more = (0..).zip(before.iter().zip(&now));
        let reached = more.find_map(|(server, (before, now))| (before != now).then_some(server));
        Ok(match reached {
            Some(PODS) => Reached::Elsewhere,
            Some(pod) => Reached::Pod(pod),
            None => bail!("{address}: nobody served the call"),
        })
    }

    /// Requests served by each pod, and by whoever is elsewhere.
    pub(crate) fn served(&self) -> Vec<u64> {
        let servers = self.servers.iter().chain([&self.elsewhere]);
        servers.map(|server| server.seen().served).collect()
    }

    /// Waits until every pod can be given its slot: one that was gone for a moment cannot at once.
    fn wait_idle(&self) {
        eventually_eq(SOON, vec!["idle".to_owned(); PODS.into()], || self.states());
    }

    /// The backends' states, by address.
    pub(crate) fn states(&self) -> Vec<String> {
        let backends = self.stage.agent().backends();
        let backends = backends.expect("the agent lists its backends");
        backends.into_iter().map(|backend| backend.state).collect()
    }

    /// Takes every slot, by connections to these addresses in turn.
    pub(crate) fn fill(&self, from: &Cgroup, addresses: &[SocketAddr]) -> Result<Vec<TcpStream>> {
        self.wait_idle();
        let mut held = Vec::new();
        for address in addresses.iter().cycle().take(PODS.into()) {
            held.push(self.dial(from, *address)?);
        }
        for pod in 0..PODS {
            assert_eq!(crowd::slots_taken(self.stage.agent(), pod)?, [1], "{pod}");
        }
        Ok(held)
    }

    /// Checks that whoever is not steered reaches just what it dials, although no slot is free.
    pub(crate) fn assert_left_alone(&self, from: &Cgroup) -> Result<()> {
        for pod in 0..PODS {
            assert_eq!(self.reaches(from, pod_address(pod))?, Reached::Pod(pod));
        }
        assert_eq!(self.inflight(), u64::from(PODS), "that took no slot");
        Ok(())
    }

    /// Checks that every call is steered, while no slot is free.
    pub(crate) fn assert_steered(&self, from: &Cgroup) {
        for address in addresses().chain([cluster_ip()]) {
            assert_eq!(self.call(from, address), Outcome::Refused, "{address}");
        }
    }

    /// Waits until just these addresses of pods are frontends, and the cluster IP as told.
    #[track_caller]
    pub(crate) fn wait_frontends(&self, cluster_ip_is: bool, pods: impl IntoIterator<Item = u8>) {
        let mut expected: BTreeMap<_, _> = pods
            .into_iter()
            .map(|pod| (pod_address(pod).to_string(), true))
            .collect();
        expected.extend(cluster_ip_is.then(|| (cluster_ip().to_string(), false)));
        eventually_eq(SOON, expected, || self.frontends().expect("a map is shown"));
    }

    /// The frontends that the programs know, and whether they are backends' own addresses.
    fn frontends(&self) -> Result<BTreeMap<String, bool>> {
        let entries = self.entries("FRONTENDS")?;
        let entry = |entry: &Value| {
            let frontend = entry["frontend"].as_str()?.to_owned();
            Some((frontend, entry["is_backend"].as_bool()?))
        };
        entries
            .iter()
            .map(|each| entry(each).with_context(|| format!("no frontend: {each}")))
            .collect()
    }

    /// Checks that the programs leave so many cgroups alone.
    pub(crate) fn ensure_bypassing(&self, cgroups: usize) -> Result<()> {
        let listed = self.entries("BYPASS")?;
        ensure!(listed.len() == cgroups, "{listed:?}, expected {cgroups}");
        Ok(())
    }

    /// The entries of a map.
    fn entries(&self, map: &str) -> Result<Vec<Value>> {
        let path = format!("/v1/maps/{map}");
        let dump = self.stage.agent().admin().get_json(&path)?;
        let entries = dump["entries"].as_array().cloned();
        entries.with_context(|| format!("no entries: {dump}"))
    }

    pub(crate) fn inflight(&self) -> u64 {
        let agent = self.stage.agent();
        agent.inflight().expect("the agent lists its backends")
    }

    #[track_caller]
    pub(crate) fn wait_inflight(&self, expected: u64) {
        eventually_eq(SOON, expected, || self.inflight());
    }

    /// Checks that no pod ever served more than one at once, that every slot came back and none
    /// was lost or invented, and that no connection is known any more; and stops the agent.
    pub(crate) fn finish(self) -> Result<()> {
        assert_no_breach(&self.servers);
        self.wait_inflight(0);
        let agent = self.stage.agent();
        let connections = || agent.admin().get_json("/v1/connections");
        eventually_eq(SOON, Some(0), || {
            let listed = connections().expect("the agent lists connections");
            listed["connections"].as_array().map(Vec::len)
        });
        let objects = agent.bpf_objects()?;
        self.stage.finish()?;
        objects.assert_gone();
        Ok(())
    }
}

/// A function with one slot on each pod, which is steered to also from its pods' addresses.
pub(crate) fn hello() -> Function {
    Function::new(NAMESPACE, "hello", IP)
        .annotation("idlefirst.dev/intercept", "pods")
        .max_inflight(1)
}

/// The same whose callers are refused at once when no slot is free.
pub(crate) fn refusing(function: Function) -> Function {
    function
        .annotation("idlefirst.dev/queue.size", "0")
        .annotation("idlefirst.dev/queue.refuse", "kernel")
}

/// A Pod that calls others.
pub(crate) fn client_pod(number: u8, node: &str) -> objects::Pod {
    let ip = format!("10.111.2.{}", number + 1);
    Function::plain(NAMESPACE, "client", "").pod(number.into(), &ip, node)
}

pub(crate) fn cluster_ip() -> SocketAddr {
    SocketAddr::new(IP.parse().expect("an address"), 8080)
}

/// The pods' own.
pub(crate) fn addresses() -> impl Iterator<Item = SocketAddr> {
    (0..PODS).map(pod_address)
}

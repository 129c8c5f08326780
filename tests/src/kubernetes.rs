//! An agent with `source: kubernetes`, an API server of ours, and pods that really serve: one
//! namespace, in which pods are addresses of the loopback device and frontends have no route, so
//! that a connect that is not steered fails as such.
//!
//! Pods serve HTTP and count for themselves how many they serve at once. What is in the cluster is
//! up to the test: nothing here puts an object by itself.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{ErrorKind, Read, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{
    agent::{Agent, AgentOptions},
    cluster::{Cluster, objects},
    crowd::{Crowd, assert_no_slot_astray, dial, pod_address, slots_taken},
    function::{Function, FunctionOptions, Work},
    place::Place,
    run_dir::RunDir,
    wait::{eventually, eventually_eq},
};

/// The namespace of functions.
pub const NAMESPACE: &str = "openfaas-fn";

/// The agent's node, on which all pods are.
pub const NODE: &str = "node-1";

/// For whatever has to happen without a test's further doing, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// How long a client that found nobody waits until it dials again.
const PAUSE: Duration = Duration::from_millis(2);

/// An agent that follows an API server.
#[derive(Debug)]
pub struct Stage<A = Cluster> {
    // In this order: the agent leaves its cgroup before that goes.
    agent: Agent,
    api: A,
    crowd: Crowd,
    _dir: RunDir,
}

/// What became of a call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// A pod did what was asked.
    Served,
    /// There was an answer with another status, and this text.
    Answered(u16, String),
    /// The connect was refused.
    Refused,
    /// The connect was not steered: nothing is routed to a frontend.
    Unsteered,
    /// Anything else.
    Broken(String),
}

/// How often each thing became of calls.
pub type Outcomes = BTreeMap<Outcome, u64>;

impl Stage {
    /// So many pods' addresses, a cluster with these objects, and an agent that is ready.
    pub fn new(pods: u8, objects: impl IntoIterator<Item = Value>) -> Result<Self> {
        let mut stage = Self::begin(pods, objects, |_| Ok(()))?;
        stage.agent.wait_ready()?;
        Ok(stage)
    }

    /// The same with an API server that has a fault from the start. The agent need not be ready.
    pub fn begin(
        pods: u8,
        objects: impl IntoIterator<Item = Value>,
        fault: impl FnOnce(&Cluster) -> Result<()>,
    ) -> Result<Self> {
        Self::begin_with(Crowd::new(pods)?, json!({}), objects, fault)
    }

    /// The same where the caller has prepared the pods' addresses and the clients' cgroup, with
    /// more keys for the agent's configuration.
    pub fn begin_with(
        crowd: Crowd,
        agent_keys: Value,
        objects: impl IntoIterator<Item = Value>,
        fault: impl FnOnce(&Cluster) -> Result<()>,
    ) -> Result<Self> {
        Self::follow(crowd, agent_keys, Vec::new(), |crowd, dir| {
            let cluster = Cluster::start(crowd.netns.listen("127.0.0.1:0".parse()?)?)?;
            cluster.put_all(objects)?;
            fault(&cluster)?;
            Ok((cluster.kubeconfig_file(dir)?, cluster))
        })
    }

    /// The cluster.
    pub fn cluster(&self) -> &Cluster {
        &self.api
    }
}

impl<A> Stage<A> {
    /// An agent, with more keys and variables, that follows whatever API server `serve` starts:
    /// it is given a directory, and gives the kubeconfig that it wrote there. The agent need not
    /// be ready.
    pub fn follow(
        crowd: Crowd,
        agent_keys: Value,
        environment: Vec<(String, String)>,
        serve: impl FnOnce(&Crowd, &Path) -> Result<(PathBuf, A)>,
    ) -> Result<Self> {
        let dir = RunDir::new("cluster")?;
        let (kubeconfig, api) = serve(&crowd, dir.path())?;
        let agent = start(&crowd, agent_keys, environment, &kubeconfig)?;
        Ok(Self {
            agent,
            api,
            crowd,
            _dir: dir,
        })
    }

    /// The API server.
    pub fn api(&self) -> &A {
        &self.api
    }

    /// The agent.
    pub fn agent(&self) -> &Agent {
        &self.agent
    }

    /// The agent, to wait for.
    pub fn agent_mut(&mut self) -> &mut Agent {
        &mut self.agent
    }

    /// The namespace that all are in, and the cgroup that the agent works on.
    pub fn crowd(&self) -> &Crowd {
        &self.crowd
    }

    /// Starts the server of a pod, which serves at most `limit` at once.
    pub fn serve(&self, pod: u8, limit: u32, work: Duration) -> Result<Function> {
        let options = FunctionOptions {
            max_inflight: limit,
            work: Work::Fixed(work),
            ..FunctionOptions::default()
        };
        Function::start(&self.crowd.netns, pod_address(pod), options)
    }

    /// A connection that the caller holds.
    pub fn dial(&self, frontend: SocketAddr) -> std::io::Result<std::net::TcpStream> {
        self.crowd.dial(frontend)
    }

    /// Calls once.
    pub fn call(&self, frontend: SocketAddr) -> Outcome {
        self.crowd.place().run(|| call(frontend))
    }

    /// Calls until a pod serves.
    pub fn wait_served(&self, frontend: SocketAddr) {
        self.wait_outcome(frontend, &Outcome::Served);
    }

    /// Calls until this becomes of it.
    pub fn wait_outcome(&self, frontend: SocketAddr, expected: &Outcome) {
        self.crowd.place().run(|| {
            eventually(SOON, || match call(frontend) {
                outcome if outcome == *expected => Ok(()),
                other => Err(format!("{other:?}, expected {expected:?}")),
            });
        });
    }

    /// Has so many clients call without a pause while `change` goes on, and for so many calls
    /// after it. Gives what `change` gives, and what became of the calls.
    pub fn under_load<T>(
        &self,
        frontend: SocketAddr,
        clients: u64,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Outcomes)> {
        self.under_load_from(self.crowd.place(), frontend, clients, change)
    }

    /// The same with clients that stand elsewhere.
    pub fn under_load_from<T>(
        &self,
        place: Place<'_>,
        frontend: SocketAddr,
        clients: u64,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<(T, Outcomes)> {
        let ends = AtomicBool::new(false);
        let outcomes = Mutex::new(Outcomes::new());
        let calls = || {
            let outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
            outcomes.values().sum::<u64>()
        };
        let some_more_calls = || {
            let enough = calls() + 4 * clients;
            eventually(SOON, || match calls() {
                made if made >= enough => Ok(()),
                made => Err(format!("{made} calls of {enough}")),
            });
        };
        let changed = thread::scope(|scope| {
            let calling = scope.spawn(|| {
                place.run_many(clients, |_| {
                    while !ends.load(SeqCst) {
                        let outcome = call(frontend);
                        let is_served = outcome == Outcome::Served;
                        let mut all = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                        *all.entry(outcome).or_default() += 1;
                        drop(all);
                        if !is_served {
                            thread::sleep(PAUSE);
                        }
                    }
                    Ok(())
                })
            });
            let ending = End(&ends);
            some_more_calls();
            let changed = change();
            some_more_calls();
            drop(ending);
            calling.join().expect("clients do not panic")?;
            changed
        })?;
        let outcomes = outcomes.into_inner();
        Ok((changed, outcomes.unwrap_or_else(PoisonError::into_inner)))
    }

    /// A service as `/v1/services/{namespace}/{name}` shows it, `None` if there is none.
    pub fn shown(&self, name: &str) -> Result<Option<Value>> {
        let path = format!("/v1/services/{NAMESPACE}/{name}");
        let answer = self.agent.admin().get(&path)?;
        match answer.status {
            200 => answer.json().map(Some),
            404 | 409 | 503 => Ok(None),
            status => anyhow::bail!("GET {path}: {status}: {}", answer.body),
        }
    }

    /// The addresses of a service's backends; `None`: there is no such service.
    pub fn members(&self, name: &str) -> Result<Option<BTreeSet<String>>> {
        let Some(shown) = self.shown(name)? else {
            return Ok(None);
        };
        let rows = shown["backends"].as_array().context("a list of backends")?;
        let address = |row: &Value| row["address"].as_str().unwrap_or_default().to_owned();
        Ok(Some(rows.iter().map(address).collect()))
    }

    /// Waits until a service has exactly these pods.
    #[track_caller]
    pub fn wait_members(&self, name: &str, pods: impl IntoIterator<Item = u8>) {
        let expected: BTreeSet<_> = pods
            .into_iter()
            .map(|pod| pod_address(pod).to_string())
            .collect();
        eventually_eq(SOON, Some(expected), || {
            self.members(name).expect("the agent tells of services")
        });
    }

    /// Waits until there is no such service.
    #[track_caller]
    pub fn wait_no_service(&self, name: &str) {
        eventually_eq(SOON, None, || {
            self.members(name).expect("the agent tells of services")
        });
    }

    /// What is wrong with a service's objects, as `/v1/services` tells it.
    pub fn errors(&self, name: &str) -> Result<Vec<Value>> {
        let shown = self.shown(name)?.context("there is no such service")?;
        list(&shown["config_errors"])
    }

    /// What is wrong with any object, as `/v1/config` tells it.
    pub fn all_errors(&self) -> Result<Vec<Value>> {
        list(&self.agent.admin().get_json("/v1/config")?["config_errors"])
    }

    /// Waits until a pod has no slot taken, under whatever id.
    pub fn wait_left_alone(&self, pod: u8) {
        eventually(SOON, || -> Result<()> {
            let taken = slots_taken(&self.agent, pod)?;
            ensure!(
                taken.iter().all(|slots| *slots == 0),
                "pod {pod}: {taken:?}"
            );
            Ok(())
        });
    }

    /// Checks that every slot came back and none was lost or invented, and stops the agent.
    pub fn finish(self) -> Result<()> {
        eventually_eq(SOON, 0, || {
            self.agent.inflight().expect("the agent lists its backends")
        });
        assert_no_slot_astray(&self.agent)?;
        self.agent.stop()
    }
}

/// Ends clients when it goes, also when a check panics.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// A function whose callers wait for as long as a busy machine may take.
pub fn patient_function(ip: &str, max_inflight: u32) -> objects::Function {
    objects::Function::new(NAMESPACE, "hello", ip)
        .max_inflight(max_inflight)
        .annotation("idlefirst.dev/queue.timeout", "10s")
}

/// Checks that every call was served.
#[track_caller]
pub fn assert_all_served(outcomes: &Outcomes) {
    let all = outcomes.keys().all(|outcome| *outcome == Outcome::Served);
    assert!(all, "{outcomes:?}");
}

/// A function with these pods' slice: its objects, in an order in which they may be put.
pub fn with_pods(function: &objects::Function, pods: impl IntoIterator<Item = u8>) -> Vec<Value> {
    let mut all = function.objects().to_vec();
    all.push(slice(function, pods));
    all
}

/// The slice of a function with these pods, all ready.
pub fn slice(function: &objects::Function, pods: impl IntoIterator<Item = u8>) -> Value {
    let pods: Vec<_> = pods
        .into_iter()
        .map(|number| pod(function, number))
        .collect();
    function.slice("1", &pods)
}

/// A pod of a function.
pub fn pod(function: &objects::Function, number: u8) -> objects::Pod {
    let ip = pod_address(number).ip().to_string();
    function.pod(number.into(), &ip, NODE)
}

/// Checks that no pod ever served more at once than it may.
#[track_caller]
pub fn assert_no_breach<'a>(pods: impl IntoIterator<Item = &'a Function>) {
    for pod in pods {
        let seen = pod.seen();
        assert_eq!(seen.over_limit, 0, "{}: {seen:?}", pod.address());
    }
}

fn start(
    crowd: &Crowd,
    agent_keys: Value,
    mut environment: Vec<(String, String)>,
    kubeconfig: &Path,
) -> Result<Agent> {
    let mut config = json!({
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
    let keys = config["agent"].as_object_mut().context("a mapping")?;
    keys.extend(agent_keys.as_object().cloned().unwrap_or_default());
    let kubeconfig = kubeconfig.display().to_string();
    environment.push(("KUBECONFIG".to_owned(), kubeconfig));
    AgentOptions {
        environment,
        ..AgentOptions::new(&crowd.netns, &crowd.cgroup)
    }
    .spawn(&serde_json::to_string_pretty(&config)?)
}

/// Calls once from where the calling thread is.
pub fn call(frontend: SocketAddr) -> Outcome {
    let stream = match dial(frontend) {
        Ok(stream) => stream,
        Err(error) => {
            return match error.kind() {
                ErrorKind::ConnectionRefused => Outcome::Refused,
                ErrorKind::NetworkUnreachable => Outcome::Unsteered,
                _ => Outcome::Broken(format!("connect: {error}")),
            };
        }
    };
    match ask(stream) {
        Ok((200, _)) => Outcome::Served,
        Ok((status, text)) => Outcome::Answered(status, text),
        Err(error) => Outcome::Broken(format!("{error:#}")),
    }
}

fn ask(mut stream: std::net::TcpStream) -> Result<(u16, String)> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: function\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let text = String::from_utf8_lossy(&answer).into_owned();
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok());
    Ok((
        status.with_context(|| format!("no status in {text:?}"))?,
        text,
    ))
}

fn list(value: &Value) -> Result<Vec<Value>> {
    let items = value.as_array().context("a list is expected")?;
    Ok(items.clone())
}

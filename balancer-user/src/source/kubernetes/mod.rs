//! `source: kubernetes`: services as the cluster has them.
//!
//! `watch` follows the API, `store` keeps what it tells, `resolve` makes services of it, and this
//! file runs them: one task that hears everything, and hands what has changed to `state` at once.
//! No call of the API is made for a connection; while the API is away everything stays as it is.
//! Only this module names the kube library.

mod about;
mod claims;
mod config_maps;
mod endpoints;
mod environment;
pub mod fuzzing;
mod keys;
mod kinds;
mod lease;
mod limit;
mod made;
mod object;
mod patience;
mod places;
mod ports;
mod publish;
mod report;
mod resolve;
mod store;
mod texts;
mod watch;
mod watched;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch as channel};

use crate::bypass::BypassingPods;
use crate::config::{AgentConfig, host_name};
use crate::heap;
use crate::leaders::Leaders;
use crate::state::{ObjectProblem, Snapshot, State};
use about::About;
use config_maps::ConfigMaps;
use endpoints::Pods;
use kinds::{Labels, Pod, PodBody};
use object::{Body as _, Key};
use publish::{Publisher, Refusals, Wanted};
use report::Reporter;
use resolve::{PATIENCE, Resolved, Resolver};
use store::Table;
use texts::Texts;
use watch::{Followed, Heard, Watch, Watches};
pub use watched::Watched;

/// What slices of ours are managed by.
const FIELD_MANAGER_DOMAIN: &str = "idlefirst.dev";

/// Events taken in before what they change is handed on: a list arrives in a few steps, a single
/// event in one.
const BATCH: usize = 1024;

/// How long the start waits to be told which pods bypass the balancer.
const BYPASSING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long after a list the memory that it took for the moment is given back: everything is in the
/// kernel then.
const GIVE_BACK_AFTER: Duration = Duration::from_secs(1);
/// How long a connection to the API may take to be established.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the start waits for the node's zone.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// Why the API cannot be followed at all.
#[derive(Debug, thiserror::Error)]
pub enum KubernetesError {
    /// There is no telling where it is, or how to speak to it.
    #[error(
        "cannot tell how to reach the Kubernetes API; run the agent in a pod with a service \
         account, or name a kubeconfig file in KUBECONFIG"
    )]
    Configuration(#[source] kube::config::InferConfigError),
    /// What was found is of no use.
    #[error("cannot speak to the Kubernetes API as it is configured")]
    Client(#[source] kube::Error),
}

/// A connection to the API, and where this agent is in the cluster.
pub struct Cluster {
    client: Client,
    /// One that does not try again by itself.
    prompt: Client,
    node: Option<Arc<str>>,
    zone: Option<Arc<str>>,
    watched: Watched,
    /// Dropped when the publisher has ended.
    publishing: channel::Sender<()>,
}

impl Cluster {
    /// Finds the API. That it answers is not asked for: an agent that starts while the API is away
    /// waits for it.
    ///
    /// # Errors
    /// If there is no telling where it is.
    pub async fn find(agent: &AgentConfig) -> Result<Self, KubernetesError> {
        let mut config = kube::Config::infer()
            .await
            .map_err(KubernetesError::Configuration)?;
        // A watch that hears nothing, not even a bookmark, for this long is dead.
        config.read_timeout = Some(Duration::from_secs(295));
        // An attempt that hangs would outlast the outage that it met.
        config.connect_timeout = Some(CONNECT_TIMEOUT);
        let client = Client::try_from(config.clone()).map_err(KubernetesError::Client)?;
        // What publishes leaders has an idea of its own of when to try again.
        config.default_retry = false;
        let prompt = Client::try_from(config).map_err(KubernetesError::Client)?;
        let node = agent.node.clone().or_else(host_name);
        let zone = match (&agent.zone, &node) {
            (Some(zone), _) => Some(zone.clone()),
            (None, Some(node)) => zone_of(&client, node).await,
            (None, None) => None,
        };
        Ok(Self {
            client,
            prompt,
            node,
            zone,
            watched: Watched::default(),
            publishing: channel::Sender::new(()),
        })
    }

    /// Tells this agent from all others, and from itself before a restart.
    fn identity(&self) -> String {
        let node = self.node.as_deref().unwrap_or("agent");
        format!("{node}-{:08x}", fastrand::u32(..))
    }

    /// The zone of the agent's node.
    pub fn zone(&self) -> Option<Arc<str>> {
        self.zone.clone()
    }

    /// Which watches of the API are up.
    pub fn watched(&self) -> Watched {
        self.watched.clone()
    }

    /// Is closed once nothing is published any more, some time after [`Cluster::follow`] has ended.
    pub fn publishing(&self) -> channel::Receiver<()> {
        self.publishing.subscribe()
    }

    /// Follows the cluster until cancelled.
    pub async fn follow(
        self,
        state: Arc<State>,
        bypass: BypassingPods,
        leaders: Leaders,
        resync: Duration,
    ) {
        let (sender, heard) = mpsc::channel(BATCH);
        let watches = Watches {
            client: self.prompt.clone(),
            heard: sender.clone(),
            texts: Arc::new(Mutex::new(Texts::default())),
            watched: self.watched.clone(),
        };
        let mut snapshots = state.subscribe();
        let config = snapshots.borrow_and_update().config.clone();
        let _all = [watches.services(), watches.slices(), watches.deployments()];
        let _bypassing = self.node.as_deref().map(|node| watches.bypassing(node));
        let patience = sender.clone();
        tokio::spawn(async move {
            tokio::time::sleep(BYPASSING_TIMEOUT).await;
            let _ = patience.send(Heard::NoBypassing).await;
        });
        let (wanted, publications) = channel::channel(Wanted::default());
        let identity = self.identity();
        let (refuse, refusals) = channel::channel(Refusals::new());
        let client = self.prompt.clone();
        let publisher = Publisher::new(client, leaders, publications, refuse, identity);
        let publishing = self.publishing;
        // It outlives this task: there is something to be given up.
        tokio::spawn(async move {
            publisher.run().await;
            drop(publishing);
        });
        let mut resolver = Resolver::new(config, self.zone.clone());
        resolver.node.clone_from(&self.node);
        let follower = Follower {
            resolver,
            config_maps: ConfigMaps::new(self.prompt.clone(), sender, resync),
            reporter: Reporter::start(self.client, self.node.as_deref()),
            watches,
            leaders: BTreeSet::new(),
            wanted,
            refusals,
            pods: HashMap::new(),
            newest: 0,
            bypassing: Table::default(),
            is_bypassing_known: self.node.is_none(),
            bypass,
            state,
        };
        follower.run(heard, snapshots).await;
    }
}

/// The zone that the API knows a node to be in.
async fn zone_of(client: &Client, node: &str) -> Option<Arc<str>> {
    let nodes = Api::<Node>::all(client.clone());
    match tokio::time::timeout(NODE_TIMEOUT, nodes.get(node)).await {
        Ok(Ok(found)) => {
            let labels = found.metadata.labels.unwrap_or_default();
            labels
                .get("topology.kubernetes.io/zone")
                .map(|zone| zone.as_str().into())
        }
        Ok(Err(error)) => {
            tracing::warn!(
                node,
                error = &error as &dyn std::error::Error,
                "the node's zone cannot be read; set agent.zone, or let the agent read nodes"
            );
            None
        }
        Err(_) => {
            tracing::warn!(
                node,
                "the API does not tell the node's zone in time; set agent.zone"
            );
            None
        }
    }
}

/// Has a service looked at once more.
async fn look_again(heard: mpsc::Sender<Heard>, service: Key) {
    tokio::time::sleep(PATIENCE).await;
    // Fails only when the follower ends.
    let _ = heard.send(Heard::Later(service)).await;
}

async fn give_back_soon() {
    tokio::time::sleep(GIVE_BACK_AFTER).await;
    // Fails only when the agent ends.
    let _ = tokio::task::spawn_blocking(heap::give_back).await;
}

/// The watch of the Pods that a leader service selects.
struct PodsWatch {
    selector: Labels,
    /// Tells what it says from what an earlier one says late.
    number: u64,
    _watch: Option<Watch>,
}

/// The one task that hears everything.
struct Follower {
    resolver: Resolver,
    config_maps: ConfigMaps,
    reporter: Reporter,
    watches: Watches,
    /// Services with strategy `leader`.
    leaders: BTreeSet<Key>,
    /// What is to be published of them.
    wanted: channel::Sender<Wanted>,
    /// What the API refuses of it.
    refusals: channel::Receiver<Refusals>,
    /// Watches of the Pods of leader services.
    pods: HashMap<Key, PodsWatch>,
    /// The number of the newest of them.
    newest: u64,
    bypassing: Table<Pod>,
    /// Or it is not waited for any more.
    is_bypassing_known: bool,
    bypass: BypassingPods,
    state: Arc<State>,
}

impl Follower {
    async fn run(
        mut self,
        mut heard: mpsc::Receiver<Heard>,
        mut snapshots: channel::Receiver<Arc<Snapshot>>,
    ) {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                told = heard.recv_many(&mut events, BATCH) => {
                    if told == 0 {
                        return;
                    }
                    let has_listed = events.iter().any(Heard::is_end);
                    for event in events.drain(..) {
                        self.hear(event);
                    }
                    // Nobody is steered who should not be, not even at the start.
                    self.bypass.settled().await;
                    self.hand_on();
                    if has_listed {
                        tokio::spawn(give_back_soon());
                    }
                }
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let config = snapshots.borrow_and_update().config.clone();
                    if !Arc::ptr_eq(&config, &self.resolver.config) {
                        self.resolver.config = config;
                        self.resolver.store.note_all();
                        self.hand_on();
                    }
                }
                Ok(()) = self.refusals.changed() => {
                    let refusals = self.refusals.borrow_and_update().clone();
                    self.resolver.hear_refusals(refusals);
                    self.hand_on();
                }
                key = self.config_maps.next() => match self.resolver.needs(&key) {
                    Some(needs) => self.config_maps.ask(key, needs),
                    None => {
                        self.config_maps.forget(&key);
                        self.resolver.config_maps.remove(&key);
                    }
                },
            }
        }
    }

    fn hear(&mut self, event: Heard) {
        let resolver = &mut self.resolver;
        match event {
            Heard::Service(told) => resolver.store.hear_service(told),
            Heard::Slice(told) => resolver.store.hear_slice(told),
            Heard::Deployment(told) => resolver.store.hear_deployment(told),
            Heard::ConfigMap(key, says) => {
                self.config_maps.answered(key.clone());
                resolver.hear_config_map(key, says);
            }
            Heard::Pod(followed, told) => {
                if let Some(pods) = self.pods_of(&followed)
                    && pods.hear(told)
                {
                    self.resolver.store.note(followed.service);
                }
            }
            Heard::NoPods(followed) => {
                if self.pods_of(&followed).is_some_and(Pods::refuse) {
                    self.resolver.store.note(followed.service);
                }
            }
            Heard::Bypassing(told) => {
                self.bypassing.hear(told);
                if self.bypassing.is_synced {
                    // One that has ended has no cgroup (any more).
                    let pods = self.bypassing.values().filter(|pod| !pod.has_ended);
                    self.bypass
                        .set_pods(pods.map(|pod| pod.uid.to_string()).collect());
                    self.is_bypassing_known = true;
                }
            }
            Heard::NoBypassing => {
                if !std::mem::replace(&mut self.is_bypassing_known, true) {
                    self.bypass.set_pods(BTreeSet::new());
                }
            }
            Heard::Later(service) => resolver.store.note(service),
        }
    }

    /// The Pods of a service, if this is what their newest watch says.
    fn pods_of(&mut self, followed: &Followed) -> Option<&mut Pods> {
        let watch = self.pods.get(&followed.service)?;
        if watch.number != followed.number {
            return None;
        }
        self.resolver.pods.get_mut(&followed.service)
    }

    /// Hands on what has changed, once everything has been told.
    fn hand_on(&mut self) {
        if !self.resolver.store.is_synced() || !self.is_bypassing_known {
            return;
        }
        let mut changes = BTreeMap::new();
        while !self.resolver.store.is_settled() {
            let resolved = self.resolver.resolve();
            for key in &resolved.later {
                tokio::spawn(look_again(self.watches.heard.clone(), key.clone()));
            }
            for key in &resolved.unknown_config_maps {
                if let Some(needs) = self.resolver.needs(key) {
                    self.config_maps.ask(key.clone(), needs);
                }
            }
            self.leaders.retain(|key| !resolved.others.contains(key));
            self.leaders.extend(resolved.leaders.iter().cloned());
            self.follow_pods(&resolved);
            changes.extend(resolved.changes);
        }
        for idle in self.config_maps.plan(|key| self.resolver.needs(key)) {
            self.resolver.config_maps.remove(&idle);
        }
        self.resolver.patience = PATIENCE;
        self.publish();
        let changes: Vec<_> = changes.into_values().collect();
        let unreadable = self.unreadable();
        self.reporter.report(&changes, &unreadable, |problem| {
            let key = Key {
                namespace: problem.namespace.as_str().into(),
                name: problem.name.as_str().into(),
            };
            self.resolver.store.uid(&problem.kind, &key)
        });
        self.state.note_unreadable(unreadable);
        self.state.amend(changes);
    }

    /// Everything that cannot be read.
    fn unreadable(&self) -> BTreeSet<ObjectProblem> {
        let bypassing = self.bypassing.unreadable().iter();
        let kind = PodBody::KIND;
        let bypassing = bypassing.map(|(key, why)| About { kind, key }.unreadable(why));
        let mut all = self.resolver.unreadable();
        all.extend(bypassing);
        all
    }

    /// Says what is to be published.
    fn publish(&self) {
        let publications = self.leaders.iter();
        let publications =
            publications.filter_map(|key| Some((key.clone(), self.resolver.publication(key)?)));
        let wanted = Wanted {
            services: publications.collect(),
            undecided: self.resolver.undecided(),
            there: self.resolver.store.published.clone(),
        };
        self.wanted.send_if_modified(|current| {
            let is_new = *current != wanted;
            *current = wanted;
            is_new
        });
    }

    /// Follows the Pods of leader services, and of no others.
    fn follow_pods(&mut self, resolved: &Resolved) {
        for key in &resolved.others {
            self.pods.remove(key);
            self.resolver.pods.remove(key);
        }
        for key in &resolved.leaders {
            let Some(service) = self.resolver.store.services.get(key) else {
                continue;
            };
            let selector = &service.selector;
            if self
                .pods
                .get(key)
                .is_some_and(|it| it.selector == *selector)
            {
                continue;
            }
            self.newest += 1;
            let number = self.newest;
            let pairs = selector.iter();
            let pairs: Vec<_> = pairs
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let followed = Followed {
                service: key.clone(),
                number,
            };
            // Without a selector nobody can tell which Pods these are.
            let (pods, watch) = match pairs.is_empty() {
                true => (Pods::refused(), None),
                false => (
                    Pods::default(),
                    Some(self.watches.pods(followed, &pairs.join(","))),
                ),
            };
            let watch = PodsWatch {
                selector: selector.clone(),
                number,
                _watch: watch,
            };
            if !pods.are_awaited() {
                self.resolver.store.note(key.clone());
            }
            self.pods.insert(key.clone(), watch);
            self.resolver.pods.insert(key.clone(), pods);
        }
    }
}

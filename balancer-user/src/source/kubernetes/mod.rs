//! `source: kubernetes`: services as the cluster has them.
//!
//! `watch` follows the API, `store` keeps what it tells, `resolve` makes services of it, and this
//! file runs them: one task that hears everything, and hands what has changed to `state` at once.
//! No call of the API is made for a connection; while the API is away everything stays as it is.
//! Only this module names the kube library.

mod claims;
mod config_maps;
mod endpoints;
mod kinds;
mod lease;
mod object;
mod publish;
mod report;
mod resolve;
mod store;
mod watch;

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};
use tokio::sync::{mpsc, watch as channel};
use tokio::time::MissedTickBehavior;

use crate::bypass::BypassingPods;
use crate::config::{AgentConfig, host_name};
use crate::leaders::Leaders;
use crate::state::{Snapshot, State};
use config_maps::ConfigMaps;
use endpoints::Pods;
use kinds::{Pod, Texts};
use object::Key;
use publish::{Publisher, Wanted};
use report::Reporter;
use resolve::{Resolved, Resolver};
use store::{Table, Told};
use watch::{Heard, Watch, Watches};

/// What slices of ours are managed by.
const FIELD_MANAGER_DOMAIN: &str = "idlefirst.dev";

/// Events taken in before what they change is handed on: a list arrives in a few steps, a single
/// event in one.
const BATCH: usize = 1024;

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
            client: self.client.clone(),
            heard: sender.clone(),
            texts: Arc::new(Mutex::new(Texts::default())),
        };
        let mut snapshots = state.subscribe();
        let config = snapshots.borrow_and_update().config.clone();
        let _all = [watches.services(), watches.slices(), watches.deployments()];
        let _bypassing = self.node.as_deref().map(|node| watches.bypassing(node));
        let (wanted, publications) = channel::channel(Wanted::default());
        let identity = self.identity();
        let publisher = Publisher::new(self.prompt.clone(), leaders, publications, identity);
        tokio::spawn(publisher.run());
        let follower = Follower {
            resolver: Resolver::new(config, self.zone.clone()),
            config_maps: ConfigMaps::new(self.client.clone(), sender),
            reporter: Reporter::start(self.client, self.node.as_deref()),
            watches,
            leaders: BTreeSet::new(),
            wanted,
            pods: HashMap::new(),
            bypassing: Table::default(),
            bypass,
            state,
        };
        follower.run(heard, snapshots, resync).await;
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
    /// Watches of the Pods of leader services.
    pods: HashMap<Key, Watch>,
    bypassing: Table<Pod>,
    bypass: BypassingPods,
    state: Arc<State>,
}

impl Follower {
    async fn run(
        mut self,
        mut heard: mpsc::Receiver<Heard>,
        mut snapshots: channel::Receiver<Arc<Snapshot>>,
        resync: Duration,
    ) {
        let mut ticks = tokio::time::interval(resync);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut events = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                told = heard.recv_many(&mut events, BATCH) => {
                    if told == 0 {
                        return;
                    }
                    for event in events.drain(..) {
                        self.hear(event);
                    }
                    self.hand_on();
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
                _ = ticks.tick() => {
                    let in_use = self.resolver.config_maps_in_use();
                    self.resolver.config_maps.retain(|key, _| in_use.contains(key));
                    self.config_maps.refresh(in_use);
                }
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
                self.config_maps.answered(&key);
                resolver.hear_config_map(key, says);
            }
            Heard::Pod(service, told) => {
                let is_end = matches!(told, Told::End);
                if let Some(Pods::Followed(pods)) = resolver.pods.get_mut(&service)
                    && (!pods.hear(told).is_empty() || is_end)
                {
                    resolver.store.note(service);
                }
            }
            Heard::NoPods(service) => {
                if resolver.pods.get(&service).is_some_and(Pods::are_awaited) {
                    resolver.pods.insert(service.clone(), Pods::Refused);
                    resolver.store.note(service);
                }
            }
            Heard::Bypassing(told) => {
                self.bypassing.hear(told);
                if self.bypassing.is_synced {
                    let pods = self.bypassing.values();
                    self.bypass
                        .set_pods(pods.map(|pod| pod.uid.to_string()).collect());
                }
            }
            Heard::Unreadable(kind, key, error) => self.reporter.unreadable(kind, &key, &error),
        }
    }

    /// Hands on what has changed, once everything has been told.
    fn hand_on(&mut self) {
        if !self.resolver.store.is_synced() {
            return;
        }
        let resolved = self.resolver.resolve();
        for key in &resolved.unknown_config_maps {
            self.config_maps.ask(key.clone());
        }
        self.leaders.retain(|key| !resolved.others.contains(key));
        self.leaders.extend(resolved.leaders.iter().cloned());
        self.follow_pods(&resolved);
        self.publish();
        self.reporter.report(&resolved.changes, |key| {
            let service = self.resolver.store.services.get(key);
            service.map(|service| service.uid.to_string())
        });
        self.state.amend(resolved.changes);
    }

    /// Says what is to be published.
    fn publish(&self) {
        let publications = self.leaders.iter();
        let publications =
            publications.filter_map(|key| Some((key.clone(), self.resolver.publication(key)?)));
        let wanted = Wanted {
            services: publications.collect(),
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
            if self.pods.remove(key).is_some() {
                self.resolver.pods.remove(key);
            }
        }
        for key in resolved
            .leaders
            .difference(&self.pods.keys().cloned().collect::<BTreeSet<_>>())
        {
            let Some(service) = self.resolver.store.services.get(key) else {
                continue;
            };
            if service.selector.is_empty() {
                // Nobody can tell which Pods these are.
                self.resolver.pods.insert(key.clone(), Pods::Refused);
                self.resolver.store.note(key.clone());
                continue;
            }
            let pairs = service.selector.iter();
            let selector: Vec<_> = pairs
                .map(|(name, value)| format!("{name}={value}"))
                .collect();
            let pods = Pods::Followed(Table::default());
            self.resolver.pods.insert(key.clone(), pods);
            let watch = self.watches.pods(key.clone(), &selector.join(","));
            self.pods.insert(key.clone(), watch);
        }
    }
}

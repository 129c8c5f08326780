//! Publishes leaders: an EndpointSlice for each leader service that asks for it, naming its leader
//! only, so that clients on nodes without an agent follow.
//!
//! One agent does it, the one that holds the Lease. Nothing is read before a write: what was
//! published last is remembered, and server-side apply says what should be there. Called by the
//! follower with what is wanted; who leads is read from the kernel's maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::FIELD_MANAGER_DOMAIN;
use super::lease::{Election, RENEWAL};
use super::object::Key;
use crate::leaders::Leaders;
use crate::model::ServiceName;

/// Who writes, for server-side apply.
const FIELD_MANAGER: &str = "idlefirst";

/// What the slice is called, after the Service.
const SLICE_SUFFIX: &str = "-idlefirst-leader";

/// The Service that the slice is for, after the one that is led.
const SERVICE_SUFFIX: &str = "-leader";

/// How often it is looked who leads. It costs a few reads of memory.
const LOOK: Duration = Duration::from_millis(5);

/// Attempts of one write, from one to the next of them, and for the whole of them.
const ATTEMPTS: u32 = 2;
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MAX_DELAY: Duration = Duration::from_millis(500);

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long a write that failed in all its attempts rests.
const REST: Duration = Duration::from_secs(1);

/// All that should be published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) services: BTreeMap<Key, Publication>,
    /// Slices of ours that are there.
    pub(super) there: BTreeSet<Key>,
}

/// One leader service to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) name: ServiceName,
    pub(super) uid: String,
    /// The name of the port that is led; empty: it has none.
    pub(super) port: String,
    /// What pods its addresses are of, and on what nodes.
    pub(super) pods: BTreeMap<SocketAddr, (Option<String>, Option<String>)>,
}

/// Publishes until cancelled.
pub(super) struct Publisher {
    client: Client,
    leaders: Leaders,
    wanted: watch::Receiver<Wanted>,
    election: Election,
    stood_at: Option<Instant>,
    /// What was published last, by slice; `None`: that nobody leads.
    published: BTreeMap<Key, Option<SocketAddr>>,
    /// Slices that rest because they could not be written.
    resting: BTreeMap<Key, Instant>,
}

impl Publisher {
    /// `identity` tells this agent from all others.
    pub(super) fn new(
        client: Client,
        leaders: Leaders,
        wanted: watch::Receiver<Wanted>,
        identity: String,
    ) -> Self {
        Self {
            election: Election::new(client.clone(), identity),
            client,
            leaders,
            wanted,
            stood_at: None,
            published: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// Goes on until the follower ends.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            if wanted.services.is_empty() && wanted.there.is_empty() {
                if let Err(error) = self.election.step_down().await {
                    tracing::debug!(
                        error = &error as &dyn std::error::Error,
                        "the Lease could not be given up; it runs out"
                    );
                }
                self.published.clear();
                if self.wanted.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if self.wanted.has_changed().is_err() {
                return;
            }
            self.stand().await;
            if self.election.is_won() {
                self.publish(&wanted).await;
            } else {
                // Whoever holds it writes what it likes meanwhile.
                self.published.clear();
            }
            ticks.tick().await;
        }
    }

    async fn stand(&mut self) {
        if self.stood_at.is_some_and(|at| at.elapsed() < RENEWAL) {
            return;
        }
        self.stood_at = Some(Instant::now());
        let was_won = self.election.is_won();
        match tokio::time::timeout(TIMEOUT, self.election.stand()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the Lease for publishing leaders cannot be taken or renewed"
            ),
            Err(_) => {
                tracing::warn!("the API does not answer about the Lease for publishing leaders")
            }
        }
        match (was_won, self.election.is_won()) {
            (false, true) => tracing::info!("this agent publishes leaders"),
            (true, false) => tracing::info!("this agent does not publish leaders any more"),
            _ => {}
        }
    }

    /// Writes what is not as it should be.
    async fn publish(&mut self, wanted: &Wanted) {
        for (key, publication) in &wanted.services {
            let leader = self.leaders.of(&publication.name);
            let slice = key.beside(&format!("{}{SLICE_SUFFIX}", key.name));
            if self.published.get(&slice) == Some(&leader) || self.rests(&slice) {
                continue;
            }
            let body = body(key, &slice, publication, leader);
            let patch = Patch::Apply(&body);
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let api = self.api(&slice);
            let done = attempt(|| api.patch(&slice.name, &params, &patch)).await;
            if self.note(&slice, done.map(drop)) {
                tracing::info!(service = %publication.name, ?leader, "the leader is published");
                self.published.insert(slice, leader);
            }
        }
        let names: BTreeSet<_> = wanted
            .services
            .keys()
            .map(|key| key.beside(&format!("{}{SLICE_SUFFIX}", key.name)))
            .collect();
        let written = self.published.keys().cloned();
        let stale: Vec<_> = wanted
            .there
            .iter()
            .cloned()
            .chain(written)
            .filter(|it| !names.contains(it))
            .collect();
        for slice in stale {
            if self.rests(&slice) {
                continue;
            }
            let api = self.api(&slice);
            let params = DeleteParams::default();
            let done = match attempt(|| api.delete(&slice.name, &params)).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
                other => other.map(drop),
            };
            if self.note(&slice, done) {
                self.published.remove(&slice);
                // Until the watch has told that it is gone.
                self.resting.insert(slice, Instant::now());
            }
        }
    }

    fn api(&self, slice: &Key) -> Api<EndpointSlice> {
        Api::namespaced(self.client.clone(), &slice.namespace)
    }

    fn rests(&self, slice: &Key) -> bool {
        self.resting
            .get(slice)
            .is_some_and(|since| since.elapsed() < REST)
    }

    /// Whether a write was done. One that was not rests for a while.
    fn note(&mut self, slice: &Key, done: Result<(), kube::Error>) -> bool {
        let Err(error) = done else {
            self.resting.remove(slice);
            return true;
        };
        tracing::warn!(
            namespace = &*slice.namespace,
            slice = &*slice.name,
            error = &error as &dyn std::error::Error,
            "a leader could not be published; it is tried again"
        );
        self.resting.insert(slice.clone(), Instant::now());
        false
    }
}

/// Makes a request, and once more if it fails for a reason that may pass.
async fn attempt<T, F: Future<Output = Result<T, kube::Error>>>(
    request: impl Fn() -> F,
) -> Result<T, kube::Error> {
    let mut delay = FIRST_DELAY;
    for _ in 1..ATTEMPTS {
        match tokio::time::timeout(TIMEOUT, request()).await {
            Ok(Err(kube::Error::Api(status)))
                if (400..500).contains(&status.code) && status.code != 429 =>
            {
                return Err(kube::Error::Api(status));
            }
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(_)) | Err(_) => {}
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_DELAY);
    }
    request().await
}

/// The slice as it should be.
fn body(key: &Key, slice: &Key, wanted: &Publication, leader: Option<SocketAddr>) -> Value {
    let any = leader.or_else(|| wanted.pods.keys().next().copied());
    let family = match any.is_some_and(|address| address.is_ipv6()) {
        true => "IPv6",
        false => "IPv4",
    };
    let endpoints: Vec<_> = leader
        .iter()
        .map(|leader| {
            let (pod, node) = wanted.pods.get(leader).cloned().unwrap_or_default();
            let mut endpoint = json!({
                "addresses": [leader.ip().to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
            });
            if let Some(node) = node {
                endpoint["nodeName"] = node.into();
            }
            if let Some(pod) = pod {
                endpoint["targetRef"] =
                    json!({"kind": "Pod", "namespace": &*key.namespace, "name": pod});
            }
            endpoint
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": &*slice.name,
            "namespace": &*slice.namespace,
            "labels": {
                "kubernetes.io/service-name": format!("{}{SERVICE_SUFFIX}", key.name),
                "endpointslice.kubernetes.io/managed-by": FIELD_MANAGER_DOMAIN,
            },
            "ownerReferences": [{
                "apiVersion": "v1",
                "kind": "Service",
                "name": &*key.name,
                "uid": wanted.uid,
            }],
        },
        "addressType": family,
        "endpoints": endpoints,
        "ports": any.map(|address| vec![json!({"name": wanted.port, "port": address.port(), "protocol": "TCP"})]).unwrap_or_default(),
    })
}

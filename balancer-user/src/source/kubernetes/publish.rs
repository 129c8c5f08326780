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

/// How long at most, each time twice as long, if the API refuses it.
const MAX_REST: Duration = Duration::from_secs(60);

/// How long nobody has to lead before that is published by an agent that has published nothing
/// yet: its own view may have to build up first.
const DOUBT: Duration = Duration::from_secs(1);

/// All that should be published.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) services: BTreeMap<Key, Publication>,
    /// Services of which it cannot be told yet; their slices stay.
    pub(super) undecided: BTreeSet<Key>,
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
    news: watch::Receiver<Wanted>,
    wanted: Wanted,
    /// The slices that should be there, and what services they are of.
    slices: BTreeMap<Key, (Key, ServiceName)>,
    election: Election,
    stood_at: Option<Instant>,
    /// Whether the Lease could not be had to look at or to write, the last time.
    is_failing: bool,
    /// What was published last, by slice.
    published: BTreeMap<Key, Facts>,
    /// Since when nobody has led, where nothing is published.
    doubted: BTreeMap<Key, Instant>,
    /// Slices that are not written for now.
    resting: BTreeMap<Key, Rest>,
}

/// What a slice says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    uid: String,
    port: String,
    /// `None`: nobody leads.
    leader: Option<SocketAddr>,
    pod: Option<String>,
    node: Option<String>,
    /// The leader's address, or another: its family and port.
    any: Option<SocketAddr>,
}

/// Why a write was not done.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Api(#[from] kube::Error),
    #[error("the API does not answer")]
    Timeout,
}

impl WriteError {
    /// The status with which the API refuses it, if trying again at once is of no use.
    fn refusal(&self) -> Option<u16> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status.code),
            _ => None,
        }
        .filter(|code| (400..500).contains(code) && *code != 429)
    }
}

/// A pause of one slice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rest {
    until: Instant,
    pause: Duration,
    /// Whether a write has failed, which has been said.
    is_failing: bool,
}

impl Rest {
    /// Until the watch has told what was done.
    fn after_done(now: Instant) -> Self {
        Self {
            until: now + REST,
            pause: REST,
            is_failing: false,
        }
    }

    /// After a write that failed. What the API refuses it will hardly grant a second later.
    fn after_failure(before: Option<&Self>, is_refused: bool, now: Instant) -> Self {
        let before = before.filter(|before| before.is_failing && is_refused);
        let pause = before.map_or(REST, |before| (before.pause * 2).min(MAX_REST));
        Self {
            until: now + pause,
            pause,
            is_failing: true,
        }
    }
}

impl Publisher {
    /// `identity` tells this agent from all others.
    pub(super) fn new(
        client: Client,
        leaders: Leaders,
        news: watch::Receiver<Wanted>,
        identity: String,
    ) -> Self {
        Self {
            election: Election::new(client.clone(), identity),
            client,
            leaders,
            news,
            wanted: Wanted::default(),
            slices: BTreeMap::new(),
            stood_at: None,
            is_failing: false,
            published: BTreeMap::new(),
            doubted: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// Goes on until the follower ends.
    pub(super) async fn run(mut self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            match self.news.has_changed() {
                Err(_) => return,
                Ok(true) => self.take(),
                Ok(false) => {}
            }
            if self.wanted.services.is_empty() && self.wanted.there.is_empty() {
                self.step_down().await;
                if self.news.changed().await.is_err() {
                    return;
                }
                self.take();
                continue;
            }
            self.stand().await;
            if self.election.is_won() {
                self.publish().await;
                ticks.tick().await;
                continue;
            }
            // Whoever holds it writes what it likes meanwhile.
            self.published.clear();
            let stood = self.stood_at.map(|at| at.elapsed()).unwrap_or_default();
            tokio::select! {
                changed = self.news.changed() => match changed {
                    Ok(()) => self.take(),
                    Err(_) => return,
                },
                () = tokio::time::sleep(RENEWAL.saturating_sub(stood)) => {}
            }
        }
    }

    /// Takes in what is wanted now.
    fn take(&mut self) {
        let wanted = self.news.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.wanted, wanted);
        let wanted = &self.wanted;
        let services = wanted.services.iter();
        self.slices = services
            .map(|(key, publication)| (slice_of(key), (key.clone(), publication.name.clone())))
            .collect();
        for taken_away in before.there.difference(&wanted.there) {
            self.published.remove(taken_away);
        }
        for (key, publication) in &wanted.services {
            let slice = slice_of(key);
            let published = self.published.get(&slice);
            if published.is_some_and(|it| Facts::of(publication, it.leader) != *it) {
                self.published.remove(&slice);
            }
        }
        self.doubted
            .retain(|slice, _| self.slices.contains_key(slice));
        self.resting.retain(|slice, _| {
            self.slices.contains_key(slice)
                || wanted.there.contains(slice)
                || self.published.contains_key(slice)
        });
    }

    async fn step_down(&mut self) {
        self.published.clear();
        self.resting.clear();
        self.doubted.clear();
        match tokio::time::timeout(TIMEOUT, self.election.step_down()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(
                error = &error as &dyn std::error::Error,
                "the Lease could not be given up; it runs out"
            ),
            Err(_) => tracing::debug!("the Lease could not be given up in time; it runs out"),
        }
    }

    async fn stand(&mut self) {
        if self.stood_at.is_some_and(|at| at.elapsed() < RENEWAL) {
            return;
        }
        self.stood_at = Some(Instant::now());
        let was_won = self.election.is_won();
        let stood = tokio::time::timeout(TIMEOUT, self.election.stand()).await;
        let stood = stood.map_err(|_| WriteError::Timeout);
        let stood = stood.and_then(|stood| stood.map_err(WriteError::Api));
        let was_failing = std::mem::replace(&mut self.is_failing, stood.is_err());
        match stood {
            Err(error) if !was_failing => tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the Lease for publishing leaders cannot be taken or renewed; it is tried again"
            ),
            Ok(()) if was_failing => {
                tracing::info!("the Lease for publishing leaders can be read and written again");
            }
            _ => {}
        }
        match (was_won, self.election.is_won()) {
            (false, true) => tracing::info!("this agent publishes leaders"),
            (true, false) => tracing::info!("this agent does not publish leaders any more"),
            _ => {}
        }
    }

    /// Writes what is not as it should be.
    async fn publish(&mut self) {
        for (slice, leader) in self.due() {
            let is_new = !self.published.contains_key(&slice);
            if is_new && leader.is_none() && self.is_doubtful(&slice) {
                continue;
            }
            // The writes before may have taken long.
            if !self.election.is_won() {
                return;
            }
            self.write(slice, leader).await;
        }
        for slice in self.stale() {
            if self.rests(&slice) {
                continue;
            }
            if !self.election.is_won() {
                return;
            }
            self.delete(slice).await;
        }
    }

    /// Slices that do not say who leads, and who does.
    fn due(&self) -> Vec<(Key, Option<SocketAddr>)> {
        let slices = self.slices.iter();
        let due = slices.filter_map(|(slice, (_, name))| {
            let leader = self.leaders.of(name);
            let published = self.published.get(slice);
            let is_said = published.is_some_and(|it| it.leader == leader);
            (!is_said && !self.rests(slice)).then(|| (slice.clone(), leader))
        });
        due.collect()
    }

    async fn write(&mut self, slice: Key, leader: Option<SocketAddr>) {
        let of = self.slices.get(&slice);
        let of = of.and_then(|(key, _)| self.wanted.services.get_key_value(key));
        let Some((key, publication)) = of else {
            return;
        };
        let facts = Facts::of(publication, leader);
        let body = facts.body(key, &slice);
        let patch = Patch::Apply(&body);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let api = self.api(&slice);
        let done = attempt(|| api.patch(&slice.name, &params, &patch)).await;
        if self.note(&slice, done.map(drop)) {
            let (namespace, name) = (&*slice.namespace, &*slice.name);
            tracing::info!(namespace, slice = name, ?leader, "the leader is published");
            self.doubted.remove(&slice);
            self.published.insert(slice, facts);
        }
    }

    async fn delete(&mut self, slice: Key) {
        let api = self.api(&slice);
        let params = DeleteParams::default();
        let done = match attempt(|| api.delete(&slice.name, &params)).await {
            Err(error) if error.refusal() == Some(404) => Ok(()),
            other => other.map(drop),
        };
        if self.note(&slice, done) {
            self.published.remove(&slice);
            self.resting.insert(slice, Rest::after_done(Instant::now()));
        }
    }

    /// Slices of ours that nobody asks for.
    fn stale(&self) -> Vec<Key> {
        let is_wanted = |slice: &Key| {
            let service = slice.name.strip_suffix(SLICE_SUFFIX);
            self.slices.contains_key(slice)
                || service.is_some_and(|it| self.wanted.undecided.contains(&slice.beside(it)))
        };
        let there = self.wanted.there.iter().chain(self.published.keys());
        let stale: BTreeSet<_> = there.filter(|slice| !is_wanted(slice)).collect();
        stale.into_iter().cloned().collect()
    }

    fn is_doubtful(&mut self, slice: &Key) -> bool {
        let since = self
            .doubted
            .entry(slice.clone())
            .or_insert_with(Instant::now);
        since.elapsed() < DOUBT
    }

    fn api(&self, slice: &Key) -> Api<EndpointSlice> {
        Api::namespaced(self.client.clone(), &slice.namespace)
    }

    fn rests(&self, slice: &Key) -> bool {
        let rest = self.resting.get(slice);
        rest.is_some_and(|rest| Instant::now() < rest.until)
    }

    /// Whether a write was done. One that was not rests for a while; that is said the first time.
    fn note(&mut self, slice: &Key, done: Result<(), WriteError>) -> bool {
        let before = self.resting.remove(slice);
        let was_failing = before.is_some_and(|before| before.is_failing);
        let Err(error) = done else {
            if was_failing {
                tracing::info!(
                    namespace = &*slice.namespace,
                    slice = &*slice.name,
                    "it can be written again"
                );
            }
            return true;
        };
        if !was_failing {
            tracing::warn!(
                namespace = &*slice.namespace,
                slice = &*slice.name,
                error = &error as &dyn std::error::Error,
                "a leader could not be published; it is tried again"
            );
        }
        let is_refused = error.refusal().is_some();
        let rest = Rest::after_failure(before.as_ref(), is_refused, Instant::now());
        self.resting.insert(slice.clone(), rest);
        false
    }
}

fn slice_of(service: &Key) -> Key {
    service.beside(&format!("{}{SLICE_SUFFIX}", service.name))
}

/// Makes a request, and once more if it fails for a reason that may pass.
async fn attempt<T, F: Future<Output = Result<T, kube::Error>>>(
    request: impl Fn() -> F,
) -> Result<T, WriteError> {
    let mut delay = FIRST_DELAY;
    let mut attempts = 1;
    loop {
        let done = tokio::time::timeout(TIMEOUT, request()).await;
        let done = done.map_err(|_| WriteError::Timeout);
        let error = match done.and_then(|done| done.map_err(WriteError::Api)) {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        if attempts == ATTEMPTS || error.refusal().is_some() {
            return Err(error);
        }
        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(MAX_DELAY);
        attempts += 1;
    }
}

impl Facts {
    fn of(publication: &Publication, leader: Option<SocketAddr>) -> Self {
        let pod = leader.and_then(|leader| publication.pods.get(&leader));
        let (pod, node) = pod.cloned().unwrap_or_default();
        let known = publication.pods.keys().next();
        Self {
            uid: publication.uid.clone(),
            port: publication.port.clone(),
            leader,
            pod,
            node,
            any: leader.or_else(|| known.copied()),
        }
    }

    /// The slice of a service as it should be.
    fn body(&self, key: &Key, slice: &Key) -> Value {
        let family = match self.any.is_some_and(|address| address.is_ipv6()) {
            true => "IPv6",
            false => "IPv4",
        };
        let port = |address: SocketAddr| json!({"name": self.port, "port": address.port(), "protocol": "TCP"});
        let endpoint = |leader: SocketAddr| {
            let mut endpoint = json!({
                "addresses": [leader.ip().to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
            });
            if let Some(node) = &self.node {
                endpoint["nodeName"] = node.as_str().into();
            }
            if let Some(pod) = &self.pod {
                endpoint["targetRef"] =
                    json!({"kind": "Pod", "namespace": &*key.namespace, "name": pod});
            }
            endpoint
        };
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
                    "uid": self.uid,
                }],
            },
            "addressType": family,
            "endpoints": self.leader.map(endpoint).into_iter().collect::<Vec<_>>(),
            "ports": self.any.map(port).into_iter().collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests;

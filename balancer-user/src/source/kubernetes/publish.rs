//! Publishes leaders: an EndpointSlice for each leader service that asks for it, naming its leader
//! only, so that clients on nodes without an agent follow.
//!
//! One agent does it, the one that holds the Lease. Nothing is read before a write: what was
//! published last is remembered, and server-side apply says what should be there. Called by the
//! follower with what is wanted; who leads is read from the kernel's maps.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use tokio::sync::watch;

use super::kinds::Slice;
use super::lease::Election;
use super::object::Key;
use crate::leaders::Leaders;
use crate::model::ServiceName;
use slice::{Facts, service_of, slice_of};
pub(super) use slice::{Family, Publication, too_long};

mod slice;

/// Who writes, for server-side apply.
const FIELD_MANAGER: &str = "idlefirst";

/// How often it is looked who leads. It costs a few reads of memory.
const LOOK: Duration = Duration::from_millis(5);

/// Attempts of one write, from one to the next of them, and for the whole of them.
const ATTEMPTS: u32 = 2;
const FIRST_DELAY: Duration = Duration::from_millis(20);
const MAX_DELAY: Duration = Duration::from_millis(500);

/// How long one request may take.
const TIMEOUT: Duration = Duration::from_secs(2);

/// How long after it was written a slice is to be seen at the latest; otherwise it is written again,
/// which changes nothing if it is there.
const ECHO: Duration = Duration::from_secs(2);
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
    /// Slices of ours that are there, and what they say.
    pub(super) there: BTreeMap<Key, Arc<Slice>>,
}

/// Services whose leader cannot be published, and what the API says to that.
pub(super) type Refusals = BTreeMap<Key, String>;

/// Publishes until cancelled.
pub(super) struct Publisher {
    client: Client,
    leaders: Leaders,
    news: watch::Receiver<Wanted>,
    wanted: Wanted,
    /// The slices that should be there, and what services they are of.
    slices: BTreeMap<Key, (Key, ServiceName)>,
    election: Election,
    /// When this agent stands the next time.
    stands_at: Instant,
    /// Whether the Lease could not be had to look at or to write, the last time.
    is_failing: bool,
    /// What the API says, if it is refused.
    refused: Option<String>,
    /// What it says of slices, by slice.
    refused_slices: BTreeMap<Key, String>,
    /// Where that is told.
    refusals: watch::Sender<Refusals>,
    /// What was published last, by slice.
    published: BTreeMap<Key, Published>,
    /// Since when nobody has led, where nothing is published.
    doubted: BTreeMap<Key, Instant>,
    /// Slices that are not written for now.
    resting: BTreeMap<Key, Rest>,
}

/// What was published of a service.
#[derive(Debug)]
struct Published {
    facts: Facts,
    written: Instant,
    /// Whether somebody has changed it since.
    is_spoilt: bool,
    /// When that was last put right: whoever changes it again and again does not set the pace.
    repaired: Option<Instant>,
}

impl Published {
    /// Whether it still says who leads, or may not be put right yet.
    fn holds(&self, leader: Option<SocketAddr>) -> bool {
        let rests = self.repaired.is_some_and(|at| at.elapsed() < REST);
        self.facts.leader == leader && (!self.is_spoilt || rests)
    }

    /// Whether it is to be seen by now. What is taken away as soon as it is written may never be.
    fn is_overdue(&self) -> bool {
        self.written.elapsed() >= ECHO
    }
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
        let code = self.status()?.code;
        ((400..500).contains(&code) && code != 429).then_some(code)
    }

    /// What the API says, if it refuses it.
    fn words(&self) -> Option<String> {
        let code = self.refusal()?;
        let message = self.status()?.message.trim_end_matches('.');
        Some(format!("{message} ({code})"))
    }

    /// Whether the slice that is there has addresses of another family.
    fn is_of_other_family(&self) -> bool {
        let details = self.status().and_then(|status| status.details.as_ref());
        let mut causes = details.into_iter().flat_map(|details| &details.causes);
        self.refusal() == Some(422) && causes.any(|cause| cause.field == "addressType")
    }

    fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api(kube::Error::Api(status)) => Some(status),
            _ => None,
        }
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
        refusals: watch::Sender<Refusals>,
        identity: String,
    ) -> Self {
        Self {
            election: Election::new(client.clone(), identity),
            client,
            leaders,
            news,
            wanted: Wanted::default(),
            slices: BTreeMap::new(),
            stands_at: Instant::now(),
            is_failing: false,
            refused: None,
            refused_slices: BTreeMap::new(),
            refusals,
            published: BTreeMap::new(),
            doubted: BTreeMap::new(),
            resting: BTreeMap::new(),
        }
    }

    /// Goes on until the follower ends, and gives the Lease up then.
    pub(super) async fn run(mut self) {
        while self.go_on().await {}
        self.step_down().await;
    }

    /// Does what there is to do, and waits for more. Gives false when the follower has ended.
    async fn go_on(&mut self) -> bool {
        match self.news.has_changed() {
            Err(_) => return false,
            Ok(true) => self.take(),
            Ok(false) => {}
        }
        if self.wanted.services.is_empty() && self.wanted.there.is_empty() {
            self.step_down().await;
            self.tell();
            return self.has_news().await;
        }
        self.stand().await;
        if self.election.is_won() {
            self.publish().await;
            self.tell();
            tokio::time::sleep(LOOK).await;
            return true;
        }
        // Whoever holds it writes what it likes meanwhile, and says what it is refused.
        self.published.clear();
        self.refused_slices.clear();
        self.tell();
        let stands_at = self.stands_at;
        tokio::select! {
            is_there = self.has_news() => is_there,
            () = tokio::time::sleep_until(stands_at.into()) => true,
        }
    }

    /// Waits for news and takes them in.
    async fn has_news(&mut self) -> bool {
        let is_there = self.news.changed().await.is_ok();
        if is_there {
            self.take();
        }
        is_there
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
        for taken_away in before.there.keys() {
            if !wanted.there.contains_key(taken_away) {
                self.published.remove(taken_away);
            }
        }
        for (key, publication) in &wanted.services {
            let slice = slice_of(key);
            let Some(published) = self.published.get_mut(&slice) else {
                continue;
            };
            let facts = Facts::of(publication, published.facts.leader);
            if facts.as_ref() != Some(&published.facts) {
                self.published.remove(&slice);
                continue;
            }
            let found = wanted.there.get(&slice);
            if let Some(found) = found.filter(|_| found != before.there.get(&slice)) {
                published.is_spoilt = !published.facts.are_said(key, found);
            }
        }
        self.refused_slices
            .retain(|slice, _| self.slices.contains_key(slice));
        self.doubted
            .retain(|slice, _| self.slices.contains_key(slice));
        self.resting.retain(|slice, _| {
            self.slices.contains_key(slice)
                || wanted.there.contains_key(slice)
                || self.published.contains_key(slice)
        });
    }

    async fn step_down(&mut self) {
        self.published.clear();
        self.resting.clear();
        self.doubted.clear();
        self.refused = None;
        self.refused_slices.clear();
        self.stands_at = Instant::now();
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
        let begun = Instant::now();
        if begun < self.stands_at {
            return;
        }
        let was_won = self.election.is_won();
        let stood = tokio::time::timeout(TIMEOUT, self.election.stand()).await;
        let stood = stood.map_err(|_| WriteError::Timeout);
        let stood = stood.and_then(|stood| stood.map_err(WriteError::Api));
        self.stands_at = begun + self.election.pause();
        let was_failing = std::mem::replace(&mut self.is_failing, stood.is_err());
        match &stood {
            Ok(()) => self.refused = None,
            // What is no answer says nothing of what was refused before.
            Err(error) => self.refused = error.words().or(self.refused.take()),
        }
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
            let is_there = self.wanted.there.contains_key(slice);
            let is_said =
                published.is_some_and(|it| it.holds(leader) && (is_there || !it.is_overdue()));
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
        let Some(facts) = Facts::of(publication, leader) else {
            return;
        };
        let body = facts.body(key, &slice);
        let patch = Patch::Apply(&body);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let api = self.api(&slice);
        let write = || attempt(|| api.patch(&slice.name, &params, &patch));
        let mut done = write().await;
        if done.as_ref().is_err_and(|error| error.is_of_other_family()) {
            // That cannot be changed, only made anew.
            done = match taken_away(&api, &slice).await {
                Ok(()) => write().await,
                Err(error) => Err(error),
            };
        }
        if self.note(&slice, done.map(drop)) {
            let (namespace, name) = (&*slice.namespace, &*slice.name);
            tracing::info!(namespace, slice = name, ?leader, "the leader is published");
            self.doubted.remove(&slice);
            let before = self.published.remove(&slice);
            let published = Published {
                facts,
                written: Instant::now(),
                is_spoilt: false,
                repaired: before.and_then(|it| match it.is_spoilt {
                    true => Some(Instant::now()),
                    false => it.repaired,
                }),
            };
            self.published.insert(slice, published);
        }
    }

    async fn delete(&mut self, slice: Key) {
        let api = self.api(&slice);
        let done = taken_away(&api, &slice).await;
        if self.note(&slice, done) {
            self.published.remove(&slice);
            self.resting.insert(slice, Rest::after_done(Instant::now()));
        }
    }

    /// Slices of ours that nobody asks for.
    fn stale(&self) -> Vec<Key> {
        let is_wanted = |slice: &Key| {
            self.slices.contains_key(slice)
                || service_of(slice).is_some_and(|it| self.wanted.undecided.contains(&it))
        };
        let there = self.wanted.there.keys().chain(self.published.keys());
        let stale: BTreeSet<_> = there.filter(|slice| !is_wanted(slice)).collect();
        stale.into_iter().cloned().collect()
    }

    /// Tells what the API refuses, if that is news.
    fn tell(&self) {
        let refusal = |(slice, (service, _)): (&Key, &(Key, ServiceName))| {
            let words = self.refused.as_ref();
            let words = words.or_else(|| self.refused_slices.get(slice))?;
            Some((service.clone(), words.clone()))
        };
        let refusals: Refusals = self.slices.iter().filter_map(refusal).collect();
        self.refusals.send_if_modified(|current| {
            let is_new = *current != refusals;
            *current = refusals;
            is_new
        });
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
        let refused = self.refused_slices.remove(slice);
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
        let words = error.words();
        let is_refused = words.is_some();
        if let Some(words) = words.or(refused) {
            self.refused_slices.insert(slice.clone(), words);
        }
        let rest = Rest::after_failure(before.as_ref(), is_refused, Instant::now());
        self.resting.insert(slice.clone(), rest);
        false
    }
}

/// Deletes a slice, unless it is gone already.
async fn taken_away(api: &Api<EndpointSlice>, slice: &Key) -> Result<(), WriteError> {
    let params = DeleteParams::default();
    match attempt(|| api.delete(&slice.name, &params)).await {
        Err(error) if error.refusal() == Some(404) => Ok(()),
        other => other.map(drop),
    }
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

#[cfg(test)]
mod tests;

//! What happens, told to whoever listens at that moment.
//!
//! Owns the kinds of events and their filters. Keeps nothing: what nobody listens to is only
//! counted (failovers with how long they took), and who listens too slowly is told how much was missed. No publisher ever waits.
//! Written by the reader of the programs' ring buffer, by the probes, and by `admin`, which also
//! reads it.

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use balancer_common::event::{Event as KernelEvent, EventKind};
use serde::{Deserialize, Serialize};
use tokio::sync::{
    OwnedSemaphorePermit, Semaphore,
    broadcast::{self, error::RecvError},
};
use utoipa::ToSchema;

use crate::{failover::Failovers, model::ServiceName};

/// Listeners at a time.
pub const MAX_LISTENERS: usize = 64;
/// Events that a listener may be behind before it misses some.
const BACKLOG: usize = 1024;

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A service has a leader that it did not have before, or the first connection to one stands
    /// after the one before it was lost.
    Failover,
    /// A breaker shut a backend out, or keeps it out after a trial.
    Ejection,
    /// A backend that was shut out takes part again.
    Readmission,
    /// Connections or requests were refused.
    Refusal,
    /// A count was found to be wrong.
    Drift,
    /// A change of the configuration was rejected.
    ConfigError,
    /// Probes found a backend healthy or unhealthy.
    Health,
    /// A connect was steered to a backend. Only a sample is told, and only while someone listens.
    Steer,
}

impl Kind {
    /// Every kind; a kind's place here is its index in tables.
    pub const ALL: [Self; 8] = [
        Self::Failover,
        Self::Ejection,
        Self::Readmission,
        Self::Refusal,
        Self::Drift,
        Self::ConfigError,
        Self::Health,
        Self::Steer,
    ];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::Ejection => "ejection",
            Self::Readmission => "readmission",
            Self::Refusal => "refusal",
            Self::Drift => "drift",
            Self::ConfigError => "config-error",
            Self::Health => "health",
            Self::Steer => "steer",
        }
    }

    /// The kind that this word stands for.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }
}

/// Something that happened, as whoever saw it tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happening {
    kind: Kind,
    service: Option<ServiceName>,
    backend: Option<SocketAddr>,
    client: Option<SocketAddr>,
    reason: Option<&'static str>,
    detail: Option<Cow<'static, str>>,
    count: u64,
}

impl Happening {
    /// Something of this kind.
    pub const fn new(kind: Kind) -> Self {
        Self {
            kind,
            service: None,
            backend: None,
            client: None,
            reason: None,
            detail: None,
            count: 1,
        }
    }

    /// So many refusals, for a reason.
    pub fn refusals(reason: &'static str, count: u64) -> Self {
        Self {
            reason: Some(reason),
            count,
            ..Self::new(Kind::Refusal)
        }
    }

    /// It concerns this service. What concerns several is published for each.
    #[must_use]
    pub fn service(self, service: ServiceName) -> Self {
        Self {
            service: Some(service),
            ..self
        }
    }

    /// It concerns this backend.
    #[must_use]
    pub fn backend(self, backend: SocketAddr) -> Self {
        Self {
            backend: Some(backend),
            ..self
        }
    }

    /// It concerns a connection from here.
    #[must_use]
    pub fn client(self, client: SocketAddr) -> Self {
        Self {
            client: Some(client),
            ..self
        }
    }

    /// Why it happened, in one word.
    #[must_use]
    pub fn reason(self, reason: &'static str) -> Self {
        Self {
            reason: Some(reason),
            ..self
        }
    }

    /// More about it, for people.
    #[must_use]
    pub fn detail(self, detail: impl Into<Cow<'static, str>>) -> Self {
        Self {
            detail: Some(detail.into()),
            ..self
        }
    }
}

/// Something that happened, as listeners hear it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Counts events from the agent's start on.
    pub id: u64,
    /// When: seconds since 1970, to the millisecond.
    pub at: f64,
    /// What kind of thing.
    pub kind: Kind,
    /// `NAMESPACE/NAME`; null if no service is concerned.
    pub service: Option<String>,
    /// `IP:PORT`; null if no backend is concerned.
    #[schema(value_type = Option<String>)]
    pub backend: Option<SocketAddr>,
    /// `IP:PORT`; null if no client is concerned, or none is known.
    #[schema(value_type = Option<String>)]
    pub client: Option<SocketAddr>,
    /// Why, in one word; null if there is nothing to say.
    pub reason: Option<Cow<'static, str>>,
    /// More about it, for people; null if there is nothing to say.
    pub detail: Option<Cow<'static, str>>,
    /// How often it happened since it was last told; refusals are summed up, all others are told
    /// one by one.
    pub count: u64,
}

/// What a listener wants to hear.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only these kinds; none: every kind but `steer`.
    pub kinds: Option<Vec<Kind>>,
    /// Only what concerns this service, or a backend and no service in particular: whose backend
    /// that is, the listener has to find out.
    pub service: Option<ServiceName>,
}

impl Filter {
    fn wants(&self, kind: Kind) -> bool {
        match &self.kinds {
            Some(kinds) => kinds.contains(&kind),
            None => kind != Kind::Steer,
        }
    }

    /// `service` is the one of this filter as events have it.
    fn lets_through(&self, event: &Event, service: Option<&str>) -> bool {
        let concerns = match (service, event.service.as_deref()) {
            (None, _) => true,
            (Some(wanted), Some(concerned)) => wanted == concerned,
            (Some(_), None) => event.backend.is_some(),
        };
        concerns && self.wants(event.kind)
    }
}

/// As many listen as may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_LISTENERS} listen already, and no more may")]
pub struct Crowded;

/// The journal; clones are the same.
#[derive(Clone, Debug)]
pub struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    told: broadcast::Sender<Arc<Event>>,
    /// Apart, so that their flood makes nobody miss the others.
    steered: broadcast::Sender<Arc<Event>>,
    places: Arc<Semaphore>,
    last_id: AtomicU64,
    counts: [AtomicU64; Kind::ALL.len()],
    failovers: Failovers,
}

impl Default for Journal {
    fn default() -> Self {
        Self(Arc::new(Inner {
            told: broadcast::Sender::new(BACKLOG),
            steered: broadcast::Sender::new(BACKLOG),
            places: Arc::new(Semaphore::new(MAX_LISTENERS)),
            last_id: AtomicU64::new(0),
            counts: Default::default(),
            failovers: Failovers::default(),
        }))
    }
}

impl Journal {
    /// Tells that something happened. Costs next to nothing while nobody listens.
    pub fn publish(&self, happening: Happening) {
        self.0.counts[happening.kind as usize].fetch_add(happening.count, Relaxed);
        if !self.is_watched() {
            return;
        }
        self.tell(happening);
    }

    /// Tells what the programs report.
    pub fn programs_told(
        &self,
        kind: EventKind,
        event: &KernelEvent,
        service: Option<ServiceName>,
        backend: Option<SocketAddr>,
    ) {
        match kind {
            // Without a leader before it is no failover.
            EventKind::Elected if event.steered_at_ns == 0 => {}
            EventKind::Elected => self.elected(service, backend),
            EventKind::FailedOver => {
                let after = event.at_ns.saturating_sub(event.steered_at_ns);
                self.failed_over(service, backend, Duration::from_nanos(after));
            }
            _ => self.reported(kind, service, backend),
        }
    }

    /// Tells what the programs report about a backend of a service.
    pub fn reported(
        &self,
        kind: EventKind,
        service: Option<ServiceName>,
        backend: Option<SocketAddr>,
    ) {
        let (kind, reason) = match kind {
            EventKind::Ejected => (Kind::Ejection, Some("connect-failures")),
            EventKind::TrialFailed => (Kind::Ejection, Some("trial-failed")),
            EventKind::Readmitted => (Kind::Readmission, Some("trial-succeeded")),
            EventKind::Steered => (Kind::Steer, None),
            // The queues' own business; and what has methods of its own.
            EventKind::SlotFreed
            | EventKind::ClientGone
            | EventKind::Elected
            | EventKind::FailedOver => return,
        };
        self.publish(Happening {
            service,
            backend,
            reason,
            ..Happening::new(kind)
        });
    }

    /// Tells that a backend was elected to lead a service.
    pub fn elected(&self, service: Option<ServiceName>, backend: Option<SocketAddr>) {
        self.publish(Happening {
            service,
            backend,
            ..Happening::new(Kind::Failover).reason("elected")
        });
    }

    /// Tells, and counts, that the first connection to a service's new leader stands, so long after
    /// the one before it was lost.
    pub fn failed_over(
        &self,
        service: Option<ServiceName>,
        backend: Option<SocketAddr>,
        after: Duration,
    ) {
        if let Some(service) = &service {
            self.0.failovers.count(service, after, Instant::now());
        }
        let detail = format!("after {:.1} ms", after.as_secs_f64() * 1e3);
        self.publish(Happening {
            service,
            backend,
            ..Happening::new(Kind::Failover)
                .reason("serving")
                .detail(detail)
        });
    }

    /// How often leaders were replaced, and how long that took.
    pub fn failovers(&self) -> &Failovers {
        &self.0.failovers
    }

    /// Tells that probes changed their mind about a backend.
    pub fn health(&self, backend: SocketAddr, is_unhealthy: bool) {
        let word = if is_unhealthy { "unhealthy" } else { "healthy" };
        self.publish(Happening::new(Kind::Health).backend(backend).reason(word));
    }

    /// Whether anyone listens: what is dear to find out may be left out otherwise.
    pub fn is_watched(&self) -> bool {
        self.0.places.available_permits() < MAX_LISTENERS
    }

    /// Whether anyone listens to steering decisions.
    pub fn wants_steer(&self) -> bool {
        self.is_watched() && self.0.steered.receiver_count() > 0
    }

    /// How often something of this kind was published.
    pub fn count(&self, kind: Kind) -> u64 {
        self.0.counts[kind as usize].load(Relaxed)
    }

    /// Listens from now on.
    ///
    /// # Errors
    /// If [`MAX_LISTENERS`] do already.
    pub fn subscribe(&self, filter: Filter) -> Result<Listener, Crowded> {
        let place = self.0.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Crowded)?;
        let steered = filter
            .wants(Kind::Steer)
            .then(|| self.0.steered.subscribe());
        Ok(Listener {
            _journal: self.clone(),
            told: self.0.told.subscribe(),
            steered,
            service: filter.service.as_ref().map(ToString::to_string),
            filter,
            _place: place,
        })
    }

    fn tell(&self, happening: Happening) {
        let channel = match happening.kind {
            Kind::Steer => &self.0.steered,
            _ => &self.0.told,
        };
        let event = Event {
            id: self.0.last_id.fetch_add(1, Relaxed) + 1,
            at: seconds_since_1970(),
            kind: happening.kind,
            service: happening.service.as_ref().map(ToString::to_string),
            backend: happening.backend,
            client: happening.client,
            reason: happening.reason.map(Cow::Borrowed),
            detail: happening.detail,
            count: happening.count,
        };
        // Fails only if the last listener has just gone.
        let _ = channel.send(Arc::new(event));
    }
}

/// Someone who listens. Dropping it ends that.
#[derive(Debug)]
pub struct Listener {
    /// Keeps the senders alive.
    _journal: Journal,
    filter: Filter,
    /// The filter's service as events have it.
    service: Option<String>,
    told: broadcast::Receiver<Arc<Event>>,
    steered: Option<broadcast::Receiver<Arc<Event>>>,
    _place: OwnedSemaphorePermit,
}

/// What a listener hears.
#[derive(Clone, Debug, PartialEq)]
pub enum Heard {
    /// Something happened.
    Event(Arc<Event>),
    /// The listener was too slow and missed so many events, of any kind.
    Missed(u64),
}

impl Listener {
    /// The next thing that it wants to hear. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Heard {
        loop {
            let received = tokio::select! {
                received = self.told.recv() => received,
                received = next_of(&mut self.steered) => received,
            };
            match received {
                Ok(event) if self.filter.lets_through(&event, self.service.as_deref()) => {
                    return Heard::Event(event);
                }
                Err(RecvError::Lagged(missed)) => return Heard::Missed(missed),
                // The journal, and with it each sender, lives as long as the listener.
                Ok(_) | Err(RecvError::Closed) => {}
            }
        }
    }
}

async fn next_of(
    receiver: &mut Option<broadcast::Receiver<Arc<Event>>>,
) -> Result<Arc<Event>, RecvError> {
    match receiver {
        Some(receiver) => receiver.recv().await,
        None => std::future::pending().await,
    }
}

fn seconds_since_1970() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_millis() as f64 / 1e3
}

#[cfg(test)]
mod tests;

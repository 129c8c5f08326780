//! What became of each service's connections and requests: the programs' counts and the agent's,
//! put together.
//!
//! Owns the words for refusals, whoever refused. Every call reads anew. Used by `queues`, `stats`
//! and by `metrics`, which thereby always say the same.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use balancer_common::{service::Tables, waiting};

use super::{Context, Counts};
use crate::{
    kernel::KernelError,
    model::{QueueTimeout, Service, ServiceName},
    occupancy::Names,
    overflow::{Figures, Queue, Reason},
};

/// The word for a refusal by the programs because the agent was gone. All others are words of
/// [`Reason`].
pub(crate) const AGENT_GONE: &str = "agent-gone";

/// Every word for a refusal.
pub(crate) const REASONS: [&str; 7] = [
    AGENT_GONE,
    Reason::BreakerOpen.as_str(),
    Reason::NoBackends.as_str(),
    Reason::QueueFull.as_str(),
    Reason::QueueTimeout.as_str(),
    Reason::RateLimited.as_str(),
    Reason::RetriesExhausted.as_str(),
];

/// Refusals by reason, all of [`REASONS`] among them.
pub(crate) type Refused = BTreeMap<String, u64>;

/// Finds what there is to know about services.
pub(crate) struct Tallies<'a> {
    context: &'a Context,
    ids: HashMap<&'a ServiceName, u32>,
    queues: HashMap<u32, Arc<Queue>>,
}

/// What became of what came to one service.
pub(crate) struct Tally {
    /// What the programs counted; zeros for a service that is not in the kernel yet.
    pub(crate) counts: Counts,
    /// Those on their way to the agent and those in its queue.
    pub(crate) waiters: u32,
    /// Its queue; none before the first comes to the agent.
    pub(crate) queue: Option<Arc<Queue>>,
}

impl<'a> Tallies<'a> {
    /// Those of the services that have these names.
    pub(crate) fn new(context: &'a Context, names: &'a Names) -> Self {
        let by_name = names.by_name().into_iter();
        let queues = context.queues.all().into_iter();
        Self {
            context,
            ids: by_name.map(|(id, named)| (&named.name, id)).collect(),
            queues: queues.map(|queue| (queue.service(), queue)).collect(),
        }
    }

    /// That of a service.
    pub(crate) fn of(&self, name: &ServiceName) -> Result<Tally, KernelError> {
        let Some(&id) = self.ids.get(name) else {
            return Ok(Tally {
                counts: Counts::default(),
                waiters: 0,
                queue: None,
            });
        };
        let kernel = &self.context.kernel;
        let record = kernel.memory().service(id);
        // The queue of a service that had the id before is about to go.
        let queue = self.queues.get(&id);
        let queue = queue.filter(|queue| queue.view().name == *name);
        Ok(Tally {
            counts: kernel.counters(id)?.into(),
            waiters: record.map_or(0, |record| waiting::count(&record.waiting) as u32),
            queue: queue.cloned(),
        })
    }
}

impl Tally {
    fn figure(&self, read: impl FnOnce(&Figures) -> u64) -> u64 {
        self.queue.as_ref().map_or(0, |queue| read(queue.figures()))
    }

    /// Connections and requests that came to the agent.
    pub(crate) fn accepted(&self) -> u64 {
        self.figure(Figures::accepted)
    }

    /// Those that had to wait.
    pub(crate) fn queued(&self) -> u64 {
        self.figure(Figures::queued)
    }

    /// Attempts at upstream connections after the first.
    pub(crate) fn retried(&self) -> u64 {
        self.figure(Figures::retried)
    }

    /// Connections that were decided on in the kernel, and requests and connections that were,
    /// or are to be, in the agent.
    pub(crate) fn requests(&self) -> u64 {
        self.counts.steered() + self.counts.refused + self.accepted()
    }

    /// Refusals by the programs and by the agent.
    pub(crate) fn refused(&self) -> Refused {
        let by_agent = Reason::ALL.map(|reason| {
            let by_programs = match reason {
                Reason::QueueFull => self.counts.queue_full,
                Reason::RateLimited => self.counts.rate_limited,
                Reason::NoBackends => self.counts.no_backends,
                Reason::QueueTimeout | Reason::RetriesExhausted | Reason::BreakerOpen => 0,
            };
            let refused = by_programs + self.figure(|figures| figures.refused(reason));
            (reason.as_str().to_owned(), refused)
        });
        let agent_gone = (AGENT_GONE.to_owned(), self.counts.agent_gone);
        by_agent.into_iter().chain([agent_gone]).collect()
    }

    /// How many may wait now.
    pub(crate) fn size(&self, service: &Service) -> u32 {
        let queue = self.queue.as_ref();
        queue.map_or(service.queue.size.value, |queue| queue.size())
    }

    /// How long one waits at most, in milliseconds; none if that follows the service time and
    /// nobody has come yet.
    pub(crate) fn timeout_ms(&self, service: &Service) -> Option<u64> {
        let timeout = match (&self.queue, service.queue.timeout.value) {
            (Some(queue), _) => queue.timeout(),
            (None, QueueTimeout::Fixed(timeout)) => timeout,
            (None, QueueTimeout::Auto) => return None,
        };
        Some(timeout.as_millis() as u64)
    }

    /// How long slots of the service are held on average, in milliseconds: lately, if the agent
    /// knows; or else since the service came into the kernel.
    pub(crate) fn mean_service_time_ms(&self) -> Option<f64> {
        let lately = self.queue.as_ref();
        let lately = lately.and_then(|queue| queue.figures().times().mean_service_time);
        let since_start = || {
            let Counts {
                released, held_ms, ..
            } = self.counts;
            (released != 0).then(|| held_ms as f64 / released as f64)
        };
        lately
            .map(|mean| mean.as_secs_f64() * 1e3)
            .or_else(since_start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_refusals_are_told_by_the_agents_words() {
        let tally = Tally {
            counts: Counts {
                idle: 5,
                sent: 3,
                refused: 10,
                rate_limited: 1,
                queue_full: 2,
                agent_gone: 3,
                no_backends: 4,
                released: 4,
                held_ms: 10,
                ..Counts::default()
            },
            waiters: 0,
            queue: None,
        };
        let refused = tally.refused();
        let words: Vec<_> = refused.keys().map(String::as_str).collect();
        assert_eq!(words, REASONS);
        for (reason, count) in [
            ("rate-limited", 1),
            ("queue-full", 2),
            ("agent-gone", 3),
            ("no-backends", 4),
            ("queue-timeout", 0),
        ] {
            assert_eq!(refused[reason], count, "{reason}");
        }
        assert_eq!(refused.values().sum::<u64>(), tally.counts.refused);
        // What was sent to the agent is counted there.
        assert_eq!(tally.requests(), 15);
        assert_eq!(tally.mean_service_time_ms(), Some(2.5));
    }

    #[test]
    fn a_service_nobody_came_to_has_the_queue_of_its_settings() {
        let tally = Tally {
            counts: Counts::default(),
            waiters: 0,
            queue: None,
        };
        let mut service = Service::named("hello".parse().unwrap());
        service.queue.size.value = 7;
        assert_eq!(tally.size(&service), 7);
        assert_eq!(tally.timeout_ms(&service), Some(100));
        service.queue.timeout.value = QueueTimeout::Auto;
        assert_eq!(tally.timeout_ms(&service), None);
        assert_eq!(tally.mean_service_time_ms(), None);
    }
}

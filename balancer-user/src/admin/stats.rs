//! `/v1/stats`: what became of requests, and how long it took, per service and in all. Computed at
//! most once a second, since it looks at every service and every histogram.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Context, Problem,
    problem::Refusal,
    selection::{DecisionTimes, Selections},
    tally::{Refused, Tallies, Tally},
};
use crate::{
    cache::{CacheFigures, TtlCache},
    kernel::KernelError,
    model::DesiredState,
    occupancy::Names,
    overflow::{Durations, TimesSnapshot},
};

/// How long an answer is given again.
const TTL: Duration = Duration::from_secs(1);

/// `/v1/stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Services for which anyone waits.
    pub active_queues: u64,
    /// All services together.
    pub total: ServiceFigures,
    /// Each service, by namespace and name.
    pub services: Vec<ServiceStats>,
}

/// What became of a service's requests.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceStats {
    /// Its namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub name: String,
    /// What became of them.
    #[serde(flatten)]
    pub figures: ServiceFigures,
}

/// What became of requests. A connection counts as one, unless its service's `admission` is
/// `request`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ServiceFigures {
    /// Those that came.
    pub requests: u64,
    /// Those for which a backend was selected, in the kernel or by the agent.
    pub successful_selections: u64,
    /// Those that had to wait for it.
    pub queued: u64,
    /// Attempts at upstream connections after the first.
    pub retried: u64,
    /// Refusals by reason, as in `/v1/queues`.
    pub refused: Refused,
    /// From arrival to the selection of a backend, in milliseconds.
    pub selection_ms: Spread,
    /// In the queue, of those that had to wait, in milliseconds.
    pub queue_ms: Spread,
    /// Those who wait now.
    pub waiters: u64,
    /// How long a slot is held on average, in milliseconds; null if none was given back yet.
    pub mean_service_time_ms: Option<f64>,
}

/// How a duration is distributed: null if there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Spread {
    /// The average.
    pub average: Option<f64>,
    /// What 95 % do not exceed.
    pub p95: Option<f64>,
    /// What 99 % do not exceed.
    pub p99: Option<f64>,
}

/// The newest answer; clones are the same.
#[derive(Clone, Debug)]
pub struct StatsCache(Arc<Mutex<TtlCache<(), Arc<Stats>>>>);

impl Default for StatsCache {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(TtlCache::new(TTL, 1))))
    }
}

impl StatsCache {
    /// The answer, computed if the last one is too old. Of all who ask at once, one computes it.
    fn get_or<E>(&self, compute: impl FnOnce() -> Result<Stats, E>) -> Result<Arc<Stats>, E> {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stats) = cache.get(&()) {
            return Ok(stats);
        }
        let stats = Arc::new(compute()?);
        cache.insert((), stats.clone());
        Ok(stats)
    }

    /// How often the last answer was given again.
    pub fn figures(&self) -> CacheFigures {
        let cache = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        cache.figures()
    }
}

/// What became of requests, and how long it took. Computed at most once a second.
#[utoipa::path(
    get, path = "/v1/stats", operation_id = "get_stats", tag = "services",
    responses(
        (status = 200, description = "The figures", body = Stats),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn stats(State(context): State<Context>) -> Result<Response, Refusal> {
    let stats = context.read(|context, snapshot| {
        let compute = || compute(context, &snapshot.desired);
        context.stats.get_or(compute)
    });
    Ok(Json(&*stats.await??).into_response())
}

fn compute(context: &Context, desired: &DesiredState) -> Result<Stats, KernelError> {
    let names = Names::of(&context.progress.assignment());
    let tallies = Tallies::new(context, &names);
    let decisions = DecisionTimes::new(&context.kernel.decision_time()?);
    let mut sum = Sum::default();
    let mut services = Vec::with_capacity(desired.services.len());
    for name in desired.services.keys() {
        let tally = tallies.of(name)?;
        let times = tally.queue.as_ref().map(|queue| queue.figures().times());
        let figures = figures(&tally, times.as_ref(), &decisions);
        sum.add(&tally, times, &figures);
        services.push(ServiceStats {
            namespace: name.namespace.to_string(),
            name: name.name.to_string(),
            figures,
        });
    }
    Ok(Stats {
        active_queues: sum.active_queues,
        total: sum.total(&decisions),
        services,
    })
}

fn figures(
    tally: &Tally,
    times: Option<&TimesSnapshot>,
    decisions: &DecisionTimes,
) -> ServiceFigures {
    let selected = times.map(|times| &times.selection_ok);
    let selections = Selections {
        by_programs: tally.counts.steered(),
        decisions,
        by_agent: selected,
    };
    ServiceFigures {
        requests: tally.requests(),
        successful_selections: selections.count(),
        queued: tally.queued(),
        retried: tally.retried(),
        refused: tally.refused(),
        selection_ms: selection_ms(&selections),
        queue_ms: queue_ms(times.map(|times| &times.waiting)),
        waiters: u64::from(tally.waiters),
        mean_service_time_ms: tally.mean_service_time_ms(),
    }
}

fn selection_ms(selections: &Selections<'_>) -> Spread {
    let ms = |seconds: f64| seconds * 1e3;
    Spread {
        average: selections.mean_seconds().map(ms),
        p95: selections.quantile_seconds(0.95).map(ms),
        p99: selections.quantile_seconds(0.99).map(ms),
    }
}

fn queue_ms(waiting: Option<&Durations>) -> Spread {
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let quantile = |share| waiting.and_then(|waiting| waiting.quantile(share)).map(ms);
    Spread {
        average: waiting.and_then(Durations::mean).map(ms),
        p95: quantile(0.95),
        p99: quantile(0.99),
    }
}

/// All services, so far.
#[derive(Default)]
struct Sum {
    active_queues: u64,
    by_programs: u64,
    figures: ServiceFigures,
    selected: Option<Durations>,
    waiting: Option<Durations>,
    /// Services' mean service times, each times its selections; and those selections.
    service_time_ms: (f64, u64),
}

impl Sum {
    fn add(&mut self, tally: &Tally, times: Option<TimesSnapshot>, one: &ServiceFigures) {
        let all = &mut self.figures;
        all.requests += one.requests;
        all.successful_selections += one.successful_selections;
        all.queued += one.queued;
        all.retried += one.retried;
        all.waiters += one.waiters;
        for (reason, count) in &one.refused {
            *all.refused.entry(reason.clone()).or_default() += count;
        }
        self.active_queues += u64::from(one.waiters > 0);
        self.by_programs += tally.counts.steered();
        if let Some(times) = times {
            merge(&mut self.selected, times.selection_ok);
            merge(&mut self.waiting, times.waiting);
        }
        if let Some(mean) = one.mean_service_time_ms {
            self.service_time_ms.0 += mean * one.successful_selections as f64;
            self.service_time_ms.1 += one.successful_selections;
        }
    }

    fn total(self, decisions: &DecisionTimes) -> ServiceFigures {
        let selections = Selections {
            by_programs: self.by_programs,
            decisions,
            by_agent: self.selected.as_ref(),
        };
        let (weighted_ms, weight) = self.service_time_ms;
        ServiceFigures {
            selection_ms: selection_ms(&selections),
            queue_ms: queue_ms(self.waiting.as_ref()),
            mean_service_time_ms: (weight != 0).then(|| weighted_ms / weight as f64),
            ..self.figures
        }
    }
}

fn merge(all: &mut Option<Durations>, one: Durations) {
    match all {
        Some(all) => all.merge(&one),
        None => *all = Some(one),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_computed_once_and_given_again() {
        let cache = StatsCache::default();
        let computed = std::cell::Cell::new(0);
        let ask = || {
            let answer = cache.get_or(|| {
                computed.set(computed.get() + 1);
                Ok::<_, ()>(Stats::default())
            });
            assert_eq!(*answer.unwrap(), Stats::default());
        };
        ask();
        ask();
        ask();
        assert_eq!(computed.get(), 1);
        let figures = cache.figures();
        assert_eq!((figures.hit_count, figures.miss_count), (2, 1));
        let failed = StatsCache::default().get_or(|| Err("unreadable"));
        assert_eq!(failed.unwrap_err(), "unreadable");
    }

    #[test]
    fn waiting_is_told_in_milliseconds_and_nothing_by_null() {
        let waited: Durations = (1..=100).map(Duration::from_millis).collect();
        let shown = queue_ms(Some(&waited));
        assert!((shown.average.unwrap() - 50.5).abs() < 1.0, "{shown:?}");
        assert!((shown.p95.unwrap() - 95.0).abs() < 2.0, "{shown:?}");
        assert!((shown.p99.unwrap() - 99.0).abs() < 2.0, "{shown:?}");
        let none = serde_json::to_value(queue_ms(None)).unwrap();
        let expected = serde_json::json!({"average": null, "p95": null, "p99": null});
        assert_eq!(none, expected);
    }
}

//! What became of each service's requests, and how long it took: the programs' counts and the
//! agent's.

use super::{definition as metric, family::Family};
use crate::admin::{DecisionTimes, Selections, Tally};
use crate::model::ServiceName;

/// A service as its metrics show it.
pub(super) struct Requests<'a> {
    pub(super) name: &'a ServiceName,
    pub(super) tally: &'a Tally,
    pub(super) queue_size: u32,
}

/// The families, in the order of the definitions.
pub(super) struct Families {
    queue_depth: Family,
    pod_selection: Family,
    requests: Family,
    selections: Family,
    queued: Family,
    retries: Family,
    refusals: Family,
    waiters: Family,
    queue_size: Family,
    selection_time: Family,
    queue_time: Family,
}

impl Families {
    /// Of all of these.
    pub(super) fn of<'a>(
        services: impl Iterator<Item = Requests<'a>>,
        decisions: &DecisionTimes,
    ) -> Self {
        let mut families = Self {
            queue_depth: Family::new(metric::QUEUE_DEPTH),
            pod_selection: Family::new(metric::POD_SELECTION),
            requests: Family::new(metric::REQUESTS),
            selections: Family::new(metric::SELECTIONS),
            queued: Family::new(metric::QUEUED),
            retries: Family::new(metric::RETRIES),
            refusals: Family::new(metric::REFUSALS),
            waiters: Family::new(metric::WAITERS),
            queue_size: Family::new(metric::QUEUE_SIZE),
            selection_time: Family::new(metric::SELECTION_TIME),
            queue_time: Family::new(metric::QUEUE_TIME),
        };
        for service in services {
            families.counts(&service);
            families.times(&service, decisions);
        }
        families
    }

    /// Those that dashboards for OpenFaaS query.
    pub(super) fn split(self) -> ([Family; 2], [Family; 9]) {
        let openfaas = [self.queue_depth, self.pod_selection];
        let own = [
            self.requests,
            self.selections,
            self.queued,
            self.retries,
            self.refusals,
            self.waiters,
            self.queue_size,
            self.selection_time,
            self.queue_time,
        ];
        (openfaas, own)
    }

    fn counts(&mut self, service: &Requests<'_>) {
        let ServiceName { namespace, name } = service.name;
        let (labels, tally) = ([namespace.as_ref(), name.as_ref()], service.tally);
        let waiters = f64::from(tally.waiters);
        self.queue_depth.push(&[name, namespace], waiters);
        self.waiters.push(&labels, waiters);
        self.queue_size.push(&labels, f64::from(service.queue_size));
        self.requests.push(&labels, tally.requests() as f64);
        self.queued.push(&labels, tally.queued() as f64);
        self.retries.push(&labels, tally.retried() as f64);
        for (reason, count) in tally.refused() {
            self.refusals
                .push(&[namespace, name, &reason], count as f64);
        }
    }

    fn times(&mut self, service: &Requests<'_>, decisions: &DecisionTimes) {
        let ServiceName { namespace, name } = service.name;
        let (labels, counts) = ([namespace.as_ref(), name.as_ref()], service.tally.counts);
        let queue = service.tally.queue.as_ref();
        let times = queue.map(|queue| queue.figures().times());
        let selections = |by_programs, by_agent| Selections {
            by_programs,
            decisions,
            by_agent,
        };
        let selected = selections(
            counts.steered(),
            times.as_ref().map(|times| &times.selection_ok),
        );
        let failed = selections(
            counts.refused,
            times.as_ref().map(|times| &times.selection_failed),
        );
        for (result, selections) in [("success", &selected), ("failure", &failed)] {
            self.pod_selection.push_histogram(
                &[name, namespace, result],
                &selections.up_to_each(prometheus::DEFAULT_BUCKETS),
                selections.count(),
                selections.sum_seconds(),
            );
        }
        self.selections.push(&labels, selected.count() as f64);
        let quantiles = [0.95, 0.99].map(|share| Some((share, selected.quantile_seconds(share)?)));
        self.selection_time.push_summary(
            &labels,
            &quantiles.into_iter().flatten().collect::<Vec<_>>(),
            selected.count(),
            selected.sum_seconds(),
        );
        if let Some(times) = &times {
            let waiting = &times.waiting;
            let quantiles =
                [0.95, 0.99].map(|share| Some((share, waiting.quantile(share)?.as_secs_f64())));
            self.queue_time.push_summary(
                &labels,
                &quantiles.into_iter().flatten().collect::<Vec<_>>(),
                waiting.count(),
                waiting.sum().as_secs_f64(),
            );
        }
    }
}

//! What probing has done, for metrics and `/cache-metrics`.
//!
//! Owns the counts and the histogram of durations, whose labels are bounded. Written by
//! `schedule`; read by `metrics` and `admin` through [`Figures`].

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use prometheus::{HistogramOpts, HistogramVec, core::Collector, proto::MetricFamily};

use super::{Results, pool::Pool, pool::PoolFigures};
use crate::cache::CacheFigures;

/// Name of the histogram of durations, which dashboards query.
pub const DURATION_NAME: &str = "openfaas_health_check_duration_seconds";
/// What it says.
pub const DURATION_HELP: &str = "How long health probes took, by pod address and result.";
/// Its labels, in order.
pub const DURATION_LABELS: [&str; 2] = ["pod_ip", "result"];
/// Upper bounds of its buckets, in seconds.
pub const DURATION_BUCKETS: [f64; 9] = [0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
/// Pod addresses that are shown one by one; further ones are shown together, as [`OTHER`].
pub const MAX_POD_IPS: usize = 1000;
/// The `pod_ip` of those that are shown together.
pub const OTHER: &str = "other";

/// A way to the figures; clones show the same.
#[derive(Debug, Clone)]
pub struct Figures {
    pub(super) counts: Arc<Counts>,
    pub(super) results: Arc<Results>,
    pub(super) pool: Arc<Pool>,
}

impl Figures {
    /// Probes that found their backend alive.
    pub fn successes(&self) -> u64 {
        self.counts.successes.load(Relaxed)
    }

    /// Probes that did not.
    pub fn failures(&self) -> u64 {
        self.counts.failures.load(Relaxed)
    }

    /// Probes that could not be made for want of a socket, or of a path that can be asked for.
    /// They say nothing about a backend.
    pub fn faults(&self) -> u64 {
        self.counts.faults.load(Relaxed)
    }

    /// The cache of results.
    pub fn cache(&self) -> CacheFigures {
        self.results.figures()
    }

    /// The pool of connections.
    pub fn pool(&self) -> PoolFigures {
        self.pool.figures()
    }

    /// The histogram [`DURATION_NAME`]; empty before the first probe.
    pub fn durations(&self) -> Vec<MetricFamily> {
        let families = self.counts.durations.vec.collect().into_iter();
        families
            .filter(|family| !family.get_metric().is_empty())
            .collect()
    }
}

/// The counts behind [`Figures`].
#[derive(Debug)]
pub(super) struct Counts {
    successes: AtomicU64,
    failures: AtomicU64,
    pub(super) faults: AtomicU64,
    durations: Arc<Durations>,
}

impl Counts {
    pub(super) fn new() -> Self {
        Self {
            successes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            faults: AtomicU64::new(0),
            durations: Arc::new(Durations::new()),
        }
    }

    pub(super) fn count(&self, label: &PodLabel, success: bool, took: Duration) {
        let count = if success {
            &self.successes
        } else {
            &self.failures
        };
        count.fetch_add(1, Relaxed);
        let shown = label.0.as_ref().map(|shown| shown.pod_ip.to_string());
        let labels = [shown.as_deref().unwrap_or(OTHER), result(success)];
        let histogram = self.durations.vec.with_label_values(&labels);
        histogram.observe(took.as_secs_f64());
    }

    /// The label of a backend, for as long as it is kept.
    pub(super) fn label(&self, address: SocketAddr) -> PodLabel {
        PodLabel(Shown::of(address.ip(), &self.durations))
    }
}

const fn result(success: bool) -> &'static str {
    if success { "success" } else { "failure" }
}

#[derive(Debug)]
struct Durations {
    vec: HistogramVec,
    /// At most [`MAX_POD_IPS`].
    shown: Mutex<HashMap<IpAddr, Weak<Shown>>>,
}

impl Durations {
    fn new() -> Self {
        let options =
            HistogramOpts::new(DURATION_NAME, DURATION_HELP).buckets(DURATION_BUCKETS.to_vec());
        Self {
            vec: HistogramVec::new(options, &DURATION_LABELS)
                .expect("a valid name and rising bounds"),
            shown: Mutex::default(),
        }
    }

    /// Nothing in here is half changed if a holder panics.
    fn shown(&self) -> MutexGuard<'_, HashMap<IpAddr, Weak<Shown>>> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A backend's place among the labels: that of its pod, or [`OTHER`].
#[derive(Debug)]
pub(super) struct PodLabel(Option<Arc<Shown>>);

/// A pod that has labels of its own. They go with its last backend.
#[derive(Debug)]
struct Shown {
    pod_ip: IpAddr,
    durations: Arc<Durations>,
}

impl Shown {
    /// None if there are enough already.
    fn of(pod_ip: IpAddr, durations: &Arc<Durations>) -> Option<Arc<Self>> {
        let mut all = durations.shown();
        if let Some(shown) = all.get(&pod_ip).and_then(Weak::upgrade) {
            return Some(shown);
        }
        if all.len() >= MAX_POD_IPS {
            return None;
        }
        let durations = durations.clone();
        let shown = Arc::new(Self { pod_ip, durations });
        all.insert(pod_ip, Arc::downgrade(&shown));
        Some(shown)
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        let mut all = self.durations.shown();
        // Another may have come in its place since the last backend went.
        if all
            .get(&self.pod_ip)
            .is_none_or(|shown| shown.strong_count() > 0)
        {
            return;
        }
        all.remove(&self.pod_ip);
        let pod_ip = self.pod_ip.to_string();
        for success in [true, false] {
            // It is absent if no probe ended that way.
            let _ = self
                .durations
                .vec
                .remove_label_values(&[&pod_ip, result(success)]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every set of labels with its number of observations.
    fn shown(counts: &Counts) -> Vec<(String, String, u64)> {
        let families = counts.durations.vec.collect();
        let mut shown = Vec::new();
        for metric in families[0].get_metric() {
            let label = |index: usize| metric.get_label()[index].value().to_owned();
            shown.push((
                label(0),
                label(1),
                metric.get_histogram().get_sample_count(),
            ));
        }
        shown.sort();
        shown
    }

    #[test]
    fn labels_go_with_the_last_backend_of_a_pod() {
        let counts = Counts::new();
        let [one, two] = ["10.1.0.2:80", "10.1.0.2:81"].map(|it| counts.label(it.parse().unwrap()));
        counts.count(&one, true, Duration::from_millis(3));
        counts.count(&two, true, Duration::from_millis(700));
        counts.count(&two, false, Duration::from_secs(3));
        let pod_ip = || "10.1.0.2".to_owned();
        let expected = [
            (pod_ip(), "failure".to_owned(), 1),
            (pod_ip(), "success".to_owned(), 2),
        ];
        assert_eq!(shown(&counts), expected);
        drop(one);
        assert_eq!(shown(&counts), expected);
        drop(two);
        assert_eq!(shown(&counts), []);
        assert_eq!(counts.successes.load(Relaxed), 2);
        assert_eq!(counts.failures.load(Relaxed), 1);
    }

    #[test]
    fn labels_are_bounded() {
        let counts = Counts::new();
        let label = |index: u32| counts.label((IpAddr::from(index.to_be_bytes()), 80).into());
        let labels: Vec<_> = (0..MAX_POD_IPS as u32 + 10).map(label).collect();
        for label in &labels {
            counts.count(label, true, Duration::ZERO);
        }
        let all = shown(&counts);
        assert_eq!(all.len(), MAX_POD_IPS + 1);
        assert!(all.contains(&(OTHER.to_owned(), "success".to_owned(), 10)));
        drop(labels);
        assert_eq!(shown(&counts).len(), 1);
        assert!(counts.durations.shown().is_empty());
    }
}

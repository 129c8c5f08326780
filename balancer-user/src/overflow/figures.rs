//! What happened in one queue: counts, and how long selection and waiting took.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use hdrhistogram::Histogram;

use super::Reason;

/// The automatic waiting time: so many times the mean service time, within these bounds.
const AUTOMATIC_FACTOR: u32 = 2;
const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(10);
/// And while nothing is measured.
const UNMEASURED: Duration = Duration::from_millis(100);

/// Weight of a new second's mean service time against those before it.
const NEWEST: f64 = 0.3;

/// Counts since the queue was made. All of them only grow.
#[derive(Debug, Default)]
pub struct Figures {
    accepted: AtomicU64,
    queued: AtomicU64,
    retried: AtomicU64,
    refused: [AtomicU64; Reason::ALL.len()],
    times: Mutex<Times>,
}

#[derive(Debug)]
struct Times {
    selection_ok: Durations,
    selection_failed: Durations,
    waiting: Durations,
    served: u64,
    served_for: Duration,
    mean_service_time: Option<Duration>,
}

/// A distribution of durations, in microseconds, with two significant figures.
#[derive(Clone, Debug)]
pub struct Durations {
    histogram: Histogram<u64>,
    sum: Duration,
}

/// A copy of the times of one queue.
#[derive(Clone, Debug)]
pub struct TimesSnapshot {
    /// From arrival to a slot.
    pub selection_ok: Durations,
    /// From arrival to a refusal.
    pub selection_failed: Durations,
    /// In the queue, of those that did queue, whatever became of them.
    pub waiting: Durations,
    /// How long slots were held lately, on average.
    pub mean_service_time: Option<Duration>,
}

impl Figures {
    /// Connections (or requests) that came to the agent.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }

    /// Those that had to wait.
    pub fn queued(&self) -> u64 {
        self.queued.load(Relaxed)
    }

    /// Upstream connections that were tried again.
    pub fn retried(&self) -> u64 {
        self.retried.load(Relaxed)
    }

    /// Those that were refused for this reason.
    pub fn refused(&self, reason: Reason) -> u64 {
        self.refused[reason as usize].load(Relaxed)
    }

    /// How long things took.
    pub fn times(&self) -> TimesSnapshot {
        let times = self.locked();
        TimesSnapshot {
            selection_ok: times.selection_ok.clone(),
            selection_failed: times.selection_failed.clone(),
            waiting: times.waiting.clone(),
            mean_service_time: times.mean_service_time,
        }
    }

    pub(super) fn count_accepted(&self) {
        self.accepted.fetch_add(1, Relaxed);
    }

    pub(super) fn count_retried(&self) {
        self.retried.fetch_add(1, Relaxed);
    }

    pub(super) fn count_refused(&self, reason: Reason, after: Duration) {
        self.refused[reason as usize].fetch_add(1, Relaxed);
        self.locked().selection_failed.add(after);
    }

    pub(super) fn count_selected(&self, after: Duration) {
        self.locked().selection_ok.add(after);
    }

    pub(super) fn count_queued(&self) {
        self.queued.fetch_add(1, Relaxed);
    }

    pub(super) fn count_waited(&self, time: Duration) {
        self.locked().waiting.add(time);
    }

    pub(super) fn count_served(&self, time: Duration) {
        let mut times = self.locked();
        times.served += 1;
        times.served_for += time;
    }

    /// Takes a second's service times into the mean: the agent's own, and those that the programs
    /// counted (how many slots were given back, and for how long they had been held).
    pub(super) fn settle_service_time(&self, kernel_served: u64, kernel_served_for: Duration) {
        let mut times = self.locked();
        let served = std::mem::take(&mut times.served) + kernel_served;
        let served_for = std::mem::take(&mut times.served_for) + kernel_served_for;
        if served == 0 {
            return;
        }
        let newest = served_for.div_f64(served as f64);
        times.mean_service_time = Some(match times.mean_service_time {
            Some(mean) => mean.mul_f64(1.0 - NEWEST) + newest.mul_f64(NEWEST),
            None => newest,
        });
    }

    pub(super) fn automatic_timeout(&self) -> Duration {
        match self.locked().mean_service_time {
            Some(mean) => (mean * AUTOMATIC_FACTOR).clamp(SHORTEST, LONGEST),
            None => UNMEASURED,
        }
    }

    fn locked(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            selection_ok: Durations::new(),
            selection_failed: Durations::new(),
            waiting: Durations::new(),
            served: 0,
            served_for: Duration::ZERO,
            mean_service_time: None,
        }
    }
}

impl FromIterator<Duration> for Durations {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut durations = Self::new();
        for time in times {
            durations.add(time);
        }
        durations
    }
}

impl Durations {
    fn new() -> Self {
        Self {
            histogram: Histogram::new(2).expect("two figures are allowed"),
            sum: Duration::ZERO,
        }
    }

    fn add(&mut self, time: Duration) {
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        // It grows as needed, so recording cannot fail.
        let _ = self.histogram.record(micros);
        self.sum += time;
    }

    /// How many.
    pub fn count(&self) -> u64 {
        self.histogram.len()
    }

    /// All of them together.
    pub fn sum(&self) -> Duration {
        self.sum
    }

    /// Their average; `None` if there are none.
    pub fn mean(&self) -> Option<Duration> {
        let count = u32::try_from(self.count()).unwrap_or(u32::MAX);
        (count != 0).then(|| self.sum / count)
    }

    /// The duration that this share of them (0 to 1) does not exceed; `None` if there are none.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        (self.count() != 0).then(|| Duration::from_micros(self.histogram.value_at_quantile(share)))
    }

    /// How many did not exceed `limit`.
    pub fn count_up_to(&self, limit: Duration) -> u64 {
        self.histogram
            .count_between(0, u64::try_from(limit.as_micros()).unwrap_or(u64::MAX))
    }

    /// Takes the others in.
    pub fn merge(&mut self, others: &Self) {
        // Both grow as needed, so adding cannot fail.
        let _ = self.histogram.add(&others.histogram);
        self.sum += others.sum;
    }
}

//! Looks at the services with strategy `adaptive`, and puts what the judge says in force.
//!
//! Owns the judges and what was counted at the last look. Reads counters and shared memory; changes
//! nothing by itself, but advises `reconcile`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use balancer_common::{
    atomic::load32,
    counter::{HELD_UNIT_BITS, ServiceCounter, ServiceCounters},
    response,
    service::{Backend, Tables},
};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

use super::{Judge, Measured, Verdict};
use crate::{
    kernel::Kernel,
    model::{DesiredState, Difference, ServiceName, Strategy},
    occupancy,
    reconcile::{Advice, Progress, UNLIMITED},
    state::Snapshot,
};

/// How often slots are counted.
const SAMPLE: Duration = Duration::from_secs(1);
/// Samples from one look to the next.
const SAMPLES_PER_LOOK: u32 = 5;
/// A response time that is older says nothing of how a backend is now.
const FRESH: Duration = Duration::from_secs(30);

/// The last verdict on each service, for whoever asks; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Verdicts(Arc<Mutex<BTreeMap<ServiceName, Verdict>>>);

impl Verdicts {
    /// The last one on a service, if it has strategy `adaptive`.
    pub fn of(&self, service: &ServiceName) -> Option<Verdict> {
        self.held().get(service).copied()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Verdict>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks at services until its task is dropped.
pub struct Watch {
    kernel: Arc<Kernel>,
    progress: Progress,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    advice: mpsc::UnboundedSender<Advice>,
    verdicts: Verdicts,
    /// Whose cases are open.
    followed: Arc<DesiredState>,
    cases: BTreeMap<ServiceName, Case>,
}

impl Watch {
    /// A watch over the services of the desired state.
    pub fn new(
        kernel: Arc<Kernel>,
        progress: Progress,
        snapshots: watch::Receiver<Arc<Snapshot>>,
        advice: mpsc::UnboundedSender<Advice>,
        verdicts: Verdicts,
    ) -> Self {
        Self {
            kernel,
            progress,
            snapshots,
            advice,
            verdicts,
            followed: Arc::default(),
            cases: BTreeMap::new(),
        }
    }

    /// Samples and looks.
    pub async fn run(mut self) {
        let mut samples = tokio::time::interval(SAMPLE);
        samples.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0u32;
        loop {
            samples.tick().await;
            number = number.wrapping_add(1);
            let desired = self.snapshots.borrow().desired.clone();
            self.follow(desired);
            for name in self.cases.keys().cloned().collect::<Vec<_>>() {
                self.sample(&name);
                if number.is_multiple_of(SAMPLES_PER_LOOK) {
                    self.look(&name);
                }
            }
        }
    }

    /// Opens a case for each service with strategy `adaptive`, and closes those of others.
    fn follow(&mut self, desired: Arc<DesiredState>) {
        for Difference { name, new, .. } in desired.since(&self.followed) {
            if new.is_some_and(|service| service.strategy.value == Strategy::Adaptive) {
                let case = || Case::new(Instant::now());
                self.cases.entry(name.clone()).or_insert_with(case);
            } else {
                self.cases.remove(name);
                self.verdicts.held().remove(name);
            }
        }
        self.followed = desired;
    }

    fn sample(&mut self, name: &ServiceName) {
        let Some(id) = self.id(name) else { return };
        if let Some(case) = self.cases.get_mut(name) {
            case.sample(self.kernel.memory(), id);
        }
    }

    fn look(&mut self, name: &ServiceName) {
        let Some(id) = self.id(name) else { return };
        let counters = match self.kernel.counters(id) {
            Ok(counters) => counters,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, service = %name, "cannot be looked at");
                return;
            }
        };
        let Some(case) = self.cases.get_mut(name) else {
            return;
        };
        let now = self.kernel.now();
        let verdict = case.look(self.kernel.memory(), id, counters, now);
        if verdict.changed {
            tracing::info!(service = %name, strategy = %verdict.in_force, why = %verdict.why, "adaptive: changes");
            // Fails only when the agent ends.
            let advice = Advice::Strategy(name.clone(), verdict.in_force);
            let _ = self.advice.send(advice);
        }
        self.verdicts.held().insert(name.clone(), verdict);
    }

    fn id(&self, name: &ServiceName) -> Option<u32> {
        Some(self.progress.assignment().service(name)?.id)
    }
}

/// One service under watch.
#[derive(Debug)]
struct Case {
    judge: Judge,
    /// Counters at the last look; `None` before the first.
    counted: Option<ServiceCounters>,
    samples: Samples,
}

/// Sums over the samples since the last look.
#[derive(Clone, Copy, Debug, Default)]
struct Samples {
    number: u32,
    backends: u32,
    is_limited: bool,
    utilisation: f64,
    inflight: f64,
}

impl Case {
    fn new(now: Instant) -> Self {
        Self {
            judge: Judge::new(now),
            counted: None,
            samples: Samples::default(),
        }
    }

    fn sample<T: Tables>(&mut self, tables: &T, id: u32) {
        let (mut backends, mut inflight, mut granted) = (0u32, 0u64, 0u64);
        for backend in occupancy::members(tables, id).filter(|backend| backend.is_usable()) {
            backends += 1;
            inflight += backend.inflight();
            match load32(&backend.granted) {
                UNLIMITED => {}
                slots => granted += u64::from(slots),
            }
        }
        let samples = &mut self.samples;
        samples.number += 1;
        samples.backends = backends;
        samples.is_limited = granted != 0;
        samples.utilisation += inflight as f64 / granted.max(1) as f64;
        samples.inflight += inflight as f64 / f64::from(backends.max(1));
    }

    fn look<T: Tables>(
        &mut self,
        tables: &T,
        id: u32,
        counters: ServiceCounters,
        now: Duration,
    ) -> Verdict {
        let samples = std::mem::take(&mut self.samples);
        let number = f64::from(samples.number.max(1));
        let before = self.counted.replace(counters).unwrap_or(counters);
        let since = |counter: ServiceCounter| {
            counters[counter as usize].wrapping_sub(before[counter as usize])
        };
        let completions = since(ServiceCounter::Released);
        let moments = Moments {
            number: completions,
            sum_ns: since(ServiceCounter::HeldNs),
            squares: since(ServiceCounter::HeldSquares),
        };
        let measured = Measured {
            backends: samples.backends,
            is_limited: samples.is_limited,
            utilisation: match samples.is_limited {
                true => samples.utilisation / number,
                false => 0.0,
            },
            inflight_per_backend: samples.inflight / number,
            completions,
            hold_mean: moments.mean(),
            hold_cv2: moments.cv2(),
            response_spread: spread(occupancy::members(tables, id), now),
        };
        self.judge.look(&measured, Instant::now())
    }
}

/// What is left of many hold times.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moments {
    number: u64,
    sum_ns: u64,
    /// Squares, in units of 2^[`HELD_UNIT_BITS`] ns.
    squares: u64,
}

impl Moments {
    fn mean(&self) -> Option<Duration> {
        (self.number != 0).then(|| Duration::from_nanos(self.sum_ns / self.number))
    }

    /// Squared coefficient of variation; `None` where times are too short for the clock.
    fn cv2(&self) -> Option<f64> {
        let unit = f64::from(1u32 << HELD_UNIT_BITS);
        let mean = self.sum_ns as f64 / self.number as f64 / unit;
        let square = self.squares as f64 / self.number as f64;
        // The programs' clock ticks every few milliseconds at worst.
        const TICK_UNITS: f64 = 250.0;
        (self.number != 0 && mean >= TICK_UNITS).then(|| (square / (mean * mean) - 1.0).max(0.0))
    }
}

/// The 90th percentile of backends' response times over the 10th, of those measured lately.
fn spread<'t>(backends: impl Iterator<Item = &'t Backend>, now: Duration) -> Option<f64> {
    let fresh_ns = (now.saturating_sub(FRESH)).as_nanos() as u64;
    let measured = backends
        .map(response::read)
        .filter(|(_, at)| *at > fresh_ns);
    let mut times: Vec<_> = measured.map(|(time, _)| time).collect();
    if times.len() < 2 {
        return None;
    }
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize] as f64;
    Some(at(0.9) / at(0.1).max(1.0))
}

#[cfg(test)]
mod tests {
    use balancer_common::{atomic::store, plain::Plain};

    use super::*;

    #[test]
    fn moments_tell_mean_and_variation() {
        let unit = 1u64 << HELD_UNIT_BITS;
        let of = |times: &[u64]| Moments {
            number: times.len() as u64,
            sum_ns: times.iter().map(|units| units * unit).sum(),
            squares: times.iter().map(|units| units * units).sum(),
        };
        let alike = of(&[1_000; 10]);
        assert_eq!(alike.mean(), Some(Duration::from_nanos(1_000 * unit)));
        assert_eq!(alike.cv2(), Some(0.0));
        // Nine short and one long: mean 1,900, square mean 10,900,000.
        let unlike = of(&[
            1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000, 10_000,
        ]);
        assert!((unlike.cv2().unwrap() - (10.9 / 3.61 - 1.0)).abs() < 1e-9);
        assert_eq!(of(&[3; 10]).cv2(), None, "shorter than the clock tells");
        assert_eq!(of(&[]).mean(), None);
        assert_eq!(of(&[]).cv2(), None);
    }

    #[test]
    fn the_spread_is_of_those_measured_lately() {
        let plain = Plain::one_service(&[1; 4]);
        let now = Duration::from_secs(100);
        let record = |id: u32, ms: u64, at: Duration| {
            let backend = plain.backend(id).unwrap();
            store(&backend.response_time_ns, ms * 1_000_000);
            store(&backend.response_time_at_ns, at.as_nanos() as u64);
        };
        let spread_now = || spread(occupancy::members(&plain, 0), now);
        assert_eq!(spread_now(), None);
        record(0, 10, now);
        record(1, 20, now - Duration::from_secs(1));
        assert_eq!(spread_now(), Some(2.0));
        record(2, 500, now - Duration::from_secs(31));
        assert_eq!(spread_now(), Some(2.0), "that was long ago");
    }

    #[test]
    fn a_look_is_at_what_happened_since_the_last() {
        let plain = Plain::one_service(&[2; 4]);
        store(&plain.backend(0).unwrap().inflight, 2);
        let mut case = Case::new(Instant::now());
        let mut counters = ServiceCounters::default();
        counters[ServiceCounter::Released as usize] = 1_000;
        case.sample(&plain, 0);
        let first = case.look(&plain, 0, counters, Duration::from_secs(5));
        assert_eq!(first.measured.completions, 0, "of before, nothing is known");
        counters[ServiceCounter::Released as usize] = 1_040;
        counters[ServiceCounter::HeldNs as usize] = 40 * 50_000_000;
        case.sample(&plain, 0);
        case.sample(&plain, 0);
        let measured = case
            .look(&plain, 0, counters, Duration::from_secs(10))
            .measured;
        assert_eq!(measured.completions, 40);
        assert_eq!(measured.hold_mean, Some(Duration::from_millis(50)));
        assert_eq!((measured.backends, measured.is_limited), (4, true));
        assert!((measured.utilisation - 0.25).abs() < 1e-9);
        assert!((measured.inflight_per_backend - 0.5).abs() < 1e-9);
    }
}

//! When each backend is probed, and what becomes of the result.
//!
//! One task: it follows the desired state, starts probes as they fall due and as turns are free,
//! and counts their results. It waits for nothing else, so no endpoint can hold it up: a probe
//! under way holds one of `at_once` turns, for its timeout at most.

use std::{
    collections::HashMap,
    future::poll_fn,
    mem,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::{
    task::AbortOnDropHandle,
    time::{DelayQueue, delay_queue::Key},
};

use super::{
    Health, Observation, Prober,
    figures::PodLabel,
    pool::Pool,
    probe::{ProbeFault, Remainder, probe},
    target::{Check, Target, Targets},
    verdict::{LastProbe, Outcome, Report, first_pause},
};
use crate::{model::DesiredState, state::Snapshot};

/// Desired states are taken up this far apart at least: of a burst, only where it ends matters.
const SETTLING: Duration = Duration::from_millis(50);
/// A probe that has not told its outcome this long after its timeout never will.
const LOST_AFTER: Duration = Duration::from_secs(1);
/// Faults of this machine are logged this far apart at least.
const FAULTS_APART: Duration = Duration::from_secs(60);

/// The newest result of a backend, as it is cached.
#[derive(Debug, Clone)]
pub(super) struct Latest {
    check: Check,
    began: Instant,
    pub(super) report: Report,
}

/// All that the scheduling task works with. Every backend that is probed has a report.
#[derive(Debug)]
pub(super) struct Scheduler {
    prober: Prober,
    targets: Targets,
    observations: mpsc::UnboundedSender<Observation>,
    probed: HashMap<SocketAddr, Probed>,
    due: DelayQueue<SocketAddr>,
    /// Where probes under way tell their outcome.
    finish: mpsc::UnboundedSender<Finished>,
    finished: mpsc::UnboundedReceiver<Finished>,
    /// One for each probe that may be under way.
    turns: Arc<Semaphore>,
    /// One for each answer that may be read to its end.
    endings: Arc<Semaphore>,
    /// Probes started.
    started: u64,
    fault_logged: Option<Instant>,
}

/// A backend that is probed.
#[derive(Debug)]
struct Probed {
    target: Arc<Target>,
    label: PodLabel,
    /// Its place in the queue; none only while it is being put there.
    key: Option<Key>,
    /// Whether a change asked for the next probe, rather than the interval: a fresh result will
    /// do then.
    asked_for: bool,
    /// The number of the probe under way, or 0. Results with another number are of no interest.
    under_way: u64,
    /// The last probe, which may still be reading the rest of its answer.
    task: Option<AbortOnDropHandle<()>>,
}

/// The outcome of a probe.
#[derive(Debug)]
struct Finished {
    address: SocketAddr,
    number: u64,
    began: Instant,
    took: Duration,
    outcome: Result<Outcome, ProbeFault>,
}

impl Scheduler {
    pub(super) fn new(prober: Prober, observations: mpsc::UnboundedSender<Observation>) -> Self {
        let (finish, finished) = mpsc::unbounded_channel();
        let at_once = prober.config.at_once.clamp(1, Semaphore::MAX_PERMITS);
        Self {
            targets: Targets::new(prober.config.enabled),
            prober,
            observations,
            probed: HashMap::new(),
            due: DelayQueue::new(),
            finish,
            finished,
            turns: Arc::new(Semaphore::new(at_once)),
            endings: Arc::new(Semaphore::new(at_once)),
            started: 0,
            fault_logged: None,
        }
    }

    pub(super) async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        let mut settled_at = self.take_up(newest(&mut snapshots), true);
        let pool = self.prober.figures.pool.clone();
        let mut sweeps = interval(pool.limits().sweep_interval());
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut turn = None;
        loop {
            tokio::select! {
                changed = changed_after(&mut snapshots, settled_at) => {
                    if changed.is_err() {
                        return;
                    }
                    settled_at = self.take_up(newest(&mut snapshots), false);
                }
                Some(finished) = self.finished.recv() => self.count(finished),
                free = self.turns.clone().acquire_owned(), if turn.is_none() => turn = free.ok(),
                Some(due) = poll_fn(|context| self.due.poll_expired(context)), if turn.is_some() => {
                    turn = self.serve(due.into_inner(), turn);
                }
                _ = sweeps.tick() => pool.sweep(Instant::now().into_std()),
                () = self.observations.closed() => return,
            }
        }
    }

    /// Probes what the desired state asks for. If `all_start`, probes are spread out. Gives the time
    /// at which to do so again at the earliest.
    fn take_up(&mut self, desired: Arc<DesiredState>, all_start: bool) -> Instant {
        for address in self.targets.take_up(desired) {
            match self.targets.of(&address) {
                Some(target) => self.aim(address, target, all_start),
                None => self.stop(address),
            }
        }
        Instant::now() + SETTLING
    }

    /// Probes a backend from now on, or otherwise than before.
    fn aim(&mut self, address: SocketAddr, target: Arc<Target>, all_start: bool) {
        let Some(probed) = self.probed.get_mut(&address) else {
            self.begin(address, target, all_start);
            return;
        };
        let old = mem::replace(&mut probed.target, target);
        let target = probed.target.clone();
        if old == target {
            return;
        }
        if old.check != target.check {
            (probed.under_way, probed.task) = (0, None);
        }
        if probed.under_way == 0 && (old.check != target.check || old.interval != target.interval) {
            probed.asked_for = true;
            let pause = first_pause(target.interval, false, fastrand::f64());
            probed.put_off(address, Instant::now() + pause, &mut self.due);
        }
        if old.failures != target.failures {
            // What is cached says what was thought of the backend before.
            self.prober.figures.results.remove(&address);
            self.change(address, |report| report.judge(target.failures));
        }
    }

    fn begin(&mut self, address: SocketAddr, target: Arc<Target>, all_start: bool) {
        let pause = first_pause(target.interval, all_start, fastrand::f64());
        let mut probed = Probed {
            target,
            label: self.prober.figures.counts.label(address),
            key: None,
            asked_for: true,
            under_way: 0,
            task: None,
        };
        probed.put_off(address, Instant::now() + pause, &mut self.due);
        self.probed.insert(address, probed);
        self.prober.reports.write().entry(address).or_default();
    }

    /// Probes a backend no more, and forgets what came of it: it is taken to be healthy.
    fn stop(&mut self, address: SocketAddr) {
        let Some(probed) = self.probed.remove(&address) else {
            return;
        };
        let report = self.prober.reports.write().remove(&address);
        if report.is_some_and(|report| report.health == Some(Health::Unhealthy)) {
            self.tell(address, None);
        }
        if let Some(key) = &probed.key {
            self.due.try_remove(key);
        }
        drop(probed);
        self.prober.figures.results.remove(&address);
        self.prober.figures.pool.forget(address);
    }

    /// Gives a backend that is due its probe, unless a fresh result will do.
    fn serve(
        &mut self,
        address: SocketAddr,
        turn: Option<OwnedSemaphorePermit>,
    ) -> Option<OwnedSemaphorePermit> {
        let probed = self.probed.get_mut(&address)?;
        probed.key = None;
        let now = Instant::now();
        if mem::take(&mut probed.asked_for)
            && let Some(latest) = self.prober.figures.results.get(&address)
            && latest.check == probed.target.check
        {
            let pause = latest.report.pause(probed.target.interval, fastrand::f64());
            probed.put_off(address, now.max(latest.began + pause), &mut self.due);
            return turn;
        }
        self.started += 1;
        let visit = Visit {
            address,
            number: self.started,
            target: probed.target.clone(),
            pool: self.prober.figures.pool.clone(),
            endings: self.endings.clone(),
            finish: self.finish.clone(),
        };
        probed.under_way = self.started;
        probed.task = Some(AbortOnDropHandle::new(tokio::spawn(visit.make(turn))));
        // Only a net: the outcome says when the next probe really comes.
        let lost_at = now + probed.target.timeout + LOST_AFTER;
        probed.put_off(address, lost_at, &mut self.due);
        None
    }

    /// Takes in the outcome of a probe.
    fn count(&mut self, finished: Finished) {
        let Finished {
            address,
            number,
            began,
            took,
            outcome,
        } = finished;
        let Some(probed) = self.probed.get_mut(&address) else {
            return;
        };
        if probed.under_way != number {
            return;
        }
        probed.under_way = 0;
        let now = Instant::now();
        let target = probed.target.clone();
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(fault) => {
                probed.put_off(address, now + target.interval, &mut self.due);
                self.log_fault(address, &fault, now);
                return;
            }
        };
        let success = outcome.is_success();
        self.prober
            .figures
            .counts
            .count(&probed.label, success, took);
        let report = self.change(address, |report| {
            let at = SystemTime::now();
            report.last = Some(LastProbe { outcome, at, took });
            report.count(success, target.failures)
        });
        let pause = report.pause(target.interval, fastrand::f64());
        let next = if success { began + pause } else { now + pause };
        if let Some(probed) = self.probed.get_mut(&address) {
            probed.put_off(address, next.max(now), &mut self.due);
        }
        let check = target.check.clone();
        let latest = Latest {
            check,
            began,
            report,
        };
        self.prober.figures.results.insert(address, latest);
    }

    /// Changes a backend's report, and tells of its health if that changed.
    fn change(
        &self,
        address: SocketAddr,
        change: impl FnOnce(&mut Report) -> Option<Health>,
    ) -> Report {
        let mut reports = self.prober.reports.write();
        let report = reports.entry(address).or_default();
        let health = change(report);
        let report = *report;
        drop(reports);
        if let Some(health) = health {
            log(address, &report);
            self.tell(address, Some(health));
        }
        report
    }

    fn tell(&self, address: SocketAddr, health: Option<Health>) {
        // Nobody may be left to hear it; `run` ends then.
        let _ = self.observations.send(Observation { address, health });
    }

    fn log_fault(&mut self, address: SocketAddr, fault: &ProbeFault, now: Instant) {
        self.prober.figures.counts.faults.fetch_add(1, Relaxed);
        if self
            .fault_logged
            .is_none_or(|logged| now - logged >= FAULTS_APART)
        {
            self.fault_logged = Some(now);
            tracing::warn!(%address, %fault, "a probe could not be made; the backend keeps its health");
        }
    }
}

impl Probed {
    /// Makes the next probe fall due then.
    fn put_off(&mut self, address: SocketAddr, until: Instant, due: &mut DelayQueue<SocketAddr>) {
        match &self.key {
            Some(key) => due.reset_at(key, until),
            None => self.key = Some(due.insert_at(address, until)),
        }
    }
}

/// What a probe takes along.
struct Visit {
    address: SocketAddr,
    number: u64,
    target: Arc<Target>,
    pool: Arc<Pool>,
    endings: Arc<Semaphore>,
    finish: mpsc::UnboundedSender<Finished>,
}

impl Visit {
    /// Makes the probe and tells its outcome, for which it holds a turn; then reads the rest of
    /// the answer, for which it holds none: an endpoint that trickles delays no other probe.
    async fn make(self, turn: Option<OwnedSemaphorePermit>) {
        let Self {
            address,
            number,
            target,
            pool,
            ..
        } = self;
        let began = Instant::now();
        let probed = probe(&pool, address, &target.check, target.timeout).await;
        let took = began.elapsed();
        let (outcome, remainder) = match probed {
            Ok((outcome, remainder)) => (Ok(outcome), remainder),
            Err(fault) => (Err(fault), Remainder::None),
        };
        let finished = Finished {
            address,
            number,
            began,
            took,
            outcome,
        };
        // The scheduler may have ended.
        let _ = self.finish.send(finished);
        drop(turn);
        if let Ok(_ending) = self.endings.try_acquire() {
            let deadline = began + pool.limits().request_timeout;
            remainder.finish(&pool, address, deadline).await;
        }
    }
}

fn log(address: SocketAddr, report: &Report) {
    let outcome = report
        .last
        .map_or("not probed", |last| last.outcome.as_str());
    match report.health {
        Some(Health::Unhealthy) => {
            let failures = report.consecutive_failures;
            tracing::warn!(%address, failures, outcome, "the backend is unhealthy");
        }
        _ => tracing::debug!(%address, outcome, "the backend is healthy"),
    }
}

fn newest(snapshots: &mut watch::Receiver<Arc<Snapshot>>) -> Arc<DesiredState> {
    snapshots.borrow_and_update().desired.clone()
}

/// Waits for a change, but not before `settled_at`. May be cancelled.
async fn changed_after(
    snapshots: &mut watch::Receiver<Arc<Snapshot>>,
    settled_at: Instant,
) -> Result<(), watch::error::RecvError> {
    sleep_until(settled_at).await;
    snapshots.changed().await
}

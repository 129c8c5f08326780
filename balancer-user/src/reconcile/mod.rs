//! Makes the maps agree with the desired state: the only writer of maps of
//! configuration.
//!
//! `plan` says what to do, `op` does it, `assignment` remembers it, `ids` hands
//! out numbers. This file runs them: at each change, at ticks while something
//! is on its way out or has to be tried again, and once a second for a sweep
//! over the indexes.

mod assignment;
mod ejections;
mod ids;
mod marks;
mod op;
mod plan;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::AtomicU64,
        atomic::Ordering,
    },
    time::{Duration, Instant},
};

use balancer_common::{index, service::Tables, waiting};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

pub use assignment::{AssignedBackend, AssignedService, Assignment, Retired, UNLIMITED};
use ejections::Ejections;
pub use marks::{Mark, Marking};
use op::{Op, Target};

use crate::{
    kernel::Kernel,
    model::{DesiredState, ServiceName},
    state::Snapshot,
};

/// How soon slots of retired backends are looked at, and failed operations
/// tried again.
const TICK: Duration = Duration::from_millis(20);
/// How often every index bit is recomputed. No case is known in which one is
/// wrong for longer than an update takes; this bounds the harm if there is.
const SWEEP: Duration = Duration::from_secs(1);

/// The planner's memory as others read it, and how far it has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    assignment: Arc<RwLock<Assignment>>,
    generation: Arc<AtomicU64>,
}

impl Progress {
    /// What stands in the maps under which numbers. Held only for moments.
    pub fn assignment(&self) -> RwLockReadGuard<'_, Assignment> {
        self.assignment
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest [`Snapshot::generation`] that is in the kernel.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    fn assignment_mut(&self) -> RwLockWriteGuard<'_, Assignment> {
        self.assignment
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Brings the kernel to the desired state and keeps it there.
pub struct Reconciler {
    kernel: Arc<Kernel>,
    progress: Progress,
    /// What has been planned for.
    planned: Arc<DesiredState>,
    planned_generation: u64,
    /// Operations that are planned but not made yet, because one failed.
    pending: VecDeque<Op>,
    /// Whether the first of them failed when it was tried last.
    is_failing: bool,
    /// Services that wait for room.
    postponed: BTreeSet<ServiceName>,
    ejections: Ejections,
}

impl Reconciler {
    /// A reconciler for maps in which nothing is yet.
    pub fn new(kernel: Arc<Kernel>, progress: Progress) -> Self {
        Self {
            kernel,
            progress,
            planned: Arc::default(),
            planned_generation: 0,
            pending: VecDeque::new(),
            is_failing: false,
            postponed: BTreeSet::new(),
            ejections: Ejections::default(),
        }
    }

    /// Follows the state until its sender is gone.
    pub async fn run(
        mut self,
        mut state: watch::Receiver<Arc<Snapshot>>,
        mut markings: mpsc::UnboundedReceiver<Marking>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweeps = tokio::time::interval(SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = state.borrow_and_update().clone();
                    self.advance(&snapshot);
                }
                Some(marking) = markings.recv() => self.mark(marking),
                _ = ticks.tick(), if self.is_unsettled() => self.settle(),
                _ = sweeps.tick() => self.sweep(),
            }
        }
    }

    /// Plans and makes the changes that lead to `snapshot`.
    pub fn advance(&mut self, snapshot: &Snapshot) {
        let changed = differences(&self.planned, &snapshot.desired);
        self.planned = snapshot.desired.clone();
        self.planned_generation = snapshot.generation;
        self.plan(changed);
    }

    /// Puts a mark on a backend, or takes it off. One that is not wanted (any more) has none.
    fn mark(&mut self, marking: Marking) {
        let op = plan::mark(&mut self.progress.assignment_mut(), marking);
        self.pending.extend(op);
        self.apply();
    }

    fn is_unsettled(&self) -> bool {
        !self.pending.is_empty()
            || !self.postponed.is_empty()
            || self.progress.assignment().is_unsettled()
    }

    fn settle(&mut self) {
        let kernel = self.kernel.clone();
        let ops = plan::settle(
            &mut self.progress.assignment_mut(),
            Instant::now(),
            &|id| held(&kernel, id),
            &|id| waiting(&kernel, id),
        );
        self.pending.extend(ops);
        let postponed = std::mem::take(&mut self.postponed);
        self.plan(postponed);
    }

    fn plan(&mut self, names: BTreeSet<ServiceName>) {
        let desired = self.planned.clone();
        let changes: Vec<_> = names
            .iter()
            .map(|name| (name, desired.services.get(name)))
            .collect();
        let kernel = self.kernel.clone();
        let (ops, postponed) = plan::plan(
            &mut self.progress.assignment_mut(),
            &changes,
            Instant::now(),
            &|id| held(&kernel, id),
        );
        for reason in postponed {
            if self.postponed.insert(reason.service().clone()) {
                tracing::warn!("{reason}");
            }
        }
        self.pending.extend(ops);
        self.apply();
    }

    fn apply(&mut self) {
        while let Some(op) = self.pending.front() {
            if let Err(error) = op.apply(&*self.kernel) {
                // Said once, not at every try.
                if !std::mem::replace(&mut self.is_failing, true) {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(
                        error,
                        ?op,
                        "a change could not be made; it is tried again, and others wait for it"
                    );
                }
                return;
            }
            self.pending.pop_front();
        }
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("the change that could not be made is made");
        }
        if self.postponed.is_empty() {
            self.progress
                .generation
                .store(self.planned_generation, Ordering::Release);
        }
    }

    fn sweep(&mut self) {
        let tables = self.kernel.tables();
        let assignment = self.progress.assignment();
        for (_, backend) in assignment.backends() {
            index::refresh(tables, backend.id);
        }
        self.ejections
            .recount(tables, &assignment, self.kernel.now());
        drop(assignment);
        self.progress.assignment_mut().forget_marks();
    }
}

fn held(kernel: &Kernel, id: u32) -> u64 {
    kernel
        .memory()
        .backend(id)
        .map_or(0, |backend| backend.inflight())
}

fn waiting(kernel: &Kernel, service: u32) -> u64 {
    let service = kernel.memory().service(service);
    service.map_or(0, |service| waiting::count(&service.waiting))
}

/// Names of the services that are not the same in both.
fn differences(old: &DesiredState, new: &DesiredState) -> BTreeSet<ServiceName> {
    let gone = old
        .services
        .keys()
        .filter(|name| !new.services.contains_key(*name));
    let changed = new
        .services
        .iter()
        .filter(|(name, service)| old.services.get(*name) != Some(*service))
        .map(|(name, _)| name);
    gone.chain(changed).cloned().collect()
}

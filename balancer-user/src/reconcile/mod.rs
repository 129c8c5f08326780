//! Makes the maps agree with the desired state: the only writer of maps of
//! configuration.
//!
//! `plan` says what to do, `op` does it, `assignment` remembers it, `ids` hands
//! out numbers. This file runs them: at each change, at ticks while something
//! is on its way out or has to be tried again, and once a second for a sweep
//! over the indexes.

mod assignment;
mod awaiting;
mod ejections;
mod ids;
mod ingredients;
mod limits;
mod marks;
mod near;
mod op;
mod plan;
mod positions;
mod restore;
mod settings;
mod tables;
mod takeover;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::{BTreeSet, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, atomic::AtomicU64,
        atomic::Ordering,
    },
    time::{Duration, Instant},
};

use balancer_common::{breaker, index, select, service::Tables, slot::Side, waiting};
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};

pub use assignment::{AssignedBackend, AssignedService, Assignment, Retired, UNLIMITED};
use ejections::Ejections;
pub use marks::{Mark, Marking};
pub use near::Here;
use op::{Op, Target};
use writer::Writer;

use crate::{
    kernel::{Kernel, KernelError},
    model::{DesiredState, ServiceName, Strategy},
    occupancy,
    state::Snapshot,
};

/// How soon slots of retired backends are looked at, and failed operations
/// tried again.
const TICK: Duration = Duration::from_millis(20);
/// How often every index bit is recomputed. No case is known in which one is
/// wrong for longer than an update takes; this bounds the harm if there is.
const SWEEP: Duration = Duration::from_secs(1);
/// Backends that a sweep looks at in one go, some hundred nanoseconds each: no change waits longer.
const SLICE: usize = 256;
/// From one go to the next. The sweep of 100,000 backends takes four seconds, and a hundredth of one
/// CPU.
const PAUSE: Duration = Duration::from_millis(10);

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

/// What others than the source have to say about how backends are chosen.
#[derive(Clone, Debug)]
pub enum Advice {
    /// A mark on a backend.
    Mark(Marking),
    /// Strategy `adaptive` puts another one in force for a service.
    Strategy(ServiceName, Strategy),
}

/// Hands free slots of the service with this id to those who wait for them.
pub type Wake = Box<dyn Fn(u32) + Send + Sync>;

/// Brings the kernel to the desired state and keeps it there.
pub struct Reconciler {
    kernel: Arc<Kernel>,
    wake: Wake,
    progress: Progress,
    /// What has been planned for.
    planned: Arc<DesiredState>,
    planned_generation: u64,
    /// Services that an earlier agent has left, until it is known which are wanted.
    restored: BTreeSet<ServiceName>,
    pending: Pending,
    /// Services that wait for room.
    postponed: BTreeSet<ServiceName>,
    ejections: Ejections,
    writer: Writer,
    awaiting: awaiting::Suspects,
    /// The sweep under way.
    sweep: Option<Sweep>,
}

/// Operations that are planned but not made yet, because one failed or something has to be prepared.
#[derive(Debug, Default)]
struct Pending {
    ops: VecDeque<Op>,
    /// Whether the first of them failed when it was tried last.
    is_failing: bool,
}

/// What a sweep has seen so far.
#[derive(Debug, Default)]
struct Sweep {
    /// The last backend looked at; the next in order is next.
    reached: Option<SocketAddr>,
    ejected: BTreeSet<SocketAddr>,
    left: awaiting::Left,
}

impl Reconciler {
    /// A reconciler for these maps, which goes on from what an earlier agent has left there.
    /// `here` is where the agent is.
    ///
    /// # Errors
    /// If there can be no further thread, or the maps cannot be read.
    pub fn new(
        kernel: Arc<Kernel>,
        progress: Progress,
        here: Here,
        wake: Wake,
    ) -> Result<Self, KernelError> {
        let starting = KernelError::system("starting a thread");
        let writer = Writer::start(kernel.clone()).map_err(starting)?;
        let mut pending = Pending::default();
        let mut restored = BTreeSet::new();
        if kernel.takes_over() {
            let (assignment, ops) = takeover::take_over(&kernel, here)?;
            restored.extend(assignment.services.keys().cloned());
            *progress.assignment_mut() = assignment;
            pending.ops.extend(ops);
            pending.apply(&kernel, &wake);
        } else {
            progress.assignment_mut().here = here;
        }
        Ok(Self {
            kernel,
            wake,
            progress,
            planned: Arc::default(),
            planned_generation: 0,
            restored,
            pending,
            postponed: BTreeSet::new(),
            ejections: Ejections::default(),
            writer,
            awaiting: awaiting::Suspects::default(),
            sweep: None,
        })
    }

    /// Follows the state until its sender is gone.
    pub async fn run(
        mut self,
        mut state: watch::Receiver<Arc<Snapshot>>,
        mut advice: mpsc::UnboundedReceiver<Advice>,
    ) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sweeps = tokio::time::interval(SWEEP);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut slices = tokio::time::interval(PAUSE);
        slices.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let snapshot = state.borrow_and_update().clone();
                    self.advance(&snapshot);
                }
                Some(advice) = advice.recv() => self.heed(advice),
                _ = ticks.tick(), if self.is_unsettled() => self.settle(),
                _ = sweeps.tick(), if self.sweep.is_none() => self.sweep = Some(Sweep::default()),
                _ = slices.tick(), if self.sweep.is_some() => self.sweep(),
            }
        }
    }

    /// Plans and makes the changes that lead to `snapshot`. What an earlier agent has left stays as
    /// it is until the source has told everything.
    pub fn advance(&mut self, snapshot: &Snapshot) {
        if !snapshot.is_synced && !self.restored.is_empty() {
            return;
        }
        let changed = snapshot.desired.since(&self.planned);
        let mut changed: BTreeSet<_> = changed.map(|difference| difference.name.clone()).collect();
        changed.append(&mut self.restored);
        self.planned = snapshot.desired.clone();
        self.planned_generation = snapshot.generation;
        self.plan(changed);
    }

    fn heed(&mut self, advice: Advice) {
        match advice {
            Advice::Mark(marking) => self.mark(marking),
            Advice::Strategy(name, strategy) => {
                let mut assignment = self.progress.assignment_mut();
                assignment.in_force.insert(name.clone(), strategy);
                drop(assignment);
                self.plan(BTreeSet::from([name]));
            }
        }
    }

    /// Puts a mark on a backend, or takes it off. One that is not wanted (any more) has none.
    fn mark(&mut self, marking: Marking) {
        let ops = plan::mark(&mut self.progress.assignment_mut(), marking, Instant::now());
        self.pending.ops.extend(ops);
        self.apply();
        let names = self.progress.assignment().services_of(&marking.address);
        self.furnish(&names);
        self.elect(&names);
    }

    fn is_unsettled(&self) -> bool {
        !self.pending.ops.is_empty()
            || !self.postponed.is_empty()
            || self.progress.assignment().is_unsettled()
    }

    fn settle(&mut self) {
        let ops = plan::settle(
            &mut self.progress.assignment_mut(),
            Instant::now(),
            &|id| held(&self.kernel, id),
            &|id| waiting(&self.kernel, id),
        );
        self.pending.ops.extend(ops);
        let postponed = std::mem::take(&mut self.postponed);
        self.plan(postponed);
    }

    fn plan(&mut self, names: BTreeSet<ServiceName>) {
        let desired = self.planned.clone();
        let changes: Vec<_> = names
            .iter()
            .map(|name| (name, desired.service(name)))
            .collect();
        let mut is_prepared = true;
        let postponed = plan::plan(
            &mut self.progress.assignment_mut(),
            &changes,
            Instant::now(),
            &|id| held(&self.kernel, id),
            &mut |ops| {
                is_prepared &= !ops.iter().any(Op::needs_preparation);
                self.pending.ops.extend(ops.drain(..));
                if is_prepared {
                    self.pending.apply(&self.kernel, &self.wake);
                }
            },
        );
        for reason in postponed {
            if self.postponed.insert(reason.service().clone()) {
                tracing::warn!("{reason}");
            }
        }
        if !self.progress.assignment().measured.is_empty() {
            // Before anything awaits a response that nobody would see.
            self.measure(true);
        }
        self.furnish(&names);
        if !is_prepared {
            // A strategy that comes into force finds its table there.
            self.writer.wait();
        }
        self.apply();
        self.elect(&names);
    }

    fn measure(&self, is_on: bool) {
        if let Err(error) = self.kernel.measure(is_on) {
            let error: &dyn std::error::Error = &error;
            tracing::error!(error, is_on, "measuring response times cannot be switched");
        }
    }

    /// Stops measuring once no service needs it and no response is awaited any more; and corrects
    /// counts of awaited responses that are left over.
    fn settle_responses(&mut self, left: awaiting::Left) {
        let is_needed = left.is_needed || !self.progress.assignment().measured.is_empty();
        self.awaiting.correct(self.kernel.memory(), left.suspected);
        if !is_needed {
            self.measure(false);
        }
    }

    /// Has the tables made that the services' strategies go by.
    fn furnish(&self, names: &BTreeSet<ServiceName>) {
        let assignment = self.progress.assignment();
        for name in names {
            let wanted = self.planned.service(name);
            if let (Some(wanted), Some(assigned)) = (wanted, assignment.service(name)) {
                let ingredients = ingredients::of(&assignment, assigned, wanted);
                self.writer.build(assigned.id, ingredients);
            }
        }
    }

    /// Has leaders elected where they are missing; now, not with the next connect, so that whoever
    /// looks sees who leads.
    fn elect(&self, names: &BTreeSet<ServiceName>) {
        let assignment = self.progress.assignment();
        for name in names {
            if let Some(assigned) = assignment.service(name)
                && assigned.settings.strategy() == balancer_common::service::Strategy::Leader
            {
                select::elect(self.kernel.memory(), assigned.id, Side::Agent);
            }
        }
    }

    fn apply(&mut self) {
        if self.pending.apply(&self.kernel, &self.wake) && self.postponed.is_empty() {
            self.progress
                .generation
                .store(self.planned_generation, Ordering::Release);
        }
    }

    /// Looks at the next backends of the sweep, and concludes it after the last.
    fn sweep(&mut self) {
        let Some(mut sweep) = self.sweep.take() else {
            return;
        };
        let tables = self.kernel.tables();
        let assignment = self.progress.assignment();
        let mut looked_at = 0;
        for (address, backend) in assignment.backends_after(sweep.reached).take(SLICE) {
            index::refresh(tables, backend.id);
            tell_waiters(&self.kernel, backend.id, &self.wake);
            if tables.backend(backend.id).is_some_and(breaker::is_ejected) {
                sweep.ejected.insert(*address);
            }
            sweep.left.look(tables, backend.id);
            sweep.reached = Some(*address);
            looked_at += 1;
        }
        drop(assignment);
        if looked_at == SLICE {
            self.sweep = Some(sweep);
        } else {
            self.conclude(sweep);
        }
    }

    fn conclude(&mut self, sweep: Sweep) {
        let tables = self.kernel.tables();
        let assignment = self.progress.assignment();
        let now = self.kernel.now();
        let back = self
            .ejections
            .recount(tables, &assignment, sweep.ejected, now);
        drop(assignment);
        self.progress.assignment_mut().forget_marks();
        self.note_ready(&back);
        self.settle_responses(sweep.left);
    }

    /// Backends that were ejected are ready from now on.
    fn note_ready(&mut self, addresses: &BTreeSet<SocketAddr>) {
        let mut names = BTreeSet::new();
        for address in addresses {
            let mut assignment = self.progress.assignment_mut();
            assignment.note_ready(address, Instant::now());
            names.extend(assignment.services_of(address));
        }
        self.furnish(&names);
    }
}

impl Pending {
    /// Makes them, up to the first that fails. Gives whether all are made.
    fn apply(&mut self, kernel: &Kernel, wake: &Wake) -> bool {
        while let Some(op) = self.ops.front() {
            if let Err(error) = op.apply(kernel) {
                // Said once, not at every try.
                if !std::mem::replace(&mut self.is_failing, true) {
                    let error: &dyn std::error::Error = &error;
                    tracing::error!(
                        error,
                        ?op,
                        "a change could not be made; it is tried again, and others wait for it"
                    );
                }
                return false;
            }
            if let Some(backend) = op.refreshes() {
                tell_waiters(kernel, backend, wake);
            }
            self.ops.pop_front();
        }
        self.ops.shrink_to(plan::BATCH);
        if std::mem::take(&mut self.is_failing) {
            tracing::info!("the change that could not be made is made");
        }
        true
    }
}

/// Lets those look again who may have looked while a refresh hid a backend of their service: it hides
/// for a moment what changes at the same time, and nobody else would tell them.
fn tell_waiters(kernel: &Kernel, backend: u32, wake: &Wake) {
    let record = kernel.memory().backend(backend);
    for (service, _) in record.into_iter().flat_map(occupancy::memberships) {
        wake(service);
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

//! The audit: counts the live connections that hold slots, compares that with what is counted, and
//! puts right what is wrong.
//!
//! Owns how often and how carefully one looks; what looks prove is in `rules`. Only the kernel's half
//! of slot words is looked at: the agent's own slots end with the values that hold them. Refuses to
//! correct what not every look has shown. Run by `agent` every half a minute and by `admin` when it
//! is asked for.

mod rules;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use balancer_common::{
    atomic::{load, load32},
    service::{Backend, Tables},
    slot::{self, Side},
};
use serde::{Deserialize, Serialize};
use tokio::{
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};
use utoipa::ToSchema;

use crate::{
    journal::{Happening, Journal, Kind},
    kernel::{Kernel, KernelError},
    occupancy::{self, BackendIds},
    overflow::Queues,
    reconcile::Progress,
};
use rules::{Drift, Look, Reading};

/// From one audit to the next.
const EVERY: Duration = Duration::from_secs(30);
/// Looks that must all show the same; further ones only at backends with which anything seems wrong.
const LOOKS: u32 = 3;
/// Between two looks: programs are done within microseconds, unless they are interrupted.
const PAUSE: Duration = Duration::from_millis(50);

/// What an audit found. `/v1/audit`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Audit {
    /// Live connections that hold a slot.
    pub connections: u64,
    /// Backends whose count was compared with them, those among them that have left their last
    /// service.
    pub backends_checked: u64,
    /// The counts that were wrong.
    pub drift: Vec<Finding>,
    /// Slots by which counts were wrong, in all audits since the agent started.
    pub drift_total: u64,
}

/// A count that was wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// `IP:PORT` of the backend.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// `NAMESPACE/NAME` of a service that it belongs to; null if it has left its last.
    pub service: Option<String>,
    /// Slots that were counted.
    pub counted: u32,
    /// Slots that connections held.
    pub found: u32,
    /// Whether the count is right now.
    pub repaired: bool,
}

/// Who audits; clones are the same.
#[derive(Clone)]
pub struct Auditor(Arc<Inner>);

struct Inner {
    kernel: Arc<Kernel>,
    progress: Progress,
    queues: Arc<Queues>,
    journal: Journal,
    /// Held for an audit: two at a time would put the same right twice.
    at_work: Mutex<()>,
    total: AtomicU64,
}

/// A backend's address and id.
type Named = (SocketAddr, u32);

/// A backend whose count seems wrong.
struct Suspect {
    address: SocketAddr,
    id: u32,
    generation: u32,
    counted: u32,
    drift: Drift,
}

impl Auditor {
    /// Nothing is looked at yet.
    pub fn new(
        kernel: Arc<Kernel>,
        progress: Progress,
        queues: Arc<Queues>,
        journal: Journal,
    ) -> Self {
        Self(Arc::new(Inner {
            kernel,
            progress,
            queues,
            journal,
            at_work: Mutex::default(),
            total: AtomicU64::new(0),
        }))
    }

    /// Audits at once and then now and then, for as long as the runtime lives.
    pub async fn run(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let auditor = self.clone();
            match spawn_blocking(move || auditor.audit()).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => tracing::warn!(%error, "counts could not be audited"),
                Err(error) => tracing::error!(%error, "an audit failed"),
            }
        }
    }

    /// Slots by which counts were wrong, in all audits so far.
    pub fn drift_total(&self) -> u64 {
        self.0.total.load(Relaxed)
    }

    /// Compares every count, and puts right what is wrong. Blocks: for some 100 ms if anything seems
    /// wrong.
    ///
    /// # Errors
    /// If connections cannot be counted. Nothing is changed then.
    pub fn audit(&self) -> Result<Audit, KernelError> {
        let it = &*self.0;
        let _at_work = it.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        let ids = BackendIds::of(&it.progress.assignment());
        let all: Vec<_> = ids.assigned.into_iter().chain(ids.leaving).collect();
        let looks = it.look(&all)?;
        let connections = looks.iter().map(|(_, look)| look.holders).sum();
        let backends_checked = looks.len() as u64;
        let mut suspects: Vec<_> = looks.into_iter().filter_map(Suspect::of).collect();
        for _ in 1..LOOKS {
            if suspects.is_empty() {
                break;
            }
            suspects = it.look_again(suspects)?;
        }
        let drift: Vec<_> = suspects.iter().map(|suspect| it.repair(suspect)).collect();
        Ok(Audit {
            connections,
            backends_checked,
            drift,
            drift_total: self.drift_total(),
        })
    }
}

impl Inner {
    /// A look at each of these backends that is in the maps.
    fn look(&self, backends: &[Named]) -> Result<Vec<(Named, Look)>, KernelError> {
        let tables = self.kernel.memory();
        let there = backends.iter().copied();
        let there = there.filter_map(|it| Some((it, tables.backend(it.1)?)));
        let before: Vec<_> = there
            .map(|(it, record)| (it, record, before(record)))
            .collect();
        let ids: Vec<_> = before.iter().map(|((_, id), ..)| *id).collect();
        let holders = self.kernel.recount(&ids)?;
        let looks = before.into_iter().zip(holders);
        Ok(looks
            .map(|((it, record, before), holders)| {
                let after = after(record);
                let look = Look {
                    before,
                    holders,
                    after,
                };
                (it, look)
            })
            .collect())
    }

    /// Those with whom another look finds the same wrong.
    fn look_again(&self, suspects: Vec<Suspect>) -> Result<Vec<Suspect>, KernelError> {
        thread::sleep(PAUSE);
        self.kernel.let_programs_end();
        let backends: Vec<_> = suspects.iter().map(|it| (it.address, it.id)).collect();
        let looks = self.look(&backends)?;
        // Whoever is in the maps once stays there, so these are the same in the same order.
        let both = suspects.into_iter().zip(looks.into_iter().map(Suspect::of));
        Ok(both
            .filter_map(|(suspect, again)| suspect.and(&again?))
            .collect())
    }

    /// Puts a count right, hands on the slots that come free by it, and tells.
    fn repair(&self, suspect: &Suspect) -> Finding {
        let tables = self.kernel.memory();
        let record = tables.backend(suspect.id);
        let repaired = record.is_some_and(|record| correct(record, suspect));
        let memberships = record.map(|record| occupancy::memberships(record).collect::<Vec<_>>());
        let services: Vec<_> = memberships.into_iter().flatten().map(|it| it.0).collect();
        let name = {
            let assignment = self.progress.assignment();
            let mut names = services.iter().filter_map(|id| assignment.name_of(*id));
            names.next().cloned()
        };
        tables.refresh(suspect.id);
        for service in services {
            self.queues.wake(service);
        }
        let finding = Finding {
            address: suspect.address,
            service: name.as_ref().map(ToString::to_string),
            counted: suspect.counted,
            found: suspect.drift.corrected(suspect.counted),
            repaired,
        };
        let slots = suspect.drift.slots();
        self.total.fetch_add(slots.into(), Relaxed);
        let Finding { counted, found, .. } = finding;
        tracing::warn!(
            backend = %finding.address, counted, found, repaired,
            "the count of a backend's slots was wrong"
        );
        let happening = Happening::new(Kind::Drift)
            .backend(finding.address)
            .reason(match suspect.drift {
                Drift::Lost(_) => "lost",
                Drift::Uncounted(_) => "uncounted",
            })
            .detail(format!("{counted} counted, {found} held"));
        self.journal.publish(match name {
            Some(name) => happening.service(name),
            None => happening,
        });
        finding
    }
}

impl Suspect {
    fn of(((address, id), look): (Named, Look)) -> Option<Self> {
        Some(Self {
            address,
            id,
            generation: look.before.generation,
            counted: look.before.counted,
            drift: look.drift()?,
        })
    }

    /// What this look and a later one show; the count is the later one's.
    fn and(&self, later: &Self) -> Option<Self> {
        if self.generation != later.generation {
            return None;
        }
        Some(Self {
            drift: self.drift.and(later.drift)?,
            ..*later
        })
    }
}

/// An earlier reading: see [`Reading::taken`].
fn before(backend: &Backend) -> Reading {
    let generation = load32(&backend.generation);
    let taken = load(&backend.steered);
    let counted = Side::Kernel.half(load(&backend.inflight));
    Reading {
        generation,
        counted,
        taken,
    }
}

/// A later one.
fn after(backend: &Backend) -> Reading {
    let counted = Side::Kernel.half(load(&backend.inflight));
    let taken = load(&backend.steered);
    let generation = load32(&backend.generation);
    Reading {
        generation,
        counted,
        taken,
    }
}

/// Corrects the slot word; says whether it did so by all that is wrong.
fn correct(backend: &Backend, suspect: &Suspect) -> bool {
    let is_same = || load32(&backend.generation) == suspect.generation;
    if !is_same() {
        return false;
    }
    match suspect.drift {
        // While any slot is counted the id means no other backend.
        Drift::Lost(slots) => slot::forget_lost(backend, slots) == slots,
        Drift::Uncounted(slots) => {
            slot::count_held(backend, slots);
            if is_same() {
                return true;
            }
            slot::forget_lost(backend, slots);
            false
        }
    }
}

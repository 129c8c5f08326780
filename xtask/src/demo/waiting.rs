//! Who waits for a slot while the load runs, as the agent's admin API tells it: looked at often
//! enough to see peaks, by a thread that ends with its value.
//!
//! Called by `mod`; shown by `live`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use tests::{admin::Admin, agent::Agent};

/// A waiter waits longer than this more often than not.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// The queue of the demo's service.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct QueueState {
    /// Now.
    pub(super) waiters: u64,
    /// Those who had to wait, ever.
    pub(super) queued: u64,
    /// Refusals by reason, in `connect()` or by the agent.
    pub(super) refused: BTreeMap<String, u64>,
}

/// Looks until it is dropped.
pub(super) struct Watch {
    latest: Arc<Mutex<(QueueState, u64)>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl QueueState {
    /// Asks the agent.
    pub(super) fn of(agent: &Agent) -> Result<Self> {
        Self::ask(&agent.admin())
    }

    fn ask(admin: &Admin) -> Result<Self> {
        let rows = admin.get_json("/v1/queues")?;
        let mut rows: Vec<Self> =
            serde_json::from_value(rows).context("GET /v1/queues: not in the shape expected")?;
        match (rows.pop(), rows.pop()) {
            (Some(only), None) => Ok(only),
            _ => bail!("GET /v1/queues: not one queue, though the demo has one service"),
        }
    }
}

impl Watch {
    /// Begins to look.
    pub(super) fn start(agent: &Agent) -> Result<Self> {
        let latest = Arc::new(Mutex::new((QueueState::of(agent)?, 0)));
        let is_over = Arc::<AtomicBool>::default();
        let thread = thread::spawn({
            let (admin, latest, is_over) = (agent.admin(), latest.clone(), is_over.clone());
            move || {
                while !is_over.load(Ordering::SeqCst) {
                    let now = QueueState::ask(&admin)?;
                    let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
                    let peak = latest.1.max(now.waiters);
                    *latest = (now, peak);
                    drop(latest);
                    thread::sleep(LOOK_INTERVAL);
                }
                Ok(())
            }
        });
        Ok(Self {
            latest,
            is_over,
            thread: Some(thread),
        })
    }

    /// What was seen last, and the most waiters ever seen.
    pub(super) fn latest(&self) -> (QueueState, u64) {
        let latest = self.latest.lock();
        latest.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The most waiters ever seen. Fails if the agent could not be asked.
    pub(super) fn stop(mut self) -> Result<u64> {
        self.is_over.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            ended.map_err(|_| anyhow::anyhow!("the thread that looks at the queue panicked"))??;
        }
        Ok(self.latest().1)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

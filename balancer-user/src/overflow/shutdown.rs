//! The orderly end of a worker: what it serves may finish, for a while.
//!
//! Knows how many are served, tells them that no more is taken, and when their time is over.
//! Whoever serves must be tracked here, or is cut off with the worker. Called by `workers`.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::timeout;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFuture},
    task::TaskTracker,
};

/// What one worker's connections have to know of its end.
#[derive(Debug, Default)]
pub(super) struct Shutdown {
    is_begun: AtomicBool,
    begun: CancellationToken,
    over: CancellationToken,
    served: TaskTracker,
}

impl Shutdown {
    /// What is served, for [`TaskTracker::track_future`].
    pub(super) fn served(&self) -> &TaskTracker {
        &self.served
    }

    /// Whether nothing more is to be begun. Costs next to nothing.
    pub(super) fn is_begun(&self) -> bool {
        self.is_begun.load(Relaxed)
    }

    /// Ends when nothing more is to be begun.
    pub(super) fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.begun.cancelled()
    }

    /// Ends when nothing may go on.
    pub(super) fn over(&self) -> WaitForCancellationFuture<'_> {
        self.over.cancelled()
    }

    /// Lets what is served finish within `patience`, and cuts off the rest.
    pub(super) async fn run(&self, patience: Duration) {
        self.is_begun.store(true, Relaxed);
        self.begun.cancel();
        self.served.close();
        if timeout(patience, self.served.wait()).await.is_err() {
            tracing::warn!(
                connections = self.served.len(),
                ?patience,
                "what the agent forwards is cut off: it took longer than agent.shutdown_timeout to finish"
            );
            self.over.cancel();
            self.served.wait().await;
        }
    }
}

//! Admission `request`: a reverse proxy for HTTP/1.1 and cleartext HTTP/2.
//!
//! | part | does |
//! |---|---|
//! | `session` | one client connection: which protocol, its limits, its end |
//! | `exchange` | one request: slot, attempts, answer |
//! | `identify`, `cookie` | who sends it, and the cookie that tells |
//! | `head`, `hops` | what of a head is passed on, what is added, what is taken out |
//! | `body` | bodies on their way, and what is held until their end |
//! | `link`, `wire`, `pool` | upstream connections, what is spoken there, those that are warm |
//! | `once` | a single answer, for connections that are refused |
//! | `tunnel` | connections that were upgraded |
//! | `client`, `framing`, `watch` | what comes of a client: whether it is sound, and in time |
//!
//! Called by the workers, each of which has a [`Proxy`] of its own. Refuses malformed heads, and
//! whatever gets no slot.

mod body;
mod client;
mod cookie;
mod exchange;
mod framing;
mod head;
mod hops;
mod identify;
mod link;
mod once;
mod pool;
mod session;
#[cfg(test)]
mod tests;
mod tunnel;
mod watch;
mod wire;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(super) use once::answer_once;
use pool::Pool;
pub(super) use session::serve;

/// How long what is in flight may go on when the agent stops.
const LAST_MOMENT: Duration = Duration::from_secs(5);

/// What the connections of one worker share: warm upstream connections, and when to stop.
#[derive(Debug, Default)]
pub struct Proxy {
    pool: Arc<Pool>,
    is_stopping: AtomicBool,
    /// No further request is taken.
    closing: CancellationToken,
    /// Nothing goes on.
    closed: CancellationToken,
    /// Each client's connection, and each tunnel.
    tasks: TaskTracker,
}

impl Proxy {
    /// Without any connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it stops. Costs next to nothing.
    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Relaxed)
    }

    /// Lets requests in flight finish, for a moment, and takes no more.
    pub async fn shut_down(&self) {
        self.is_stopping.store(true, Relaxed);
        self.closing.cancel();
        self.tasks.close();
        if tokio::time::timeout(LAST_MOMENT, self.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!(
                connections = self.tasks.len(),
                "requests are cut off: they took too long to finish"
            );
            self.closed.cancel();
            self.tasks.wait().await;
        }
        self.pool.clear();
    }
}

//! Admission `request`: a reverse proxy for HTTP/1.1 and cleartext HTTP/2.
//!
//! | part | does |
//! |---|---|
//! | `session` | one client connection: which protocol, its limits, its end |
//! | `exchange` | one request: slot, attempts, answer |
//! | `head` | what of a head is passed on, and what is added |
//! | `body` | bodies on their way, and what is held until their end |
//! | `link`, `pool` | upstream connections, and those that are warm |
//! | `once` | a single answer, for connections that are refused |
//! | `tunnel` | connections that were upgraded |
//! | `client`, `framing`, `watch` | what comes of a client: whether it is sound, and in time |
//!
//! Called by the workers, each of which has a [`Proxy`] of its own. Refuses malformed heads, and
//! whatever gets no slot.

mod body;
mod client;
mod exchange;
mod framing;
mod head;
mod link;
mod once;
mod pool;
mod session;
#[cfg(test)]
mod tests;
mod tunnel;
mod watch;

use std::{sync::Arc, time::Duration};

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
    /// No further request is taken.
    closing: CancellationToken,
    /// Nothing goes on.
    closed: CancellationToken,
    tasks: TaskTracker,
}

impl Proxy {
    /// Without any connections.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets requests in flight finish, for a moment, and takes no more.
    pub async fn shut_down(&self) {
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

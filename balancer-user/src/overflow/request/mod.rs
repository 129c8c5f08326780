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
pub mod fuzzing;
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

use std::{sync::Arc, time::Duration};

pub(super) use once::answer_once;
use pool::Pool;
pub(super) use session::serve;

use super::shutdown::Shutdown;

/// What the connections of one worker share: warm upstream connections, and when to stop.
#[derive(Debug)]
pub struct Proxy {
    pool: Arc<Pool>,
    /// Tracks each client's connection, and each tunnel.
    shutdown: Arc<Shutdown>,
}

impl Proxy {
    /// Without any connections.
    pub(super) fn new(shutdown: Arc<Shutdown>) -> Self {
        Self {
            pool: Arc::default(),
            shutdown,
        }
    }

    /// Lets what the worker serves finish within `patience`, and takes no more requests.
    pub(super) async fn shut_down(&self, patience: Duration) {
        self.shutdown.run(patience).await;
        self.pool.clear();
    }
}

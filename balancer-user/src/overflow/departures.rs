//! Clients that close their connection while it waits, as the programs report them.
//!
//! A client that has closed its socket and one that has only said that it will send no more look
//! the same from here; the programs know the difference.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Who waits to hear of which client.
#[derive(Clone, Debug, Default)]
pub(super) struct Departures(Arc<Mutex<HashMap<SocketAddr, oneshot::Sender<()>>>>);

/// Hears of one client's departure.
#[derive(Debug)]
pub(super) struct Departure {
    client: SocketAddr,
    departures: Departures,
    receiver: oneshot::Receiver<()>,
}

impl Departures {
    /// Begins to listen for the departure of a client. An address has one connection at a time, so
    /// whoever listened for an earlier one hears that that is over.
    pub(super) fn watch(&self, client: SocketAddr) -> Departure {
        let (sender, receiver) = oneshot::channel();
        self.held().insert(client, sender);
        Departure {
            client,
            departures: self.clone(),
            receiver,
        }
    }

    /// A client is gone.
    pub(super) fn report(&self, client: SocketAddr) {
        // Dropping the sender tells the receiver.
        drop(self.held().remove(&client));
    }

    fn held(&self) -> MutexGuard<'_, HashMap<SocketAddr, oneshot::Sender<()>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Departure {
    /// Ends when the client is gone. May be called again after that.
    pub(super) async fn happened(&mut self) {
        if !self.receiver.is_terminated() {
            let _ = (&mut self.receiver).await;
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        // Only its own entry: if the sender is gone, another may listen for this address by now.
        self.receiver.close();
        let mut held = self.departures.held();
        if held
            .get(&self.client)
            .is_some_and(oneshot::Sender::is_closed)
        {
            held.remove(&self.client);
        }
    }
}

//! Clients that close a connection which went to the agent, as the programs report them.
//!
//! A client that has closed its socket and one that has only said that it will send no more look
//! the same from here; the programs know the difference. A connection is known by its client's
//! address and by when it was published: an address may soon be used for another one.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::oneshot;

/// Who waits to hear of which client.
#[derive(Clone, Debug, Default)]
pub(super) struct Departures(Arc<Mutex<Watch>>);

#[derive(Debug, Default)]
struct Watch {
    clients: HashMap<SocketAddr, Watched>,
    last_number: u64,
}

#[derive(Debug)]
struct Watched {
    /// Of its [`Departure`].
    number: u64,
    sender: oneshot::Sender<()>,
    connection: Connection,
}

/// What is known of the connection that is watched.
#[derive(Debug)]
enum Connection {
    /// Not yet which one it is; of these, by when they were published, the clients have gone.
    Unknown(Vec<Duration>),
    /// The one that was published then.
    Published(Duration),
}

/// Hears of the departure of one connection's client.
#[derive(Debug)]
pub(super) struct Departure {
    number: u64,
    client: SocketAddr,
    departures: Departures,
    receiver: oneshot::Receiver<()>,
}

impl Departures {
    /// Begins to listen, before it is known which connection of that address this is. An address
    /// has one connection at a time, so whoever listened for an earlier one hears that that is over.
    pub(super) fn watch(&self, client: SocketAddr) -> Departure {
        let (sender, receiver) = oneshot::channel();
        let mut watch = self.held();
        watch.last_number += 1;
        let number = watch.last_number;
        let watched = Watched {
            number,
            sender,
            connection: Connection::Unknown(Vec::new()),
        };
        watch.clients.insert(client, watched);
        drop(watch);
        Departure {
            number,
            client,
            departures: self.clone(),
            receiver,
        }
    }

    /// The client of a connection is gone.
    pub(super) fn report(&self, client: SocketAddr, published_at: Duration) {
        let mut watch = self.held();
        let Some(watched) = watch.clients.get_mut(&client) else {
            return;
        };
        match &mut watched.connection {
            Connection::Unknown(gone) => gone.push(published_at),
            Connection::Published(at) if *at == published_at => watch.tell(client),
            // An earlier connection from the same address.
            Connection::Published(_) => {}
        }
    }

    fn held(&self) -> MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watch {
    fn tell(&mut self, client: SocketAddr) {
        if let Some(watched) = self.clients.remove(&client) {
            // The receiver may be about to go itself.
            let _ = watched.sender.send(());
        }
    }
}

impl Departure {
    /// Says which connection is meant. If its client has gone meanwhile, that is heard at once.
    pub(super) fn is_of(&self, published_at: Duration) {
        let mut watch = self.departures.held();
        let own = watch.clients.get_mut(&self.client);
        let Some(watched) = own.filter(|watched| watched.number == self.number) else {
            return;
        };
        match &watched.connection {
            Connection::Unknown(gone) if gone.contains(&published_at) => watch.tell(self.client),
            _ => watched.connection = Connection::Published(published_at),
        }
    }

    /// Ends when the client is gone. May be called again after that.
    pub(super) async fn happened(&mut self) {
        if !self.receiver.is_terminated() {
            let _ = (&mut self.receiver).await;
        }
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        let mut watch = self.departures.held();
        let own = watch.clients.get(&self.client);
        if own.is_some_and(|watched| watched.number == self.number) {
            watch.clients.remove(&self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_nanos(1);
    const SECOND: Duration = Duration::from_nanos(2);

    fn client() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], 40_000))
    }

    fn heard(departure: &mut Departure) -> bool {
        departure.receiver.try_recv().is_ok()
    }

    #[test]
    fn a_departure_is_heard_by_the_one_it_concerns() {
        let departures = Departures::default();
        let mut departure = departures.watch(client());
        departure.is_of(SECOND);
        departures.report(client(), FIRST);
        assert!(!heard(&mut departure), "that was an earlier connection");
        departures.report(client(), SECOND);
        assert!(heard(&mut departure));
    }

    #[test]
    fn one_before_it_is_known_which_connection_it_is_is_not_lost() {
        let departures = Departures::default();
        let mut departure = departures.watch(client());
        departures.report(client(), FIRST);
        departures.report(client(), SECOND);
        departure.is_of(SECOND);
        assert!(heard(&mut departure));
    }

    #[tokio::test]
    async fn whoever_watched_an_earlier_connection_hears_that_it_is_over() {
        let departures = Departures::default();
        let mut earlier = departures.watch(client());
        earlier.is_of(FIRST);
        let mut later = departures.watch(client());
        later.is_of(SECOND);
        earlier.happened().await;
        earlier.happened().await;
        drop(earlier);
        departures.report(client(), SECOND);
        assert!(heard(&mut later), "the end of the earlier took it along");
        assert!(departures.held().clients.is_empty());
    }
}

//! Where connections that the programs sent arrive: the agent's listeners, and who gets what.
//!
//! The programs let only published flows reach the listeners; whoever arrives here is looked up by
//! its address, which says what it dialled.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::net::{TcpListener, TcpStream};
use tracing::Instrument as _;

use super::{
    Departures, Identity, Queue, Queues, Reason, Sent, Visit, refuse, relay, request,
    shutdown::Shutdown, upstream,
};
use crate::{kernel::Kernel, model::Admission};

/// How long to wait when the process has no descriptor left for another connection.
const OUT_OF_DESCRIPTORS: Duration = Duration::from_millis(20);
/// How long one who was sent to the agent can be on the way, and how often to look who is, once no
/// more are sent.
const ON_THE_WAY: Duration = Duration::from_millis(100);
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often to say so.
const SAY_EVERY: Duration = Duration::from_secs(1);

/// What a worker needs to serve what arrives.
#[derive(Clone)]
pub(super) struct Gate {
    pub(super) kernel: Arc<Kernel>,
    pub(super) queues: Arc<Queues>,
    pub(super) departures: Departures,
    pub(super) proxy: Arc<request::Proxy>,
    pub(super) shutdown: Arc<Shutdown>,
}

impl Gate {
    /// Serves what arrives at a listener, for as long as the runtime lives.
    pub(super) async fn serve(self, listener: TcpListener) {
        let mut said_at = None;
        loop {
            match listener.accept().await {
                Ok((stream, client)) => self.admit(stream, client),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    if said_at.is_none_or(|at: Instant| at.elapsed() >= SAY_EVERY) {
                        said_at = Some(Instant::now());
                        tracing::warn!(%error, "connections cannot be accepted; trying again");
                    }
                    tokio::time::sleep(OUT_OF_DESCRIPTORS).await;
                }
            }
        }
    }

    /// Ends when nobody is on the way any more, or has been for longer than that can take.
    pub(super) async fn all_arrived(&self) {
        let ends = Instant::now() + ON_THE_WAY;
        while Instant::now() < ends {
            match self.kernel.flows() {
                Ok(flows) if !flows.is_empty() => tokio::time::sleep(LOOK_EVERY).await,
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(%error, "who is still on the way cannot be seen");
                    return;
                }
            }
        }
    }

    /// Finds out what the client dialled, and starts to serve it.
    fn admit(&self, stream: TcpStream, client: SocketAddr) {
        let client = SocketAddr::new(client.ip().to_canonical(), client.port());
        // One that was reset before it was accepted has no peer any more. What is published under
        // its address now is another connection.
        if stream.peer_addr().is_err() {
            return;
        }
        // First, so that no departure after the claim is missed.
        let departure = self.departures.watch(client);
        let target = match self.kernel.claim_flow(client) {
            Ok(Some(target)) => target,
            // The client has closed the connection while it was on its way.
            Ok(None) => return,
            Err(error) => {
                tracing::error!(%error, %client, "a connection cannot be looked up, and is closed");
                return;
            }
        };
        let came_at = Duration::from_nanos(target.steered_at_ns);
        departure.is_of(came_at);
        let sent = Sent::new(self.queues.clone(), target.service);
        let Some(queue) = self.queues.of(target.service) else {
            // The service went while the connection was on its way.
            refuse::reset(stream);
            return;
        };
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, %client, "TCP_NODELAY cannot be set");
        }
        upstream::watch_over(&stream);
        match queue.view().admission.value {
            Admission::Request => {
                drop(sent);
                let proxy = self.proxy.clone();
                tokio::spawn(request::serve(proxy, queue, stream, client, departure));
            }
            _ => {
                let span = tracing::debug_span!(
                    "connection",
                    id = %format_args!("{:016x}", fastrand::u64(..)),
                    %client,
                    service = %queue.view().name,
                );
                let identity = Identity::numbered(target.client);
                let visit = Visit::new(queue.clone(), came_at, Some(sent)).by(identity);
                let serving = connection(queue, visit, stream, departure);
                let shutdown = self.shutdown.clone();
                self.shutdown.served().spawn(async move {
                    tokio::select! {
                        () = serving.instrument(span) => {}
                        () = shutdown.over() => {}
                    }
                });
            }
        }
    }
}

/// Serves one connection: a slot for as long as it lasts.
async fn connection(
    queue: Arc<Queue>,
    mut visit: Visit,
    client: TcpStream,
    mut departure: super::Departure,
) {
    let outcome = tokio::select! {
        biased;
        () = departure.happened() => {
            tracing::debug!("the client is gone");
            return;
        }
        outcome = backend(&mut visit) => outcome,
    };
    match outcome {
        Ok((slot, backend)) => {
            drop(visit);
            relay::relay(client, backend, slot, departure).await;
        }
        Err(reason) => {
            tracing::debug!(%reason, "is refused");
            refuse::refuse_connection(client, reason, &queue.view()).await;
        }
    }
}

/// A slot, and a connection to its backend.
async fn backend(visit: &mut Visit) -> Result<(super::Slot, relay::Backend), Reason> {
    loop {
        let slot = visit.slot().await?;
        let began = Instant::now();
        let connecting = upstream::connect(slot.address());
        let connected = tokio::time::timeout_at(visit.ends().into(), connecting).await;
        let error = match connected {
            Ok(Ok(stream)) => {
                let backend = relay::Backend {
                    stream,
                    connected_in: began.elapsed(),
                };
                tracing::debug!(backend = %slot.address(), after = ?visit.began().elapsed(), "is passed on");
                slot.connected();
                visit.served();
                return Ok((slot, backend));
            }
            Ok(Err(error)) => error,
            Err(_) => std::io::ErrorKind::TimedOut.into(),
        };
        tracing::debug!(backend = %slot.address(), %error, "cannot connect");
        visit.failed(slot, &error).await?;
    }
}

/// Whether accepting failed for the sake of one connection, and the next may be fine (accept(2)).
fn is_of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionReset | Interrupted
    )
}

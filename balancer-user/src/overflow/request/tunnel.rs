//! Connections that were upgraded: bytes both ways, until either side ends it.

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::copy_bidirectional_with_sizes;
use tracing::{Instrument, debug};

use super::exchange::InFlight;

/// Bytes held for each direction at most.
const BUFFER: usize = 16 * 1024;

/// Passes bytes on between a client and a backend that have agreed on another protocol, beside
/// whatever else is going on. The slot is held until both are done.
pub(super) fn start(client: OnUpgrade, backend: OnUpgrade, in_flight: InFlight) {
    let (tasks, closed) = (
        in_flight.proxy().tasks.clone(),
        in_flight.proxy().closed.clone(),
    );
    let span = in_flight.span().clone();
    let splice = async move {
        tokio::select! {
            () = splice(client, backend) => {}
            () = closed.cancelled() => {}
        }
        drop(in_flight);
    };
    tasks.spawn(splice.instrument(span));
}

async fn splice(client: OnUpgrade, backend: OnUpgrade) {
    let (client, backend) = match tokio::try_join!(client, backend) {
        Ok(both) => both,
        Err(error) => {
            debug!(%error, "the upgrade did not happen");
            return;
        }
    };
    let (mut client, mut backend) = (TokioIo::new(client), TokioIo::new(backend));
    match copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER).await {
        Ok((sent, received)) => debug!(sent, received, "the upgraded connection is over"),
        Err(error) => debug!(%error, "the upgraded connection broke"),
    }
}

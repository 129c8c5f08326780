//! Connections that were upgraded: bytes both ways, until either side ends it.

use std::io;

use hyper::{body::Bytes, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncWriteExt, copy_bidirectional_with_sizes},
    net::TcpStream,
};
use tracing::{Instrument, debug};

use super::exchange::InFlight;

/// Bytes held for each direction at most.
const BUFFER: usize = 16 * 1024;

/// Passes bytes on between a client and a backend that have agreed on another protocol, beside
/// whatever else is going on. `first` has come of the backend already. The slot is held until both
/// are done.
pub(super) fn start(client: OnUpgrade, (backend, first): (TcpStream, Bytes), in_flight: InFlight) {
    let shutdown = in_flight.proxy().shutdown.clone();
    let served = shutdown.served().clone();
    let span = in_flight.span().clone();
    let splice = async move {
        tokio::select! {
            result = splice(client, backend, first) => match result {
                Ok((sent, received)) => debug!(sent, received, "the upgraded connection is over"),
                Err(error) => debug!(%error, "the upgraded connection broke"),
            },
            () = shutdown.over() => {}
        }
        in_flight.finish(None);
    };
    served.spawn(splice.instrument(span));
}

async fn splice(client: OnUpgrade, mut backend: TcpStream, first: Bytes) -> io::Result<(u64, u64)> {
    let mut client = TokioIo::new(client.await.map_err(io::Error::other)?);
    client.write_all(&first).await?;
    copy_bidirectional_with_sizes(&mut client, &mut backend, BUFFER, BUFFER).await
}

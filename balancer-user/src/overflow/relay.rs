//! Passing the bytes of one connection on, both ways.
//!
//! Nothing is looked at and no more than a buffer is held: whoever reads slowly slows the other
//! down. An end of one direction is passed on and leaves the other running.

use std::io;

use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf},
    net::TcpStream,
};

use super::{Departure, Slot, refuse};

/// Bytes held for each direction at most.
const BUFFER: usize = 16 * 1024;

/// Relays between a client and its backend until both are done. The slot is given back when the
/// backend has said its last, or when the client is gone.
pub(super) async fn relay(
    mut client: TcpStream,
    mut backend: TcpStream,
    slot: Slot,
    mut departure: Departure,
) {
    let result = {
        let (from_client, mut to_client) = client.split();
        let (from_backend, mut to_backend) = backend.split();
        let upwards = pass_on(from_client, &mut to_backend);
        let downwards = async {
            let result = tokio::select! {
                result = pass_on(from_backend, &mut to_client) => result,
                // What the client sent before it went still has to reach the backend.
                () = departure.happened() => Ok(()),
            };
            drop(slot);
            result
        };
        tokio::try_join!(upwards, downwards)
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a relayed connection broke");
        // Neither side may take this for an orderly end.
        refuse::reset(client);
        refuse::reset(backend);
    }
}

/// Passes on all there is, and then that there is no more.
async fn pass_on(
    from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    copy_buf(&mut BufReader::with_capacity(BUFFER, from), to).await?;
    // The other side may have closed for good meanwhile; then it need not be told.
    match to.shutdown().await {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

//! Passing the bytes of one connection on, both ways.
//!
//! Nothing is looked at and no more than a buffer is held: whoever reads slowly slows the other
//! down. An end of one direction is passed on and leaves the other running.

use std::{
    io::{self, ErrorKind::TimedOut},
    pin::pin,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf},
    net::TcpStream,
    time::timeout,
};

use super::{Departure, Slot, refuse};

/// Bytes held for each direction at most.
const BUFFER: usize = 16 * 1024;

/// How long what a client sent before it went may take to reach the backend.
const DRAIN: Duration = Duration::from_secs(5);

/// A connection to a backend.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) stream: TcpStream,
    /// How long it took to stand.
    pub(super) connected_in: Duration,
}

/// Relays between a client and its backend until both are done, or the client is gone. The slot is
/// given back when the backend has said its last, or after the connection.
pub(super) async fn relay(
    mut client: TcpStream,
    backend: Backend,
    slot: Slot,
    mut departure: Departure,
) {
    let stopwatch = slot.stopwatch(backend.connected_in);
    // Before the connection, so that it goes after it, however this ends: the backend must not see
    // whoever has the slot next before it has seen this one's end.
    let mut slot = Some(slot);
    let mut backend = backend.stream;
    let result = {
        let (from_client, mut to_client) = client.split();
        let (from_backend, mut to_backend) = backend.split();
        let mut upwards = pin!(pass_on(from_client, &mut to_backend, || stopwatch.asked()));
        let mut downwards = pin!(pass_on(from_backend, &mut to_client, || stopwatch.answered()));
        let (mut is_up_done, mut is_down_done) = (false, false);
        loop {
            let result = tokio::select! {
                result = &mut upwards, if !is_up_done => {
                    is_up_done = true;
                    result
                }
                result = &mut downwards, if !is_down_done => {
                    is_down_done = true;
                    stopwatch.settled();
                    drop(slot.take());
                    result
                }
                // Nobody reads the answer any more, but what was sent has to reach the backend.
                () = departure.happened() => {
                    break match is_up_done {
                        true => Ok(()),
                        false => timeout(DRAIN, upwards).await.unwrap_or(Err(TimedOut.into())),
                    };
                }
            };
            if result.is_err() || (is_up_done && is_down_done) {
                break result;
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a relayed connection broke");
        // Neither side may take this for an orderly end.
        refuse::reset(client);
        refuse::reset(backend);
    }
}

/// Passes on all there is, and then that there is no more. `begun` is called when the first of it is
/// there.
async fn pass_on(
    from: impl AsyncRead + Unpin,
    to: &mut (impl AsyncWrite + Unpin),
    begun: impl FnOnce(),
) -> io::Result<()> {
    let mut from = BufReader::with_capacity(BUFFER, from);
    if !from.fill_buf().await?.is_empty() {
        begun();
    }
    copy_buf(&mut from, to).await?;
    // The other side may have closed for good meanwhile; then it need not be told.
    match to.shutdown().await {
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
        result => result,
    }
}

//! A connection in memory: what comes of the other side, piece by piece, and what was sent to it.
//!
//! Called by the targets that serve connections.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use fastrand::Rng;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
};

/// One side of a connection. When all pieces are read, the other side sends no more.
pub struct Stream {
    pieces: VecDeque<Vec<u8>>,
    /// The next piece comes only after the reader has been told that there is none yet.
    is_due: bool,
    written: Written,
}

/// What was written to a stream so far.
#[derive(Clone, Default)]
pub struct Written(Arc<Mutex<Vec<u8>>>);

impl Written {
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().expect("nobody panics with it"))
    }
}

impl Stream {
    /// All at once.
    pub fn whole(bytes: &[u8]) -> (Self, Written) {
        Self::of(VecDeque::from([bytes.to_vec()]))
    }

    /// In pieces of any size.
    pub fn in_pieces(mut bytes: &[u8], seed: u64) -> (Self, Written) {
        let mut random = Rng::with_seed(seed);
        let mut pieces = VecDeque::new();
        while !bytes.is_empty() {
            // Many small ones, and a few that are not.
            let most = 1 << random.u32(0..12);
            let (piece, rest) = bytes.split_at(random.usize(1..=most).min(bytes.len()));
            pieces.push_back(piece.to_vec());
            bytes = rest;
        }
        Self::of(pieces)
    }

    fn of(pieces: VecDeque<Vec<u8>>) -> (Self, Written) {
        let written = Written::default();
        let stream = Self {
            pieces,
            is_due: true,
            written: written.clone(),
        };
        (stream, written)
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !std::mem::replace(&mut self.is_due, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(piece) = self.pieces.front_mut() {
            let count = piece.len().min(buffer.remaining());
            buffer.put_slice(&piece[..count]);
            piece.drain(..count);
            if piece.is_empty() {
                self.pieces.pop_front();
                self.is_due = false;
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut written = self.written.0.lock().expect("nobody panics with it");
        written.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Runs a future to its end.
pub fn run<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime without sockets");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

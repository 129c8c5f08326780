//! Clients that are too slow: with a head, with a body, or with taking an answer.
//!
//! Owns the notes that one connection keeps of what it waits for, and what it may wait. Time is
//! counted in ticks, so that a request costs no look at a clock. Called by `session`, which ticks
//! and ends a connection that is over its time, and by whatever reads and writes for it.

use std::{
    io::IoSlice,
    mem::MaybeUninit,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::body::Bytes;
use tokio::{
    io::{self, AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, sleep},
};

/// From one tick to the next: the precision of all limits here.
pub(super) const TICK: Duration = Duration::from_secs(5);
/// How long a head may take from its first byte, in ticks: 10 s, and up to a tick more.
const HEAD_TICKS: u32 = 2;
/// How long a client may neither send of a body nor take of an answer, in ticks: 30 s.
const STALL_TICKS: u32 = 6;
/// How long a connection may be silent between requests, in ticks: 75 s.
const IDLE_TICKS: u32 = 15;

/// How long a closed connection may linger, and how much of what still comes is thrown away.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// No tick: nothing is waited for.
const NOT: u32 = 0;

/// What one client connection waits for, and since when. Written by its own worker only.
#[derive(Debug)]
pub(super) struct Watch {
    /// Ticks so far; from 1.
    now: AtomicU32,
    /// Requests in flight.
    requests: AtomicU32,
    /// Since when no request is in flight and no byte of one is there.
    idle_since: AtomicU32,
    /// Since when there is a piece of a head.
    head_since: AtomicU32,
    /// Since when a body is waited for.
    body_since: AtomicU32,
    /// Since when bytes for the client cannot be sent.
    blocked_since: AtomicU32,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            now: AtomicU32::new(1),
            requests: AtomicU32::new(0),
            idle_since: AtomicU32::new(1),
            head_since: AtomicU32::new(NOT),
            body_since: AtomicU32::new(NOT),
            blocked_since: AtomicU32::new(NOT),
        }
    }
}

/// What a client was too slow with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slowness {
    /// It asked for nothing for too long.
    Idle,
    /// The head of a request.
    Head,
    /// The body of a request.
    Body,
    /// Taking the answer.
    Answer,
}

impl Watch {
    /// A tick has passed. Says whether the client is over its time.
    pub(super) fn tick(&self) -> Option<Slowness> {
        let now = self.now.load(Relaxed).wrapping_add(1).max(1);
        self.now.store(now, Relaxed);
        let is_over = |since: &AtomicU32, limit: u32| {
            let since = since.load(Relaxed);
            since != NOT && now.wrapping_sub(since) > limit
        };
        if is_over(&self.blocked_since, STALL_TICKS) {
            return Some(Slowness::Answer);
        }
        if is_over(&self.body_since, STALL_TICKS) {
            return Some(Slowness::Body);
        }
        if is_over(&self.head_since, HEAD_TICKS) {
            return Some(Slowness::Head);
        }
        is_over(&self.idle_since, IDLE_TICKS).then_some(Slowness::Idle)
    }

    /// A request's head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> Begun {
        self.requests.fetch_add(1, Relaxed);
        self.head_since.store(NOT, Relaxed);
        self.idle_since.store(NOT, Relaxed);
        Begun(self.clone())
    }

    /// A request's body is waited for, or no more.
    pub(super) fn body(&self, is_missing: bool) {
        self.mark(&self.body_since, is_missing);
    }

    fn received(&self) {
        if self.requests.load(Relaxed) == 0 && self.head_since.load(Relaxed) == NOT {
            self.head_since.store(self.now.load(Relaxed), Relaxed);
            self.idle_since.store(NOT, Relaxed);
        }
    }

    fn mark(&self, since: &AtomicU32, is_waiting: bool) {
        if !is_waiting {
            since.store(NOT, Relaxed);
        } else if since.load(Relaxed) == NOT {
            since.store(self.now.load(Relaxed), Relaxed);
        }
    }
}

/// A request in flight, for as long as it is.
#[derive(Debug)]
pub(super) struct Begun(Arc<Watch>);

impl Begun {
    /// The notes of its connection.
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.0
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.body_since.store(NOT, Relaxed);
        if self.0.requests.fetch_sub(1, Relaxed) == 1 {
            self.0.mark(&self.0.idle_since, true);
        }
    }
}

/// A client's connection, watched. What was read of it before comes first.
#[derive(Debug)]
pub(super) struct Watched {
    stream: TcpStream,
    first: Bytes,
    watch: Arc<Watch>,
    /// The client will send no more.
    is_at_end: bool,
    lingering: Option<Lingering>,
}

/// A connection that has been shut from this side.
#[derive(Debug)]
struct Lingering {
    is_over: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl Watched {
    pub(super) fn new(stream: TcpStream, first: Bytes, watch: Arc<Watch>) -> Self {
        Self {
            stream,
            first,
            watch,
            is_at_end: false,
            lingering: None,
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let length = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(length));
            self.watch.received();
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        match buffer.filled().len() > before {
            true => self.watch.received(),
            false => self.is_at_end = true,
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch.mark(&self.watch.blocked_since, result.is_pending());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch.mark(&self.watch.blocked_since, result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    /// Says that there is no more, and then waits, for a moment, for the client to say so too: what
    /// it still sends would make the kernel reset the connection, and the client lose the answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.lingering.is_none() {
            ready!(Pin::new(&mut self.stream).poll_shutdown(context))?;
        }
        let this = &mut *self;
        let lingering = this.lingering.get_or_insert_with(|| Lingering {
            is_over: Box::pin(sleep(LINGER)),
            bytes_left: LINGER_BYTES,
        });
        let mut scrap = [MaybeUninit::uninit(); 4096];
        while !this.is_at_end && lingering.bytes_left > 0 {
            let mut scrap = ReadBuf::uninit(&mut scrap);
            match Pin::new(&mut this.stream).poll_read(context, &mut scrap) {
                Poll::Ready(Ok(())) => this.is_at_end = scrap.filled().is_empty(),
                Poll::Ready(Err(_)) => this.is_at_end = true,
                Poll::Pending => return lingering.is_over.as_mut().poll(context).map(Ok),
            }
            lingering.bytes_left = lingering.bytes_left.saturating_sub(scrap.filled().len());
        }
        Poll::Ready(Ok(()))
    }
}

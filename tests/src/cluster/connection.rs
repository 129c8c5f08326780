//! The port and its connections: who is let in, when bytes are on the wire, and the end of both.
//!
//! An outage closes the port as a dead server would, without losing it to anyone else. Called by
//! `Cluster`; requests go to `answer`.

use std::{
    collections::VecDeque,
    io,
    net::Shutdown,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hyper::{
    body::{Body, Frame, SizeHint},
    rt::{Read, ReadBufCursor, Write},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use socket2::Socket;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{answer::Answering, faults::State, written::Mark};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// A part of a watch stream.
pub(super) enum Piece {
    /// Bytes, and who wants to know when they are on the wire.
    Bytes(Bytes, Vec<Mark>),
    /// Nothing more, and no proper end either.
    Break,
}

/// An answer's body.
pub(super) enum Reply {
    Whole(Option<Bytes>),
    Stream(mpsc::Receiver<Piece>, Arc<Marks>),
}

/// The stream is broken off on demand.
#[derive(Debug, thiserror::Error)]
#[error("broken off")]
pub(super) struct BrokenOff;

/// Who wants to know when what was taken for sending is on the wire.
#[derive(Default)]
pub(super) struct Marks(Mutex<VecDeque<Mark>>);

/// Serves until it is dropped.
pub(super) async fn serve(
    listener: Socket,
    answering: Arc<Answering>,
    mut faults: watch::Receiver<State>,
    serving: watch::Sender<bool>,
) {
    loop {
        if let Err(error) = serve_until_outage(&listener, &answering, &mut faults, &serving).await {
            eprintln!("the API server's port cannot be opened: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        serving.send_replace(false);
        changed_to(&mut faults, false).await;
    }
}

async fn serve_until_outage(
    socket: &Socket,
    answering: &Arc<Answering>,
    faults: &mut watch::Receiver<State>,
    serving: &watch::Sender<bool>,
) -> io::Result<()> {
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.try_clone()?.into())?;
    serving.send_replace(true);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // Also when nobody can switch faults any more: then this task is about to end, too.
            () = changed_to(faults, true) => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(stream, Arc::clone(answering)));
                }
                // The client was faster in giving up, or descriptors are short for a moment.
                Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    let address = socket.local_addr()?;
    drop(listener);
    // A listener that is shut down refuses, and can listen again (net/ipv4/af_inet.c,
    // inet_shutdown). It keeps its port only if it asked for that one, hence the second bind,
    // which is refused as invalid if it was kept.
    socket.shutdown(Shutdown::Both)?;
    connections.shutdown().await;
    match socket.bind(&address) {
        Err(error) if error.kind() != io::ErrorKind::InvalidInput => Err(error),
        _ => Ok(()),
    }
}

async fn changed_to(faults: &mut watch::Receiver<State>, outage: bool) {
    let _ = faults.wait_for(|state| state.outage == outage).await;
}

async fn serve_connection(stream: TcpStream, answering: Arc<Answering>) {
    // Events are small and must not wait for each other.
    let _ = stream.set_nodelay(true);
    let marks = Arc::new(Marks::default());
    let io = Marked {
        io: TokioIo::new(stream),
        marks: Arc::clone(&marks),
    };
    let service = service_fn(|request| answering.answer(request, &marks));
    // Broken off by either side; the client's requests say what was asked.
    let _ = http1::Builder::new().serve_connection(io, service).await;
}

impl Reply {
    pub(super) fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Some(bytes.into()))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let frame = match self.get_mut() {
            Self::Whole(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Self::Stream(pieces, marks) => match ready!(pieces.poll_recv(cx)) {
                Some(Piece::Bytes(bytes, new)) => {
                    marks.add(new);
                    Some(Ok(Frame::data(bytes)))
                }
                Some(Piece::Break) => Some(Err(BrokenOff)),
                None => None,
            },
        };
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Stream(..) => SizeHint::default(),
        }
    }
}

impl Marks {
    fn add(&self, marks: Vec<Mark>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(marks);
    }

    /// Everything that was taken is on the wire.
    fn tell(&self) {
        let mut marks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !marks.is_empty() {
            let now = Instant::now();
            marks.drain(..).for_each(|mark| mark(now));
        }
    }
}

/// A connection that tells marks.
struct Marked {
    io: TokioIo<TcpStream>,
    marks: Arc<Marks>,
}

impl Read for Marked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl Write for Marked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, slices)
    }

    /// hyper flushes the connection when it has written all that it took from the body, and not
    /// before: see `Buffered::poll_flush` in its `proto/h1/io.rs`.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.io).poll_flush(cx));
        if flushed.is_ok() {
            self.marks.tell();
        }
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

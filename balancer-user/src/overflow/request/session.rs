//! One client connection: which protocol it speaks, and its end.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
    time::Duration,
};

use bytes::BytesMut;
use hyper::{
    body::Bytes,
    header::HeaderValue,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    net::TcpStream,
    time::{Instant, sleep},
};

use tracing::debug;

use super::{
    Proxy,
    client::Client,
    exchange,
    head::MAX_HEAD_BYTES,
    watch::{TICK, Watch},
};
use crate::overflow::{Departure, Queue, identity};

/// Bytes read before it is known which protocol is spoken.
const FIRST_BYTES: usize = 8 * 1024;
/// Bytes for a client that the kernel holds and has not sent. With more, a client that is merely
/// slow would leave no trace of what it takes for longer than `watch` waits.
const UNSENT_BYTES: u32 = 128 * 1024;
/// Requests at once on one HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// How often a silent HTTP/2 client is asked whether it is still there.
const PING_EVERY: Duration = Duration::from_secs(20);
/// With what HTTP/2 begins.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the requests of one client connection have in common.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) proxy: Arc<Proxy>,
    pub(super) queue: Arc<Queue>,
    pub(super) watch: Arc<Watch>,
    /// The client's address, as it stands in headers.
    pub(super) client: HeaderValue,
    /// The number of the client's address, without its port.
    pub(super) source: u64,
    /// What stands for the host in requests that name none, as those of HTTP/1.0 need not.
    pub(super) host: HeaderValue,
}

/// Serves a client's connection until it ends, or the client is gone.
pub(in crate::overflow) async fn serve(
    proxy: Arc<Proxy>,
    queue: Arc<Queue>,
    stream: TcpStream,
    client: SocketAddr,
    departure: Departure,
) {
    let served = proxy.shutdown.served().clone();
    let session = Arc::new(Session::new(proxy, queue, client));
    served.track_future(session.serve(stream, departure)).await;
}

impl Session {
    fn new(proxy: Arc<Proxy>, queue: Arc<Queue>, client: SocketAddr) -> Self {
        let ascii =
            |text: String| HeaderValue::try_from(text).expect("addresses and names are ASCII");
        let name = &queue.view().name;
        Self {
            source: identity::of_address(client.ip()),
            client: ascii(client.ip().to_canonical().to_string()),
            host: ascii(format!("{}.{}", name.name, name.namespace)),
            proxy,
            queue,
            watch: Arc::default(),
        }
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream, mut departure: Departure) {
        if let Err(error) = SockRef::from(&stream).set_tcp_notsent_lowat(UNSENT_BYTES) {
            debug!(%error, "a slow client may be taken for one that is gone");
        }
        let first = tokio::select! {
            () = departure.happened() => return,
            () = self.proxy.shutdown.begun() => return,
            () = self.over_time() => return,
            first = first_bytes(&mut stream, || self.watch.received(true)) => first,
        };
        let Ok(first) = first else { return };
        let is_http2 = first.starts_with(PREFACE);
        let (session, watch) = (self.clone(), self.watch.clone());
        let service = service_fn(move |request| exchange::answer(&session, request));
        if is_http2 {
            let io = TokioIo::new(Client::http2(stream, first, watch));
            let connection = http2().serve_connection(io, service);
            // In a box, since it is large, and rare.
            Box::pin(self.drive(connection, departure, |connection| {
                connection.graceful_shutdown()
            }))
            .await;
        } else {
            let io = TokioIo::new(Client::http1(stream, first, watch));
            let connection = http1().serve_connection(io, service).with_upgrades();
            self.drive(connection, departure, |connection| {
                connection.graceful_shutdown()
            })
            .await;
        }
    }

    /// Runs a connection until it ends, the agent stops, or the client is over its time.
    async fn drive<C>(&self, connection: C, mut departure: Departure, end: impl Fn(Pin<&mut C>))
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut connection = pin!(connection);
        // The library does not notice while it has a body to deliver that nobody asks for.
        let mut gone = pin!(departure.happened());
        let mut ticks = pin!(sleep(TICK));
        let mut closing = pin!(self.proxy.shutdown.begun());
        let mut closed = pin!(self.proxy.shutdown.over());
        let mut is_first = true;
        let mut is_closing = false;
        poll_fn(|context| {
            if let Poll::Ready(result) = connection.as_mut().poll(context) {
                if let Err(error) = result {
                    debug!(%error, "a client's connection broke");
                }
                return Poll::Ready(());
            }
            if gone.as_mut().poll(context).is_ready() {
                debug!(client = ?self.client, "the client is gone");
                return Poll::Ready(());
            }
            // What follows is rare, and polled only when there is a reason.
            let is_stopping = self.proxy.shutdown.is_begun();
            if !is_first && !is_stopping && !ticks.is_elapsed() {
                return Poll::Pending;
            }
            is_first = false;
            if !is_closing && closing.as_mut().poll(context).is_ready() {
                is_closing = true;
                end(connection.as_mut());
                context.waker().wake_by_ref();
            }
            if is_closing && closed.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            while ticks.as_mut().poll(context).is_ready() {
                if self.is_over_time() {
                    return Poll::Ready(());
                }
                ticks.as_mut().reset(Instant::now() + TICK);
            }
            Poll::Pending
        })
        .await;
    }

    /// Ends when the client is over its time.
    async fn over_time(&self) {
        loop {
            sleep(TICK).await;
            if self.is_over_time() {
                return;
            }
        }
    }

    fn is_over_time(&self) -> bool {
        let slowness = self.watch.tick();
        if let Some(slowness) = slowness {
            debug!(?slowness, client = ?self.client, "a client's connection is closed");
        }
        slowness.is_some()
    }
}

pub(super) fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(MAX_HEAD_BYTES)
        // One who will send no more still waits for the answer; that a client is gone, the programs
        // tell.
        .half_close(true)
        .timer(TokioTimer::new());
    builder.header_read_timeout(None);
    builder
}

pub(super) fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .keep_alive_interval(PING_EVERY);
    builder
}

/// What comes first: as much as shows whether it is the preface of HTTP/2. Calls `begun` if that
/// takes more than one look.
pub(super) async fn first_bytes(
    stream: &mut (impl AsyncRead + Unpin),
    begun: impl Fn(),
) -> io::Result<Bytes> {
    let mut first = BytesMut::with_capacity(FIRST_BYTES);
    loop {
        if stream.read_buf(&mut first).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = first.len().min(PREFACE.len());
        if length == PREFACE.len() || first[..length] != PREFACE[..length] {
            return Ok(first.freeze());
        }
        begun();
    }
}

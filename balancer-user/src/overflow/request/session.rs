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
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval_at},
};

use super::{
    Proxy,
    client::Client,
    exchange,
    watch::{TICK, Watch},
};
use crate::overflow::Queue;

/// Bytes of a request's head at most.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Bytes read before it is known which protocol is spoken.
const FIRST_BYTES: usize = 8 * 1024;
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
    /// What stands for the host in requests that name none, as those of HTTP/1.0 need not.
    pub(super) host: HeaderValue,
}

/// Serves a client's connection until it ends.
pub(in crate::overflow) async fn serve(
    proxy: Arc<Proxy>,
    queue: Arc<Queue>,
    stream: TcpStream,
    client: SocketAddr,
) {
    let (tasks, closed) = (proxy.tasks.clone(), proxy.closed.clone());
    let session = Arc::new(Session::new(proxy, queue, client));
    let serving = tasks.track_future(session.serve(stream));
    tokio::select! {
        biased;
        () = closed.cancelled() => {}
        () = serving => {}
    }
}

impl Session {
    fn new(proxy: Arc<Proxy>, queue: Arc<Queue>, client: SocketAddr) -> Self {
        let ascii =
            |text: String| HeaderValue::try_from(text).expect("addresses and names are ASCII");
        let name = &queue.view().name;
        Self {
            client: ascii(client.ip().to_canonical().to_string()),
            host: ascii(format!("{}.{}", name.name, name.namespace)),
            proxy,
            queue,
            watch: Arc::default(),
        }
    }

    async fn serve(self: Arc<Self>, mut stream: TcpStream) {
        let first = tokio::select! {
            () = self.proxy.closing.cancelled() => return,
            () = self.over_time() => return,
            first = first_bytes(&mut stream, || self.watch.received(true)) => first,
        };
        let Ok(first) = first else { return };
        let is_http2 = first.starts_with(PREFACE);
        let watch = self.watch.clone();
        let session = self.clone();
        let service = service_fn(move |request| exchange::answer(session.clone(), request));
        if is_http2 {
            let io = TokioIo::new(Client::http2(stream, first, watch));
            let connection = http2().serve_connection(io, service);
            self.drive(connection, |connection| connection.graceful_shutdown())
                .await;
        } else {
            let io = TokioIo::new(Client::http1(stream, first, watch));
            let connection = http1().serve_connection(io, service).with_upgrades();
            self.drive(connection, |connection| connection.graceful_shutdown())
                .await;
        }
    }

    /// Runs a connection until it ends, the agent stops, or the client is over its time.
    async fn drive<C>(&self, connection: C, end: impl Fn(Pin<&mut C>))
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let mut connection = pin!(connection);
        let mut over_time = pin!(self.over_time());
        let mut closing = pin!(self.proxy.closing.cancelled());
        let mut is_closing = false;
        poll_fn(|context| {
            if let Poll::Ready(result) = connection.as_mut().poll(context) {
                if let Err(error) = result {
                    tracing::debug!(%error, "a client's connection broke");
                }
                return Poll::Ready(());
            }
            if !is_closing && closing.as_mut().poll(context).is_ready() {
                is_closing = true;
                end(connection.as_mut());
                context.waker().wake_by_ref();
            }
            over_time.as_mut().poll(context)
        })
        .await;
    }

    /// Ends when the client is over its time.
    async fn over_time(&self) {
        let mut ticks = interval_at(Instant::now() + TICK, TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(slowness) = self.watch.tick() {
                tracing::debug!(?slowness, client = ?self.client, "a client's connection is closed");
                return;
            }
        }
    }
}

pub(super) fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(MAX_HEAD_BYTES)
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
pub(super) async fn first_bytes(stream: &mut TcpStream, begun: impl Fn()) -> io::Result<Bytes> {
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

//! Serves HTTP on the bound sockets until told to stop.
//!
//! Owns what keeps one client from harming the others: connections at a time, time to send a
//! request, time to take the answer. Each listener has its own allowance, so whoever crowds the
//! TCP address leaves the unix socket usable.

use std::{
    convert::Infallible, io, mem::MaybeUninit, net::IpAddr, os::fd::AsFd, sync::Arc, time::Duration,
};

use axum::{Router, body::Body};
use http_body_util::BodyExt as _;
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::{Service as _, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use socket2::Socket;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_io_timeout::TimeoutStream;

use super::{
    Context, Listeners, Transport, metrics_router, news,
    permit::Permit,
    places::{Place, Places},
    router,
};
use crate::journal::MAX_LISTENERS;

/// Connections of one listener at a time. Those that follow events take up half of it at most; of
/// the others, whoever has been silent longest makes way for a newcomer.
const MAX_CONNECTIONS: usize = 2 * MAX_LISTENERS;
/// For a request's head, counted from when the connection could take one; so it also ends idle
/// connections.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Without a byte of the answer taken.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// For answers under way at shutdown.
const FAREWELL: Duration = Duration::from_secs(1);
/// Before the next try if the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Listeners {
    /// Answers requests until `shutdown` ends, then lets answers under way finish, for a second
    /// at most. Connections end with the future.
    pub async fn serve(self, context: Context, shutdown: impl Future<Output = ()>) {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        // Kept until the end: their files go with them.
        let mut files = Vec::new();
        for socket in self.unix {
            tracing::info!(address = %format_args!("unix:{}", socket.file.path().display()), "admin API");
            files.push(socket.file);
            let permit = Permit::new(Transport::Unix, self.token_file.as_deref());
            let router = router(context.clone(), permit);
            if let Some(listener) = usable(UnixListener::from_std(socket.listener)) {
                tasks.spawn(accept(listener, router, stopped.clone()));
            }
        }
        for listener in self.tcp {
            if let Some(listener) = usable(TcpListener::from_std(listener)) {
                announce(&listener, "admin API");
                let permit = Permit::new(Transport::Tcp, self.token_file.as_deref());
                let router = router(context.clone(), permit);
                tasks.spawn(accept(listener, router, stopped.clone()));
            }
        }
        if let Some(listener) = self
            .metrics
            .and_then(|metrics| usable(TcpListener::from_std(metrics)))
        {
            announce(&listener, "metrics");
            let router = metrics_router(context.clone());
            tasks.spawn(accept(listener, router, stopped.clone()));
        }
        tasks.spawn(news::watch(context, stopped));
        shutdown.await;
        stop.send_replace(true);
        // Whoever has not finished by then is cut off when `tasks` goes.
        let _ = timeout(FAREWELL, async {
            while tasks.join_next().await.is_some() {}
        })
        .await;
    }
}

fn usable<L>(listener: io::Result<L>) -> Option<L> {
    listener
        .inspect_err(|error| tracing::error!(%error, "a bound socket cannot be listened on"))
        .ok()
}

fn announce(listener: &TcpListener, what: &'static str) {
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "{what}");
    }
}

/// The other end of a connection: who it is, for requests that change something; and whether it is
/// there, for answers that do not end: nobody reads from the connection while it is being answered,
/// so nobody else would notice that the client has gone.
#[derive(Clone, Debug)]
pub(super) struct Peer(Arc<Socket>);

impl Peer {
    fn of(stream: &impl AsFd) -> io::Result<Self> {
        let socket = stream.as_fd().try_clone_to_owned()?;
        Ok(Self(Arc::new(socket.into())))
    }

    /// The user that connected to a unix socket.
    pub(super) fn user(&self) -> Option<u32> {
        let credentials = rustix::net::sockopt::socket_peercred(&*self.0).ok()?;
        Some(credentials.uid.as_raw())
    }

    /// The address that connected over TCP.
    pub(super) fn address(&self) -> Option<IpAddr> {
        let address = self.0.peer_addr().ok()?.as_socket()?;
        Some(address.ip())
    }

    /// Whether the client has closed the connection, or its sending side.
    pub(super) fn is_gone(&self) -> bool {
        match self.0.peek(&mut [MaybeUninit::uninit()]) {
            Ok(bytes) => bytes == 0,
            // The socket does not block.
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
        }
    }
}

/// Something that connections come from.
trait Accept: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static;
    fn next(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Accept for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        let (stream, _) = self.accept().await?;
        // Answers go out in one piece.
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }
}

impl Accept for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn next(&self) -> io::Result<Self::Stream> {
        self.accept().await.map(|(stream, _)| stream)
    }
}

/// Accepts connections until told to stop, then waits for those that are open.
async fn accept<L: Accept>(listener: L, router: Router, mut stopped: watch::Receiver<bool>) {
    let places = Places::new(MAX_CONNECTIONS);
    // One for which there is no place yet. Further ones wait in the listener's backlog.
    let mut waiting = None;
    let mut connections = JoinSet::new();
    while !*stopped.borrow() {
        if let Some(stream) = waiting.take() {
            match places.take() {
                None => waiting = Some(stream),
                Some(place) => {
                    let served = serve_connection(stream, place, router.clone(), stopped.clone());
                    connections.spawn(served);
                }
            }
        }
        tokio::select! {
            _ = stopped.changed() => {}
            Some(_) = connections.join_next() => {}
            () = places.changed(), if waiting.is_some() => {}
            stream = listener.next(), if waiting.is_none() => match stream {
                Ok(stream) => waiting = Some(stream),
                Err(error) => {
                    tracing::warn!(%error, "a connection to the admin API cannot be accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn serve_connection<S>(
    stream: S,
    place: Arc<Place>,
    router: Router,
    mut stopped: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + AsFd + Send + Unpin + 'static,
{
    let peer = match Peer::of(&stream) {
        Ok(peer) => peer,
        Err(error) => {
            tracing::warn!(%error, "a connection to the admin API cannot be served");
            return;
        }
    };
    let router = TowerToHyperService::new(router);
    let service = service_fn(|mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        let (asking, answer) = place.asking();
        let asking = (!request.body().is_end_stream()).then_some(asking);
        let response = router.call(request.map(|body| with(Body::new(body), asking)));
        async move {
            let response = response.await?;
            Ok::<_, Infallible>(response.map(|body| with(body, answer)))
        }
    });
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    let connection = http1().serve_connection(TokioIo::new(Box::pin(stream)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        // First, so that it takes no request when it has no place any more.
        () = place.lost() => {
            tracing::debug!("a silent connection to the admin API made way for another");
            return;
        }
        ended = &mut connection => ended,
        () = told_to_stop(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the admin API ended early");
    }
}

/// The body, which keeps something for as long as it lasts.
fn with(body: Body, kept: impl Send + 'static) -> Body {
    Body::new(body.inspect_frame(move |_| {
        let _ = &kept;
    }))
}

pub(super) fn http1() -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        // A client may close its sending side once it has asked.
        .half_close(true);
    builder
}

pub(super) async fn told_to_stop(stopped: &mut watch::Receiver<bool>) {
    // Fails only if the sender is gone, which also means the end.
    let _ = stopped.wait_for(|stopped| *stopped).await.map(drop);
}

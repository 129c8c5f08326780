//! A proxy with scripted backends and bare clients.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    task::AbortHandle,
    time::{sleep, timeout},
};

use crate::{
    model::{QueueTimeout, Service, Setting},
    overflow::{Departures, Queue, Slot, Visit, ground::Ground, request},
};

/// How long anything may take that should happen at once.
pub(super) const SOON: Duration = Duration::from_secs(10);

/// Waits until something holds.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(timeout(SOON, wait).await.is_ok(), "in vain: {what}");
}

/// One end of a connection, read and written by hand.
pub(super) struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    patience: Duration,
}

/// A message as it came.
#[derive(Clone, Debug, Default)]
pub(super) struct Message {
    /// The first line.
    pub(super) first: String,
    /// Header lines: names in lower case.
    pub(super) headers: Vec<(String, String)>,
    /// The body, without the framing of chunks.
    pub(super) body: Vec<u8>,
    /// Trailer lines.
    pub(super) trailers: Vec<(String, String)>,
}

impl Message {
    /// The value of a header; `None` unless it is there exactly once.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(other, _)| other == name);
        match (values.next(), values.next()) {
            (Some((_, value)), None) => Some(value),
            _ => None,
        }
    }

    /// How often a header is there.
    pub(super) fn count(&self, name: &str) -> usize {
        self.headers
            .iter()
            .filter(|(other, _)| other == name)
            .count()
    }

    /// The status of an answer.
    pub(super) fn status(&self) -> u16 {
        let status = self.first.split(' ').nth(1);
        status.and_then(|status| status.parse().ok()).unwrap_or(0)
    }

    /// The body as text.
    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    fn parse_head(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        Self {
            first: lines.next().unwrap_or_default().to_owned(),
            headers: lines.filter_map(header_line).collect(),
            ..Self::default()
        }
    }
}

fn header_line(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(':')?;
    Some((name.to_ascii_lowercase(), value.trim().to_owned()))
}

impl Peer {
    pub(super) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket");
        Self {
            stream,
            unread: Vec::new(),
            patience: SOON,
        }
    }

    /// One that waits for as long as it takes.
    pub(super) fn patient(self) -> Self {
        Self {
            patience: Duration::from_secs(24 * 3600),
            ..self
        }
    }

    pub(super) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream
            .write_all(bytes.as_ref())
            .await
            .expect("the other side reads");
    }

    /// Sends as much as the other side takes.
    pub(super) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> std::io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Says that there is no more.
    pub(super) async fn finish(&mut self) {
        self.stream
            .shutdown()
            .await
            .expect("the other side is there");
    }

    /// Reads more; says whether there was any.
    async fn fill(&mut self) -> bool {
        match timeout(self.patience, self.stream.read_buf(&mut self.unread)).await {
            Ok(Ok(count)) => count != 0,
            Ok(Err(_)) => false,
            Err(_) => panic!(
                "nothing came; so far: {:?}",
                String::from_utf8_lossy(&self.unread)
            ),
        }
    }

    /// Up to and with the next `end`; `None` if the connection ended first.
    pub(super) async fn through(&mut self, end: &str) -> Option<String> {
        loop {
            let found = self
                .unread
                .windows(end.len())
                .position(|window| window == end.as_bytes());
            if let Some(at) = found {
                let piece = self.unread.drain(..at + end.len()).collect();
                return Some(String::from_utf8(piece).expect("text"));
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// So many bytes.
    pub(super) async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.unread.len() < count {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.unread.drain(..count).collect())
    }

    /// All there is until the end of the connection.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await {}
        std::mem::take(&mut self.unread)
    }

    /// The head of the next message; `None` if there is none.
    pub(super) async fn head(&mut self) -> Option<Message> {
        let text = self.through("\r\n\r\n").await?;
        Some(Message::parse_head(text.trim_end_matches("\r\n")))
    }

    /// The next message, body and all; `None` if the connection ended before.
    pub(super) async fn message(&mut self) -> Option<Message> {
        let mut message = self.head().await?;
        self.body(&mut message).await?;
        Some(message)
    }

    /// The body of a message whose head was read.
    pub(super) async fn body(&mut self, message: &mut Message) -> Option<()> {
        let is_bare = matches!(message.status(), 100..200 | 204 | 304);
        if let Some(length) = message.header("content-length").filter(|_| !is_bare) {
            let length = length.parse().expect("a length");
            message.body = self.exactly(length).await?;
        } else if message.header("transfer-encoding") == Some("chunked") {
            while let Some(mut chunk) = self.chunk().await? {
                message.body.append(&mut chunk);
            }
            message.trailers = self.trailers().await?;
        } else if message.first.starts_with("HTTP/") && !is_bare {
            message.body = self.rest().await;
        }
        Some(())
    }

    /// The next chunk; `Some(None)` is the last one.
    pub(super) async fn chunk(&mut self) -> Option<Option<Vec<u8>>> {
        let size = self.through("\r\n").await?;
        let size = usize::from_str_radix(size.trim_end(), 16).expect("a chunk's size");
        if size == 0 {
            return Some(None);
        }
        let mut chunk = self.exactly(size + 2).await?;
        assert_eq!(chunk.split_off(size), b"\r\n");
        Some(Some(chunk))
    }

    async fn trailers(&mut self) -> Option<Vec<(String, String)>> {
        let mut trailers = Vec::new();
        loop {
            let line = self.through("\r\n").await?;
            match header_line(line.trim_end()) {
                Some(trailer) => trailers.push(trailer),
                None => return Some(trailers),
            }
        }
    }

    /// Whether the other side has ended the connection, one way or another.
    pub(super) async fn is_ended(&mut self) -> bool {
        self.unread.is_empty() && !self.fill().await
    }

    /// Whether nothing has come.
    pub(super) fn is_silent(&self) -> bool {
        let mut byte = [0];
        let read = self.stream.try_read(&mut byte);
        let is_empty =
            matches!(&read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock);
        self.unread.is_empty() && is_empty
    }

    /// Whether the other side has reset the connection.
    pub(super) async fn was_reset(&mut self) -> bool {
        let read = timeout(SOON, self.stream.read_buf(&mut self.unread)).await;
        let read = read.expect("something happens");
        matches!(read, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset)
    }

    /// Closes it with a reset.
    pub(super) fn reset(self) {
        crate::overflow::refuse::reset(self.stream);
    }
}

/// A server whose connections are served by a script, one by one.
pub(super) struct Backend {
    pub(super) address: SocketAddr,
    seen: Arc<Seen>,
    task: AbortHandle,
}

/// What a server has seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    connections: AtomicUsize,
    requests: Mutex<Vec<Message>>,
    now: AtomicUsize,
    most: AtomicUsize,
    steps: AtomicUsize,
    open: AtomicUsize,
}

impl Seen {
    /// Notes a request.
    pub(super) fn note(&self, request: &Message) {
        self.requests
            .lock()
            .expect("no test panics with it")
            .push(request.clone());
    }

    /// Counts a step of a script.
    pub(super) fn step(&self) {
        self.steps.fetch_add(1, SeqCst);
    }

    /// Counts one as in flight for as long as the returned guard lives.
    pub(super) fn busy(self: &Arc<Self>) -> Busy {
        let now = self.now.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        Busy(self.clone())
    }
}

/// One in flight.
pub(super) struct Busy(Arc<Seen>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, SeqCst);
    }
}

impl Backend {
    /// Serves each connection by a script.
    pub(super) async fn new<S, F>(script: S) -> Self
    where
        S: Fn(Peer, Arc<Seen>) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Seen::default());
        let task = tokio::spawn({
            let seen = seen.clone();
            async move {
                loop {
                    let (stream, _) = listener.accept().await.expect("connections come");
                    seen.connections.fetch_add(1, SeqCst);
                    seen.open.fetch_add(1, SeqCst);
                    let (script, seen) = (
                        script(Peer::new(stream).patient(), seen.clone()),
                        seen.clone(),
                    );
                    tokio::spawn(async move {
                        script.await;
                        seen.open.fetch_sub(1, SeqCst);
                    });
                }
            }
        });
        Self {
            address,
            seen,
            task: task.abort_handle(),
        }
    }

    /// Answers each request with the same text.
    pub(super) async fn answering(answer: &'static str) -> Self {
        Self::new(move |mut peer, seen| async move {
            while let Some(request) = peer.message().await {
                seen.note(&request);
                peer.send(answer).await;
            }
        })
        .await
    }

    /// Answers each request with its own first line and body.
    pub(super) async fn echo() -> Self {
        Self::new(|mut peer, seen| async move {
            while let Some(request) = peer.message().await {
                seen.note(&request);
                let body = format!(
                    "{}\n{}",
                    request.first,
                    String::from_utf8_lossy(&request.body)
                );
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                peer.send(head + &body).await;
            }
        })
        .await
    }

    /// Connections so far.
    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    /// Connections whose scripts have not ended.
    pub(super) fn open(&self) -> usize {
        self.seen.open.load(SeqCst)
    }

    /// Steps so far.
    pub(super) fn steps(&self) -> usize {
        self.seen.steps.load(SeqCst)
    }

    /// Waits until its script goes no step further.
    pub(super) async fn stalled(&self) {
        let mut before = usize::MAX;
        while before != self.steps() || before == 0 {
            before = self.steps();
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The requests so far.
    pub(super) fn requests(&self) -> Vec<Message> {
        self.seen
            .requests
            .lock()
            .expect("no test panics with it")
            .clone()
    }

    /// The last request.
    pub(super) fn last(&self) -> Message {
        self.requests().pop().expect("a request came")
    }

    /// The most that were in flight at once.
    pub(super) fn most(&self) -> usize {
        self.seen.most.load(SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// An address that nobody listens on, and that nobody else gets while this lives.
pub(super) struct Nobody {
    pub(super) address: SocketAddr,
    _socket: TcpSocket,
}

impl Nobody {
    pub(super) fn new() -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        socket.bind(any).expect("a free port");
        Self {
            address: socket.local_addr().expect("it is bound"),
            _socket: socket,
        }
    }
}

/// A service, its proxy, and where it is dialled.
pub(super) struct Front {
    pub(super) ground: Ground,
    pub(super) proxy: Arc<request::Proxy>,
    pub(super) queue: Arc<Queue>,
    departures: Departures,
    address: SocketAddr,
    task: AbortHandle,
}

/// When the programs published a client's connection: here, all at once.
const PUBLISHED_AT: Duration = Duration::ZERO;

impl Front {
    /// A service with these backends, of one slot each.
    pub(super) async fn new(backends: &[SocketAddr]) -> Self {
        Self::with(backends, 1, |_| {}).await
    }

    /// With so many slots each, and settings. Waiting is patient unless they say otherwise.
    pub(super) async fn with(
        backends: &[SocketAddr],
        slots: u32,
        set: impl FnOnce(&mut Service),
    ) -> Self {
        let ground = Ground::new(backends, slots, |service| {
            service.queue.timeout = Setting::built_in(QueueTimeout::Fixed(SOON));
            set(service);
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let proxy = Arc::new(request::Proxy::new(Arc::default()));
        let queue = ground.queue();
        let departures = Departures::default();
        let task = tokio::spawn({
            let (proxy, queue, departures) = (proxy.clone(), queue.clone(), departures.clone());
            async move {
                loop {
                    let (stream, client) = listener.accept().await.expect("connections come");
                    stream.set_nodelay(true).expect("a TCP socket");
                    let departure = departures.watch(client);
                    departure.is_of(PUBLISHED_AT);
                    let (proxy, queue) = (proxy.clone(), queue.clone());
                    tokio::spawn(request::serve(proxy, queue, stream, client, departure));
                }
            }
        });
        Self {
            ground,
            proxy,
            queue,
            departures,
            address,
            task: task.abort_handle(),
        }
    }

    /// Closes a client's connection, and reports it as the programs would.
    pub(super) fn close(&self, client: Peer) {
        let address = client.stream.local_addr().expect("it is connected");
        drop(client);
        self.departures.report(address, PUBLISHED_AT);
    }

    /// The same with a reset.
    pub(super) fn reset(&self, client: Peer) {
        let address = client.stream.local_addr().expect("it is connected");
        client.reset();
        self.departures.report(address, PUBLISHED_AT);
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// A new connection.
    pub(super) async fn dial(&self) -> Peer {
        Peer::new(
            TcpStream::connect(self.address)
                .await
                .expect("the proxy listens"),
        )
    }

    /// Sends this on a connection of its own, and reads one answer.
    pub(super) async fn ask(&self, request: &str) -> Message {
        let mut client = self.dial().await;
        client.send(request).await;
        client.message().await.expect("an answer")
    }

    /// Takes a slot as a request would.
    pub(super) async fn hold(&self) -> Slot {
        let mut visit = Visit::of_request(self.queue.clone());
        visit.slot().await.expect("one is free")
    }

    /// Waits until no slot is taken and nobody waits.
    pub(super) async fn settled(&self) {
        until("every slot is given back", || {
            self.ground.inflight() == 0 && self.ground.waiting_word() == 0
        })
        .await;
    }

    /// Waits until so many slots are taken.
    pub(super) async fn taken(&self, slots: u64) {
        until("slots are taken", || self.ground.inflight() == slots).await;
    }

    /// Waits until so many wait.
    pub(super) async fn waiting(&self, waiters: usize) {
        until("requests wait", || self.queue.waiters() == waiters).await;
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.task.abort();
    }
}

//! Endpoints that answer, fail, hang or close as told, and count what reaches them.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

/// What an endpoint does with a request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Manner {
    /// Answers with this status.
    Answer(u16),
    /// Does so after a while.
    After(Duration, u16),
    /// Does so and closes, without a word about it in the answer.
    AnswerAndClose(u16),
    /// Reads the request, and no more.
    Hang,
    /// Reads the request and closes.
    Close,
    /// Does so once, and answers 200 from then on.
    CloseOnce,
    /// Announces a body that never comes.
    NoBody,
    /// Sends a body of this many bytes.
    Body(usize),
    /// Greets before it is asked anything, waits for the end and notes how that came.
    Greet,
}

/// An endpoint. Dropping it closes its listener and all connections.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    pub(super) seen: Arc<Seen>,
    _task: AbortOnDropHandle<()>,
}

/// What reached it.
pub(super) struct Seen {
    manner: Mutex<Manner>,
    pub(super) connections: AtomicUsize,
    pub(super) requests: AtomicUsize,
    pub(super) most_at_once: AtomicUsize,
    at_once: AtomicUsize,
    pub(super) orderly_ends: AtomicUsize,
    pub(super) resets: AtomicUsize,
    heads: Mutex<HashSet<String>>,
}

impl Server {
    pub(super) async fn start(manner: Manner) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), manner).await
    }

    pub(super) async fn at(address: SocketAddr, manner: Manner) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            manner: Mutex::new(manner),
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
            at_once: AtomicUsize::new(0),
            orderly_ends: AtomicUsize::new(0),
            resets: AtomicUsize::new(0),
            heads: Mutex::default(),
        });
        let task = tokio::spawn(accept(listener, seen.clone()));
        Self {
            address,
            seen,
            _task: AbortOnDropHandle::new(task),
        }
    }

    pub(super) fn behave(&self, manner: Manner) {
        *self.seen.manner.lock().unwrap() = manner;
    }

    pub(super) fn requests(&self) -> usize {
        self.seen.requests.load(SeqCst)
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(SeqCst)
    }

    /// Every different head of a request so far.
    pub(super) fn heads(&self) -> Vec<String> {
        self.seen.heads.lock().unwrap().iter().cloned().collect()
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        seen.connections.fetch_add(1, SeqCst);
        let seen = seen.clone();
        connections.spawn(async move {
            // The end of a connection, of whatever kind, is the prober's business.
            let _ = seen.attend(stream).await;
        });
    }
}

impl Seen {
    async fn attend(&self, mut stream: TcpStream) -> std::io::Result<()> {
        if self.manner() == Manner::Greet {
            return self.greet(stream).await;
        }
        while let Some(head) = read_head(&mut stream).await? {
            self.heads.lock().unwrap().insert(head);
            self.requests.fetch_add(1, SeqCst);
            let at_once = self.at_once.fetch_add(1, SeqCst) + 1;
            self.most_at_once.fetch_max(at_once, SeqCst);
            let stays = self.answer(&mut stream).await;
            self.at_once.fetch_sub(1, SeqCst);
            if !stays? {
                break;
            }
        }
        Ok(())
    }

    /// False if the connection is to be closed.
    async fn answer(&self, stream: &mut TcpStream) -> std::io::Result<bool> {
        let (status, length, sent, stays) = match self.manner() {
            Manner::Answer(status) => (status, 2, 2, true),
            Manner::After(pause, status) => {
                sleep(pause).await;
                (status, 2, 2, true)
            }
            Manner::AnswerAndClose(status) => (status, 2, 2, false),
            Manner::NoBody => (200, 10, 0, true),
            Manner::Body(length) => (200, length, length, true),
            Manner::Close => return Ok(false),
            Manner::CloseOnce => {
                *self.manner.lock().unwrap() = Manner::Answer(200);
                return Ok(false);
            }
            Manner::Hang | Manner::Greet => std::future::pending().await,
        };
        let head = format!("HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\n\r\n");
        // In one piece: a body in a packet of its own would wait for the head's acknowledgement.
        let mut answer = head.into_bytes();
        answer.resize(answer.len() + sent, b'.');
        stream.write_all(&answer).await?;
        Ok(stays)
    }

    async fn greet(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.write_all(b"220 hello\r\n").await?;
        let mut rest = Vec::new();
        let end = match stream.read_to_end(&mut rest).await {
            Ok(_) => &self.orderly_ends,
            Err(_) => &self.resets,
        };
        end.fetch_add(1, SeqCst);
        Ok(())
    }

    fn manner(&self) -> Manner {
        *self.manner.lock().unwrap()
    }
}

/// None at the end of the connection.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<Option<String>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        head.push(byte[0]);
    }
    Ok(Some(String::from_utf8_lossy(&head).into_owned()))
}

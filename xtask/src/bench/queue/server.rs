//! The backends under Poisson load: HTTP servers that serve one request at a time and work for
//! exactly as long as it asks.
//!
//! Threads that block and sleep, since a runtime's timer, which ticks once a millisecond, would add
//! two hundredths to the load; and the work counts from the accepting of its connection. All of
//! them end with their value. Called by `stage`.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::SockRef;
use tests::netns::Netns;

use super::super::http::Connection;

const DONE: &[u8] = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
const BUSY: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// A server that is not there is found out by its client.
const STUCK: Duration = Duration::from_secs(10);

/// Servers of one way of steering.
pub(super) struct Servers {
    servers: Vec<Server>,
    turned_away: Arc<AtomicU64>,
}

struct Server {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

/// What the connections of one server share.
struct State {
    is_serving: AtomicBool,
    turned_away: Arc<AtomicU64>,
}

impl Servers {
    /// Starts one at each address.
    pub(super) fn start(netns: &Netns, addresses: &[SocketAddr]) -> Result<Self> {
        let turned_away = Arc::<AtomicU64>::default();
        let start = |address: &SocketAddr| {
            let listener = netns.listen(*address)?;
            let own = listener
                .try_clone()
                .context("cannot duplicate a listener's descriptor")?;
            let state = Arc::new(State {
                is_serving: AtomicBool::new(false),
                turned_away: turned_away.clone(),
            });
            Ok(Server {
                listener,
                thread: Some(thread::spawn(move || accept(&own, &state))),
            })
        };
        Ok(Self {
            servers: addresses.iter().map(start).collect::<Result<_>>()?,
            turned_away,
        })
    }

    /// Requests that came to a server that was serving another, so far.
    pub(super) fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::SeqCst)
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for server in &mut self.servers {
            // Wakes the thread from accept().
            let ended = SockRef::from(&server.listener).shutdown(Shutdown::Both);
            let ended = ended.map(|()| server.thread.take().map(JoinHandle::join));
            if !matches!(ended, Ok(Some(Ok(())))) {
                eprintln!("a server of the bench did not end well: {ended:?}");
            }
        }
    }
}

/// Until the listener is shut.
fn accept(listener: &TcpListener, state: &Arc<State>) {
    while let Ok((stream, _)) = listener.accept() {
        let (state, accepted) = (state.clone(), Instant::now());
        // How it ends shows at the client.
        thread::spawn(move || state.serve(stream, accepted));
    }
}

impl State {
    fn serve(&self, stream: TcpStream, accepted: Instant) -> io::Result<()> {
        stream.set_read_timeout(Some(STUCK))?;
        let mut connection = Connection::new(stream)?;
        let target = connection.request()?.unwrap_or_default();
        let Some(work) = asked_work(&target) else {
            return connection.send(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
        };
        if self.is_serving.swap(true, Ordering::SeqCst) {
            self.turned_away.fetch_add(1, Ordering::SeqCst);
            return connection.send(BUSY);
        }
        thread::sleep(work.saturating_sub(accepted.elapsed()));
        // Before the answer is written: whatever follows from that comes later.
        self.is_serving.store(false, Ordering::SeqCst);
        connection.send(DONE)
    }
}

fn asked_work(target: &str) -> Option<Duration> {
    let (_, us) = target.split_once("work_us=")?;
    us.parse().ok().map(Duration::from_micros)
}

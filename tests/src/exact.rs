//! A TCP server that knows how many clients it serves at once, even when clients are killed.
//!
//! A request is one byte, which says how it is to be ended ([`Request`]); it is counted out before
//! its last byte is sent. A killed client's slot is free a moment before the server can see that
//! the client is gone. So whoever arrives beyond the limit is not believed at once: the server
//! ends nothing more, waits for those that have gone to be seen, and counts a breach only if there
//! are still too many.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::{RwLock, RwLockReadGuard},
    time::sleep,
};

use crate::{
    netns::Netns,
    server::{Accepting, Counts, address_of},
};

/// How long clients that have gone may stay unseen.
const PATIENCE: Duration = Duration::from_secs(2);

/// What a client asks for, as the byte that it sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Request {
    /// The same byte back; then the server waits for the client to close.
    Answer = b'a',
    /// The server closes.
    Close = b'c',
    /// The server closes its sending half and waits for the client to close.
    HalfClose = b'h',
    /// The server resets the connection.
    Reset = b'r',
}

impl Request {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Answer, Self::Close, Self::HalfClose, Self::Reset];
}

/// What an exact server has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Being served now.
    pub current: u32,
    /// The most that were ever served at once.
    pub peak: u32,
    /// Ended as asked.
    pub served: u64,
    /// Left by their clients before that.
    pub given_up: u64,
    /// Times that more than the limit were served at once.
    pub breaches: u64,
}

/// A running server. Its port is closed on drop.
#[derive(Debug)]
pub struct ExactServer {
    address: SocketAddr,
    service: Arc<Service>,
    _accepting: Accepting,
}

#[derive(Debug)]
struct Service {
    /// From the question to the end.
    work: Duration,
    limit: AtomicU32,
    current: AtomicU32,
    peak: AtomicU32,
    served: AtomicU64,
    given_up: AtomicU64,
    breaches: AtomicU64,
    /// Read by those that are ending a request, written by those that look for a breach.
    endings: RwLock<()>,
}

/// One being served.
struct Serving<'a>(&'a Service);

impl ExactServer {
    /// Starts one inside a namespace that should serve at most `limit` at once, each for `work`.
    pub fn start(netns: &Netns, address: SocketAddr, limit: u32, work: Duration) -> Result<Self> {
        let listener = netns.listen(address)?;
        let address = address_of(&listener)?;
        let service = Arc::new(Service {
            work,
            limit: AtomicU32::new(limit),
            current: AtomicU32::default(),
            peak: AtomicU32::default(),
            served: AtomicU64::default(),
            given_up: AtomicU64::default(),
            breaches: AtomicU64::default(),
            endings: RwLock::default(),
        });
        let accepting = Accepting::start(listener, Arc::<Counts>::default(), {
            let service = Arc::clone(&service);
            move |stream| {
                let service = Arc::clone(&service);
                async move { service.serve(stream).await }
            }
        })?;
        Ok(Self {
            address,
            service,
            _accepting: accepting,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many it should serve at once.
    pub fn limit(&self) -> u32 {
        self.service.limit.load(SeqCst)
    }

    /// Changes how many it should serve at once. Those that are being served do not count as a
    /// breach, however many; newcomers may.
    pub fn set_limit(&self, limit: u32) {
        self.service.limit.store(limit, SeqCst);
    }

    /// What it has seen.
    pub fn tally(&self) -> Tally {
        Tally {
            current: self.service.current.load(SeqCst),
            peak: self.service.peak.load(SeqCst),
            served: self.service.served.load(SeqCst),
            given_up: self.service.given_up.load(SeqCst),
            breaches: self.service.breaches.load(SeqCst),
        }
    }
}

impl Service {
    async fn serve(&self, mut stream: TcpStream) {
        let serving = self.begin();
        let admitted = self.admit();
        let ending = async {
            let request = read_request(&mut stream).await?;
            let ending = self.work_or_leave(&mut stream).await?;
            serving.finish();
            Some((request, ending))
        };
        let (_, ended) = tokio::join!(admitted, ending);
        let Some((request, ending)) = ended else {
            self.given_up.fetch_add(1, SeqCst);
            return;
        };
        // The connection may be reset by now: the client's business.
        let _ = end(stream, request, ending).await;
    }

    fn begin(&self) -> Serving<'_> {
        self.current.fetch_add(1, SeqCst);
        Serving(self)
    }

    /// Looks whether the newcomer is one too many.
    async fn admit(&self) {
        if self.is_within_limit() {
            return;
        }
        let _nobody_ends = self.endings.write().await;
        let begun = Instant::now();
        while !self.is_within_limit() {
            if begun.elapsed() >= PATIENCE {
                self.breaches.fetch_add(1, SeqCst);
                self.peak.fetch_max(self.current.load(SeqCst), SeqCst);
                return;
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn is_within_limit(&self) -> bool {
        let current = self.current.load(SeqCst);
        let limit = self.limit.load(SeqCst);
        let within = limit == 0 || current <= limit;
        if within {
            self.peak.fetch_max(current, SeqCst);
        }
        within
    }

    /// Does the work, then holds off whoever looks for a breach; `None` if the client leaves.
    async fn work_or_leave(&self, stream: &mut TcpStream) -> Option<RwLockReadGuard<'_, ()>> {
        let work = async {
            if !self.work.is_zero() {
                sleep(self.work).await;
            }
            self.endings.read().await
        };
        let mut more = [0];
        tokio::select! {
            biased;
            ending = work => Some(ending),
            // Clients send nothing more, so this is the end.
            _ = stream.read(&mut more) => None,
        }
    }
}

impl Serving<'_> {
    fn finish(self) {
        self.0.served.fetch_add(1, SeqCst);
    }
}

impl Drop for Serving<'_> {
    fn drop(&mut self) {
        self.0.current.fetch_sub(1, SeqCst);
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let byte = stream.read_u8().await.ok()?;
    Request::ALL
        .into_iter()
        .find(|request| *request as u8 == byte)
}

async fn end(
    mut stream: TcpStream,
    request: Request,
    ending: RwLockReadGuard<'_, ()>,
) -> std::io::Result<()> {
    match request {
        Request::Answer => stream.write_u8(request as u8).await?,
        Request::Close => return Ok(()),
        Request::HalfClose => stream.shutdown().await?,
        Request::Reset => {
            return socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        }
    }
    drop(ending);
    stream.read_u8().await.map(drop)
}

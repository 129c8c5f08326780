//! Clients that dial and are served, again and again, and note what fails.

use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use socket2::SockRef;

use crate::{cgroup::Cgroup, crowd, exact::Request, http::Http, netns::Netns, place::Place};

/// No client waits for anything longer than this.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);
/// Failures that are remembered: the first ones say what is wrong.
const REMEMBERED: usize = 10_000;
/// After a failure, so that a service that is away is not stormed.
const PAUSE: Duration = Duration::from_millis(1);
/// Requests on one connection at most.
const REQUESTS: u32 = 20;

/// Which service a client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With admission by connection.
    Connection,
    /// With admission by request.
    Request,
    /// With admission by connection, and fewer slots than clients.
    Scarce,
}

/// Something that did not go as it should.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it was begun.
    pub begun: Instant,
    /// When it was known.
    pub ended: Instant,
    /// Of which service.
    pub kind: Kind,
    /// Whether the client was left in no doubt: refused, or its connection ended, or told so.
    pub is_clean: bool,
    /// What was wrong.
    pub what: String,
}

/// Where clients stand.
#[derive(Debug)]
pub struct Clients {
    /// Their namespace.
    pub netns: Netns,
    /// Their cgroup, which is threaded.
    pub cgroup: Cgroup,
}

impl Clients {
    /// The same, to run something there.
    pub fn place(&self) -> Place<'_> {
        Place::new(&self.netns, &self.cgroup)
    }
}

/// Clients at work. They end when it is dropped.
#[derive(Debug)]
pub struct Load {
    notes: Arc<Notes>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Notes {
    is_over: AtomicBool,
    served: AtomicU64,
    failed: AtomicU64,
    failures: Mutex<Vec<Failure>>,
}

impl Load {
    /// Starts so many clients of each kind. The frontends are those of the services.
    pub fn start(
        clients: &Arc<Clients>,
        kinds: [(Kind, usize, SocketAddr); 3],
        seed: u64,
    ) -> Result<Self> {
        let mut load = Self {
            notes: Arc::default(),
            threads: Vec::new(),
        };
        for (kind, count, frontend) in kinds {
            for number in 0..count {
                let (clients, notes) = (clients.clone(), load.notes.clone());
                let random = SmallRng::seed_from_u64(seed ^ (number as u64) << 8 ^ kind as u64);
                let client = Client {
                    kind,
                    frontend,
                    random,
                    notes,
                };
                let work = move || match clients.place().enter() {
                    Ok(()) => client.go_on(),
                    Err(error) => client.note(Instant::now(), false, format!("{error:#}")),
                };
                let thread = thread::Builder::new().name(format!("client-{number}"));
                load.threads
                    .push(thread.spawn(work).context("cannot start a client")?);
            }
        }
        Ok(load)
    }

    /// Exchanges so far.
    pub fn served(&self) -> u64 {
        self.notes.served.load(Relaxed)
    }

    /// Failures so far.
    pub fn failed(&self) -> u64 {
        self.notes.failed.load(Relaxed)
    }

    /// Forgets failures, and gives them.
    pub fn take_failures(&self) -> Vec<Failure> {
        std::mem::take(&mut *self.notes.failures())
    }

    /// Ends it, and gives the failures that were not taken.
    pub fn stop(mut self) -> Vec<Failure> {
        self.end();
        self.take_failures()
    }

    fn end(&mut self) {
        self.notes.is_over.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("a client panicked");
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.end();
    }
}

impl Notes {
    fn failures(&self) -> MutexGuard<'_, Vec<Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Client {
    kind: Kind,
    frontend: SocketAddr,
    random: SmallRng,
    notes: Arc<Notes>,
}

impl Client {
    fn go_on(mut self) {
        while !self.notes.is_over.load(Relaxed) {
            let begun = Instant::now();
            let outcome = match self.kind {
                Kind::Connection | Kind::Scarce => self.exchange(),
                Kind::Request => self.requests(),
            };
            if let Err(error) = outcome {
                self.note(begun, is_clean(&error), format!("{error:#}"));
                thread::sleep(PAUSE);
            }
        }
    }

    fn note(&self, begun: Instant, is_clean: bool, what: String) {
        self.notes.failed.fetch_add(1, Relaxed);
        let mut failures = self.notes.failures();
        if failures.len() < REMEMBERED {
            failures.push(Failure {
                begun,
                ended: Instant::now(),
                kind: self.kind,
                is_clean,
                what,
            });
        }
    }

    /// A connection and one question, ended in any of the ways there are.
    fn exchange(&mut self) -> Result<()> {
        let request = Request::ALL[self.random.random_range(0..Request::ALL.len())];
        let stream = dial(self.frontend).context("connect")?;
        crowd::ask(&stream, request)?;
        self.notes.served.fetch_add(1, Relaxed);
        if self.random.random() {
            reset(&stream)?;
        }
        Ok(())
    }

    /// A connection with some requests.
    fn requests(&mut self) -> Result<()> {
        let stream = dial(self.frontend).context("connect")?;
        let mut http = Http::new(stream);
        for _ in 0..self.random.random_range(1..=REQUESTS) {
            let answer = http.ask("GET / HTTP/1.1\r\nHost: soak\r\n\r\n")?;
            match answer.status() {
                200 => ensure!(answer.text() == "done\n", "another's answer: {answer:?}"),
                status => bail!(Told(status)),
            }
            self.notes.served.fetch_add(1, Relaxed);
            if answer.header("connection") == Some("close") {
                break;
            }
        }
        Ok(())
    }
}

/// A client was told that it is not served.
#[derive(Debug, thiserror::Error)]
#[error("status {0}")]
struct Told(u16);

/// Whether a client could tell at once that it was not served.
fn is_clean(error: &anyhow::Error) -> bool {
    let is_told = |error: &Told| matches!(error.0, 502..=504);
    let is_ended = |error: &io::Error| {
        matches!(
            error.kind(),
            ErrorKind::ConnectionRefused
                | ErrorKind::ConnectionReset
                | ErrorKind::ConnectionAborted
                | ErrorKind::BrokenPipe
                | ErrorKind::UnexpectedEof
        )
    };
    error.chain().any(|cause| {
        cause.downcast_ref().is_some_and(is_told) || cause.downcast_ref().is_some_and(is_ended)
    })
}

/// A connection whose steps all end in time.
fn dial(frontend: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&frontend, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Lets the connection end with a reset.
pub(super) fn reset(stream: &TcpStream) -> Result<()> {
    SockRef::from(stream)
        .set_linger(Some(Duration::ZERO))
        .context("cannot set SO_LINGER")
}

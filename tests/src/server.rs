//! What both kinds of server share: the threads they run on, the count of what they serve, and
//! their end.
//!
//! The threads are made once for the process. They leave the namespace and cgroup of whoever asked
//! first, which would otherwise live on with them.

use std::{
    fs::File,
    future::Future,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use tokio::{
    net::TcpStream,
    runtime::{Builder, Runtime},
    task::{JoinHandle, JoinSet},
};

use crate::{cgroup, wait::within};

/// What a server has seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Being served now.
    pub current: u32,
    /// The most that were ever served at once.
    pub peak: u32,
    /// Finished.
    pub served: u64,
    /// Arrived when the server was already serving as many as it may.
    pub over_limit: u64,
    /// Connections accepted.
    pub accepted: u64,
}

/// Counts for one server.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    current: AtomicU32,
    peak: AtomicU32,
    served: AtomicU64,
    over_limit: AtomicU64,
    accepted: AtomicU64,
}

/// One being served. Dropping it without [`Serving::finish`] counts it as given up.
#[derive(Debug)]
pub(crate) struct Serving(Arc<Counts>);

impl Counts {
    /// Counts an arrival in; `None` if it is one too many (0: no limit).
    pub(crate) fn begin(self: &Arc<Self>, limit: u32) -> Option<Serving> {
        let taken = self
            .current
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |current| {
                (limit == 0 || current < limit).then_some(current + 1)
            });
        match taken {
            Ok(before) => {
                self.peak.fetch_max(before + 1, Ordering::SeqCst);
                Some(Serving(Arc::clone(self)))
            }
            Err(_) => {
                self.over_limit.fetch_add(1, Ordering::SeqCst);
                None
            }
        }
    }

    /// Counts an arrival in even if it is one too many, and that it was.
    pub(crate) fn begin_anyway(self: &Arc<Self>, limit: u32) -> Serving {
        let before = self.current.fetch_add(1, Ordering::SeqCst);
        self.peak.fetch_max(before + 1, Ordering::SeqCst);
        if limit != 0 && before >= limit {
            self.over_limit.fetch_add(1, Ordering::SeqCst);
        }
        Serving(Arc::clone(self))
    }

    pub(crate) fn seen(&self) -> Seen {
        Seen {
            current: self.current.load(Ordering::SeqCst),
            peak: self.peak.load(Ordering::SeqCst),
            served: self.served.load(Ordering::SeqCst),
            over_limit: self.over_limit.load(Ordering::SeqCst),
            accepted: self.accepted.load(Ordering::SeqCst),
        }
    }

    /// Begins anew, except for what is being served now.
    pub(crate) fn reset(&self) {
        self.peak
            .store(self.current.load(Ordering::SeqCst), Ordering::SeqCst);
        for count in [&self.served, &self.over_limit, &self.accepted] {
            count.store(0, Ordering::SeqCst);
        }
    }
}

impl Serving {
    /// Counts it out as served.
    pub(crate) fn finish(self) {
        self.0.served.fetch_add(1, Ordering::SeqCst);
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.current.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A server's accept loop and its connections; all end on drop.
#[derive(Debug)]
pub(crate) struct Accepting {
    task: JoinHandle<()>,
}

impl Accepting {
    /// Accepts from `listener` and gives each connection to `serve`.
    pub(crate) fn start<F>(
        listener: TcpListener,
        counts: Arc<Counts>,
        serve: impl Fn(TcpStream) -> F + Send + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        listener
            .set_nonblocking(true)
            .context("cannot make a listener non-blocking")?;
        let _guard = runtime().enter();
        let listener =
            tokio::net::TcpListener::from_std(listener).context("cannot watch a listener")?;
        let task = runtime().spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => match accepted {
                        Ok((stream, _)) => {
                            counts.accepted.fetch_add(1, Ordering::SeqCst);
                            connections.spawn(serve(stream));
                        }
                        // The client was faster in giving up, or descriptors are short for a moment.
                        Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { task })
    }

    /// Closes the port and every connection, and waits until that is done.
    pub(crate) fn stop(&mut self) {
        self.task.abort();
        let ended = within(Duration::from_secs(5), || {
            if self.task.is_finished() {
                Ok(())
            } else {
                Err("running")
            }
        });
        if let Err(late) = ended {
            eprintln!("a server's accept loop did not end: {late}");
        }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Checks and turns a listener's address into what clients dial.
pub(crate) fn address_of(listener: &TcpListener) -> Result<SocketAddr> {
    listener
        .local_addr()
        .context("cannot ask a listener for its address")
}

/// The threads that serve.
pub(crate) fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("ground-server")
            .on_thread_start(|| go_home().expect("a server thread can go where its process is"))
            .enable_all()
            .build()
            .expect("threads can be started")
    })
}

/// Moves the calling thread to where the process's first thread is.
fn go_home() -> Result<()> {
    let home = File::open(format!("/proc/{}/ns/net", std::process::id()))
        .context("cannot open this process's network namespace")?;
    setns(&home, CloneFlags::CLONE_NEWNET)
        .context("cannot go back to this process's network namespace")?;
    cgroup::move_this_thread_home()
}

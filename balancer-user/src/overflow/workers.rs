//! The threads that serve overflow: each with its own runtime and listeners.
//!
//! Apart from the agent's other work, so that neither slows the other; and each on one thread, so
//! that what belongs together stays on one CPU. The kernel spreads connections over the listeners
//! of all workers (`SO_REUSEPORT`).

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    runtime,
    sync::watch,
    task::{JoinError, JoinSet},
};

use super::{Pulses, gate::Gate, notices::Notices, request, shutdown::Shutdown};
use crate::kernel::{Kernel, KernelError};

/// Connections that may wait to be accepted; the kernel's own limit is `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// The listeners of one worker.
#[derive(Debug)]
pub(super) struct Listeners {
    v4: TcpListener,
    v6: Option<TcpListener>,
}

/// The ports on which the listeners are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// For IPv4.
    pub v4: u16,
    /// For IPv6; `None` if this node has none.
    pub v6: Option<u16>,
}

/// Why the agent cannot take overflow.
#[derive(Debug, thiserror::Error)]
pub enum OverflowError {
    /// No listener.
    #[error("cannot listen for overflow on {address}: {source}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// From the kernel.
        source: io::Error,
    },
    /// No thread or runtime.
    #[error("cannot start a thread for overflow: {0}")]
    Thread(io::Error),
    /// The programs cannot be told.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

/// Opens the listeners of so many workers.
pub(super) fn listen(workers: usize) -> Result<(Vec<Listeners>, Ports), OverflowError> {
    let first = Listeners::open(Ports {
        v4: free_port(),
        v6: Some(0),
    })?;
    let ports = first.ports()?;
    let mut all = vec![first];
    for _ in 1..workers {
        all.push(Listeners::open(ports)?);
    }
    Ok((all, ports))
}

/// A port that nobody listens on at any IPv4 address of this node, for the programs take it at more
/// than one; or 0 for any.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0));
    listener
        .and_then(|listener| listener.local_addr())
        .map_or(0, |address| address.port())
}

impl Listeners {
    fn open(ports: Ports) -> Result<Self, OverflowError> {
        let v4 = open((Ipv4Addr::LOCALHOST, ports.v4).into())?;
        let v6 = match ports.v6 {
            Some(port) => match open((Ipv6Addr::LOCALHOST, port).into()) {
                Ok(listener) => Some(listener),
                Err(error) => {
                    tracing::info!(%error, "clients of IPv6 frontends get no overflow");
                    None
                }
            },
            None => None,
        };
        Ok(Self { v4, v6 })
    }

    /// Another handle to the same.
    pub(super) fn share(&self) -> Result<Self, OverflowError> {
        let share = |listener: &TcpListener| listener.try_clone().map_err(OverflowError::Thread);
        Ok(Self {
            v4: share(&self.v4)?,
            v6: self.v6.as_ref().map(share).transpose()?,
        })
    }

    /// Lets connections reach them, and those of their group.
    pub(super) fn publish(&self, kernel: &Kernel) -> Result<(), KernelError> {
        kernel.set_listener(true, &self.v4)?;
        match &self.v6 {
            Some(v6) => kernel.set_listener(false, v6),
            None => Ok(()),
        }
    }

    fn ports(&self) -> Result<Ports, OverflowError> {
        let port = |listener: &TcpListener| {
            let address = listener.local_addr().map_err(OverflowError::Thread)?;
            Ok::<_, OverflowError>(address.port())
        };
        Ok(Ports {
            v4: port(&self.v4)?,
            v6: self.v6.as_ref().map(port).transpose()?,
        })
    }
}

fn open(address: SocketAddr) -> Result<TcpListener, OverflowError> {
    let open = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking(),
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(|source| OverflowError::Listen { address, source })
}

/// Starts one worker. It ends when `stop` says how long what it serves may take to finish, or at once
/// when its sender is gone.
pub(super) fn start(
    number: usize,
    listeners: Listeners,
    gate: impl FnOnce(Arc<request::Proxy>, Arc<Shutdown>) -> Gate + Send + 'static,
    notices: Option<Notices>,
    pulses: Pulses,
    mut stop: watch::Receiver<Option<Duration>>,
) -> Result<JoinHandle<()>, OverflowError> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(OverflowError::Thread)?;
    let work = move || {
        runtime.block_on(async move {
            let shutdown = Arc::<Shutdown>::default();
            let proxy = Arc::new(request::Proxy::new(shutdown.clone()));
            let gate = gate(proxy.clone(), shutdown);
            let mut listening = JoinSet::new();
            let mut parts = JoinSet::new();
            for listener in [Some(listeners.v4), listeners.v6].into_iter().flatten() {
                match tokio::net::TcpListener::from_std(listener) {
                    Ok(listener) => drop(listening.spawn(gate.clone().serve(listener))),
                    Err(error) => tracing::error!(%error, "a listener cannot be waited for"),
                }
            }
            parts.spawn(pulses.beat(number));
            if let Some(notices) = notices {
                parts.spawn(notices.follow());
            }
            let patience = tokio::select! {
                stopped = stop.wait_for(Option::is_some) => stopped.ok().and_then(|patience| *patience),
                // Without its pulse the programs send no more, and say so by their policy.
                Some(ended) = listening.join_next() => give_up(number, &ended),
                Some(ended) = parts.join_next() => give_up(number, &ended),
            };
            if patience.is_some() {
                gate.all_arrived().await;
            }
            listening.shutdown().await;
            // Those who wait go on hearing of free slots.
            proxy.shut_down(patience.unwrap_or_default()).await;
            parts.shutdown().await;
        });
    };
    thread::Builder::new()
        .name(format!("overflow-{number}"))
        .spawn(work)
        .map_err(OverflowError::Thread)
}

/// A worker does not go on without one of its parts, and has no patience then.
fn give_up(worker: usize, ended: &Result<(), JoinError>) -> Option<Duration> {
    tracing::error!(
        ?ended,
        worker,
        "a part of an overflow thread ended by itself"
    );
    None
}

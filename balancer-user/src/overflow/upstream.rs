//! Connections of the agent's own to backends.

use std::{io, net::SocketAddr, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpSocket, TcpStream};

use crate::kernel::AGENT_MARK;

/// Whether a failed connect says something about the backend, and not about this machine (which
/// may be out of descriptors, ports or memory).
pub(crate) fn is_backends_fault(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut,
    };
    matches!(
        error.kind(),
        ConnectionRefused | ConnectionReset | HostUnreachable | NetworkUnreachable | TimedOut
    )
}

/// Connects to a backend, by a socket that the programs leave alone.
pub(crate) async fn connect(backend: SocketAddr) -> io::Result<TcpStream> {
    let socket = match backend {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Only those who may (CAP_NET_ADMIN) can mark; the agent may, tests need not.
    if let Err(error) = SockRef::from(&socket).set_mark(AGENT_MARK) {
        tracing::debug!(%error, "an upstream socket cannot be marked");
    }
    socket.set_nodelay(true)?;
    watch_over(&socket);
    socket.connect(backend).await
}

/// Has the kernel notice when the other side is gone without a word, so that nothing is held for
/// it for ever.
pub(crate) fn watch_over(socket: &impl AsFd) {
    const IDLE: Duration = Duration::from_secs(60);
    const BETWEEN: Duration = Duration::from_secs(10);
    const PROBES: u32 = 6;
    let keepalive = TcpKeepalive::new()
        .with_time(IDLE)
        .with_interval(BETWEEN)
        .with_retries(PROBES);
    if let Err(error) = SockRef::from(socket).set_tcp_keepalive(&keepalive) {
        tracing::debug!(%error, "keepalive cannot be switched on");
    }
}

//! Connections of the agent's own to backends.

use std::{io, net::SocketAddr};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};

use crate::kernel::AGENT_MARK;

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
    socket.connect(backend).await
}

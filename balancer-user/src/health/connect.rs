//! Connections of probes: marked, so that the programs on `connect()` leave them alone.
//!
//! Owns how a connection is opened and how it is asked; `pool` keeps the idle ones. Refuses to
//! blame a backend for what is wrong here: see [`ConnectFault::Local`].

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use balancer_common::connection::AGENT_MARK;
use http_body_util::Empty;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header::{HOST, USER_AGENT},
};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};
use tokio_util::task::AbortOnDropHandle;

/// What a probe calls itself.
const AGENT: &str = concat!("idlefirst-health/", env!("CARGO_PKG_VERSION"));
/// Bytes of an answer's head at most.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectFault {
    /// The backend's doing.
    #[error("cannot connect: {0}")]
    Backend(#[source] io::Error),
    /// This machine's doing, which says nothing about the backend.
    #[error("cannot open a socket for probes: {0}; look at the agent's limits and capabilities")]
    Local(#[source] io::Error),
}

/// An HTTP connection of probes. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    opened: Instant,
    _driver: AbortOnDropHandle<()>,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr) -> Result<Self, ConnectFault> {
        let stream = connect(address).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_HEAD_BYTES)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| ConnectFault::Backend(io::Error::other(error)))?;
        let driver = tokio::spawn(async move {
            // What goes wrong reaches whoever waits for the answer.
            let _ = connection.await;
        });
        Ok(Self {
            sender,
            opened: Instant::now(),
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    /// Asks for a path; gives the head of the answer.
    pub(super) async fn ask(
        &mut self,
        request: Request<Empty<Bytes>>,
    ) -> hyper::Result<Response<Incoming>> {
        self.sender.ready().await?;
        self.sender.send_request(request).await
    }

    /// Waits until it can be asked again.
    pub(super) async fn settle(&mut self) -> hyper::Result<()> {
        self.sender.ready().await
    }

    /// Whether it can be asked now: false once the server has closed it.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened)
    }
}

/// The request of a probe.
pub(super) fn request(
    address: SocketAddr,
    path: &str,
) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    Request::get(path)
        .header(HOST, address.to_string())
        .header(USER_AGENT, AGENT)
        .body(Empty::new())
}

/// Connects to a backend.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, ConnectFault> {
    let socket = socket(address).map_err(ConnectFault::Local)?;
    socket.connect(address).await.map_err(|error| {
        if is_local(&error) {
            ConnectFault::Local(error)
        } else {
            ConnectFault::Backend(error)
        }
    })
}

fn socket(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_mark(AGENT_MARK)?;
    socket.set_tcp_nodelay(true)?;
    Ok(TcpSocket::from_std_stream(socket.into()))
}

/// Whether a failed connect says more about this machine than about the backend: no ports, no
/// memory, or a local policy.
fn is_local(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, OutOfMemory, PermissionDenied};
    matches!(
        error.kind(),
        AddrInUse | AddrNotAvailable | OutOfMemory | PermissionDenied
    ) || error.raw_os_error() == Some(libc::ENOBUFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn sockets_carry_the_mark_of_the_agent() {
        for address in ["127.0.0.1:1", "[::1]:1"] {
            let socket = socket(address.parse().unwrap()).unwrap();
            let socket = socket2::SockRef::from(&socket);
            assert_eq!(socket.mark().unwrap(), AGENT_MARK);
        }
    }

    #[test]
    fn requests_name_the_backend_and_the_agent() {
        let request = request("[2001:db8::1]:80".parse().unwrap(), "/_/health?a=b").unwrap();
        assert_eq!(request.uri(), "/_/health?a=b");
        assert_eq!(request.headers()[HOST], "[2001:db8::1]:80");
        assert!(
            request.headers()[USER_AGENT]
                .to_str()
                .unwrap()
                .starts_with("idlefirst-health/")
        );
    }
}

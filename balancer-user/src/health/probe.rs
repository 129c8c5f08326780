//! One probe of one backend.
//!
//! Owns what counts as an answer, and when a connection may be asked a second time. Knows nothing
//! of intervals, verdicts or other backends; `schedule` decides when to call it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::BodyExt;
use hyper::{Response, StatusCode, body::Incoming};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout, timeout_at},
};

use super::{
    connect::{self, ConnectFault, Connection},
    pool::Pool,
    target::Check,
    verdict::Outcome,
};

/// Bytes of an answer's body that are read so that its connection can be used again.
const MAX_BODY_BYTES: usize = 64 * 1024;

/// Why a probe says nothing about its backend.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProbeFault {
    /// No socket to be had.
    #[error(transparent)]
    Connect(ConnectFault),
    /// A path that cannot be asked for.
    #[error("cannot ask for {path:?}: {source}; set health.path to a path such as /_/health")]
    Path {
        path: Arc<str>,
        #[source]
        source: hyper::http::Error,
    },
}

/// What is left to do once the outcome is known.
#[derive(Debug)]
pub(super) enum Remainder {
    /// Nothing.
    None,
    /// The body is to be read, so that the connection can be used again.
    Body(Connection, Incoming),
    /// The connection is to be closed.
    Close(TcpStream),
}

/// Probes a backend: connecting and the head of the answer take `limit` at most.
pub(super) async fn probe(
    pool: &Pool,
    address: SocketAddr,
    check: &Check,
    limit: Duration,
) -> Result<(Outcome, Remainder), ProbeFault> {
    let attempt = async {
        match check {
            Check::Http { path } => http(pool, address, path).await,
            Check::Tcp => tcp(address).await,
        }
    };
    timeout(limit, attempt).await.unwrap_or_else(|_| {
        // A pod may have vanished without a word: no other idle connection to it is better.
        pool.forget(address);
        Ok((Outcome::TimedOut, Remainder::None))
    })
}

async fn http(
    pool: &Pool,
    address: SocketAddr,
    path: &Arc<str>,
) -> Result<(Outcome, Remainder), ProbeFault> {
    let request = || {
        connect::request(address, path).map_err(|source| ProbeFault::Path {
            path: path.clone(),
            source,
        })
    };
    let first = request()?;
    if let Some(mut connection) = pool.take(address) {
        match connection.ask(first).await {
            Ok(answer) => return Ok(judge(connection, answer)),
            Err(error) if error.is_parse() => return Ok((Outcome::NoAnswer, Remainder::None)),
            // The server may have closed it just now, which is its right.
            Err(_) => pool.forget(address),
        }
    }
    let mut connection = match Connection::open(address).await {
        Ok(connection) => connection,
        Err(fault) => return not_connected(fault),
    };
    pool.count_created();
    Ok(match connection.ask(request()?).await {
        Ok(answer) => judge(connection, answer),
        Err(_) => (Outcome::NoAnswer, Remainder::None),
    })
}

fn judge(connection: Connection, answer: Response<Incoming>) -> (Outcome, Remainder) {
    let outcome = match answer.status() {
        StatusCode::OK => Outcome::Ok,
        StatusCode::TOO_MANY_REQUESTS => Outcome::Busy,
        other => Outcome::Status(other.as_u16()),
    };
    (outcome, Remainder::Body(connection, answer.into_body()))
}

async fn tcp(address: SocketAddr) -> Result<(Outcome, Remainder), ProbeFault> {
    match connect::connect(address).await {
        Ok(stream) => Ok((Outcome::Ok, Remainder::Close(stream))),
        Err(fault) => not_connected(fault),
    }
}

fn not_connected(fault: ConnectFault) -> Result<(Outcome, Remainder), ProbeFault> {
    match fault {
        ConnectFault::Local(_) => Err(ProbeFault::Connect(fault)),
        ConnectFault::Backend(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Ok((Outcome::Refused, Remainder::None))
        }
        ConnectFault::Backend(_) => Ok((Outcome::Unreachable, Remainder::None)),
    }
}

impl Remainder {
    /// Does it, until `deadline`; what is not done by then ends with the connection.
    pub(super) async fn finish(self, pool: &Pool, address: SocketAddr, deadline: Instant) {
        match self {
            Self::None => (),
            Self::Body(mut connection, body) => {
                let read = async { drain(body).await && connection.settle().await.is_ok() };
                if timeout_at(deadline, read).await == Ok(true) {
                    pool.put_back(address, connection);
                }
            }
            Self::Close(stream) => {
                // Its errors are those of a backend that has closed already.
                let _ = timeout_at(deadline, close(stream)).await;
            }
        }
    }
}

/// Reads a body; false if it breaks off or is too long.
async fn drain(mut body: Incoming) -> bool {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return false };
        read += frame.data_ref().map_or(0, |data| data.len());
        if read > MAX_BODY_BYTES {
            return false;
        }
    }
    true
}

/// Closes without a reset: with a greeting unread, the kernel would send one.
async fn close(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown().await?;
    let mut greeting = [0; 1024];
    let mut read = 0;
    while read <= MAX_BODY_BYTES {
        match stream.read(&mut greeting).await? {
            0 => break,
            count => read += count,
        }
    }
    Ok(())
}

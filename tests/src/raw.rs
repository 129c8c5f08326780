//! TCP servers that end connections in every way there is.
//!
//! Each counts the connections it has open, or, for [`Behaviour::Answer`], those it has not yet
//! answered.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    netns::Netns,
    server::{Accepting, Counts, Seen, Serving, address_of},
};

/// What a raw server does with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Holds it until the client closes. Bytes sent are dropped.
    Hold,
    /// Reads one byte, waits, counts it out, *then* answers with one byte, and waits for the client
    /// to close. The order makes the count exact: a client that closes after its answer has been
    /// counted out before.
    Answer {
        /// Between the question and the answer.
        after: Duration,
    },
    /// Closes first.
    CloseAfter(Duration),
    /// Closes its sending half first, then waits for the client to close.
    HalfCloseAfter(Duration),
    /// Resets it.
    ResetAfter(Duration),
    /// Its port is taken and closed: a connect is refused.
    Refuse,
}

/// A running raw server. Its port is closed on drop.
#[derive(Debug)]
pub struct RawServer {
    address: SocketAddr,
    counts: Arc<Counts>,
    port: Port,
}

#[derive(Debug)]
enum Port {
    Open(Accepting),
    /// Bound but not listening, so that nobody else gets it.
    Closed(#[expect(dead_code, reason = "held for the port")] socket2::Socket),
}

impl RawServer {
    /// Starts one inside a namespace. `limit` is only for [`Seen::over_limit`]: connections
    /// beyond it are served all the same. 0: none.
    pub fn start(
        netns: &Netns,
        address: SocketAddr,
        behaviour: Behaviour,
        limit: u32,
    ) -> Result<Self> {
        let counts = Arc::<Counts>::default();
        if behaviour == Behaviour::Refuse {
            let socket = netns.run(|| closed_port(address))?;
            let address = socket
                .local_addr()?
                .as_socket()
                .context("a TCP socket has an address")?;
            return Ok(Self {
                address,
                counts,
                port: Port::Closed(socket),
            });
        }
        let listener = netns.listen(address)?;
        let address = address_of(&listener)?;
        let serve = {
            let counts = Arc::clone(&counts);
            move |stream| serve(stream, behaviour, counts.begin_anyway(limit))
        };
        let accepting = Accepting::start(listener, Arc::clone(&counts), serve)?;
        Ok(Self {
            address,
            counts,
            port: Port::Open(accepting),
        })
    }

    /// What a client dials.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen.
    pub fn seen(&self) -> Seen {
        self.counts.seen()
    }

    /// Counts anew.
    pub fn reset(&self) {
        self.counts.reset();
    }

    /// Closes its port and all its connections.
    pub fn stop(mut self) {
        if let Port::Open(accepting) = &mut self.port {
            accepting.stop();
        }
    }
}

fn closed_port(address: SocketAddr) -> Result<socket2::Socket> {
    let bind = || -> std::io::Result<socket2::Socket> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, None)?;
        socket.bind(&address.into())?;
        Ok(socket)
    };
    bind().with_context(|| format!("cannot bind {address} in its namespace"))
}

/// Errors are ends too: a client may reset at any time.
async fn serve(mut stream: TcpStream, behaviour: Behaviour, serving: Serving) {
    match behaviour {
        Behaviour::Hold => read_to_end(&mut stream).await,
        Behaviour::Answer { after } => {
            let mut question = [0];
            if stream.read_exact(&mut question).await.is_err() {
                return;
            }
            if !after.is_zero() {
                sleep(after).await;
            }
            serving.finish();
            if stream.write_all(&question).await.is_ok() {
                read_to_end(&mut stream).await;
            }
            return;
        }
        Behaviour::CloseAfter(delay) => sleep(delay).await,
        Behaviour::HalfCloseAfter(delay) => {
            sleep(delay).await;
            if stream.shutdown().await.is_ok() {
                read_to_end(&mut stream).await;
            }
        }
        Behaviour::ResetAfter(delay) => {
            sleep(delay).await;
            reset_when_dropped(&stream);
        }
        Behaviour::Refuse => unreachable!("a closed port accepts nothing"),
    }
    serving.finish();
}

async fn read_to_end(stream: &mut TcpStream) {
    let mut dropped = [0; 4096];
    while matches!(stream.read(&mut dropped).await, Ok(1..)) {}
}

fn reset_when_dropped(stream: &TcpStream) {
    // It fails only for a descriptor that is no socket.
    if let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        eprintln!("cannot set SO_LINGER: {error}");
    }
}

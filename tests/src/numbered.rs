//! A TCP server that says who it is: it answers every client's first byte with its own number,
//! after a time that can be changed, and then waits for the client to close.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::sleep,
};

use crate::{
    netns::Netns,
    server::{Accepting, Counts, Seen, address_of},
};

/// A running server. Its port and its connections are closed on drop.
#[derive(Debug)]
pub struct Numbered {
    address: SocketAddr,
    delay_us: Arc<AtomicU64>,
    counts: Arc<Counts>,
    accepting: Accepting,
}

impl Numbered {
    /// Starts one inside a namespace.
    pub fn start(netns: &Netns, address: SocketAddr, number: u8) -> Result<Self> {
        let listener = netns.listen(address)?;
        let address = address_of(&listener)?;
        let (counts, delay_us) = (Arc::<Counts>::default(), Arc::<AtomicU64>::default());
        let accepting = Accepting::start(listener, Arc::clone(&counts), {
            let (counts, delay_us) = (Arc::clone(&counts), Arc::clone(&delay_us));
            move |mut stream| {
                let serving = counts.begin_anyway(0);
                let delay_us = Arc::clone(&delay_us);
                async move {
                    if serve(&mut stream, number, &delay_us).await.is_ok() {
                        serving.finish();
                    }
                }
            }
        })?;
        Ok(Self {
            address,
            delay_us,
            counts,
            accepting,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on, it takes so long to answer.
    pub fn answer_after(&self, delay: Duration) {
        self.delay_us.store(delay.as_micros() as u64, SeqCst);
    }

    /// What it has seen.
    pub fn seen(&self) -> Seen {
        self.counts.seen()
    }

    /// Closes its port and every connection, and waits until that is done.
    pub fn stop(mut self) {
        self.accepting.stop();
    }
}

async fn serve(stream: &mut TcpStream, number: u8, delay_us: &AtomicU64) -> std::io::Result<()> {
    stream.read_u8().await?;
    let delay = Duration::from_micros(delay_us.load(SeqCst));
    if !delay.is_zero() {
        sleep(delay).await;
    }
    stream.write_u8(number).await?;
    // The client's end, however it comes.
    let _ = stream.read_u8().await;
    Ok(())
}

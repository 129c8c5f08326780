//! A server that can be killed and comes back: it answers each request with its own number.
//! Called by `stage`, and by that of `k8s_failover`.

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use socket2::SockRef;
use tests::netns::Netns;

/// For a request that does not come.
const PATIENCE: Duration = Duration::from_millis(100);

/// One backend.
pub(in crate::bench) struct Backend {
    pub(in crate::bench) address: SocketAddr,
    number: u8,
    running: Option<Running>,
}

struct Running {
    listener: TcpListener,
    /// What it is serving.
    current: Arc<Mutex<Option<TcpStream>>>,
    thread: JoinHandle<io::Result<()>>,
}

impl Backend {
    pub(in crate::bench) fn start(netns: &Netns, address: SocketAddr, number: u8) -> Result<Self> {
        let mut backend = Self {
            address,
            number,
            running: None,
        };
        backend.come_back(netns)?;
        Ok(backend)
    }

    /// Starts its server.
    pub(in crate::bench) fn come_back(&mut self, netns: &Netns) -> Result<()> {
        let listener = netns.listen(self.address)?;
        let own = listener
            .try_clone()
            .context("cannot duplicate a listener's descriptor")?;
        let current = Arc::<Mutex<Option<TcpStream>>>::default();
        let thread = thread::spawn({
            let (current, number) = (Arc::clone(&current), self.number);
            move || serve(&own, &current, number)
        });
        self.running = Some(Running {
            listener,
            current,
            thread,
        });
        Ok(())
    }

    /// Resets its connections and closes its port, as the kernel does for a process that is killed.
    /// Tells when that began.
    pub(in crate::bench) fn kill(&mut self) -> Result<Instant> {
        let running = self.running.take().context("it is dead already")?;
        let begun = Instant::now();
        // Connections that were not accepted yet are reset by this.
        SockRef::from(&running.listener)
            .shutdown(Shutdown::Both)
            .context("cannot close a backend's port")?;
        if let Some(stream) = &*locked(&running.current) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
        drop(running.listener);
        let ended = running.thread.join();
        ended.map_err(|_| anyhow!("a backend's thread panicked"))??;
        Ok(begun)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        if self.running.is_some()
            && let Err(error) = self.kill()
        {
            eprintln!("{error:#}");
        }
    }
}

fn serve(listener: &TcpListener, current: &Mutex<Option<TcpStream>>, number: u8) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                // Closed by a reset, whoever closes it.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
                *locked(current) = Some(stream.try_clone()?);
                // A client that goes away in the middle is the client's business.
                let _ = answer(stream, number);
                *locked(current) = None;
            }
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            // The port was closed.
            Err(error) if error.kind() == ErrorKind::InvalidInput => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Until the client closes, so that its answer is not lost in a reset.
fn answer(mut stream: TcpStream, number: u8) -> io::Result<()> {
    let mut request = [0];
    stream.set_read_timeout(Some(PATIENCE))?;
    while stream.read(&mut request)? != 0 {
        stream.write_all(&[number])?;
    }
    Ok(())
}

fn locked(current: &Mutex<Option<TcpStream>>) -> MutexGuard<'_, Option<TcpStream>> {
    current.lock().unwrap_or_else(PoisonError::into_inner)
}

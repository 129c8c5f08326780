//! The servers' side: one that accepts and closes at once, one that swallows bytes,
//! and one that keeps connections open.
//!
//! Each is a thread of its own, bound to the servers' CPU; it ends with its value. Called by
//! `connect` and `strategies`.

use std::{
    hint,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result};
use socket2::SockRef;
use tests::netns::Netns;

use super::super::cpu::bind_this_thread;

/// A listener and the thread that serves it.
pub(in crate::bench) struct Server {
    listener: TcpListener,
    thread: Option<JoinHandle<()>>,
}

/// What a server does with a connection.
#[derive(Clone, Copy)]
pub(in crate::bench) enum Service {
    /// Closes it.
    Close,
    /// Reads it to its end, and acknowledges every so many bytes with one.
    Swallow { slice_bytes: usize },
    /// Keeps so many open until the server ends, and closes all after them.
    Keep { first: usize },
}

/// What a server does until somebody connects. A connect to a sleeping one includes waking it,
/// which costs as much as all the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::bench) enum Wait {
    /// It blocks, as an idle pod does.
    Asleep,
    /// It polls.
    Awake,
}

impl Server {
    /// Starts one in a namespace; its address may be the wildcard.
    pub(in crate::bench) fn start(
        netns: &Netns,
        address: SocketAddr,
        service: Service,
        cpu: usize,
    ) -> Result<Self> {
        let listener = netns.listen(address)?;
        let own = listener
            .try_clone()
            .context("cannot duplicate a listener's descriptor")?;
        let thread = thread::Builder::new()
            .name("bench-server".to_owned())
            .spawn(move || {
                if let Err(error) = bind_this_thread(cpu) {
                    eprintln!("the figures are noisier than need be: {error:#}");
                }
                serve(&own, service);
            })
            .context("cannot start a thread")?;
        Ok(Self {
            listener,
            thread: Some(thread),
        })
    }

    /// From its next connection on.
    pub(in crate::bench) fn set_wait(&self, wait: Wait) -> Result<()> {
        self.listener
            .set_nonblocking(wait == Wait::Awake)
            .context("cannot change how a server waits")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Wakes the thread from accept().
        let ended = SockRef::from(&self.listener)
            .shutdown(Shutdown::Both)
            .map(|()| self.thread.take().map(JoinHandle::join));
        if !matches!(ended, Ok(Some(Ok(())))) {
            eprintln!("a server of the bench did not end well: {ended:?}");
        }
    }
}

fn serve(listener: &TcpListener, service: Service) {
    let mut kept = Vec::new();
    loop {
        match (listener.accept(), service) {
            (Ok((stream, _)), Service::Close) => drop(stream),
            (Ok((stream, _)), Service::Swallow { slice_bytes }) => {
                // It lasts as long as the client wants; the next one must not wait for that.
                thread::spawn(move || swallow(stream, slice_bytes));
            }
            (Ok((stream, _)), Service::Keep { first }) => {
                if kept.len() < first {
                    kept.push(stream);
                }
            }
            (Err(error), _) if error.kind() == ErrorKind::ConnectionAborted => {}
            // Awake: nobody has connected yet.
            (Err(error), _) if error.kind() == ErrorKind::WouldBlock => hint::spin_loop(),
            (Err(_), _) => return,
        }
    }
}

/// Ends with the connection, however that ends.
fn swallow(mut stream: TcpStream, slice_bytes: usize) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    loop {
        let mut left = slice_bytes;
        while left > 0 {
            let room = left.min(buffer.len());
            match stream.read(&mut buffer[..room])? {
                0 => return Ok(()),
                count => left -= count,
            }
        }
        stream.write_all(&[0])?;
    }
}

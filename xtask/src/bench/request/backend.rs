//! The backends: ten that answer with a short body, after as long as they are asked to, and count
//! what comes while they are serving. A blocking thread for each connection; all end with their
//! value. Called by `stage`.

use std::{
    io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};
use socket2::SockRef;
use tests::netns::Netns;

use super::super::{cpu, http::Connection};

const ANSWER: &[u8] =
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 12\r\n\r\nhello world\n";

/// One of them.
pub(super) struct Backend {
    listener: TcpListener,
    accepting: Option<JoinHandle<()>>,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    serving: AtomicUsize,
    /// Requests that came while another was being served.
    over_limit: AtomicU64,
    /// To be shut at the end.
    open: Mutex<Vec<Weak<TcpStream>>>,
}

impl Backend {
    /// Its threads run on this CPU.
    pub(super) fn start(netns: &Netns, address: SocketAddr, cpu: usize) -> Result<Self> {
        let listener = netns.listen(address)?;
        let own = listener
            .try_clone()
            .context("cannot duplicate a listener's descriptor")?;
        let state = Arc::<State>::default();
        let accepting = thread::spawn({
            let state = state.clone();
            move || {
                if let Err(error) = cpu::bind_this_thread(cpu) {
                    eprintln!("the figures are noisier than need be: {error:#}");
                }
                state.accept(&own);
            }
        });
        Ok(Self {
            listener,
            accepting: Some(accepting),
            state,
        })
    }

    /// Requests that came while another was being served.
    pub(super) fn over_limit(&self) -> u64 {
        self.state.over_limit.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        // Wakes the thread from accept(), and the others from read().
        let ended = SockRef::from(&self.listener).shutdown(Shutdown::Both);
        let ended = ended.map(|()| self.accepting.take().map(JoinHandle::join));
        if !matches!(ended, Ok(Some(Ok(())))) {
            eprintln!("a backend of the bench did not end well: {ended:?}");
        }
        for stream in self
            .state
            .open()
            .drain(..)
            .filter_map(|open| open.upgrade())
        {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    /// Until the listener is shut. Threads inherit the CPU.
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            let (state, stream) = (self.clone(), Arc::new(stream));
            let mut open = self.open();
            open.retain(|open| open.strong_count() > 0);
            open.push(Arc::downgrade(&stream));
            drop(open);
            // A proxy may close as it likes.
            thread::spawn(move || state.serve(&stream));
        }
    }

    fn serve(&self, stream: &TcpStream) -> io::Result<()> {
        let mut connection = Connection::new(stream.try_clone()?)?;
        while let Some(target) = connection.request()? {
            if self.serving.fetch_add(1, Ordering::SeqCst) > 0 {
                self.over_limit.fetch_add(1, Ordering::SeqCst);
            }
            let work = asked_work(&target);
            if !work.is_zero() {
                thread::sleep(work);
            }
            // Before the answer is written: whatever follows from that comes later.
            self.serving.fetch_sub(1, Ordering::SeqCst);
            connection.send(ANSWER)?;
        }
        Ok(())
    }

    fn open(&self) -> std::sync::MutexGuard<'_, Vec<Weak<TcpStream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// None, unless it is asked for.
fn asked_work(target: &str) -> Duration {
    let us = target.split_once("work_us=").map(|(_, us)| us.parse());
    Duration::from_micros(us.and_then(Result::ok).unwrap_or_default())
}

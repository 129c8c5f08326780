//! The clients: threads in their place, each of which connects, asks, reads the answer and closes,
//! at a pace that leaves the machine room. Called by `failover` and `k8s_failover`.

use std::{
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, Scope},
    time::{Duration, Instant},
};

use socket2::{Domain, Socket, Type};
use tests::place::Place;

use super::Going;

/// What clients dial. It is routed nowhere.
pub(in crate::bench) const FRONTEND: SocketAddr =
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10)), 8080);
/// Threads.
const CLIENTS: u32 = 8;
/// From one request of a thread to its next: 4,000 a second of all.
const INTERVAL: Duration = Duration::from_millis(2);

/// How a request ended, and when.
pub(in crate::bench) struct Seen {
    pub(in crate::bench) at: Instant,
    /// The number of the backend that answered.
    pub(in crate::bench) answer: io::Result<u8>,
}

/// They ask until the value goes.
pub(in crate::bench) struct Clients {
    pub(in crate::bench) seen: mpsc::Receiver<Seen>,
    is_over: Arc<AtomicBool>,
}

impl Clients {
    /// Their threads end before the scope does.
    pub(in crate::bench) fn start<'s>(
        scope: &'s Scope<'s, '_>,
        place: Place<'s>,
        going: Going,
    ) -> Self {
        let is_over = Arc::<AtomicBool>::default();
        let (outbox, seen) = mpsc::channel();
        for number in 0..CLIENTS {
            let (outbox, is_over) = (outbox.clone(), Arc::clone(&is_over));
            scope.spawn(move || {
                if let Err(error) = place.enter() {
                    eprintln!("a client cannot take its place: {error:#}");
                    return;
                }
                // Not all at once.
                thread::sleep(INTERVAL / CLIENTS * number);
                ask_on(&outbox, &is_over, patience(going));
            });
        }
        Self { seen, is_over }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
    }
}

/// For a connection or an answer. Who waits for one that is cut off sees nobody's successor.
pub(in crate::bench) fn patience(going: Going) -> Duration {
    match going {
        Going::Refused | Going::Deleted => Duration::from_secs(1),
        Going::Blackholed => Duration::from_millis(20),
    }
}

fn ask_on(outbox: &mpsc::Sender<Seen>, is_over: &AtomicBool, patience: Duration) {
    while !is_over.load(Ordering::SeqCst) {
        let begun = Instant::now();
        let answer = ask(FRONTEND, patience);
        let at = Instant::now();
        if outbox.send(Seen { at, answer }).is_err() {
            return;
        }
        thread::sleep(INTERVAL.saturating_sub(begun.elapsed()));
    }
}

fn ask(frontend: SocketAddr, patience: Duration) -> io::Result<u8> {
    let socket = Socket::new(Domain::for_address(frontend), Type::STREAM, None)?;
    // No connection is left in TIME_WAIT.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_read_timeout(Some(patience))?;
    socket.connect_timeout(&frontend.into(), patience)?;
    let mut stream = TcpStream::from(socket);
    stream.write_all(b"?")?;
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    Ok(answer[0])
}

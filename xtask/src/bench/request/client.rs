//! The clients: a blocking thread for each kept connection, which asks again as soon as it has the
//! answer. Called by `request`.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Barrier,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, ensure};
use hdrhistogram::Histogram;
use tests::place::Place;

use super::{
    super::{cpu, http::Connection},
    results::Slice,
    stage::{Proxy, Stage},
};

/// Before the counted part: connections are opened, caches filled.
const WARM_UP: Duration = Duration::from_millis(200);
const COUNTED: Duration = Duration::from_millis(1200);

/// An answer that takes longer does not come.
const STUCK: Duration = Duration::from_secs(5);

/// Whatever can wait is refused after 100 ms at the latest; a proxy that does not even say so
/// within this is broken.
const REFUSAL_PAUSE: Duration = Duration::from_millis(1);

/// What clients do.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) connections: usize,
    pub(super) request: &'static [u8],
}

/// Warming up, counting, over.
const WARMING: u8 = 0;
const COUNTING: u8 = 1;
const OVER: u8 = 2;

/// What the clients of one slice share.
struct Run {
    address: SocketAddr,
    job: Job,
    phase: AtomicU8,
    ok: AtomicU64,
    refused: AtomicU64,
    all_connected: Barrier,
}

/// Asks for a while and measures.
pub(super) fn measure(stage: &Stage, proxy: Proxy<'_>, job: Job) -> Result<Slice> {
    let run = Run {
        address: proxy.address(),
        job,
        phase: AtomicU8::new(WARMING),
        ok: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        all_connected: Barrier::new(job.connections + 1),
    };
    stand(stage, proxy, || {
        // The threads that this one starts stand where it does.
        cpu::bind_this_thread(stage.load_cpu)?;
        thread::scope(|scope| {
            let clients: Vec<_> = (0..job.connections)
                .map(|_| scope.spawn(|| run.ask_again_and_again()))
                .collect();
            run.all_connected.wait();
            let counted = run.count(proxy);
            run.phase.store(OVER, Ordering::SeqCst);
            let mut latency_us = histogram()?;
            for client in clients {
                let ended = client.join().map_err(|_| anyhow!("a client panicked"))?;
                latency_us.add(ended?)?;
            }
            Ok(Slice {
                p50_us: latency_us.value_at_quantile(0.50) as f64,
                p99_us: latency_us.value_at_quantile(0.99) as f64,
                ..counted?
            })
        })
    })
}

/// One request, one answer.
pub(super) fn ask_once(stage: &Stage, proxy: Proxy<'_>) -> Result<()> {
    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: bench.example\r\n\r\n";
    stand(stage, proxy, || {
        let mut connection = connect(proxy.address())?;
        connection.send(REQUEST)?;
        let answer = connection.answer()?.context("it closed the connection")?;
        ensure!(
            answer.status == 200,
            "it answered with status {}",
            answer.status
        );
        Ok(())
    })
}

/// Runs `work` where the clients of this proxy stand: those of ours in its cgroup.
fn stand<T: Send>(
    stage: &Stage,
    proxy: Proxy<'_>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    match proxy {
        Proxy::Ours(_) => Place::new(&stage.netns, &stage.cgroup).run(work),
        Proxy::Peer(_) => stage.netns.run(work),
    }
}

fn connect(address: SocketAddr) -> Result<Connection> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(STUCK))?;
    Ok(Connection::new(stream)?)
}

fn histogram() -> Result<Histogram<u64>> {
    Histogram::new(3).context("a histogram of three digits")
}

impl Run {
    /// Lets the clients ask, and takes the counts of a part of that time.
    fn count(&self, proxy: Proxy<'_>) -> Result<Slice> {
        thread::sleep(WARM_UP);
        self.phase.store(COUNTING, Ordering::SeqCst);
        let begun = Instant::now();
        let before = (self.counts(), cpu::used_by(proxy.pid())?);
        thread::sleep(COUNTED);
        let after = (self.counts(), cpu::used_by(proxy.pid())?);
        Ok(Slice {
            ok: after.0.0 - before.0.0,
            refused: after.0.1 - before.0.1,
            lasted: begun.elapsed(),
            cpu: after.1 - before.1,
            p50_us: 0.0,
            p99_us: 0.0,
        })
    }

    fn counts(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::SeqCst);
        (read(&self.ok), read(&self.refused))
    }

    /// The time that each answer took which was counted, in microseconds.
    fn ask_again_and_again(&self) -> Result<Histogram<u64>> {
        let connected = connect(self.address);
        // Even if it failed: the others wait for all.
        self.all_connected.wait();
        let mut connection = connected.context("cannot connect")?;
        let mut latency_us = histogram()?;
        loop {
            let phase = self.phase.load(Ordering::Relaxed);
            if phase == OVER {
                return Ok(latency_us);
            }
            let asked = Instant::now();
            connection.send(self.job.request)?;
            let answer = connection.answer()?.context("it closed the connection")?;
            match answer.status {
                200 => {
                    self.ok.fetch_add(1, Ordering::Relaxed);
                    if phase == COUNTING {
                        latency_us += asked.elapsed().as_micros() as u64;
                    }
                }
                429 | 502 | 503 | 504 => {
                    self.refused.fetch_add(1, Ordering::Relaxed);
                    thread::sleep(REFUSAL_PAUSE);
                }
                status => return Err(anyhow!("it answered with status {status}")),
            }
            if answer.is_last {
                connection = connect(self.address)?;
            }
        }
    }
}

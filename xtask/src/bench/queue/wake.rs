//! From the freeing of a slot to the first byte of the next waiter, by the clock of the one backend.
//!
//! Three connections at a time: the first is steered to the backend by the kernel, the others wait.
//! The backend closes the first, and the programs free its slot; then it closes the second, whose
//! slot the agent holds. The next one's byte is there when its accept() and read() have returned.
//! Called by `queue`.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use socket2::SockRef;
use tests::{place::Place, wait::within};

use super::{
    super::report::quantile,
    stage::{Stage, WAKE},
};

/// How long the backend holds a slot: the others are waiting, and the machine sleeps, by then.
const HOLD: Duration = Duration::from_millis(4);

/// A connection on which nothing happens for so long is stuck.
const STUCK: Duration = Duration::from_secs(10);

/// Microseconds, a sample each time.
#[derive(Default)]
pub(super) struct Wakes {
    by_kernel: Vec<f64>,
    by_agent: Vec<f64>,
}

/// Of one kind of waking.
#[derive(Clone, Copy)]
pub(super) struct WakeTimes {
    pub(super) samples: usize,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

impl Wakes {
    /// The slot was held by a connection that the kernel had steered.
    pub(super) fn by_kernel(&self) -> WakeTimes {
        WakeTimes::of(&self.by_kernel)
    }

    /// The slot was held by a connection that the agent had forwarded.
    pub(super) fn by_agent(&self) -> WakeTimes {
        WakeTimes::of(&self.by_agent)
    }
}

impl WakeTimes {
    fn of(samples: &[f64]) -> Self {
        let mut sorted = samples.to_vec();
        Self {
            samples: samples.len(),
            p50_us: quantile(&mut sorted, 0.5),
            p99_us: quantile(&mut sorted, 0.99),
        }
    }
}

/// Frees a slot `times` times each way.
pub(super) fn measure(
    stage: &Stage,
    times: u32,
    stop_if_asked: &(impl Fn() -> Result<()> + Sync),
) -> Result<Wakes> {
    thread::scope(|scope| {
        let listener = &stage.wake_listener;
        let backend = scope.spawn(move || serve(listener));
        let inside = Place::new(&stage.netns, &stage.cgroup);
        let asked = inside.run(|| {
            for _ in 0..times {
                stop_if_asked()?;
                wait_for_free_slot(stage)?;
                ask_three_times()?;
            }
            Ok(())
        });
        // Ends the backend's accept().
        let ended = SockRef::from(listener).shutdown(Shutdown::Both);
        let served = backend.join();
        asked.and_then(|()| ended.context("cannot shut the backend's listener"))?;
        served.map_err(|_| anyhow!("the backend panicked"))?
    })
}

/// Until its listener is shut.
fn serve(listener: &TcpListener) -> Result<Wakes> {
    let mut wakes = Wakes::default();
    while let Ok((first, _)) = listener.accept() {
        take_byte(&first)?;
        wakes.by_kernel.push(free(first, listener, |second| {
            wakes.by_agent.push(free(second, listener, |_| Ok(()))?);
            Ok(())
        })?);
    }
    Ok(wakes)
}

/// Closes a connection after a while, and measures until the byte of the next is there, in
/// microseconds. The next is then for `go_on`.
fn free(
    connection: TcpStream,
    listener: &TcpListener,
    go_on: impl FnOnce(TcpStream) -> Result<()>,
) -> Result<f64> {
    thread::sleep(HOLD);
    let freed = Instant::now();
    drop(connection);
    let (next, _) = listener.accept().context("the next waiter did not come")?;
    take_byte(&next)?;
    let took = freed.elapsed();
    go_on(next)?;
    Ok(took.as_secs_f64() * 1e6)
}

fn take_byte(mut connection: &TcpStream) -> Result<()> {
    connection.set_read_timeout(Some(STUCK))?;
    let read = connection.read_exact(&mut [0]);
    read.context("a client sent nothing")
}

/// The agent gives a slot back at the end of a connection, not before it: the next connect might
/// find the slot taken still, and wait.
fn wait_for_free_slot(stage: &Stage) -> Result<()> {
    let free = within(STUCK, || match stage.agent.inflight()? {
        0 => Ok(()),
        inflight => Err(anyhow!("{inflight} slots are taken")),
    });
    free.map_err(|late| anyhow!("all connections have ended, but {}", late.last))
}

fn ask_three_times() -> Result<()> {
    let connections = [dial(WAKE)?, dial(WAKE)?, dial(WAKE)?];
    for mut connection in connections {
        let read = connection
            .read(&mut [0])
            .context("waiting for the backend to close")?;
        anyhow::ensure!(read == 0, "the backend sent something");
    }
    Ok(())
}

fn dial(address: SocketAddr) -> Result<TcpStream> {
    let mut stream =
        TcpStream::connect(address).with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(STUCK))?;
    stream.write_all(&[1]).context("cannot send a byte")?;
    Ok(stream)
}

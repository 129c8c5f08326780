//! Who dials: a thread in its namespace and cgroup, bound to one CPU, that times `connect()`.
//!
//! Only the system call is timed. The socket is closed with a reset, so that no connection is left
//! in TIME_WAIT, and its slot is free again when the close returns. Called
//! by `connect` and `strategies`.

use std::{
    hint,
    sync::mpsc,
    thread::Scope,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow};
use socket2::{SockAddr, Socket, Type};
use tests::{cgroup::Cgroup, netns::Netns, place::Place};

use super::{super::cpu::bind_this_thread, stage::Targets};

/// A thread that dials when it is told to, until it is dropped.
pub(in crate::bench) struct Dialler {
    orders: mpsc::Sender<Order>,
    times: mpsc::Receiver<Result<Vec<Duration>>>,
}

/// Where it stands.
#[derive(Clone, Copy)]
pub(in crate::bench) struct Standing<'s> {
    pub(in crate::bench) netns: &'s Netns,
    /// `None`: where this process is, past all programs of ours.
    pub(in crate::bench) cgroup: Option<&'s Cgroup>,
    pub(in crate::bench) cpu: usize,
}

/// What to dial, one after the other, round and round.
pub(in crate::bench) struct Order {
    pub(in crate::bench) targets: Targets,
    /// The number of the target to begin with.
    pub(in crate::bench) first: usize,
    pub(in crate::bench) count: usize,
    /// Between two connects.
    pub(in crate::bench) pause: Duration,
}

impl Dialler {
    /// Its thread ends before the scope does, and so before the cgroup goes.
    pub(in crate::bench) fn start<'s>(scope: &'s Scope<'s, '_>, standing: Standing<'s>) -> Self {
        let (orders, inbox) = mpsc::channel::<Order>();
        let (outbox, times) = mpsc::channel();
        scope.spawn(move || {
            if let Err(error) = standing.take() {
                // Nobody listens only if the bench has ended already.
                let _ = outbox.send(Err(error));
                return;
            }
            for order in inbox {
                if outbox.send(order.carry_out()).is_err() {
                    return;
                }
            }
        });
        Self { orders, times }
    }

    /// Carries an order out, and gives the time that each connect took.
    pub(in crate::bench) fn dial(&self, order: Order) -> Result<Vec<Duration>> {
        // If it is gone, what it said last tells why.
        let _ = self.orders.send(order);
        self.times
            .recv()
            .map_err(|_| anyhow!("a dialling thread has ended"))?
    }
}

impl Standing<'_> {
    fn take(self) -> Result<()> {
        match self.cgroup {
            Some(cgroup) => Place::new(self.netns, cgroup).enter()?,
            None => self.netns.enter()?,
        }
        bind_this_thread(self.cpu)
    }
}

impl Order {
    fn carry_out(&self) -> Result<Vec<Duration>> {
        let targets = self.targets.iter().cycle();
        let targets = targets.skip(self.first % self.targets.len());
        let connect = |target| {
            let time = connect_once(target)?;
            spin_for(self.pause);
            Ok(time)
        };
        targets.take(self.count).map(connect).collect()
    }
}

fn connect_once(target: &SockAddr) -> Result<Duration> {
    let connect = || {
        let socket = Socket::new(target.domain(), Type::STREAM, None)?;
        socket.set_linger(Some(Duration::ZERO))?;
        let begun = Instant::now();
        socket.connect(target)?;
        Ok::<_, std::io::Error>(begun.elapsed())
    };
    connect().with_context(|| format!("cannot connect to {:?}", target.as_socket()))
}

/// Without giving the CPU away, which would cool it down.
fn spin_for(pause: Duration) {
    let begun = Instant::now();
    while begun.elapsed() < pause {
        hint::spin_loop();
    }
}

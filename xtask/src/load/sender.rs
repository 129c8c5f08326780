//! Sends a load, open loop: a request leaves when it arrives, however many are still under way, and
//! is timed from its arrival.
//!
//! From wherever the calling thread stands: the threads that it starts stand there too. Used by
//! `demo` and `bench`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use tests::netns::Netns;
use tokio::{runtime::Runtime, task::JoinSet};

use super::{
    Load, Measured, Outcome, Tally,
    measured::LATE,
    request::{self, Kept, Route},
};

const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Whom requests go to.
#[derive(Clone, Debug)]
pub(crate) struct Aim {
    targets: Vec<SocketAddr>,
    clients: Vec<Arc<Netns>>,
    random: SmallRng,
}

/// On what requests travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    /// Each on a connection of its own.
    OnePerRequest,
    /// On connections that are kept for the next.
    Kept,
}

/// Who sends a load.
pub(crate) struct Sender {
    runtime: Runtime,
    kept: Option<Arc<Kept>>,
    measured: Arc<Mutex<Measured>>,
    requests: JoinSet<()>,
    reported: Instant,
}

impl Aim {
    /// A target drawn uniformly for each request; at least one. From a generator of its own, so
    /// that the arrivals are the same for every aim.
    pub(crate) fn new(targets: Vec<SocketAddr>, seed: u64) -> Self {
        let random = SmallRng::seed_from_u64(!seed);
        Self {
            targets,
            clients: Vec::new(),
            random,
        }
    }

    /// From one of these, drawn uniformly for each request. None: from where the process is.
    pub(crate) fn with_clients(self, clients: Vec<Arc<Netns>>) -> Self {
        Self { clients, ..self }
    }

    fn next(&mut self) -> Route {
        let target = self.targets.choose(&mut self.random);
        let client = match self.clients.len() {
            0 => None,
            count => {
                let number = self.random.random_range(0..count);
                Some((number, Arc::clone(&self.clients[number])))
            }
        };
        Route {
            target: *target.expect("there is something to aim at"),
            client,
        }
    }
}

impl Sender {
    pub(crate) fn new(connections: Connections) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("cannot start threads")?;
        Ok(Self {
            runtime,
            kept: (connections == Connections::Kept).then(Arc::default),
            measured: Arc::new(Mutex::new(Measured::new()?)),
            requests: JoinSet::new(),
            reported: Instant::now(),
        })
    }

    /// Sends all of it and waits for all answers. Tells `report` how far it is, now and then; its
    /// error ends the sending.
    pub(crate) fn send(
        mut self,
        load: &Load,
        mut aim: Aim,
        mut report: impl FnMut(Tally) -> Result<()>,
    ) -> Result<Outcome> {
        let begun = Instant::now();
        // Paced here rather than on the runtime, whose timer ticks once a millisecond.
        for arrival in load.arrivals() {
            let due = begun + arrival.at;
            while let Some(early) = due.checked_duration_since(Instant::now()) {
                std::thread::sleep(early.min(REPORT_INTERVAL));
                self.report_if_due(&mut report)?;
            }
            let (route, kept) = (aim.next(), self.kept.clone());
            let measured = Arc::clone(&self.measured);
            let request = async move {
                let late = due.elapsed() > LATE;
                let end = request::make(&route, arrival.work, kept.as_deref()).await;
                let took = due.elapsed();
                locked(&measured).record(arrival, end, took, late);
            };
            self.requests.spawn_on(request, self.runtime.handle());
            while self.requests.try_join_next().is_some() {}
            self.report_if_due(&mut report)?;
        }
        while self.runtime.block_on(self.requests.join_next()).is_some() {
            self.report_if_due(&mut report)?;
        }
        let outcome = locked(&self.measured).outcome();
        Ok(outcome)
    }

    fn report_if_due(&mut self, report: &mut impl FnMut(Tally) -> Result<()>) -> Result<()> {
        if self.reported.elapsed() < REPORT_INTERVAL {
            return Ok(());
        }
        self.reported = Instant::now();
        let tally = locked(&self.measured).tally;
        report(tally)
    }
}

fn locked(measured: &Mutex<Measured>) -> std::sync::MutexGuard<'_, Measured> {
    measured.lock().unwrap_or_else(PoisonError::into_inner)
}

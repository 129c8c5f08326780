//! The clients: a process of their own, in their own namespace and in the demo's cgroup, which
//! sends the load and reports on its standard output, one JSON object a line.
//!
//! Open loop: a request is sent when it arrives, however many are still under way, and timed from
//! its arrival. [`Clients`] is the demo's end, [`run`] the process's.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use hdrhistogram::Histogram;
use rand::{SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};
use tests::{
    netns::Netns,
    place,
    process::{Process, describe},
};
use tokio::task::JoinSet;

use super::{
    arrivals::Load,
    request::{self, End},
};
use crate::preflight::raise_descriptor_limit;

const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// What a busy machine may delay a request's departure by.
pub(super) const LATE: Duration = Duration::from_millis(10);

/// Kinds of errors told apart in the report.
const COMPLAINTS_KEPT: usize = 5;

/// What the clients are to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) steering: Steering,
    pub(super) load: Load,
}

/// Whom they dial.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Steering {
    /// Always this; the kernel chooses.
    Frontend(SocketAddr),
    /// One of these, drawn uniformly.
    Random(Vec<SocketAddr>),
}

/// How requests ended so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    pub(super) requests: u64,
    pub(super) ok: u64,
    pub(super) refused: u64,
    pub(super) errors: u64,
}

/// A report that the clients write.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) tally: Tally,
    /// Only in the last report.
    pub(super) finish: Option<Finish>,
}

/// What is known at the end.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Finish {
    /// Of the requests that ended well, from arrival to the last byte.
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    /// Requests that were sent more than [`LATE`] after their arrival.
    pub(super) late: u64,
    /// What went wrong, and how often.
    pub(super) complaints: BTreeMap<String, u64>,
}

/// The clients' process, seen from the demo.
pub(super) struct Clients {
    process: Process,
    latest: Arc<Mutex<Report>>,
    reader: Option<JoinHandle<Result<()>>>,
}

/// A finished run.
pub(super) struct Outcome {
    pub(super) tally: Tally,
    pub(super) finish: Finish,
}

impl Clients {
    /// Starts the process. With no cgroup, nothing of ours is on its way.
    pub(super) fn start(netns: &Netns, cgroup: Option<&Path>, task: &Task) -> Result<Self> {
        let own = std::env::current_exe().context("cannot find xtask's own path")?;
        let mut command: Command = place::command(Some(netns), cgroup, &own);
        command.args(["demo", "--as-client", &serde_json::to_string(task)?]);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::start(command)?;
        let stdout = process.take_stdout().context("its output is piped")?;
        let latest = Arc::<Mutex<Report>>::default();
        let reader = std::thread::spawn({
            let latest = Arc::clone(&latest);
            move || -> Result<()> {
                for line in BufReader::new(stdout).lines() {
                    let report = serde_json::from_str(&line?).context("the clients' report")?;
                    *latest.lock().unwrap_or_else(PoisonError::into_inner) = report;
                }
                Ok(())
            }
        });
        Ok(Self {
            process,
            latest,
            reader: Some(reader),
        })
    }

    /// The last report.
    pub(super) fn progress(&self) -> Report {
        self.latest
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The result, once the process has ended.
    pub(super) fn outcome(&mut self) -> Result<Option<Outcome>> {
        let Some(status) = self.process.ended()? else {
            return Ok(None);
        };
        if let Some(reader) = self.reader.take() {
            reader
                .join()
                .map_err(|_| anyhow::anyhow!("the reader of the clients' reports panicked"))??;
        }
        let Report {
            tally,
            finish: Some(finish),
        } = self.progress()
        else {
            bail!(
                "the clients ended early ({}):\n{}",
                describe(status),
                self.process.stderr()
            );
        };
        Ok(Some(Outcome { tally, finish }))
    }
}

/// The clients' process.
pub(super) fn run(task: &str) -> Result<()> {
    let task: Task = serde_json::from_str(task).context("--as-client is for the demo's own use")?;
    raise_descriptor_limit()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let measured = Arc::new(Mutex::new(Measured::new()?));
    let mut aim = Aim::new(&task);
    let mut requests = JoinSet::new();
    let begun = Instant::now();
    let mut reported = begun;
    // Paced here rather than on the runtime, whose timer ticks once a millisecond.
    for arrival in task.load.arrivals() {
        let due = begun + arrival.at;
        while let Some(early) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(early.min(REPORT_INTERVAL));
            report_if_due(&measured, &mut reported)?;
        }
        let (target, results) = (aim.next(), Arc::clone(&measured));
        requests.spawn_on(
            async move {
                let late = due.elapsed() > LATE;
                let end = request::make(target, arrival.work).await;
                locked(&results).record(end, due.elapsed(), late);
            },
            runtime.handle(),
        );
        while requests.try_join_next().is_some() {}
        report_if_due(&measured, &mut reported)?;
    }
    while runtime.block_on(requests.join_next()).is_some() {
        report_if_due(&measured, &mut reported)?;
    }
    let measured = locked(&measured);
    write_report(&Report {
        tally: measured.tally.clone(),
        finish: Some(measured.finish()),
    })
}

/// Who is dialled next. Drawn from a generator of its own: the arrivals stay the same.
struct Aim {
    targets: Vec<SocketAddr>,
    random: SmallRng,
}

impl Aim {
    fn new(task: &Task) -> Self {
        let targets = match &task.steering {
            Steering::Frontend(address) => vec![*address],
            Steering::Random(pods) => pods.clone(),
        };
        Self {
            targets,
            random: SmallRng::seed_from_u64(!task.load.seed),
        }
    }

    fn next(&mut self) -> SocketAddr {
        *self
            .targets
            .choose(&mut self.random)
            .expect("the demo has at least one pod")
    }
}

struct Measured {
    tally: Tally,
    ok_us: Histogram<u64>,
    late: u64,
    complaints: BTreeMap<String, u64>,
}

impl Measured {
    fn new() -> Result<Self> {
        let ok_us = Histogram::new(3).context("a histogram of three digits")?;
        Ok(Self {
            tally: Tally::default(),
            ok_us,
            late: 0,
            complaints: BTreeMap::new(),
        })
    }

    fn record(&mut self, end: End, took: Duration, late: bool) {
        self.late += u64::from(late);
        self.tally.requests += 1;
        match end {
            End::Ok => {
                self.tally.ok += 1;
                self.ok_us += u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            }
            End::Refused => self.tally.refused += 1,
            End::Error(error) => {
                self.tally.errors += 1;
                let complaint = format!("{error:#}");
                if self.complaints.len() < COMPLAINTS_KEPT
                    || self.complaints.contains_key(&complaint)
                {
                    *self.complaints.entry(complaint).or_default() += 1;
                }
            }
        }
    }

    fn finish(&self) -> Finish {
        let percentile_ms = |quantile| self.ok_us.value_at_quantile(quantile) as f64 / 1000.0;
        Finish {
            p50_ms: percentile_ms(0.50),
            p95_ms: percentile_ms(0.95),
            p99_ms: percentile_ms(0.99),
            late: self.late,
            complaints: self.complaints.clone(),
        }
    }
}

fn locked(measured: &Mutex<Measured>) -> std::sync::MutexGuard<'_, Measured> {
    measured.lock().unwrap_or_else(PoisonError::into_inner)
}

fn report_if_due(measured: &Mutex<Measured>, reported: &mut Instant) -> Result<()> {
    if reported.elapsed() >= REPORT_INTERVAL {
        *reported = Instant::now();
        let tally = locked(measured).tally.clone();
        write_report(&Report {
            tally,
            finish: None,
        })?;
    }
    Ok(())
}

fn write_report(report: &Report) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, report)?;
    writeln!(stdout)?;
    stdout.flush().context("cannot report to the demo")
}

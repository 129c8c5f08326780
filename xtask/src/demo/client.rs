//! The clients: a process of their own, in their own namespace and in the demo's cgroup, which
//! sends the load and reports on its standard output, one JSON object a line.
//!
//! [`Clients`] is the demo's end, [`run`] the process's.

use std::{
    fs::File,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use serde::{Deserialize, Serialize};
use tests::{
    netns::Netns,
    place,
    process::{Process, describe},
};

use crate::{
    load::{Aim, Connections, Load, Outcome, Sender, Tally},
    preflight::raise_descriptor_limit,
};

/// What the clients are to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Task {
    pub(super) steering: Steering,
    pub(super) load: Load,
    /// Whether connections are kept for the next request.
    pub(super) keep_alive: bool,
    /// Further namespaces to dial from; none: only from where the process is.
    pub(super) namespaces: Vec<PathBuf>,
}

/// Whom they dial.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) enum Steering {
    /// Always this; the kernel chooses.
    Frontend(SocketAddr),
    /// One of these, drawn uniformly.
    Random(Vec<SocketAddr>),
}

/// A report that the clients write.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Report {
    tally: Tally,
    /// Only in the last report.
    outcome: Option<Outcome>,
}

/// The clients' process, seen from the demo.
pub(super) struct Clients {
    process: Process,
    latest: Arc<Mutex<Report>>,
    reader: Option<JoinHandle<Result<()>>>,
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

    /// How requests ended so far.
    pub(super) fn tally(&self) -> Tally {
        self.report().tally
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
        let Some(outcome) = self.report().outcome else {
            bail!(
                "the clients ended early ({}):\n{}",
                describe(status),
                self.process.stderr()
            );
        };
        Ok(Some(outcome))
    }

    fn report(&self) -> Report {
        let latest = self.latest.lock();
        latest.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The clients' process.
pub(super) fn run(task: &str) -> Result<()> {
    let task: Task = serde_json::from_str(task).context("--as-client is for the demo's own use")?;
    raise_descriptor_limit()?;
    let targets = match &task.steering {
        Steering::Frontend(address) => vec![*address],
        Steering::Random(pods) => pods.clone(),
    };
    let connections = if task.keep_alive {
        Connections::Kept
    } else {
        Connections::OnePerRequest
    };
    let namespaces = task.namespaces.iter().map(|path| namespace_at(path));
    let namespaces = namespaces.collect::<Result<Vec<_>>>()?;
    let aim = Aim::new(targets, task.load.seed).with_clients(namespaces);
    let outcome = Sender::new(connections)?.send(&task.load, aim, |tally| {
        write_report(&Report {
            tally,
            outcome: None,
        })
    })?;
    write_report(&Report {
        tally: outcome.tally,
        outcome: Some(outcome),
    })
}

/// A namespace of the demo's process.
fn namespace_at(path: &Path) -> Result<Arc<Netns>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    // A thread that stays in it no longer than this.
    let inside = thread::spawn(move || {
        setns(&file, CloneFlags::CLONE_NEWNET).context("cannot enter a client's namespace")?;
        Netns::current().map(Arc::new)
    });
    let ended = inside.join();
    ended.map_err(|_| anyhow::anyhow!("the thread in a client's namespace panicked"))?
}

fn write_report(report: &Report) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer(&mut stdout, report)?;
    writeln!(stdout)?;
    stdout.flush().context("cannot report to the demo")
}

//! A child process that cannot outlive its value: its output is collected while it runs, and it is
//! killed and reaped on drop.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::process::{CommandExt, ExitStatusExt},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{name::Owner, wait::within};

/// The environment variable by which a process of ours tells whose it is.
pub const OWNER_VARIABLE: &str = "IDLEFIRST_GROUND_OWNER";

/// Lines of standard error kept: the first ones, where the cause of a failure usually is.
const LINES_KEPT: usize = 10_000;

/// A running child.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    stderr: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts it. Its standard error is collected; the other streams stay as `command` has them.
    ///
    /// It is marked as this process's own, so that a sweep finds it after a kill.
    pub fn start(mut command: Command) -> Result<Self> {
        let what = format!("{command:?}");
        let mut child = command
            .env(OWNER_VARIABLE, Owner::this().to_string())
            // A Ctrl-C in the terminal is for the owner, who ends its children in order.
            .process_group(0)
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        let stderr = Arc::default();
        let pipe = child.stderr.take().expect("stderr is piped");
        let reader = std::thread::spawn({
            let stderr = Arc::clone(&stderr);
            move || collect(pipe, &stderr)
        });
        Ok(Self {
            child,
            what,
            stderr,
            reader: Some(reader),
        })
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output, once, if `command` had it piped.
    pub fn take_stdout(&mut self) -> Option<impl Read + Send + use<>> {
        self.child.stdout.take()
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .join("\n")
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("cannot wait for {}", self.what))
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {}", self.what))
    }

    /// Whether every thread of it is stopped by a signal.
    pub fn ensure_stopped(&self) -> Result<()> {
        let tasks = format!("/proc/{}/task", self.pid());
        let tasks = fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))?;
        for task in tasks {
            let path = task?.path().join("stat");
            let stat = fs::read_to_string(&path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            // Behind the name, which is in parentheses and may contain anything.
            let state = stat.rsplit(") ").next().unwrap_or_default();
            ensure!(state.starts_with('T'), "{}: {state}", path.display());
        }
        Ok(())
    }

    /// Waits for its end; after that, [`Process::stderr`] is complete.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let status = within(deadline, || match self.child.try_wait() {
            Ok(Some(status)) => Ok(Ok(status)),
            Ok(None) => Err("running"),
            Err(error) => Ok(Err(error)),
        });
        match status {
            Ok(status) => {
                let status = status.with_context(|| format!("cannot wait for {}", self.what))?;
                self.join_reader();
                Ok(status)
            }
            Err(late) => Err(anyhow::anyhow!(
                "{} did not end: {late}\n{}",
                self.what,
                self.stderr()
            )),
        }
    }

    /// Kills it with SIGKILL and reaps it.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        self.child
            .kill()
            .with_context(|| format!("cannot kill {}", self.what))?;
        let status = self
            .child
            .wait()
            .with_context(|| format!("cannot reap {}", self.what))?;
        self.join_reader();
        Ok(status)
    }

    /// A child of the child may hold the pipe open: what it writes later is not waited for.
    fn join_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            let ended = within(Duration::from_secs(1), || {
                if reader.is_finished() {
                    Ok(())
                } else {
                    Err("open")
                }
            });
            if ended.is_ok() && reader.join().is_err() {
                eprintln!("the reader of {}'s output panicked", self.what);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("{error:#}");
        }
    }
}

/// `exit 3`, `killed by signal 9`.
pub fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// Bytes of memory that a process has.
pub fn resident(pid: u32) -> Result<usize> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: usize = kib.context("status has VmRSS in kB")?.trim().parse()?;
    Ok(kib * 1024)
}

/// Reads to the end even when no more is kept: a full pipe would stop the child.
fn collect(pipe: impl Read, lines: &Mutex<Vec<String>>) {
    for line in BufReader::new(pipe).split(b'\n') {
        let Ok(line) = line else { return };
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() < LINES_KEPT {
            lines.push(String::from_utf8_lossy(&line).into_owned());
        }
    }
}

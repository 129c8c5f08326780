//! One boot of one kernel: QEMU, and what the guest reports until it ends or its time is over.
//!
//! QEMU dies with this process, however that ends. Called by `mod`.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::{
    kernels::Kernel,
    outcome::Outcome,
    report::{Report, TestName},
};
use crate::process::progress;

pub(super) const QEMU: &str = "qemu-system-x86_64";

/// Of the console of a guest that died, the last lines.
const CONSOLE_LINES: usize = 40;

/// How to boot.
pub(super) struct Machine<'m> {
    pub(super) kernel: &'m Kernel,
    pub(super) initramfs: &'m Path,
    pub(super) accelerator: &'m str,
    pub(super) cpus: usize,
    pub(super) time_limit: Duration,
    /// Where the console's output goes.
    pub(super) console: PathBuf,
}

impl Machine<'_> {
    /// Boots, shows each report, and waits for the end. An error means that nothing was booted.
    pub(super) fn run(&self, tests: &[TestName]) -> Result<Outcome> {
        let begun = Instant::now();
        let guest = Guest::start(&mut self.command())?;
        let mut outcome = Outcome::expecting(&self.kernel.release, tests);
        loop {
            let left = self.time_limit.saturating_sub(begun.elapsed());
            match guest.lines.recv_timeout(left) {
                Ok(line) => match serde_json::from_str(&line) {
                    Ok(report) => {
                        show(&report);
                        if outcome.take(report).is_break() {
                            break;
                        }
                    }
                    Err(_) => progress(&format!("not a report: {line}")),
                },
                Err(RecvTimeoutError::Timeout) => {
                    outcome.died(format!("not done after {:?}", self.time_limit));
                    break;
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let console = self.end_of_console();
                    outcome.died(format!("the guest died; its console:\n{console}"));
                    break;
                }
            }
        }
        outcome.time = begun.elapsed();
        Ok(outcome)
    }

    fn command(&self) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--", QEMU])
            .args(["-nodefaults", "-no-user-config", "-no-reboot"])
            .args(["-display", "none", "-monitor", "none"])
            .args(["-accel", self.accelerator, "-cpu", "max", "-m", "2048"])
            .args(["-smp", &self.cpus.to_string()])
            .arg("-serial")
            .arg(format!("file:{}", self.console.display()))
            .args(["-chardev", "stdio,id=reports,signal=off"])
            .args(["-serial", "chardev:reports"])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(self.initramfs)
            // A panic ends the machine at once, by way of a reboot. What protects a machine from
            // its users only costs time here.
            .args([
                "-append",
                "console=ttyS0 loglevel=4 panic=-1 mitigations=off init_on_alloc=0 \
                 rdinit=/bin/xtask -- vm-guest",
            ]);
        command
    }

    fn end_of_console(&self) -> String {
        let bytes = fs::read(&self.console).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
    }
}

fn show(report: &Report) {
    match report {
        Report::Booted { release } => progress(&format!("{release} runs")),
        Report::Loaded { programs, seconds } => {
            let count = programs.len();
            progress(&format!("{seconds:6.1} s  {count} programs loaded"));
        }
        Report::Tested {
            test,
            seconds,
            failure: None,
        } => progress(&format!("{seconds:6.1} s  ok    {test}")),
        Report::Tested {
            test,
            seconds,
            failure: Some(failure),
        } => progress(&format!("{seconds:6.1} s  FAIL  {test}\n{failure}")),
        Report::Broken { error } => progress(&format!("FAIL  {error}")),
        Report::Finished => {}
    }
}

/// QEMU, killed when this goes.
struct Guest {
    process: Child,
    lines: Receiver<String>,
}

impl Guest {
    fn start(command: &mut Command) -> Result<Self> {
        let mut process = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start setpriv, which starts QEMU: install the package util-linux")?;
        let reports = process.stdout.take().context("stdout is piped")?;
        Ok(Self {
            process,
            lines: read_lines(reports),
        })
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The lines come until QEMU ends.
fn read_lines(reports: ChildStdout) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reports).split(b'\n') {
            let Ok(line) = line else { return };
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

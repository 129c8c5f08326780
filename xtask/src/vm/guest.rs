//! The guest's side: what the kernel under test starts as its first process.
//!
//! As process 1 it mounts the file systems, starts itself once more, reaps whatever has lost its
//! parent, and switches the machine off. The second process starts an agent, so that the verifier
//! sees every program, and then runs the tests. It reports each step; the host judges. Refuses
//! to run anywhere but in a guest. Called by `main`.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::Write,
    os::unix::process::CommandExt,
    path::Path,
    process::{self, Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        resource::{Resource, setrlimit},
        signal::{Signal, killpg},
        wait::wait,
    },
    unistd::Pid,
};
use tests::{
    agent::Agent, cgroup::Cgroup, netns::Netns, service::Service, wait::PATIENCE_VARIABLE,
};

use super::report::{PLAN_PATH, Plan, Program, Report, TestName};
use crate::agent::BINARY_VARIABLE;

/// The second serial port; kernel messages go to the first.
const REPORTS_PATH: &str = "/dev/ttyS1";

/// Type and place, in the order in which they are mounted.
const MOUNTS: [(&str, &str); 9] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("bpf", "/sys/fs/bpf"),
    ("tracefs", "/sys/kernel/tracing"),
];

const OPEN_FILES_AT_MOST: u64 = 65_536;

/// Of a failed test's output, the end.
const SHOWN_BYTES: usize = 16 * 1024;

const POLL_EVERY: Duration = Duration::from_millis(20);

/// Does all that the guest is there for.
pub(crate) fn run() -> Result<()> {
    if process::id() == 1 {
        first_process()
    } else {
        ensure!(
            Path::new(PLAN_PATH).exists(),
            "no {PLAN_PATH}: this command is for a guest of `cargo xtask test vm`"
        );
        let mut reports = Reports::open()?;
        if let Err(error) = work(&mut reports) {
            reports.send(&Report::Broken {
                error: format!("{error:#}"),
            })?;
        }
        Ok(())
    }
}

/// If it fails, the kernel panics, and the host sees the reason on the console.
fn first_process() -> Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).with_context(|| format!("cannot make {place}"))?;
        mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        )
        .with_context(|| format!("cannot mount {kind} on {place}"))?;
    }
    setrlimit(
        Resource::RLIMIT_NOFILE,
        OPEN_FILES_AT_MOST,
        OPEN_FILES_AT_MOST,
    )
    .context("cannot raise the limit on descriptors")?;
    let plan = plan()?;
    let worker = Command::new("/proc/self/exe")
        .args(std::env::args_os().skip(1))
        .env("PATH", "/bin:/sbin")
        .env("HOME", "/")
        .env("RUST_BACKTRACE", "1")
        .env(BINARY_VARIABLE, &plan.agent)
        .env(PATIENCE_VARIABLE, plan.patience.to_string())
        .stdin(Stdio::null())
        .spawn()
        .context("cannot start the second process")?;
    let worker = i32::try_from(worker.id()).map(Pid::from_raw)?;
    while wait().context("cannot wait for processes")?.pid() != Some(worker) {}
    fs::write("/proc/sysrq-trigger", "o").context("cannot switch the machine off")?;
    loop {
        thread::park();
    }
}

fn plan() -> Result<Plan> {
    let text = fs::read(PLAN_PATH).with_context(|| format!("cannot read {PLAN_PATH}"))?;
    serde_json::from_slice(&text).with_context(|| format!("{PLAN_PATH} is no plan"))
}

fn work(reports: &mut Reports) -> Result<()> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    reports.send(&Report::Booted {
        release: release.trim().to_owned(),
    })?;
    Netns::current()?.ip_batch("link set lo up\n")?;

    let begun = Instant::now();
    let programs = load_programs()?;
    reports.send(&Report::Loaded {
        programs,
        seconds: begun.elapsed().as_secs_f64(),
    })?;
    run_tests(&plan()?, reports)?;
    reports.send(&Report::Finished)
}

/// An agent that is ready has had every program accepted and attached.
fn load_programs() -> Result<Vec<Program>> {
    #[derive(serde::Deserialize)]
    struct Version {
        programs: Vec<Loaded>,
    }
    #[derive(serde::Deserialize)]
    struct Loaded {
        name: String,
        id: u32,
    }

    let netns = Netns::new()?;
    let cgroup = Cgroup::threaded("load")?;
    let backend = "127.0.0.1:8080".parse()?;
    let service = Service::new("hello", ["10.96.0.10:80"], 1, [backend]);
    let agent = Agent::start(&netns, &cgroup, &[service])?;
    let version: Version = serde_json::from_value(agent.admin().get_json("/version")?)
        .context("GET /version: not in the shape expected")?;
    ensure!(!version.programs.is_empty(), "GET /version: no programs");
    let counts = verified_instructions(agent.pid())?;
    let programs = version
        .programs
        .into_iter()
        .map(|program| {
            let count = counts.get(&program.id);
            Ok(Program {
                verified_instructions: *count
                    .with_context(|| format!("the agent has no open {}", program.name))?,
                name: program.name,
            })
        })
        .collect::<Result<_>>()?;
    agent.stop()?;
    Ok(programs)
}

/// By program id, from what the kernel tells of a process's descriptors (since 5.16).
fn verified_instructions(pid: u32) -> Result<HashMap<u32, u64>> {
    let directory = format!("/proc/{pid}/fdinfo");
    let entries = fs::read_dir(&directory).with_context(|| format!("cannot read {directory}"))?;
    let texts = entries.filter_map(|entry| fs::read_to_string(entry.ok()?.path()).ok());
    let field = |text: &str, name: &str| -> Option<u64> {
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    };
    Ok(texts
        .filter_map(|text| {
            let id = u32::try_from(field(&text, "prog_id:")?).ok()?;
            Some((id, field(&text, "verified_insns:")?))
        })
        .collect())
}

fn run_tests(plan: &Plan, reports: &mut Reports) -> Result<()> {
    let next = AtomicUsize::new(0);
    let reports = Mutex::new(reports);
    let take_turns = || -> Result<()> {
        while let Some(test) = plan.tests.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begun = Instant::now();
            let failure = run_test(plan, test).err().map(|error| format!("{error:#}"));
            let mut reports = reports.lock().unwrap_or_else(PoisonError::into_inner);
            reports.send(&Report::Tested {
                test: test.clone(),
                seconds: begun.elapsed().as_secs_f64(),
                failure,
            })?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..plan.at_once).map(|_| scope.spawn(take_turns)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(ended) => ended,
                Err(panic) => std::panic::resume_unwind(panic),
            })
    })
}

/// One test in a process of its own. Its output goes to a file: whoever is left over from it
/// may hold that open.
fn run_test(plan: &Plan, test: &TestName) -> Result<()> {
    let output_path = format!("/tmp/{}-{}", test.binary, test.name.replace(':', "-"));
    let output = File::create(&output_path)?;
    let mut child = Command::new(plan.tests_directory.join(&test.binary))
        .args(["--exact", "--nocapture", &test.name])
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", test.binary))?;
    let timeout = Duration::from_secs(plan.test_timeout_seconds);
    let begun = Instant::now();
    let status = loop {
        match child.try_wait()? {
            Some(status) => break Some(status),
            None if begun.elapsed() > timeout => break None,
            None => thread::sleep(POLL_EVERY),
        }
    };
    kill_group(child.id())?;
    let said = fs::read(&output_path)?;
    fs::remove_file(&output_path)?;
    let said = String::from_utf8_lossy(&said);
    let Some(status) = status else {
        child.wait()?;
        bail!("killed after {timeout:?}; it said:\n{}", end_of(&said));
    };
    // A test that did not run ends well, too.
    ensure!(
        status.success() && said.contains("1 passed"),
        "it ended with {status}; it said:\n{}",
        end_of(&said)
    );
    Ok(())
}

fn kill_group(leader: u32) -> Result<()> {
    let group = i32::try_from(leader).map(Pid::from_raw)?;
    match killpg(group, Signal::SIGKILL) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(error) => Err(error).context("cannot kill what a test left"),
    }
}

fn end_of(text: &str) -> &str {
    let mut from = text.len().saturating_sub(SHOWN_BYTES);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

/// The way to the host.
struct Reports(File);

impl Reports {
    fn open() -> Result<Self> {
        File::options()
            .write(true)
            .open(REPORTS_PATH)
            .map(Self)
            .with_context(|| format!("cannot open {REPORTS_PATH}"))
    }

    fn send(&mut self, report: &Report) -> Result<()> {
        let mut line = serde_json::to_vec(report)?;
        line.push(b'\n');
        self.0
            .write_all(&line)
            .with_context(|| format!("cannot write to {REPORTS_PATH}"))
    }
}

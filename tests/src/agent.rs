//! The agent under control: started in a namespace with a configuration of ours, waited for,
//! reloaded, stopped or killed.
//!
//! The binary is `$IDLEFIRST_BIN`, else `idlefirst` beside the running test's own build. Its
//! directory (socket, configuration, pins) outlives the process, so that one that was killed can
//! be started again on the same pins, and goes when the [`Agent`] does.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::json;

use crate::{
    admin::Admin,
    cgroup::Cgroup,
    netns::Netns,
    place,
    process::{Process, describe},
    residue::BpfObjects,
    run_dir::RunDir,
    service::Service,
    wait::{eventually, within},
};

const START_DEADLINE: Duration = Duration::from_secs(20);
const RELOAD_DEADLINE: Duration = Duration::from_secs(10);
/// What most tests give it, whose clients do not always close.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// How to start an agent.
#[derive(Debug)]
pub struct AgentOptions<'a> {
    /// Where it runs.
    pub netns: &'a Netns,
    /// What it attaches to.
    pub cgroup: &'a Path,
    /// The program, if not the one that [`binary`] finds.
    pub binary: Option<PathBuf>,
    /// Where it pins, if not in a bpffs of its own.
    pub pin_path: Option<PathBuf>,
    /// Further environment variables.
    pub environment: Vec<(String, String)>,
    /// Where the admin API listens besides its unix socket: `IP:PORT`.
    pub admin_tcp: Option<SocketAddr>,
    /// How long what it forwards may take to finish when it ends.
    pub shutdown_timeout: Duration,
}

/// A running agent, or one that was killed and can be started again.
#[derive(Debug)]
pub struct Agent {
    // In this order: the process ends before its directory goes.
    process: Process,
    launch: Launch,
}

/// An agent that did not become ready.
#[derive(Debug)]
pub struct Failed {
    /// How it ended.
    pub status: ExitStatus,
    /// What it said.
    pub stderr: String,
}

/// All that is needed to start it once more.
#[derive(Debug)]
struct Launch {
    binary: PathBuf,
    /// Its own handle, so that the caller's may go first.
    netns: Netns,
    cgroup: PathBuf,
    pin_path: PathBuf,
    environment: Vec<(String, String)>,
    admin_tcp: Option<SocketAddr>,
    shutdown_timeout: Duration,
    dir: RunDir,
}

impl<'a> AgentOptions<'a> {
    /// With all defaults.
    pub fn new(netns: &'a Netns, cgroup: &'a Cgroup) -> Self {
        Self {
            netns,
            cgroup: cgroup.path(),
            binary: None,
            pin_path: None,
            environment: Vec::new(),
            admin_tcp: None,
            shutdown_timeout: SHUTDOWN_TIMEOUT,
        }
    }

    /// Starts it with these services and waits until it is ready.
    pub fn start(self, services: &[Service]) -> Result<Agent> {
        let launch = self.launch()?;
        launch.write_config(&launch.config(services)?)?;
        let mut agent = Agent {
            process: launch.spawn()?,
            launch,
        };
        agent.wait_ready()?;
        Ok(agent)
    }

    /// Starts it with this text as its configuration, and does not wait for it; see
    /// [`Agent::wait_ready`].
    ///
    /// `{cgroup}`, `{pin_path}` and `{admin}` in the text are filled in.
    pub fn spawn(self, config: &str) -> Result<Agent> {
        let launch = self.launch()?;
        launch.write_config(&launch.filled_in(config))?;
        Ok(Agent {
            process: launch.spawn()?,
            launch,
        })
    }

    /// Starts it with this text as its configuration, and expects it to end with an error.
    ///
    /// `{cgroup}`, `{pin_path}` and `{admin}` in the text are filled in.
    pub fn start_expecting_failure(self, config: &str) -> Result<Failed> {
        let launch = self.launch()?;
        launch.write_config(&launch.filled_in(config))?;
        let mut process = launch.spawn()?;
        let status = process.wait(START_DEADLINE)?;
        let stderr = process.stderr();
        ensure!(
            !status.success(),
            "the agent ended as if all were well; it said:\n{stderr}"
        );
        Ok(Failed { status, stderr })
    }

    fn launch(self) -> Result<Launch> {
        let dir = RunDir::new("agent")?;
        Ok(Launch {
            binary: self.binary.map_or_else(binary, Ok)?,
            netns: self.netns.share()?,
            cgroup: self.cgroup.to_owned(),
            pin_path: self
                .pin_path
                .unwrap_or_else(|| dir.bpffs().join("idlefirst")),
            environment: self.environment,
            admin_tcp: self.admin_tcp,
            shutdown_timeout: self.shutdown_timeout,
            dir,
        })
    }
}

impl Agent {
    /// Starts one with these services and waits until it is ready.
    pub fn start(netns: &Netns, cgroup: &Cgroup, services: &[Service]) -> Result<Self> {
        AgentOptions::new(netns, cgroup).start(services)
    }

    /// Its admin API.
    pub fn admin(&self) -> Admin {
        Admin::Unix(self.launch.admin_socket())
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The program that runs.
    pub fn binary(&self) -> &Path {
        &self.launch.binary
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        self.process.stderr()
    }

    /// Where it pins.
    pub fn pin_path(&self) -> &Path {
        &self.launch.pin_path
    }

    /// Its configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.launch.config_path()
    }

    /// The BPF objects that it has open or pinned.
    pub fn bpf_objects(&self) -> Result<BpfObjects> {
        BpfObjects::in_use(self.pid(), self.pin_path())
    }

    /// All slots taken, over all backends.
    pub fn inflight(&self) -> Result<u64> {
        Ok(self
            .backends()?
            .iter()
            .map(|backend| backend.inflight)
            .sum())
    }

    /// The backends as the admin API lists them.
    pub fn backends(&self) -> Result<Vec<BackendState>> {
        let body = self.admin().get_json("/v1/backends")?;
        serde_json::from_value(body).context("GET /v1/backends: not in the shape expected")
    }

    /// What it says of its configuration.
    pub fn configuration(&self) -> Result<Configuration> {
        let body = self.admin().get_json("/v1/config")?;
        serde_json::from_value(body).context("GET /v1/config: not in the shape expected")
    }

    /// Replaces its services and waits until that is in force.
    pub fn reload(&self, services: &[Service]) -> Result<()> {
        let text = self.launch.config(services)?;
        if fs::read_to_string(self.config_path()).is_ok_and(|old| old == text) {
            return Ok(());
        }
        self.reload_text(&text)
    }

    /// Replaces its services for when it is started again.
    pub fn write_services(&self, services: &[Service]) -> Result<()> {
        self.launch.write_config(&self.launch.config(services)?)
    }

    /// [`Agent::reload`] with any text, which must differ from the last.
    ///
    /// `{cgroup}`, `{pin_path}` and `{admin}` in it are filled in.
    pub fn reload_text(&self, config: &str) -> Result<()> {
        let after = self.rewrite(config, |before, now| {
            now.rejected > before.rejected || now.generation > before.generation && now.in_force()
        })?;
        ensure!(
            after.in_force(),
            "the agent rejected the new configuration: {:?}",
            after.problems
        );
        Ok(())
    }

    /// Replaces its configuration by a bad text, waits until it is rejected, and gives the
    /// complaints.
    pub fn reload_expecting_rejection(&self, config: &str) -> Result<Vec<Complaint>> {
        let after = self.rewrite(config, |before, now| {
            now.rejected > before.rejected || now.generation > before.generation
        })?;
        ensure!(
            !after.problems.is_empty(),
            "the agent accepted the new configuration"
        );
        Ok(after.problems)
    }

    fn rewrite(
        &self,
        config: &str,
        is_over: impl Fn(&Configuration, &Configuration) -> bool,
    ) -> Result<Configuration> {
        let before = self.configuration()?;
        self.launch.write_config(&self.launch.filled_in(config))?;
        let after = within(RELOAD_DEADLINE, || {
            let now = self.configuration()?;
            ensure!(is_over(&before, &now), "{now:?}");
            Ok(now)
        });
        after.map_err(|late| {
            let said = self.stderr();
            anyhow::anyhow!("the agent does not take up the new configuration: {late:#}\n{said}")
        })
    }

    /// Stops it as a service manager does, and checks that it ends well.
    pub fn stop(mut self) -> Result<()> {
        self.terminate()
    }

    /// [`Agent::stop`], and the end of steering: `idlefirst uninstall`. Nothing is pinned then.
    pub fn uninstall(mut self) -> Result<()> {
        if self.process.ended()?.is_none() {
            self.terminate()?;
        }
        let done = self.uninstall_only()?;
        ensure!(
            done.status.success() && !self.pin_path().exists(),
            "uninstall ended with {}: {}",
            done.status,
            String::from_utf8_lossy(&done.stderr)
        );
        Ok(())
    }

    /// Runs `idlefirst uninstall` with its configuration, whether it lives or not.
    pub fn uninstall_only(&self) -> Result<Output> {
        let launch = &self.launch;
        let mut command = place::command(Some(&launch.netns), None, &launch.binary);
        command
            .arg("uninstall")
            .arg("--config")
            .arg(self.config_path());
        command.output().context("cannot run idlefirst uninstall")
    }

    /// [`Agent::stop`], but its directory and pins stay until the value goes.
    pub fn terminate(&mut self) -> Result<()> {
        self.signal_end()?;
        self.wait_ended()
    }

    /// Tells it to end, as a service manager does, and does not wait.
    pub fn signal_end(&self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)
    }

    /// Waits until it has ended, and checks that it ended well.
    pub fn wait_ended(&mut self) -> Result<()> {
        let status = self.process.wait(STOP_DEADLINE)?;
        ensure!(
            status.success(),
            "the agent ended badly after SIGTERM ({}):\n{}",
            describe(status),
            self.stderr()
        );
        Ok(())
    }

    /// Stops it as it stands, without its knowing (SIGSTOP). It goes on when the value that is
    /// returned goes.
    pub fn stall(&self) -> Result<Stalled<'_>> {
        self.process.signal(Signal::SIGSTOP)?;
        let stalled = Stalled {
            process: &self.process,
            since: Instant::now(),
        };
        // The signal reaches its threads one by one, a moment later.
        within(STOP_DEADLINE, || self.process.ensure_stopped())
            .map_err(|late| anyhow::anyhow!("the agent does not stall: {late:#}"))?;
        Ok(stalled)
    }

    /// Kills it with SIGKILL. Its pins stay.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// What it is started with from now on.
    pub fn replace_binary(&mut self, binary: PathBuf) {
        self.launch.binary = binary;
    }

    /// Waits until somebody else has killed it.
    pub fn wait_killed(&mut self, deadline: Duration) -> Result<()> {
        let status = self.process.wait(deadline)?;
        let said = describe(status);
        ensure!(status.signal() == Some(Signal::SIGKILL as i32), "{said}");
        Ok(())
    }

    /// Starts it again on the same pins and configuration, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.relaunch()?;
        self.wait_ready()
    }

    /// [`Agent::restart`], without waiting.
    pub fn relaunch(&mut self) -> Result<()> {
        if self.process.ended()?.is_none() {
            self.kill()?;
        }
        self.process = self.launch.spawn()?;
        Ok(())
    }

    /// Waits until `/readyz` says that it is not ready.
    pub fn wait_not_ready(&self) {
        eventually(RELOAD_DEADLINE, || {
            let status = self.admin().get("/readyz")?.status;
            ensure!(status == 503, "{status}");
            Ok(())
        });
    }

    /// Waits until it is ready, or has ended, which is an error.
    pub fn wait_ready(&mut self) -> Result<()> {
        let admin = self.admin();
        let ready = within(START_DEADLINE, || {
            if let Some(status) = self.process.ended()? {
                return Ok(Err(status));
            }
            let answer = admin.get("/readyz")?;
            ensure!(
                answer.status == 200,
                "readyz: status {}: {}",
                answer.status,
                answer.body.trim()
            );
            Ok(Ok(()))
        });
        match ready {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => {
                // Reaped already; this waits for the rest of its output.
                self.process.wait(STOP_DEADLINE)?;
                bail!(
                    "the agent ended ({}) instead of getting ready:\n{}",
                    describe(status),
                    self.stderr()
                )
            }
            Err(late) => bail!("the agent is not ready: {late:#}\n{}", self.stderr()),
        }
    }
}

impl Launch {
    fn admin_socket(&self) -> PathBuf {
        self.dir.path().join("admin.sock")
    }

    fn config_path(&self) -> PathBuf {
        self.dir.path().join("config.yaml")
    }

    /// JSON is YAML.
    fn config(&self, services: &[Service]) -> Result<String> {
        let socket = format!("unix:{}", self.admin_socket().display());
        let tcp = self.admin_tcp.map(|address| address.to_string());
        let admin: Vec<_> = [socket].into_iter().chain(tcp).collect();
        let config = json!({
            "source": "file",
            "agent": {
                "cgroup": self.cgroup,
                "pin_path": self.pin_path,
                "admin": admin,
                "metrics": "none",
                "shutdown_timeout": format!("{}ms", self.shutdown_timeout.as_millis()),
            },
            "services": services,
        });
        serde_json::to_string_pretty(&config).context("cannot write the configuration as JSON")
    }

    fn filled_in(&self, config: &str) -> String {
        config
            .replace("{cgroup}", &self.cgroup.display().to_string())
            .replace("{pin_path}", &self.pin_path.display().to_string())
            .replace(
                "{admin}",
                &format!("unix:{}", self.admin_socket().display()),
            )
    }

    /// Replaces the file in one step, as a careful editor or Kubernetes does.
    fn write_config(&self, text: &str) -> Result<()> {
        let path = self.config_path();
        let draft = path.with_extension("draft");
        fs::write(&draft, text)
            .and_then(|()| fs::rename(&draft, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn spawn(&self) -> Result<Process> {
        let mut command = place::command(Some(&self.netns), None, &self.binary);
        command.arg("agent").arg("--config").arg(self.config_path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        Process::start(command)
    }
}

/// An agent that does nothing at all for a while.
#[derive(Debug)]
pub struct Stalled<'a> {
    process: &'a Process,
    since: Instant,
}

impl Stalled<'_> {
    /// For how long it has done nothing.
    pub fn elapsed(&self) -> Duration {
        self.since.elapsed()
    }
}

impl Drop for Stalled<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.process.signal(Signal::SIGCONT) {
            eprintln!("a stalled agent cannot be continued: {error:#}");
        }
    }
}

/// What the admin API says of a backend.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct BackendState {
    /// `IP:PORT`.
    pub address: String,
    /// `idle`, `busy`, `full`, …
    pub state: String,
    /// Slots taken.
    pub inflight: u64,
    /// Slots that may be taken; `None`: no limit.
    pub granted: Option<u32>,
    /// Connects ever steered to it.
    pub steered: u64,
    /// Connects that failed since the last that did not.
    pub failures: u32,
}

/// What the admin API says of the configuration file.
#[derive(Clone, Debug, Deserialize)]
pub struct Configuration {
    /// Counts accepted changes.
    pub generation: u64,
    /// The newest generation in the kernel.
    pub generation_in_kernel: u64,
    /// Counts rejected changes.
    pub rejected: u64,
    /// Why the newest state of the file is not in force.
    pub problems: Vec<Complaint>,
}

/// What the agent has to say of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Complaint {
    /// The line in the file.
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: String,
}

impl Configuration {
    /// Whether the newest state of the file is in the kernel.
    pub fn in_force(&self) -> bool {
        self.problems.is_empty() && self.generation_in_kernel >= self.generation
    }
}

/// Where the agent's program is.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("IDLEFIRST_BIN") {
        let path = PathBuf::from(path);
        ensure!(
            path.is_file(),
            "IDLEFIRST_BIN is {}, which is no file",
            path.display()
        );
        return Ok(path);
    }
    let own = std::env::current_exe().context("cannot find this program's own path")?;
    let beside = own
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join("idlefirst"));
    match beside.clone().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!(
            "no agent at {}: build it with `cargo build -p balancer-user`, or name it in IDLEFIRST_BIN",
            beside
                .map(|path| path.display().to_string())
                .collect::<Vec<_>>()
                .join(" or ")
        ),
    }
}

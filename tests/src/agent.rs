//! The agent under control: started in a namespace with a configuration of ours, waited for,
//! reloaded, stopped or killed.
//!
//! The binary is `$IDLEFIRST_BIN`, else `idlefirst` beside the running test's own build. Its
//! directory (socket, configuration, pins) outlives the process, so that one that was killed can
//! be started again on the same pins, and goes when the [`Agent`] does.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    admin::{Admin, items},
    cgroup::Cgroup,
    netns::Netns,
    place,
    process::{Process, describe},
    residue::BpfObjects,
    run_dir::RunDir,
    service::{Service, ServiceShape},
    wait::within,
};

const START_DEADLINE: Duration = Duration::from_secs(20);
const RELOAD_DEADLINE: Duration = Duration::from_secs(10);
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
        items(&body)?.iter().map(BackendState::from_json).collect()
    }

    /// Replaces its configuration and waits until that is in force.
    pub fn reload(&self, services: &[Service]) -> Result<()> {
        self.launch.write_config(&self.launch.config(services)?)?;
        let wanted = services
            .iter()
            .map(ServiceShape::wanted)
            .collect::<Result<BTreeSet<_>>>()?;
        within(RELOAD_DEADLINE, || {
            let seen = self.service_shapes()?;
            ensure!(seen == wanted, "in force: {seen:?}; wanted: {wanted:?}");
            Ok(())
        })
        .map_err(|late| {
            anyhow::anyhow!(
                "the new configuration is not in force: {late:#}\n{}",
                self.stderr()
            )
        })
    }

    /// Replaces its configuration by any text and does not wait.
    ///
    /// `{cgroup}`, `{pin_path}` and `{admin}` in the text are filled in.
    pub fn rewrite_config(&self, config: &str) -> Result<()> {
        self.launch.write_config(&self.launch.filled_in(config))
    }

    /// Stops it as a service manager does, and checks that it ends well.
    pub fn stop(mut self) -> Result<()> {
        self.terminate()
    }

    /// [`Agent::stop`], but its directory and pins stay until the value goes.
    pub fn terminate(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)?;
        let status = self.process.wait(STOP_DEADLINE)?;
        ensure!(
            status.success(),
            "the agent ended badly after SIGTERM ({}):\n{}",
            describe(status),
            self.stderr()
        );
        Ok(())
    }

    /// Kills it with SIGKILL. Its pins stay.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill().map(drop)
    }

    /// Starts it again on the same pins and configuration, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        if self.process.ended()?.is_none() {
            self.kill()?;
        }
        self.process = self.launch.spawn()?;
        self.wait_ready()
    }

    fn wait_ready(&mut self) -> Result<()> {
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

    fn service_shapes(&self) -> Result<BTreeSet<ServiceShape>> {
        let listed = self.admin().get_json("/v1/services")?;
        let mut shapes = BTreeSet::new();
        for service in items(&listed)? {
            let (namespace, name) = (text(service, "namespace")?, text(service, "name")?);
            let detail = self
                .admin()
                .get_json(&format!("/v1/services/{namespace}/{name}"))?;
            shapes.insert(ServiceShape::listed(service, &detail)?);
        }
        Ok(shapes)
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
        let config = json!({
            "source": "file",
            "agent": {
                "cgroup": self.cgroup,
                "pin_path": self.pin_path,
                "admin": [format!("unix:{}", self.admin_socket().display())],
                "metrics": "none",
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

/// What the admin API says of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendState {
    /// `IP:PORT`.
    pub address: String,
    /// `idle`, `busy`, `full`, …
    pub state: String,
    /// Slots taken.
    pub inflight: u64,
}

impl BackendState {
    fn from_json(backend: &Value) -> Result<Self> {
        Ok(Self {
            address: text(backend, "address")?.to_owned(),
            state: text(backend, "state")?.to_owned(),
            inflight: number(backend, "inflight")?,
        })
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

pub(crate) fn text<'a>(value: &'a Value, field: &str) -> Result<&'a str> {
    value[field]
        .as_str()
        .with_context(|| format!("no text {field:?} in {value}"))
}

pub(crate) fn number(value: &Value, field: &str) -> Result<u64> {
    value[field]
        .as_u64()
        .with_context(|| format!("no number {field:?} in {value}"))
}

//! kmock as a process: brought by pip, started in a network namespace, spoken to over HTTP.
//!
//! It is kept in a virtual environment below cargo's target directory, where the next run finds
//! it. What kmock does otherwise than a real API server is evened out here, and only what must be:
//! it gives objects no `resourceVersion`, without which no client can follow a watch.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use anyhow::{Context, Result, bail, ensure};
use ebpf_build::InstallPolicy;
use serde_json::{Value, json};
use tests::{
    crowd::{Crowd, dial},
    http::Http,
    place,
    process::Process,
};

/// Fixed so that every machine runs against the same, and one that is known to serve.
const PACKAGES: [&str; 2] = ["kmock==0.8", "aiohttp==3.14.5"];
const VENV: &str = "kmock-0.8";

/// A running kmock. It ends on drop.
#[derive(Debug)]
pub struct Kmock {
    // Held for its drop.
    _process: Process,
    address: SocketAddr,
    version: AtomicU64,
}

impl Kmock {
    /// Starts one on the loopback of a crowd's namespace, and writes a kubeconfig for it.
    pub fn start(crowd: &Crowd, directory: &Path) -> Result<(PathBuf, Self)> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kubernetes_kmock/server.py");
        let mut command = place::command(Some(&crowd.netns), None, &python()?);
        command
            .arg(script)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let mut process = Process::start(command)?;
        let stdout = process.take_stdout().context("its output is piped")?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        let Ok(port) = line.trim().parse() else {
            process.kill()?;
            bail!("kmock does not start; it says:\n{}", process.stderr());
        };
        let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        let kmock = Self {
            _process: process,
            address,
            version: AtomicU64::new(0),
        };
        Ok((kmock.kubeconfig(directory)?, kmock))
    }

    /// Creates an object.
    pub fn create(&self, crowd: &Crowd, mut object: Value) -> Result<()> {
        let (api_version, kind) = (&object["apiVersion"], &object["kind"]);
        let collection = match (api_version.as_str(), kind.as_str()) {
            (Some("v1"), Some("Service")) => SERVICES,
            (Some("apps/v1"), Some("Deployment")) => DEPLOYMENTS,
            (Some("discovery.k8s.io/v1"), Some("EndpointSlice")) => SLICES,
            other => bail!("no path is known for {other:?}"),
        };
        object["metadata"]["resourceVersion"] = self.next_version();
        self.ask(crowd, "POST", collection, &object).map(drop)
    }

    /// Changes an object by a merge patch.
    pub fn patch(&self, crowd: &Crowd, path: &str, mut patch: Value) -> Result<()> {
        patch["metadata"]["resourceVersion"] = self.next_version();
        self.ask(crowd, "PATCH", path, &patch).map(drop)
    }

    /// Deletes an object.
    pub fn delete(&self, crowd: &Crowd, path: &str) -> Result<()> {
        self.ask(crowd, "DELETE", path, &json!({})).map(drop)
    }

    /// An object as kmock has it.
    pub fn get(&self, crowd: &Crowd, path: &str) -> Result<Value> {
        self.ask(crowd, "GET", path, &json!({}))
    }

    fn ask(&self, crowd: &Crowd, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = body.to_string();
        let sort = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: kmock\r\nConnection: close\r\n\
             Content-Type: {sort}\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        let answer = crowd
            .place()
            .run(|| Http::new(dial(self.address)?).ask(request))
            .with_context(|| format!("{method} {path}"))?;
        let is_success = (200..300).contains(&answer.status());
        ensure!(
            is_success,
            "{method} {path}: {}: {}",
            answer.start,
            answer.text()
        );
        Ok(serde_json::from_slice(&answer.body)?)
    }

    fn next_version(&self) -> Value {
        (self.version.fetch_add(1, Relaxed) + 1).to_string().into()
    }

    fn kubeconfig(&self, directory: &Path) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "kmock", "cluster": {"server": format!("http://{}", self.address)}}],
            "users": [{"name": "kmock", "user": {}}],
            "contexts": [{"name": "kmock", "context": {"cluster": "kmock", "user": "kmock"}}],
            "current-context": "kmock",
        });
        let path = directory.join("kubeconfig");
        fs::write(&path, config.to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

/// Where Services are.
pub const SERVICES: &str = "/api/v1/namespaces/openfaas-fn/services";
/// Where Deployments are.
pub const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/openfaas-fn/deployments";
/// Where EndpointSlices are.
pub const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/openfaas-fn/endpointslices";

/// A Python that has kmock.
fn python() -> Result<PathBuf> {
    let below = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let venv = below.join(VENV);
    let python = venv.join("bin/python");
    let lock = File::create(below.join(format!("{VENV}.lock")))?;
    lock.lock().context("cannot lock the virtual environment")?;
    let has_kmock = || {
        let probe = Command::new(&python).args(["-c", "import kmock"]).output();
        probe.is_ok_and(|output| output.status.success())
    };
    if has_kmock() {
        return Ok(python);
    }
    let by_hand = format!(
        "python3 -m venv {0} && {0}/bin/pip install {1}",
        venv.display(),
        PACKAGES.join(" ")
    );
    if InstallPolicy::from_environment() == InstallPolicy::Nothing {
        bail!("kmock is missing, and IDLEFIRST_NO_INSTALL forbids installing it; run `{by_hand}`");
    }
    let mut make = Command::new("python3");
    run(make.args(["-m", "venv", "--clear"]).arg(&venv), &by_hand)?;
    let mut pip = Command::new(venv.join("bin/pip"));
    pip.args(["install", "--quiet", "--disable-pip-version-check"]);
    run(pip.args(PACKAGES), &by_hand)?;
    ensure!(
        has_kmock(),
        "pip has brought no kmock to {}",
        venv.display()
    );
    Ok(python)
}

fn run(command: &mut Command, by_hand: &str) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed; it takes Python 3.11 or later with venv, and a package index that pip \
         can reach; by hand: `{by_hand}`\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

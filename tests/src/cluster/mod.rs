//! A Kubernetes API server in this process, for tests and benches.
//!
//! It really does what clients rely on: versions, lists of one moment in pages, watches that miss
//! nothing, bookmarks, streaming lists, conflicts, server-side apply. It does no admission, no
//! validation of what objects mean, no controllers and no authentication: objects are as they were
//! put. What goes wrong in clusters goes wrong here on demand, see [`Faults`].
//!
//! All calls block, for a moment, and may come from any thread. It needs no root.
//!
//! ```
//! # use tests::cluster::{Cluster, Kind, objects::Function};
//! # fn main() -> anyhow::Result<()> {
//! let cluster = Cluster::local()?;
//! let hello = Function::new("openfaas-fn", "hello", "10.96.0.10").max_inflight(1);
//! cluster.put_all(hello.objects())?;
//! cluster.put(hello.slice("1", &[hello.pod(1, "10.1.0.2", "node-1")]))?;
//! assert_eq!(cluster.list(Kind::Service).len(), 1);
//! # Ok(())
//! # }
//! ```

mod answer;
mod apply;
mod connection;
mod edit;
mod faults;
mod feed;
mod kind;
mod object;
pub mod objects;
mod refused;
mod requests;
mod selector;
mod store;
mod written;

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch,
};

use self::{
    answer::Answering,
    requests::Log,
    store::{Decision, Outcome, Store},
};
pub use self::{
    faults::Faults,
    kind::Kind,
    refused::{BadRequest, Refused},
    requests::Request,
    written::{NotWritten, Report, Written},
};
use crate::{cgroup, wait::within};

/// The API server and all that it keeps. It ends on drop.
#[derive(Debug)]
pub struct Cluster {
    address: SocketAddr,
    store: Arc<Store>,
    faults: Faults,
    log: Arc<Log>,
    /// Taken on drop.
    runtime: Option<Runtime>,
}

/// A change that was made.
#[derive(Debug)]
pub struct Changed {
    /// The object's version.
    pub revision: u64,
    /// Tells when every watch has it.
    pub written: Written,
}

impl Cluster {
    /// Serves on a free port of this machine's loopback.
    pub fn local() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("cannot listen on loopback")?;
        Self::start(listener)
    }

    /// Serves on a listener, whatever network namespace it is in.
    pub fn start(listener: TcpListener) -> Result<Self> {
        let address = listener
            .local_addr()
            .context("cannot ask the API server's listener for its address")?;
        listener
            .set_nonblocking(true)
            .context("cannot make the API server's listener non-blocking")?;
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("api-server")
            .on_thread_start(|| {
                cgroup::move_this_thread_home().expect("a thread can go where its process is");
            })
            .enable_all()
            .build()
            .context("cannot start the API server's thread")?;
        let store = Arc::new(Store::default());
        let log = Arc::new(Log::default());
        let (state, _) = watch::channel(faults::State::default());
        let (serving, served) = watch::channel(false);
        let faults = Faults {
            state: Arc::new(state),
            serving: served,
            store: Arc::clone(&store),
        };
        let answering = Arc::new(Answering {
            store: Arc::clone(&store),
            faults: faults.clone(),
            log: Arc::clone(&log),
        });
        let switches = faults.state.subscribe();
        runtime.spawn(connection::serve(
            listener.into(),
            answering,
            switches,
            serving,
        ));
        Ok(Self {
            address,
            store,
            faults,
            log,
            runtime: Some(runtime),
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What clients call it.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes a file for the variable `KUBECONFIG` into a directory, and gives its path.
    pub fn kubeconfig_file(&self, directory: &Path) -> Result<PathBuf> {
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": {"server": self.url()}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{
                "name": "test",
                "context": {"cluster": "test", "user": "test", "namespace": "default"},
            }],
            "current-context": "test",
        });
        let path = directory.join("kubeconfig");
        // JSON is YAML.
        fs::write(&path, config.to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Creates or replaces an object, whatever version is there. It is a change even if nothing
    /// differs.
    pub fn put(&self, object: Value) -> Result<Changed> {
        let (kind, namespace, name) = identity(&object)?;
        let Value::Object(fields) = object else {
            bail!("an object has fields: {object}");
        };
        let put = |_: Option<&_>| Ok(Decision::Put(fields));
        Ok(self.store.change(kind, &namespace, &name, put)?.into())
    }

    /// [`Cluster::put`] for several, in order. Gives the last change.
    pub fn put_all(&self, objects: impl IntoIterator<Item = Value>) -> Result<Option<Changed>> {
        let mut last = None;
        for object in objects {
            last = Some(self.put(object)?);
        }
        Ok(last)
    }

    /// Changes an object by a merge patch: nulls take fields away.
    pub fn merge(&self, kind: Kind, namespace: &str, name: &str, patch: Value) -> Result<Changed> {
        let mut object = self.get(kind, namespace, name).with_context(|| {
            format!("cannot change {kind} {namespace}/{name}: there is no such object")
        })?;
        apply::merge(&mut object, patch);
        self.put(object)
    }

    /// Deletes an object.
    pub fn delete(&self, kind: Kind, namespace: &str, name: &str) -> Result<Changed> {
        let delete = |_: Option<&_>| Ok(Decision::Delete);
        Ok(self.store.change(kind, namespace, name, delete)?.into())
    }

    /// An object as it is. Namespace is empty for kinds without.
    pub fn get(&self, kind: Kind, namespace: &str, name: &str) -> Option<Value> {
        let object = self.store.get(kind, namespace, name)?;
        Some(object.value().into())
    }

    /// All objects of a kind.
    pub fn list(&self, kind: Kind) -> Vec<Value> {
        let page = self.store.list(kind, &selector::Selector::default(), 0);
        let values = page.objects.iter().map(|object| object.value().into());
        values.collect()
    }

    /// The version of the latest change.
    pub fn revision(&self) -> u64 {
        self.store.revision()
    }

    /// What clients have asked for so far, or since [`Cluster::forget_requests`].
    pub fn requests(&self) -> Vec<Request> {
        self.log.all()
    }

    /// Begins the log anew.
    pub fn forget_requests(&self) {
        self.log.forget();
    }

    /// Open watch streams of a kind.
    pub fn watches(&self, kind: Kind) -> usize {
        self.store.streams(kind)
    }

    /// Waits until as many watch streams of a kind are open.
    pub fn wait_for_watches(&self, kind: Kind, count: usize, deadline: Duration) -> Result<()> {
        within(deadline, || match self.watches(kind) {
            open if open >= count => Ok(()),
            open => Err(format!("{open} watches of {kind}, not {count}")),
        })
        .map_err(|late| anyhow!("{late}"))
    }

    /// Sends a bookmark now to every stream of a kind that allows them.
    pub fn bookmark(&self, kind: Kind) {
        self.store.bookmark(kind, None);
    }

    /// What can go wrong.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not waiting: the owner may be a task.
            runtime.shutdown_background();
        }
    }
}

impl From<Outcome> for Changed {
    fn from(outcome: Outcome) -> Self {
        Self {
            revision: outcome.object.revision,
            written: outcome.written,
        }
    }
}

/// Kind, namespace and name of an object.
fn identity(object: &Value) -> Result<(Kind, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (api_version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
    let kind = Kind::of(&api_version, &kind)
        .with_context(|| format!("no kind {kind:?} in {api_version:?} here: {object}"))?;
    let name = text(&object["metadata"]["name"]);
    let namespace = text(&object["metadata"]["namespace"]);
    if name.is_empty() || namespace.is_empty() == kind.is_namespaced() {
        bail!("{kind} needs a name, and a namespace exactly if its kind has them: {object}");
    }
    Ok((kind, namespace, name))
}

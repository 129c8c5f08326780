//! Which clients are never steered, and which are pods: what the programs have to know of cgroups.
//!
//! Cgroups come and go with what runs in them, so they are looked for again and again: that of all
//! pods, those of the pods that bypass the balancer (named by the source), and those that the
//! configuration names. Nothing is steered that should not be while one is still missing, except
//! connections of a pod that has only just begun.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    config::{AgentConfig, Source},
    kernel::{Cgroup, Kernel, find_pods, find_unified, pod_cgroup},
    model::Intercept,
    state::Snapshot,
};

/// How often everything is looked at.
const EVERY: Duration = Duration::from_secs(1);
/// The same while the cgroup of a pod is missing.
const SOON: Duration = Duration::from_millis(200);

/// Says which pods bypass the balancer. Copies speak for the same [`Bypass`].
#[derive(Clone, Debug)]
pub struct BypassingPods {
    said: watch::Sender<Pods>,
    looked: watch::Receiver<u64>,
}

/// The pods that bypass the balancer, by the UIDs that their cgroups are named after.
#[derive(Clone, Debug, Default)]
struct Pods {
    uids: BTreeSet<String>,
    /// Counts changes; 0: nobody has said anything yet.
    number: u64,
}

impl BypassingPods {
    /// These pods of this node bypass the balancer from now on, and no others: by the UIDs that
    /// their cgroups are named after.
    pub fn set_pods(&self, uids: BTreeSet<String>) {
        self.said.send_if_modified(|current| {
            let is_new = current.number == 0 || current.uids != uids;
            if is_new {
                current.uids = uids;
                current.number += 1;
            }
            is_new
        });
    }

    /// Waits until the programs have been told of the pods that were set last, as far as their
    /// cgroups are there.
    pub async fn settled(&mut self) {
        let number = self.said.borrow().number;
        // Fails when nobody looks any more: the agent ends.
        let _ = self.looked.wait_for(|looked| *looked >= number).await;
    }
}

/// Finds the cgroups, and tells the programs.
pub struct Bypass {
    kernel: Arc<Kernel>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    /// As configured.
    pods_path: Option<PathBuf>,
    /// As configured, absolute.
    cgroups: Vec<PathBuf>,
    pods: watch::Receiver<Pods>,
    /// The number of the pods that were looked for last.
    looked: watch::Sender<u64>,
    handle: BypassingPods,
    /// Whether a source will say which pods bypass the balancer.
    awaits_pods: bool,
    found: Found,
    said: Said,
}

/// What the programs have been told; until then they may go by what an earlier agent told them.
#[derive(Debug, Default)]
struct Found {
    /// The cgroup of all pods.
    pods: Option<(PathBuf, Cgroup)>,
    are_pods_told: bool,
    bypassing: Option<BTreeSet<Cgroup>>,
}

/// What has been complained of, so that it is said once.
#[derive(Debug, Default)]
struct Said {
    without_pods: bool,
    missing: BTreeSet<PathBuf>,
    left_out: usize,
    is_failing: bool,
}

impl Bypass {
    /// Looks for everything once.
    pub fn new(
        kernel: Arc<Kernel>,
        agent: &AgentConfig,
        snapshots: watch::Receiver<Arc<Snapshot>>,
    ) -> Self {
        let awaits_pods = snapshots.borrow().config.source == Source::Kubernetes;
        let root = find_unified().unwrap_or_else(|_| kernel.cgroup_path().to_owned());
        let (said, pods) = watch::channel(Pods::default());
        let (looked, looks) = watch::channel(0);
        let mut bypass = Self {
            kernel,
            snapshots,
            pods_path: agent.pods_cgroup.clone(),
            // Joining an absolute path gives that path.
            cgroups: agent
                .bypass_cgroups
                .iter()
                .map(|it| root.join(it))
                .collect(),
            pods,
            looked,
            handle: BypassingPods {
                said,
                looked: looks,
            },
            awaits_pods,
            found: Found::default(),
            said: Said::default(),
        };
        bypass.find_pods(true);
        bypass.look();
        bypass
    }

    /// By which a source says which pods bypass the balancer.
    pub fn pods(&self) -> BypassingPods {
        self.handle.clone()
    }

    /// Goes on for as long as the runtime lives.
    pub async fn run(mut self) {
        loop {
            let is_complete = self.look();
            let pause = if is_complete { EVERY } else { SOON };
            tokio::select! {
                // Cannot fail: the handle is ours too.
                _ = self.pods.changed() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Looks at everything. Says whether all pods that bypass the balancer were found.
    fn look(&mut self) -> bool {
        let needs_pods = self.needs_pods();
        self.find_pods(needs_pods);
        self.complain_of_pods(needs_pods);
        let Pods { uids, number } = self.pods.borrow_and_update().clone();
        let of_pods: BTreeSet<_> = self
            .found
            .pods
            .iter()
            .flat_map(|(path, _)| uids.iter().filter_map(|uid| pod_cgroup(path, uid)))
            .collect();
        let is_complete = of_pods.len() == uids.len();
        let mut wanted = self.configured();
        wanted.extend(of_pods);
        if number > 0 || !self.awaits_pods {
            self.tell(wanted);
        }
        self.looked.send_replace(number);
        is_complete
    }

    /// Whether anything depends on the pods' cgroup. Looked into only while there is none.
    fn needs_pods(&self) -> bool {
        let intercepts = || {
            let snapshot = self.snapshots.borrow().clone();
            let mut services = snapshot.desired.services.values();
            services.any(|service| service.intercept.value == Intercept::Pods)
        };
        self.found.pods.is_some() || !self.pods.borrow().uids.is_empty() || intercepts()
    }

    /// Finds the pods' cgroup, or notices that it is gone; searches for it only if asked to.
    fn find_pods(&mut self, search: bool) {
        let known = self.found.pods.as_ref().map(|(path, _)| path.clone());
        let at = |path: PathBuf| {
            let cgroup = Cgroup::at(&path).ok()?;
            Some((path, cgroup))
        };
        let found = match &self.pods_path {
            Some(path) => at(path.clone()),
            None => known.and_then(at).or_else(|| {
                let below = self.kernel.cgroup_path();
                search.then(|| find_pods(below).and_then(at)).flatten()
            }),
        };
        if self.found.are_pods_told && found == self.found.pods {
            return;
        }
        let cgroup = found.as_ref().map(|(_, cgroup)| *cgroup);
        let told = self.kernel.change_agent_state(|state| {
            state.pods_cgroup = cgroup.map_or(0, |cgroup| cgroup.id);
            state.pods_level = cgroup.map_or(0, |cgroup| cgroup.level);
        });
        if let Err(error) = told {
            tracing::error!(%error, "the programs cannot be told of the pods' cgroup; it is tried again");
            return;
        }
        if let Some((path, _)) = &found {
            tracing::info!(cgroup = %path.display(), "pods are below this cgroup");
            self.said.without_pods = false;
        }
        self.found.pods = found;
        self.found.are_pods_told = true;
    }

    fn complain_of_pods(&mut self, needs_pods: bool) {
        let is_missing = needs_pods && self.found.pods.is_none();
        if !is_missing || std::mem::replace(&mut self.said.without_pods, true) {
            return;
        }
        match self.pods_path.as_deref().map(Cgroup::at) {
            Some(Err(error)) => tracing::warn!(
                "agent.pods_cgroup: {error}; until it is there, `intercept: pods` steers nobody, \
                 and no pod can bypass the balancer"
            ),
            _ => tracing::warn!(
                below = %self.kernel.cgroup_path().display(),
                "no cgroup of all pods is found, so `intercept: pods` steers nobody, and no pod \
                 can bypass the balancer; set agent.pods_cgroup"
            ),
        }
    }

    /// The cgroups that the configuration names, as far as they are there.
    fn configured(&mut self) -> BTreeSet<Cgroup> {
        let Self { cgroups, said, .. } = self;
        let found = cgroups.iter().filter_map(|path| match Cgroup::at(path) {
            Ok(cgroup) => {
                if said.missing.remove(path) {
                    tracing::info!(cgroup = %path.display(), "this cgroup is there now, and is not steered");
                }
                Some(cgroup)
            }
            Err(error) => {
                say_missing(&mut said.missing, path, &error);
                None
            }
        });
        found.collect()
    }

    /// Tells the programs who is not steered, if that has changed.
    fn tell(&mut self, wanted: BTreeSet<Cgroup>) {
        if self.found.bypassing.as_ref() == Some(&wanted) {
            return;
        }
        match self.kernel.bypass(&wanted) {
            Ok(left_out) => {
                self.said.is_failing = false;
                if left_out.len() > self.said.left_out {
                    tracing::warn!(
                        cgroups = left_out.len(),
                        "some cgroups should not be steered but are: they are too many, or too deep"
                    );
                }
                self.said.left_out = left_out.len();
                self.found.bypassing = Some(wanted);
            }
            Err(error) => {
                // Said once, not at every try.
                if !std::mem::replace(&mut self.said.is_failing, true) {
                    tracing::error!(%error, "the programs cannot be told who bypasses the balancer; it is tried again");
                }
            }
        }
    }
}

fn say_missing(said: &mut BTreeSet<PathBuf>, path: &Path, error: &dyn std::error::Error) {
    if said.insert(path.to_owned()) {
        tracing::warn!("agent.bypass_cgroups: {error}; it is looked for again");
    }
}

//! The agent's life: start-up in an order that changes nothing before everything
//! has been checked, then waiting, then an orderly end.
//!
//! Called by `cli`. Spawns and connects; decides nothing about services.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use balancer_common::{
    connection::{AgentState, SWITCH_CLOSED},
    event::{Event, EventKind},
    service::Tables,
};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};

use crate::{
    adaptive, admin,
    audit::Auditor,
    bypass::Bypass,
    config::{AgentConfig, Config, Loaded, Overrides, Source, host_name, process_environment},
    descriptors,
    health::{Health, Observation, Prober},
    heartbeat::Heartbeat,
    journal::Journal,
    kernel::{Kernel, KernelError, Options},
    leaders::Leaders,
    overflow::{self, Overflow, Queues},
    privileges,
    reconcile::{Advice, Here, Mark, Marking, Progress, Reconciler},
    source::{
        file::{self, Fingerprint},
        kubernetes::{Cluster, Watched},
    },
    state::{Snapshot, State},
    telemetry::{self, LogControl},
};

/// How long the end waits for leaders not to be published any more.
const PUBLISHER_END: Duration = Duration::from_secs(3);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start. Nothing is changed then.
pub async fn run(config_path: PathBuf, overrides: Overrides) -> anyhow::Result<()> {
    let fingerprint = Fingerprint::of(&config_path);
    let mut loaded = Config::load(&config_path, &process_environment)?;
    loaded.config = loaded.config.with_overrides(&overrides);
    let agent = loaded.config.agent.clone();
    let patience = agent.shutdown_timeout;
    let source = loaded.config.source;
    let log = telemetry::init(&agent.log);
    for warning in loaded.warning_lines() {
        tracing::warn!("{warning}");
    }
    descriptors::raise_limit();
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let listeners = admin::Listeners::bind(&agent)?;
    let resync = agent.resync;
    let cluster = match source {
        Source::File => None,
        Source::Kubernetes => Some(Cluster::find(&agent).await?),
    };
    let here = Here {
        node: agent.node.clone().or_else(host_name),
        zone: match &cluster {
            Some(cluster) => cluster.zone(),
            None => agent.zone.clone(),
        },
    };

    let parts = Parts::set_up(loaded, &config_path, agent, here, log)?;
    let state = parts.state.clone();
    let bypassing = parts.bypass.pods();
    let leaders = Leaders::new(parts.kernel.clone(), parts.progress.clone());
    let watched = cluster.as_ref().map(Cluster::watched).unwrap_or_default();
    let publishing = cluster.as_ref().map(Cluster::publishing);
    let mut running = parts.start(listeners, watched);
    let following = file::follow(config_path, overrides, state.clone(), fingerprint, resync);
    running.tasks.spawn(following);
    if let Some(cluster) = cluster {
        running
            .tasks
            .spawn(cluster.follow(state, bypassing, leaders, resync));
    }
    let outcome = tokio::select! {
        name = signals.next() => {
            tracing::info!(signal = name, "stopping; a second signal ends what is still in flight");
            Ok(())
        }
        ended = running.tasks.join_next() => {
            Err(anyhow::anyhow!("a part of the agent ended by itself: {ended:?}"))
        }
    };
    let kernel = running.kernel.clone();
    let end = async {
        running.end(patience).await;
        if let Some(publishing) = publishing {
            // What is not given up by then runs out by itself.
            let _ = tokio::time::timeout(PUBLISHER_END, ended(publishing)).await;
        }
    };
    tokio::select! {
        () = end => tracing::info!("stopped; steering goes on"),
        name = signals.next() => {
            give_last_sign(&kernel);
            tracing::warn!(signal = name, "stopped at once; steering goes on");
        }
    }
    outcome
}

/// All that the agent is made of, ready to be started: connections are steered already.
struct Parts {
    agent: AgentConfig,
    log: LogControl,
    kernel: Arc<Kernel>,
    state: Arc<State>,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    progress: Progress,
    reconciler: Reconciler,
    journal: Journal,
    queues: Arc<Queues>,
    overflow: Overflow,
    heartbeat: Heartbeat,
    bypass: Bypass,
}

impl Parts {
    /// Loads the programs, makes the first plan, listens for overflow, attaches the programs; in
    /// this order, so that whatever can fail fails before a connection is touched.
    fn set_up(
        loaded: Loaded,
        config_path: &Path,
        agent: AgentConfig,
        here: Here,
        log: LogControl,
    ) -> anyhow::Result<Self> {
        let kernel = Arc::new(Kernel::load(&Options {
            cgroup: agent.cgroup.clone(),
            pin_path: agent.pin_path.clone(),
        })?);
        // Before this thread makes others.
        privileges::keep_for_work()?;
        let state = Arc::new(State::new(loaded, config_path.to_owned()));
        let progress = Progress::default();
        let journal = Journal::default();
        let services = overflow::Services {
            progress: progress.clone(),
            snapshots: state.subscribe(),
        };
        let queues = Queues::new(kernel.clone(), services, journal.clone());
        let wake = {
            let queues = queues.clone();
            Box::new(move |service| queues.wake(service))
        };
        let mut reconciler = Reconciler::new(kernel.clone(), progress.clone(), here, wake)?;
        let mut snapshots = state.subscribe();
        reconciler.advance(&snapshots.borrow_and_update().clone());
        let overflow = Overflow::start(
            &kernel,
            queues.clone(),
            agent.workers.unwrap_or_else(default_workers),
            tell(kernel.clone(), progress.clone(), journal.clone()),
        )?;
        let heartbeat = Heartbeat::new(
            kernel.clone(),
            log.clone(),
            journal.clone(),
            agent.overflow.clone(),
            &overflow,
        );
        open(&kernel, &overflow, &heartbeat)?;
        let bypass = Bypass::new(kernel.clone(), &agent, state.subscribe());
        kernel.attach()?;
        tracing::info!(cgroup = %kernel.cgroup_path().display(), "steering");
        Ok(Self {
            agent,
            log,
            kernel,
            state,
            snapshots,
            progress,
            reconciler,
            journal,
            queues,
            overflow,
            heartbeat,
            bypass,
        })
    }

    /// Starts the tasks.
    fn start(self, listeners: admin::Listeners, watched: Watched) -> Running {
        let (advice, advised) = mpsc::unbounded_channel();
        let verdicts = adaptive::Verdicts::default();
        let (observe, observations) = mpsc::unbounded_channel();
        let prober = Prober::new(self.agent.probes, self.agent.cache_max_size);
        let (ready, ready_receiver) = watch::channel(true);
        let ready = Arc::new(ready);
        let auditor = Auditor::new(
            self.kernel.clone(),
            self.progress.clone(),
            self.queues.clone(),
            self.journal.clone(),
        );
        let context = admin::Context {
            kernel: self.kernel.clone(),
            progress: self.progress.clone(),
            state: self.state.subscribe(),
            ready: ready_receiver,
            log: self.log,
            started: Instant::now(),
            queues: self.queues.clone(),
            health: prober.handle(),
            probes: prober.figures(),
            journal: self.journal.clone(),
            advice: advice.clone(),
            verdicts: verdicts.clone(),
            auditor: auditor.clone(),
            collects_metrics: self.agent.collect_metrics,
            stats: admin::StatsCache::default(),
            refusals: admin::ToldRefusals::default(),
            watched,
        };
        let (stop, stopped) = watch::channel(());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            listeners.serve(context, ended(stopped)).await;
        });
        tasks.spawn(self.reconciler.run(self.snapshots, advised));
        let heartbeat = tasks.spawn(self.heartbeat.run(ready.clone()));
        tasks.spawn(self.bypass.run());
        tasks.spawn(auditor.run());
        tasks.spawn(overflow::settle(self.kernel.clone(), self.queues));
        tasks.spawn(prober.run(self.state.subscribe(), observe));
        let watch = adaptive::Watch::new(
            self.kernel.clone(),
            self.progress.clone(),
            self.state.subscribe(),
            advice.clone(),
            verdicts.clone(),
        );
        tasks.spawn(watch.run());
        tasks.spawn(mark_by_health(observations, advice, self.journal));
        Running {
            tasks,
            heartbeat,
            ready,
            stop,
            kernel: self.kernel,
            overflow: self.overflow,
        }
    }
}

/// The agent at work.
struct Running {
    tasks: JoinSet<()>,
    heartbeat: AbortHandle,
    ready: Arc<watch::Sender<bool>>,
    /// Dropped to end the listeners.
    stop: watch::Sender<()>,
    kernel: Arc<Kernel>,
    overflow: Overflow,
}

impl Running {
    /// Ends it. Readiness goes first, so that whoever looks stops counting on us. The programs stay
    /// and go on steering, and send the agent nothing more; what they sent it may finish. Until then
    /// everything else goes on.
    async fn end(mut self, patience: Duration) {
        self.ready.send_replace(false);
        self.heartbeat.abort();
        while !self.heartbeat.is_finished() {
            tokio::task::yield_now().await;
        }
        if let Err(error) = close(&self.kernel) {
            tracing::warn!(%error, "the programs learn only from our silence that we end");
        }
        self.overflow.stop(patience).await;
        give_last_sign(&self.kernel);
        drop(self.stop);
        self.tasks.shutdown().await;
    }
}

/// Lets the programs send connections to the agent. First they see that it lives, so that none of them
/// takes its slots for a dead agent's any more; only when the last that has not seen it is done does the
/// agent take anything.
fn open(kernel: &Kernel, overflow: &Overflow, heartbeat: &Heartbeat) -> Result<(), KernelError> {
    close(kernel)?;
    overflow.publish(kernel)?;
    kernel.let_programs_end();
    heartbeat.beat()
}

/// From now on the programs send nothing to the agent, as long as it lives.
fn close(kernel: &Kernel) -> Result<(), KernelError> {
    kernel.change_agent_state(|state| state.switches |= SWITCH_CLOSED)
}

/// From now on they may wait for another agent, as after one that was killed.
fn give_last_sign(kernel: &Kernel) {
    let now_ns = kernel.now().as_nanos() as u64;
    let last_sign = |state: &mut AgentState| state.heartbeat_ns = now_ns;
    if let Err(error) = kernel.change_agent_state(last_sign) {
        tracing::warn!(%error, "the programs do not wait for another agent");
    }
}

/// Passes the verdicts of probes on to where backends are marked.
async fn mark_by_health(
    mut observations: mpsc::UnboundedReceiver<Observation>,
    advice: mpsc::UnboundedSender<Advice>,
    journal: Journal,
) {
    while let Some(Observation { address, health }) = observations.recv().await {
        let is_set = health == Some(Health::Unhealthy);
        if health.is_some() {
            journal.health(address, is_set);
        }
        let _ = advice.send(Advice::Mark(Marking {
            address,
            mark: Mark::Unhealthy,
            is_set,
        }));
    }
}

/// Tells whoever listens what the programs' breakers do, who leads, and what they steer.
fn tell(kernel: Arc<Kernel>, progress: Progress, journal: Journal) -> overflow::Listener {
    Box::new(move |kind: EventKind, event: &Event| {
        let service = progress.assignment().name_of(event.service).cloned();
        let backend = kernel.memory().backend(event.backend).map(|backend| {
            let (address, port) = backend.address();
            SocketAddr::new(address.into(), port.into())
        });
        journal.programs_told(kind, event, service, backend);
    })
}

/// One worker thread for every two CPUs: the other half is for what they serve.
fn default_workers() -> usize {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus / 2).max(1)
}

/// Ends when the sender is dropped.
async fn ended(mut stopped: watch::Receiver<()>) {
    while stopped.changed().await.is_ok() {}
}

/// The signals that end the agent.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

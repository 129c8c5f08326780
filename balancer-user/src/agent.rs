//! The agent's life: start-up in an order that changes nothing before everything
//! has been checked, then waiting, then an orderly end.
//!
//! Called by `cli`. Spawns and connects; decides nothing about services.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use balancer_common::{connection::AgentState, connection::SWITCH_LOG, maps::ABI};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::{
    admin,
    config::{Config, Overrides, Source, process_environment},
    kernel::{Kernel, Options},
    reconcile::{Progress, Reconciler},
    source::file::{self, Fingerprint},
    state::State,
    telemetry::{self, LogControl},
};

/// How often the kernel is told that the agent lives.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// Runs the agent until SIGTERM or SIGINT.
///
/// # Errors
/// If it cannot start. Nothing is left behind then.
pub async fn run(config_path: PathBuf, overrides: Overrides) -> anyhow::Result<()> {
    let fingerprint = Fingerprint::of(&config_path);
    let mut loaded = Config::load(&config_path, &process_environment)?;
    loaded.config = loaded.config.with_overrides(&overrides);
    let agent = loaded.config.agent.clone();
    let log = telemetry::init(&agent.log);
    for warning in loaded.warning_lines() {
        tracing::warn!("{warning}");
    }
    let signals = Signals::new().context("cannot listen for signals")?;
    let listeners = admin::Listeners::bind(&agent)?;

    let options = Options {
        cgroup: agent.cgroup.clone(),
        pin_path: agent.pin_path.clone(),
    };
    let kernel = Arc::new(Kernel::load(&options)?);
    let source = loaded.config.source;
    let state = Arc::new(State::new(loaded, config_path.clone()));
    let progress = Progress::default();
    let mut reconciler = Reconciler::new(kernel.clone(), progress.clone());
    let mut snapshots = state.subscribe();
    reconciler.advance(&snapshots.borrow_and_update().clone());
    put_state(&kernel, &log)?;
    kernel.attach()?;
    tracing::info!(cgroup = %kernel.cgroup_path().display(), "steering");

    let (ready, ready_receiver) = watch::channel(true);
    let ready = Arc::new(ready);
    let context = admin::Context {
        kernel: kernel.clone(),
        progress,
        state: state.subscribe(),
        ready: ready_receiver,
        log: log.clone(),
        started: Instant::now(),
    };
    let (stop, stopped) = watch::channel(());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        listeners.serve(context, ended(stopped)).await;
    });
    tasks.spawn(reconciler.run(snapshots));
    tasks.spawn(heartbeat(kernel.clone(), log, ready.clone()));
    match source {
        Source::File => tasks.spawn(file::follow(config_path, overrides, state, fingerprint)),
        Source::Kubernetes => anyhow::bail!("source: kubernetes is not supported by this version"),
    };

    let outcome = tokio::select! {
        name = signals.wait() => {
            tracing::info!(signal = name, "stopping");
            Ok(())
        }
        ended = tasks.join_next() => Err(anyhow::anyhow!("a part of the agent ended by itself: {ended:?}")),
    };
    // Readiness goes first, so that whoever looks stops counting on us; the
    // programs go last, so that steering lasts as long as the process.
    ready.send_replace(false);
    drop(stop);
    tasks.shutdown().await;
    kernel.detach();
    outcome
}

/// Tells the programs that the agent lives, and whether to log; and everyone
/// else if the cgroup is gone, with which the kernel detaches the programs.
async fn heartbeat(kernel: Arc<Kernel>, log: LogControl, ready: Arc<watch::Sender<bool>>) {
    let mut ticks = interval(HEARTBEAT);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let cgroup = kernel.cgroup_path();
        if *ready.borrow() && !cgroup.exists() {
            tracing::error!(cgroup = %cgroup.display(), "the cgroup is gone, and nothing is steered any more; make it again and restart the agent");
            ready.send_replace(false);
        }
        if let Err(error) = put_state(&kernel, &log) {
            tracing::error!(%error, "the programs cannot be told that the agent lives");
        }
    }
}

fn put_state(kernel: &Kernel, log: &LogControl) -> anyhow::Result<()> {
    let switches = if log.shows_trace() { SWITCH_LOG } else { 0 };
    kernel.put_agent_state(AgentState {
        heartbeat_ns: kernel.now().as_nanos() as u64,
        abi: ABI,
        switches,
    })?;
    Ok(())
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

    async fn wait(mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

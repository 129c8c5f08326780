//! A prober over services of the test's choosing, and waiting for what it does.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    config::{Config, ProbeConfig},
    health::{Figures, Handle, Health, Observation, Prober, pool::PoolLimits},
    model::{Backend, DesiredState, Probe, Service, Setting},
    state::{Snapshot, State},
};

/// Whatever is waited for comes within this, or the test fails.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) struct Ground {
    snapshots: watch::Sender<Arc<Snapshot>>,
    observations: mpsc::UnboundedReceiver<Observation>,
    pub(super) handle: Handle,
    pub(super) figures: Figures,
    _task: AbortOnDropHandle<()>,
}

impl Ground {
    pub(super) fn start(services: Vec<Service>) -> Self {
        Self::with(services, ProbeConfig::default(), PoolLimits::default())
    }

    pub(super) fn with(services: Vec<Service>, config: ProbeConfig, limits: PoolLimits) -> Self {
        let (snapshots, receiver) = watch::channel(Arc::new(snapshot(services)));
        let (sender, observations) = mpsc::unbounded_channel();
        let prober = Prober::with_limits(config, 100, limits);
        let (handle, figures) = (prober.handle(), prober.figures());
        let task = tokio::spawn(prober.run(receiver, sender));
        Self {
            snapshots,
            observations,
            handle,
            figures,
            _task: AbortOnDropHandle::new(task),
        }
    }

    /// One that runs already: whatever is put in force is a change.
    pub(super) async fn running(config: ProbeConfig, limits: PoolLimits) -> Self {
        let first = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = first.local_addr().unwrap();
        let services = vec![service("first", Probe::Tcp, &[address])];
        let mut ground = Self::with(services, config, limits);
        ground.expect(address, Health::Healthy).await;
        ground.put(Vec::new());
        until("it forgotten", || {
            ground.handle.health_of(address).is_none()
        })
        .await;
        ground
    }

    /// Puts other services in force.
    pub(super) fn put(&self, services: Vec<Service>) {
        self.snapshots.send_replace(Arc::new(snapshot(services)));
    }

    /// Waits for the next observation, which is this one.
    pub(super) async fn expect(&mut self, address: SocketAddr, health: Health) {
        self.expect_told(address, Some(health)).await;
        let report = self.handle.health_of(address).unwrap();
        assert_eq!(report.health, Some(health));
    }

    /// Waits for the next observation: a backend that was unhealthy is not probed any more.
    pub(super) async fn expect_forgotten(&mut self, address: SocketAddr) {
        self.expect_told(address, None).await;
        assert_eq!(self.handle.health_of(address), None);
    }

    async fn expect_told(&mut self, address: SocketAddr, health: Option<Health>) {
        let next = timeout(PATIENCE, self.observations.recv()).await;
        assert_eq!(next, Ok(Some(Observation { address, health })));
    }

    /// Waits for as many observations, which are these in some order.
    pub(super) async fn expect_all(&mut self, expected: &[(SocketAddr, Health)]) {
        let mut left = expected.to_vec();
        while !left.is_empty() {
            let next = timeout(PATIENCE, self.observations.recv()).await;
            let Ok(Some(Observation { address, health })) = next else {
                panic!("none of {left:?}: {next:?}");
            };
            let is_this = |it: &(SocketAddr, Health)| it.0 == address && Some(it.1) == health;
            let found = left.iter().position(is_this);
            left.remove(found.unwrap_or_else(|| panic!("{address} {health:?}, not {left:?}")));
        }
    }

    pub(super) fn expect_no_more(&mut self) {
        assert_eq!(
            self.observations.try_recv(),
            Err(mpsc::error::TryRecvError::Empty)
        );
    }
}

fn snapshot(services: Vec<Service>) -> Snapshot {
    let loaded = Config::parse("source: file\n", "config.yaml", &|_| None).unwrap();
    let state = State::new(loaded, PathBuf::from("config.yaml"));
    let mut snapshot = Snapshot::clone(&state.subscribe().borrow());
    let services = services
        .into_iter()
        .map(|service| (service.name.clone(), service));
    snapshot.desired = Arc::new(DesiredState {
        services: services.collect(),
    });
    snapshot
}

/// A service that is probed every 20 ms, with a timeout of 5 s and 3 failures.
pub(super) fn service(name: &str, probe: Probe, backends: &[SocketAddr]) -> Service {
    let mut service = Service::named(name.parse().unwrap());
    service.health.probe = Some(Setting::built_in(probe));
    service.health.interval = Setting::built_in(Duration::from_millis(20));
    service.health.timeout = Setting::built_in(Duration::from_secs(5));
    let backends = backends.iter().map(|&address| Backend::at(address));
    service.backends = backends.collect();
    service
}

/// Waits until a condition holds.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

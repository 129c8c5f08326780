//! For tests: queues over plain memory instead of the kernel's.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use balancer_common::{
    address::{Address, Port},
    affinity::{Binding, Bound},
    atomic::{load, load32, store, store32},
    plain::Plain,
    service::{SERVICE_AFFINITY, SERVICE_PRESENT, Strategy as Number, Tables},
    table::{self, Kind},
    waiting,
};

use super::{Books, Directory, Ledger, Queue, Queues, View};
use crate::{
    journal::Journal,
    model::{Service, Setting, Strategy},
};

/// The id of the one service.
pub(super) const SERVICE: u32 = 0;

/// The records of one service.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) plain: Plain,
    began: Instant,
    /// How far the clock was put forward, in nanoseconds.
    ahead_ns: AtomicU64,
    bindings: Mutex<HashMap<Binding, Bound>>,
}

impl Books for Memory {
    type Tables = Plain;

    /// The records go by the same clock as everything else.
    fn tables(&self) -> &Plain {
        self.plain.set_now(self.now().as_nanos() as u64);
        &self.plain
    }

    fn bound(&self, binding: Binding) -> Option<Bound> {
        self.bindings().get(&binding).copied()
    }

    fn bind(&self, binding: Binding, bound: Bound) {
        self.bindings().insert(binding, bound);
    }

    fn now(&self) -> Duration {
        self.began.elapsed() + Duration::from_nanos(self.ahead_ns.load(Ordering::SeqCst))
    }
}

impl Memory {
    /// What clients are bound to.
    pub(super) fn bindings(&self) -> MutexGuard<'_, HashMap<Binding, Bound>> {
        self.bindings.lock().expect("no test panics with it")
    }

    /// Puts the clock forward.
    pub(super) fn pass(&self, time: Duration) {
        let time_ns = time.as_nanos() as u64;
        self.ahead_ns.fetch_add(time_ns, Ordering::SeqCst);
    }
}

/// One service's settings, which a test can change.
#[derive(Clone, Debug)]
struct OneService(Arc<(Mutex<View>, AtomicU64)>);

impl Directory for OneService {
    fn generation(&self) -> u64 {
        self.0.1.load(Ordering::SeqCst)
    }

    fn look_up(&self, service: u32) -> Option<View> {
        let view = self.0.0.lock().expect("no test panics with it");
        (service == SERVICE).then(|| view.clone())
    }
}

/// One service and its queue.
pub(super) struct Ground {
    pub(super) memory: Arc<Memory>,
    pub(super) queues: Arc<Queues>,
    service: OneService,
}

impl Ground {
    /// A service `default/hello` with these backends, each with so many slots; `set` has the last
    /// word on its settings.
    pub(super) fn new(backends: &[SocketAddr], slots: u32, set: impl FnOnce(&mut Service)) -> Self {
        let mut plain = Plain::one_service(&vec![slots; backends.len()]);
        let mut service = Service::named("default/hello".parse().expect("a name"));
        set(&mut service);
        choose_by(&mut plain, &service, backends.len() as u16);
        let memory = Arc::new(Memory {
            plain,
            began: Instant::now(),
            ahead_ns: AtomicU64::new(1),
            bindings: Mutex::default(),
        });
        for (id, address) in (0..).zip(backends) {
            let record = memory.plain.backend(id).expect("it was made");
            let words = Address::from(address.ip()).0;
            for (cell, word) in record.address.iter().zip(words) {
                store32(cell, word);
            }
            store32(&record.port, u32::from(Port::from(address.port()).0));
        }
        let record = memory.plain.service(SERVICE).expect("it was made");
        store32(&record.breaker_failures, service.breaker.failures.value);
        let open_ns = service.breaker.open.value.as_nanos() as u64;
        store(&record.breaker_open_ns, open_ns);
        let view = Mutex::new(View::from(&service));
        let service = OneService(Arc::new((view, AtomicU64::new(1))));
        Self {
            queues: Queues::new(memory.clone(), service.clone(), Journal::default()),
            memory,
            service,
        }
    }

    /// One that needs no servers: addresses that nobody dials.
    pub(super) fn without_servers(backends: u16, slots: u32, queue_size: u32) -> Self {
        let addresses: Vec<_> = (0..backends)
            .map(|number| SocketAddr::from(([192, 0, 2, 1], 1000 + number)))
            .collect();
        Self::new(&addresses, slots, |service| {
            service.queue.size = Setting::built_in(queue_size);
        })
    }

    /// The queue.
    pub(super) fn queue(&self) -> Arc<Queue> {
        self.queues.of(SERVICE).expect("the service is there")
    }

    /// Changes the settings.
    pub(super) fn change(&self, change: impl FnOnce(&mut View)) {
        change(&mut self.service.0.0.lock().expect("no test panics with it"));
        self.service.0.1.fetch_add(1, Ordering::SeqCst);
    }

    /// Slots taken, over all backends.
    pub(super) fn inflight(&self) -> u64 {
        let plain = &self.memory.plain;
        let ids = 0..load32(&plain.service(SERVICE).expect("it was made").backends);
        ids.map(|id| plain.backend(id).expect("it was made").inflight())
            .sum()
    }

    /// Who waits, as the programs count them.
    pub(super) fn waiting(&self) -> u64 {
        let record = self.memory.plain.service(SERVICE).expect("it was made");
        waiting::count(&record.waiting)
    }

    /// The whole word: 0 only if both halves are.
    pub(super) fn waiting_word(&self) -> u64 {
        let record = self.memory.plain.service(SERVICE).expect("it was made");
        load(&record.waiting)
    }

    /// Its ledger, as the kernel's side would use it.
    pub(super) fn ledger(&self) -> &dyn Ledger {
        &*self.memory
    }

    /// The clock.
    pub(super) fn now(&self) -> Duration {
        self.memory.now()
    }
}

/// Has the records say what the settings do, as the reconciler would.
fn choose_by(plain: &mut Plain, service: &Service, backends: u16) {
    let positions: Vec<u16> = (0..backends).collect();
    let (number, table) = match service.strategy.value {
        Strategy::ConsistentHash => (Number::ConsistentHash, Some(Kind::Maglev)),
        Strategy::Leader => (Number::Leader, Some(Kind::Ranking)),
        Strategy::LeastResponseTime => (Number::LeastResponseTime, None),
        _ => (Number::IdleFirst, None),
    };
    if let Some(kind) = table {
        plain.set_table(SERVICE, table::words(kind, &positions));
    }
    let record = plain.service(SERVICE).expect("it was made");
    store32(&record.strategy, number as u32);
    if let Some(affinity) = service.sticks() {
        store32(&record.flags, SERVICE_PRESENT | SERVICE_AFFINITY);
        store(&record.affinity_ns, affinity.timeout.as_nanos() as u64);
    }
}

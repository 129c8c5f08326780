//! For tests: queues over plain memory instead of the kernel's.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::AtomicU64, atomic::Ordering},
    time::{Duration, Instant},
};

use balancer_common::{
    address::{Address, Port},
    atomic::{load, load32, store32},
    plain::Plain,
    service::Tables,
    waiting,
};

use super::{Books, Directory, Ledger, Queue, Queues, View};
use crate::{
    journal::Journal,
    model::{Service, Setting},
};

/// The id of the one service.
pub(super) const SERVICE: u32 = 0;

/// The records of one service.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) plain: Plain,
    began: Instant,
}

impl Books for Memory {
    type Tables = Plain;

    fn tables(&self) -> &Plain {
        &self.plain
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
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
        let memory = Arc::new(Memory {
            plain: Plain::one_service(&vec![slots; backends.len()]),
            began: Instant::now(),
        });
        for (id, address) in (0..).zip(backends) {
            let record = memory.plain.backend(id).expect("it was made");
            let words = Address::from(address.ip()).0;
            for (cell, word) in record.address.iter().zip(words) {
                store32(cell, word);
            }
            store32(&record.port, u32::from(Port::from(address.port()).0));
        }
        let mut service = Service::named("default/hello".parse().expect("a name"));
        set(&mut service);
        let record = memory.plain.service(SERVICE).expect("it was made");
        store32(&record.breaker_failures, service.breaker.failures.value);
        let open_ns = service.breaker.open.value.as_nanos() as u64;
        balancer_common::atomic::store(&record.breaker_open_ns, open_ns);
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

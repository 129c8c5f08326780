//! Building tables of positions and putting them in place, on a thread of its own: building takes
//! milliseconds, and for each table the kernel waits until no program can see the one before.
//!
//! Fed by `reconcile` with what the tables should be made of; what is overtaken by something newer
//! is never built.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::Instant,
};

use super::tables::{Candidate, Table, maglev::Maglev, ranking, turns};
use crate::kernel::Kernel;

/// What a service's table is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ingredients {
    /// It needs none.
    Nothing,
    /// Backends that take turns by weight.
    Turns(Vec<Candidate>),
    /// Backends that clients are hashed to.
    Maglev(Vec<Candidate>),
    /// Backends that could lead, with the time since when each has been ready.
    Ranking(Vec<(Instant, SocketAddr, u16)>),
}

/// Has tables built. Dropping it ends the thread once it has done what it was asked for.
#[derive(Debug)]
pub struct Writer {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

enum Order {
    /// A service's table, by the service's id.
    Build(u32, Ingredients),
    /// Tell when all orders before this one are done.
    Tell(mpsc::Sender<()>),
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// If there can be no further thread.
    pub fn start(kernel: Arc<Kernel>) -> std::io::Result<Self> {
        let (orders, received) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("tables".into())
            .spawn(move || Workshop::new(kernel).run(&received))?;
        Ok(Self {
            orders: Some(orders),
            thread: Some(thread),
        })
    }

    /// Orders a service's table. In place soon.
    pub fn build(&self, service: u32, ingredients: Ingredients) {
        self.order(Order::Build(service, ingredients));
    }

    /// Waits until all that was ordered is in place.
    pub fn wait(&self) {
        let (done, told) = mpsc::channel();
        self.order(Order::Tell(done));
        // An error means that the thread has ended, and there is nothing to wait for.
        let _ = told.recv();
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // The thread lives as long as this.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The thread's side.
struct Workshop {
    kernel: Arc<Kernel>,
    /// Hashes of backends, by service.
    maglevs: HashMap<u32, Maglev>,
    /// Services that have a table.
    furnished: BTreeSet<u32>,
}

impl Workshop {
    fn new(kernel: Arc<Kernel>) -> Self {
        Self {
            kernel,
            maglevs: HashMap::new(),
            furnished: BTreeSet::new(),
        }
    }

    fn run(mut self, orders: &mpsc::Receiver<Order>) {
        while let Ok(order) = orders.recv() {
            let mut wanted = BTreeMap::new();
            let mut waiting = Vec::new();
            // All that has come meanwhile; of each service's orders the last counts.
            for order in std::iter::once(order).chain(orders.try_iter()) {
                match order {
                    Order::Build(service, ingredients) => {
                        wanted.insert(service, ingredients);
                    }
                    Order::Tell(done) => waiting.push(done),
                }
            }
            self.make(wanted);
            for done in waiting {
                let _ = done.send(());
            }
        }
    }

    fn make(&mut self, wanted: BTreeMap<u32, Ingredients>) {
        let mut tables = Vec::new();
        for (service, ingredients) in wanted {
            if let Some(words) = self.words(service, ingredients) {
                tables.push((service, words));
            }
        }
        if tables.is_empty() {
            return;
        }
        if let Err(error) = self.kernel.put_tables(tables) {
            let error: &dyn std::error::Error = &error;
            tracing::error!(
                error,
                "tables of backends could not be put in place; the former ones stay in force"
            );
        }
    }

    /// The words of a service's table; `None` if it needs none and has none.
    fn words(&mut self, service: u32, ingredients: Ingredients) -> Option<Vec<u64>> {
        if !matches!(ingredients, Ingredients::Maglev(_)) {
            self.maglevs.remove(&service);
        }
        let table = match ingredients {
            Ingredients::Nothing => {
                // One word that says: no positions.
                return self.furnished.remove(&service).then(|| vec![0]);
            }
            Ingredients::Turns(candidates) => Table::Turns(turns::sequence(&candidates)),
            Ingredients::Maglev(candidates) => {
                let maglev = self.maglevs.entry(service).or_default();
                Table::Maglev(maglev.positions(&candidates))
            }
            Ingredients::Ranking(backends) => ranking(backends),
        };
        self.furnished.insert(service);
        Some(table.words())
    }
}

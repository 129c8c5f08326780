//! Building tables of positions and putting them in place, on a thread of its own: building takes
//! milliseconds, and for each table the kernel waits until no program can see the one before.
//!
//! Fed by `reconcile` with what the tables should be made of; what is overtaken by something newer
//! is never built.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc,
        mpsc::{self, RecvTimeoutError},
    },
    thread::JoinHandle,
    time::Duration,
};

use balancer_common::{select, slot::Side};

use super::ingredients::Rank;
use super::tables::{Candidate, Table, maglev::Maglev, ranking, turns};
use crate::kernel::Kernel;

/// How soon what could not be put in place is tried again.
const RETRY: Duration = Duration::from_millis(100);

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
    Ranking(Vec<(Rank, SocketAddr, u16)>),
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

    /// Waits until all that was ordered is in place, or has been tried.
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
    /// What could not be put in place.
    failed: BTreeMap<u32, Ingredients>,
    /// Whether anything could not when it was tried last.
    is_failing: bool,
}

impl Workshop {
    fn new(kernel: Arc<Kernel>) -> Self {
        Self {
            kernel,
            maglevs: HashMap::new(),
            furnished: BTreeSet::new(),
            failed: BTreeMap::new(),
            is_failing: false,
        }
    }

    fn run(mut self, orders: &mpsc::Receiver<Order>) {
        loop {
            let first = match self.failed.is_empty() {
                true => orders.recv().map_err(RecvTimeoutError::from),
                false => orders.recv_timeout(RETRY),
            };
            if matches!(first, Err(RecvTimeoutError::Disconnected)) {
                return;
            }
            // What failed is due again, unless something newer has come.
            let mut wanted = std::mem::take(&mut self.failed);
            let mut waiting = Vec::new();
            // All that has come meanwhile; of each service's orders the last counts.
            for order in first.into_iter().chain(orders.try_iter()) {
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
        let wanted: Vec<_> = wanted.into_iter().collect();
        // After a failure one by one: what there is room for is not to wait for what there is not.
        let at_once = if self.is_failing {
            1
        } else {
            wanted.len().max(1)
        };
        let mut first_error = None;
        for some in wanted.chunks(at_once) {
            let tables: Vec<_> = some
                .iter()
                .filter_map(|(service, ingredients)| {
                    let words = self.words(*service, ingredients.clone())?;
                    Some((*service, words))
                })
                .collect();
            if tables.is_empty() {
                continue;
            }
            let placed = self.kernel.put_tables(tables);
            if placed.is_ok() {
                self.elect(some);
            }
            if let Err(error) = placed {
                first_error.get_or_insert(error);
                self.failed.extend(some.iter().cloned());
                // Whatever they have: it has to be replaced.
                self.furnished
                    .extend(some.iter().map(|(service, _)| *service));
            }
        }
        let was_failing = std::mem::replace(&mut self.is_failing, first_error.is_some());
        match first_error {
            // Said once, not at every try.
            Some(error) if !was_failing => {
                let error: &dyn std::error::Error = &error;
                let services = self.failed.len();
                tracing::error!(
                    error,
                    services,
                    "tables of backends could not be put in place; it is tried again, and until then \
                     these services go by the tables they have, or by none"
                );
            }
            None if was_failing => tracing::info!("all tables of backends are in place"),
            _ => {}
        }
    }

    /// Has leaders elected where the first to lead have only now been ranked: whoever waits to hear
    /// who leads before it connects would wait for ever.
    fn elect(&self, furnished: &[(u32, Ingredients)]) {
        for (service, ingredients) in furnished {
            if matches!(ingredients, Ingredients::Ranking(_)) {
                select::elect(self.kernel.memory(), *service, Side::Agent);
            }
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

//! The queue of one service: who waits for a slot, in the order in which they came.
//!
//! A slot that comes free goes to the one who has waited longest, in the same moment: whoever
//! gives it back, or hears of it from the programs, calls [`Queue::wake`]. Ticks only make up for
//! what is lost on the way. A waiter that is dropped leaves at once; if a slot was on its way to
//! it, the next one gets it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak},
    time::{Duration, Instant},
};

use tokio::{
    sync::oneshot,
    time::{MissedTickBehavior, interval, timeout_at},
};

use super::{
    Figures, Grant, Identity, Queues, Reason, ServiceBreaker, Slot, Token, View, size::Size,
    sticky::Tokens,
};
use crate::model::QueueTimeout;

/// The place of a waiter: when it came, on the monotonic clock, and a number for those who came at
/// the same time.
pub type Ticket = (Duration, u64);

/// One service's queue.
#[derive(Debug)]
pub struct Queue {
    service: u32,
    /// The service's, among those that the id has stood for and will.
    generation: u32,
    queues: Weak<Queues>,
    view: RwLock<Arc<View>>,
    line: Mutex<Line>,
    figures: Figures,
    breaker: ServiceBreaker,
    tokens: Tokens,
}

#[derive(Debug)]
struct Line {
    waiters: BTreeMap<Ticket, Waiting>,
    size: Size,
    last_number: u64,
    /// Whether a task ticks for those who wait.
    is_paced: bool,
}

#[derive(Debug)]
struct Waiting {
    sender: oneshot::Sender<Slot>,
    identity: Identity,
    /// Backends that failed it already, by id.
    avoid: Vec<u32>,
}

impl Queue {
    pub(super) fn new(
        (service, generation): (u32, u32),
        view: Arc<View>,
        queues: Weak<Queues>,
    ) -> Self {
        Self {
            service,
            generation,
            queues,
            line: Mutex::new(Line {
                waiters: BTreeMap::new(),
                size: Size::new(&view.queue),
                last_number: 0,
                is_paced: false,
            }),
            view: RwLock::new(view),
            figures: Figures::default(),
            breaker: ServiceBreaker::default(),
            tokens: Tokens::default(),
        }
    }

    /// The id of its service.
    pub fn service(&self) -> u32 {
        self.service
    }

    /// The generation of its service: with the id it means this service and no other.
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }

    /// Its service is gone: whoever waits is told so.
    pub(super) fn close(&self) {
        let waiters = std::mem::take(&mut self.line().waiters);
        for waiting in waiters.into_values() {
            if let Some(queues) = self.queues.upgrade() {
                queues.ledger().leave(self.service);
            }
            // Its receiver learns of the end by that.
            drop(waiting);
        }
    }

    /// A slot of this very service; none if its id stands for another by now.
    fn take(&self, queues: &Queues, identity: &Identity, avoid: &[u32]) -> Option<Grant> {
        if queues.ledger().generation(self.service) != self.generation {
            return None;
        }
        let grant = queues.ledger().take(self.service, identity, avoid)?;
        if grant.was_elected {
            let (service, backend) = (self.view().name.clone(), grant.address);
            tracing::info!(%service, %backend, "has a new leader");
            queues.journal().elected(Some(service), Some(backend));
        }
        Some(grant)
    }

    /// The backend, by id and generation, for which a sticky cookie has this word.
    pub(super) fn backend_of(&self, token: Token) -> Option<(u32, u32)> {
        let queues = self.queues.upgrade()?;
        let ledger = queues.ledger();
        self.tokens.backend(
            token,
            &self.view().name,
            ledger.clock(),
            |backend| ledger.is_member(self.service, backend),
            || ledger.members(self.service),
        )
    }

    /// Its service's settings.
    pub fn view(&self) -> Arc<View> {
        self.view
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// What happened here.
    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// The breaker of the service.
    pub fn breaker(&self) -> &ServiceBreaker {
        &self.breaker
    }

    /// The clock by which places in the queue are given.
    pub(super) fn clock(&self) -> Duration {
        let queues = self.queues.upgrade();
        queues.map_or(Duration::ZERO, |queues| queues.ledger().clock())
    }

    /// Takes a token of the service's rate limit, if it has one. Says whether there was one.
    pub fn admits_rate(&self) -> bool {
        let queues = self.queues.upgrade();
        queues.is_none_or(|queues| queues.ledger().admit(self.service))
    }

    /// How many wait.
    pub fn waiters(&self) -> usize {
        self.line().waiters.len()
    }

    /// How many may wait.
    pub fn size(&self) -> u32 {
        self.line().size.now()
    }

    /// When the one who has waited longest came, on the monotonic clock.
    pub fn oldest(&self) -> Option<Duration> {
        let line = self.line();
        line.waiters.keys().next().map(|(came_at, _)| *came_at)
    }

    /// How long a waiter waits at most.
    pub fn timeout(&self) -> Duration {
        match self.view().queue.timeout.value {
            QueueTimeout::Fixed(timeout) => timeout,
            QueueTimeout::Auto => self.figures.automatic_timeout(),
        }
    }

    pub(super) fn set_view(&self, view: Arc<View>) {
        let mut line = self.line();
        line.size.set_base(&view.queue);
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
        let size = line.size.now();
        drop(line);
        self.publish_size(size);
    }

    /// Takes a slot at once if one is free and nobody waits (or overtaking is allowed), or joins
    /// the queue. `came_at` decides the place there.
    ///
    /// # Errors
    /// `QueueFull` if as many wait as may; `NoBackends` or `BreakerOpen` if waiting cannot help.
    pub(super) fn enter(
        self: &Arc<Self>,
        came_at: Duration,
        identity: Identity,
        avoid: &[u32],
    ) -> Result<Entered, Reason> {
        let queues = self.queues.upgrade().ok_or(Reason::NoBackends)?;
        let mut line = self.line();
        if line.waiters.is_empty() || self.view().queue.overtaking.value {
            if let Some(grant) = self.take(&queues, &identity, avoid) {
                return Ok(Entered::Slot(Slot::new(
                    grant,
                    self.service,
                    queues.clone(),
                )));
            }
            if let Some(reason) = queues.ledger().hopeless(self.service) {
                return Err(reason);
            }
        }
        if queues.ledger().generation(self.service) != self.generation {
            return Err(Reason::NoBackends);
        }
        let waiters = line.waiters.len() as u32;
        // Who comes back after a failed attempt has had a place already.
        if !line.size.admits(waiters) && avoid.is_empty() {
            return Err(Reason::QueueFull);
        }
        if line.size.grown() {
            self.publish_size(line.size.now());
        }
        let (sender, receiver) = oneshot::channel();
        line.last_number += 1;
        let ticket = (came_at, line.last_number);
        let waiting = Waiting {
            sender,
            identity,
            avoid: avoid.to_vec(),
        };
        line.waiters.insert(ticket, waiting);
        queues.ledger().join(self.service);
        self.pace(&mut line);
        // A slot may have come free after we looked and before we were seen waiting.
        self.serve(&queues, line);
        Ok(Entered::Waiter(Waiter {
            queue: self.clone(),
            ticket,
            receiver,
        }))
    }

    /// Hands free slots to those who wait.
    pub fn wake(&self) {
        if let Some(queues) = self.queues.upgrade() {
            self.serve(&queues, self.line());
        }
    }

    fn serve(&self, queues: &Arc<Queues>, mut line: MutexGuard<'_, Line>) {
        let mut undelivered = Vec::new();
        while let Some(first) = line.waiters.first_entry() {
            let Waiting {
                identity, avoid, ..
            } = first.get();
            let Some(grant) = self.take(queues, identity, avoid) else {
                break;
            };
            let waiting = first.remove();
            queues.ledger().leave(self.service);
            let slot = Slot::new(grant, self.service, queues.clone());
            // Its receiver may be gone; then it is about to leave the queue itself.
            undelivered.extend(waiting.sender.send(slot).err());
        }
        drop(line);
        // Dropping a slot comes back here for the next in line, so not under the lock.
        drop(undelivered);
    }

    /// Takes a waiter out. Says whether it was still there.
    fn leave(&self, ticket: &Ticket) -> bool {
        let was_there = self.line().waiters.remove(ticket).is_some();
        if was_there && let Some(queues) = self.queues.upgrade() {
            queues.ledger().leave(self.service);
        }
        was_there
    }

    /// Sees to it that someone ticks while anyone waits.
    fn pace(self: &Arc<Self>, line: &mut Line) {
        if std::mem::replace(&mut line.is_paced, true) {
            return;
        }
        let queue = self.clone();
        tokio::spawn(async move {
            let mut ticks = interval(queue.view().queue.tick.value);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            ticks.tick().await;
            while queue.is_still_paced() {
                ticks.tick().await;
                queue.wake();
            }
        });
    }

    fn is_still_paced(&self) -> bool {
        let mut line = self.line();
        line.is_paced = !line.waiters.is_empty();
        line.is_paced
    }

    /// Lets the size follow the load; called every now and then.
    pub(super) fn settle_size(&self) {
        let mut line = self.line();
        let waiters = line.waiters.len() as u32;
        if line.size.settle(waiters) {
            let size = line.size.now();
            drop(line);
            self.publish_size(size);
        }
    }

    fn publish_size(&self, size: u32) {
        if let Some(queues) = self.queues.upgrade() {
            queues.ledger().set_queue_size(self.service, size);
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What entering a queue leads to.
#[derive(Debug)]
pub(super) enum Entered {
    /// A slot, at once.
    Slot(Slot),
    /// A place in the queue.
    Waiter(Waiter),
}

/// A place in a queue. Dropping it leaves the queue.
#[derive(Debug)]
pub(super) struct Waiter {
    queue: Arc<Queue>,
    ticket: Ticket,
    receiver: oneshot::Receiver<Slot>,
}

impl Waiter {
    /// Waits for a slot.
    ///
    /// # Errors
    /// `QueueTimeout` if none came until then.
    pub(super) async fn slot(mut self, deadline: Instant) -> Result<Slot, Reason> {
        match timeout_at(deadline.into(), &mut self.receiver).await {
            Ok(Ok(slot)) => Ok(slot),
            // The service is gone.
            Ok(Err(_)) => Err(Reason::NoBackends),
            Err(_) => self.last_look().ok_or(Reason::QueueTimeout),
        }
    }

    /// Leaves the queue, and takes a slot that came in this very moment.
    fn last_look(&mut self) -> Option<Slot> {
        match self.queue.leave(&self.ticket) {
            true => None,
            false => self.receiver.try_recv().ok(),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        drop(self.last_look());
    }
}

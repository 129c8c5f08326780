//! One connection's (or request's) way through the agent: slot, attempts, deadline.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{
    Identity, Queue, Queues, Reason, Slot,
    queue::{Entered, Waiter},
    upstream,
};

/// What is allowed beyond the waiting time, for attempts at upstream connections.
const GRACE: Duration = Duration::from_millis(50);
/// The pause after a first failed attempt; it doubles from one to the next.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// How much a pause varies either way, as a share of it.
const JITTER: f64 = 0.1;

/// Someone who wants a slot of a service, until they have one or are refused.
#[derive(Debug)]
pub struct Visit {
    queue: Arc<Queue>,
    /// When it came, by the clock of the programs: its place in the queue.
    came_at: Duration,
    identity: Identity,
    began: Instant,
    deadline: Instant,
    /// Backends that could not be connected to, by id.
    failed: Vec<u32>,
    attempts: u32,
    sent: Option<Sent>,
}

/// A connection that the programs sent to the agent: counted as on its way until it joins the
/// queue or this is dropped.
#[derive(Debug)]
pub struct Sent {
    queues: Arc<Queues>,
    service: u32,
}

impl Sent {
    /// Takes over the count of a connection whose flow was claimed.
    pub fn new(queues: Arc<Queues>, service: u32) -> Self {
        Self { queues, service }
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.queues.ledger().dismiss(self.service);
    }
}

impl Visit {
    /// Begins a visit. `came_at` is by the clock of the programs; `sent` is there if they sent the
    /// connection, and until it has a slot or a place in the queue it counts as on its way.
    pub fn new(queue: Arc<Queue>, came_at: Duration, sent: Option<Sent>) -> Self {
        queue.figures().count_accepted();
        let began = Instant::now();
        Self {
            deadline: began + queue.timeout(),
            queue,
            came_at,
            identity: Identity::UNKNOWN,
            began,
            failed: Vec::new(),
            attempts: 0,
            sent,
        }
    }

    /// Begins the visit of a request, which comes now.
    pub fn of_request(queue: Arc<Queue>) -> Self {
        let came_at = queue.clock();
        Self::new(queue, came_at, None)
    }

    /// The same by a certain client.
    #[must_use]
    pub fn by(self, identity: Identity) -> Self {
        Self { identity, ..self }
    }

    /// The queue of the service that is visited.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Since when.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// When the last attempt must have ended.
    pub fn ends(&self) -> Instant {
        self.deadline + GRACE
    }

    /// Gets a slot, at once or by waiting in the queue. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// Why there is none.
    pub async fn slot(&mut self) -> Result<Slot, Reason> {
        let entered = self.queue.enter(self.came_at, self.identity, &self.failed);
        // Whoever waits is counted in the queue by now, and the others are on their way no more.
        self.sent = None;
        match entered {
            Ok(Entered::Slot(slot)) => Ok(slot),
            Ok(Entered::Waiter(waiter)) => self.wait(waiter).await,
            Err(reason) => Err(self.refused(reason)),
        }
    }

    async fn wait(&self, waiter: Waiter) -> Result<Slot, Reason> {
        let figures = self.queue.figures();
        let joined = Instant::now();
        figures.count_queued();
        tracing::debug!(service = %self.queue.view().name, waiters = self.queue.waiters(), "waits for a slot");
        let result = waiter.slot(self.deadline).await;
        figures.count_waited(joined.elapsed());
        match result {
            Ok(slot) => Ok(slot),
            Err(_) if self.attempts > 0 => Err(self.refused(Reason::RetriesExhausted)),
            Err(reason) => Err(self.refused(reason)),
        }
    }

    /// An attempt to connect to the slot's backend failed: the slot goes back, the backend's
    /// breaker hears of it if the backend is to blame, and after a pause there may be another.
    ///
    /// # Errors
    /// `RetriesExhausted` if there may not.
    pub async fn failed(&mut self, slot: Slot, error: &io::Error) -> Result<(), Reason> {
        if upstream::is_backends_fault(error) {
            slot.failed();
        } else {
            tracing::warn!(%error, "the agent itself cannot connect");
        }
        self.again(slot).await
    }

    /// The slot's backend has not served the request, which may be tried again: the slot goes back,
    /// and after a pause there may be another.
    ///
    /// # Errors
    /// `RetriesExhausted` if there may not.
    pub async fn again(&mut self, slot: Slot) -> Result<(), Reason> {
        self.attempts += 1;
        let (backend, _) = slot.backend();
        if !self.failed.contains(&backend) {
            self.failed.push(backend);
        }
        drop(slot);
        let pause = pause(self.attempts);
        let allowed = self.queue.view().queue.attempts.value;
        if self.attempts >= allowed || Instant::now() + pause >= self.ends() {
            return Err(self.refused(Reason::RetriesExhausted));
        }
        self.queue.figures().count_retried();
        sleep(pause).await;
        Ok(())
    }

    /// Counts that the slot's backend took the connection, or answered the request.
    pub fn served(&self) {
        self.queue.figures().count_selected(self.began.elapsed());
    }

    /// Counts a refusal; what follows is up to the caller.
    pub fn refused(&self, reason: Reason) -> Reason {
        let figures = self.queue.figures();
        figures.count_refused(reason, self.began.elapsed());
        reason
    }
}

/// How long to pause after so many failed attempts.
fn pause(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(8);
    let pause = (FIRST_PAUSE * 2u32.pow(doublings)).min(LONGEST_PAUSE);
    pause.mul_f64(1.0 + JITTER * (2.0 * fastrand::f64() - 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_from_five_to_fifty_milliseconds_with_a_tenth_of_jitter() {
        for (attempts, expected_ms) in [
            (1, 5.0),
            (2, 10.0),
            (3, 20.0),
            (4, 40.0),
            (5, 50.0),
            (99, 50.0),
        ] {
            for _ in 0..100 {
                let ms = pause(attempts).as_secs_f64() * 1e3;
                assert!(
                    (ms - expected_ms).abs() <= expected_ms * JITTER + 1e-6,
                    "{attempts}: {ms}"
                );
            }
        }
    }
}

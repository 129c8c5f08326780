//! Clients that are too slow: with a head, or with taking an answer. (With a body: see `body`.)
//!
//! Owns the notes that one connection keeps of what it waits for, and what it may wait. Time is
//! counted in ticks, so that a request costs no look at a clock. Called by `session`, which ticks
//! and ends a connection that is over its time, and by whatever reads and writes for it.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tracing::debug;

use super::body::Held;

/// From one tick to the next: the precision of all limits here.
pub(super) const TICK: Duration = Duration::from_secs(5);
/// How long a head may take from its first byte, in ticks: 10 s, and up to a tick more.
const HEAD_TICKS: u32 = 2;
/// How long a client may take nothing of an answer, in ticks: 30 s.
const STALL_TICKS: u32 = 6;
/// How long a connection may be silent between requests, in ticks: 75 s.
const IDLE_TICKS: u32 = 15;

/// No tick: nothing is waited for.
const NOT: u32 = 0;

/// What one client connection waits for, and since when. Written by its own worker only.
#[derive(Debug)]
pub(super) struct Watch {
    /// Ticks so far; from 1.
    now: AtomicU32,
    /// Requests in flight.
    requests: AtomicU32,
    /// Since when no request is in flight and no byte of one is there.
    idle_since: AtomicU32,
    /// Since when there is a piece of a head.
    head_since: AtomicU32,
    /// Since when bytes for the client cannot be sent.
    blocked_since: AtomicU32,
    /// Whether a piece of a head is there.
    has_head: AtomicBool,
    is_switched: AtomicBool,
    /// With HTTP/2, answers in flight.
    kept: Mutex<Vec<Weak<Kept>>>,
}

/// An answer that shares its connection with others: if its client takes nothing of it, it alone
/// is taken away.
#[derive(Debug)]
pub(super) struct Kept {
    /// Since when the client has something to take.
    handed_at: AtomicU32,
    answer: Mutex<Option<Held>>,
}

impl Kept {
    pub(super) fn new(answer: Held) -> Arc<Self> {
        Arc::new(Self {
            handed_at: AtomicU32::new(NOT),
            answer: Mutex::new(Some(answer)),
        })
    }

    /// What there is of the answer; nothing, once it was taken away.
    pub(super) fn answer(&self) -> MutexGuard<'_, Option<Held>> {
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self) -> Option<Held> {
        self.answer().take()
    }
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            now: AtomicU32::new(1),
            requests: AtomicU32::new(0),
            idle_since: AtomicU32::new(1),
            head_since: AtomicU32::new(NOT),
            blocked_since: AtomicU32::new(NOT),
            has_head: AtomicBool::new(false),
            is_switched: AtomicBool::new(false),
            kept: Mutex::default(),
        }
    }
}

/// What a client was too slow with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slowness {
    /// It asked for nothing for too long.
    Idle,
    /// The head of a request.
    Head,
    /// Taking the answer.
    Answer,
}

impl Watch {
    /// A tick has passed. Says whether the client is over its time.
    pub(super) fn tick(&self) -> Option<Slowness> {
        let now = self.now.load(Relaxed).wrapping_add(1).max(1);
        self.now.store(now, Relaxed);
        let is_over = |since: &AtomicU32, limit: u32| {
            let since = since.load(Relaxed);
            since != NOT && now.wrapping_sub(since) > limit
        };
        if is_over(&self.blocked_since, STALL_TICKS) {
            return Some(Slowness::Answer);
        }
        self.kept().retain(|kept| {
            let Some(kept) = kept.upgrade() else {
                return false;
            };
            let is_stalled = is_over(&kept.handed_at, STALL_TICKS);
            if is_stalled {
                debug!("a stream is abandoned: the client does not take the answer");
                drop(kept.take());
            }
            !is_stalled
        });
        if is_over(&self.head_since, HEAD_TICKS) {
            return Some(Slowness::Head);
        }
        is_over(&self.idle_since, IDLE_TICKS).then_some(Slowness::Idle)
    }

    /// A request's head is complete.
    pub(super) fn begin(self: &Arc<Self>) -> Begun {
        self.requests.fetch_add(1, Relaxed);
        self.head_since.store(NOT, Relaxed);
        self.idle_since.store(NOT, Relaxed);
        Begun(self.clone())
    }

    /// Whether a request is in flight.
    pub(super) fn is_busy(&self) -> bool {
        self.requests.load(Relaxed) != 0
    }

    /// Whether the connection has been handed to another protocol.
    pub(super) fn is_switched(&self) -> bool {
        self.is_switched.load(Relaxed)
    }

    /// It has.
    pub(super) fn switch(&self) {
        self.is_switched.store(true, Relaxed);
        for since in [&self.idle_since, &self.head_since, &self.blocked_since] {
            since.store(NOT, Relaxed);
        }
    }

    /// Bytes came; what is there may be a piece of a head.
    pub(super) fn received(&self, is_in_head: bool) {
        self.has_head.store(is_in_head, Relaxed);
        if is_in_head && !self.is_busy() {
            self.mark(&self.head_since, true);
            self.idle_since.store(NOT, Relaxed);
        }
    }

    /// Bytes for the client could not be sent, or could.
    pub(super) fn blocked(&self, is_blocked: bool) {
        self.mark(&self.blocked_since, is_blocked && !self.is_switched());
        if !is_blocked && self.idle_since.load(Relaxed) != NOT {
            // The end of an answer, long after its backend was done.
            self.idle_since.store(self.now.load(Relaxed), Relaxed);
        }
    }

    /// Keeps an eye on one answer of many on the connection.
    pub(super) fn keep(&self, kept: &Arc<Kept>) {
        kept.handed_at.store(self.now.load(Relaxed), Relaxed);
        self.kept().push(Arc::downgrade(kept));
    }

    /// Notes that the client is to take something of an answer, or that there is nothing to take.
    pub(super) fn handed(&self, kept: &Kept, is_handed: bool) {
        let since = match is_handed {
            true => self.now.load(Relaxed),
            false => NOT,
        };
        kept.handed_at.store(since, Relaxed);
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Weak<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, since: &AtomicU32, is_waiting: bool) {
        if !is_waiting {
            since.store(NOT, Relaxed);
        } else if since.load(Relaxed) == NOT {
            since.store(self.now.load(Relaxed), Relaxed);
        }
    }
}

/// A request in flight, for as long as it is.
#[derive(Debug)]
pub(super) struct Begun(Arc<Watch>);

impl Drop for Begun {
    fn drop(&mut self) {
        let watch = &self.0;
        if watch.requests.fetch_sub(1, Relaxed) == 1 && !watch.is_switched() {
            let next = match watch.has_head.load(Relaxed) {
                true => &watch.head_since,
                false => &watch.idle_since,
            };
            watch.mark(next, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// After how many ticks a client is over its time, and with what; `meanwhile` happens in each.
    fn lasts(watch: &Arc<Watch>, meanwhile: impl Fn()) -> Option<(u32, Slowness)> {
        (1..100).find_map(|ticks| {
            meanwhile();
            watch.tick().map(|slowness| (ticks, slowness))
        })
    }

    #[test]
    fn silence_is_allowed_for_a_while() {
        let watch = Arc::new(Watch::default());
        assert_eq!(lasts(&watch, || ()), Some((IDLE_TICKS + 1, Slowness::Idle)));
        let watch = Arc::new(Watch::default());
        drop(watch.begin());
        assert_eq!(lasts(&watch, || ()), Some((IDLE_TICKS + 1, Slowness::Idle)));
    }

    #[test]
    fn a_head_has_its_time_from_its_first_byte_however_it_trickles() {
        let watch = Arc::new(Watch::default());
        for _ in 0..IDLE_TICKS {
            assert_eq!(watch.tick(), None);
        }
        let trickle = || watch.received(true);
        assert_eq!(
            lasts(&watch, trickle),
            Some((HEAD_TICKS + 1, Slowness::Head))
        );
    }

    #[test]
    fn a_backend_may_take_its_time_and_a_next_head_has_its_own() {
        let watch = Arc::new(Watch::default());
        watch.received(true);
        let begun = watch.begin();
        watch.received(true);
        assert_eq!(lasts(&watch, || ()), None);
        drop(begun);
        assert_eq!(lasts(&watch, || ()), Some((HEAD_TICKS + 1, Slowness::Head)));
    }

    #[test]
    fn whoever_takes_nothing_of_an_answer_is_cut_off_and_whoever_takes_little_is_not() {
        let watch = Arc::new(Watch::default());
        let begun = watch.begin();
        watch.blocked(true);
        assert_eq!(
            lasts(&watch, || watch.blocked(true)),
            Some((STALL_TICKS + 1, Slowness::Answer))
        );
        watch.blocked(false);
        let little = || {
            watch.blocked(true);
            watch.blocked(false);
            watch.blocked(true);
        };
        assert_eq!(lasts(&watch, little), None);
        // The backend is done; the client still takes what is left.
        drop(begun);
        assert_eq!(lasts(&watch, little), None);
    }

    #[test]
    fn what_became_another_protocol_may_do_as_it_likes() {
        let watch = Arc::new(Watch::default());
        let begun = watch.begin();
        watch.switch();
        drop(begun);
        watch.blocked(true);
        watch.received(false);
        assert_eq!(lasts(&watch, || ()), None);
    }
}

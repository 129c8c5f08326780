//! Clients that are too slow: with a head, with a body, or with taking an answer.
//!
//! Owns the notes that one connection keeps of what it waits for, and what it may wait. Time is
//! counted in ticks, so that a request costs no look at a clock. Called by `session`, which ticks
//! and ends a connection that is over its time, and by whatever reads and writes for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// From one tick to the next: the precision of all limits here.
pub(super) const TICK: Duration = Duration::from_secs(5);
/// How long a head may take from its first byte, in ticks: 10 s, and up to a tick more.
const HEAD_TICKS: u32 = 2;
/// How long a client may neither send of a body nor take of an answer, in ticks: 30 s.
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
    /// Since when a body is waited for.
    body_since: AtomicU32,
    /// Since when bytes for the client cannot be sent.
    blocked_since: AtomicU32,
    /// Whether a piece of a head is there.
    has_head: AtomicBool,
    is_switched: AtomicBool,
}

impl Default for Watch {
    fn default() -> Self {
        Self {
            now: AtomicU32::new(1),
            requests: AtomicU32::new(0),
            idle_since: AtomicU32::new(1),
            head_since: AtomicU32::new(NOT),
            body_since: AtomicU32::new(NOT),
            blocked_since: AtomicU32::new(NOT),
            has_head: AtomicBool::new(false),
            is_switched: AtomicBool::new(false),
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
    /// The body of a request.
    Body,
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
        if is_over(&self.body_since, STALL_TICKS) {
            return Some(Slowness::Body);
        }
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

    /// A request's body is waited for, or no more.
    pub(super) fn body(&self, is_missing: bool) {
        self.mark(&self.body_since, is_missing);
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
        for since in [
            &self.idle_since,
            &self.head_since,
            &self.body_since,
            &self.blocked_since,
        ] {
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

impl Begun {
    /// The notes of its connection.
    pub(super) fn watch(&self) -> &Arc<Watch> {
        &self.0
    }
}

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

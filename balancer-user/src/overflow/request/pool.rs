//! Warm upstream connections of one worker: those that no request uses, and that hold no slot.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::link::{Link, Version};

/// Idle connections to one backend at most.
const MAX_PER_BACKEND: usize = 64;
/// And to all of them.
const MAX_IDLE: usize = 4096;
/// How often those that were closed, or idle for too long, are swept out.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How many sweeps one lasts while it is idle: 30 s, give or take.
const MAX_SWEEPS: u32 = 6;

/// A backend, by id and generation, and what is spoken to it.
pub(super) type Key = (u32, u32, Version);

/// The idle connections.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Idle>);

#[derive(Debug, Default)]
struct Idle {
    by_backend: HashMap<Key, Vec<Warm>>,
    count: usize,
    /// Whether a task sweeps.
    is_swept: bool,
}

#[derive(Debug)]
struct Warm {
    link: Link,
    sweeps: u32,
}

impl Pool {
    /// The connection to this backend that was used last.
    pub(super) fn take(&self, key: Key) -> Option<Link> {
        let mut idle = self.idle();
        let idle = &mut *idle;
        let links = idle.by_backend.get_mut(&key)?;
        loop {
            let warm = links.pop()?;
            idle.count -= 1;
            if !warm.link.is_stale() {
                return Some(warm.link);
            }
        }
    }

    /// Keeps a connection for later.
    pub(super) fn put(self: &Arc<Self>, key: Key, link: Link) {
        let mut idle = self.idle();
        if idle.count >= MAX_IDLE {
            return;
        }
        let links = idle.by_backend.entry(key).or_default();
        if links.len() >= MAX_PER_BACKEND {
            return;
        }
        links.push(Warm { link, sweeps: 0 });
        idle.count += 1;
        if !std::mem::replace(&mut idle.is_swept, true) {
            tokio::spawn(self.clone().sweep());
        }
    }

    /// Closes all of them.
    pub(super) fn clear(&self) {
        let mut idle = self.idle();
        idle.by_backend.clear();
        idle.count = 0;
    }

    /// Sweeps for as long as there is anything.
    async fn sweep(self: Arc<Self>) {
        let mut ticks = interval(SWEEP_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if self.idle().sweep() {
                return;
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// Says whether nothing is left, and so nobody sweeps any more.
    fn sweep(&mut self) -> bool {
        self.by_backend.retain(|_, links| {
            links.retain_mut(|warm| {
                warm.sweeps += 1;
                warm.sweeps <= MAX_SWEEPS && !warm.link.is_stale()
            });
            !links.is_empty()
        });
        self.count = self.by_backend.values().map(Vec::len).sum();
        self.is_swept = self.count != 0;
        !self.is_swept
    }
}

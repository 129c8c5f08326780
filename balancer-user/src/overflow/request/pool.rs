//! Warm upstream connections of one worker: those that no request uses, and that hold no slot.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::link::{Link, Version};

/// Idle connections to one backend at most.
const MAX_PER_BACKEND: usize = 64;
/// And to all of them.
const MAX_IDLE: usize = 4096;
/// How long one may be idle.
const MAX_IDLE_TIME: Duration = Duration::from_secs(30);

/// A backend, by id and generation, and what is spoken to it.
pub(super) type Key = (u32, u32, Version);

/// The idle connections.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<Idle>);

#[derive(Debug, Default)]
struct Idle {
    by_backend: HashMap<Key, Vec<(Link, Instant)>>,
    count: usize,
    swept_at: Option<Instant>,
}

impl Pool {
    /// The connection to this backend that was used last.
    pub(super) fn take(&self, key: Key) -> Option<Link> {
        let now = Instant::now();
        let mut idle = self.idle();
        let idle = &mut *idle;
        let links = idle.by_backend.get_mut(&key)?;
        loop {
            let (link, since) = links.pop()?;
            idle.count -= 1;
            if !link.is_closed() && now - since < MAX_IDLE_TIME {
                return Some(link);
            }
        }
    }

    /// Keeps a connection for later.
    pub(super) fn put(&self, key: Key, link: Link) {
        if link.is_closed() {
            return;
        }
        let now = Instant::now();
        let mut idle = self.idle();
        idle.sweep(now);
        if idle.count >= MAX_IDLE {
            return;
        }
        let links = idle.by_backend.entry(key).or_default();
        if links.len() < MAX_PER_BACKEND {
            links.push((link, now));
            idle.count += 1;
        }
    }

    /// Closes all of them.
    pub(super) fn clear(&self) {
        *self.idle() = Idle::default();
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    /// Drops, now and then, what has been idle for too long or was closed.
    fn sweep(&mut self, now: Instant) {
        let swept_at = *self.swept_at.get_or_insert(now);
        if now - swept_at < MAX_IDLE_TIME / 4 {
            return;
        }
        self.swept_at = Some(now);
        self.by_backend.retain(|_, links| {
            links.retain(|(link, since)| !link.is_closed() && now - *since < MAX_IDLE_TIME);
            !links.is_empty()
        });
        self.count = self.by_backend.values().map(Vec::len).sum();
    }
}

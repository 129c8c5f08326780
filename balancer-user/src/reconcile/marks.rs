//! What keeps a backend from being chosen although it is wanted: the verdict of its probes, and a
//! person's word. Kept by address, so that it outlives the backend's id.

use std::{collections::BTreeSet, net::SocketAddr};

use balancer_common::service::{STATE_DRAINING, STATE_UNHEALTHY};

/// A mark that someone puts on a backend, or takes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marking {
    /// The backend.
    pub address: SocketAddr,
    /// The mark.
    pub mark: Mark,
    /// Whether it has the mark from now on.
    pub is_set: bool,
}

/// What a backend can be marked as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Its probes failed.
    Unhealthy,
    /// It shall keep what it has and get nothing new.
    Draining,
}

/// All marks.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks {
    unhealthy: BTreeSet<SocketAddr>,
    draining: BTreeSet<SocketAddr>,
}

impl Marks {
    pub(super) fn put(&mut self, marking: Marking) {
        let set = match marking.mark {
            Mark::Unhealthy => &mut self.unhealthy,
            Mark::Draining => &mut self.draining,
        };
        if marking.is_set {
            set.insert(marking.address);
        } else {
            set.remove(&marking.address);
        }
    }

    /// Forgets the backends that are not wanted any more. Not at once when one goes, since it may
    /// come back before whoever marked it has noticed.
    pub(super) fn keep(&mut self, is_wanted: impl Fn(&SocketAddr) -> bool) {
        self.unhealthy.retain(&is_wanted);
        self.draining.retain(&is_wanted);
    }

    /// The backend's bits of `STATE_*`.
    pub(super) fn state(&self, address: &SocketAddr) -> u32 {
        let mut state = 0;
        if self.unhealthy.contains(address) {
            state |= STATE_UNHEALTHY;
        }
        if self.draining.contains(address) {
            state |= STATE_DRAINING;
        }
        state
    }
}

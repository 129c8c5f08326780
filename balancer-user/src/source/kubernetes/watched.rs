//! Which kinds of objects the agent hears of, for the metrics.
//!
//! Every watch has a mark here for as long as it is followed. Set by `watch`; read by `metrics`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The watches that are followed; clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Watched(Arc<Mutex<BTreeMap<&'static str, Counted>>>);

/// The watches of one kind.
#[derive(Debug, Clone, Copy, Default)]
struct Counted {
    followed: usize,
    up: usize,
}

impl Watched {
    /// The kinds that are watched, and whether all watches of each are up.
    pub fn by_kind(&self) -> Vec<(&'static str, bool)> {
        let counted = self.lock();
        let kinds = counted.iter().filter(|(_, kind)| kind.followed > 0);
        kinds
            .map(|(name, kind)| (*name, kind.up == kind.followed))
            .collect()
    }

    /// Marks another watch of a kind: down, since it has told nothing yet.
    pub(crate) fn follow(&self, kind: &'static str) -> Mark {
        self.lock().entry(kind).or_default().followed += 1;
        Mark {
            watched: self.clone(),
            kind,
            is_up: false,
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Counted>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The mark of one watch; it goes with the watch.
#[derive(Debug)]
pub(crate) struct Mark {
    watched: Watched,
    kind: &'static str,
    is_up: bool,
}

impl Mark {
    /// Marks the watch as up or down. Gives whether it was not.
    pub(crate) fn set(&mut self, is_up: bool) -> bool {
        if std::mem::replace(&mut self.is_up, is_up) == is_up {
            return false;
        }
        let mut counted = self.watched.lock();
        let kind = counted.entry(self.kind).or_default();
        match is_up {
            true => kind.up += 1,
            false => kind.up -= 1,
        }
        true
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.set(false);
        self.watched.lock().entry(self.kind).or_default().followed -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_up_while_all_its_watches_are() {
        let watched = Watched::default();
        assert_eq!(watched.by_kind(), []);
        let mut service = watched.follow("Service");
        let (mut pod, mut other) = (watched.follow("Pod"), watched.follow("Pod"));
        assert_eq!(watched.by_kind(), [("Pod", false), ("Service", false)]);
        assert!(service.set(true) && pod.set(true));
        assert!(!pod.set(true));
        assert_eq!(watched.by_kind(), [("Pod", false), ("Service", true)]);
        other.set(true);
        assert_eq!(watched.by_kind(), [("Pod", true), ("Service", true)]);
        pod.set(false);
        assert_eq!(watched.by_kind(), [("Pod", false), ("Service", true)]);
        drop(pod);
        assert_eq!(watched.by_kind(), [("Pod", true), ("Service", true)]);
        drop((other, service));
        assert_eq!(watched.by_kind(), []);
    }
}

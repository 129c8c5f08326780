//! The judge of `strategy: adaptive`: which of the other strategies should be in force, and why.
//!
//! The judge is pure: it is handed what was measured of one service since the last look, and the
//! time (`watch` measures, and passes verdicts on). It never chooses what only a person can ask
//! for: affinity (`consistent-hash`), a leader, or weights. One judge per service.
//!
//! `rules` says what fits what; this file makes up its mind slowly. A change takes
//! [`LOOKS_TO_CHANGE`] looks in a row that agree, and [`DWELL`] since the last change. Besides, each
//! strategy is left at another threshold than it is entered. So noise changes nothing, and nothing
//! changes more often than once per dwell, whatever is measured.

use std::time::{Duration, Instant};

use crate::model::Strategy;

mod reason;
mod rules;
#[cfg(test)]
mod tests;
mod watch;

pub use reason::Reason;
pub use rules::{
    BUSY_FROM_INFLIGHT, ENOUGH_COMPLETIONS, EVEN_BELOW_SPREAD, FEW_UP_TO_BACKENDS,
    MANY_ABOVE_BACKENDS, QUIET_BELOW_INFLIGHT, STEADY_BELOW_CV2, UNEVEN_ABOVE_SPREAD,
    VARIABLE_ABOVE_CV2,
};
pub use watch::{Verdicts, Watch};

/// Looks in a row that must ask for the same other strategy before it is put in force.
pub const LOOKS_TO_CHANGE: u32 = 3;

/// How long a strategy stays in force at least.
pub const DWELL: Duration = Duration::from_secs(30);

/// What was measured of one service between two looks. What is not a number counts as not measured.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Measured {
    /// Backends that may be picked.
    pub backends: u32,
    /// Whether `max_inflight` is not 0.
    pub is_limited: bool,
    /// Slots taken of those granted, averaged: 0 to 1. 0 when unlimited.
    pub utilisation: f64,
    /// Slots taken on each backend, averaged.
    pub inflight_per_backend: f64,
    /// Slots given back after use since the last look.
    pub completions: u64,
    /// How long a slot was held, on average.
    pub hold_mean: Option<Duration>,
    /// Squared coefficient of variation of how long a slot was held: variance / mean². 0 when it
    /// is always as long, 1 when it is exponential.
    pub hold_cv2: Option<f64>,
    /// How much slower the slow backends are than the fast ones: the 90th percentile of backends'
    /// mean response times over the 10th, of those measured. 1 when all are alike.
    pub response_spread: Option<f64>,
}

/// What should be in force, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    /// Never [`Strategy::Adaptive`].
    pub in_force: Strategy,
    /// Since when it is.
    pub since: Instant,
    /// What speaks for it. While something else is asked for, what last spoke for it.
    pub why: Reason,
    /// What may come next.
    pub next: Option<Candidate>,
    /// Whether this look put it in force.
    pub changed: bool,
    /// What this look was at.
    pub measured: Measured,
}

/// A strategy that looks ask for but that is not in force.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Which one.
    pub strategy: Strategy,
    /// What speaks for it.
    pub why: Reason,
    /// How many looks in a row have asked for it.
    pub looks: u32,
}

/// Judges one service.
#[derive(Clone, Debug)]
pub struct Judge {
    in_force: Strategy,
    since: Instant,
    why: Reason,
    next: Option<Candidate>,
}

impl Judge {
    /// A judge that has seen nothing yet: `idle-first` is in force, for a dwell at least.
    pub fn new(now: Instant) -> Self {
        Self {
            in_force: Strategy::IdleFirst,
            since: now,
            why: Reason::NothingYet,
            next: None,
        }
    }

    /// Takes a look. Looks a second or more apart are meant; closer ones harm nothing.
    pub fn look(&mut self, measured: &Measured, now: Instant) -> Verdict {
        let (strategy, why) = rules::advise(measured, self.in_force);
        let mut changed = false;
        if strategy == self.in_force {
            self.why = why;
            self.next = None;
        } else {
            let next = self.ask(strategy, why);
            let age = now.saturating_duration_since(self.since);
            changed = next.looks >= LOOKS_TO_CHANGE && age >= DWELL;
            if changed {
                (self.in_force, self.since, self.why) = (strategy, now, why);
                self.next = None;
            }
        }
        Verdict {
            in_force: self.in_force,
            since: self.since,
            why: self.why,
            next: self.next,
            changed,
            measured: *measured,
        }
    }

    /// Counts a look that asks for what is not in force.
    fn ask(&mut self, strategy: Strategy, why: Reason) -> Candidate {
        let before = self.next.filter(|next| next.strategy == strategy);
        let looks = before.map_or(0, |next| next.looks).saturating_add(1);
        *self.next.insert(Candidate {
            strategy,
            why,
            looks,
        })
    }
}

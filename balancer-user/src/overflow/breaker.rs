//! The breaker of a whole service, for admission by request: opened by server errors in a row.
//!
//! The breakers of backends, which connect failures open, are in the kernel
//! (`balancer_common::breaker`).

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::model::BreakerSettings;

/// One service's breaker.
#[derive(Debug, Default)]
pub struct ServiceBreaker(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    opened_at: Option<Instant>,
    /// Since when one request tries whether the service has recovered.
    trial_since: Option<Instant>,
}

/// What a response did to the breaker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// It is open from now on.
    Opened,
    /// It is closed again.
    Closed,
}

impl ServiceBreaker {
    /// Whether a request may pass. Of all who ask once the time is up, one may; if nothing is
    /// heard of it for as long again, another.
    pub fn admits(&self, settings: &BreakerSettings) -> bool {
        let mut state = self.state();
        let open = settings.open.value;
        let Some(opened_at) = state.opened_at else {
            return true;
        };
        if settings.failures.value == 0 {
            *state = State::default();
            return true;
        }
        let is_tried = state
            .trial_since
            .is_some_and(|since| since.elapsed() < open);
        if opened_at.elapsed() < open || is_tried {
            return false;
        }
        state.trial_since = Some(Instant::now());
        true
    }

    /// Whether it is open, or half-open.
    pub fn is_open(&self) -> bool {
        self.state().opened_at.is_some()
    }

    /// The service answered, with a server error or not.
    pub fn answered(&self, is_error: bool, settings: &BreakerSettings) -> Change {
        let mut state = self.state();
        if !is_error {
            let was_open = state.opened_at.is_some();
            if was_open || state.failures != 0 {
                *state = State::default();
            }
            return match was_open {
                true => Change::Closed,
                false => Change::None,
            };
        }
        state.failures = state.failures.saturating_add(1);
        let most = settings.failures.value;
        if most == 0 || state.failures < most {
            return Change::None;
        }
        let was_open = state.opened_at.is_some();
        // What was under way when it opened does not prolong it; a failed trial does.
        if !was_open || state.trial_since.is_some() {
            state.opened_at = Some(Instant::now());
            state.trial_since = None;
        }
        match was_open {
            true => Change::None,
            false => Change::Opened,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::model::Setting;

    fn settings(open: Duration) -> BreakerSettings {
        BreakerSettings {
            failures: Setting::built_in(3),
            open: Setting::built_in(open),
        }
    }

    #[test]
    fn errors_in_a_row_open_it_and_an_answer_between_them_does_not() {
        let settings = settings(Duration::from_secs(3600));
        let breaker = ServiceBreaker::default();
        for is_error in [true, true, false, true, true] {
            assert_eq!(breaker.answered(is_error, &settings), Change::None);
            assert!(breaker.admits(&settings));
        }
        assert_eq!(breaker.answered(true, &settings), Change::Opened);
        assert!(!breaker.admits(&settings));
    }

    #[test]
    fn once_its_time_is_up_one_may_try_and_decides() {
        let settings = settings(Duration::ZERO);
        let breaker = ServiceBreaker::default();
        for _ in 0..3 {
            breaker.answered(true, &settings);
        }
        assert!(breaker.is_open() && breaker.admits(&settings));
        assert_eq!(breaker.answered(true, &settings), Change::None);
        assert!(breaker.is_open());
        assert!(breaker.admits(&settings));
        assert_eq!(breaker.answered(false, &settings), Change::Closed);
        assert!(!breaker.is_open());
    }

    #[test]
    fn while_one_tries_the_others_wait() {
        let long = settings(Duration::from_secs(3600));
        let breaker = ServiceBreaker::default();
        for _ in 0..3 {
            breaker.answered(true, &long);
        }
        breaker.state().opened_at = Instant::now().checked_sub(long.open.value);
        assert!(breaker.admits(&long));
        assert!(!breaker.admits(&long));
    }
}

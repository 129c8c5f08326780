//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::{
    fmt,
    sync::LazyLock,
    time::{Duration, Instant},
};

/// Names the factor by which every deadline is longer, a whole number, on machines that are slow
/// for a known reason: emulated ones.
pub const PATIENCE_VARIABLE: &str = "IDLEFIRST_PATIENCE";

static PATIENCE: LazyLock<u32> = LazyLock::new(|| match std::env::var(PATIENCE_VARIABLE) {
    Ok(text) => text
        .parse()
        .unwrap_or_else(|_| panic!("{PATIENCE_VARIABLE} is {text:?}, which is no whole number")),
    Err(_) => 1,
});

/// A condition did not come true in time; holds what was observed last.
#[derive(Debug, thiserror::Error)]
#[error("still not so after {waited:?}; last seen: {last}")]
pub struct TimedOut<E: fmt::Display> {
    /// How long was waited.
    pub waited: Duration,
    /// The last observation.
    pub last: E,
}

/// Polls until `probe` gives `Ok`, and returns its value.
///
/// The probe runs at least once, and once more after the deadline, so that a thread that was not
/// scheduled for a while does not fail without looking.
pub fn within<T, E: fmt::Display>(
    deadline: Duration,
    mut probe: impl FnMut() -> Result<T, E>,
) -> Result<T, TimedOut<E>> {
    let deadline = deadline * *PATIENCE;
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let late = begun.elapsed() >= deadline;
        match probe() {
            Ok(value) => return Ok(value),
            Err(last) if late => {
                return Err(TimedOut {
                    waited: begun.elapsed(),
                    last,
                });
            }
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(Duration::from_millis(25));
    }
}

/// [`within`] for tests: panics with the last observation when the deadline passes.
#[track_caller]
pub fn eventually<T, E: fmt::Display>(
    deadline: Duration,
    probe: impl FnMut() -> Result<T, E>,
) -> T {
    match within(deadline, probe) {
        Ok(value) => value,
        Err(timed_out) => panic!("{timed_out:#}"),
    }
}

/// Waits until `observe` gives `expected`.
#[track_caller]
pub fn eventually_eq<T: PartialEq + fmt::Debug>(
    deadline: Duration,
    expected: T,
    mut observe: impl FnMut() -> T,
) {
    eventually(deadline, || {
        let seen = observe();
        if seen == expected {
            Ok(())
        } else {
            Err(format!("{seen:?}, expected {expected:?}"))
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_value_is_returned_once_it_is_there() {
        let mut polls = 0;
        let value = eventually(Duration::from_secs(5), || {
            polls += 1;
            if polls < 3 {
                Err("too early")
            } else {
                Ok(polls)
            }
        });
        assert_eq!(value, 3);
    }

    #[test]
    #[should_panic(expected = "last seen: 7, expected 8")]
    fn a_deadline_names_what_was_seen_last() {
        eventually_eq(Duration::from_millis(5), 8, || 7);
    }
}

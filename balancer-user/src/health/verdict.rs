//! What the results of probes say about a backend, and when it is probed next.
//!
//! Pure. Called by `schedule`, which supplies chance as a fraction in `0.0..1.0`.

use std::time::{Duration, SystemTime};

use super::Health;

/// How far an interval is stretched or shrunk by chance, at most.
const JITTER: f64 = 0.1;
/// A new backend's first probe comes within this.
const SOON: Duration = Duration::from_millis(200);
/// A failure is looked into after this part of the interval.
const HASTE: u32 = 5;

/// How a probe ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The backend answered 200, or took the connection.
    Ok,
    /// It answered 429: busy, so it lives.
    Busy,
    /// It answered something else.
    Status(u16),
    /// It refused the connection.
    Refused,
    /// It could not be reached.
    Unreachable,
    /// It did not answer in time.
    TimedOut,
    /// It closed the connection without an answer, or what it sent is not HTTP.
    NoAnswer,
}

impl Outcome {
    /// Whether the backend lives.
    pub const fn is_success(self) -> bool {
        matches!(self, Self::Ok | Self::Busy)
    }

    /// The word for it in the admin API and the log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Busy => "busy",
            Self::Status(_) => "status",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed-out",
            Self::NoAnswer => "no-answer",
        }
    }
}

/// What is known about a backend's health.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// None until probes have settled it.
    pub health: Option<Health>,
    /// Probes that failed since the last that succeeded.
    pub consecutive_failures: u32,
    /// The last probe; none before the first.
    pub last: Option<LastProbe>,
}

/// A backend's last probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastProbe {
    /// How it ended.
    pub outcome: Outcome,
    /// When it ended.
    pub at: SystemTime,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// Counts a probe. Gives the backend's health if that changed, or is known for the first time.
    pub(super) fn count(&mut self, success: bool, threshold: u32) -> Option<Health> {
        if success {
            self.consecutive_failures = 0;
            return self.change_to(Health::Healthy);
        }
        self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        self.judge(threshold)
    }

    /// Judges the failures so far by another threshold.
    pub(super) fn judge(&mut self, threshold: u32) -> Option<Health> {
        if self.consecutive_failures >= threshold {
            return self.change_to(Health::Unhealthy);
        }
        None
    }

    fn change_to(&mut self, health: Health) -> Option<Health> {
        let changed = self.health != Some(health);
        self.health = Some(health);
        changed.then_some(health)
    }

    /// How long after the last probe the next one comes.
    ///
    /// Failures are looked into quickly until they settle the matter. From then on the usual
    /// interval holds: dead backends are the slow ones to probe, and many of them would take the
    /// turns of the others.
    pub(super) fn pause(&self, interval: Duration, chance: f64) -> Duration {
        let undecided = self.consecutive_failures > 0 && self.health != Some(Health::Unhealthy);
        let pause = if undecided {
            interval / HASTE
        } else {
            interval
        };
        pause.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance)
    }
}

/// How long a backend's first probe waits: anywhere in its interval if all of them start at once.
pub(super) fn first_pause(interval: Duration, all_start: bool, chance: f64) -> Duration {
    let within = if all_start {
        interval
    } else {
        interval.min(SOON)
    };
    within.mul_f64(chance)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn failures_in_a_row_make_unhealthy_and_one_success_healthy() {
        let mut report = Report::default();
        let results = [true, false, false, true, false, false, false, false, true];
        let changes = results.map(|success| report.count(success, 3));
        let mut expected = [None; 9];
        expected[0] = Some(Health::Healthy);
        expected[6] = Some(Health::Unhealthy);
        expected[8] = Some(Health::Healthy);
        assert_eq!(changes, expected);
        assert_eq!(report.consecutive_failures, 0);
    }

    #[test]
    fn a_backend_that_never_answered_is_unhealthy_after_its_failures() {
        let mut report = Report::default();
        assert_eq!(report.count(false, 2), None);
        assert_eq!(report.count(false, 2), Some(Health::Unhealthy));
    }

    #[test]
    fn a_lower_threshold_judges_at_once_and_a_higher_one_takes_nothing_back() {
        let mut report = Report::default();
        report.count(false, 3);
        assert_eq!(report.judge(1), Some(Health::Unhealthy));
        assert_eq!(report.judge(9), None);
        assert_eq!(report.health, Some(Health::Unhealthy));
    }

    #[test]
    fn failures_are_looked_into_quickly_until_the_verdict() {
        let interval = Duration::from_secs(5);
        let mut report = Report::default();
        assert_eq!(report.pause(interval, 0.5), interval);
        report.count(false, 2);
        assert_eq!(report.pause(interval, 0.5), interval / 5);
        report.count(false, 2);
        assert_eq!(report.pause(interval, 0.5), interval);
    }

    proptest! {
        #[test]
        fn pauses_keep_within_their_bounds(
            interval_ms in 10u64..3_600_000,
            chance in 0.0..1.0,
        ) {
            let interval = Duration::from_millis(interval_ms);
            let pause = Report::default().pause(interval, chance);
            prop_assert!(pause >= interval.mul_f64(0.899) && pause <= interval.mul_f64(1.101));
            prop_assert!(first_pause(interval, true, chance) <= interval);
            prop_assert!(first_pause(interval, false, chance) <= interval.min(SOON));
        }
    }
}

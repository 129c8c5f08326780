//! Why a strategy is in force, in one sentence with the figures that decided.
//!
//! Made by `rules`; read by people, in the admin API and the log.

use std::fmt;

use super::rules::{
    BUSY_FROM_INFLIGHT, ENOUGH_COMPLETIONS, EVEN_BELOW_SPREAD, QUIET_BELOW_INFLIGHT,
    STEADY_BELOW_CV2, UNEVEN_ABOVE_SPREAD, VARIABLE_ABOVE_CV2,
};

/// What speaks for a strategy. Figures are as in [`super::Measured`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// No look has been taken.
    NothingYet,
    /// There is one backend, or none.
    NoChoice {
        /// How many there are.
        backends: u32,
    },
    /// Figures would be chance.
    TooLittle {
        /// Completions since the last look.
        completions: u64,
    },
    /// Hold times are needed, and were not measured.
    Unmeasured {
        /// Completions since the last look.
        completions: u64,
    },
    /// Backends are unlike in speed.
    Uneven {
        /// `response_spread`.
        spread: f64,
    },
    /// Nothing queues at a backend.
    Limited {
        /// Slots taken of those granted.
        utilisation: f64,
    },
    /// Requests share backends, and some are far longer than others.
    Variable {
        /// `hold_cv2`.
        cv2: f64,
        /// `inflight_per_backend`.
        inflight: f64,
        /// How many there are.
        backends: u32,
    },
    /// Requests are few and alike.
    Quiet {
        /// `hold_cv2`.
        cv2: f64,
        /// `inflight_per_backend`.
        inflight: f64,
    },
    /// Neither of the last two.
    Between {
        /// `hold_cv2`.
        cv2: f64,
        /// `inflight_per_backend`.
        inflight: f64,
    },
}

impl Reason {
    /// One word for logs and labels.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::NothingYet => "nothing-yet",
            Self::NoChoice { .. } => "no-choice",
            Self::TooLittle { .. } => "too-little",
            Self::Unmeasured { .. } => "unmeasured",
            Self::Uneven { .. } => "uneven",
            Self::Limited { .. } => "limited",
            Self::Variable { .. } => "variable",
            Self::Quiet { .. } => "quiet",
            Self::Between { .. } => "between",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NothingYet => write!(out, "nothing has been measured yet"),
            Self::NoChoice { backends: 1 } => write!(out, "1 backend leaves nothing to choose"),
            Self::NoChoice { backends } => write!(out, "{backends} backends leave no choice"),
            Self::TooLittle { completions } => write!(
                out,
                "{completions} completions since the last look are too few to judge by \
                 ({ENOUGH_COMPLETIONS} are needed)"
            ),
            Self::Unmeasured { completions } => write!(
                out,
                "the variance of hold times was not measured, although there were {completions} \
                 completions"
            ),
            Self::Uneven { spread } => write!(
                out,
                "slow backends take {spread:.2} times as long to respond as fast ones, so response \
                 times decide (from above {UNEVEN_ABOVE_SPREAD:.1} until below \
                 {EVEN_BELOW_SPREAD:.1})"
            ),
            Self::Limited { utilisation } => write!(
                out,
                "backends are limited and alike, so nothing queues at them and any free slot is as \
                 good as another ({:.0} % are taken)",
                utilisation * 100.0
            ),
            Self::Variable {
                cv2,
                inflight,
                backends,
            } => write!(
                out,
                "hold times vary (squared coefficient of variation {cv2:.2}, from above \
                 {VARIABLE_ABOVE_CV2:.1} until below {STEADY_BELOW_CV2:.1}) and unlimited backends \
                 are busy ({inflight:.2} in flight on each of {backends}, from \
                 {BUSY_FROM_INFLIGHT:.1} until below {QUIET_BELOW_INFLIGHT:.1}), so load decides"
            ),
            Self::Quiet { cv2, inflight } => write!(
                out,
                "hold times are alike (squared coefficient of variation {cv2:.2}, from below \
                 {STEADY_BELOW_CV2:.1} until above {VARIABLE_ABOVE_CV2:.1}) and unlimited backends \
                 are quiet ({inflight:.2} in flight on each, from below {QUIET_BELOW_INFLIGHT:.1} \
                 until {BUSY_FROM_INFLIGHT:.1}), so taking turns is enough"
            ),
            Self::Between { cv2, inflight } => write!(
                out,
                "hold times (squared coefficient of variation {cv2:.2}) and load ({inflight:.2} in \
                 flight on each backend) speak neither for taking turns nor for the least loaded"
            ),
        }
    }
}

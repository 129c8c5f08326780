//! Why something was refused: one word each, the same in headers, metrics, API and logs.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The cause of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reason {
    /// As many wait already as may.
    QueueFull,
    /// No slot came free in time.
    QueueTimeout,
    /// Every attempt at an upstream connection failed.
    RetriesExhausted,
    /// The service has no backend, or none that is healthy.
    NoBackends,
    /// The breaker of the service, or of all its backends, is open.
    BreakerOpen,
    /// The service's rate limit is used up.
    RateLimited,
}

impl Reason {
    /// Every reason; a reason's place here is its index in tables.
    pub const ALL: [Self; 6] = [
        Self::QueueFull,
        Self::QueueTimeout,
        Self::RetriesExhausted,
        Self::NoBackends,
        Self::BreakerOpen,
        Self::RateLimited,
    ];

    /// Its word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::QueueTimeout => "queue-timeout",
            Self::RetriesExhausted => "retries-exhausted",
            Self::NoBackends => "no-backends",
            Self::BreakerOpen => "breaker-open",
            Self::RateLimited => "rate-limited",
        }
    }

    /// One sentence for people.
    pub const fn detail(self) -> &'static str {
        match self {
            Self::QueueFull => "every backend is busy, and as many requests wait as may",
            Self::QueueTimeout => "every backend stayed busy for as long as a request may wait",
            Self::RetriesExhausted => "no backend that was tried could be connected to",
            Self::NoBackends => "the service has no healthy backend",
            Self::BreakerOpen => "the backends failed too often and are given a rest",
            Self::RateLimited => "the service's rate limit is used up",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(self.as_str())
    }
}

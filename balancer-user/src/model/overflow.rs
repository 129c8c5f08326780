//! What a service does when no backend is available, and what protects it from overload.
//!
//! Sources set these; `reconcile` puts what the programs need into the kernel; `overflow` goes by
//! the rest. Defaults are the contract's.

use std::time::Duration;

use super::{Setting, strategy::words};

/// The queue of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueSettings {
    /// Waiters at most; 0: nobody waits.
    pub size: Setting<u32>,
    /// Waiting time at most.
    pub timeout: Setting<QueueTimeout>,
    /// Attempts at an upstream connection at most, 1 or more.
    pub attempts: Setting<u32>,
    /// How often waiters look for a slot unasked: only a net under lost wake-ups.
    pub tick: Setting<Duration>,
    /// Whether newcomers may take a free slot before those who wait.
    pub overtaking: Setting<bool>,
    /// Who refuses what finds the queue full.
    pub refuse: Setting<Refuse>,
    /// Whether the size follows the load.
    pub adaptive: Setting<bool>,
}

/// How long a waiter waits at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueTimeout {
    /// This long.
    Fixed(Duration),
    /// As the measured service time suggests.
    Auto,
}

words! {
    /// Who refuses what finds the queue full.
    Refuse, "queue.refuse" {
        /// The agent, which says why.
        #[default]
        Agent = "agent",
        /// The kernel, in `connect()`, at no cost to the agent.
        Kernel = "kernel",
    }
}

words! {
    /// What the kernel does with what it would send to an agent that is gone.
    OnAgentLoss, "on_agent_loss" {
        /// Steers it to the least loaded healthy backend, even if that is full.
        #[default]
        OverAdmit = "over-admit",
        /// Refuses it.
        Refuse = "refuse",
    }
}

/// A token bucket: connects (with admission `request`: requests) that a service takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    /// Tokens a second, 1 to [`super::MAX_RATE_PER_SECOND`].
    pub per_second: u32,
    /// Tokens that can be saved up, 1 to [`super::MAX_RATE_BURST`].
    pub burst: u32,
}

/// The breaker of each backend of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerSettings {
    /// Consecutive failures that open it; 0: it never opens.
    pub failures: Setting<u32>,
    /// How long it stays open before one trial is let through.
    pub open: Setting<Duration>,
}

impl Default for QueueSettings {
    fn default() -> Self {
        Self {
            size: Setting::built_in(10),
            timeout: Setting::built_in(QueueTimeout::Fixed(Duration::from_millis(100))),
            attempts: Setting::built_in(10),
            tick: Setting::built_in(Duration::from_millis(10)),
            overtaking: Setting::built_in(false),
            refuse: Setting::built_in(Refuse::Agent),
            adaptive: Setting::built_in(false),
        }
    }
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failures: Setting::built_in(5),
            open: Setting::built_in(Duration::from_secs(30)),
        }
    }
}

//! All settings of a service together, and how one place's settings lie over another's.
//!
//! Sources read one [`Settings`] for each place that may set something, lay them on one another
//! and build services from the outcome. What a place does not set is built-in there, so nothing
//! but the origin says whether a value counts.

use std::time::Duration;

use super::{
    Admission, Affinity, BreakerSettings, HashKey, HealthSettings, Intercept, Locality,
    OnAgentLoss, Protocol, QueueSettings, RateLimit, Setting, Strategy,
};

/// The settings of a service.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings {
    /// What is spoken over its connections.
    pub protocol: Setting<Protocol>,
    /// What takes a slot.
    pub admission: Setting<Admission>,
    /// How a backend is picked.
    pub strategy: Setting<Strategy>,
    /// What keeps a client with its backend; `None`: nothing.
    pub affinity: Setting<Option<Affinity>>,
    /// Which backends come first.
    pub locality: Setting<Locality>,
    /// How long a backend that joins a running service, or is healthy again, gets less than its
    /// share; zero: not at all.
    pub slow_start: Setting<Duration>,
    /// What strategy `consistent-hash` hashes.
    pub hash: Setting<HashKey>,
    /// Whether the own addresses of backends are frontends too.
    pub intercept: Setting<Intercept>,
    /// Slots of each backend; 0 is unlimited.
    pub max_inflight: Setting<u32>,
    /// Where what finds no available backend waits.
    pub queue: QueueSettings,
    /// What is refused beyond a rate; `None`: nothing.
    pub rate_limit: Setting<Option<RateLimit>>,
    /// What happens to overflow while the agent is gone.
    pub on_agent_loss: Setting<OnAgentLoss>,
    /// How backends are probed.
    pub health: HealthSettings,
    /// When a backend is shut out for failing.
    pub breaker: BreakerSettings,
}

impl Settings {
    /// These, and `below` wherever they are built-in.
    #[must_use]
    pub fn over(&self, below: &Self) -> Self {
        Self {
            protocol: self.protocol.over(below.protocol),
            admission: self.admission.over(below.admission),
            strategy: self.strategy.over(below.strategy),
            affinity: self.affinity.clone().over(below.affinity.clone()),
            locality: self.locality.over(below.locality),
            slow_start: self.slow_start.over(below.slow_start),
            hash: self.hash.clone().over(below.hash.clone()),
            intercept: self.intercept.over(below.intercept),
            max_inflight: self.max_inflight.over(below.max_inflight),
            queue: self.queue.over(&below.queue),
            rate_limit: self.rate_limit.over(below.rate_limit),
            on_agent_loss: self.on_agent_loss.over(below.on_agent_loss),
            health: self.health.over(&below.health),
            breaker: self.breaker.over(&below.breaker),
        }
    }
}

impl QueueSettings {
    fn over(&self, below: &Self) -> Self {
        Self {
            size: self.size.over(below.size),
            timeout: self.timeout.over(below.timeout),
            attempts: self.attempts.over(below.attempts),
            tick: self.tick.over(below.tick),
            overtaking: self.overtaking.over(below.overtaking),
            refuse: self.refuse.over(below.refuse),
            adaptive: self.adaptive.over(below.adaptive),
        }
    }
}

impl HealthSettings {
    fn over(&self, below: &Self) -> Self {
        Self {
            probe: self.probe.or(below.probe),
            path: self.path.clone().over(below.path.clone()),
            interval: self.interval.over(below.interval),
            timeout: self.timeout.over(below.timeout),
            failures: self.failures.over(below.failures),
        }
    }
}

impl BreakerSettings {
    fn over(&self, below: &Self) -> Self {
        Self {
            failures: self.failures.over(below.failures),
            open: self.open.over(below.open),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Origin, Probe};

    #[test]
    fn what_is_built_in_above_comes_from_below() {
        let mut below = Settings::default();
        below.queue.size = Setting::new(3, Origin::Defaults);
        below.health.path = Setting::new("/below".into(), Origin::Environment);
        below.health.probe = Some(Setting::new(Probe::Tcp, Origin::Defaults));
        assert_eq!(Settings::default().over(&below), below);

        let mut above = Settings::default();
        above.queue.size = Setting::new(10, Origin::Service);
        above.health.probe = Some(Setting::new(Probe::None, Origin::Function));
        let both = above.over(&below);
        assert_eq!(both.queue.size, above.queue.size);
        assert_eq!(both.health.probe, above.health.probe);
        assert_eq!(both.health.path, below.health.path);
        assert_eq!(both.breaker, BreakerSettings::default());
    }
}

//! A service's settings as the programs need them.

use std::time::Duration;

use balancer_common::{
    atomic::{load, store, store32},
    service::{
        Admission, SERVICE_AFFINITY, SERVICE_LOCAL, SERVICE_MEASURED, SERVICE_OVERTAKING,
        SERVICE_PRESENT, SERVICE_RATE_LIMITED, SERVICE_REFUSE_IN_KERNEL,
        SERVICE_REFUSE_WITHOUT_AGENT, SERVICE_WARMS_UP, Service, Strategy,
    },
};

use crate::model::{self, Locality, OnAgentLoss, RateLimit, Refuse};

/// What of a service's settings lies in its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSettings {
    strategy: Strategy,
    admission: Admission,
    flags: u32,
    queue_size: u32,
    rate_limit: Option<RateLimit>,
    breaker_failures: u32,
    breaker_open: Duration,
    affinity: Duration,
}

impl RecordSettings {
    /// Writes them; the service exists from here on.
    pub(super) fn write(&self, service: &Service) {
        let interval_ns = self.rate_limit.map_or(0, |limit| {
            (1_000_000_000 / u64::from(limit.per_second.max(1))).max(1)
        });
        let ahead = self
            .rate_limit
            .map_or(0, |limit| u64::from(limit.burst.saturating_sub(1)));
        let ahead_ns = ahead * interval_ns;
        let in_force = (
            load(&service.rate_interval_ns),
            load(&service.rate_ahead_ns),
        );
        if in_force != (interval_ns, ahead_ns) {
            // Off while it changes, so that no program sees half of it; and then without the debts
            // of the limit before.
            store32(&service.flags, self.flags & !SERVICE_RATE_LIMITED);
            store(&service.rate_full_at_ns, 0);
            store(&service.rate_ahead_ns, ahead_ns);
            store(&service.rate_interval_ns, interval_ns);
        }
        store(
            &service.breaker_open_ns,
            self.breaker_open.as_nanos() as u64,
        );
        store32(&service.breaker_failures, self.breaker_failures);
        store(&service.affinity_ns, self.affinity.as_nanos() as u64);
        store32(&service.queue_size, self.queue_size);
        store32(&service.strategy, self.strategy as u32);
        store32(&service.admission, self.admission as u32);
        store32(&service.flags, self.flags);
    }
}

impl RecordSettings {
    /// Those of a service. `in_force` is what strategy `adaptive` has chosen, if it has.
    pub(super) fn of(service: &model::Service, in_force: Option<model::Strategy>) -> Self {
        let is_adaptive = service.strategy.value == model::Strategy::Adaptive;
        let strategy = match in_force {
            Some(strategy) if is_adaptive => strategy,
            _ => service.strategy.value,
        };
        let mut flags = SERVICE_PRESENT;
        if service.queue.overtaking.value {
            flags |= SERVICE_OVERTAKING;
        }
        if service.queue.refuse.value == Refuse::Kernel {
            flags |= SERVICE_REFUSE_IN_KERNEL;
        }
        if service.rate_limit.value.is_some() {
            flags |= SERVICE_RATE_LIMITED;
        }
        if service.on_agent_loss.value == OnAgentLoss::Refuse {
            flags |= SERVICE_REFUSE_WITHOUT_AGENT;
        }
        if service.sticks().is_some() {
            flags |= SERVICE_AFFINITY;
        }
        if service.prefers() != Locality::None {
            flags |= SERVICE_LOCAL;
        }
        if !service.starts_slowly().is_zero() {
            flags |= SERVICE_WARMS_UP;
        }
        if is_adaptive || strategy == model::Strategy::LeastResponseTime {
            flags |= SERVICE_MEASURED;
        }
        Self {
            strategy: number(strategy),
            admission: match service.admission.value {
                model::Admission::Request => Admission::Request,
                _ => Admission::Connection,
            },
            flags,
            queue_size: service.queue.size.value,
            rate_limit: service.rate_limit.value,
            breaker_failures: service.breaker.failures.value,
            breaker_open: service.breaker.open.value,
            affinity: service.sticks().map_or(Duration::ZERO, |it| it.timeout),
        }
    }

    /// How a backend is chosen.
    pub(super) fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Whether the strategy goes by a table of positions.
    pub(super) fn needs_table(&self) -> bool {
        matches!(
            self.strategy,
            Strategy::WeightedRoundRobin | Strategy::ConsistentHash | Strategy::Leader
        )
    }

    /// Whether response times of its backends are measured.
    pub(super) fn is_measured(&self) -> bool {
        self.flags & SERVICE_MEASURED != 0
    }
}

/// What the programs call a strategy. Before `adaptive` has looked, it is `idle-first`.
fn number(strategy: model::Strategy) -> Strategy {
    match strategy {
        model::Strategy::IdleFirst | model::Strategy::Adaptive => Strategy::IdleFirst,
        model::Strategy::LeastConnections => Strategy::LeastConnections,
        model::Strategy::RoundRobin => Strategy::RoundRobin,
        model::Strategy::WeightedRoundRobin => Strategy::WeightedRoundRobin,
        model::Strategy::Random => Strategy::Random,
        model::Strategy::P2c => Strategy::TwoChoices,
        model::Strategy::LeastResponseTime => Strategy::LeastResponseTime,
        model::Strategy::ConsistentHash => Strategy::ConsistentHash,
        model::Strategy::Leader => Strategy::Leader,
    }
}

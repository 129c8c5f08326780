//! How a service's backends are chosen now: the strategy in force, who leads, who is bound.
//!
//! Reads what the programs go by, not what is configured; the two differ with strategy `adaptive`,
//! and for the moment that a change takes. Used by `services`, `backends` and `metrics`, which
//! thereby always say the same.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use balancer_common::{
    affinity,
    atomic::{load, load32},
    select::leader_of,
    service::{self, Backend, Tables},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, affinity::Bindings};
use crate::{
    failover,
    kernel::KernelError,
    model::{ServiceName, Strategy},
    occupancy::address,
};

/// How a service's backends are chosen now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Choice {
    /// Why strategy `adaptive` has put the one in force; null with any other, and until it has
    /// looked.
    pub strategy_reason: Option<String>,
    /// For how long that has been in force; null as above.
    pub strategy_since_ms: Option<u64>,
    /// Who leads; null if nobody can, and without strategy `leader`.
    #[schema(value_type = Option<String>)]
    pub leader: Option<SocketAddr>,
    /// Since the leader before was lost; null once a connection to the new one stands.
    pub leaderless_ms: Option<u64>,
    /// What became of leaders that were lost; null without strategy `leader`.
    pub failovers: Option<FailoverFigures>,
    /// Clients that are bound to a backend; null if the service binds none.
    pub affinity_entries: Option<usize>,
}

/// Failovers of a service since the agent started: from the loss of the leader to the first
/// connection to its successor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FailoverFigures {
    /// How many there were.
    pub count: u64,
    /// How long the last took; null if there was none.
    pub last_ms: Option<f64>,
    /// How long ago the last ended; null if there was none.
    pub last_ago_ms: Option<u64>,
    /// How long they took on average; null if there was none.
    pub average_ms: Option<f64>,
    /// How long the longest took; null if there was none.
    pub longest_ms: Option<f64>,
}

impl Choice {
    /// That of the service that has this id.
    pub(super) fn of(context: &Context, id: u32, name: &ServiceName) -> Result<Self, KernelError> {
        let tables = context.kernel.memory();
        let in_force = in_force(tables, id);
        let is_led = in_force == Some(Strategy::Leader);
        let figures = context.journal.failovers().of(name);
        let binds = tables.service(id).is_some_and(affinity::is_on);
        let reason = in_force.and_then(|it| reason(context, name, it));
        let (reason, since) = reason.unzip();
        Ok(Self {
            strategy_reason: reason,
            strategy_since_ms: since.map(|since| millis(since.elapsed())),
            leader: is_led.then(|| leader(tables, id)).flatten(),
            leaderless_ms: is_led.then(|| leaderless(tables, id)).flatten().map(millis),
            failovers: is_led.then(|| figures.map_or_else(FailoverFigures::default, Into::into)),
            affinity_entries: match binds {
                true => Some(Bindings::live(context)?.of(id).count()),
                false => None,
            },
        })
    }
}

/// The strategy in force for the service that has this id, and never `adaptive`; none if it is not
/// in the kernel, or has a strategy that this agent does not know.
pub(crate) fn in_force<T: Tables>(tables: &T, id: u32) -> Option<Strategy> {
    known(load32(&tables.service(id)?.strategy))
}

/// Why `adaptive` has put a strategy in force, and when; none for what it does not choose for, or
/// has not looked at yet.
fn reason(context: &Context, name: &ServiceName, in_force: Strategy) -> Option<(String, Instant)> {
    let verdict = context.verdicts.of(name)?;
    // It takes a moment from the verdict to the kernel.
    (verdict.in_force == in_force).then(|| (verdict.why.to_string(), verdict.since))
}

/// The strategy that the programs have this number for.
pub(super) fn known(number: u32) -> Option<Strategy> {
    Some(match service::Strategy::from_number(number)? {
        service::Strategy::IdleFirst => Strategy::IdleFirst,
        service::Strategy::LeastConnections => Strategy::LeastConnections,
        service::Strategy::RoundRobin => Strategy::RoundRobin,
        service::Strategy::WeightedRoundRobin => Strategy::WeightedRoundRobin,
        service::Strategy::Random => Strategy::Random,
        service::Strategy::TwoChoices => Strategy::P2c,
        service::Strategy::LeastResponseTime => Strategy::LeastResponseTime,
        service::Strategy::ConsistentHash => Strategy::ConsistentHash,
        service::Strategy::Leader => Strategy::Leader,
    })
}

fn leader<T: Tables>(tables: &T, id: u32) -> Option<SocketAddr> {
    let leader = leader_of(tables, id)?;
    tables.backend(leader.id).map(address)
}

fn leaderless<T: Tables>(tables: &T, id: u32) -> Option<Duration> {
    let since_ns = load(&tables.service(id)?.leaderless_since_ns);
    let ns = tables.now_ns().saturating_sub(since_ns);
    (since_ns != 0).then(|| Duration::from_nanos(ns))
}

/// Whether a backend leads any of these services; none if none of them has a leader.
pub(super) fn leads<T: Tables>(
    tables: &T,
    services: impl Iterator<Item = u32>,
    backend: &Backend,
) -> Option<bool> {
    let led = services.filter(|id| in_force(tables, *id) == Some(Strategy::Leader));
    let leads = led.map(|id| {
        let leader = leader_of(tables, id).and_then(|leader| tables.backend(leader.id));
        leader.is_some_and(|leader| std::ptr::eq(leader, backend))
    });
    leads.reduce(|one, other| one || other)
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

impl From<failover::Figures> for FailoverFigures {
    fn from(figures: failover::Figures) -> Self {
        let ms = |duration: Duration| Some(duration.as_secs_f64() * 1e3);
        Self {
            count: figures.count,
            last_ms: ms(figures.last),
            last_ago_ms: Some(millis(figures.last_at.elapsed())),
            average_ms: ms(figures.average()),
            longest_ms: ms(figures.longest),
        }
    }
}

#[cfg(test)]
mod tests {
    use balancer_common::{
        atomic::{store, store32},
        plain::Plain,
        select::Leader,
        service::STATE_UNHEALTHY,
    };

    use super::*;

    fn led_by(id: u32) -> Plain {
        let plain = Plain::one_service(&[1, 1]);
        let service = plain.service(0).unwrap();
        store32(&service.strategy, service::Strategy::Leader as u32);
        store(&service.leader, Leader { id, generation: 0 }.into_word());
        plain
    }

    #[test]
    fn every_strategy_of_the_programs_has_a_word_of_its_own() {
        let known: std::collections::BTreeSet<_> = (0..).map_while(known).collect();
        let mut words: std::collections::BTreeSet<_> = Strategy::ALL.iter().copied().collect();
        words.remove(&Strategy::Adaptive);
        assert_eq!(known, words);
    }

    #[test]
    fn who_leads_is_the_backend_elected_as_long_as_it_is_usable() {
        let plain = led_by(1);
        let leads = |id| super::leads(&plain, [0].into_iter(), plain.backend(id).unwrap());
        assert_eq!((leads(0), leads(1)), (Some(false), Some(true)));
        assert_eq!(leader(&plain, 0), plain.backend(1).map(address));
        store32(&plain.backend(1).unwrap().state, STATE_UNHEALTHY);
        assert_eq!((leads(1), leader(&plain, 0)), (Some(false), None));
        assert_eq!(
            super::leads(&plain, [].into_iter(), plain.backend(1).unwrap()),
            None
        );
        store32(&plain.service(0).unwrap().strategy, 0);
        assert_eq!(leads(1), None);
    }

    #[test]
    fn a_service_is_leaderless_since_its_leader_was_lost() {
        let plain = led_by(0);
        plain.set_now(5_000_000);
        assert_eq!(leaderless(&plain, 0), None);
        store(&plain.service(0).unwrap().leaderless_since_ns, 3_000_000);
        assert_eq!(leaderless(&plain, 0), Some(Duration::from_millis(2)));
    }
}

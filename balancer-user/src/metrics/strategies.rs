//! How the backends of each service are chosen, and what became of leaders that were lost.

use super::{definition as metric, family::Family};
use crate::{
    failover::{self, BOUNDS},
    model::{ServiceName, Strategy},
};

/// A service as its metrics show it.
pub(super) struct Chosen<'a> {
    pub(super) name: &'a ServiceName,
    /// The one in force, if this agent knows it.
    pub(super) strategy: Option<Strategy>,
    /// None if it never had one.
    pub(super) failovers: Option<failover::Figures>,
}

/// In the order of the definitions.
pub(super) fn families<'a>(services: impl Iterator<Item = Chosen<'a>>) -> [Family; 3] {
    let mut in_force = Family::new(metric::STRATEGY_IN_FORCE);
    let mut count = Family::new(metric::FAILOVERS);
    let mut time = Family::new(metric::FAILOVER_TIME);
    for service in services {
        let ServiceName { namespace, name } = service.name;
        let labels = [name.as_ref(), namespace.as_ref()];
        if let Some(strategy) = service.strategy {
            in_force.push(&[name, namespace, strategy.as_str()], 1.0);
        }
        // A counter that is there from the start shows its first increase.
        if service.strategy != Some(Strategy::Leader) && service.failovers.is_none() {
            continue;
        }
        let (total, sum) = service
            .failovers
            .map_or((0, 0.0), |it| (it.count, it.sum.as_secs_f64()));
        count.push(&labels, total as f64);
        time.push_histogram(&labels, &buckets(service.failovers), total, sum);
    }
    [in_force, count, time]
}

fn buckets(figures: Option<failover::Figures>) -> [(f64, u64); BOUNDS.len()] {
    let up_to_each = figures.map_or(BOUNDS.map(|bound| (bound, 0)), |it| it.up_to_each());
    up_to_each.map(|(bound, count)| (bound.as_secs_f64(), count))
}

//! What the agent does beside the requests: probes, caches, events, audits.

use super::{definition as metric, family::Family};
use crate::{
    admin::{CacheMetrics, Context},
    journal::Kind,
};

pub(super) fn families(context: &Context) -> [Family; 6] {
    let [lookups, hit_rate, entries] = about_caches(&CacheMetrics::of(context));
    [
        about_probes(context),
        lookups,
        hit_rate,
        entries,
        about_events(context),
        Family::single(metric::DRIFT, context.auditor.drift_total() as f64),
    ]
}

fn about_probes(context: &Context) -> Family {
    let mut probes = Family::new(metric::PROBES);
    for (result, count) in [
        ("success", context.probes.successes()),
        ("failure", context.probes.failures()),
        ("fault", context.probes.faults()),
    ] {
        probes.push(&[result], count as f64);
    }
    probes
}

fn about_caches(figures: &CacheMetrics) -> [Family; 3] {
    let mut lookups = Family::new(metric::CACHE_LOOKUPS);
    let mut hit_rate = Family::new(metric::CACHE_HIT_RATE);
    let mut entries = Family::new(metric::CACHE_ENTRIES);
    let mut add = |cache, hits: u64, misses: u64, rate, size: u64| {
        lookups.push(&[cache, "hit"], hits as f64);
        lookups.push(&[cache, "miss"], misses as f64);
        hit_rate.push(&[cache], rate);
        entries.push(&[cache], size as f64);
    };
    let caches = &figures.cache_metrics;
    for (name, cache) in [
        ("health", caches.health),
        ("stats", caches.stats),
        ("routing", caches.routing),
    ] {
        add(
            name,
            cache.hit_count,
            cache.miss_count,
            cache.hit_rate,
            cache.size,
        );
    }
    let pool = figures.pool_metrics;
    add(
        "probe_pool",
        pool.hit_count,
        pool.miss_count,
        pool.hit_rate,
        pool.size,
    );
    [lookups, hit_rate, entries]
}

fn about_events(context: &Context) -> Family {
    let mut events = Family::new(metric::EVENTS);
    let counted = |kind: &Kind| !matches!(kind, Kind::Refusal | Kind::Steer);
    for kind in Kind::ALL.into_iter().filter(counted) {
        events.push(&[kind.as_str()], context.journal.count(kind) as f64);
    }
    events
}

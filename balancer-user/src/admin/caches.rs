//! `/cache-metrics`: how often caches and pools helped, in the shape that dashboards know.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, Problem};
use crate::{
    cache::{self, CacheFigures},
    health::PoolFigures,
    overflow::RoutingFigures,
};

/// `/cache-metrics`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CacheMetrics {
    /// The caches.
    pub cache_metrics: Caches,
    /// The pool of the probes' connections.
    pub pool_metrics: PoolFigures,
}

/// How often each cache helped.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Caches {
    /// Results of probes.
    pub health: CacheFigures,
    /// Answers of `/v1/stats`.
    pub stats: CacheFigures,
    /// What the agent looked up about services when connections came to it. (What the kernel
    /// steers needs no cache: its map is one.)
    pub routing: CacheFigures,
}

impl CacheMetrics {
    /// The figures now.
    pub(crate) fn of(context: &Context) -> Self {
        Self {
            cache_metrics: Caches {
                health: context.probes.cache(),
                stats: context.stats.figures(),
                routing: routing(context.queues.routing_figures()),
            },
            pool_metrics: context.probes.pool(),
        }
    }
}

fn routing(figures: RoutingFigures) -> CacheFigures {
    CacheFigures {
        hit_count: figures.hits,
        miss_count: figures.misses,
        size: figures.size as u64,
        hit_rate: cache::rate(figures.hits, figures.misses),
    }
}

/// How often caches and pools helped.
#[utoipa::path(
    get, path = "/cache-metrics", operation_id = "get_cache_metrics", tag = "agent",
    responses(
        (status = 200, description = "The figures", body = CacheMetrics),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn cache_metrics(State(context): State<Context>) -> Json<CacheMetrics> {
    Json(CacheMetrics::of(&context))
}

//! `/v1/maps`: every BPF map, its entries decoded, ids with the names they stand for.
//!
//! Shows what the kernel has, not what the agent thinks it has; only names come from the agent.
//! Entries that are not in use are left out. (TABLES is the exception: what is in the array of a
//! service shows only in the agent's copy.)

mod entry;
mod read;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
};
use balancer_common::{
    counter::FAULT_COUNTERS,
    histogram,
    maps::{
        self, EVENT_BYTES, LISTENER_V4, LISTENER_V6, MAX_AFFINITIES, MAX_BACKENDS, MAX_BYPASSES,
        MAX_FLOWS, MAX_FRONTEND_ENTRIES, MAX_LEAVES, MAX_SERVICES,
    },
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Context, Problem, problem::Refusal};
pub use entry::MapEntry;

/// Entries shown unless the request says otherwise.
pub(super) const DEFAULT_LIMIT: usize = 1000;

/// Entries of OVERFLOW_SOCK: one per address family.
const LISTENERS: u32 = [LISTENER_V4, LISTENER_V6].len() as u32;

/// A map of the kernel side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapName {
    /// Frontend → service.
    Frontends,
    /// Services.
    Services,
    /// Positions of services, 64 by 64.
    Leaves,
    /// Backends.
    Backends,
    /// Steered sockets.
    Connections,
    /// Counters by service.
    Counters,
    /// Counters of what programs could not do.
    Faults,
    /// Histogram of the time that choosing takes.
    DecisionTime,
    /// What the programs know about the agent.
    Agent,
    /// Connections on their way to the agent.
    OverflowFlows,
    /// The agent's listeners.
    OverflowSock,
    /// Tables of positions, by service.
    Tables,
    /// Clients that are bound to a backend.
    Affinity,
    /// Cgroups whose connections are left alone.
    Bypass,
    /// What the programs tell.
    Events,
}

impl MapName {
    /// Every map.
    pub const ALL: [Self; 15] = [
        Self::Frontends,
        Self::Services,
        Self::Leaves,
        Self::Backends,
        Self::Connections,
        Self::Counters,
        Self::Faults,
        Self::DecisionTime,
        Self::Agent,
        Self::OverflowFlows,
        Self::OverflowSock,
        Self::Tables,
        Self::Affinity,
        Self::Bypass,
        Self::Events,
    ];

    /// The map's name in the kernel.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Frontends => maps::FRONTENDS,
            Self::Services => maps::SERVICES,
            Self::Leaves => maps::LEAVES,
            Self::Backends => maps::BACKENDS,
            Self::Connections => maps::CONNECTIONS,
            Self::Counters => maps::COUNTERS,
            Self::Faults => maps::FAULTS,
            Self::DecisionTime => maps::DECISION_TIME,
            Self::Agent => maps::AGENT,
            Self::OverflowFlows => maps::OVERFLOW_FLOWS,
            Self::OverflowSock => maps::OVERFLOW_SOCK,
            Self::Tables => maps::TABLES,
            Self::Affinity => maps::AFFINITY,
            Self::Bypass => maps::BYPASS,
            Self::Events => maps::EVENTS,
        }
    }

    /// Entries at most (of EVENTS: bytes); none: as many as there are sockets.
    pub const fn capacity(self) -> Option<u32> {
        match self {
            Self::Frontends => Some(MAX_FRONTEND_ENTRIES),
            Self::Services | Self::Counters | Self::Tables => Some(MAX_SERVICES),
            Self::Leaves => Some(MAX_LEAVES),
            Self::Backends => Some(MAX_BACKENDS),
            Self::Connections => None,
            Self::Faults => Some(FAULT_COUNTERS),
            Self::DecisionTime => Some(histogram::BUCKETS),
            Self::Agent => Some(1),
            Self::OverflowFlows => Some(MAX_FLOWS),
            Self::Affinity => Some(MAX_AFFINITIES),
            Self::Bypass => Some(MAX_BYPASSES),
            Self::OverflowSock => Some(LISTENERS),
            Self::Events => Some(EVENT_BYTES),
        }
    }

    const fn holds(self) -> &'static str {
        match self {
            Self::Frontends => "which service each frontend leads to",
            Self::Services => "services: how to choose, and the index of idle backends",
            Self::Leaves => "which backend stands at which position of a service",
            Self::Backends => "backends: address, slots taken and granted",
            Self::Connections => "steered sockets and the slots they hold",
            Self::Counters => "what became of each service's connects",
            Self::Faults => "what programs could not do",
            Self::DecisionTime => "how long connect programs took to choose",
            Self::Agent => "the agent's sign of life, its switches, and where it takes overflow",
            Self::OverflowFlows => "connections on their way to the agent",
            Self::OverflowSock => "the agent's listeners for overflow, by address family",
            Self::Tables => "weighted turns, Maglev tables and rankings, by service",
            Self::Affinity => "clients that are bound to a backend, lapsed ones among them",
            Self::Bypass => "cgroups whose processes are never steered",
            Self::Events => {
                "ring buffer of what the programs tell the agent: its capacity is in bytes, and what is in it is read once, by the agent"
            }
        }
    }

    /// The map of this name, in either case.
    pub(super) fn find(name: &str) -> Result<Self, Refusal> {
        let found = Self::ALL
            .into_iter()
            .find(|map| map.as_str().eq_ignore_ascii_case(name));
        found.ok_or_else(|| Refusal::NoMap {
            name: name.to_owned(),
        })
    }

    /// Every name, with commas.
    pub(super) fn listed() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

/// A row of `/v1/maps`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct MapSummary {
    /// Its name in the kernel, and under `agent.pin_path`.
    pub name: String,
    /// What it holds.
    pub holds: String,
    /// Entries in use.
    pub entries: usize,
    /// Entries at most (of EVENTS: bytes); null: as many as there are sockets.
    pub capacity: Option<u32>,
}

/// `/v1/maps/{name}`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MapDump {
    /// Its name in the kernel.
    pub name: String,
    /// Entries in use.
    pub total: usize,
    /// Whether some of them are left out below.
    pub truncated: bool,
    /// What is in it. Bitmaps are hexadecimal: bit 0 is the lowest position.
    pub entries: Vec<MapEntry>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Parameters {
    /// So many entries at most; 1000 if not given.
    pub(super) limit: Option<usize>,
}

/// Every map, with how full it is.
#[utoipa::path(
    get, path = "/v1/maps", operation_id = "list_maps", tag = "maps",
    responses(
        (status = 200, description = "The maps", body = Vec<MapSummary>),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn list(State(context): State<Context>) -> Result<Json<Vec<MapSummary>>, Refusal> {
    let summaries = context.read(|context, _| {
        let maps = MapName::ALL.into_iter();
        maps.map(|name| summary(context, name))
            .collect::<Result<Vec<_>, Refusal>>()
    });
    Ok(Json(summaries.await??))
}

fn summary(context: &Context, name: MapName) -> Result<MapSummary, Refusal> {
    Ok(MapSummary {
        name: name.as_str().to_owned(),
        holds: name.holds().to_owned(),
        entries: read::entries(context, name, 0)?.total,
        capacity: name.capacity(),
    })
}

/// What is in one map.
#[utoipa::path(
    get, path = "/v1/maps/{name}", operation_id = "get_map", tag = "maps",
    params(("name" = String, Path, description = "The map's name, in either case"), Parameters),
    responses(
        (status = 200, description = "Its entries", body = MapDump),
        (status = 404, response = Problem),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn one(
    State(context): State<Context>,
    name: Result<Path<String>, PathRejection>,
    parameters: Result<Query<Parameters>, QueryRejection>,
) -> Result<Json<MapDump>, Refusal> {
    let name = MapName::find(&name?)?;
    let limit = parameters?.0.limit.unwrap_or(DEFAULT_LIMIT);
    let found = context
        .read(move |context, _| read::entries(context, name, limit))
        .await??;
    Ok(Json(MapDump {
        name: name.as_str().to_owned(),
        total: found.total,
        truncated: found.total > found.shown.len(),
        entries: found.shown,
    }))
}

//! `/v1/backends`: every backend in the kernel, and those that have left their services but still
//! hold connections.

use std::{net::SocketAddr, time::UNIX_EPOCH};

use axum::{Json, extract::State};
use balancer_common::{
    atomic::{load, load32},
    service::{Backend, Tables},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, Problem, problem::Refusal};
use crate::{
    health::{self, Outcome, Report},
    model::DesiredState,
    occupancy::{BackendIds, BackendState, Names, address, granted, memberships},
};

/// A row of `/v1/backends`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct BackendRow {
    /// `IP:PORT`.
    #[schema(value_type = String)]
    pub address: SocketAddr,
    /// `NAMESPACE/NAME` of each service that it serves; none if it only ends what it has.
    pub services: Vec<String>,
    /// What it is doing.
    pub state: BackendState,
    /// Slots taken.
    pub inflight: u64,
    /// How many slots this node may hand out now; null: no limit.
    pub granted: Option<u32>,
    /// The tightest limit of its services; 0: no limit.
    pub max_inflight: u32,
    /// Its share in weighted strategies.
    pub weight: u32,
    /// Moving average of its response time; null until it is measured.
    pub response_time_us: Option<u64>,
    /// Consecutive connect failures; so many as its breaker allows shut it out.
    pub failures: u32,
    /// Its last health probe; null if it is not probed, or not yet.
    pub last_probe: Option<LastProbe>,
    /// Connects steered to it.
    pub steered: u64,
    /// The node that it runs on, if the source says.
    pub node: Option<String>,
    /// That node's zone, if the source says.
    pub zone: Option<String>,
}

/// How a backend's last probe ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LastProbe {
    /// `ok`, `busy`, `status`, `refused`, `unreachable`, `timed-out` or `no-answer`.
    pub outcome: String,
    /// What the backend answered, if that was neither 200 nor 429.
    pub status: Option<u16>,
    /// Probes that failed since the last that succeeded.
    pub failures: u32,
    /// How long it took, in milliseconds.
    pub took_ms: f64,
    /// When it ended: seconds since 1970.
    pub at: u64,
}

impl LastProbe {
    fn of(report: Report) -> Option<Self> {
        let probe = report.last?;
        let since_1970 = probe.at.duration_since(UNIX_EPOCH).unwrap_or_default();
        Some(Self {
            outcome: probe.outcome.as_str().to_owned(),
            status: match probe.outcome {
                Outcome::Status(status) => Some(status),
                _ => None,
            },
            failures: report.consecutive_failures,
            took_ms: probe.took.as_secs_f64() * 1e3,
            at: since_1970.as_secs(),
        })
    }
}

/// Every backend, by address.
#[utoipa::path(
    get, path = "/v1/backends", operation_id = "list_backends", tag = "backends",
    responses(
        (status = 200, description = "The backends", body = Vec<BackendRow>),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn list(State(context): State<Context>) -> Result<Json<Vec<BackendRow>>, Refusal> {
    let rows = context.read(|context, snapshot| {
        let (names, ids) = {
            let assignment = context.progress.assignment();
            (Names::of(&assignment), BackendIds::of(&assignment))
        };
        Rows::new(context, &names, &snapshot.desired).all(context.kernel.memory(), &ids)
    });
    Ok(Json(rows.await?))
}

/// Makes rows out of records.
pub(super) struct Rows<'a> {
    names: &'a Names,
    desired: &'a DesiredState,
    health: &'a health::Handle,
}

impl<'a> Rows<'a> {
    pub(super) fn new(context: &'a Context, names: &'a Names, desired: &'a DesiredState) -> Self {
        Self {
            names,
            desired,
            health: &context.health,
        }
    }

    pub(super) fn by_address(&self, rows: impl Iterator<Item = BackendRow>) -> Vec<BackendRow> {
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| row.address);
        rows
    }

    fn all<T: Tables>(&self, tables: &T, ids: &BackendIds) -> Vec<BackendRow> {
        let row = |(address, id): &(SocketAddr, u32)| {
            let row = self.row(tables.backend(*id)?);
            // Otherwise the id has come to stand for another backend since it was looked up.
            (row.address == *address).then_some(row)
        };
        let leaving = ids.leaving.iter().filter_map(row).filter_map(|mut row| {
            row.state = BackendState::Draining;
            row.services.clear();
            (row.inflight > 0).then_some(row)
        });
        self.by_address(ids.assigned.iter().filter_map(row).chain(leaving))
    }

    pub(super) fn row(&self, record: &Backend) -> BackendRow {
        let services = memberships(record)
            .filter_map(|(service, _)| self.names.get(service))
            .map(|named| &named.name);
        let limits = services
            .clone()
            .filter_map(|name| self.desired.services.get(name))
            .map(|service| service.max_inflight.value)
            .filter(|limit| *limit != 0);
        let response_time_ns = load(&record.response_time_ns);
        let address = address(record);
        BackendRow {
            address,
            services: services.clone().map(ToString::to_string).collect(),
            state: BackendState::of(record),
            inflight: record.inflight(),
            granted: granted(record),
            max_inflight: limits.min().unwrap_or(0),
            weight: load32(&record.weight),
            response_time_us: (response_time_ns != 0).then_some(response_time_ns / 1_000),
            failures: load32(&record.failures),
            last_probe: self.health.health_of(address).and_then(LastProbe::of),
            steered: load(&record.steered),
            node: None,
            zone: None,
        }
    }
}

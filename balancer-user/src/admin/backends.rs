//! `/v1/backends`: every backend in the kernel, and those that have left their services but still
//! hold connections.

use std::{collections::HashMap, net::SocketAddr, time::UNIX_EPOCH};

use axum::{Json, extract::State};
use balancer_common::{
    atomic::{load, load32},
    response,
    service::{Backend, Tables},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, Problem, problem::Refusal, strategy};
use crate::{
    health::{self, Outcome, Report},
    kernel::Memory,
    model::{self, DesiredState},
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
    /// Whether it leads a service; null if none of its services has strategy `leader`.
    pub is_leader: Option<bool>,
    /// Until it gets its full share (`slow_start`); null if it does.
    pub warming_up_ms: Option<u64>,
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
        Rows::new(context, &names, &snapshot.desired).all(&ids)
    });
    Ok(Json(rows.await?))
}

/// Makes rows out of records.
pub(super) struct Rows<'a, T = Memory> {
    tables: &'a T,
    names: &'a Names,
    desired: &'a DesiredState,
    health: &'a health::Handle,
    /// Of the backends whose node or zone the source says.
    places: HashMap<SocketAddr, &'a model::Backend>,
}

impl<'a> Rows<'a> {
    pub(super) fn new(context: &'a Context, names: &'a Names, desired: &'a DesiredState) -> Self {
        Self::over(context.kernel.memory(), names, desired, &context.health)
    }
}

impl<'a, T: Tables> Rows<'a, T> {
    fn over(
        tables: &'a T,
        names: &'a Names,
        desired: &'a DesiredState,
        health: &'a health::Handle,
    ) -> Self {
        let backends = desired.services.values().flat_map(|it| &it.backends);
        let placed = backends.filter(|it| it.node.is_some() || it.zone.is_some());
        Self {
            tables,
            names,
            desired,
            health,
            places: placed.map(|it| (it.address, it)).collect(),
        }
    }

    pub(super) fn by_address(&self, rows: impl Iterator<Item = BackendRow>) -> Vec<BackendRow> {
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| row.address);
        rows
    }

    fn all(&self, ids: &BackendIds) -> Vec<BackendRow> {
        let row = |(address, id): &(SocketAddr, u32)| {
            let row = self.row(self.tables.backend(*id)?);
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
        let (response_time_ns, measured_at_ns) = response::read(record);
        let address = address(record);
        let place = self.places.get(&address);
        BackendRow {
            address,
            services: services.clone().map(ToString::to_string).collect(),
            state: BackendState::of(record),
            inflight: record.inflight(),
            granted: granted(record),
            max_inflight: limits.min().unwrap_or(0),
            weight: load32(&record.weight),
            response_time_us: (measured_at_ns != 0).then_some(response_time_ns / 1_000),
            failures: load32(&record.failures),
            last_probe: self.health.health_of(address).and_then(LastProbe::of),
            steered: load(&record.steered),
            node: place.and_then(|it| it.node.as_deref()).map(str::to_owned),
            zone: place.and_then(|it| it.zone.as_deref()).map(str::to_owned),
            is_leader: strategy::leads(self.tables, memberships(record).map(|it| it.0), record),
            warming_up_ms: warming_up_ms(record, self.tables.now_ns()),
        }
    }
}

/// Until the backend gets its full share; none if it does.
fn warming_up_ms(record: &Backend, now_ns: u64) -> Option<u64> {
    let left_ns = load(&record.warm_at_ns).saturating_sub(now_ns);
    (left_ns != 0).then(|| left_ns.div_ceil(1_000_000))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use balancer_common::{
        atomic::{store, store32},
        plain::Plain,
    };

    use super::*;
    use crate::{health::Prober, model::Service, occupancy::Named};

    #[test]
    fn a_row_says_how_fast_where_and_for_how_long_not_whole() {
        let plain = Plain::one_service(&[1, 1]);
        plain.set_now(Duration::from_secs(1).as_nanos() as u64);
        let measured = plain.backend(0).unwrap();
        store32(&measured.weight, 5);
        response::record(measured, 2_500_000, 7);
        store(&measured.warm_at_ns, 1_001_500_000);
        let name: model::ServiceName = "ns/hello".parse().unwrap();
        let mut service = Service::named(name.clone());
        service.backends = vec![model::Backend {
            node: Some("n1".into()),
            zone: Some("z1".into()),
            ..model::Backend::at(address(measured))
        }];
        let desired = DesiredState::from_iter([service]);
        let frontends = Default::default();
        let names = [(0, Named { name, frontends })].into_iter().collect();
        let prober = Prober::new(Default::default(), 10);
        let health = prober.handle();
        let rows = Rows::over(&plain, &names, &desired, &health);
        let row = rows.row(measured);
        assert_eq!((row.weight, row.response_time_us), (5, Some(2_500)));
        assert_eq!(row.node.as_deref(), Some("n1"));
        assert_eq!(row.zone.as_deref(), Some("z1"));
        assert_eq!((row.warming_up_ms, row.is_leader), (Some(2), None));
        let unmeasured = rows.row(plain.backend(1).unwrap());
        assert_eq!(unmeasured.response_time_us, None);
        assert_eq!(unmeasured.warming_up_ms, None);
    }
}

//! `/v1/services`: the services in the kernel, how busy they are, and where their settings
//! come from.

use std::net::SocketAddr;

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use balancer_common::{
    counter::{ServiceCounter, ServiceCounters},
    service::Tables,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    BackendRow, Choice, Context, Problem, Settings,
    backends::Rows,
    problem::{Refusal, service_at},
    strategy,
};
use crate::{
    model::{Admission, DesiredState, Protocol, Service, ServiceName, Strategy},
    occupancy::{Named, Names, Occupancy, members},
    state::{ObjectProblem, Snapshot},
};

/// What a service is.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServiceFacts {
    /// Its namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub name: String,
    /// What is intercepted: `IP:PORT` each.
    #[schema(value_type = Vec<String>)]
    pub frontends: Vec<SocketAddr>,
    /// What is spoken over its connections.
    #[schema(value_type = String)]
    pub protocol: Protocol,
    /// What takes a slot.
    #[schema(value_type = String)]
    pub admission: Admission,
    /// How a backend is to be picked.
    #[schema(value_type = String)]
    pub strategy: Strategy,
    /// How one is picked now: with strategy `adaptive`, one of the others.
    #[schema(value_type = String)]
    pub strategy_in_force: Strategy,
    /// Slots of each backend; 0: no limit.
    pub max_inflight: u32,
}

/// A row of `/v1/services`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServiceSummary {
    /// What it is.
    #[serde(flatten)]
    pub facts: ServiceFacts,
    /// How many backends it has.
    pub backends: u32,
    /// How busy they are.
    #[serde(flatten)]
    pub occupancy: Occupancy,
}

/// `/v1/services/{namespace}/{name}`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ServiceDetail {
    /// What it is.
    #[serde(flatten)]
    pub facts: ServiceFacts,
    /// How its backends are chosen now.
    #[serde(flatten)]
    pub choice: Choice,
    /// How busy its backends are.
    #[serde(flatten)]
    pub occupancy: Occupancy,
    /// Its settings, and where each came from.
    pub settings: Settings,
    /// What became of connects so far.
    pub counters: Counts,
    /// Its backends.
    pub backends: Vec<BackendRow>,
    /// What is wrong with the objects that it comes from; their last good state is in force.
    pub config_errors: Vec<ObjectProblem>,
}

/// What became of a service's connects since it came into the kernel, as the programs counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    /// Steered to a backend that was idle.
    pub idle: u64,
    /// Steered to a backend that was serving already.
    pub shared: u64,
    /// Steered to a backend whose breaker was half-open, to try it.
    pub trials: u64,
    /// Steered to a full backend, because the agent was gone.
    pub over_admitted: u64,
    /// Sent to the agent, which then decided.
    pub sent: u64,
    /// Refused in `connect()`: the four below together.
    pub refused: u64,
    /// Refused by the rate limit.
    pub rate_limited: u64,
    /// Refused because no backend was available and as many waited as may.
    pub queue_full: u64,
    /// Refused because the agent was gone.
    pub agent_gone: u64,
    /// Refused because the service has no backends.
    pub no_backends: u64,
    /// Steered, but never established.
    pub connect_failures: u64,
    /// Backends that the programs shut out after such failures.
    pub ejections: u64,
    /// Slots given back.
    pub released: u64,
    /// For how long those had been held, all together.
    pub held_ms: u64,
}

impl Counts {
    /// Those that were steered to a backend.
    pub fn steered(&self) -> u64 {
        self.idle + self.shared + self.trials + self.over_admitted
    }
}

impl From<ServiceCounters> for Counts {
    fn from(row: ServiceCounters) -> Self {
        let count = |counter: ServiceCounter| row[counter as usize];
        let rate_limited = count(ServiceCounter::RateLimited);
        let queue_full = count(ServiceCounter::QueueFull);
        let agent_gone = count(ServiceCounter::AgentGone);
        let no_backends = count(ServiceCounter::NoBackends);
        Self {
            idle: count(ServiceCounter::Idle),
            shared: count(ServiceCounter::Shared),
            trials: count(ServiceCounter::Trial),
            over_admitted: count(ServiceCounter::OverAdmitted),
            sent: count(ServiceCounter::Sent),
            refused: rate_limited + queue_full + agent_gone + no_backends,
            rate_limited,
            queue_full,
            agent_gone,
            no_backends,
            connect_failures: count(ServiceCounter::ConnectFailed),
            ejections: count(ServiceCounter::Ejected),
            released: count(ServiceCounter::Released),
            held_ms: count(ServiceCounter::HeldNs) / 1_000_000,
        }
    }
}

/// Every service in the kernel, by namespace and name.
#[utoipa::path(
    get, path = "/v1/services", operation_id = "list_services", tag = "services",
    responses(
        (status = 200, description = "The services", body = Vec<ServiceSummary>),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn list(
    State(context): State<Context>,
) -> Result<Json<Vec<ServiceSummary>>, Refusal> {
    let rows = context.read(|context, snapshot| {
        let names = Names::of(&context.progress.assignment());
        summaries(context.kernel.memory(), &names, &snapshot.desired)
    });
    Ok(Json(rows.await?))
}

fn summaries<T: Tables>(tables: &T, names: &Names, desired: &DesiredState) -> Vec<ServiceSummary> {
    // What is in the kernel but wanted no more is gone in a moment.
    let placed = names.by_name().into_iter().filter_map(|(id, named)| {
        let service = desired.service(&named.name)?;
        Some((id, named, service))
    });
    placed
        .map(|(id, named, service)| ServiceSummary {
            facts: facts(tables, id, service, named),
            backends: members(tables, id).count() as u32,
            occupancy: Occupancy::of(tables, id),
        })
        .collect()
}

fn facts<T: Tables>(tables: &T, id: u32, service: &Service, placed: &Named) -> ServiceFacts {
    ServiceFacts {
        namespace: service.name.namespace.to_string(),
        name: service.name.name.to_string(),
        frontends: placed.frontends.iter().copied().collect(),
        protocol: service.protocol.value,
        admission: service.admission.value,
        strategy: service.strategy.value,
        strategy_in_force: strategy::in_force(tables, id).unwrap_or(service.strategy.value),
        max_inflight: service.max_inflight.value,
    }
}

/// One service, with its settings, counters and backends.
#[utoipa::path(
    get, path = "/v1/services/{namespace}/{name}", operation_id = "get_service", tag = "services",
    params(
        ("namespace" = String, Path, description = "The service's namespace"),
        ("name" = String, Path, description = "The service's name"),
    ),
    responses(
        (status = 200, description = "The service", body = ServiceDetail),
        (status = 404, response = Problem),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn one(
    State(context): State<Context>,
    name: Result<Path<(String, String)>, PathRejection>,
) -> Result<Json<ServiceDetail>, Refusal> {
    let Path((namespace, name)) = name?;
    let name = service_at(&namespace, &name)?;
    let detail = context.read(move |context, snapshot| detail(context, snapshot, name));
    Ok(Json(detail.await??))
}

fn detail(
    context: &Context,
    snapshot: &Snapshot,
    name: ServiceName,
) -> Result<ServiceDetail, Refusal> {
    let Some(service) = snapshot.desired.service(&name) else {
        return Err(Refusal::NoService(name));
    };
    let tables = context.kernel.memory();
    let names = Names::of(&context.progress.assignment());
    let Some((id, named)) = names.find(&name) else {
        return Err(Refusal::ServiceWaits(name));
    };
    let rows = Rows::new(context, &names, &snapshot.desired);
    let config_errors = snapshot.config_errors.get(&name);
    Ok(ServiceDetail {
        config_errors: config_errors.map(|them| them.to_vec()).unwrap_or_default(),
        facts: facts(tables, id, service, named),
        choice: Choice::of(context, id, &name)?,
        occupancy: Occupancy::of(tables, id),
        settings: service.into(),
        counters: context.kernel.counters(id)?.into(),
        backends: rows.by_address(members(tables, id).map(|record| rows.row(record))),
    })
}

#[cfg(test)]
mod tests {
    use balancer_common::counter::SERVICE_COUNTERS;

    use super::*;

    #[test]
    fn refusals_and_selections_are_sums_of_their_kinds() {
        let row: ServiceCounters = std::array::from_fn(|index| 1 << (20 + index));
        let counts = Counts::from(row);
        let bit = |counter: ServiceCounter| 1 << (20 + counter as u64);
        let refused = [
            ServiceCounter::RateLimited,
            ServiceCounter::QueueFull,
            ServiceCounter::AgentGone,
            ServiceCounter::NoBackends,
        ];
        let steered = [
            ServiceCounter::Idle,
            ServiceCounter::Shared,
            ServiceCounter::Trial,
            ServiceCounter::OverAdmitted,
        ];
        assert_eq!(counts.refused, refused.map(bit).iter().sum::<u64>());
        assert_eq!(counts.steered(), steered.map(bit).iter().sum::<u64>());
        assert_eq!(counts.held_ms, bit(ServiceCounter::HeldNs) / 1_000_000);
        assert!((ServiceCounter::Ejected as usize) < SERVICE_COUNTERS);
    }
}

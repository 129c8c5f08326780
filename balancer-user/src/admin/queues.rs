//! `/v1/queues`: who waits for a slot of each service, and what became of those who came.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    Context, Problem,
    problem::Refusal,
    tally::{Refused, Tallies},
};
use crate::{kernel::KernelError, model::DesiredState, occupancy::Names};

/// A row of `/v1/queues`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct QueueRow {
    /// The service's namespace.
    pub namespace: String,
    /// Its name in the namespace.
    pub name: String,
    /// Those who wait, and those on their way to the queue.
    pub waiters: u32,
    /// How many may wait now.
    pub size: u32,
    /// How long one waits at most; null if that follows the service time and nothing is measured.
    pub timeout_ms: Option<u64>,
    /// How long the one who came first has waited; null if nobody waits.
    pub oldest_ms: Option<u64>,
    /// Connections and requests that came to the agent.
    pub accepted: u64,
    /// Those of them that had to wait.
    pub queued: u64,
    /// Attempts at upstream connections after the first.
    pub retried: u64,
    /// Refusals by reason, in `connect()` or by the agent: `agent-gone`, `breaker-open`,
    /// `no-backends`, `queue-full`, `queue-timeout`, `rate-limited`, `retries-exhausted`.
    pub refused: Refused,
}

/// The queue of every service, by namespace and name.
#[utoipa::path(
    get, path = "/v1/queues", operation_id = "list_queues", tag = "services",
    responses(
        (status = 200, description = "The queues", body = Vec<QueueRow>),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn list(State(context): State<Context>) -> Result<Json<Vec<QueueRow>>, Refusal> {
    let rows = context.read(|context, snapshot| rows(context, &snapshot.desired));
    Ok(Json(rows.await??))
}

fn rows(context: &Context, desired: &DesiredState) -> Result<Vec<QueueRow>, KernelError> {
    let names = Names::of(&context.progress.assignment());
    let tallies = Tallies::new(context, &names);
    let now = context.kernel.now();
    let services = desired.services.values();
    services
        .map(|service| {
            let tally = tallies.of(&service.name)?;
            let oldest = tally.queue.as_ref().and_then(|queue| queue.oldest());
            Ok(QueueRow {
                namespace: service.name.namespace.to_string(),
                name: service.name.name.to_string(),
                waiters: tally.waiters,
                size: tally.size(service),
                timeout_ms: tally.timeout_ms(service),
                oldest_ms: oldest.map(|came_at| now.saturating_sub(came_at).as_millis() as u64),
                accepted: tally.accepted(),
                queued: tally.queued(),
                retried: tally.retried(),
                refused: tally.refused(),
            })
        })
        .collect()
}

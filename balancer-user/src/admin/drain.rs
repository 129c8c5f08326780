//! `POST …/backends/{address}/drain` and `/undrain`: takes a backend out by hand, and back in.
//!
//! Writes nothing itself: the reconciler, the one writer, is told, and the answer is what the
//! kernel then has.

use std::{net::SocketAddr, time::Instant};

use axum::{
    Json,
    extract::{Path, State, rejection::PathRejection},
};
use balancer_common::{
    atomic::load32,
    service::{STATE_DRAINING, Tables},
};
use serde::Deserialize;
use tokio::time;
use utoipa::{IntoParams, IntoResponses};

use super::{
    BackendRow, Context, POLL, Problem, SETTLING,
    backends::Rows,
    problem::{Refusal, service_at},
};
use crate::{
    model::ServiceName,
    occupancy::Names,
    reconcile::{Advice, Mark, Marking},
    state::Snapshot,
};

pub(super) type BackendPath = Result<Path<Target>, PathRejection>;

/// A backend of a service.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub(super) struct Target {
    /// The service's namespace
    namespace: String,
    /// The service's name
    name: String,
    /// The backend's IP:PORT
    address: String,
}

/// What is answered.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "describes the answers in the OpenAPI document")]
enum Marked {
    /// The backend as it is now
    #[response(status = 200)]
    Done(BackendRow),
    #[response(status = 401)]
    NoToken(#[ref_response] Problem),
    #[response(status = 403)]
    NotAllowed(#[ref_response] Problem),
    #[response(status = 404)]
    Unknown(#[ref_response] Problem),
    #[response(status = 429)]
    TooMany(#[ref_response] Problem),
    #[response(status = "default")]
    Other(#[ref_response] Problem),
}

/// Gives a backend nothing new; it keeps what it has. A backend of several services is drained in
/// all of them.
#[utoipa::path(
    post,
    path = "/v1/services/{namespace}/{name}/backends/{address}/drain",
    operation_id = "drain_backend",
    tag = "backends",
    security((), ("token" = [])),
    params(Target),
    responses(Marked)
)]
pub(super) async fn drain(
    State(context): State<Context>,
    path: BackendPath,
) -> Result<Json<BackendRow>, Refusal> {
    mark(&context, path, true).await
}

/// Lets a backend take part again that was drained by hand.
#[utoipa::path(
    post,
    path = "/v1/services/{namespace}/{name}/backends/{address}/undrain",
    operation_id = "undrain_backend",
    tag = "backends",
    security((), ("token" = [])),
    params(Target),
    responses(Marked)
)]
pub(super) async fn undrain(
    State(context): State<Context>,
    path: BackendPath,
) -> Result<Json<BackendRow>, Refusal> {
    mark(&context, path, false).await
}

async fn mark(
    context: &Context,
    path: BackendPath,
    is_set: bool,
) -> Result<Json<BackendRow>, Refusal> {
    let (service, address) = target(path)?;
    let snapshot = context.settled().await;
    require(&snapshot, service, address)?;
    let marking = Marking {
        address,
        mark: Mark::Draining,
        is_set,
    };
    let sent = context.advice.send(Advice::Mark(marking));
    sent.map_err(|_| Refusal::Stopping)?;
    tracing::info!(backend = %address, drained = is_set, "marked by hand");
    applied(context, &snapshot, address, is_set).await.map(Json)
}

/// The backend that is meant.
pub(super) fn target(path: BackendPath) -> Result<(ServiceName, SocketAddr), Refusal> {
    let Path(Target {
        namespace,
        name,
        address,
    }) = path?;
    let service = service_at(&namespace, &name)?;
    match address.parse() {
        Ok(address) => Ok((service, address)),
        Err(_) => Err(Refusal::BadAddress(address)),
    }
}

/// There must be such a service, with such a backend.
fn require(snapshot: &Snapshot, service: ServiceName, address: SocketAddr) -> Result<(), Refusal> {
    let Some(found) = snapshot.desired.services.get(&service) else {
        return Err(Refusal::NoService(service));
    };
    let mut backends = found.backends.iter();
    match backends.any(|backend| backend.address == address) {
        true => Ok(()),
        false => Err(Refusal::NoBackend { service, address }),
    }
}

/// The backend's row, once the kernel has the mark.
async fn applied(
    context: &Context,
    snapshot: &Snapshot,
    address: SocketAddr,
    is_set: bool,
) -> Result<BackendRow, Refusal> {
    let deadline = Instant::now() + SETTLING;
    loop {
        if let Some(row) = row_if(context, snapshot, address, is_set) {
            return Ok(row);
        }
        if Instant::now() >= deadline {
            return Err(Refusal::BackendWaits(address));
        }
        time::sleep(POLL).await;
    }
}

/// The backend's row, if its mark is as it should be.
fn row_if(
    context: &Context,
    snapshot: &Snapshot,
    address: SocketAddr,
    is_set: bool,
) -> Option<BackendRow> {
    let tables = context.kernel.memory();
    let (id, names) = {
        let assignment = context.progress.assignment();
        let id = assignment.backend(&address)?.id;
        let record = tables.backend(id)?;
        let is_marked = load32(&record.state) & STATE_DRAINING != 0;
        if is_marked != is_set {
            return None;
        }
        (id, Names::of(&assignment))
    };
    let rows = Rows::new(context, &names, &snapshot.desired);
    Some(rows.row(tables.backend(id)?))
}

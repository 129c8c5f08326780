//! `POST /v1/audit`: has live connections recounted, and answers what was wrong.

use axum::{Json, extract::State};

use super::{Context, Problem, problem::Refusal};
use crate::audit::Audit;

/// Recounts the live connections that hold slots, compares every backend's count with them, and
/// corrects those that are wrong.
#[utoipa::path(
    post, path = "/v1/audit", operation_id = "audit", tag = "backends",
    security((), ("token" = [])),
    responses(
        (status = 200, description = "What was found, and whether it is repaired", body = Audit),
        (status = 401, response = Problem),
        (status = 403, response = Problem),
        (status = 429, response = Problem),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn audit(State(context): State<Context>) -> Result<Json<Audit>, Refusal> {
    let audit = context.read(|context, _| context.auditor.audit());
    Ok(Json(audit.await??))
}

//! About the agent itself: whether it lives and is ready, what it is, its configuration, its log.

use std::{fs, time::UNIX_EPOCH};

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
};
use balancer_common::maps::ABI;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Context, Missing, Problem, problem::Refusal};
use crate::{config, state::ObjectProblem};

/// `/readyz` and `/healthz`, if all is well.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Ready {
    /// Always `ok`.
    pub status: String,
}

/// `/version`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Version {
    /// The agent's version.
    pub version: String,
    /// Version of the layout of the maps.
    pub map_abi: u32,
    /// The kernel, as `uname -r` shows it.
    pub kernel_release: String,
    /// The cgroup whose processes are balanced.
    pub cgroup: String,
    /// Since the agent started.
    pub uptime_seconds: u64,
    /// The programs in the kernel.
    pub programs: Vec<ProgramVersion>,
}

/// A program in the kernel.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ProgramVersion {
    /// Its name.
    pub name: String,
    /// The kernel's id for it, as in `bpftool prog show id`.
    pub id: u32,
    /// Hash of its instructions.
    pub tag: String,
}

/// `/v1/config`.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct Configuration {
    /// The file.
    pub file: String,
    /// Counts accepted changes, from 1.
    pub generation: u64,
    /// The newest generation that is in the kernel: 0 before the first.
    pub generation_in_kernel: u64,
    /// When the generation was accepted: seconds since 1970.
    pub accepted_at: u64,
    /// Whether the newest state of the file is in force.
    pub applied: Applied,
    /// Changes of the file that were rejected since the start.
    pub rejected: u64,
    /// Why the newest change of the file is not in force; empty if it is.
    #[schema(value_type = Vec<Finding>)]
    pub problems: Vec<config::Problem>,
    /// What does not do what it seems to, in what is in force.
    #[schema(value_type = Vec<Finding>)]
    pub warnings: Vec<config::Problem>,
    /// What is wrong with objects that services come from; their last good state is in force.
    pub config_errors: Vec<ObjectProblem>,
}

/// Whether the newest state of the file is in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// It is in the kernel.
    InForce,
    /// It was accepted and is on its way into the kernel.
    Pending,
    /// It was rejected: an older one is in force.
    Rejected,
}

/// One thing that is wrong, or odd, in the configuration.
#[derive(ToSchema)]
#[allow(
    dead_code,
    reason = "describes config::Problem in the OpenAPI document"
)]
struct Finding {
    /// Line in the file, from 1; absent if it is about the whole file or a variable.
    line: Option<u32>,
    /// Column in that line, from 1.
    column: Option<u32>,
    /// The environment variable that holds the value, if one does.
    variable: Option<String>,
    /// What is wrong.
    message: String,
    /// What to do about it.
    hint: String,
}

/// `/v1/log-level`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLevelBody {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    #[schema(value_type = Level)]
    pub level: config::LogLevel,
}

/// How much is logged.
#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
#[allow(
    dead_code,
    reason = "describes config::LogLevel in the OpenAPI document"
)]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Whether the agent lives. Asks nothing of it but to answer.
#[utoipa::path(
    get, path = "/healthz", operation_id = "get_health", tag = "agent",
    responses((status = 200, description = "It does", body = Ready))
)]
pub(super) async fn healthz() -> Json<Ready> {
    Json(Ready {
        status: "ok".to_owned(),
    })
}

/// Whether connects are steered by the configuration.
#[utoipa::path(
    get, path = "/readyz", operation_id = "get_readiness", tag = "agent",
    responses(
        (status = 200, description = "They are", body = Ready),
        (status = 503, response = Problem),
    )
)]
pub(super) async fn readyz(State(context): State<Context>) -> Result<Json<Ready>, Refusal> {
    let mut missing = Vec::new();
    if !*context.ready.borrow() {
        missing.push(Missing::Programs);
    }
    if context.progress.generation() == 0 {
        missing.push(Missing::Configuration);
    }
    if !context.state.borrow().is_synced {
        missing.push(Missing::Source);
    }
    if missing.is_empty() {
        Ok(healthz().await)
    } else {
        Err(Refusal::NotReady(missing))
    }
}

/// What runs, in user space and in the kernel.
#[utoipa::path(
    get, path = "/version", operation_id = "get_version", tag = "agent",
    responses(
        (status = 200, description = "Versions, ids and tags", body = Version),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn version(State(context): State<Context>) -> Result<Json<Version>, Refusal> {
    let version = context.read(|context, _| Version {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        map_abi: ABI,
        kernel_release: kernel_release(),
        cgroup: context.kernel.cgroup_path().display().to_string(),
        uptime_seconds: context.started.elapsed().as_secs(),
        programs: programs(context),
    });
    Ok(Json(version.await?))
}

fn programs(context: &Context) -> Vec<ProgramVersion> {
    let programs = context.kernel.programs().into_iter();
    programs
        .map(|program| ProgramVersion {
            name: program.name.to_owned(),
            id: program.id,
            tag: program.tag,
        })
        .collect()
}

/// What `uname -r` shows; empty if /proc does not say.
pub(crate) fn kernel_release() -> String {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// Which configuration is in force, and what is wrong with the file.
#[utoipa::path(
    get, path = "/v1/config", operation_id = "get_config", tag = "agent",
    responses((status = 200, description = "The state of the configuration", body = Configuration))
)]
pub(super) async fn config(State(context): State<Context>) -> Json<Configuration> {
    let snapshot = context.settled().await;
    let in_kernel = context.progress.generation();
    let since_1970 = snapshot
        .accepted_at
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Json(Configuration {
        file: snapshot.file.display().to_string(),
        generation: snapshot.generation,
        generation_in_kernel: in_kernel,
        accepted_at: since_1970.as_secs(),
        applied: if !snapshot.problems.is_empty() {
            Applied::Rejected
        } else if in_kernel < snapshot.generation {
            Applied::Pending
        } else {
            Applied::InForce
        },
        rejected: snapshot.rejected,
        problems: snapshot.problems.clone(),
        warnings: snapshot.warnings.clone(),
        config_errors: snapshot.object_problems(),
    })
}

/// How much is logged.
#[utoipa::path(
    get, path = "/v1/log-level", operation_id = "get_log_level", tag = "agent",
    responses((status = 200, description = "The level in force", body = LogLevelBody))
)]
pub(super) async fn log_level(State(context): State<Context>) -> Json<LogLevelBody> {
    Json(LogLevelBody {
        level: context.log.level(),
    })
}

/// Logs more or less from now on.
#[utoipa::path(
    put, path = "/v1/log-level", tag = "agent", request_body = LogLevelBody,
    security((), ("token" = [])),
    responses(
        (status = 200, description = "The level now in force", body = LogLevelBody),
        (status = 401, response = Problem),
        (status = 403, response = Problem),
        (status = 413, response = Problem),
        (status = 429, response = Problem),
        (status = "default", response = Problem),
    )
)]
pub(super) async fn put_log_level(
    State(context): State<Context>,
    body: Result<Json<LogLevelBody>, JsonRejection>,
) -> Result<Json<LogLevelBody>, Refusal> {
    let Json(LogLevelBody { level }) = body?;
    context.log.set(level);
    tracing::info!(%level, "log level changed");
    Ok(Json(LogLevelBody { level }))
}

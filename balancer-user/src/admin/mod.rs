//! The admin API: what a person or a program may ask of a running agent, over HTTP.
//!
//! Owns the routes and their OpenAPI document; who may change anything is in `permit`. Decides nothing about services and keeps no copy of any count: each answer is read
//! from the kernel's memory when it is asked for. Started by `agent`; asked by the CLI, by
//! Prometheus and by people.

mod affinity;
mod agent;
mod audit;
mod backends;
mod caches;
mod connections;
mod drain;
mod events;
pub mod fuzzing;
mod listen;
mod maps;
mod news;
mod permit;
mod places;
mod problem;
mod queues;
mod rate;
mod selection;
mod serve;
mod services;
mod settings;
mod stats;
mod strategy;
mod tally;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{Method, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tokio::{
    sync::{mpsc, watch},
    task::spawn_blocking,
    time,
};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

pub use affinity::{BindingRow, BoundClients};
pub(crate) use agent::kernel_release;
pub use agent::{Applied, Configuration, LogLevelBody, ProgramVersion, Ready, Version};
pub use backends::{BackendRow, LastProbe};
pub use caches::{CacheMetrics, Caches};
pub use connections::{ConnectionRow, Connections, Via};
pub use listen::{AdminError, Listeners};
pub use maps::{MapDump, MapName, MapSummary};
pub use news::ToldRefusals;
pub(crate) use permit::Transport;
pub use problem::{Missing, Problem};
pub use queues::QueueRow;
pub(crate) use selection::{DecisionTimes, Selections};
pub use services::{Counts, ServiceDetail, ServiceFacts, ServiceSummary};
pub use settings::{
    Affinity, Auto, Breaker, HashKey, HealthChecks, Millis, Queueing, RateLimit, Settings,
};
pub use stats::{ServiceFigures, ServiceStats, Spread, Stats, StatsCache};
pub(crate) use strategy::in_force as strategy_in_force;
pub use strategy::{Choice, FailoverFigures};
pub(crate) use tally::{Tallies, Tally};

use crate::{
    adaptive::Verdicts,
    audit::Auditor,
    health,
    journal::Journal,
    kernel::Kernel,
    metrics,
    overflow::Queues,
    reconcile::{Advice, Progress},
    source::kubernetes::Watched,
    state::Snapshot,
    telemetry::LogControl,
};
use permit::Permit;
use problem::Refusal;

/// Bytes of a request's body.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// For one request, its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an answer waits for a configuration that is on its way into the kernel.
const SETTLING: Duration = Duration::from_millis(100);
/// How often it looks in that time.
const POLL: Duration = Duration::from_millis(1);

/// What the API answers from.
#[derive(Clone)]
pub struct Context {
    /// Programs and maps.
    pub kernel: Arc<Kernel>,
    /// Names for the kernel's numbers, and how far the kernel has come.
    pub progress: Progress,
    /// What is wanted.
    pub state: watch::Receiver<Arc<Snapshot>>,
    /// Whether the programs are attached.
    pub ready: watch::Receiver<bool>,
    /// The log's level.
    pub log: LogControl,
    /// When the agent started.
    pub started: Instant,
    /// Who waits.
    pub queues: Arc<Queues>,
    /// What probes found.
    pub health: health::Handle,
    /// What probing does.
    pub probes: health::Figures,
    /// What happens.
    pub journal: Journal,
    /// Where marks on backends are put.
    pub advice: mpsc::UnboundedSender<Advice>,
    /// What strategy `adaptive` makes of its services.
    pub verdicts: Verdicts,
    /// Compares counts with live connections.
    pub auditor: Auditor,
    /// Whether metrics are served.
    pub collects_metrics: bool,
    /// The newest answer of `/v1/stats`.
    pub stats: StatsCache,
    /// What `/v1/events` told already.
    pub refusals: ToldRefusals,
    /// Which watches of the Kubernetes API are up.
    pub watched: Watched,
}

impl Context {
    /// The newest accepted configuration, once it is in the kernel. If that takes longer than
    /// [`SETTLING`], the answer mixes both, and `/v1/config` says so.
    async fn settled(&self) -> Arc<Snapshot> {
        let deadline = Instant::now() + SETTLING;
        loop {
            let snapshot = self.state.borrow().clone();
            if self.progress.generation() >= snapshot.generation || Instant::now() >= deadline {
                return snapshot;
            }
            time::sleep(POLL).await;
        }
    }

    /// Runs what takes locks or many system calls where it holds nobody up.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self, &Snapshot) -> T + Send + 'static,
    ) -> Result<T, Refusal> {
        let snapshot = self.settled().await;
        let context = self.clone();
        Ok(spawn_blocking(move || work(&context, &snapshot)).await?)
    }
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Idlefirst admin API",
        description = "What a running agent knows and does. Reading is open to whoever reaches \
                       the address; changing is for the user that the agent runs as, and root, \
                       over the unix socket, and for whoever sends the token.",
        license(name = "Apache-2.0 OR MIT", identifier = "Apache-2.0 OR MIT")
    ),
    servers((url = "/", description = "The address that this document came from")),
    components(responses(Problem), schemas(Missing)),
    modifiers(&Bearer)
)]
struct Document;

/// The name of the scheme in the document.
const TOKEN: &str = "token";

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some(
                "What the file of agent.admin_token_file holds. Without that key there is none.",
            ))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(TOKEN, SecurityScheme::Http(scheme));
    }
}

/// Every route that only reads.
fn reading() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(agent::healthz))
        .routes(routes!(agent::readyz))
        .routes(routes!(agent::version))
        .routes(routes!(agent::config))
        .routes(routes!(agent::log_level))
        .routes(routes!(metrics_text))
        .routes(routes!(openapi))
        .routes(routes!(services::list))
        .routes(routes!(services::one))
        .routes(routes!(backends::list))
        .routes(routes!(connections::list))
        .routes(routes!(affinity::list))
        .routes(routes!(queues::list))
        .routes(routes!(stats::stats))
        .routes(routes!(events::follow))
        .routes(routes!(caches::cache_metrics))
        .routes(routes!(maps::list))
        .routes(routes!(maps::one))
}

/// Every route that changes something.
fn changing() -> OpenApiRouter<Context> {
    OpenApiRouter::new()
        .routes(routes!(agent::put_log_level))
        .routes(routes!(drain::drain))
        .routes(routes!(drain::undrain))
        .routes(routes!(audit::audit))
}

/// The routes, and the document that describes them: made together, so they agree.
fn routes(permit: Arc<Permit>) -> (Router<Context>, utoipa::openapi::OpenApi) {
    let changing = changing().route_layer(middleware::from_fn_with_state(permit, permit::check));
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(reading())
        .merge(changing)
        .split_for_parts()
}

/// The document alone.
fn document() -> utoipa::openapi::OpenApi {
    routes(Permit::new(Transport::Unix, None)).1
}

/// The whole API for one listener.
fn router(context: Context, permit: Arc<Permit>) -> Router {
    whole(routes(permit).0).with_state(context)
}

/// These routes, and an answer to whatever else is asked for.
fn whole<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    bounded(router.fallback(async |uri: Uri| Refusal::NoRoute(uri.path().to_owned())))
}

/// `/metrics` and nothing else.
fn metrics_router(context: Context) -> Router {
    let router = Router::new()
        .route("/metrics", get(metrics_text))
        .fallback(async |uri: Uri| Refusal::OnlyMetrics(uri.path().to_owned()));
    bounded(router).with_state(context)
}

/// Bounds what one request may cost.
fn bounded<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .method_not_allowed_fallback(async |method: Method| Refusal::NoMethod(method.to_string()))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn(limit_time))
}

async fn limit_time(request: Request, next: Next) -> Response {
    match time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Refusal::Slow.into_response(),
    }
}

/// Figures for Prometheus, as text.
#[utoipa::path(
    get, path = "/metrics", operation_id = "get_metrics", tag = "agent",
    responses(
        (status = 200, description = "Every metric of docs/metrics.md", body = String,
         content_type = "text/plain; version=0.0.4"),
        (status = 404, response = Problem),
        (status = "default", response = Problem),
    )
)]
async fn metrics_text(State(context): State<Context>) -> Result<Response, Refusal> {
    if !context.collects_metrics {
        return Err(Refusal::NoMetrics);
    }
    let text = context.read(metrics::render).await??;
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response())
}

/// This document.
#[utoipa::path(
    get, path = "/openapi.json", operation_id = "get_document", tag = "agent",
    responses((status = 200, description = "An OpenAPI document", body = serde_json::Value))
)]
async fn openapi() -> Response {
    axum::Json(document()).into_response()
}

#[cfg(test)]
mod tests;

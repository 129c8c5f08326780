//! The admin API without an agent: its routes, its limits, its guard, and what its handlers read
//! of a request, which is all that they answer.
//!
//! Made from the API's own document, so that no route can be forgotten. Called by
//! `crate::fuzzing`.

use axum::{
    Json, Router,
    extract::{
        Path, Query,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    middleware,
    routing::{MethodFilter, MethodRouter, on},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::io::{AsyncRead, AsyncWrite};
use utoipa::openapi::path::{Operation, PathItem};

use super::{
    LogLevelBody, MapName, Permit, Transport, affinity, connections, document, drain, events, maps,
    permit,
    problem::{Refusal, service_at},
    serve::http1,
    whole,
};

/// What is answered instead of what a route gives.
type Read = Result<String, Refusal>;

/// As a handler gets its parameters.
type Asked<P> = Result<Query<P>, QueryRejection>;

/// The API for one kind of listener.
#[derive(Clone)]
pub struct Api(Router);

impl Api {
    /// As it is for the owner of the unix socket, or for others over TCP.
    pub fn new(is_owner: bool) -> Self {
        Self(router(is_owner))
    }

    /// Serves a client's connection.
    pub async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let service = TowerToHyperService::new(self.0);
        // How it ends is of no interest: what was answered until then is.
        let _ = http1()
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }
}

fn router(is_owner: bool) -> Router {
    let (mut reading, mut changing) = (Router::new(), Router::new());
    for (path, item) in document().paths.paths {
        for (method, operation) in operations(item) {
            let (router, method) = match method {
                Method::Get => (&mut reading, MethodFilter::GET),
                Method::Put => (&mut changing, MethodFilter::PUT),
                Method::Post => (&mut changing, MethodFilter::POST),
            };
            let reads = reads(method, &operation);
            *router = std::mem::take(router).route(&path, reads);
        }
    }
    if !is_owner {
        let permit = Permit::new(Transport::Tcp, None);
        changing = changing.route_layer(middleware::from_fn_with_state(permit, permit::check));
    }
    whole(reading.merge(changing))
}

enum Method {
    Get,
    Put,
    Post,
}

fn operations(item: PathItem) -> impl Iterator<Item = (Method, Operation)> {
    let all = [
        (Method::Get, item.get),
        (Method::Put, item.put),
        (Method::Post, item.post),
    ];
    all.into_iter()
        .filter_map(|(method, operation)| Some((method, operation?)))
}

/// What the handler of an operation reads of a request.
fn reads(method: MethodFilter, operation: &Operation) -> MethodRouter {
    match operation.operation_id.as_deref().unwrap_or_default() {
        "get_service" => on(
            method,
            async |path: Result<Path<(String, String)>, PathRejection>| -> Read {
                let Path((namespace, name)) = path?;
                Ok(service_at(&namespace, &name)?.to_string())
            },
        ),
        "drain_backend" | "undrain_backend" => {
            on(method, async |path: drain::BackendPath| -> Read {
                let (service, backend) = drain::target(path)?;
                Ok(format!("{service} {backend}"))
            })
        }
        "put_log_level" => on(
            method,
            async |body: Result<Json<LogLevelBody>, JsonRejection>| -> Read {
                Ok(body?.0.level.to_string())
            },
        ),
        "get_map" => on(
            method,
            async |name: Result<Path<String>, PathRejection>,
                   query: Asked<maps::Parameters>|
                   -> Read {
                let name = MapName::find(&name?)?;
                let Query(maps::Parameters { limit }) = query?;
                Ok(format!("{} {limit:?}", name.as_str()))
            },
        ),
        "list_affinity" => on(method, async |query: Asked<affinity::Parameters>| -> Read {
            let Query(parameters) = query?;
            Ok(format!("{:?}", parameters.read()?))
        }),
        "list_connections" => on(
            method,
            async |query: Asked<connections::Parameters>| -> Read {
                let Query(parameters) = query?;
                Ok(format!("{:?}", parameters.read()?))
            },
        ),
        "follow_events" => on(method, async |query: Asked<events::Parameters>| -> Read {
            let Query(parameters) = query?;
            Ok(format!("{:?}", parameters.filter()?))
        }),
        id => {
            let is_bare = operation.parameters.is_none() && operation.request_body.is_none();
            assert!(is_bare, "what the operation {id} reads is to be read here");
            on(method, async || "")
        }
    }
}

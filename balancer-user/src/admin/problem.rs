//! Refusals of the admin API: `application/problem+json` (RFC 9457), each saying what was wrong
//! and what to do.

use std::{net::SocketAddr, time::Duration};

use axum::{
    Json,
    extract::rejection::{JsonRejection, PathRejection, QueryRejection},
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use balancer_common::maps::MAX_SERVICES;
use serde::{Deserialize, Serialize};
use tokio::task::JoinError;
use utoipa::{ToResponse, ToSchema};

use super::maps::MapName;
use crate::{
    journal::{Crowded, Kind},
    kernel::KernelError,
    metrics::MetricsError,
    model::{NameFault, ServiceName},
};

/// The media type of refusals.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// A refusal as it is sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, ToResponse)]
#[response(description = "Refused", content_type = "application/problem+json")]
pub struct Problem {
    /// Always `about:blank`: the status says which kind it is.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What was wrong, where, and what to do.
    pub detail: String,
    /// `/readyz` only: what is not there yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
}

/// What a starting or stopping agent has not got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// The programs are not attached: no connect is steered.
    Programs,
    /// The first configuration is not in the kernel.
    Configuration,
    /// The Kubernetes API has not told yet what services there are.
    Source,
}

/// Why a request is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(
        "the agent does not steer by its configuration yet, or not any more; ask again, and see its log if this stays"
    )]
    NotReady(Vec<Missing>),
    #[error("there is no {0}; /openapi.json lists every route")]
    NoRoute(String),
    #[error("there is no {0} here: this address has /metrics only; the rest is on agent.admin")]
    OnlyMetrics(String),
    #[error("this route does not take {0}; the Allow header lists what it takes")]
    NoMethod(String),
    #[error(
        "no service is named {0}; /v1/services lists them, and /v1/config says whether a change of the file was rejected"
    )]
    NoService(ServiceName),
    #[error(
        "service {0} is configured but not in the kernel yet: its numbers are still in use, or all {MAX_SERVICES} are taken; ask again"
    )]
    ServiceWaits(ServiceName),
    #[error(
        "{name:?} cannot be a service's name: {fault}; write NAMESPACE/NAME, or NAME in the namespace default"
    )]
    BadName { name: String, fault: NameFault },
    #[error("service {service} has no backend {address}; /v1/backends lists them")]
    NoBackend {
        service: ServiceName,
        address: SocketAddr,
    },
    #[error(
        "backend {0} is marked, but the kernel does not have it yet; ask for it in a moment, and see the agent's log if it stays so"
    )]
    BackendWaits(SocketAddr),
    #[error("{0:?} is no backend's address; write IP:PORT as /v1/backends shows it")]
    BadAddress(String),
    #[error("there is no kind of event {0:?}; one of: {kinds}", kinds = kinds())]
    BadKind(String),
    #[error("{0}; end one of them, or try again later")]
    Crowded(#[from] Crowded),
    #[error(
        "metrics are switched off by agent.metrics_collection (METRICS_COLLECTION_ENABLED); set it to true and restart the agent"
    )]
    NoMetrics,
    #[error("the agent is stopping; nothing is changed any more")]
    Stopping,
    #[error("there is no map {name:?}; one of: {}", MapName::listed())]
    NoMap { name: String },
    #[error("{0}; /openapi.json lists every route")]
    BadPath(#[from] PathRejection),
    #[error("{0}; see /openapi.json for the parameters")]
    BadQuery(#[from] QueryRejection),
    #[error("{}; send {{\"level\": \"info\"}} as application/json", .0.body_text())]
    BadBody(#[from] JsonRejection),
    #[error(
        "nothing can be changed over TCP; send this to the agent's unix socket (agent.admin in its configuration), or have it take a token (agent.admin_token_file)"
    )]
    ReadOnly,
    #[error(
        "only root and the user that the agent runs as can change anything over its unix socket; ask as one of them, or have it take a token (agent.admin_token_file)"
    )]
    NotOwner,
    #[error(
        "whoever changes anything here must say who they are: send `Authorization: Bearer TOKEN` with the token of agent.admin_token_file (--token-file), or ask over the agent's unix socket, as its owner"
    )]
    NoToken,
    #[error(
        "the token sent is not that of agent.admin_token_file; look there for the one in force"
    )]
    WrongToken,
    #[error(
        "the agent cannot read its own token (agent.admin_token_file), so nobody can change anything by it; its log says why; the unix socket works as ever"
    )]
    TokenUnusable,
    #[error("too many wrong tokens came from where this did; wait {} s", seconds(*.0))]
    TooManyWrongTokens(Duration),
    #[error("too many changes at once; wait {} s and go slower", seconds(*.0))]
    TooManyChanges(Duration),
    #[error("the request was not complete, or not answered, in time; send it again")]
    Slow,
    #[error("{0}")]
    Metrics(#[from] MetricsError),
    #[error("{0}")]
    Kernel(#[from] KernelError),
    #[error("the agent stopped, or failed, while it was answering; see its log")]
    Interrupted(#[from] JoinError),
}

/// The name of a service that a request gives: `NAME` or `NAMESPACE/NAME`.
pub(super) fn service_named(name: String) -> Result<ServiceName, Refusal> {
    name.parse()
        .map_err(|fault| Refusal::BadName { name, fault })
}

/// The same from its two parts.
pub(super) fn service_at(namespace: &str, name: &str) -> Result<ServiceName, Refusal> {
    ServiceName::new(namespace, name).map_err(|fault| Refusal::BadName {
        name: format!("{namespace}/{name}"),
        fault,
    })
}

/// Whole seconds, and at least one.
fn seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

fn kinds() -> String {
    Kind::ALL.map(Kind::as_str).join(", ")
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotReady(_)
            | Self::ServiceWaits(_)
            | Self::BackendWaits(_)
            | Self::Crowded(_)
            | Self::Stopping
            | Self::TokenUnusable => StatusCode::SERVICE_UNAVAILABLE,
            Self::NoRoute(_)
            | Self::OnlyMetrics(_)
            | Self::NoMetrics
            | Self::NoService(_)
            | Self::NoBackend { .. }
            | Self::NoMap { .. } => StatusCode::NOT_FOUND,
            Self::NoMethod(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::BadName { .. } | Self::BadAddress(_) | Self::BadKind(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::BadPath(rejection) => rejection.status(),
            Self::BadQuery(rejection) => rejection.status(),
            Self::BadBody(rejection) => rejection.status(),
            Self::ReadOnly | Self::NotOwner => StatusCode::FORBIDDEN,
            Self::NoToken | Self::WrongToken => StatusCode::UNAUTHORIZED,
            Self::TooManyWrongTokens(_) | Self::TooManyChanges(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Slow => StatusCode::REQUEST_TIMEOUT,
            Self::Kernel(_) | Self::Metrics(_) | Self::Interrupted(_) => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
        }
    }

    /// What the client is told by a header besides.
    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        const CHALLENGE: &str = "Bearer realm=\"idlefirst\"";
        const REJECTED: &str = "Bearer realm=\"idlefirst\", error=\"invalid_token\"";
        match self {
            Self::NoToken => Some((WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE))),
            Self::WrongToken => Some((WWW_AUTHENTICATE, HeaderValue::from_static(REJECTED))),
            Self::TooManyWrongTokens(wait) | Self::TooManyChanges(wait) => {
                Some((RETRY_AFTER, seconds(*wait).into()))
            }
            _ => None,
        }
    }

    fn into_problem(self) -> Problem {
        let status = self.status();
        Problem {
            r#type: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: self.to_string(),
            missing: match self {
                Self::NotReady(missing) => missing,
                _ => Vec::new(),
            },
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        if matches!(
            self,
            Self::Kernel(_) | Self::Metrics(_) | Self::Interrupted(_)
        ) {
            tracing::error!(error = %self, "a request to the admin API failed");
        }
        let (status, header) = (self.status(), self.header());
        let mut response = (status, Json(self.into_problem())).into_response();
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response.headers_mut().extend(header);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_its_status_twice_and_what_is_missing() {
        let response = Refusal::NotReady(vec![Missing::Programs]).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()[CONTENT_TYPE], PROBLEM_JSON);
        let problem = Refusal::NotReady(vec![Missing::Programs]).into_problem();
        let json = serde_json::to_value(problem).unwrap();
        assert_eq!(json["status"], 503);
        assert_eq!(json["title"], "Service Unavailable");
        assert_eq!(json["missing"], serde_json::json!(["programs"]));
    }

    #[test]
    fn other_refusals_do_not_mention_what_is_missing() {
        let json = serde_json::to_value(
            Refusal::NoMap {
                name: "X".to_owned(),
            }
            .into_problem(),
        )
        .unwrap();
        assert_eq!(json.get("missing"), None);
        assert!(
            json["detail"]
                .as_str()
                .unwrap()
                .contains("FRONTENDS, SERVICES"),
            "{json}"
        );
    }
}

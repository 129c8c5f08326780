//! Saying no: over HTTP with a reason, over bare TCP with a reset.
//!
//! Owns how a refusal looks. Called by `gate` for connections and by `request` for requests, which
//! have counted it already. Refuses to wait long, or for many at once, for clients to read why.

use std::time::Duration;

use hyper::{
    Response, StatusCode,
    body::Bytes,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use socket2::SockRef;
use tokio::{net::TcpStream, sync::Semaphore};

use super::{Reason, View, request};
use crate::model::Protocol;

/// Names the reason, for programs.
const REASON: HeaderName = HeaderName::from_static("x-idlefirst-reason");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");
/// RFC 9457: the status says it all.
const NO_TYPE: &str = "about:blank";

/// Clients, at once, of refused connections that are told why.
static READING: Semaphore = Semaphore::const_new(1024);

/// The answer to a request that is refused.
pub(super) fn response(reason: Reason, view: &View) -> Response<Bytes> {
    let status = StatusCode::SERVICE_UNAVAILABLE;
    let problem = serde_json::json!({
        "type": NO_TYPE,
        "title": title(status),
        "status": status.as_u16(),
        "detail": format!("{}: {}", view.name, reason.detail()),
        "reason": reason,
    });
    let mut response = with(status, &problem);
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(reason.as_str()));
    headers.insert(
        RETRY_AFTER,
        HeaderValue::from(retry_after(reason, view).as_secs()),
    );
    response
}

/// After how long it makes sense to ask again, in whole seconds as HTTP has them.
fn retry_after(reason: Reason, view: &View) -> Duration {
    let seconds = match reason {
        Reason::QueueFull | Reason::QueueTimeout | Reason::RateLimited => 1,
        Reason::RetriesExhausted | Reason::NoBackends => 5,
        Reason::BreakerOpen => view.breaker.open.value.as_secs_f64().ceil() as u64,
    };
    Duration::from_secs(seconds.max(1))
}

/// The answer to a request that failed for any other cause.
pub(super) fn problem(status: StatusCode, detail: &str) -> Response<Bytes> {
    let problem = serde_json::json!({
        "type": NO_TYPE,
        "title": title(status),
        "status": status.as_u16(),
        "detail": detail,
    });
    with(status, &problem)
}

fn with(status: StatusCode, problem: &serde_json::Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(problem.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, PROBLEM);
    response
}

fn title(status: StatusCode) -> &'static str {
    status.canonical_reason().unwrap_or("Refused")
}

/// Ends a connection so that the client sees it was refused.
pub(super) fn reset(stream: TcpStream) {
    if let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "a connection is closed, not reset");
    }
}

/// Refuses a connection, in the protocol that its service speaks.
pub(super) async fn refuse_connection(stream: TcpStream, reason: Reason, view: &View) {
    if view.protocol.value == Protocol::Tcp {
        return reset(stream);
    }
    // Beyond so many, clients learn less about it, and cost nothing.
    let Ok(_permit) = READING.try_acquire() else {
        return reset(stream);
    };
    let answer = || response(reason, view);
    request::answer_once(stream, answer).await;
}

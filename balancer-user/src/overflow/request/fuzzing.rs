//! The way of a client's bytes to a backend, without slots, backends and sockets.
//!
//! Puts together what `session` and `exchange` do with a request before it has a slot. Decides
//! nothing itself. Called by `crate::fuzzing`.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use hyper::{
    Request, Response, StatusCode, body::Incoming, header::HeaderValue, service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    body::Upload,
    client::Client,
    head,
    link::Upgoing,
    session::{PREFACE, first_bytes, http1, http2},
    watch::Watch,
    wire,
};

/// What became of a request, in the order in which they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    /// Its head is not passed on.
    Refused(StatusCode),
    /// It is passed on over HTTP/2, with this method.
    OverHttp2(String),
    /// All of it is passed on, as these bytes.
    Whole(Vec<u8>),
    /// Its client did not send all of it; so much was passed on before the backend's connection
    /// was closed.
    Broken(Vec<u8>),
}

/// Serves a client's connection. Each request is passed on to nowhere, and answered with 200.
pub async fn serve<S>(mut stream: S) -> Vec<Passed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let all = Arc::<Mutex<Vec<Passed>>>::default();
    let watch = Arc::<Watch>::default();
    let Ok(first) = first_bytes(&mut stream, || watch.received(true)).await else {
        return Vec::new();
    };
    let service = service_fn({
        let (all, watch) = (all.clone(), watch.clone());
        move |request| {
            let (all, watch) = (all.clone(), watch.clone());
            async move {
                let _begun = watch.begin();
                let passed = pass_on(request).await;
                let status = match passed {
                    Passed::Refused(status) => status,
                    Passed::Broken(_) => StatusCode::BAD_REQUEST,
                    Passed::Whole(_) | Passed::OverHttp2(_) => StatusCode::OK,
                };
                all.lock().expect("nobody panics with it").push(passed);
                let mut response = Response::new(String::new());
                *response.status_mut() = status;
                Ok::<_, Infallible>(response)
            }
        }
    });
    // How it ends is of no interest: what was passed on until then is.
    if first.starts_with(PREFACE) {
        let io = TokioIo::new(Client::http2(stream, first, watch));
        let _ = Box::pin(http2().serve_connection(io, service)).await;
    } else {
        let io = TokioIo::new(Client::http1(stream, first, watch));
        let _ = http1().serve_connection(io, service).with_upgrades().await;
    }
    std::mem::take(&mut *all.lock().expect("nobody panics with it"))
}

async fn pass_on(request: Request<Incoming>) -> Passed {
    let client = HeaderValue::from_static("192.0.2.1");
    let host = HeaderValue::from_static("hello.default");
    let (mut head, body) = request.into_parts();
    let facts = match head::prepare(&mut head, &client, &host) {
        Ok(facts) => facts,
        Err(fault) => return Passed::Refused(fault.status()),
    };
    match Upgoing::new(head, Upload::from(body), &facts) {
        Upgoing::Http1(mut request) => {
            let mut bytes = Vec::new();
            match wire::write(&mut request, &mut bytes).await {
                Ok(()) => Passed::Whole(bytes),
                Err(_) => Passed::Broken(bytes),
            }
        }
        Upgoing::Http2(request) => {
            Passed::OverHttp2(request.map_or_else(String::new, |it| it.method().to_string()))
        }
    }
}

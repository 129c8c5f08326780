//! A single answer, whatever is asked: for connections that are refused.

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    client::Client,
    head,
    session::{PREFACE, first_bytes, http1, http2},
};
use crate::overflow::refuse;

/// How long a client may take to ask, and then to read the answer.
const WITHIN: Duration = Duration::from_secs(1);
/// Bytes of a head that are kept at most.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Answers the first request on a connection, and closes it.
pub(in crate::overflow) async fn answer_once(
    mut stream: TcpStream,
    answer: impl Fn() -> Response<Bytes>,
) {
    let Ok(Ok(first)) = timeout(WITHIN, first_bytes(&mut stream, || ())).await else {
        return refuse::reset(stream);
    };
    let is_http2 = first.starts_with(PREFACE);
    let client = match is_http2 {
        true => Client::http2(stream, first, Arc::default()),
        false => Client::http1(stream, first, Arc::default()),
    };
    let io = TokioIo::new(client);
    let is_answered = CancellationToken::new();
    let service = service_fn(|mut request: Request<Incoming>| {
        is_answered.cancel();
        let mut response = answer().map(Full::new);
        let id = head::id_of(request.headers_mut());
        head::name(response.headers_mut(), id);
        async { Ok::<_, Infallible>(response) }
    });
    let serving = async {
        if is_http2 {
            // In a box, since it is large, and rare.
            let mut connection = Box::pin(http2().serve_connection(io, service));
            tokio::select! {
                biased;
                () = is_answered.cancelled() => {}
                _ = connection.as_mut() => return,
            }
            connection.as_mut().graceful_shutdown();
            drop(connection.await);
        } else {
            let mut builder = http1();
            builder.keep_alive(false).max_buf_size(MAX_HEAD_BYTES);
            drop(builder.serve_connection(io, service).await);
        }
    };
    // What is over time is dropped.
    drop(timeout(2 * WITHIN, serving).await);
}

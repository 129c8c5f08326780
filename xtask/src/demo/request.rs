//! One request: its own connection, from `connect()` to the last byte, and how it ended.
//!
//! Used by `client`.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Empty};
use hyper::{Request, StatusCode, body::Bytes, client::conn::http1, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A request that takes this much longer than its work has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// How a request ended.
pub(super) enum End {
    /// 200.
    Ok,
    /// The connect was refused, or the answer was 429 or 503.
    Refused,
    /// Anything else.
    Error(anyhow::Error),
}

/// Makes one.
pub(super) async fn make(target: SocketAddr, work: Duration) -> End {
    let timeout = work + PATIENCE;
    match tokio::time::timeout(timeout, attempt(target, work)).await {
        Ok(Ok(end)) => end,
        Ok(Err(error)) => End::Error(error),
        Err(_) => End::Error(anyhow::anyhow!(
            "no answer from {target} within {PATIENCE:?} beyond its work"
        )),
    }
}

async fn attempt(target: SocketAddr, work: Duration) -> Result<End> {
    let stream = match TcpStream::connect(target).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => return Ok(End::Refused),
        Err(error) => return Err(error).with_context(|| format!("connecting to {target}")),
    };
    let status = ask(stream, target, work)
        .await
        .with_context(|| format!("connected to {target}"))?;
    Ok(match status {
        StatusCode::OK => End::Ok,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => End::Refused,
        status => End::Error(anyhow::anyhow!("{target} answered {status}")),
    })
}

async fn ask(stream: TcpStream, target: SocketAddr, work: Duration) -> Result<StatusCode> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(format!("/?work_us={}", work.as_micros()))
        .header(header::HOST, target.to_string())
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status();
        response.into_body().collect().await?;
        Ok::<_, hyper::Error>(status)
    };
    let (status, closed) = tokio::join!(exchange, connection);
    let status = status?;
    closed?;
    Ok(status)
}

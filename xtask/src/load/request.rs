//! One request: on a connection of its own or on a kept one, from `connect()` to the last byte,
//! and how it ended.
//!
//! Used by `sender`.

use std::{
    collections::HashMap,
    io::ErrorKind,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use http_body_util::{BodyExt, Empty};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1::{self, SendRequest},
    header,
};
use hyper_util::rt::TokioIo;
use tests::netns::Netns;
use tokio::net::TcpStream;

/// A request that takes this much longer than its work has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// In which the agent says why it refuses.
const REASON: &str = "x-idlefirst-reason";

/// How a request ended.
#[derive(Debug)]
pub(crate) enum End {
    /// 200.
    Ok,
    /// The connect was refused, or the answer was 429 or 503. Says why.
    Refused(String),
    /// Anything else.
    Error(anyhow::Error),
}

/// From where to where a request goes.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) target: SocketAddr,
    /// Number and namespace of the client, if it is not where the process is.
    pub(super) client: Option<(usize, Arc<Netns>)>,
}

type Body = Empty<Bytes>;

/// Connections that were kept for further requests, by client and by where they go.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<HashMap<Ends, Vec<SendRequest<Body>>>>);

type Ends = (Option<usize>, SocketAddr);

/// Makes one, on a connection of its own if `kept` is `None`.
pub(super) async fn make(route: &Route, work: Duration, kept: Option<&Kept>) -> End {
    let target = route.target;
    let attempt = async {
        match kept {
            Some(kept) => on_kept(kept, route, work).await,
            None => on_its_own(route, work).await,
        }
    };
    match tokio::time::timeout(work + PATIENCE, attempt).await {
        Ok(Ok(end)) => end,
        Ok(Err(error)) => End::Error(error),
        Err(_) => End::Error(anyhow!(
            "no answer from {target} within {PATIENCE:?} beyond its work"
        )),
    }
}

async fn on_its_own(route: &Route, work: Duration) -> Result<End> {
    let target = route.target;
    let Some(stream) = connect(route).await? else {
        return Ok(refused_connect());
    };
    let ask = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        let mut request = request(target, work)?;
        let close = header::HeaderValue::from_static("close");
        request.headers_mut().insert(header::CONNECTION, close);
        let exchange = async { finish(sender.send_request(request).await?).await };
        let (answer, closed) = tokio::join!(exchange, connection);
        let answer = answer?;
        closed?;
        Ok::<_, anyhow::Error>(answer)
    };
    let answer = ask
        .await
        .with_context(|| format!("connected to {target}"))?;
    Ok(end_of(target, &answer))
}

async fn on_kept(kept: &Kept, route: &Route, work: Duration) -> Result<End> {
    let target = route.target;
    loop {
        let old = kept.take(route.ends()).await;
        let is_old = old.is_some();
        let mut sender = match old {
            Some(sender) => sender,
            None => match connect(route).await? {
                Some(stream) => open(stream).await?,
                None => return Ok(refused_connect()),
            },
        };
        let answer = match sender.send_request(request(target, work)?).await {
            Ok(answer) => answer,
            // The other side closed it just before: nothing was sent.
            Err(error) if is_old && error.is_canceled() => continue,
            Err(error) => return Err(error).with_context(|| format!("asking {target}")),
        };
        let answer = finish(answer).await?;
        kept.put(route.ends(), sender);
        return Ok(end_of(target, &answer));
    }
}

async fn connect(route: &Route) -> Result<Option<TcpStream>> {
    let target = route.target;
    let connected = match &route.client {
        None => TcpStream::connect(target).await,
        Some((_, netns)) => {
            let netns = Arc::clone(netns);
            let connect = tokio::task::spawn_blocking(move || netns.connect(target));
            connect.await?.and_then(|stream| {
                stream.set_nonblocking(true)?;
                TcpStream::from_std(stream)
            })
        }
    };
    match connected {
        Ok(stream) => {
            stream.set_nodelay(true)?;
            Ok(Some(stream))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error).with_context(|| format!("connecting to {target}")),
    }
}

async fn open(stream: TcpStream) -> Result<SendRequest<Body>> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // How it ends shows in its requests.
    tokio::spawn(connection);
    Ok(sender)
}

fn request(target: SocketAddr, work: Duration) -> Result<Request<Body>> {
    Ok(Request::get(format!("/?work_us={}", work.as_micros()))
        .header(header::HOST, target.to_string())
        .body(Empty::new())?)
}

/// Reads the body too.
async fn finish(answer: Response<Incoming>) -> Result<Response<()>> {
    let (head, body) = answer.into_parts();
    body.collect().await?;
    Ok(Response::from_parts(head, ()))
}

fn end_of(target: SocketAddr, answer: &Response<()>) -> End {
    let reason = answer.headers().get(REASON);
    let reason = reason.map(|reason| String::from_utf8_lossy(reason.as_bytes()).into_owned());
    match (answer.status(), reason) {
        (StatusCode::OK, _) => End::Ok,
        (StatusCode::SERVICE_UNAVAILABLE, Some(reason)) => End::Refused(reason),
        (StatusCode::TOO_MANY_REQUESTS, _) => End::Refused("server-full".to_owned()),
        (status, _) => End::Error(anyhow!("{target} answered {status}")),
    }
}

fn refused_connect() -> End {
    End::Refused("connect-refused".to_owned())
}

impl Route {
    fn ends(&self) -> Ends {
        (self.client.as_ref().map(|(number, _)| *number), self.target)
    }
}

impl Kept {
    /// The one that was used last and still stands.
    async fn take(&self, ends: Ends) -> Option<SendRequest<Body>> {
        loop {
            let mut sender = self.locked().get_mut(&ends)?.pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    fn put(&self, ends: Ends, sender: SendRequest<Body>) {
        if !sender.is_closed() {
            self.locked().entry(ends).or_default().push(sender);
        }
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<Ends, Vec<SendRequest<Body>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! One upstream connection, for one request at a time, whatever is spoken over it.

use std::{
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use hyper::{
    Request, Response, Uri,
    body::{Body, Bytes, Frame, Incoming, SizeHint},
    client::conn::http2,
    header::HOST,
    http::{
        request,
        uri::{Authority, Scheme},
    },
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

use super::{
    body::Upload,
    head::{Facts, MAX_HEAD_BYTES},
    pool::Key,
    wire::{Fault, Outgoing, Wire},
};
use crate::overflow::{Slot, upstream};

/// What is spoken upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge.
    Http2,
}

/// A request as it goes upstream.
#[derive(Debug)]
pub(super) enum Upgoing {
    Http1(Outgoing),
    /// Gone while it is being sent.
    Http2(Option<Box<Request<Upload>>>),
}

/// An upstream connection that is free. Dropping it closes it.
#[derive(Debug)]
pub(super) enum Link {
    Http1(Box<Wire>),
    Http2(Http2),
}

#[derive(Debug)]
pub(super) struct Http2 {
    sender: http2::SendRequest<Upload>,
    _driver: AbortOnDropHandle<()>,
}

/// An answer's body, and the connection that it comes over. Dropping it closes that.
#[derive(Debug)]
pub(super) enum Download {
    Http1(Box<Wire>),
    Http2(Incoming, Http2),
}

/// A request without an answer, and whether it may be sent again.
#[derive(Debug)]
pub(super) enum Lost {
    /// Nothing of it was sent. It may.
    Unsent(Fault),
    /// It was sent, but for its body, and nothing came back. It may, if twice does no harm.
    Unanswered(Fault),
    /// It may not.
    Final(Fault),
}

impl Version {
    /// Under what connections to a slot's backend are kept.
    pub(super) fn key(self, slot: &Slot) -> Key {
        let (backend, generation) = slot.backend();
        (backend, generation, self)
    }
}

impl Upgoing {
    /// A request with this head and body.
    pub(super) fn new(head: request::Parts, body: Upload, facts: &Facts) -> Self {
        match facts.is_grpc {
            true => Self::Http2(Some(Box::new(http2_request(head, body)))),
            false => Self::Http1(Outgoing::new(
                head,
                body,
                facts.is_upgrade,
                facts.awaits_continue,
            )),
        }
    }

    /// What it needs.
    pub(super) fn version(&self) -> Version {
        match self {
            Self::Http1(_) => Version::Http1,
            Self::Http2(_) => Version::Http2,
        }
    }
}

/// HTTP/2 has the host in the target, and no headers about connections.
fn http2_request(head: request::Parts, body: Upload) -> Request<Upload> {
    let mut request = Request::new(body);
    *request.method_mut() = head.method;
    *request.version_mut() = hyper::Version::HTTP_2;
    *request.headers_mut() = head.headers;
    let host = request.headers_mut().remove(HOST);
    let mut target = head.uri.into_parts();
    target.scheme = Some(Scheme::HTTP);
    target.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if let Ok(target) = Uri::from_parts(target) {
        *request.uri_mut() = target;
    }
    request
}

impl Link {
    /// Opens one.
    pub(super) async fn open(backend: SocketAddr, version: Version) -> io::Result<Self> {
        let stream = upstream::connect(backend).await?;
        if version == Version::Http1 {
            return Ok(Self::Http1(Box::new(Wire::new(stream))));
        }
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .max_header_list_size(MAX_HEAD_BYTES as u32)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // What goes wrong reaches whoever waits for the answer.
        let driver = tokio::spawn(async move { drop(connection.await) });
        Ok(Self::Http2(Http2 {
            sender,
            _driver: AbortOnDropHandle::new(driver),
        }))
    }

    /// What it speaks.
    pub(super) fn version(&self) -> Version {
        match self {
            Self::Http1(_) => Version::Http1,
            Self::Http2(_) => Version::Http2,
        }
    }

    /// Whether the backend has closed it.
    pub(super) fn is_stale(&self) -> bool {
        match self {
            Self::Http1(wire) => wire.is_stale(),
            Self::Http2(link) => link.sender.is_closed(),
        }
    }

    /// Sends a request, and waits for the head of the answer.
    pub(super) async fn ask(self, request: &mut Upgoing) -> Result<(Response<()>, Download), Lost> {
        match (self, request) {
            (Self::Http1(wire), Upgoing::Http1(request)) => ask_http1(wire, request).await,
            (Self::Http2(link), Upgoing::Http2(request)) => {
                Box::pin(ask_http2(link, request)).await
            }
            _ => Err(Lost::Unsent(Fault::Closed)),
        }
    }
}

async fn ask_http1(
    mut wire: Box<Wire>,
    request: &mut Outgoing,
) -> Result<(Response<()>, Download), Lost> {
    wire.begin(request);
    match poll_fn(|context| wire.poll_head(context)).await {
        Ok(response) => Ok((response, Download::Http1(wire))),
        Err(fault) => Err(wire.lost(request, fault)),
    }
}

async fn ask_http2(
    mut link: Http2,
    request: &mut Option<Box<Request<Upload>>>,
) -> Result<(Response<()>, Download), Lost> {
    let Some(message) = request.take() else {
        return Err(Lost::Final(Fault::Closed));
    };
    match link.sender.try_send_request(*message).await {
        Ok(response) => {
            let (head, body) = response.into_parts();
            Ok((Response::from_parts(head, ()), Download::Http2(body, link)))
        }
        Err(mut error) => {
            *request = error.take_message().map(Box::new);
            let fault = Fault::Io(io::Error::other(error.into_error()));
            Err(match request {
                Some(_) => Lost::Unsent(fault),
                None => Lost::Final(fault),
            })
        }
    }
}

impl Download {
    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        match self {
            Self::Http1(wire) => wire.poll_frame(context),
            Self::Http2(body, _) => Pin::new(body)
                .poll_frame(context)
                .map_err(|error| Fault::Io(io::Error::other(error))),
        }
    }

    /// Whether nothing more will come.
    pub(super) fn is_over(&self) -> bool {
        match self {
            Self::Http1(wire) => wire.is_answered(),
            Self::Http2(body, _) => body.is_end_stream(),
        }
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(wire) => wire.size_hint(),
            Self::Http2(body, _) => body.size_hint(),
        }
    }

    /// The connection, once the body is over, if it can be used again.
    pub(super) fn into_link(self) -> Option<Link> {
        match self {
            Self::Http1(wire) => wire.is_reusable().then_some(Link::Http1(wire)),
            Self::Http2(_, link) => Some(Link::Http2(link)),
        }
    }

    /// The bare connection, and what came over it already, once it has switched protocols.
    pub(super) fn into_stream(self) -> Option<(TcpStream, Bytes)> {
        match self {
            Self::Http1(wire) => Some(wire.into_parts()),
            Self::Http2(..) => None,
        }
    }
}

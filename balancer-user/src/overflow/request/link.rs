//! One upstream connection, for one request at a time.

use std::{io, net::SocketAddr};

use hyper::{
    Request, Response, Uri,
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
    header::HOST,
    http::{
        request,
        uri::{Authority, Scheme},
    },
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio_util::task::AbortOnDropHandle;

use super::{body::Upload, pool::Key};
use crate::overflow::{Slot, upstream};

/// Bytes of an answer's head at most.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// What is spoken upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Version {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge.
    Http2,
}

impl Version {
    /// Under what connections to a slot's backend are kept.
    pub(super) fn key(self, slot: &Slot) -> Key {
        let (backend, generation) = slot.backend();
        (backend, generation, self)
    }

    /// A request with this head and body, to be sent in this version.
    pub(super) fn request(self, head: request::Parts, body: Upload) -> Request<Upload> {
        let mut request = Request::new(body);
        *request.method_mut() = head.method;
        *request.headers_mut() = head.headers;
        *request.uri_mut() = head.uri;
        if self == Self::Http2 {
            *request.version_mut() = hyper::Version::HTTP_2;
            as_http2(&mut request);
        }
        request
    }
}

/// HTTP/2 has the host in the target, and no headers about connections.
fn as_http2(request: &mut Request<Upload>) {
    let host = request.headers_mut().remove(HOST);
    let mut target = std::mem::take(request.uri_mut()).into_parts();
    target.scheme = Some(Scheme::HTTP);
    target.authority = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
    if let Ok(target) = Uri::from_parts(target) {
        *request.uri_mut() = target;
    }
}

/// An upstream connection. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Link {
    sender: Sender,
    _driver: AbortOnDropHandle<()>,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

impl Link {
    /// Opens one.
    pub(super) async fn open(backend: SocketAddr, version: Version) -> io::Result<Self> {
        let io = TokioIo::new(upstream::connect(backend).await?);
        let (sender, driver) = match version {
            Version::Http1 => {
                let (sender, connection) = http1::Builder::new()
                    .max_buf_size(MAX_HEAD_BYTES)
                    .handshake(io)
                    .await
                    .map_err(io::Error::other)?;
                let connection = connection.with_upgrades();
                // What goes wrong reaches whoever waits for the answer.
                let driver = tokio::spawn(async move { drop(connection.await) });
                (Sender::Http1(sender), driver)
            }
            Version::Http2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .max_header_list_size(MAX_HEAD_BYTES as u32)
                    .handshake(io)
                    .await
                    .map_err(io::Error::other)?;
                let driver = tokio::spawn(async move { drop(connection.await) });
                (Sender::Http2(sender), driver)
            }
        };
        Ok(Self {
            sender,
            _driver: AbortOnDropHandle::new(driver),
        })
    }

    /// What it speaks.
    pub(super) fn version(&self) -> Version {
        match self.sender {
            Sender::Http1(_) => Version::Http1,
            Sender::Http2(_) => Version::Http2,
        }
    }

    /// Whether the backend has closed it.
    pub(super) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Sends a request and waits for the head of the answer.
    pub(super) async fn ask(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        // It may still have to find out that the last answer is over. If it is closed, sending
        // says so, and gives the request back.
        match &mut self.sender {
            Sender::Http1(sender) => {
                let _ = sender.ready().await;
                sender.try_send_request(request).await
            }
            Sender::Http2(sender) => {
                let _ = sender.ready().await;
                sender.try_send_request(request).await
            }
        }
    }
}

//! HTTP/1.1 to a backend, over one connection, for one request at a time.
//!
//! Runs inside the task of the client's connection: no task, channel or lock stands between a
//! client's bytes and a backend's, and what has been sent or received is known to the byte, which
//! is what retries depend on. Refuses answers that are malformed. Called by `link`.

mod encode;
mod receive;
mod send;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use hyper::{
    Response,
    body::{Frame, SizeHint},
};
use tokio::{io::AsyncWrite, net::TcpStream};

pub(super) use encode::Outgoing;
use receive::{Head, Receiving};
use send::Sending;

use super::link::Lost;

/// Answers of 1xx at most, of which one alone makes sense.
const MAX_INTERIM: u32 = 16;

/// A connection to a backend, and how far its request and its answer are.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    sending: Sending,
    receiving: Receiving,
}

/// Why there is no (whole) answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    /// It ended before the answer did.
    #[error("the backend closed the connection too early")]
    Closed,
    /// What came is not HTTP, or not clearly so.
    #[error("the backend's answer is malformed: {0}")]
    Malformed(#[source] Malformed),
    /// The client's body broke off.
    #[error("the client broke off")]
    Client,
}

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// Its head, or its trailers.
    #[error("{0}")]
    Head(httparse::Error),
    /// Their size.
    #[error("its head is too long")]
    TooLong,
    /// A body of doubtful length.
    #[error("the length of its body is not clear")]
    Length,
    /// The chunks of its body.
    #[error("its chunks are not well-formed")]
    Chunk,
    /// Another protocol that nobody asked for.
    #[error("it switches to another protocol unasked")]
    Switch,
    /// More interim answers than make sense.
    #[error("it has no end of interim answers")]
    Interim,
}

/// Writes all of a request, whether its backend wants the body or not.
pub(super) async fn write(
    request: &mut Outgoing,
    stream: &mut (impl AsyncWrite + Unpin),
) -> Result<(), Fault> {
    let mut sending = Sending::default();
    sending.begin(request);
    sending.go_on();
    poll_fn(|context| sending.poll(stream, context)).await
}

impl Wire {
    /// On a new connection.
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            sending: Sending::default(),
            receiving: Receiving::default(),
        }
    }

    /// Whether the backend has closed it, or says what nobody asked.
    pub(super) fn is_stale(&self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Begins a request. The connection must be new, or as the last request left it, reusable.
    pub(super) fn begin(&mut self, request: &mut Outgoing) {
        self.sending.begin(request);
        self.receiving.begin(request);
    }

    /// What becomes of a request whose answer did not come, for this fault.
    pub(super) fn lost(mut self, request: &mut Outgoing, fault: Fault) -> Lost {
        if matches!(fault, Fault::Client) {
            return Lost::Final(fault);
        }
        if self.sending.is_unsent() && self.receiving.is_unanswered() {
            request.unsent = Some(Box::new(self.sending.into_unsent()));
            return Lost::Unsent(fault);
        }
        match self.receiving.is_unanswered() && self.sending.give_back(request) {
            true => Lost::Unanswered(fault),
            false => Lost::Final(fault),
        }
    }

    /// Sends on, until the answer's head is there.
    pub(super) fn poll_head(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, Fault>> {
        let mut interim = 0;
        loop {
            if let Poll::Ready(Err(fault)) = self.sending.poll(&mut self.stream, context) {
                return Poll::Ready(Err(fault));
            }
            match ready!(self.receiving.poll_head(&mut self.stream, context)) {
                Ok(Head::Final(response)) => return Poll::Ready(Ok(response)),
                Ok(Head::Continue) => self.sending.go_on(),
                Ok(Head::Interim) => {}
                Err(fault) => return Poll::Ready(Err(self.sending.cause(fault))),
            }
            interim += 1;
            if interim > MAX_INTERIM {
                return Poll::Ready(Err(Fault::Malformed(Malformed::Interim)));
            }
        }
    }

    /// The next piece of the answer's body. Sends on, too.
    pub(super) fn poll_frame(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        // If that fails, the answer may still be whole.
        let _ = self.sending.poll(&mut self.stream, context);
        self.receiving.poll_frame(&mut self.stream, context)
    }

    /// Whether the answer's body has ended.
    pub(super) fn is_answered(&self) -> bool {
        self.receiving.is_over()
    }

    /// How much of the answer's body is left.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.receiving.size_hint()
    }

    /// Whether another request may follow.
    pub(super) fn is_reusable(&self) -> bool {
        self.sending.is_over() && self.receiving.is_reusable()
    }

    /// The connection itself, for another protocol, and what came of that already.
    pub(super) fn into_parts(self) -> (TcpStream, Bytes) {
        (self.stream, self.receiving.into_rest())
    }
}

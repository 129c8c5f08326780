//! The sending half: a head that is there, and a body as it comes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use hyper::{
    HeaderMap,
    body::{Body, Frame},
};
use tokio::{
    io::AsyncWrite,
    time::{Sleep, sleep},
};

use super::{
    Fault,
    encode::{Framing, Outgoing, chunk_head, last_chunk},
};
use crate::overflow::request::body::Upload;

/// How long a client that waits for "100 Continue" is kept waiting if the backend says nothing.
const SILENCE: Duration = Duration::from_secs(1);
/// Pieces up to this size are copied, so that they go out together with what is around them.
const SMALL: usize = 8 * 1024;
const LINE_END: &[u8] = b"\r\n";
const LINE_END_AND_LAST_CHUNK: &[u8] = b"\r\n0\r\n\r\n";
/// Memory that a connection keeps for the next request.
const KEEP: usize = 16 * 1024;

#[derive(Debug, Default)]
pub(super) struct Sending {
    /// Bytes to send, and how many of them the kernel has.
    text: Vec<u8>,
    sent: usize,
    /// A larger piece of the body, which goes after that.
    piece: Bytes,
    /// What goes after the piece.
    tail: &'static [u8],
    body: Option<Rising>,
    is_unsent: bool,
    had_body: bool,
    error: Option<io::Error>,
}

/// A body on its way.
#[derive(Debug)]
struct Rising {
    upload: Upload,
    framing: Framing,
    /// The client is not asked for it until the backend has given its word, or has been silent
    /// for too long: asking is what sends "100 Continue" to the client.
    until: Option<Pin<Box<Sleep>>>,
    has_begun: bool,
}

impl Sending {
    pub(super) fn begin(&mut self, request: &mut Outgoing) {
        if let Some(unsent) = request.unsent.take() {
            *self = *unsent;
            return;
        }
        self.text.clear();
        self.text.extend_from_slice(&request.head);
        self.sent = 0;
        self.is_unsent = true;
        self.had_body = request.body.is_some();
        self.body = request.body.take().map(|upload| Rising {
            upload,
            framing: request.framing,
            until: request.awaits_continue.then(|| Box::pin(sleep(SILENCE))),
            has_begun: false,
        });
    }

    pub(super) fn is_unsent(&self) -> bool {
        self.is_unsent
    }

    /// All of it has been sent.
    pub(super) fn is_over(&self) -> bool {
        self.body.is_none() && self.is_flushed() && self.error.is_none()
    }

    /// All of it, to be sent over another connection.
    pub(super) fn into_unsent(mut self) -> Self {
        self.error = None;
        self
    }

    /// Gives the body back, if none of it was asked for; says whether there is none under way.
    pub(super) fn give_back(&mut self, request: &mut Outgoing) -> bool {
        request.body = self
            .body
            .take_if(|rising| !rising.has_begun)
            .map(|rising| rising.upload);
        request.body.is_some() || !self.had_body
    }

    /// The backend wants the body.
    pub(super) fn go_on(&mut self) {
        if let Some(rising) = &mut self.body {
            rising.until = None;
        }
    }

    /// What is at fault: if sending failed before receiving did, that.
    pub(super) fn cause(&mut self, fault: Fault) -> Fault {
        match self.error.take() {
            Some(error) => Fault::Io(error),
            None => fault,
        }
    }

    /// Sends what there is. Ready when all is sent, or nothing more can be.
    pub(super) fn poll(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Fault>> {
        if self.error.is_some() {
            return Poll::Ready(Ok(()));
        }
        if self.is_unsent && self.body.as_ref().is_some_and(|rising| !rising.has_begun) {
            // What is there of the body goes out together with the head.
            if let Poll::Ready(Err(fault)) = self.poll_body(context) {
                return Poll::Ready(Err(fault));
            }
        }
        loop {
            if let Err(error) = ready!(self.poll_flush(stream, context)) {
                // Whoever receives finds out what that means.
                self.error = Some(error);
                return Poll::Ready(Ok(()));
            }
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
            ready!(self.poll_body(context))?;
        }
    }

    fn is_flushed(&self) -> bool {
        self.sent == self.text.len() && self.piece.is_empty() && self.tail.is_empty()
    }

    fn poll_flush(
        &mut self,
        stream: &mut (impl AsyncWrite + Unpin),
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while !self.is_flushed() {
            let stream = Pin::new(&mut *stream);
            let text = &self.text[self.sent..];
            let count = ready!(match self.piece.is_empty() && self.tail.is_empty() {
                true => stream.poll_write(context, text),
                false => {
                    let parts = [text, &self.piece, self.tail].map(IoSlice::new);
                    stream.poll_write_vectored(context, &parts)
                }
            })?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(count);
        }
        self.text.clear();
        self.text.shrink_to(KEEP);
        self.sent = 0;
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, mut count: usize) {
        self.is_unsent = false;
        let of_text = count.min(self.text.len() - self.sent);
        self.sent += of_text;
        count -= of_text;
        let of_piece = count.min(self.piece.len());
        self.piece.advance(of_piece);
        self.tail = &self.tail[count - of_piece..];
    }

    /// Asks for the next piece of the body.
    fn poll_body(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Fault>> {
        let Some(rising) = &mut self.body else {
            return Poll::Ready(Ok(()));
        };
        if let Some(until) = &mut rising.until {
            ready!(until.as_mut().poll(context));
            rising.until = None;
        }
        rising.has_begun = true;
        let frame = match ready!(Pin::new(&mut rising.upload).poll_frame(context)) {
            Some(Ok(frame)) => Some(frame),
            Some(Err(_)) => return Poll::Ready(Err(Fault::Client)),
            None => None,
        };
        let is_last = frame.is_none() || rising.upload.is_end_stream();
        match (&mut rising.framing, frame.map(Frame::into_data)) {
            (Framing::Length(left), Some(Ok(data))) => {
                *left = left.checked_sub(data.len() as u64).ok_or(Fault::Client)?;
                let is_last = *left == 0;
                self.piece(data);
                if is_last {
                    self.body = None;
                }
            }
            (Framing::Length(_), _) => return Poll::Ready(Err(Fault::Client)),
            (Framing::Chunked, Some(Ok(data))) => {
                self.chunk(data);
                if is_last {
                    self.end(None);
                }
            }
            (Framing::Chunked, Some(Err(frame))) => self.end(frame.into_trailers().ok().as_ref()),
            (Framing::Chunked, None) => self.end(None),
        }
        Poll::Ready(Ok(()))
    }

    fn piece(&mut self, data: Bytes) {
        match data.len() <= SMALL {
            true => self.text.extend_from_slice(&data),
            false => self.piece = data,
        }
    }

    fn chunk(&mut self, data: Bytes) {
        // An empty chunk would be the last one.
        if data.is_empty() {
            return;
        }
        chunk_head(data.len(), &mut self.text);
        self.piece(data);
        match self.piece.is_empty() {
            true => self.text.extend_from_slice(LINE_END),
            false => self.tail = LINE_END,
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) {
        self.body = None;
        if self.piece.is_empty() {
            last_chunk(trailers, &mut self.text);
        } else {
            self.tail = LINE_END_AND_LAST_CHUNK;
        }
    }
}

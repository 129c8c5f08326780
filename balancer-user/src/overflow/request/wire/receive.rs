//! The receiving half: an answer's head, and its body piece by piece.

use std::{
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
};

use arrayvec::ArrayVec;
use bytes::{Buf, Bytes, BytesMut};
use httparse::ParserConfig;
use hyper::{
    HeaderMap, Response, StatusCode, Version,
    body::{Frame, SizeHint},
    ext::ReasonPhrase,
    header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TRANSFER_ENCODING},
};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

use super::{Fault, Malformed, Outgoing};
use crate::overflow::request::{
    head::{MAX_HEAD_BYTES, MAX_HEADERS},
    hops::has_word,
};

/// What is read at once: for heads, and for what is known to be long.
const USUAL: usize = 8 * 1024;
const LARGE: usize = 64 * 1024;
/// Bytes of the line before a chunk at most.
const MAX_CHUNK_LINE_BYTES: usize = 4 * 1024;

#[derive(Debug)]
pub(super) struct Receiving {
    /// What has come and is not passed on.
    buffer: BytesMut,
    rest: Rest,
    /// Bytes of a head that were looked at in vain.
    seen: usize,
    is_unanswered: bool,
    is_head_request: bool,
    may_switch: bool,
    keeps_alive: bool,
}

/// What of the answer is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Head,
    /// So many bytes.
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// All that comes until the connection ends.
    UntilClosed,
    Nothing,
}

/// A head that has come.
#[derive(Debug)]
pub(super) enum Head {
    /// Of the answer.
    Final(Response<()>),
    /// The body is wanted.
    Continue,
    /// Of something that comes before the answer.
    Interim,
}

impl Default for Receiving {
    fn default() -> Self {
        Self {
            buffer: BytesMut::with_capacity(USUAL),
            rest: Rest::Nothing,
            seen: 0,
            is_unanswered: true,
            is_head_request: false,
            may_switch: false,
            keeps_alive: true,
        }
    }
}

impl Receiving {
    pub(super) fn begin(&mut self, request: &Outgoing) {
        self.rest = Rest::Head;
        self.seen = 0;
        self.is_unanswered = true;
        self.is_head_request = request.is_head;
        self.may_switch = request.is_upgrade;
    }

    pub(super) fn is_unanswered(&self) -> bool {
        self.is_unanswered
    }

    pub(super) fn is_over(&self) -> bool {
        self.rest == Rest::Nothing
    }

    pub(super) fn is_reusable(&self) -> bool {
        self.is_over() && self.keeps_alive && self.buffer.is_empty()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.rest {
            Rest::Length(left) => SizeHint::with_exact(left),
            Rest::Nothing => SizeHint::with_exact(0),
            _ => SizeHint::default(),
        }
    }

    pub(super) fn into_rest(self) -> Bytes {
        self.buffer.freeze()
    }

    /// Reads more, into room for so much.
    fn poll_fill(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
        room: usize,
    ) -> Poll<Result<(), Fault>> {
        if self.buffer.capacity() - self.buffer.len() < room / 2 {
            self.buffer.reserve(room);
        }
        match ready!(poll_read_buf(Pin::new(stream), context, &mut self.buffer))? {
            0 => Poll::Ready(Err(Fault::Closed)),
            _ => {
                self.is_unanswered = false;
                Poll::Ready(Ok(()))
            }
        }
    }

    pub(super) fn poll_head(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<Result<Head, Fault>> {
        loop {
            if self.buffer.len() > self.seen
                && let Some(head) = self.parse_head().map_err(Fault::Malformed)?
            {
                return Poll::Ready(Ok(head));
            }
            self.seen = self.buffer.len();
            if self.seen >= MAX_HEAD_BYTES {
                return Poll::Ready(Err(Fault::Malformed(Malformed::TooLong)));
            }
            ready!(self.poll_fill(stream, context, USUAL))?;
        }
    }

    fn parse_head(&mut self) -> Result<Option<Head>, Malformed> {
        let mut places = ArrayVec::<Place, MAX_HEADERS>::new();
        let (length, status, version, reason) = {
            let mut lines = [const { MaybeUninit::uninit() }; MAX_HEADERS];
            let mut head = httparse::Response::new(&mut []);
            let parsed = ParserConfig::default().parse_response_with_uninit_headers(
                &mut head,
                &self.buffer,
                &mut lines,
            );
            let length = match parsed.map_err(Malformed::Head)? {
                httparse::Status::Complete(length) => length,
                httparse::Status::Partial => return Ok(None),
            };
            let status = head.code.and_then(|code| StatusCode::from_u16(code).ok());
            let status = status.ok_or(Malformed::Head(httparse::Error::Status))?;
            let version = match head.version {
                Some(1) => Version::HTTP_11,
                _ => Version::HTTP_10,
            };
            let reason = head
                .reason
                .filter(|reason| Some(*reason) != status.canonical_reason())
                .and_then(|reason| ReasonPhrase::try_from(reason.as_bytes()).ok());
            places.extend(
                head.headers
                    .iter()
                    .map(|line| Place::of(line, &self.buffer)),
            );
            (length, status, version, reason)
        };
        let text = self.buffer.split_to(length).freeze();
        self.seen = 0;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(match status {
                StatusCode::CONTINUE => Head::Continue,
                _ => Head::Interim,
            }));
        }
        let mut response = Response::new(());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.reserve(places.len() + 2);
        for place in &places {
            let (name, value) = place.cut(&text)?;
            headers.append(name, value);
        }
        self.rest = self.framing(status, version, headers)?;
        if let Some(reason) = reason {
            response.extensions_mut().insert(reason);
        }
        Ok(Some(Head::Final(response)))
    }

    /// How the end of the body is found (RFC 9112, 6.3), and whether the connection goes on.
    fn framing(
        &mut self,
        status: StatusCode,
        version: Version,
        headers: &mut HeaderMap,
    ) -> Result<Rest, Malformed> {
        let says = |word| headers.contains_key(CONNECTION) && has_word(headers, &CONNECTION, word);
        self.keeps_alive = match version {
            Version::HTTP_11 => !says("close"),
            _ => says("keep-alive"),
        };
        if status == StatusCode::SWITCHING_PROTOCOLS {
            self.keeps_alive = false;
            return match self.may_switch {
                true => Ok(Rest::Nothing),
                false => Err(Malformed::Switch),
            };
        }
        let length = length(headers)?;
        let has_encoding = headers.contains_key(TRANSFER_ENCODING);
        if has_encoding && (length.is_some() || version == Version::HTTP_10) {
            return Err(Malformed::Length);
        }
        let has_no_body = self.is_head_request
            || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if has_no_body {
            return Ok(Rest::Nothing);
        }
        Ok(match (has_encoding, length) {
            (true, _) if is_chunked(headers) => Rest::ChunkSize,
            (true, _) => return Err(Malformed::Length),
            (false, Some(0)) => Rest::Nothing,
            (false, Some(length)) => Rest::Length(length),
            (false, None) => {
                self.keeps_alive = false;
                Rest::UntilClosed
            }
        })
    }

    pub(super) fn poll_frame(
        &mut self,
        stream: &mut TcpStream,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Fault>>> {
        loop {
            match self.next_frame() {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) => {}
                Err(fault) => return Poll::Ready(Some(Err(Fault::Malformed(fault)))),
            }
            let room = match self.rest {
                Rest::Nothing => return Poll::Ready(None),
                Rest::Length(left) | Rest::Chunk(left) if left > USUAL as u64 => LARGE,
                Rest::UntilClosed => LARGE,
                _ => USUAL,
            };
            match ready!(self.poll_fill(stream, context, room)) {
                Ok(()) => {}
                Err(Fault::Closed) if self.rest == Rest::UntilClosed => {
                    self.rest = Rest::Nothing;
                    return Poll::Ready(None);
                }
                Err(fault) => return Poll::Ready(Some(Err(fault))),
            }
        }
    }

    /// A frame, from what has come. `None`: more must come first, or there is no more.
    fn next_frame(&mut self) -> Result<Option<Frame<Bytes>>, Malformed> {
        while !self.buffer.is_empty() {
            match self.rest {
                Rest::Head | Rest::Nothing => break,
                Rest::UntilClosed => return Ok(self.piece(u64::MAX, Rest::Length, Rest::Nothing)),
                Rest::Length(left) => return Ok(self.piece(left, Rest::Length, Rest::Nothing)),
                Rest::Chunk(left) => return Ok(self.piece(left, Rest::Chunk, Rest::ChunkEnd)),
                Rest::ChunkEnd => {
                    if self.buffer.len() < 2 {
                        break;
                    }
                    if !self.buffer.starts_with(b"\r\n") {
                        return Err(Malformed::Chunk);
                    }
                    self.buffer.advance(2);
                    self.rest = Rest::ChunkSize;
                }
                Rest::ChunkSize => {
                    if !self.chunk_size()? {
                        break;
                    }
                }
                Rest::Trailers => return self.trailers(),
            }
        }
        Ok(None)
    }

    fn piece(&mut self, left: u64, more: fn(u64) -> Rest, then: Rest) -> Option<Frame<Bytes>> {
        let count = left.min(self.buffer.len() as u64);
        if self.rest != Rest::UntilClosed {
            self.rest = match left - count {
                0 => then,
                left => more(left),
            };
        }
        Some(Frame::data(self.buffer.split_to(count as usize).freeze()))
    }

    /// Says whether the line was whole.
    fn chunk_size(&mut self) -> Result<bool, Malformed> {
        match httparse::parse_chunk_size(&self.buffer) {
            Ok(httparse::Status::Complete((length, size))) => {
                self.buffer.advance(length);
                self.rest = match size {
                    0 => Rest::Trailers,
                    size => Rest::Chunk(size),
                };
                Ok(true)
            }
            Ok(httparse::Status::Partial) if self.buffer.len() < MAX_CHUNK_LINE_BYTES => Ok(false),
            _ => Err(Malformed::Chunk),
        }
    }

    /// The trailers, once they are whole: none at all make no frame.
    fn trailers(&mut self) -> Result<Option<Frame<Bytes>>, Malformed> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut trailers = HeaderMap::new();
        let length = match httparse::parse_headers(&self.buffer, &mut lines) {
            Ok(httparse::Status::Complete((length, lines))) => {
                for line in lines {
                    let (name, value) = (
                        HeaderName::from_bytes(line.name.as_bytes()),
                        HeaderValue::from_bytes(line.value),
                    );
                    let (Ok(name), Ok(value)) = (name, value) else {
                        return Err(Malformed::Chunk);
                    };
                    trailers.append(name, value);
                }
                length
            }
            Ok(httparse::Status::Partial) if self.buffer.len() < MAX_HEAD_BYTES => return Ok(None),
            Ok(httparse::Status::Partial) => return Err(Malformed::TooLong),
            Err(error) => return Err(Malformed::Head(error)),
        };
        self.buffer.advance(length);
        self.rest = Rest::Nothing;
        Ok((!trailers.is_empty()).then(|| Frame::trailers(trailers)))
    }
}

/// Where a header stands in the text of a head.
#[derive(Clone, Copy, Debug)]
struct Place {
    name: (usize, usize),
    value: (usize, usize),
}

impl Place {
    fn of(line: &httparse::Header<'_>, text: &[u8]) -> Self {
        let place = |part: &[u8]| {
            let start = part.as_ptr() as usize - text.as_ptr() as usize;
            (start, start + part.len())
        };
        Self {
            name: place(line.name.as_bytes()),
            value: place(line.value),
        }
    }

    fn cut(&self, text: &Bytes) -> Result<(HeaderName, HeaderValue), Malformed> {
        let name = HeaderName::from_bytes(&text[self.name.0..self.name.1]);
        let value = HeaderValue::from_maybe_shared(text.slice(self.value.0..self.value.1));
        match (name, value) {
            (Ok(name), Ok(value)) => Ok((name, value)),
            (Err(_), _) => Err(Malformed::Head(httparse::Error::HeaderName)),
            (_, Err(_)) => Err(Malformed::Head(httparse::Error::HeaderValue)),
        }
    }
}

/// What `Content-Length` says; several that say the same count as one.
fn length(headers: &mut HeaderMap) -> Result<Option<u64>, Malformed> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = values.next() else {
        return Ok(None);
    };
    let is_number = !first.is_empty() && first.as_bytes().iter().all(u8::is_ascii_digit);
    let length = first
        .to_str()
        .ok()
        .filter(|_| is_number)
        .and_then(|text| text.parse().ok());
    let length = length.ok_or(Malformed::Length)?;
    let mut is_repeated = false;
    for other in values {
        is_repeated = true;
        if other != first {
            return Err(Malformed::Length);
        }
    }
    if is_repeated {
        let first = first.clone();
        headers.insert(CONTENT_LENGTH, first);
    }
    Ok(Some(length))
}

/// Whether `chunked` is the one encoding there is.
fn is_chunked(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(TRANSFER_ENCODING).iter();
    let first = values.next();
    values.next().is_none()
        && first.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

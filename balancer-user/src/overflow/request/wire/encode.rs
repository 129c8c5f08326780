//! A request as it goes to a backend.

use hyper::{
    HeaderMap, Method,
    body::Body,
    header::{
        AUTHORIZATION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST,
        HeaderName, HeaderValue, SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING,
    },
    http::request,
};

use super::send::Sending;
use crate::overflow::request::body::Upload;

/// What may not stand in trailers, since it decides about the message itself (RFC 9110, 6.5.1).
const NOT_IN_TRAILERS: [HeaderName; 10] = [
    AUTHORIZATION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    CONTENT_TYPE,
    HOST,
    SET_COOKIE,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
];

/// A request, ready to be sent: if need be, again.
#[derive(Debug)]
pub(in crate::overflow::request) struct Outgoing {
    pub(super) head: Vec<u8>,
    pub(super) framing: Framing,
    /// Gone while it is being sent.
    pub(super) body: Option<Upload>,
    pub(super) is_head: bool,
    pub(super) is_upgrade: bool,
    pub(super) awaits_continue: bool,
    /// What a broken connection was about to send, when it had sent nothing.
    pub(super) unsent: Option<Box<Sending>>,
}

/// How the end of a body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// So many bytes are missing.
    Length(u64),
    /// By an empty chunk.
    Chunked,
}

impl Outgoing {
    /// A request with this head. `is_upgrade`: it may switch protocols; `awaits_continue`: its body
    /// comes only if the backend wants it.
    pub(in crate::overflow::request) fn new(
        mut head: request::Parts,
        body: Upload,
        is_upgrade: bool,
        awaits_continue: bool,
    ) -> Self {
        let framing = framing(&mut head.headers, &body);
        let has_body = framing != Framing::Length(0);
        Self {
            head: encode(&head),
            framing,
            body: has_body.then_some(body),
            is_head: head.method == Method::HEAD,
            is_upgrade,
            awaits_continue: awaits_continue && has_body,
            unsent: None,
        }
    }
}

/// How a body is framed, and that its head says so.
fn framing(headers: &mut HeaderMap, body: &Upload) -> Framing {
    if body.is_end_stream() && !headers.contains_key(TRANSFER_ENCODING) {
        return Framing::Length(0);
    }
    let length = headers.get(CONTENT_LENGTH).and(body.size_hint().exact());
    match length {
        Some(length) => Framing::Length(length),
        None => {
            headers.remove(CONTENT_LENGTH);
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            Framing::Chunked
        }
    }
}

fn encode(head: &request::Parts) -> Vec<u8> {
    let headers: usize = head
        .headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    let target = head
        .uri
        .path_and_query()
        .map_or("/", |target| target.as_str());
    let mut text = Vec::with_capacity(head.method.as_str().len() + target.len() + headers + 20);
    text.extend_from_slice(head.method.as_str().as_bytes());
    text.push(b' ');
    text.extend_from_slice(target.as_bytes());
    text.extend_from_slice(b" HTTP/1.1\r\n");
    lines(&head.headers, &mut text);
    text.extend_from_slice(b"\r\n");
    text
}

fn lines(headers: &HeaderMap, text: &mut Vec<u8>) {
    for (name, value) in headers {
        line(name, value, text);
    }
}

fn line(name: &HeaderName, value: &HeaderValue, text: &mut Vec<u8>) {
    text.extend_from_slice(name.as_str().as_bytes());
    text.extend_from_slice(b": ");
    text.extend_from_slice(value.as_bytes());
    text.extend_from_slice(b"\r\n");
}

/// What stands before a chunk of this size.
pub(super) fn chunk_head(size: usize, text: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    text.extend(
        (0..digits)
            .rev()
            .map(|place| DIGITS[size >> (4 * place) & 15]),
    );
    text.extend_from_slice(b"\r\n");
}

/// The end of a body in chunks.
pub(super) fn last_chunk(trailers: Option<&HeaderMap>, text: &mut Vec<u8>) {
    text.extend_from_slice(b"0\r\n");
    for (name, value) in trailers.into_iter().flatten() {
        if !NOT_IN_TRAILERS.contains(name) {
            line(name, value, text);
        }
    }
    text.extend_from_slice(b"\r\n");
}

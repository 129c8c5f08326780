//! What of a head is passed on, what is taken out, and what is added.

use hyper::{
    HeaderMap, Method, StatusCode, Uri, Version,
    body::Bytes,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, Entry, HOST, HeaderName, HeaderValue, TE,
        TRAILER, TRANSFER_ENCODING, UPGRADE,
    },
    http::{request, response, uri::PathAndQuery},
};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const PROXY_AUTHENTICATE: HeaderName = HeaderName::from_static("proxy-authenticate");
const PROXY_AUTHENTICATION_INFO: HeaderName = HeaderName::from_static("proxy-authentication-info");
const PROXY_AUTHORIZATION: HeaderName = HeaderName::from_static("proxy-authorization");

/// Of these, no client may have any taken out by naming it in `Connection`.
const NEVER_NAMED: [HeaderName; 8] = [
    HOST,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    TRAILER,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    FORWARDED_HOST,
    REQUEST_ID,
];

/// The longest `x-request-id` that is kept.
const MAX_ID_BYTES: usize = 128;

/// Why a head is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// A request without its host, or with several.
    #[error("a request names exactly one host")]
    Host,
    /// CONNECT.
    #[error("this is no forward proxy: CONNECT is not served")]
    Connect,
    /// An expectation other than 100-continue.
    #[error("no expectation but 100-continue is known")]
    Expectation,
}

impl Malformed {
    pub(super) const fn status(self) -> StatusCode {
        match self {
            Self::Host => StatusCode::BAD_REQUEST,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
        }
    }

    /// The methods that would be served instead.
    pub(super) const fn allowed(self) -> Option<HeaderValue> {
        match self {
            Self::Connect => Some(HeaderValue::from_static(
                "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS, TRACE",
            )),
            _ => None,
        }
    }
}

/// What the rest of the way depends on.
#[derive(Debug)]
pub(super) struct Facts {
    /// Sent upstream and back.
    pub(super) id: HeaderValue,
    /// The client wants another protocol from here on.
    pub(super) is_upgrade: bool,
    /// The client sends its body only when told to.
    pub(super) awaits_continue: bool,
    /// It is gRPC over HTTP/2, which needs HTTP/2 upstream too.
    pub(super) is_grpc: bool,
}

/// Makes a client's request into the one that goes upstream, but for its protocol version.
pub(super) fn prepare(
    head: &mut request::Parts,
    client: &HeaderValue,
    host: &HeaderValue,
) -> Result<Facts, Malformed> {
    if head.method == Method::CONNECT {
        return Err(Malformed::Connect);
    }
    name_host(head, host)?;
    let awaits_continue = expectation(head)?;
    let is_http2 = head.version == Version::HTTP_2;
    let headers = &mut head.headers;
    let is_upgrade = head.version == Version::HTTP_11
        && headers.contains_key(UPGRADE)
        && is_named(headers, CONNECTION, "upgrade");
    let takes_trailers = headers.contains_key(TE) && is_named(headers, TE, "trailers");
    let is_chunked = headers.contains_key(TRANSFER_ENCODING);
    let upgrade = match is_upgrade {
        true => headers.remove(UPGRADE),
        false => None,
    };
    drop_hop_by_hop(headers);
    headers.remove(TE);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    if is_chunked {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    } else if takes_trailers && !is_http2 {
        headers.insert(CONNECTION, HeaderValue::from_static("te"));
    }
    forwarded(headers, client);
    Ok(Facts {
        id: request_id(headers),
        is_upgrade,
        awaits_continue,
        is_grpc: is_http2 && is_grpc(headers),
    })
}

/// Takes out of an answer what concerns the upstream connection only.
pub(super) fn prepare_answer(head: &mut response::Parts) {
    head.version = Version::HTTP_11;
    let headers = &mut head.headers;
    let upgrade = match head.status {
        StatusCode::SWITCHING_PROTOCOLS => headers.remove(UPGRADE),
        _ => None,
    };
    drop_hop_by_hop(headers);
    if let Some(upgrade) = upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, upgrade);
    }
}

/// Tells the client the id of its request.
pub(super) fn name(headers: &mut HeaderMap, id: HeaderValue) {
    headers.insert(REQUEST_ID, id);
}

/// Sees to it that there is one `Host` header, and that the target is in origin form.
fn name_host(head: &mut request::Parts, default: &HeaderValue) -> Result<(), Malformed> {
    let mut hosts = head.headers.get_all(HOST).iter();
    let has_host = hosts.next().is_some();
    if hosts.next().is_some() {
        return Err(Malformed::Host);
    }
    if let Some(authority) = head.uri.authority() {
        // RFC 9112, 3.2.2: what the target names goes before what the header does.
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Malformed::Host)?;
        head.headers.insert(HOST, host);
        let target = head.uri.path_and_query().cloned();
        head.uri = Uri::from(target.unwrap_or_else(|| PathAndQuery::from_static("/")));
    } else if !has_host {
        if head.version == Version::HTTP_11 {
            return Err(Malformed::Host);
        }
        head.headers.insert(HOST, default.clone());
    }
    Ok(())
}

fn expectation(head: &request::Parts) -> Result<bool, Malformed> {
    match head.headers.get(EXPECT) {
        None => Ok(false),
        Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
            // RFC 9110, 10.1.1: of an HTTP/1.0 client it is ignored.
            Ok(head.version >= Version::HTTP_11)
        }
        Some(_) => Err(Malformed::Expectation),
    }
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    drop_named(headers);
    for name in [
        CONNECTION,
        KEEP_ALIVE,
        UPGRADE,
        TRANSFER_ENCODING,
        PROXY_CONNECTION,
        PROXY_AUTHENTICATE,
        PROXY_AUTHENTICATION_INFO,
        PROXY_AUTHORIZATION,
    ] {
        headers.remove(name);
    }
}

/// Drops the headers that `Connection` names.
fn drop_named(headers: &mut HeaderMap) {
    // Most say nothing else.
    let is_plain = |value: &HeaderValue| {
        let value = value.as_bytes();
        value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
    };
    if headers.get_all(CONNECTION).iter().all(is_plain) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(tokens)
        .filter_map(|token| HeaderName::from_bytes(token).ok())
        .filter(|name| !NEVER_NAMED.contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

fn forwarded(headers: &mut HeaderMap, client: &HeaderValue) {
    match headers.get_all(FORWARDED_FOR).iter().next() {
        None => {
            headers.insert(FORWARDED_FOR, client.clone());
        }
        Some(_) => {
            let mut chain = Vec::new();
            for value in headers.get_all(FORWARDED_FOR) {
                chain.extend_from_slice(value.as_bytes());
                chain.extend_from_slice(b", ");
            }
            chain.extend_from_slice(client.as_bytes());
            if let Ok(chain) = HeaderValue::from_maybe_shared(Bytes::from(chain)) {
                headers.insert(FORWARDED_FOR, chain);
            }
        }
    }
    if let Entry::Vacant(entry) = headers.entry(FORWARDED_PROTO) {
        entry.insert(HeaderValue::from_static("http"));
    }
    if !headers.contains_key(FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// The request's id: the client's if it is fit for logs, or else a new one.
fn request_id(headers: &mut HeaderMap) -> HeaderValue {
    let mut ids = headers.get_all(REQUEST_ID).iter();
    if let (Some(id), None) = (ids.next(), ids.next())
        && (1..=MAX_ID_BYTES).contains(&id.len())
        && id.as_bytes().iter().all(u8::is_ascii_graphic)
    {
        return id.clone();
    }
    let id = new_id();
    headers.insert(REQUEST_ID, id.clone());
    id
}

fn new_id() -> HeaderValue {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let random = fastrand::u128(..);
    let digits: [u8; 32] =
        std::array::from_fn(|place| DIGITS[(random >> (4 * place)) as usize & 15]);
    HeaderValue::from_bytes(&digits).expect("hexadecimal digits may stand in headers")
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// Whether a header, a list of words, names this one.
fn is_named(headers: &HeaderMap, header: HeaderName, word: &str) -> bool {
    headers
        .get_all(header)
        .iter()
        .flat_map(tokens)
        .any(|token| token.eq_ignore_ascii_case(word.as_bytes()))
}

fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(|token| token.trim_ascii())
}

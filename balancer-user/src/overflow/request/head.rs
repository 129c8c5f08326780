//! What of a head is passed on, what is taken out, and what is added.

use hyper::{
    HeaderMap, Method, StatusCode, Uri, Version,
    body::Bytes,
    header::{
        CONNECTION, CONTENT_TYPE, EXPECT, HOST, HeaderName, HeaderValue, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
    http::{request, uri::PathAndQuery},
};

use super::{
    cookie,
    hops::{self, Seen},
};

pub(super) const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(super) const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(super) const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Bytes of a head at most, and lines of headers, of requests and of answers.
pub(super) const MAX_HEAD_BYTES: usize = 64 * 1024;
pub(super) const MAX_HEADERS: usize = 100;

/// The longest `x-request-id` that is kept.
const MAX_ID_BYTES: usize = 128;

/// Why a head is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Malformed {
    /// A request without its host, or with several.
    #[error("a request names exactly one host")]
    Host,
    /// A target that cannot be written in origin form.
    #[error("the target is too long")]
    Target,
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
            Self::Target => StatusCode::URI_TOO_LONG,
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
    let seen = Seen::among(&head.headers);
    name_host(head, host, seen)?;
    let awaits_continue = seen.has(Seen::EXPECT) && expectation(head)?;
    let is_http2 = head.version == Version::HTTP_2;
    let headers = &mut head.headers;
    let is_upgrade = head.version == Version::HTTP_11
        && seen.has(Seen::UPGRADE)
        && hops::has_word(headers, &CONNECTION, "upgrade")
        // HTTP/2 in a tunnel could carry many requests in one slot.
        && !hops::has_word(headers, &UPGRADE, "h2c");
    let takes_trailers = seen.has(Seen::TE) && hops::has_word(headers, &TE, "trailers");
    hops::strip(headers, seen, is_upgrade);
    if takes_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if !is_http2 && !is_upgrade {
            headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
    }
    if seen.has(Seen::TRANSFER_ENCODING) {
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if is_http2 && seen.has(Seen::COOKIE) {
        cookie::join(headers);
    }
    forwarded(headers, client, seen);
    Ok(Facts {
        id: request_id(headers, seen),
        is_upgrade,
        awaits_continue,
        is_grpc: is_http2 && is_grpc(headers),
    })
}

/// Takes out of an answer what concerns the upstream connection only, and names its request.
pub(super) fn prepare_answer(status: StatusCode, headers: &mut HeaderMap) {
    let is_upgrade = status == StatusCode::SWITCHING_PROTOCOLS;
    hops::strip(headers, Seen::among(headers), is_upgrade);
}

/// Tells the client the id of its request.
pub(super) fn name(headers: &mut HeaderMap, id: HeaderValue) {
    headers.insert(REQUEST_ID, id);
}

/// Sees to it that there is one `Host` header, and that the target is in origin form.
fn name_host(
    head: &mut request::Parts,
    default: &HeaderValue,
    seen: Seen,
) -> Result<(), Malformed> {
    let has_host = seen.has(Seen::HOST);
    if has_host && head.headers.get_all(HOST).iter().nth(1).is_some() {
        return Err(Malformed::Host);
    }
    if let Some(authority) = head.uri.authority() {
        // RFC 9112, 3.2.2: what the target names goes before what the header does.
        let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Malformed::Host)?;
        head.headers.insert(HOST, host);
    } else if !has_host {
        if head.version == Version::HTTP_11 {
            return Err(Malformed::Host);
        }
        head.headers.insert(HOST, default.clone());
    }
    to_origin_form(&mut head.uri)
}

/// Leaves of a target its path and query. RFC 9112, 3.2.1: an empty path is written, before a query
/// too.
fn to_origin_form(target: &mut Uri) -> Result<(), Malformed> {
    let origin = target.path_and_query().map_or("/", PathAndQuery::as_str);
    if origin.starts_with('?') {
        let with_path = Uri::try_from(format!("/{origin}"));
        *target = with_path.map_err(|_| Malformed::Target)?;
    } else if target.authority().is_some() {
        let origin = target.path_and_query().cloned();
        *target = Uri::from(origin.unwrap_or_else(|| PathAndQuery::from_static("/")));
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

fn forwarded(headers: &mut HeaderMap, client: &HeaderValue, seen: Seen) {
    if seen.has(Seen::FORWARDED_FOR) {
        let mut chain = Vec::new();
        for value in headers.get_all(FORWARDED_FOR) {
            chain.extend_from_slice(value.as_bytes());
            chain.extend_from_slice(b", ");
        }
        chain.extend_from_slice(client.as_bytes());
        if let Ok(chain) = HeaderValue::from_maybe_shared(Bytes::from(chain)) {
            headers.insert(FORWARDED_FOR, chain);
        }
    } else {
        headers.insert(FORWARDED_FOR, client.clone());
    }
    if !seen.has(Seen::FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if !seen.has(Seen::FORWARDED_HOST)
        && let Some(host) = headers.get(HOST).cloned()
    {
        headers.insert(FORWARDED_HOST, host);
    }
}

/// The request's id: the client's if it is fit for logs, or else a new one.
pub(super) fn id_of(headers: &mut HeaderMap) -> HeaderValue {
    request_id(headers, Seen::among(headers))
}

fn request_id(headers: &mut HeaderMap, seen: Seen) -> HeaderValue {
    let mut ids = seen
        .has(Seen::REQUEST_ID)
        .then(|| headers.get_all(REQUEST_ID).iter())
        .into_iter()
        .flatten();
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

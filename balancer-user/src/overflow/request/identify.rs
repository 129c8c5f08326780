//! Who sends a request: by where it comes from, or by what its head says.
//!
//! Refuses to believe anything that decides about more than the choice of a backend. Called by
//! `exchange` for each request, since one connection may carry those of many clients.

use hyper::{header::HOST, http::request};

use super::{cookie, head::FORWARDED_PROTO};
use crate::{
    model::{Affinity, CookieName, HashKey, HeaderName},
    overflow::{Bond, Identity, Queue, Token, View, identity},
};

/// Words of a sticky cookie that are looked at: an honest client sends one.
const MAX_WORDS: usize = 4;

/// The client of a request as it came. `source` is the number of the address that it came from.
/// The sticky cookie, if the service has one, is taken out: backends need not see it.
pub(super) fn identify(
    head: &mut request::Parts,
    source: u64,
    view: &View,
    queue: &Queue,
) -> Identity {
    let value = match &view.hash {
        HashKey::Client => None,
        HashKey::Header(name) => header(head, name),
        HashKey::Cookie(name) => cookie::values(&head.headers, name).next(),
    };
    let value = value.filter(|value| !value.is_empty());
    let hashed = value.map_or(source, identity::of_value);
    let bond = match sticky_cookie(view) {
        Some((name, _)) => {
            let words = cookie::values(&head.headers, name).take(MAX_WORDS);
            let named = words
                .filter_map(|word| queue.backend_of(Token::read(word)?))
                .next();
            cookie::remove(&mut head.headers, name);
            Bond::Cookie(named)
        }
        None => Bond::Number(source),
    };
    Identity { hashed, bond }
}

/// The cookie that keeps the service's clients with their backends, if one does.
pub(super) fn sticky_cookie(view: &View) -> Option<(&CookieName, &Affinity)> {
    let affinity = view.affinity.as_ref()?;
    Some((affinity.cookie.as_ref()?, affinity))
}

/// Whether a sticky cookie is to be kept to encrypted connections: if the client's own connection,
/// to whatever is before us, is one, as that says.
pub(super) fn is_secure(head: &request::Parts, view: &View) -> bool {
    if sticky_cookie(view).is_none() {
        return false;
    }
    head.headers.get(FORWARDED_PROTO).is_some_and(|value| {
        let first = value.as_bytes().split(|byte| *byte == b',').next();
        first.is_some_and(|word| word.trim_ascii().eq_ignore_ascii_case(b"https"))
    })
}

/// The value of a header; of several, the first.
fn header<'h>(head: &'h request::Parts, name: &HeaderName) -> Option<&'h [u8]> {
    if name.as_str() == HOST.as_str()
        && let Some(authority) = head.uri.authority()
    {
        // Where HTTP/2 has it, and what goes first in HTTP/1 (RFC 9112, 3.2.2).
        return Some(authority.as_str().as_bytes());
    }
    let value = head.headers.get(name.as_str())?;
    Some(value.as_bytes())
}

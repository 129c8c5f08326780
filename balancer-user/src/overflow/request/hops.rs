//! Headers that concern one connection only, and are never passed on.

use hyper::{
    HeaderMap,
    header::{
        CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING,
        UPGRADE,
    },
};

use super::head::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, REQUEST_ID};

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

/// Those that stay on their connection, beside `Connection`, `TE`, `Transfer-Encoding` and
/// `Upgrade`.
const OTHERS: [HeaderName; 5] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-authenticate"),
    HeaderName::from_static("proxy-authentication-info"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-connection"),
];

/// Which of the headers that matter here a head has, found in one pass: most heads have hardly
/// any, and looking each of them up would cost more than all the rest.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen(u16);

impl Seen {
    pub(super) const HOST: u16 = 1;
    pub(super) const CONNECTION: u16 = 1 << 1;
    pub(super) const TE: u16 = 1 << 2;
    pub(super) const TRANSFER_ENCODING: u16 = 1 << 3;
    pub(super) const UPGRADE: u16 = 1 << 4;
    pub(super) const EXPECT: u16 = 1 << 5;
    pub(super) const FORWARDED_FOR: u16 = 1 << 6;
    pub(super) const FORWARDED_PROTO: u16 = 1 << 7;
    pub(super) const FORWARDED_HOST: u16 = 1 << 8;
    pub(super) const REQUEST_ID: u16 = 1 << 9;
    pub(super) const COOKIE: u16 = 1 << 10;
    /// One of [`OTHERS`].
    const OTHER: u16 = 1 << 11;

    pub(super) fn among(headers: &HeaderMap) -> Self {
        Self(headers.keys().fold(0, |seen, name| seen | Self::bit(name)))
    }

    pub(super) fn has(self, bits: u16) -> bool {
        self.0 & bits != 0
    }

    fn bit(name: &HeaderName) -> u16 {
        match name.as_str() {
            "host" => Self::HOST,
            "connection" => Self::CONNECTION,
            "te" => Self::TE,
            "transfer-encoding" => Self::TRANSFER_ENCODING,
            "upgrade" => Self::UPGRADE,
            "expect" => Self::EXPECT,
            "x-forwarded-for" => Self::FORWARDED_FOR,
            "x-forwarded-proto" => Self::FORWARDED_PROTO,
            "x-forwarded-host" => Self::FORWARDED_HOST,
            "x-request-id" => Self::REQUEST_ID,
            "cookie" => Self::COOKIE,
            "keep-alive"
            | "proxy-authenticate"
            | "proxy-authentication-info"
            | "proxy-authorization"
            | "proxy-connection" => Self::OTHER,
            _ => 0,
        }
    }
}

/// Takes them out; but `Upgrade` stays, and is alone in `Connection`, if the protocol is to change.
pub(super) fn strip(headers: &mut HeaderMap, seen: Seen, is_upgrade: bool) {
    if seen.has(Seen::CONNECTION) {
        strip_named(headers);
        headers.remove(CONNECTION);
    }
    if seen.has(Seen::TE) {
        headers.remove(TE);
    }
    if seen.has(Seen::TRANSFER_ENCODING) {
        headers.remove(TRANSFER_ENCODING);
    }
    if seen.has(Seen::OTHER) {
        for name in &OTHERS {
            headers.remove(name);
        }
    }
    if is_upgrade {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    } else if seen.has(Seen::UPGRADE) {
        headers.remove(UPGRADE);
    }
}

/// Takes out the headers that `Connection` names.
fn strip_named(headers: &mut HeaderMap) {
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
        .flat_map(words)
        .filter_map(|word| HeaderName::from_bytes(word).ok())
        .filter(|name| *name != UPGRADE && !NEVER_NAMED.contains(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// Whether a header, a list of words, has this one.
pub(super) fn has_word(headers: &HeaderMap, header: &HeaderName, word: &str) -> bool {
    headers
        .get_all(header)
        .iter()
        .flat_map(words)
        .any(|other| other.eq_ignore_ascii_case(word.as_bytes()))
}

/// The words of a list, without their parameters.
fn words(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value.as_bytes().split(|byte| *byte == b',').map(|item| {
        let word = item.split(|byte| *byte == b';').next();
        word.unwrap_or_default().trim_ascii()
    })
}

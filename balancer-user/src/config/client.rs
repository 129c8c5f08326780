//! What a service is told of its clients: affinity and the key of consistent hashing.
//!
//! Owns the keys below `affinity` and `hash`. Refuses names that no request can hold, and mappings
//! that say nothing or two things; whether the settings fit the service is `agreement`'s. Called
//! by `settings`.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::problem::Findings;
use super::raw::{At, RawAffinity, RawHash, Text};
use super::shape::WordOr;
use super::value;
use crate::model::{Affinity, HashKey, TokenFault};

const AFFINITY_TIMEOUTS: RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(86_400);

/// `none`, or a mapping; with `client: false` in it that is none as well.
pub(crate) fn affinity(
    raw: &At<WordOr<RawAffinity>>,
    findings: &mut Findings,
) -> Option<Option<Affinity>> {
    let raw = match &raw.value {
        WordOr::Word(word) if &**word == "none" => return Some(None),
        WordOr::Word(word) => {
            findings.reject(
                raw.spot,
                format!("affinity {word:?} is neither none nor a mapping"),
                "write none, or {client: true, timeout: 10m}",
            );
            return None;
        }
        WordOr::Other(affinity) => affinity,
    };
    let client = raw.client.as_ref();
    let client = client.map(|text| value::switch(text.into(), "affinity.client", findings));
    let timeout = raw
        .timeout
        .as_ref()
        .map(|text| value::duration(text.into(), "affinity.timeout", AFFINITY_TIMEOUTS, findings));
    let cookie = raw.cookie.as_ref();
    let cookie = cookie.map(|text| token(text, "affinity.cookie", "cookie", findings));
    let affinity = Affinity {
        timeout: timeout.unwrap_or(Some(Affinity::DEFAULT_TIMEOUT))?,
        cookie: match cookie {
            Some(cookie) => Some(cookie?),
            None => None,
        },
    };
    Some(client.unwrap_or(Some(true))?.then_some(affinity))
}

/// `client`, or the header or the cookie whose value is hashed.
pub(crate) fn hash(raw: &At<WordOr<RawHash>>, findings: &mut Findings) -> Option<HashKey> {
    const HINT: &str = "write client, {header: x-user} or {cookie: session}";
    let wrong = match &raw.value {
        WordOr::Word(word) if &**word == "client" => return Some(HashKey::Client),
        WordOr::Word(word) => format!("hash {word:?} is neither client nor a mapping"),
        WordOr::Other(RawHash { header, cookie }) => match (header, cookie) {
            (Some(name), None) => {
                return token(name, "hash.header", "header", findings).map(HashKey::Header);
            }
            (None, Some(name)) => {
                return token(name, "hash.cookie", "cookie", findings).map(HashKey::Cookie);
            }
            (Some(_), Some(_)) => "hash names both a header and a cookie".to_owned(),
            (None, None) => "hash names neither a header nor a cookie".to_owned(),
        },
    };
    findings.reject(raw.spot, wrong, HINT);
    None
}

/// The name of a header or a cookie; `key` is where it stands, `what` is which of them it is.
fn token<T: FromStr<Err = TokenFault>>(
    text: &Text,
    key: &str,
    what: &str,
    findings: &mut Findings,
) -> Option<T> {
    let reject = |fault: TokenFault| {
        findings.reject(
            text.spot,
            format!(
                "{key} {:?} cannot be the name of a {what}: {fault}",
                text.value
            ),
            "write letters, digits, '-' and '_', as in x-user",
        );
    };
    text.value.parse().map_err(reject).ok()
}

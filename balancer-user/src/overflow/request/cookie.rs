//! Cookies: reading those of a request, taking one out, and the one that we issue.
//!
//! A client may send several `Cookie` headers, and over HTTP/2 one for each cookie (RFC 9113,
//! 8.2.3): all of them count. Called by `identify` and `exchange`.

use std::time::Duration;

use hyper::{
    HeaderMap,
    body::Bytes,
    header::{COOKIE, HeaderValue},
};

use crate::{model::CookieName, overflow::Token};

/// The values of a cookie, in the order in which they came.
pub(super) fn values<'h>(
    headers: &'h HeaderMap,
    name: &'h CookieName,
) -> impl Iterator<Item = &'h [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(pairs);
    pairs.filter_map(|pair| value_of(pair, name))
}

/// Takes a cookie out of a request. Headers without it stay as they are.
pub(super) fn remove(headers: &mut HeaderMap, name: &CookieName) {
    if values(headers, name).next().is_none() {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        if !pairs(&line).any(|pair| value_of(pair, name).is_some()) {
            headers.append(COOKIE, line);
            continue;
        }
        let others = pairs(&line).filter(|pair| value_of(pair, name).is_none());
        let rest: Vec<&[u8]> = others.filter(|pair| !pair.is_empty()).collect();
        if !rest.is_empty() {
            append(headers, &rest);
        }
    }
}

/// Makes one header of several, as HTTP/1 has it.
pub(super) fn join(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    let parts: Vec<&[u8]> = lines.iter().map(HeaderValue::as_bytes).collect();
    append(headers, &parts);
}

/// The header that gives a client a cookie with this word. It is sent with each answer, since the
/// client forgets the cookie when it has not been used for so long, and only the client knows when
/// it got it.
pub(super) fn issue(
    name: &CookieName,
    token: Token,
    timeout: Duration,
    is_secure: bool,
) -> HeaderValue {
    let lifetime = timeout.as_secs().max(1);
    let secure = if is_secure { "; Secure" } else { "" };
    let text =
        format!("{name}={token}; Path=/; Max-Age={lifetime}; HttpOnly; SameSite=Lax{secure}");
    HeaderValue::try_from(text).expect("a cookie's name is a token of HTTP")
}

fn append(headers: &mut HeaderMap, parts: &[&[u8]]) {
    let text = Bytes::from(parts.join(&b"; "[..]));
    // What headers held, they can hold again.
    if let Ok(line) = HeaderValue::from_maybe_shared(text) {
        headers.append(COOKIE, line);
    }
}

fn pairs(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let pairs = line.as_bytes().split(|byte| *byte == b';');
    pairs.map(<[u8]>::trim_ascii)
}

fn value_of<'p>(pair: &'p [u8], name: &CookieName) -> Option<&'p [u8]> {
    let rest = pair.strip_prefix(name.as_str().as_bytes())?;
    Some(rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[&str]) -> HeaderMap {
        let lines = lines.iter();
        lines
            .map(|line| (COOKIE, HeaderValue::from_str(line).unwrap()))
            .collect()
    }

    fn mine() -> CookieName {
        "mine".parse().unwrap()
    }

    fn left(lines: &[&str]) -> Vec<String> {
        let mut headers = headers(lines);
        remove(&mut headers, &mine());
        let left = headers.get_all(COOKIE).iter();
        left.map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_cookie_is_found_wherever_it_stands() {
        let headers = headers(&[
            "a=1; mine=2;mine = 3 ",
            "mine=",
            "xmine=4; mine2=5; mine; MINE=6",
        ]);
        let mine = mine();
        let found: Vec<_> = values(&headers, &mine).collect();
        assert_eq!(found, [&b"2"[..], b"3", b""]);
    }

    #[test]
    fn the_others_stay_when_one_is_taken_out() {
        assert_eq!(left(&["a=1;b=2", "c=\"x\""]), ["a=1;b=2", "c=\"x\""]);
        assert_eq!(left(&["a=1; mine=2; b=3; mine=4"]), ["a=1; b=3"]);
        assert_eq!(left(&["mine=2", "a=1", "mine=3"]), ["a=1"]);
        assert_eq!(left(&["mine=2;;"]), Vec::<String>::new());
        assert_eq!(left(&["a=b=mine=2; mine=1"]), ["a=b=mine=2"]);
    }

    #[test]
    fn several_headers_become_one() {
        let mut headers = headers(&["a=1", "b=2", "c=3; d=4"]);
        join(&mut headers);
        let lines: Vec<_> = headers.get_all(COOKIE).iter().collect();
        assert_eq!(lines, ["a=1; b=2; c=3; d=4"]);
    }
}

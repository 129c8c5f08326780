//! How clients are told apart: what keeps one with its backend, and what hashing goes by.
//!
//! Owns affinity, the key of consistent hashing, and the checked names of headers and cookies.
//! Refuses names that could not stand in an HTTP message. Sources build these; `reconcile` and
//! `overflow` go by them.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

/// Sticky sessions: a client stays with the backend that it first reached, while that is available.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// How long a backend is remembered after its client's last use of it.
    pub timeout: Duration,
    /// The cookie that the agent issues to tell clients apart; none: by where they connect from.
    pub cookie: Option<CookieName>,
}

impl Affinity {
    /// How long a backend is remembered unless it is said otherwise.
    pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);
}

/// What strategy `consistent-hash` hashes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum HashKey {
    /// Where the client connects from: its network namespace (kernel) or address (agent).
    #[default]
    Client,
    /// The value of this request header; requests without it go by the client.
    Header(HeaderName),
    /// The value of this cookie; requests without it go by the client.
    Cookie(CookieName),
}

impl fmt::Display for HashKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => out.pad("client"),
            Self::Header(name) => write!(out, "header {name}"),
            Self::Cookie(name) => write!(out, "cookie {name}"),
        }
    }
}

/// The name of a request header, in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderName(Arc<str>);

/// The name of a cookie, in the case it was written in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CookieName(Arc<str>);

impl FromStr for HeaderName {
    type Err = TokenFault;

    fn from_str(text: &str) -> Result<Self, TokenFault> {
        check_token(text)?;
        Ok(Self(text.to_ascii_lowercase().into()))
    }
}

impl FromStr for CookieName {
    type Err = TokenFault;

    fn from_str(text: &str) -> Result<Self, TokenFault> {
        check_token(text)?;
        Ok(Self(text.into()))
    }
}

macro_rules! as_text {
    ($($name:ident),*) => {
        $(
            impl $name {
                /// The name as it stands in a message.
                pub fn as_str(&self) -> &str {
                    &self.0
                }
            }

            impl fmt::Display for $name {
                fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                    out.pad(&self.0)
                }
            }
        )*
    };
}

as_text!(HeaderName, CookieName);

/// Bytes in the name of a header or a cookie at most.
const MAX_TOKEN_BYTES: usize = 128;

/// Why a text cannot name a header or a cookie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenFault {
    /// Nothing is there.
    #[error("it is empty")]
    Empty,
    /// More bytes than are read of one.
    #[error("it has {0} bytes, and such a name has at most {MAX_TOKEN_BYTES} here")]
    TooLong(usize),
    /// A character that a token of HTTP cannot hold.
    #[error("it contains {0:?}, which such a name cannot")]
    Character(char),
}

/// Checks that `text` is a token of HTTP (RFC 9110, section 5.6.2), as header and cookie names are.
fn check_token(text: &str) -> Result<(), TokenFault> {
    let allowed = |c: &char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(*c);
    if text.is_empty() {
        return Err(TokenFault::Empty);
    }
    if text.len() > MAX_TOKEN_BYTES {
        return Err(TokenFault::TooLong(text.len()));
    }
    match text.chars().find(|c| !allowed(c)) {
        Some(character) => Err(TokenFault::Character(character)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_lower_case_and_cookies_as_written() {
        assert_eq!("X-User".parse::<HeaderName>().unwrap().as_str(), "x-user");
        assert_eq!("SESSION".parse::<CookieName>().unwrap().as_str(), "SESSION");
        assert_eq!("X-User".parse::<HeaderName>(), "x-user".parse());
    }

    #[test]
    fn texts_that_no_message_can_hold_are_refused() {
        let long = "a".repeat(129);
        for (text, fault) in [
            ("", TokenFault::Empty),
            (long.as_str(), TokenFault::TooLong(129)),
            ("x user", TokenFault::Character(' ')),
            ("x:y", TokenFault::Character(':')),
            ("a=b", TokenFault::Character('=')),
            ("a;b", TokenFault::Character(';')),
            ("a\r\nb", TokenFault::Character('\r')),
            ("naïve", TokenFault::Character('ï')),
        ] {
            assert_eq!(text.parse::<HeaderName>(), Err(fault), "{text}");
            assert_eq!(text.parse::<CookieName>(), Err(fault), "{text}");
        }
        assert!("a".repeat(128).parse::<CookieName>().is_ok());
    }

    #[test]
    fn a_key_is_shown_by_its_kind_and_name() {
        assert_eq!(HashKey::default().to_string(), "client");
        let header = HashKey::Header("X-User".parse().unwrap());
        assert_eq!(header.to_string(), "header x-user");
        let cookie = HashKey::Cookie("session".parse().unwrap());
        assert_eq!(cookie.to_string(), "cookie session");
    }
}

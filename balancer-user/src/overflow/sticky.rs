//! What a sticky cookie says: a word for a backend that every agent understands.
//!
//! The word is a digest of service and backend, so nothing needs to be remembered or agreed on: any
//! node, and an agent that has just started, knows the words of all backends that it has. It holds
//! no address that could be read; but a client that guesses an address can check its guess, and so
//! can ask for a certain backend of the service, which harms nobody: it gets no slot that is not
//! free.
//!
//! Owns the words and the look-up. Refuses to read a service's backends anew for every unknown word
//! that a client makes up. Called by `request`.

use std::{
    collections::HashMap,
    fmt,
    hash::Hasher,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use siphasher::sip128::{Hasher128, SipHasher24};

use crate::model::ServiceName;

/// Arbitrary but fixed, for the reasons that [`super::identity`] gives.
const KEY: (u64, u64) = (0x6964_6c65_6669_7273, 0x7374_6963_6b79_0001);

/// How soon a service's backends may be read again for the sake of an unknown word.
const REREAD_AFTER: Duration = Duration::from_millis(100);

/// The word for one backend of one service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token(u128);

impl Token {
    /// The word for this backend.
    pub fn of(service: &ServiceName, backend: SocketAddr) -> Self {
        let mut hasher = SipHasher24::new_with_keys(KEY.0, KEY.1);
        for part in [&*service.namespace, &*service.name] {
            hasher.write(part.as_bytes());
            // In no name, so that no two services run together.
            hasher.write(b"\0");
        }
        let octets = match backend.ip() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
        };
        hasher.write(&octets);
        hasher.write(&backend.port().to_be_bytes());
        Self(hasher.finish128().as_u128())
    }

    /// Reads the word as it is written: 32 hexadecimal digits, in lower case.
    pub fn read(text: &[u8]) -> Option<Self> {
        if text.len() != 32 {
            return None;
        }
        text.iter()
            .try_fold(0, |word: u128, digit| {
                let digit = match digit {
                    b'0'..=b'9' => digit - b'0',
                    b'a'..=b'f' => digit - b'a' + 10,
                    _ => return None,
                };
                Some(word << 4 | u128::from(digit))
            })
            .map(Self)
    }
}

impl fmt::Display for Token {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:032x}", self.0)
    }
}

/// A backend of a service, as it stands now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id and generation: together they mean this backend and no other, ever.
    pub backend: (u32, u32),
    /// Where it listens.
    pub address: SocketAddr,
}

/// The words of one service's backends.
#[derive(Debug, Default)]
pub(super) struct Tokens(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    backends: HashMap<Token, (u32, u32)>,
    /// When they were read last, on the monotonic clock.
    read_at: Option<Duration>,
}

impl Tokens {
    /// The backend that a word stands for. `is_member` says whether a backend still is one of the
    /// service's, and `members` reads them all; `now` is on the monotonic clock.
    pub(super) fn backend(
        &self,
        token: Token,
        service: &ServiceName,
        now: Duration,
        is_member: impl Fn((u32, u32)) -> bool,
        members: impl FnOnce() -> Vec<Member>,
    ) -> Option<(u32, u32)> {
        let mut known = self.known();
        let backend = known.backends.get(&token).copied();
        if let Some(backend) = backend.filter(|backend| is_member(*backend)) {
            return Some(backend);
        }
        let is_due = known
            .read_at
            .is_none_or(|at| now.saturating_sub(at) >= REREAD_AFTER);
        if !is_due {
            return None;
        }
        known.read_at = Some(now);
        known.backends = members()
            .into_iter()
            .map(|member| (Token::of(service, member.address), member.backend))
            .collect();
        known.backends.get(&token).copied()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn hello() -> ServiceName {
        "default/hello".parse().unwrap()
    }

    fn member(id: u32) -> Member {
        Member {
            backend: (id, 1),
            address: SocketAddr::from(([10, 0, 0, 1], 8000 + id as u16)),
        }
    }

    #[test]
    fn a_word_is_the_same_everywhere_and_is_read_as_it_is_written() {
        let token = Token::of(&hello(), "10.0.0.1:8080".parse().unwrap());
        // From another implementation of SipHash.
        assert_eq!(token.to_string(), "b5bb3b215e9fa10ee5682b4de89a7d53");
        assert_eq!(Token::read(token.to_string().as_bytes()), Some(token));
        let mapped = "[::ffff:10.0.0.1]:8080".parse().unwrap();
        assert_eq!(Token::of(&hello(), mapped), token);
        for (service, address) in [
            ("default/hello", "10.0.0.1:8081"),
            ("default/hello", "10.0.0.2:8080"),
            ("default/other", "10.0.0.1:8080"),
            ("other/hello", "10.0.0.1:8080"),
        ] {
            let other = Token::of(&service.parse().unwrap(), address.parse().unwrap());
            assert_ne!(other, token, "{service} {address}");
        }
        let upper = token.to_string().to_ascii_uppercase();
        let long = format!("{token}0");
        for text in ["", "0", &upper, &long, "g".repeat(32).as_str()] {
            assert_eq!(Token::read(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn backends_are_read_anew_for_an_unknown_word_and_not_for_each() {
        let tokens = Tokens::default();
        let reads = Cell::new(0);
        let find = |id: u32, present: &[u32], now_ms: u64| {
            tokens.backend(
                Token::of(&hello(), member(id).address),
                &hello(),
                Duration::from_millis(now_ms),
                |(id, _)| present.contains(&id),
                || {
                    reads.set(reads.get() + 1);
                    present.iter().map(|id| member(*id)).collect()
                },
            )
        };
        assert_eq!(find(1, &[1, 2], 0), Some((1, 1)));
        assert_eq!(find(2, &[1, 2], 1), Some((2, 1)));
        assert_eq!(reads.get(), 1);
        for _ in 0..1000 {
            assert_eq!(find(3, &[1, 2], 99), None);
        }
        assert_eq!(reads.get(), 1);
        assert_eq!(find(3, &[1, 2, 3], 100), Some((3, 1)));
        // One that is gone is not handed out.
        assert_eq!(find(1, &[2, 3], 101), None);
        assert_eq!(reads.get(), 2);
    }
}

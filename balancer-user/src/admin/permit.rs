//! Who may change something over the admin API, and how often.
//!
//! Over the unix socket the user that the agent runs as may, and root, as the kernel vouches for
//! them (`SO_PEERCRED`); its group, which can open the socket too, may read. Whoever sends the token
//! of `agent.admin_token_file` may, over every socket. Reading is none of this module's business,
//! and is never held up by it: Prometheus is not to be refused.
//!
//! The token's file is read for each request that offers a token: what was revoked is worth
//! nothing from then on, and while the file is gone or no good nobody gets in by it. Layered over
//! the changing routes by the module above.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header::AUTHORIZATION},
    middleware::Next,
    response::{IntoResponse, Response},
};
use quick_cache::unsync::Cache;
use tokio::task::spawn_blocking;

use super::{
    problem::Refusal,
    rate::{Bucket, Rate},
    serve::Peer,
};
use crate::token::Token;

/// Changes over one listener: more than a script needs that has a command for each.
const CHANGES: Rate = Rate {
    every: Duration::from_millis(5),
    burst: 1000,
};
/// Wrong tokens from one source. Enough for a person, too few for whoever guesses.
const WRONG_TOKENS: Rate = Rate {
    every: Duration::from_secs(1),
    burst: 5,
};
/// Sources whose wrong tokens are counted; beyond, those that sent none lately are forgotten.
const SOURCES: usize = 1024;

/// What a request came over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    /// The unix socket, which only the agent's user and group can open.
    Unix,
    /// TCP, which anybody can open who reaches the address.
    Tcp,
}

/// The rule for one listener.
pub(super) struct Permit {
    transport: Transport,
    token_file: Option<PathBuf>,
    /// The user that the agent runs as.
    owner: u32,
    changes: Mutex<Bucket>,
    wrong_tokens: Mutex<Cache<Source, Bucket>>,
    /// Held while a token is compared: so those that are being compared need not count as wrong, and
    /// many at once get no more tries than one by one.
    comparing: tokio::sync::Mutex<()>,
}

/// Whose attempts are counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Source {
    User(u32),
    /// Of IPv6 the network, of which one host may have every address.
    Address(IpAddr),
    Unknown,
}

impl Permit {
    pub(super) fn new(transport: Transport, token_file: Option<&Path>) -> Arc<Self> {
        Arc::new(Self {
            transport,
            token_file: token_file.map(Path::to_owned),
            owner: nix::unistd::geteuid().as_raw(),
            changes: Mutex::new(Bucket::new(Instant::now())),
            wrong_tokens: Mutex::new(Cache::new(SOURCES)),
            comparing: tokio::sync::Mutex::default(),
        })
    }

    /// Whether a request may change something now.
    async fn admit(&self, peer: Option<&Peer>, headers: &HeaderMap) -> Result<(), Refusal> {
        let user = match self.transport {
            Transport::Unix => peer.and_then(Peer::user),
            Transport::Tcp => None,
        };
        // Root outside of the agent's user namespace does not show as root in it.
        if user.is_none_or(|user| user != self.owner && user != 0) {
            let address = peer.and_then(Peer::address);
            self.admit_by_token(source(user, address), headers).await?;
        }
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes
            .take(CHANGES, Instant::now())
            .map_err(Refusal::TooManyChanges)
    }

    async fn admit_by_token(&self, source: Source, headers: &HeaderMap) -> Result<(), Refusal> {
        let Some(file) = self.token_file.clone() else {
            return Err(match self.transport {
                Transport::Unix => Refusal::NotOwner,
                Transport::Tcp => Refusal::ReadOnly,
            });
        };
        let Some(offered) = bearer(headers) else {
            return Err(Refusal::NoToken);
        };
        let _alone = self.comparing.lock().await;
        self.count(source, |bucket| bucket.look(WRONG_TOKENS, Instant::now()))
            .map_err(Refusal::TooManyWrongTokens)?;
        let token = spawn_blocking(move || Token::read_regular(&file)).await?;
        let token = token.map_err(|error| {
            tracing::error!(%error, "nobody can change anything by token");
            Refusal::TokenUnusable
        })?;
        if !token.is(offered) {
            // There is one to take: nobody else has compared since.
            let _ = self.count(source, |bucket| bucket.take(WRONG_TOKENS, Instant::now()));
            tracing::warn!(?source, "a change was refused: its token is wrong");
            return Err(Refusal::WrongToken);
        }
        Ok(())
    }

    fn count<T>(&self, source: Source, change: impl FnOnce(&mut Bucket) -> T) -> T {
        let wrong_tokens = self.wrong_tokens.lock();
        let mut wrong_tokens = wrong_tokens.unwrap_or_else(PoisonError::into_inner);
        let known = wrong_tokens.get(&source).copied();
        let mut bucket = known.unwrap_or_else(|| Bucket::new(Instant::now()));
        let outcome = change(&mut bucket);
        wrong_tokens.insert(source, bucket);
        outcome
    }
}

/// Lets through what may change something now.
pub(super) async fn check(
    State(permit): State<Arc<Permit>>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<Peer>().cloned();
    match permit.admit(peer.as_ref(), request.headers()).await {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

fn source(user: Option<u32>, address: Option<IpAddr>) -> Source {
    match (user, address) {
        (Some(user), _) => Source::User(user),
        (None, Some(IpAddr::V6(address))) => match address.to_ipv4_mapped() {
            Some(address) => Source::Address(address.into()),
            None => Source::Address(network(address).into()),
        },
        (None, Some(address)) => Source::Address(address),
        (None, None) => Source::Unknown,
    }
}

fn network(address: Ipv6Addr) -> Ipv6Addr {
    let [a, b, c, d, ..] = address.segments();
    [a, b, c, d, 0, 0, 0, 0].into()
}

/// What stands behind `Bearer`, in any case (RFC 9110, 11.1).
fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let value = headers.get(AUTHORIZATION)?.as_bytes();
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    scheme
        .eq_ignore_ascii_case(b"Bearer ")
        .then(|| token.trim_ascii())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    const TOKEN: &str = "a token of twenty-six chars";

    fn offering(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_token_stands_behind_its_scheme() {
        for text in ["Bearer abc", "bearer abc", "BEARER   abc "] {
            assert_eq!(bearer(&offering(text)), Some(b"abc".as_slice()), "{text}");
        }
        for text in ["abc", "Basic abc", "Bearerabc", "Bearer"] {
            assert_eq!(bearer(&offering(text)), None, "{text}");
        }
        assert_eq!(bearer(&HeaderMap::new()), None);
    }

    #[test]
    fn one_host_is_one_source() {
        let source = |text: &str| source(None, Some(text.parse().unwrap()));
        assert_eq!(source("2001:db8:1:2:3::4"), source("2001:db8:1:2:f::f"));
        assert_ne!(source("2001:db8:1:2::"), source("2001:db8:1:3::"));
        assert_eq!(source("::ffff:10.0.0.1"), source("10.0.0.1"));
        assert_ne!(source("10.0.0.1"), source("10.0.0.2"));
    }

    #[tokio::test]
    async fn over_tcp_only_the_token_helps() {
        let path = std::env::temp_dir().join(format!("idlefirst-permit-{}", std::process::id()));
        std::fs::write(&path, TOKEN.replace(' ', "-")).unwrap();
        let right = offering("Bearer a-token-of-twenty-six-chars");
        let wrong = offering("Bearer a-token-of-twenty-six-charS");

        let without = Permit::new(Transport::Tcp, None);
        let refusal = without.admit(None, &right).await.unwrap_err();
        assert!(matches!(refusal, Refusal::ReadOnly), "{refusal}");

        let permit = Permit::new(Transport::Tcp, Some(&path));
        let refusal = permit.admit(None, &HeaderMap::new()).await.unwrap_err();
        assert!(matches!(refusal, Refusal::NoToken), "{refusal}");
        for _ in 0..2 * WRONG_TOKENS.burst {
            permit.admit(None, &right).await.unwrap();
        }
        for _ in 0..WRONG_TOKENS.burst {
            let refusal = permit.admit(None, &wrong).await.unwrap_err();
            assert!(matches!(refusal, Refusal::WrongToken), "{refusal}");
        }
        // Even the right one is not looked at now: otherwise one could go on guessing.
        let refusal = permit.admit(None, &right).await.unwrap_err();
        assert!(
            matches!(refusal, Refusal::TooManyWrongTokens(_)),
            "{refusal}"
        );
        std::fs::remove_file(&path).unwrap();
        let gone = Permit::new(Transport::Tcp, Some(&path));
        let refusal = gone.admit(None, &right).await.unwrap_err();
        assert!(matches!(refusal, Refusal::TokenUnusable), "{refusal}");
    }
}

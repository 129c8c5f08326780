//! The addresses on which the agent takes overflow.
//!
//! Owns `agent.overflow`. Refuses addresses that clients in other network namespaces cannot reach,
//! and two of one family. Finds and binds nothing. Called by `agent`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::problem::Findings;
use super::raw::{At, Text};
use super::shape::WordOr;
use super::value::Written;

/// The addresses on which the agent takes overflow.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Overflow {
    /// The agent finds, for each family, one that clients on this node can reach.
    #[default]
    Auto,
    /// These: at most one of each family. Clients of the other family get no overflow.
    Addresses {
        /// For clients of IPv4 frontends.
        v4: Option<Ipv4Addr>,
        /// For clients of IPv6 frontends.
        v6: Option<Ipv6Addr>,
    },
}

impl From<IpAddr> for Overflow {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => Self::Addresses {
                v4: Some(v4),
                v6: None,
            },
            IpAddr::V6(v6) => Self::Addresses {
                v4: None,
                v6: Some(v6),
            },
        }
    }
}

/// The addresses under `overflow`; what is wrong leaves the default.
pub(crate) fn check(raw: &At<WordOr<Vec<Text>>>, findings: &mut Findings) -> Overflow {
    let (mut v4, mut v6) = (None, None);
    let mut add = |written: Written<'_>, findings: &mut Findings| {
        let Some(address) = overflow_address(written, findings) else {
            return;
        };
        let taken = match address {
            IpAddr::V4(address) => v4.replace(address).is_some(),
            IpAddr::V6(address) => v6.replace(address).is_some(),
        };
        if taken {
            findings.reject(
                written.place,
                format!("overflow {address} is the second address of its family"),
                "keep one IPv4 and one IPv6 address at most",
            );
        }
    };
    match &raw.value {
        WordOr::Word(word) if &**word == "auto" => return Overflow::Auto,
        WordOr::Word(word) => {
            let place = raw.spot.into();
            add(Written { text: word, place }, findings);
        }
        WordOr::Other(list) if list.is_empty() => {
            let hint = "write auto, or one address of each family that clients use";
            findings.reject(raw.spot, "overflow names no address", hint);
        }
        WordOr::Other(list) => list.iter().for_each(|text| add(text.into(), findings)),
    }
    Overflow::Addresses { v4, v6 }
}

fn overflow_address(written: Written<'_>, findings: &mut Findings) -> Option<IpAddr> {
    let Written { text, place } = written;
    let Ok(address) = text.parse::<IpAddr>() else {
        findings.reject(
            place,
            format!("overflow {text:?} is neither auto nor an IP address"),
            "write auto, or an IP address (no port) that clients on this node can reach",
        );
        return None;
    };
    let address = address.to_canonical();
    let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let far = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    if far || link_local || broadcast {
        findings.reject(
            place,
            format!(
                "overflow {address} is not an address that clients in other network namespaces \
                 can reach"
            ),
            "write auto, or an address of one of this node's interfaces",
        );
        return None;
    }
    Some(address)
}

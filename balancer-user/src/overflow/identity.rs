//! Who wants a slot: what strategies hash of a client, and what keeps it with its backend.
//!
//! Owns the hashes of what requests are told apart by. Every node and every start of the agent gets
//! the same number for the same client, or hashing would send it elsewhere. Made by `gate` for
//! connections and by `request` for requests; `ledger` goes by it.

use std::{
    hash::Hasher,
    net::{IpAddr, Ipv6Addr},
};

use siphasher::sip::SipHasher24;

/// Keys of the two hashes. Arbitrary but fixed, and part of what makes all nodes agree: never to be
/// changed. SipHash-2-4 is specified to the bit by its authors, unlike the hash of the standard
/// library, which may change with it; with known keys it is no secret, only well mixed.
const ADDRESS_KEY: (u64, u64) = (0x6964_6c65_6669_7273, 0x636c_6965_6e74_0001);
const VALUE_KEY: (u64, u64) = (0x6964_6c65_6669_7273, 0x7661_6c75_6500_0002);

/// A client, as far as the choice of its backend goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What strategies that go by the client hash.
    pub hashed: u64,
    /// What keeps it with its backend, if the service keeps clients.
    pub bond: Bond,
}

/// What keeps a client with its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bond {
    /// The binding under this number; 0: none.
    Number(u64),
    /// A cookie, which names this backend, by id and generation, or none that is known.
    Cookie(Option<(u32, u32)>),
}

impl Identity {
    /// A client of whom nothing is known.
    pub const UNKNOWN: Self = Self::numbered(0);

    /// A client that is known by this number alone: for connections the cookie of its network
    /// namespace, by which the programs know it too.
    pub const fn numbered(number: u64) -> Self {
        Self {
            hashed: number,
            bond: Bond::Number(number),
        }
    }
}

/// The number of whoever connects from this address. A mapped IPv4 address is that IPv4 address.
pub fn of_address(address: IpAddr) -> u64 {
    let octets = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => Ipv6Addr::octets(&v6),
    };
    hash(ADDRESS_KEY, &octets)
}

/// The number of whoever sends this value of a header or a cookie.
pub fn of_value(value: &[u8]) -> u64 {
    hash(VALUE_KEY, value)
}

/// Never 0, which stands for nobody.
fn hash((first, second): (u64, u64), bytes: &[u8]) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(first, second);
    hasher.write(bytes);
    hasher.finish().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_the_same_client_and_others_are_others() {
        let number = |text: &str| of_address(text.parse().unwrap());
        assert_eq!(number("10.0.0.1"), number("::ffff:10.0.0.1"));
        assert_ne!(number("10.0.0.1"), number("10.0.0.2"));
        assert_ne!(number("fd00::1"), number("fd00::2"));
    }

    #[test]
    fn numbers_are_those_of_every_node_and_release() {
        // From another implementation of SipHash.
        assert_eq!(
            of_address("10.0.0.1".parse().unwrap()),
            0x10cc_616e_b20b_9bd9
        );
        assert_eq!(
            of_address("fd00::1".parse().unwrap()),
            0xaae7_ad04_1b33_d68c
        );
        assert_eq!(of_value(b"alice"), 0x77d0_4def_d4ed_1209);
    }
}

//! The look-up table of consistent hashing.
//!
//! Maglev's (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI
//! 2016, section 3.4): every backend has a permutation of all entries of its own, and in turn each
//! claims the next entry of its permutation that nobody has claimed yet. A backend of weight w has
//! w times as many turns as one of weight 1 (`apportion` says in which order).
//!
//! The table is a function of the set of (address, weight) alone: backends take turns in the order
//! of their addresses, not in that of their positions, which merely name them. So all nodes agree,
//! and so does a restarted agent, whatever order backends came in.

use std::{collections::HashMap, net::SocketAddr};

use siphasher::sip::SipHasher24;

use super::{Candidate, apportion::Apportion};

/// Entries in every table: a prime, 2 modulo 3, so that cubes are a permutation.
///
/// Just below 32 KiB a service with the header word. Of 100 equal backends, the removal of one moves
/// 1.35 % of the others' keys on average, 1.8 % at worst in 20,000 removals from random sets (twice
/// the length: 0.86 % and 1.1 %); with 1,000 the fullest has 4 % more than its share.
///
/// A change of this figure, or of a key below, moves nearly every client to another backend, and
/// must reach all nodes together.
pub const LENGTH: usize = 16_361;

/// Keys of the two hashes of an address. Arbitrary but fixed: with them, SipHash-2-4 is no secret,
/// only a well-mixed function that is specified to the bit by its authors, unlike the hash of the
/// standard library, which may change with it.
const KEYS: [(u64, u64); 2] = [
    (0x6964_6c65_6669_7273, 0x7374_6172_7400_0001),
    (0x6964_6c65_6669_7273, 0x7363_616c_6500_0002),
];

/// Builds one service's tables, and remembers its backends' permutations.
///
/// A change hashes new backends only. All the rest of the work, one pass over the table, is done
/// anew: a table patched in place would depend on its history, and nodes would drift apart.
#[derive(Clone, Debug, Default)]
pub struct Maglev {
    permutations: HashMap<SocketAddr, Permutation>,
}

impl Maglev {
    /// The table of these backends: [`LENGTH`] positions, or none if no candidate has a weight.
    ///
    /// Everybody with a weight has at least one entry as long as there are fewer than [`LENGTH`].
    /// Takes milliseconds: not for a thread that has something better to do.
    pub fn positions(&mut self, candidates: &[Candidate]) -> Vec<u16> {
        let weighty = candidates.iter().filter(|candidate| candidate.weight > 0);
        let mut rows: Vec<_> = weighty
            .map(|candidate| (self.permutation(candidate.address), *candidate))
            .collect();
        rows.sort_unstable_by_key(|(permutation, _)| permutation.bytes);
        self.permutations = rows
            .iter()
            .map(|(permutation, candidate)| (candidate.address, *permutation))
            .collect();
        if rows.is_empty() {
            return Vec::new();
        }
        fill(&rows)
    }

    fn permutation(&self, address: SocketAddr) -> Permutation {
        let known = self.permutations.get(&address).copied();
        known.unwrap_or_else(|| Permutation::of(address))
    }
}

/// A backend's permutation of the entries: `scale * (start + turn)³ + shift`, modulo [`LENGTH`].
///
/// The paper's own, `offset + skip * turn`, has a weakness (which it mentions: any other would do).
/// Among 100 backends, two often have the same skip; one then follows in the other's steps, and any
/// change of a third may let the two swap all they have: 2 % of all keys, however long the table.
/// Cubes are a permutation as well, since `LENGTH` is prime and 2 modulo 3, and two backends follow
/// each other only if scale and shift are both the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Permutation {
    /// The address as it is hashed and ordered.
    bytes: [u8; 18],
    start: u32,
    /// Not 0.
    scale: u32,
    shift: u32,
}

impl Permutation {
    fn of(address: SocketAddr) -> Self {
        let bytes = to_bytes(address);
        let (one, other) = (hash(KEYS[0], &bytes), hash(KEYS[1], &bytes));
        let below = |hash: u64, limit: usize| (hash % limit as u64) as u32;
        Self {
            bytes,
            // Quotient and remainder are as good as independent: a hash has room for four of them.
            start: below(one, LENGTH),
            shift: below(one / LENGTH as u64, LENGTH),
            scale: below(other, LENGTH - 1) + 1,
        }
    }

    /// The entry of a turn below [`LENGTH`].
    fn entry(&self, turn: u32) -> usize {
        const MODULUS: u64 = LENGTH as u64;
        let base = u64::from(self.start + turn) % MODULUS;
        let cube = base * base * base % MODULUS;
        ((u64::from(self.scale) * cube + u64::from(self.shift)) % MODULUS) as usize
    }
}

/// An address as nobody else may lay it out: 16 bytes of IPv6 (an IPv4 address is mapped), and the
/// port, both in network order.
fn to_bytes(address: SocketAddr) -> [u8; 18] {
    let ip = match address {
        SocketAddr::V4(address) => address.ip().to_ipv6_mapped(),
        SocketAddr::V6(address) => *address.ip(),
    };
    let mut bytes = [0; 18];
    bytes[..16].copy_from_slice(&ip.octets());
    bytes[16..].copy_from_slice(&address.port().to_be_bytes());
    bytes
}

fn hash((key0, key1): (u64, u64), bytes: &[u8]) -> u64 {
    // Of bytes, not by `Hash`: what that feeds for an address is the standard library's business.
    SipHasher24::new_with_keys(key0, key1).hash(bytes)
}

/// Lets the backends of `rows`, of which there is one at least, claim entries until none is left.
fn fill(rows: &[(Permutation, Candidate)]) -> Vec<u16> {
    let mut next = vec![0; rows.len()];
    let mut positions = vec![UNCLAIMED; LENGTH];
    let turns = Apportion::new(rows.iter().map(|(_, candidate)| candidate.weight));
    for row in turns.take(LENGTH) {
        let (permutation, candidate) = &rows[row];
        let next = &mut next[row];
        let unclaimed = loop {
            let entry = permutation.entry(*next);
            *next += 1;
            if positions[entry] == UNCLAIMED {
                break entry;
            }
        };
        positions[unclaimed] = candidate.position;
    }
    positions
}

/// No position: they are below 4,096.
const UNCLAIMED: u16 = u16::MAX;

#[cfg(test)]
mod tests;

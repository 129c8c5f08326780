//! The leader of a service and its successors.
//!
//! Longest ready first, so that a leader is never pre-empted by a newcomer; then by address, so
//! that every node comes to the same order without talking.

use std::net::SocketAddr;

use super::Table;

/// The order of succession of backends given as (ready since, address, position).
pub fn ranking<T: Ord>(backends: impl IntoIterator<Item = (T, SocketAddr, u16)>) -> Table {
    let mut backends: Vec<_> = backends.into_iter().collect();
    backends.sort_unstable();
    let positions = backends.into_iter().map(|(_, _, position)| position);
    Table::Ranking(positions.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_ready_leads_and_addresses_decide_ties() {
        let backend = |ready_since: u64, address: &str, position| {
            (
                ready_since,
                address.parse::<SocketAddr>().unwrap(),
                position,
            )
        };
        let mut backends = vec![
            backend(20, "10.1.0.1:80", 0),
            backend(10, "10.1.0.10:80", 1),
            backend(10, "10.1.0.9:81", 2),
            backend(10, "10.1.0.9:80", 3),
            backend(10, "[fd00::1]:80", 4),
        ];
        let expected = Table::Ranking(vec![3, 2, 1, 4, 0]);
        assert_eq!(ranking(backends.clone()), expected);
        backends.reverse();
        assert_eq!(ranking(backends), expected);
    }

    #[test]
    fn a_newcomer_comes_last_and_moves_nobody() {
        let address = |last: u8| SocketAddr::from(([10, 1, 0, last], 80));
        let before = vec![(3, address(2), 0), (4, address(3), 1)];
        let newcomer = (5, address(1), 2);
        let after = ranking(before.iter().copied().chain([newcomer]));
        assert_eq!(ranking(before), Table::Ranking(vec![0, 1]));
        assert_eq!(after, Table::Ranking(vec![0, 1, 2]));
    }
}

//! Maglev tables: what they are a function of, how they are balanced, what a removal moves.

use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

/// A set of backends that no change of this code may see in another light.
fn fixed_set() -> Vec<Candidate> {
    (0..100_u16)
        .map(|index| {
            let port = 8080 + index % 2;
            let address = if index % 5 == 4 {
                let ip = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, index);
                SocketAddr::from((ip, port))
            } else {
                SocketAddr::from(([10, 1, 0, index as u8], port))
            };
            Candidate {
                address,
                weight: 1 + u32::from(index % 3),
                position: index,
            }
        })
        .collect()
}

/// `count` backends of weight 1, different ones for each `seed`.
fn equals(count: u16, seed: u8) -> Vec<Candidate> {
    let address = |index: u16| SocketAddr::from(([10, seed, (index >> 8) as u8, index as u8], 80));
    (0..count)
        .map(|position| Candidate {
            address: address(position),
            weight: 1,
            position,
        })
        .collect()
}

fn entries_of(positions: &[u16], count: usize) -> Vec<usize> {
    let mut entries = vec![0; count];
    for position in positions {
        entries[usize::from(*position)] += 1;
    }
    entries
}

#[test]
fn the_hash_is_siphash_2_4_as_published() {
    // The example in appendix A of the paper (Aumasson and Bernstein, 2012).
    let input: Vec<u8> = (0..15).collect();
    let keys = (0x0706_0504_0302_0100, 0x0f0e_0d0c_0b0a_0908);
    assert_eq!(hash(keys, &input), 0xa129_ca61_49be_45e5);
}

#[test]
fn a_fixed_set_has_the_same_table_in_every_build() {
    let positions = Maglev::default().positions(&fixed_set());
    let bytes: Vec<u8> = positions
        .iter()
        .copied()
        .flat_map(u16::to_le_bytes)
        .collect();
    assert_eq!(positions[..8], [59, 49, 44, 38, 35, 57, 37, 92]);
    assert_eq!(hash((0, 0), &bytes), 0x0a83_8899_bbcd_3674);
}

#[test]
fn without_weight_there_is_no_table() {
    assert!(Maglev::default().positions(&[]).is_empty());
    let mut idle = equals(2, 0);
    idle[1].weight = 0;
    assert_eq!(Maglev::default().positions(&idle), [0; LENGTH]);
    assert!(Maglev::default().positions(&idle[1..]).is_empty());
}

#[test]
fn every_permutation_visits_every_entry() {
    assert!(!(2..LENGTH).any(|divisor| LENGTH.is_multiple_of(divisor)));
    assert_eq!(LENGTH % 3, 2);
    for candidate in equals(4, 0) {
        let permutation = Permutation::of(candidate.address);
        let mut entries: Vec<_> = (0..LENGTH as u32)
            .map(|turn| permutation.entry(turn))
            .collect();
        entries.sort_unstable();
        assert!(entries.into_iter().eq(0..LENGTH));
    }
}

#[test]
fn backends_are_balanced() {
    for (count, highest) in [(10, 1.001), (100, 1.01), (1_000, 1.05), (4_096, 1.25)] {
        let positions = Maglev::default().positions(&equals(count, 0));
        let entries = entries_of(&positions, usize::from(count));
        let fullest = *entries.iter().max().unwrap() as f64;
        let ratio = fullest * f64::from(count) / LENGTH as f64;
        assert!(ratio <= highest, "{count}: {ratio}");
    }
}

#[test]
fn entries_follow_weights() {
    let candidates = fixed_set();
    let positions = Maglev::default().positions(&candidates);
    let total: u32 = candidates.iter().map(|candidate| candidate.weight).sum();
    let entries = entries_of(&positions, candidates.len());
    for (candidate, entries) in candidates.iter().zip(entries) {
        let due = LENGTH as f64 * f64::from(candidate.weight) / f64::from(total);
        assert!(
            (entries as f64 - due).abs() <= 1.0,
            "{candidate:?}: {entries}"
        );
    }
}

#[test]
fn the_lightest_has_an_entry_beside_the_heaviest() {
    let mut candidates = equals(101, 0);
    for heavy in &mut candidates[..100] {
        heavy.weight = crate::model::MAX_WEIGHT;
    }
    let positions = Maglev::default().positions(&candidates);
    assert_eq!(entries_of(&positions, 101)[100], 1);
}

#[test]
fn removing_one_of_a_hundred_moves_two_percent_of_the_other_keys_at_most() {
    for seed in 0..4 {
        let all = equals(100, seed);
        let mut maglev = Maglev::default();
        let before = maglev.positions(&all);
        for gone in (0..100).step_by(9) {
            let rest: Vec<_> = all
                .iter()
                .copied()
                .filter(|candidate| candidate.position != gone)
                .collect();
            let after = maglev.positions(&rest);
            let (moved, others) = moved(&before, &after, gone);
            assert!(moved > 0 && moved * 50 <= others, "{seed}, {gone}: {moved}");
        }
    }
}

/// How many entries of others than `gone` changed hands, and how many of them there are.
fn moved(before: &[u16], after: &[u16], gone: u16) -> (usize, usize) {
    let others = before.iter().zip(after).filter(|(old, _)| **old != gone);
    let moved = others.clone().filter(|(old, new)| old != new).count();
    (moved, others.count())
}

#[test]
fn only_the_present_are_remembered() {
    let all = equals(10, 0);
    let mut maglev = Maglev::default();
    maglev.positions(&all);
    assert_eq!(maglev.permutations.len(), 10);
    maglev.positions(&all[..3]);
    assert_eq!(maglev.permutations.len(), 3);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn order_positions_and_history_do_not_matter(
        weights in prop::collection::vec(0..20_u32, 1..40),
        shuffle in any::<prop::sample::Index>(),
        names in Just((0..40_u16).collect::<Vec<_>>()).prop_shuffle(),
        history in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut candidates = equals(weights.len() as u16, 3);
        for (candidate, weight) in candidates.iter_mut().zip(&weights) {
            candidate.weight = *weight;
        }
        let expected = Maglev::default().positions(&candidates);

        // Another agent: it has seen some of them before, and numbers and lists them otherwise.
        let mut maglev = Maglev::default();
        let seen = candidates.iter().zip(&history).filter(|(_, seen)| **seen);
        maglev.positions(&seen.map(|(candidate, _)| *candidate).collect::<Vec<_>>());
        for candidate in &mut candidates {
            candidate.position = names[usize::from(candidate.position)];
        }
        let middle = shuffle.index(candidates.len());
        candidates.rotate_left(middle);
        candidates[middle..].reverse();
        let renamed: Vec<_> = expected.iter().map(|old| names[usize::from(*old)]).collect();
        prop_assert_eq!(maglev.positions(&candidates), renamed);
    }

    #[test]
    fn everybody_with_a_weight_has_an_entry(
        weights in prop::collection::vec(0..=crate::model::MAX_WEIGHT, 1..200),
    ) {
        let mut candidates = equals(weights.len() as u16, 5);
        for (candidate, weight) in candidates.iter_mut().zip(&weights) {
            candidate.weight = *weight;
        }
        let positions = Maglev::default().positions(&candidates);
        prop_assert!(!positions.contains(&UNCLAIMED));
        if !positions.is_empty() {
            let entries = entries_of(&positions, candidates.len());
            for (weight, entries) in weights.iter().zip(entries) {
                prop_assert_eq!(*weight > 0, entries > 0);
            }
        }
    }
}

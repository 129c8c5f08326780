//! Weighted turns: against nginx's own way of counting, and how shares come out.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::model::MAX_WEIGHT;

fn candidates(weights: &[u32]) -> Vec<Candidate> {
    (0..)
        .zip(weights)
        .map(|(position, weight)| Candidate {
            address: SocketAddr::from(([10, 1, (position >> 8) as u8, position as u8], 80)),
            weight: *weight,
            position,
        })
        .collect()
}

fn turns(weights: &[u32]) -> Vec<u16> {
    sequence(&candidates(weights))
}

fn turns_of(turns: &[u16], backends: usize) -> Vec<u32> {
    let mut counts = vec![0; backends];
    for position in turns {
        counts[usize::from(*position)] += 1;
    }
    counts
}

/// `count` turns by the definition, with weights as they are written and no table.
fn by_definition(weights: &[u32], count: usize) -> Vec<u16> {
    let total: i64 = weights.iter().copied().map(i64::from).sum();
    let mut current = vec![0_i64; weights.len()];
    (0..count)
        .map(|_| {
            let mut best = 0;
            for index in 0..weights.len() {
                current[index] += i64::from(weights[index]);
                if current[index] > current[best] {
                    best = index;
                }
            }
            current[best] -= total;
            best as u16
        })
        .collect()
}

/// The largest relative error among shares of at least `notable`.
fn worst_error(weights: &[u32], notable: f64) -> f64 {
    let turns = turns(weights);
    let total: f64 = weights.iter().copied().map(f64::from).sum();
    let counts = turns_of(&turns, weights.len());
    let errors = weights.iter().zip(counts).filter_map(|(weight, count)| {
        let share = f64::from(*weight) / total;
        let taken = f64::from(count) / turns.len() as f64;
        (share >= notable).then(|| (taken / share - 1.0).abs())
    });
    errors.fold(0.0, f64::max)
}

#[test]
fn five_one_one_is_the_sequence_that_nginx_documents() {
    let names = ["a", "b", "c"];
    let sequence = turns(&[5, 1, 1]);
    let named: Vec<_> = sequence.iter().map(|at| names[usize::from(*at)]).collect();
    assert_eq!(named.concat(), "aabacaa");
}

#[test]
fn positions_are_the_ones_given_and_equals_come_in_the_order_given() {
    let mut backends = candidates(&[2, 1, 1, 0]);
    backends[0].position = 4095;
    backends.swap(1, 2);
    assert_eq!(sequence(&backends), [4095, 2, 1, 4095]);
}

#[test]
fn without_weight_there_is_no_turn() {
    assert!(turns(&[]).is_empty());
    assert!(turns(&[0, 0]).is_empty());
}

#[test]
fn common_factors_do_not_lengthen_the_period() {
    assert_eq!(turns(&[10_000, 10_000]), [0, 1]);
    assert_eq!(turns(&[10_000, 2_000, 2_000]), turns(&[5, 1, 1]));
    assert_eq!(turns(&[MAX_WEIGHT; 4096]), (0..4096).collect::<Vec<_>>());
}

#[test]
fn extreme_ratios_leave_everybody_a_turn() {
    // A canary at a ten-thousandth of the weight gets a turn in 4,096 or less.
    let counts = turns_of(&turns(&[MAX_WEIGHT, 1]), 2);
    assert_eq!(counts, [4095, 1]);
    // Nothing is left for the heavy one once everybody has a turn.
    let mut weights = vec![1; 4096];
    weights[17] = MAX_WEIGHT;
    assert_eq!(turns(&weights).len(), 4096);
    assert_eq!(turns_of(&turns(&weights), 4096), [1; 4096]);
    // The usual case of many light ones: 999 of 4,096 turns are theirs, not 373.
    let mut weights = vec![1; 1_000];
    weights[0] = MAX_WEIGHT;
    assert_eq!(turns_of(&turns(&weights), 1_000)[0], 4096 - 999);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_period_is_the_definition_and_repeats(weights in prop::collection::vec(1..40_u32, 1..60)) {
        let period = turns(&weights);
        let twice = [period.clone(), period].concat();
        prop_assert_eq!(by_definition(&weights, twice.len()), twice);
    }

    #[test]
    fn shares_are_exact_while_the_period_fits(weights in prop::collection::vec(1..60_u32, 1..60)) {
        let total: u32 = weights.iter().sum();
        let period = turns(&weights);
        for (weight, count) in weights.iter().zip(turns_of(&period, weights.len())) {
            prop_assert_eq!(u64::from(count) * u64::from(total), u64::from(*weight) * period.len() as u64);
        }
    }

    /// Never a whole turn ahead: who is picked has at least the mean, which is above 0. Never
    /// further behind than the harmonic number of the others: the game of filling and emptying
    /// cups, where the fullest k + 1 bound the fullest k.
    #[test]
    fn nobody_gets_far_ahead_or_behind(weights in prop::collection::vec(1..60_u32, 1..60)) {
        let total: i64 = weights.iter().copied().map(i64::from).sum();
        let mut taken = vec![0_i64; weights.len()];
        let behind: f64 = (2..=weights.len()).map(|backends| 1.0 / backends as f64).sum();
        for (turn, position) in (1..).zip(turns(&weights)) {
            taken[usize::from(position)] += total;
            for (weight, taken) in weights.iter().zip(&taken) {
                let lag = turn * i64::from(*weight) - *taken;
                let lag = lag as f64 / total as f64;
                prop_assert!(lag > -1.0 && lag <= behind + 1e-9, "turn {turn}: {lag}");
            }
        }
    }

    #[test]
    fn a_scaled_period_is_bounded_and_keeps_everybody(
        weights in prop::collection::vec(1..=MAX_WEIGHT, 1..120),
    ) {
        let period = turns(&weights);
        prop_assert!(period.len() <= MAX_LENGTH);
        prop_assert!(turns_of(&period, weights.len()).iter().all(|count| *count > 0));
        prop_assert_eq!(turns(&weights), period);
    }

    /// The bound that is documented, with room for none but notable shares.
    #[test]
    fn notable_shares_are_kept_when_weights_are_scaled(
        weights in prop::collection::vec(500..=MAX_WEIGHT, 2..120),
    ) {
        let error = worst_error(&weights, NOTABLE_SHARE);
        prop_assert!(error <= 0.016, "{error}");
    }
}

//! What statistics say of who got how much.

/// Of the standard normal distribution: what less than one in a million exceed.
const ONE_IN_A_MILLION: f64 = 4.8;

/// How often each of `count` numbers occurs.
#[track_caller]
pub fn tally(numbers: &[usize], count: usize) -> Vec<u64> {
    let mut tally = vec![0; count];
    for number in numbers {
        tally[*number] += 1;
    }
    tally
}

/// Checks by Pearson's test that counts come from equal chances. A fair draw fails less than once
/// in a million times.
#[track_caller]
pub fn assert_even(counts: &[u64]) {
    let (seen, allowed) = (unevenness(counts), unevenness_of_chance(counts.len()));
    assert!(
        seen <= allowed,
        "no fair draw: {counts:?} (chi-square {seen:.1}, by chance at most {allowed:.1})"
    );
}

/// Checks that each count's share is what its weight says, within so much of that share.
#[track_caller]
pub fn assert_proportional(counts: &[u64], weights: &[u64], tolerance: f64) {
    let (total, weight) = (counts.iter().sum::<u64>(), weights.iter().sum::<u64>());
    for (count, own) in counts.iter().zip(weights) {
        let expected = total as f64 * *own as f64 / weight as f64;
        assert!(
            (*count as f64 - expected).abs() <= expected * tolerance,
            "{count} instead of {expected:.0}: {counts:?} by weights {weights:?}"
        );
    }
}

/// Pearson's statistic of counts that should be equal.
fn unevenness(counts: &[u64]) -> f64 {
    let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
    let squares = counts
        .iter()
        .map(|count| (*count as f64 - expected).powi(2));
    squares.sum::<f64>() / expected
}

/// What that statistic exceeds less than once in a million times (Wilson and Hilferty, PNAS 1931).
fn unevenness_of_chance(counts: usize) -> f64 {
    let freedom = counts as f64 - 1.0;
    let part = 2.0 / (9.0 * freedom);
    freedom * (1.0 - part + ONE_IN_A_MILLION * part.sqrt()).powi(3)
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::SmallRng};

    use super::*;

    /// Draws among ten, of which the first gets this much of a share on top of its own.
    fn drawn(seed: u64, draws: usize, skew: f64) -> Vec<u64> {
        let mut random = SmallRng::seed_from_u64(seed);
        let numbers: Vec<_> = (0..draws)
            .map(|_| {
                let number = random.random_range(0.0..10.0 + skew);
                if number >= 10.0 { 0 } else { number as usize }
            })
            .collect();
        tally(&numbers, 10)
    }

    #[test]
    fn what_chance_allows_is_known() {
        // By the incomplete gamma function, the values for 4.7e-7 and 4.0e-7.
        assert!((unevenness_of_chance(10) - 46.56).abs() < 0.1);
        assert!((unevenness_of_chance(7) - 40.30).abs() < 0.1);
    }

    #[test]
    fn a_fair_draw_passes_and_a_skew_of_a_fifth_does_not() {
        for seed in 0..50 {
            assert_even(&drawn(seed, 24_000, 0.0));
            let skewed = unevenness(&drawn(seed, 24_000, 0.2));
            assert!(skewed > unevenness_of_chance(10), "{seed}: {skewed}");
        }
    }

    #[test]
    #[should_panic(expected = "no fair draw")]
    fn one_that_gets_nothing_is_noticed() {
        assert_even(&[100, 100, 0, 100]);
    }

    #[test]
    #[should_panic(expected = "instead of 500")]
    fn a_share_that_is_a_tenth_off_is_noticed() {
        assert_proportional(&[550, 450], &[1, 1], 0.05);
    }
}

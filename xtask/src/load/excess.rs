//! Whether a run refused more than one central queue would have, by more than chance. Pure.
//!
//! Both saw the same arrivals, so chance is only in how little things fall differently, and those
//! come in bursts: a request that is late delays those after it. The noise is therefore taken from
//! the differences in stretches of the run, long against a burst. Used by `demo` and `bench`.

use std::time::Duration;

use super::Outcome;

/// What is allowed: so many times the central queue's refused share, and so much more.
const FACTOR: f64 = 1.1;
const ALLOWANCE: f64 = 0.002;

/// Standard errors beyond which a difference is no chance.
const CERTAIN: f64 = 3.0;

const STRETCH: Duration = Duration::from_millis(500);
const FEWEST_STRETCHES: usize = 5;
const MOST_STRETCHES: usize = 60;

/// How two refused shares compare.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Excess {
    /// The run's refused share.
    pub(crate) share: f64,
    /// The most that the goal allows.
    pub(crate) allowed: f64,
    /// What chance may add.
    pub(crate) noise: f64,
}

impl Excess {
    /// Of a run over a central queue that got the same load for so long.
    pub(crate) fn of(run: &Outcome, central: &Outcome, duration: Duration) -> Self {
        let requests = run.tally.requests.max(1) as f64;
        let stretches = (duration.as_secs_f64() / STRETCH.as_secs_f64()) as usize;
        let stretches = stretches.clamp(FEWEST_STRETCHES, MOST_STRETCHES);
        let per_stretch = |outcome: &Outcome| counts(&outcome.refused_at, duration, stretches);
        let differences = per_stretch(run)
            .into_iter()
            .zip(per_stretch(central))
            .map(|(own, other)| own - FACTOR * other);
        Self {
            share: run.refused_share(),
            allowed: FACTOR * central.refused_share() + ALLOWANCE,
            noise: CERTAIN * standard_error(differences.collect()) / requests,
        }
    }

    /// Whether the goal is missed, chance aside.
    pub(crate) fn is_certain(&self) -> bool {
        self.share > self.allowed + self.noise
    }

    /// Whether the goal is reached, chance included.
    pub(crate) fn is_within(&self) -> bool {
        self.share <= self.allowed
    }
}

fn counts(times: &[Duration], duration: Duration, stretches: usize) -> Vec<f64> {
    let mut counts = vec![0.0; stretches];
    for at in times {
        let place = at.as_secs_f64() / duration.as_secs_f64() * stretches as f64;
        counts[(place as usize).min(stretches - 1)] += 1.0;
    }
    counts
}

/// Of the sum of these.
fn standard_error(values: Vec<f64>) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (count * squares / (count - 1.0)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Tally;

    const DURATION: Duration = Duration::from_secs(10);

    /// Of 2,000 requests, those at these times were refused.
    fn refused_at(times: impl IntoIterator<Item = u64>) -> Outcome {
        let refused_at: Vec<_> = times.into_iter().map(Duration::from_millis).collect();
        let refused = refused_at.len() as u64;
        Outcome {
            tally: Tally {
                requests: 2000,
                ok: 2000 - refused,
                refused,
                errors: 0,
            },
            refused_at,
            ..Outcome::default()
        }
    }

    fn every(step_ms: usize) -> Outcome {
        refused_at((0..10_000).step_by(step_ms))
    }

    #[test]
    fn the_same_is_no_excess() {
        let excess = Excess::of(&every(100), &every(100), DURATION);
        assert!(excess.is_within() && !excess.is_certain(), "{excess:?}");
    }

    #[test]
    fn a_tenth_and_a_little_more_is_allowed() {
        // 100 against 114: 1.1 × 100 and 4 of 2,000.
        let excess = Excess::of(&refused_at((0..114).map(|n| n * 87)), &every(100), DURATION);
        assert!(excess.is_within(), "{excess:?}");
    }

    #[test]
    fn twice_as_many_throughout_is_certain() {
        assert!(Excess::of(&every(50), &every(100), DURATION).is_certain());
        assert!(Excess::of(&every(100), &refused_at([]), DURATION).is_certain());
    }

    #[test]
    fn one_bad_moment_is_not() {
        let excess = Excess::of(&refused_at(5_000..5_012), &refused_at([]), DURATION);
        assert!(!excess.is_within() && !excess.is_certain(), "{excess:?}");
    }
}

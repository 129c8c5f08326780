//! How figures are summed up and shown: the median over rounds with its spread, the ratio of two
//! medians, and whether a target is met. Pure. Called by every bench.

use std::fmt;

/// What a variant came to, a sample a round.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

/// A ratio is to be at most, or at least, this.
#[derive(Clone, Copy, Debug)]
pub(super) enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// The ratio of two variants.
#[derive(Clone, Debug)]
pub(super) struct Ratio {
    pub(super) value: f64,
    /// Quartiles of the rounds' own ratios.
    low: f64,
    high: f64,
}

impl Samples {
    pub(super) fn push(&mut self, sample: f64) {
        self.0.push(sample);
    }

    pub(super) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Half of the rounds are between these.
    pub(super) fn quartiles(&self) -> (f64, f64) {
        (self.quantile(0.25), self.quantile(0.75))
    }

    fn quantile(&self, share: f64) -> f64 {
        quantile(&mut self.0.clone(), share)
    }

    /// The median of these by that of others from the same rounds.
    pub(super) fn over(&self, others: &Self) -> Ratio {
        Ratio {
            value: self.median() / others.median(),
            ..self.over_by_round(others)
        }
    }

    /// The median of the rounds' own ratios, for rounds that differ more than variants do.
    pub(super) fn over_by_round(&self, others: &Self) -> Ratio {
        let ratios = self.0.iter().zip(&others.0).map(|(own, other)| own / other);
        let by_round = Self(ratios.collect());
        let (low, high) = by_round.quartiles();
        Ratio {
            value: by_round.median(),
            low,
            high,
        }
    }
}

impl Target {
    fn is_met(self, value: f64) -> bool {
        match self {
            Self::AtMost(most) => value <= most,
            Self::AtLeast(least) => value >= least,
        }
    }

    /// `≤ 1.05 met`, `≤ 1.05 MISSED`.
    pub(super) fn verdict(self, value: f64) -> String {
        let verdict = if self.is_met(value) { "met" } else { "MISSED" };
        match self {
            Self::AtMost(most) => format!("≤ {most:.2} {verdict}"),
            Self::AtLeast(least) => format!("≥ {least:.2} {verdict}"),
        }
    }
}

impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { value, low, high } = self;
        write!(f, "{value:.3} [{low:.3}–{high:.3}]")
    }
}

/// Sorts, and takes the value below which `share` of all lie. NaN if there are none.
pub(super) fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1) as f64;
    let place = (last * share).round() as usize;
    values.get(place).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        let mut samples = Samples::default();
        values.iter().for_each(|value| samples.push(*value));
        samples
    }

    #[test]
    fn one_wild_round_moves_neither_the_median_nor_the_ratio() {
        let calm = samples(&[10.0, 11.0, 12.0, 10.0, 11.0]);
        let wild = samples(&[10.0, 11.0, 900.0, 10.0, 11.0]);
        assert_eq!(calm.median(), 11.0);
        assert_eq!(wild.over(&calm).value, 1.0);
    }

    #[test]
    fn a_target_is_met_at_its_edge_and_missed_beyond() {
        assert_eq!(Target::AtMost(1.2).verdict(1.2), "≤ 1.20 met");
        assert_eq!(Target::AtMost(1.2).verdict(1.21), "≤ 1.20 MISSED");
        assert_eq!(Target::AtLeast(0.99).verdict(0.98), "≥ 0.99 MISSED");
    }
}

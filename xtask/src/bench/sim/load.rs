//! The load as it is drawn: when requests arrive, how long each takes, and whose it is. Pure.
//!
//! A seed is a load: every strategy gets the very same, and times scale with the rate only, so two
//! loads of one seed differ in nothing else. Used by `run`.

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, Exp1};

/// Average service time.
pub(super) const MEAN_WORK_S: f64 = 0.050;

/// Clients that requests come from, each as often as any other: enough that a strategy that goes
/// by the client has some thousand of them for every ten backends.
const CLIENTS: u64 = 100_000;

/// Of [`Work::Bimodal`]: the share of long requests, and by how much they are longer.
const LONG_SHARE: f64 = 0.1;
const LONG_BY: f64 = 10.0;

/// Of [`Work::Pareto`]: the shape, and the longest time as a multiple of the shortest.
const SHAPE: f64 = 1.5;
const SPREAD: f64 = 1_000.0;

/// How service times are distributed; their mean is [`MEAN_WORK_S`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Exponential,
    /// Nine in ten are short, one takes ten times as long.
    Bimodal,
    /// Pareto's with shape 1.5, cut off at 1,000 times the shortest.
    Pareto,
}

/// A Poisson stream of requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Load {
    pub(super) seed: u64,
    /// Requests per second.
    pub(super) rate: f64,
    pub(super) requests: u64,
    pub(super) work: Work,
}

/// A request that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Arrival {
    /// After the beginning.
    pub(super) at_ns: u64,
    /// How long a backend of ordinary speed works for it.
    pub(super) work_ns: u64,
    /// As the kernel numbers network namespaces: small numbers, not hashes.
    pub(super) client: u64,
}

impl Work {
    pub(super) const ALL: [Self; 3] = [Self::Exponential, Self::Bimodal, Self::Pareto];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Exponential => "exponential",
            Self::Bimodal => "bimodal",
            Self::Pareto => "pareto",
        }
    }

    /// The mean square, in units of the squared mean; 1 would be constant times.
    pub(super) fn second_moment(self) -> f64 {
        match self {
            Self::Exponential => 2.0,
            Self::Bimodal => {
                let square = (1.0 - LONG_SHARE) + LONG_SHARE * LONG_BY * LONG_BY;
                square / (bimodal_mean() * bimodal_mean())
            }
            Self::Pareto => pareto_moment(2.0) / (pareto_moment(1.0) * pareto_moment(1.0)),
        }
    }

    /// One service time, in units of the mean.
    fn draw(self, random: &mut SmallRng) -> f64 {
        match self {
            Self::Exponential => Exp1.sample(random),
            Self::Bimodal => {
                let is_long = random.random::<f64>() < LONG_SHARE;
                (if is_long { LONG_BY } else { 1.0 }) / bimodal_mean()
            }
            Self::Pareto => {
                // The inverse of the distribution, in units of the shortest time.
                let kept: f64 = 1.0 - random.random::<f64>() * (1.0 - SPREAD.powf(-SHAPE));
                kept.powf(-1.0 / SHAPE) / pareto_moment(1.0)
            }
        }
    }
}

/// In units of the short time.
fn bimodal_mean() -> f64 {
    (1.0 - LONG_SHARE) + LONG_SHARE * LONG_BY
}

/// The moment of this order (other than the shape), in units of the shortest time.
fn pareto_moment(order: f64) -> f64 {
    let whole = 1.0 - SPREAD.powf(-SHAPE);
    SHAPE / whole * (1.0 - SPREAD.powf(order - SHAPE)) / (SHAPE - order)
}

impl Load {
    pub(super) fn arrivals(&self) -> impl Iterator<Item = Arrival> + use<> {
        let Self {
            seed,
            rate,
            requests,
            work,
        } = *self;
        let mut random = SmallRng::seed_from_u64(seed);
        let mut at_s = 0.0;
        (0..requests).map(move |_| {
            let gap: f64 = Exp1.sample(&mut random);
            at_s += gap / rate;
            Arrival {
                at_ns: whole_ns(at_s),
                work_ns: whole_ns(work.draw(&mut random) * MEAN_WORK_S),
                client: random.random_range(1..=CLIENTS),
            }
        })
    }
}

fn whole_ns(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(work: Work, seed: u64) -> Load {
        Load {
            seed,
            rate: 200.0,
            requests: 200_000,
            work,
        }
    }

    #[test]
    fn a_seed_is_a_load() {
        let drawn = |seed| load(Work::Pareto, seed).arrivals();
        assert!(drawn(1).eq(drawn(1)));
        assert!(drawn(1).ne(drawn(2)));
    }

    #[test]
    fn rate_and_moments_are_as_said() {
        for work in Work::ALL {
            let arrivals: Vec<_> = load(work, 7).arrivals().collect();
            let count = arrivals.len() as f64;
            let seconds = |arrival: &Arrival| arrival.work_ns as f64 / 1e9;
            let mean = arrivals.iter().map(seconds).sum::<f64>() / count;
            assert_near(mean, MEAN_WORK_S, 0.02);
            let squares = arrivals.iter().map(|arrival| seconds(arrival).powi(2));
            let moment = squares.sum::<f64>() / count / MEAN_WORK_S.powi(2);
            // The square of a Pareto time varies most.
            assert_near(moment, work.second_moment(), 0.15);
            let last = arrivals.last().expect("there are some").at_ns as f64 / 1e9;
            assert_near(count / last, 200.0, 0.01);
        }
    }

    #[track_caller]
    fn assert_near(seen: f64, expected: f64, share: f64) {
        let apart = (seen - expected).abs();
        assert!(apart < share * expected, "{seen}, expected {expected}");
    }
}

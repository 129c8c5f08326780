//! The load as it was drawn: when requests arrive and how long each takes.
//!
//! An iterator over a seeded generator, so that every way of steering gets exactly the same load
//! and a long one needs no memory. Used by `sender` and `central`.

use std::time::Duration;

use rand::{SeedableRng, rngs::SmallRng};
use rand_distr::{Distribution, Exp1};
use serde::{Deserialize, Serialize};

/// What the load is drawn from.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) seed: u64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// No request arrives later than this.
    pub(crate) duration: Duration,
    /// Work is exponentially distributed with this mean.
    pub(crate) mean_work: Duration,
}

/// A request that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// After the beginning.
    pub(crate) at: Duration,
    /// How long the server works for it.
    pub(crate) work: Duration,
}

impl Load {
    /// A Poisson process: the times between arrivals are exponentially distributed.
    pub(crate) fn arrivals(&self) -> impl Iterator<Item = Arrival> + use<> {
        let Self {
            seed,
            rate,
            duration,
            mean_work,
        } = *self;
        let mut random = SmallRng::seed_from_u64(seed);
        let mut at_seconds = 0.0;
        std::iter::from_fn(move || {
            let gap: f64 = Exp1.sample(&mut random);
            let factor: f64 = Exp1.sample(&mut random);
            at_seconds += gap / rate;
            Some(Arrival {
                at: Duration::from_secs_f64(at_seconds),
                work: mean_work.mul_f64(factor),
            })
        })
        .take_while(move |arrival| arrival.at < duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(seed: u64) -> Load {
        Load {
            seed,
            rate: 1000.0,
            duration: Duration::from_secs(20),
            mean_work: Duration::from_millis(20),
        }
    }

    #[test]
    fn a_seed_is_a_load() {
        assert!(load(1).arrivals().eq(load(1).arrivals()));
        assert!(load(1).arrivals().ne(load(2).arrivals()));
    }

    #[test]
    fn rate_and_work_are_as_asked() {
        let arrivals: Vec<_> = load(7).arrivals().collect();
        // 20,000 expected, standard deviation 141.
        assert!(
            (19_000..21_000).contains(&arrivals.len()),
            "{} arrivals",
            arrivals.len()
        );
        let work: Duration = arrivals.iter().map(|arrival| arrival.work).sum();
        let mean_ms = work.as_secs_f64() * 1000.0 / arrivals.len() as f64;
        assert!((19.0..21.0).contains(&mean_ms), "{mean_ms} ms");
    }
}

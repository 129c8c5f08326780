//! What a simulation came to. Pure. Filled by `run`, shown by `results`.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{ground::Ground, load::MEAN_WORK_S};

/// The figures of one simulation. Times are of requests that were served.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Figures {
    /// Requests that are counted: those after the beginning.
    pub(super) requests: u64,
    pub(super) refused_share: f64,
    /// From arrival until a backend works on it.
    pub(super) mean_wait_ms: f64,
    pub(super) p99_wait_ms: f64,
    /// From arrival until the answer.
    pub(super) mean_response_ms: f64,
    pub(super) p99_response_ms: f64,
    /// Times at which selection found nothing although a backend had a slot left.
    pub(super) missed: u64,
    /// Requests that the busiest backend got, by those of average length that it can do. No measure
    /// of strain where the strategy heeds load: who gets many then had short ones.
    pub(super) busiest_utilisation: f64,
}

/// The same while it goes on.
pub(super) struct Tally {
    /// Requests before this one are not counted.
    first: u64,
    requests: u64,
    refused: u64,
    missed: u64,
    wait_ns: u128,
    response_ns: u128,
    wait_us: Histogram<u64>,
    response_us: Histogram<u64>,
    /// Of all requests, by backend.
    served: Vec<u64>,
}

impl Tally {
    pub(super) fn new(backends: usize, first: u64) -> Result<Self> {
        let histogram = || Histogram::new(3).context("a histogram of three digits");
        Ok(Self {
            first,
            requests: 0,
            refused: 0,
            missed: 0,
            wait_ns: 0,
            response_ns: 0,
            wait_us: histogram()?,
            response_us: histogram()?,
            served: vec![0; backends],
        })
    }

    pub(super) fn serve(&mut self, number: u64, backend: usize, wait_ns: u64, response_ns: u64) {
        self.served[backend] += 1;
        if number < self.first {
            return;
        }
        self.requests += 1;
        self.wait_ns += u128::from(wait_ns);
        self.response_ns += u128::from(response_ns);
        self.wait_us += wait_ns / 1000;
        self.response_us += response_ns / 1000;
    }

    pub(super) fn refuse(&mut self, number: u64) {
        if number >= self.first {
            self.requests += 1;
            self.refused += 1;
        }
    }

    /// Selection found nothing; whether there was something.
    pub(super) fn note_missed(&mut self, was_there: bool) {
        self.missed += u64::from(was_there);
    }

    /// `lasted_ns`: until the last arrival.
    pub(super) fn figures(&self, ground: &Ground, lasted_ns: u64) -> Figures {
        let served = (self.requests - self.refused).max(1) as f64;
        let mean_ms = |sum_ns: u128| sum_ns as f64 / 1e6 / served;
        let p99_ms = |micros: &Histogram<u64>| micros.value_at_quantile(0.99) as f64 / 1000.0;
        let lasted_s = lasted_ns.max(1) as f64 / 1e9;
        let utilisations = self.served.iter().zip(&ground.backends);
        let utilisations = utilisations
            .map(|(served, backend)| *served as f64 * MEAN_WORK_S / lasted_s / backend.capacity());
        Figures {
            requests: self.requests,
            refused_share: self.refused as f64 / self.requests.max(1) as f64,
            mean_wait_ms: mean_ms(self.wait_ns),
            p99_wait_ms: p99_ms(&self.wait_us),
            mean_response_ms: mean_ms(self.response_ns),
            p99_response_ms: p99_ms(&self.response_us),
            missed: self.missed,
            busiest_utilisation: utilisations.fold(0.0, f64::max),
        }
    }
}

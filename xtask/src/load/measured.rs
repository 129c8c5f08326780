//! What became of requests, real or simulated. Used by `sender` and `central`.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::{Arrival, End};

/// What a busy machine may delay a request's departure by.
pub(crate) const LATE: Duration = Duration::from_millis(10);

/// Of more than this, the load was another than was drawn.
const LATE_SHARE_AT_MOST: f64 = 0.01;

/// Kinds of errors told apart.
const COMPLAINTS_KEPT: usize = 5;

/// How requests ended so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) ok: u64,
    pub(crate) refused: u64,
    pub(crate) errors: u64,
}

/// What all of them came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) tally: Tally,
    /// Of those that ended well, from arrival to the last byte.
    pub(crate) response_ms: Quantiles,
    /// Of those that ended well: the same, less the work itself.
    pub(crate) wait_ms: Quantiles,
    /// Those that were sent more than [`LATE`] after their arrival.
    pub(crate) late: u64,
    /// What went wrong, and how often.
    pub(crate) complaints: BTreeMap<String, u64>,
    /// Refusals by the reason that the client saw.
    pub(crate) refused_by_reason: BTreeMap<String, u64>,
    /// When those arrived that were refused.
    pub(crate) refused_at: Vec<Duration>,
}

/// Of a distribution of times, in milliseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p95: f64,
    pub(crate) p99: f64,
}

/// The same while it goes on.
pub(crate) struct Measured {
    pub(crate) tally: Tally,
    response_us: Histogram<u64>,
    wait_us: Histogram<u64>,
    late: u64,
    complaints: BTreeMap<String, u64>,
    refused_by_reason: BTreeMap<String, u64>,
    refused_at: Vec<Duration>,
}

impl Outcome {
    /// 0 if nothing was requested.
    pub(crate) fn refused_share(&self) -> f64 {
        self.share(self.tally.refused)
    }

    /// Of requests that left late. 0 if nothing was requested.
    pub(crate) fn late_share(&self) -> f64 {
        self.share(self.late)
    }

    /// Whether this machine could send the load as it was drawn.
    pub(crate) fn was_in_time(&self) -> bool {
        self.late_share() <= LATE_SHARE_AT_MOST
    }

    fn share(&self, part: u64) -> f64 {
        part as f64 / self.tally.requests.max(1) as f64
    }
}

impl Measured {
    pub(crate) fn new() -> Result<Self> {
        let histogram = || Histogram::new(3).context("a histogram of three digits");
        Ok(Self {
            tally: Tally::default(),
            response_us: histogram()?,
            wait_us: histogram()?,
            late: 0,
            complaints: BTreeMap::new(),
            refused_by_reason: BTreeMap::new(),
            refused_at: Vec::new(),
        })
    }

    /// Counts a request that has ended, so long after its arrival.
    pub(crate) fn record(&mut self, arrival: Arrival, end: End, took: Duration, late: bool) {
        self.late += u64::from(late);
        self.tally.requests += 1;
        match end {
            End::Ok => {
                self.tally.ok += 1;
                self.response_us += whole_us(took);
                self.wait_us += whole_us(took.saturating_sub(arrival.work));
            }
            End::Refused(reason) => {
                self.tally.refused += 1;
                *self.refused_by_reason.entry(reason).or_default() += 1;
                self.refused_at.push(arrival.at);
            }
            End::Error(error) => self.complain(format!("{error:#}")),
        }
    }

    fn complain(&mut self, complaint: String) {
        self.tally.errors += 1;
        let complaints = &mut self.complaints;
        if complaints.len() < COMPLAINTS_KEPT || complaints.contains_key(&complaint) {
            *complaints.entry(complaint).or_default() += 1;
        }
    }

    /// All of it.
    pub(crate) fn outcome(&self) -> Outcome {
        Outcome {
            tally: self.tally,
            response_ms: Quantiles::of(&self.response_us),
            wait_ms: Quantiles::of(&self.wait_us),
            late: self.late,
            complaints: self.complaints.clone(),
            refused_by_reason: self.refused_by_reason.clone(),
            refused_at: self.refused_at.clone(),
        }
    }
}

impl Quantiles {
    fn of(micros: &Histogram<u64>) -> Self {
        let ms = |share| micros.value_at_quantile(share) as f64 / 1000.0;
        Self {
            p50: ms(0.50),
            p95: ms(0.95),
            p99: ms(0.99),
        }
    }
}

fn whole_us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

//! How long it takes to select a backend: the programs' decisions and the agent's, as one
//! distribution.
//!
//! The programs time one decision in 64, all services together; those of a service are taken to
//! be distributed like all of them. The agent times each of its own, from arrival to outcome. Used
//! by `stats` and `metrics`.

use std::time::Duration;

use balancer_common::histogram;

use crate::overflow::Durations;

/// How long decisions of the programs take.
#[derive(Clone, Debug)]
pub(crate) struct DecisionTimes {
    /// By bucket, those in it and in all before it.
    cumulative: Vec<u64>,
    mean_ns: f64,
}

impl DecisionTimes {
    /// From the counts of the buckets.
    pub(crate) fn new(counts: &[u64]) -> Self {
        let (mut total, mut sum_ns) = (0, 0.0);
        let buckets = (0u32..).zip(counts).map(|(bucket, count)| {
            total += count;
            sum_ns += *count as f64 * middle_ns(bucket);
            total
        });
        let cumulative = buckets.collect();
        let mean_ns = if total == 0 {
            0.0
        } else {
            sum_ns / total as f64
        };
        Self {
            cumulative,
            mean_ns,
        }
    }

    /// The share of decisions that take no longer than the bucket's longest. All of them if none
    /// was timed yet: they count as taking no time.
    fn share_up_to(&self, bucket: usize) -> f64 {
        let total = self.cumulative.last().copied().unwrap_or(0);
        match self.cumulative.get(bucket) {
            Some(count) if total != 0 => *count as f64 / total as f64,
            _ => 1.0,
        }
    }
}

/// The middle of a bucket; the start of the last one, which has no end.
fn middle_ns(bucket: u32) -> f64 {
    let from = histogram::lower_bound_ns(bucket) as f64;
    match bucket + 1 < histogram::BUCKETS {
        true => (from + longest_ns(bucket) as f64) / 2.0,
        false => from,
    }
}

/// The longest duration in a bucket, as far as the programs tell.
fn longest_ns(bucket: u32) -> u64 {
    match bucket + 1 < histogram::BUCKETS {
        true => histogram::lower_bound_ns(bucket + 1) - 1,
        false => histogram::lower_bound_ns(bucket),
    }
}

/// The times of selections.
pub(crate) struct Selections<'a> {
    /// How many the programs made.
    pub(crate) by_programs: u64,
    /// How long theirs take.
    pub(crate) decisions: &'a DecisionTimes,
    /// The agent's; none if it made none.
    pub(crate) by_agent: Option<&'a Durations>,
}

impl Selections<'_> {
    /// How many there are.
    pub(crate) fn count(&self) -> u64 {
        self.by_programs + self.by_agent.map_or(0, Durations::count)
    }

    /// All of them together, in seconds.
    pub(crate) fn sum_seconds(&self) -> f64 {
        let by_agent = self.by_agent.map_or(0.0, |times| times.sum().as_secs_f64());
        self.by_programs as f64 * self.decisions.mean_ns * 1e-9 + by_agent
    }

    /// Their average, in seconds; none if there are none.
    pub(crate) fn mean_seconds(&self) -> Option<f64> {
        let count = self.count();
        (count != 0).then(|| self.sum_seconds() / count as f64)
    }

    /// The time that this share of them (0 to 1) does not exceed, in seconds; none if there are
    /// none.
    pub(crate) fn quantile_seconds(&self, share: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (share * count as f64).ceil().max(1.0);
        // Where the programs tell durations apart, both are counted up to each bound.
        let reached = |bucket: &u32| {
            let by_programs =
                self.by_programs as f64 * self.decisions.share_up_to(*bucket as usize);
            let up_to = Duration::from_nanos(longest_ns(*bucket));
            by_programs + self.agents_up_to(up_to) as f64 >= rank
        };
        let bounds: Vec<u32> = (0..histogram::BUCKETS).collect();
        let first = bounds.partition_point(|bucket| !reached(bucket));
        if let Some(bucket) = bounds.get(first) {
            return Some(longest_ns(*bucket) as f64 * 1e-9);
        }
        // Beyond them, there are only the agent's.
        let by_agent = self.by_agent?;
        let share = (rank - self.by_programs as f64) / by_agent.count() as f64;
        by_agent.quantile(share).map(|time| time.as_secs_f64())
    }

    /// How many took no longer than each of these bounds, in seconds: those of the programs take
    /// less than the first of them.
    pub(crate) fn up_to_each(&self, bounds: &[f64]) -> Vec<(f64, u64)> {
        let bounds = bounds.iter();
        bounds
            .map(|&bound| {
                let by_agent = self.agents_up_to(Duration::from_secs_f64(bound));
                (bound, self.by_programs + by_agent)
            })
            .collect()
    }

    fn agents_up_to(&self, limit: Duration) -> u64 {
        self.by_agent.map_or(0, |times| times.count_up_to(limit))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decisions of these durations in nanoseconds.
    fn decisions(ns: &[u64]) -> DecisionTimes {
        let mut counts = vec![0; histogram::BUCKETS as usize];
        for ns in ns {
            counts[histogram::bucket(*ns) as usize] += 1;
        }
        DecisionTimes::new(&counts)
    }

    fn agents(ms: &[u64]) -> Durations {
        ms.iter().copied().map(Duration::from_millis).collect()
    }

    fn assert_near(actual: Option<f64>, expected: f64) {
        let actual = actual.expect("there are selections");
        assert!(
            (actual - expected).abs() <= expected * 0.15,
            "{actual} is far from {expected}"
        );
    }

    #[test]
    fn without_selections_there_are_no_times() {
        let none = Selections {
            by_programs: 0,
            decisions: &decisions(&[500]),
            by_agent: None,
        };
        assert_eq!((none.count(), none.sum_seconds()), (0, 0.0));
        assert_eq!(
            (none.mean_seconds(), none.quantile_seconds(0.5)),
            (None, None)
        );
    }

    #[test]
    fn both_are_one_distribution_weighted_by_their_numbers() {
        let (decisions, agents) = (decisions(&[500; 10]), agents(&[40; 20]));
        let all = Selections {
            by_programs: 980,
            decisions: &decisions,
            by_agent: Some(&agents),
        };
        assert_eq!(all.count(), 1_000);
        assert_near(all.quantile_seconds(0.95), 500e-9);
        assert_near(all.quantile_seconds(0.98), 500e-9);
        assert_near(all.quantile_seconds(0.981), 40e-3);
        assert_near(all.quantile_seconds(0.99), 40e-3);
        assert_near(all.mean_seconds(), 0.02 * 40e-3);
    }

    #[test]
    fn quantiles_beyond_the_programs_are_the_agents_own() {
        let agents: Durations = (1..=100).map(Duration::from_millis).collect();
        let decisions = decisions(&[1_000]);
        let all = Selections {
            by_programs: 100,
            decisions: &decisions,
            by_agent: Some(&agents),
        };
        assert_near(all.quantile_seconds(0.25), 1e-6);
        assert_near(all.quantile_seconds(0.75), 50e-3);
        assert_near(all.quantile_seconds(0.95), 90e-3);
        assert_near(all.quantile_seconds(1.0), 100e-3);
        let only_agents = Selections {
            by_programs: 0,
            ..all
        };
        assert_near(only_agents.quantile_seconds(0.95), 95e-3);
    }

    #[test]
    fn until_a_decision_is_timed_decisions_take_no_time() {
        let all = Selections {
            by_programs: 3,
            decisions: &decisions(&[]),
            by_agent: None,
        };
        assert_eq!(all.quantile_seconds(0.99), Some(0.0));
        assert_eq!(all.mean_seconds(), Some(0.0));
    }

    #[test]
    fn the_programs_are_in_every_bucket_and_the_agents_where_they_belong() {
        let (decisions, agents) = (decisions(&[500]), agents(&[1, 40, 600]));
        let all = Selections {
            by_programs: 7,
            decisions: &decisions,
            by_agent: Some(&agents),
        };
        let buckets = all.up_to_each(&[0.005, 0.05, 0.5]);
        assert_eq!(buckets, [(0.005, 8), (0.05, 9), (0.5, 9)]);
        assert_eq!(all.count(), 10);
    }
}

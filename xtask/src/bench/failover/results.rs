//! What the bench came to: a table for people, and the figures that programs know by name.
//! Called by `failover`.

use std::{collections::BTreeMap, fmt};

use super::{
    super::report::{Samples, Target},
    Going,
    round::Failover,
};

/// All failovers, by how the leader went.
#[derive(Default)]
pub(super) struct Results(Vec<(Going, Summary)>);

struct Summary {
    times: usize,
    average_ms: f64,
    best_ms: f64,
    worst_ms: f64,
    median_ms: f64,
    /// Requests.
    failed: f64,
    most_failed: u32,
    complaints: BTreeMap<String, u32>,
    astray: u32,
}

const AVERAGE_TARGET: Target = Target::AtMost(20.0);
const WORST_TARGET: Target = Target::AtMost(100.0);

impl Results {
    pub(super) fn add(&mut self, going: Going, failovers: &[Failover]) {
        self.0.push((going, Summary::of(failovers)));
    }

    /// Those of killed leaders by the plain names, the others by names with a prefix.
    pub(super) fn figures(&self) -> BTreeMap<String, f64> {
        let mut figures = BTreeMap::new();
        for (going, summary) in &self.0 {
            let prefix = going.prefix();
            let mut add = |name: &str, value| figures.insert(format!("{prefix}{name}"), value);
            add("failover_avg_ms", summary.average_ms);
            add("failover_max_ms", summary.worst_ms);
            add("failover_min_ms", summary.best_ms);
            add("failover_failed_requests", summary.failed);
        }
        figures
    }
}

impl Summary {
    fn of(failovers: &[Failover]) -> Self {
        let mut ms = Samples::default();
        let (mut sum, mut best, mut worst) = (0.0, f64::INFINITY, 0.0_f64);
        let mut complaints = BTreeMap::new();
        for failover in failovers {
            let took = failover.took.as_secs_f64() * 1e3;
            ms.push(took);
            sum += took;
            (best, worst) = (best.min(took), worst.max(took));
            for (what, times) in &failover.complaints {
                *complaints.entry(what.clone()).or_default() += times;
            }
        }
        let times = failovers.len();
        let failed: u32 = failovers.iter().map(|failover| failover.failed).sum();
        Self {
            times,
            average_ms: sum / times as f64,
            best_ms: best,
            worst_ms: worst,
            median_ms: ms.median(),
            failed: f64::from(failed) / times as f64,
            most_failed: failovers.iter().map(|each| each.failed).max().unwrap_or(0),
            complaints,
            astray: failovers.iter().map(|failover| failover.astray).sum(),
        }
    }
}

impl Going {
    /// Of its figures' names.
    fn prefix(self) -> &'static str {
        match self {
            Self::Refused => "",
            Self::Deleted => "deleted_",
            Self::Blackholed => "blackholed_",
        }
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nfrom the leader's going to its successor's first answer, ms\n  {:<34}{:>9}{:>9}{:>9}{:>9}  requests failed, each time (most)",
            "the leader", "average", "median", "best", "worst"
        )?;
        for (going, summary) in &self.0 {
            writeln!(
                f,
                "  {:<34}{summary}",
                format!("{going} ({}×)", summary.times)
            )?;
        }
        writeln!(
            f,
            "  {:<34}{:>9}{:>9}{:>9}{:>9}",
            "the reference (deletion of a pod)", 1280, "", 910, 4860
        )?;
        for (going, summary) in &self.0 {
            for (what, times) in &summary.complaints {
                writeln!(f, "  failed while the leader {going}: {times} × {what}")?;
            }
            if summary.astray > 0 {
                let astray = summary.astray;
                writeln!(
                    f,
                    "  answered by a third backend when the leader {going}: {astray}"
                )?;
            }
            if *going == Going::Refused {
                let average = AVERAGE_TARGET.verdict(summary.average_ms);
                let worst = WORST_TARGET.verdict(summary.worst_ms);
                writeln!(
                    f,
                    "  failover_avg_ms  {:>8.2}  {average}",
                    summary.average_ms
                )?;
                writeln!(f, "  failover_max_ms  {:>8.2}  {worst}", summary.worst_ms)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            average_ms,
            best_ms,
            worst_ms,
            median_ms,
            failed,
            most_failed,
            ..
        } = self;
        write!(
            f,
            "{average_ms:>9.2}{median_ms:>9.2}{best_ms:>9.2}{worst_ms:>9.2}  {failed:.1} ({most_failed})"
        )
    }
}

impl fmt::Display for Going {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Refused => "is killed",
            Self::Deleted => "is taken out of the file",
            Self::Blackholed => "is cut off",
        })
    }
}

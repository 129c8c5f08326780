//! What the bench came to: a table for people, and the figures that programs know by name.
//! Called by `failover`, and in part by `k8s_failover`.

use std::{collections::BTreeMap, fmt};

use super::{
    super::report::{Samples, Target},
    Going,
    round::Failover,
};

/// All failovers, by how the leader went.
#[derive(Default)]
pub(super) struct Results(Vec<(Going, Summary)>);

/// The failovers of one kind.
pub(in crate::bench) struct Summary {
    pub(in crate::bench) times: usize,
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
            let named = summary.figures().into_iter();
            figures.extend(named.map(|(name, value)| (format!("{prefix}{name}"), value)));
        }
        figures
    }
}

impl Summary {
    pub(in crate::bench) fn of(failovers: &[Failover]) -> Self {
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

    /// By the names without a prefix.
    pub(in crate::bench) fn figures(&self) -> BTreeMap<String, f64> {
        BTreeMap::from([
            ("failover_avg_ms".to_owned(), self.average_ms),
            ("failover_max_ms".to_owned(), self.worst_ms),
            ("failover_min_ms".to_owned(), self.best_ms),
            ("failover_failed_requests".to_owned(), self.failed),
        ])
    }

    /// Whether the goals are met, a line each.
    pub(in crate::bench) fn verdicts(&self) -> String {
        let (average, worst) = (self.average_ms, self.worst_ms);
        format!(
            "  failover_avg_ms  {average:>8.2}  {}\n  failover_max_ms  {worst:>8.2}  {}\n",
            AVERAGE_TARGET.verdict(average),
            WORST_TARGET.verdict(worst)
        )
    }

    /// What went wrong, a line each.
    pub(in crate::bench) fn troubles(&self, when: &str) -> String {
        let mut lines = String::new();
        for (what, times) in &self.complaints {
            lines += &format!("  failed while the leader {when}: {times} × {what}\n");
        }
        if self.astray > 0 {
            let astray = self.astray;
            lines += &format!("  answered by a third backend when the leader {when}: {astray}\n");
        }
        lines
    }
}

/// Above the table; `what` begins the time.
pub(in crate::bench) fn heading(what: &str) -> String {
    format!(
        "\nfrom the leader's {what} to its successor's first answer, ms\n  {:<34}{:>9}{:>9}{:>9}{:>9}  requests failed, each time (most)",
        "the leader", "average", "median", "best", "worst"
    )
}

/// The line to compare with.
pub(in crate::bench) fn reference() -> String {
    format!(
        "  {:<34}{:>9}{:>9}{:>9}{:>9}",
        "the reference (deletion of a pod)", 1280, "", 910, 4860
    )
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
        writeln!(f, "{}", heading("going"))?;
        for (going, summary) in &self.0 {
            writeln!(
                f,
                "  {:<34}{summary}",
                format!("{going} ({}×)", summary.times)
            )?;
        }
        writeln!(f, "{}", reference())?;
        for (going, summary) in &self.0 {
            write!(f, "{}", summary.troubles(&going.to_string()))?;
            if *going == Going::Refused {
                write!(f, "{}", summary.verdicts())?;
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

//! What a run came to: for people side by side, for programs as JSON, and what is wrong with it.

use std::{fmt::Write, net::SocketAddr};

use anyhow::{Context, Result};
use serde::Serialize;
use tests::function::Function;

use super::client::{LATE, Outcome};

/// The figures of one run.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Figures {
    requests: u64,
    ok: u64,
    refused: u64,
    errors: u64,
    /// Arrivals that a server saw when it was already serving all it may.
    over_limit: u64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
    backends: Vec<BackendFigures>,
    #[serde(skip)]
    max_inflight: u32,
    #[serde(skip)]
    late: u64,
    #[serde(skip)]
    complaints: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
struct BackendFigures {
    address: SocketAddr,
    served: u64,
    /// The most that the server saw at once.
    peak_inflight: u32,
}

impl Figures {
    /// Of a run that has just ended on these servers.
    pub(super) fn new(outcome: Outcome, functions: &[Function], max_inflight: u32) -> Self {
        let backends = functions.iter().map(|function| {
            let seen = function.seen();
            BackendFigures {
                address: function.address(),
                served: seen.served,
                peak_inflight: seen.peak,
            }
        });
        let complaints = outcome.finish.complaints.iter();
        Self {
            requests: outcome.tally.requests,
            ok: outcome.tally.ok,
            refused: outcome.tally.refused,
            errors: outcome.tally.errors,
            over_limit: functions
                .iter()
                .map(|function| function.seen().over_limit)
                .sum(),
            p50_ms: outcome.finish.p50_ms,
            p95_ms: outcome.finish.p95_ms,
            p99_ms: outcome.finish.p99_ms,
            backends: backends.collect(),
            max_inflight,
            late: outcome.finish.late,
            complaints: complaints
                .map(|(what, times)| format!("{times} × {what}"))
                .collect(),
        }
    }

    /// One object with both runs, on one line.
    pub(super) fn json(&self, random: &Self) -> Result<String> {
        #[derive(Serialize)]
        struct Both<'a> {
            #[serde(flatten)]
            balanced: &'a Figures,
            random: &'a Figures,
        }
        let both = Both {
            balanced: self,
            random,
        };
        serde_json::to_string(&both).context("cannot write the figures as JSON")
    }

    /// Reasons to call a balanced run a failure.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.over_limit > 0 {
            failures.push(format!(
                "{} requests reached a server that was full",
                self.over_limit
            ));
        }
        if self.errors > 0 {
            failures.push(format!(
                "{} requests failed:\n  {}",
                self.errors,
                self.complaints.join("\n  ")
            ));
        }
        if self.ok == 0 {
            failures.push("not one request was served".to_owned());
        }
        failures
    }

    /// A caution, if this machine could not send the load as it was drawn.
    fn lateness(&self) -> Option<String> {
        let percent = share(self.late, self.requests);
        (percent > 1.0).then(|| {
            format!(
                "{percent:.0} % of requests left more than {} ms late: this machine was too busy for the load,\n\
                 take the times with care (or lower --rate)\n",
                LATE.as_millis()
            )
        })
    }

    fn highest_peak(&self) -> u32 {
        self.backends
            .iter()
            .map(|backend| backend.peak_inflight)
            .max()
            .unwrap_or(0)
    }
}

/// Both runs in one table.
pub(super) fn side_by_side(balanced: &Figures, random: &Figures) -> String {
    let mut table = format!("\n{:<34} {:>16} {:>16}\n", "", "Idlefirst", "random");
    let mut row = |name: &str, cell: &dyn Fn(&Figures) -> String| {
        writeln!(
            table,
            "{name:<34} {:>16} {:>16}",
            cell(balanced),
            cell(random)
        )
        .expect("writing to a String cannot fail");
    };
    row("requests", &|run| run.requests.to_string());
    row("ok", &|run| run.ok.to_string());
    row("refused", &|run| {
        format!(
            "{} ({:.1} %)",
            run.refused,
            share(run.refused, run.requests)
        )
    });
    row("errors", &|run| run.errors.to_string());
    row("reached a full server (over_limit)", &|run| {
        run.over_limit.to_string()
    });
    row("p50 of those served", &|run| {
        format!("{:.1} ms", run.p50_ms)
    });
    row("p95", &|run| format!("{:.1} ms", run.p95_ms));
    row("p99", &|run| format!("{:.1} ms", run.p99_ms));
    row("highest peak at a server", &|run| {
        format!("{} of {}", run.highest_peak(), run.max_inflight)
    });
    if let Some(note) = balanced.lateness().or(random.lateness()) {
        table += &note;
    }
    table += "\nserved (and peak), as the servers saw it\n";
    let mut row = |balanced: &BackendFigures, random: &BackendFigures| {
        let cell =
            |backend: &BackendFigures| format!("{} ({})", backend.served, backend.peak_inflight);
        writeln!(
            table,
            "{:<34} {:>16} {:>16}",
            balanced.address.to_string(),
            cell(balanced),
            cell(random)
        )
        .expect("writing to a String cannot fail");
    };
    for (balanced, random) in balanced.backends.iter().zip(&random.backends) {
        row(balanced, random);
    }
    table
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64 * 100.0
    }
}

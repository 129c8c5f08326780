//! What a run came to: for people side by side, for programs as JSON, and what is wrong with it.

use std::{collections::BTreeMap, fmt::Write, net::SocketAddr};

use anyhow::{Context, Result};
use serde::Serialize;
use tests::function::Function;

use super::strategy::Strategy;
use crate::load::{Excess, LATE, Outcome};

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
    /// Response times less the work itself.
    wait_p50_ms: f64,
    wait_p99_ms: f64,
    refused_by_reason: BTreeMap<String, u64>,
    backends: Vec<BackendFigures>,
    /// The same counts by address.
    served: BTreeMap<SocketAddr, u64>,
    #[serde(skip)]
    max_inflight: u32,
    #[serde(skip)]
    outcome: Outcome,
}

#[derive(Clone, Debug, Serialize)]
struct BackendFigures {
    address: SocketAddr,
    weight: u32,
    served: u64,
    /// Of all that were served, as a fraction of 1.
    share: f64,
    /// The most that the server saw at once.
    peak_inflight: u32,
}

/// All that the demo found out.
#[derive(Serialize)]
pub(super) struct Comparison {
    #[serde(flatten)]
    pub(super) balanced: Figures,
    strategy: &'static str,
    /// Requests that had to wait.
    pub(super) queued: u64,
    pub(super) waiters_peak: u64,
    central_refused_share: f64,
    random_refused_share: f64,
    random: Figures,
    #[serde(skip)]
    central: Outcome,
    #[serde(skip)]
    excess: Excess,
}

impl Figures {
    /// Of a run that has just ended on these servers.
    pub(super) fn new(
        outcome: Outcome,
        functions: &[Function],
        strategy: Strategy,
        max_inflight: u32,
    ) -> Self {
        let served = functions
            .iter()
            .map(|function| (function.address(), function.seen().served));
        let served: BTreeMap<_, _> = served.collect();
        let all = served.values().sum::<u64>().max(1);
        let backends = functions.iter().enumerate().map(|(number, function)| {
            let (address, seen) = (function.address(), function.seen());
            BackendFigures {
                address,
                weight: strategy.weight(number),
                served: seen.served,
                share: seen.served as f64 / all as f64,
                peak_inflight: seen.peak,
            }
        });
        let over_limit = functions.iter().map(|function| function.seen().over_limit);
        Self {
            requests: outcome.tally.requests,
            ok: outcome.tally.ok,
            refused: outcome.tally.refused,
            errors: outcome.tally.errors,
            over_limit: over_limit.sum(),
            p50_ms: outcome.response_ms.p50,
            p95_ms: outcome.response_ms.p95,
            p99_ms: outcome.response_ms.p99,
            wait_p50_ms: outcome.wait_ms.p50,
            wait_p99_ms: outcome.wait_ms.p99,
            refused_by_reason: outcome.refused_by_reason.clone(),
            backends: backends.collect(),
            served,
            max_inflight,
            outcome,
        }
    }

    /// What was measured at the clients.
    pub(super) fn outcome(&self) -> &Outcome {
        &self.outcome
    }

    /// Reasons to call a balanced run a failure, whatever the others came to.
    fn failures(&self) -> Vec<String> {
        let mut failures = Vec::new();
        if self.over_limit > 0 {
            failures.push(format!(
                "{} requests reached a server that was full",
                self.over_limit
            ));
        }
        if self.errors > 0 {
            let complaints = self.outcome.complaints.iter();
            let complaints: Vec<_> = complaints
                .map(|(what, times)| format!("\n  {times} × {what}"))
                .collect();
            failures.push(format!(
                "{} requests failed:{}",
                self.errors,
                complaints.concat()
            ));
        }
        if self.ok == 0 {
            failures.push("not one request was served".to_owned());
        }
        failures
    }

    fn highest_peak(&self) -> u32 {
        let peaks = self.backends.iter().map(|backend| backend.peak_inflight);
        peaks.max().unwrap_or(0)
    }
}

impl Comparison {
    /// Of a balanced run that queued so many, the central queue for the same load, and random
    /// steering.
    pub(super) fn new(
        strategy: Strategy,
        balanced: Figures,
        (queued, waiters_peak): (u64, u64),
        (central, excess): (Outcome, Excess),
        random: Figures,
    ) -> Self {
        Self {
            strategy: strategy.word(),
            balanced,
            queued,
            waiters_peak,
            central_refused_share: central.refused_share(),
            random_refused_share: random.outcome.refused_share(),
            random,
            central,
            excess,
        }
    }

    /// One object, on one line.
    pub(super) fn json(&self) -> Result<String> {
        serde_json::to_string(self).context("cannot write the figures as JSON")
    }

    /// Reasons to call the balanced run a failure.
    pub(super) fn failures(&self) -> Vec<String> {
        let mut failures = self.balanced.failures();
        let Excess {
            share,
            allowed,
            noise,
        } = self.excess;
        // What was sent late came in bursts, for which the central queue would have refused more.
        if self.excess.is_certain() && self.balanced.outcome.was_in_time() {
            failures.push(format!(
                "{:.2} % of requests were refused; 1.1 × one central queue's and 0.2 points more is \
                 {:.2} %, and chance adds at most {:.2}",
                share * 100.0,
                allowed * 100.0,
                noise * 100.0
            ));
        }
        failures
    }

    /// All of it in one table.
    pub(super) fn table(&self) -> String {
        let Self {
            balanced,
            random,
            central,
            ..
        } = self;
        let outcomes = [&balanced.outcome, central, &random.outcome];
        let mut table = String::new();
        let mut row = |name: &str, cells: [String; 3]| {
            let [balanced, central, random] = cells;
            writeln!(
                table,
                "{name:<34} {balanced:>16} {central:>16} {random:>16}"
            )
            .expect("writing to a String cannot fail");
        };
        row(
            "",
            ["Idlefirst", "central queue", "random"].map(String::from),
        );
        row("", ["measured", "simulated", "measured"].map(String::from));
        let count = |value: fn(&Outcome) -> u64| outcomes.map(|of| value(of).to_string());
        row("requests", count(|of| of.tally.requests));
        row("ok", count(|of| of.tally.ok));
        row("refused", outcomes.map(refused));
        row("errors", count(|of| of.tally.errors));
        let ms = |value: fn(&Outcome) -> f64| outcomes.map(|of| format!("{:.1} ms", value(of)));
        row("p50 of those served", ms(|of| of.response_ms.p50));
        row("p95", ms(|of| of.response_ms.p95));
        row("p99", ms(|of| of.response_ms.p99));
        row("p50 less the work itself", ms(|of| of.wait_ms.p50));
        row("p99 less the work itself", ms(|of| of.wait_ms.p99));
        let real = |cell: &dyn Fn(&Figures) -> String| [cell(balanced), "-".into(), cell(random)];
        row(
            "reached a full server (over_limit)",
            real(&|run| run.over_limit.to_string()),
        );
        row(
            "highest peak at a server",
            real(&|run| format!("{} of {}", run.highest_peak(), run.max_inflight)),
        );
        row(
            "had to wait",
            [self.queued.to_string(), "-".into(), "-".into()],
        );
        table + &self.reasons() + &lateness(&outcomes) + &self.served()
    }

    fn reasons(&self) -> String {
        let reasons = self.balanced.refused_by_reason.iter();
        reasons
            .map(|(reason, count)| format!("  refused with {reason}: {count}\n"))
            .collect()
    }

    fn served(&self) -> String {
        let mut table = format!(
            "\nserved (and peak), as the servers saw it\n{:<34} {:>16} {:>8} {:>7} {:>16}\n",
            "", self.strategy, "share", "weight", "random"
        );
        let cell =
            |backend: &BackendFigures| format!("{} ({})", backend.served, backend.peak_inflight);
        let pairs = self.balanced.backends.iter().zip(&self.random.backends);
        for (balanced, random) in pairs {
            writeln!(
                table,
                "{:<34} {:>16} {:>6.1} % {:>7} {:>16}",
                balanced.address.to_string(),
                cell(balanced),
                balanced.share * 100.0,
                balanced.weight,
                cell(random)
            )
            .expect("writing to a String cannot fail");
        }
        table
    }
}

fn refused(outcome: &Outcome) -> String {
    let percent = outcome.refused_share() * 100.0;
    format!("{} ({percent:.1} %)", outcome.tally.refused)
}

/// A caution, if this machine could not send the load as it was drawn.
fn lateness(outcomes: &[&Outcome]) -> String {
    if outcomes.iter().all(|outcome| outcome.was_in_time()) {
        return String::new();
    }
    let shares = outcomes.iter().map(|outcome| outcome.late_share());
    let percent = shares.fold(0.0, f64::max) * 100.0;
    format!(
        "{percent:.0} % of requests left more than {} ms late: this machine was too busy for the load,\n\
         take times and refusals with care (or lower --rate)\n",
        LATE.as_millis()
    )
}

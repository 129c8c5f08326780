//! What a soak shows: a line for each fault as it goes, and all of it as JSON at the end.

use std::{collections::BTreeMap, time::Instant};

use anyhow::{Context, Result};
use serde::Serialize;
use tests::soak::{Fault, Outcome, Usage, Wrongs};

use crate::process::progress;

/// Kept while it goes on.
pub(super) struct Report {
    seed: u64,
    begun: Instant,
    usage_first: Usage,
    pub(super) usage_last: Usage,
    pub(super) served: u64,
    faults: BTreeMap<&'static str, Suffered>,
}

/// How one kind of fault went.
#[derive(Default, Serialize)]
struct Suffered {
    times: usize,
    /// Exchanges that failed because of it, where they may.
    failed: usize,
    /// From its end to the last failure, at worst.
    slowest_recovery_ms: u64,
}

#[derive(Serialize)]
struct Summary<'a> {
    seed: u64,
    seconds: u64,
    exchanges: u64,
    exchanges_per_second: u64,
    over_limit: u64,
    drift: u64,
    agent_memory_bytes: [usize; 2],
    agent_descriptors: [usize; 2],
    faults: &'a BTreeMap<&'static str, Suffered>,
}

impl Report {
    pub(super) fn begin(seed: u64, usage: Usage) -> Self {
        Self {
            seed,
            begun: Instant::now(),
            usage_first: usage,
            usage_last: usage,
            served: 0,
            faults: BTreeMap::new(),
        }
    }

    pub(super) fn note(&mut self, fault: Fault, outcome: &Outcome, served: u64) {
        let suffered = self.faults.entry(fault.name()).or_default();
        suffered.times += 1;
        suffered.failed += outcome.tolerated;
        let recovery_ms = outcome.recovered_in.as_millis() as u64;
        suffered.slowest_recovery_ms = suffered.slowest_recovery_ms.max(recovery_ms);
        progress(&format!(
            "{:>5} s  {:<26} {:>6} failed of {:>7}, well again after {recovery_ms} ms; {served} in all",
            self.begun.elapsed().as_secs(),
            fault.name(),
            outcome.tolerated,
            outcome.served,
        ));
    }

    pub(super) fn print(&self, wrongs: Wrongs) -> Result<()> {
        let elapsed = self.begun.elapsed();
        let (first, last) = (self.usage_first, self.usage_last);
        let summary = Summary {
            seed: self.seed,
            seconds: elapsed.as_secs(),
            exchanges: self.served,
            exchanges_per_second: (self.served as f64 / elapsed.as_secs_f64()) as u64,
            over_limit: wrongs.over_limit,
            drift: wrongs.drift,
            agent_memory_bytes: [first.memory, last.memory],
            agent_descriptors: [first.descriptors, last.descriptors],
            faults: &self.faults,
        };
        let text = serde_json::to_string_pretty(&summary).context("cannot write the summary")?;
        println!("{text}");
        Ok(())
    }
}

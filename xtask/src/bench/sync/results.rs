//! What the bench came to: a table for people, and the figures that programs know by name.
//! Called by `sync`.

use std::{collections::BTreeMap, fmt};

use super::{
    super::report::{Target, quantile},
    memory::Memory,
    stage::FirstSync,
    steps::{OneAtATime, Sustained},
};

/// All of it.
pub(super) struct Results {
    pub(super) services: u32,
    /// Of each service.
    pub(super) backends: u32,
    pub(super) first: FirstSync,
    pub(super) one: OneAtATime,
    pub(super) sustained: Sustained,
    pub(super) at_end: Memory,
}

const SYNC_TARGET: Target = Target::AtMost(5.0);
const MEMORY_TARGET: Target = Target::AtMost(150.0);
const CHANGE_TARGET: Target = Target::AtMost(1.0);

impl Results {
    pub(super) fn figures(&self) -> BTreeMap<&'static str, f64> {
        let Self {
            first,
            sustained,
            at_end,
            ..
        } = self;
        BTreeMap::from([
            ("services", self.services.into()),
            ("backends_each", self.backends.into()),
            ("first_sync_s", first.took.as_secs_f64()),
            ("ready_after_s", first.ready_after.as_secs_f64()),
            ("agent_rss_mb", at_end.resident_mb),
            ("agent_rss_anon_mb", at_end.anonymous_mb),
            ("agent_rss_mapped_mb", at_end.mapped_mb),
            ("agent_rss_after_sync_mb", first.memory.resident_mb),
            ("agent_rss_anon_after_sync_mb", first.memory.anonymous_mb),
            ("change_to_kernel_p50_ms", self.change_ms(0.5)),
            ("change_to_kernel_p99_ms", self.change_ms(0.99)),
            ("change_to_kernel_max_ms", self.change_ms(1.0)),
            ("cpu_share_at_1000_per_s", sustained.agent_cpu_share),
            ("changes_per_s", sustained.rate),
            (
                "last_change_late_ms",
                sustained.last_late.as_secs_f64() * 1e3,
            ),
        ])
    }

    fn change_ms(&self, share: f64) -> f64 {
        quantile(&mut self.one.ms.clone(), share)
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            services,
            backends,
            first,
            one,
            sustained,
            at_end,
        } = self;
        let took = first.took.as_secs_f64();
        let p99 = self.change_ms(0.99);
        writeln!(f, "\n{services} services with {backends} backends each")?;
        writeln!(
            f,
            "  first_sync_s              {took:>9.2}  {} (ready after {:.2} s)",
            SYNC_TARGET.verdict(took),
            first.ready_after.as_secs_f64()
        )?;
        writeln!(
            f,
            "  agent_rss_mb              {:>9.1}  {} ({at_end})",
            at_end.resident_mb,
            MEMORY_TARGET.verdict(at_end.resident_mb)
        )?;
        writeln!(
            f,
            "    right after the sync    {:>9.1}  ({})",
            first.memory.resident_mb, first.memory
        )?;
        writeln!(
            f,
            "  change_to_kernel_p99_ms   {p99:>9.3}  {} (p50 {:.3}, worst {:.3}, {} changes)",
            CHANGE_TARGET.verdict(p99),
            self.change_ms(0.5),
            self.change_ms(1.0),
            one.ms.len()
        )?;
        writeln!(
            f,
            "  cpu_share_at_1000_per_s   {:>9.3}  of one CPU, at {:.0} changes a second ({} changes)",
            sustained.agent_cpu_share, sustained.rate, sustained.changes
        )?;
        writeln!(
            f,
            "    the last one was late by{:>9.3} ms",
            sustained.last_late.as_secs_f64() * 1e3
        )
    }
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            anonymous_mb,
            mapped_mb,
            ..
        } = self;
        write!(
            f,
            "{anonymous_mb:.1} of its own, {mapped_mb:.1} of the program and of BPF maps"
        )
    }
}

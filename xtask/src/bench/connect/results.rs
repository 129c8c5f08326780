//! What the bench came to: tables for people, and the figures that programs know by name.
//! Called by `connect`.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    super::report::{Ratio, Samples, Target},
    bytes::Throughput,
    program::{CONNECT, RELEASE, RunTime, RunTimes, TRACK},
    server::Wait,
};

/// All ways to connect that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// To a backend's own address.
    Straight,
    /// The same from outside of the balanced cgroup.
    StraightOutside,
    /// To one of 1,000 addresses: what those cost by themselves.
    StraightWide,
    /// To one of 20,000 addresses.
    StraightMany,
    /// 10 backends of one slot each.
    Limited,
    /// 10 backends without a limit.
    Unlimited,
    /// 1,000 backends of one slot each.
    Wide,
    /// Translated by iptables to one of the 10.
    Iptables,
    /// As [`Way::Limited`], where iptables is.
    BesideIptables,
    /// One of 10 services.
    FewServices,
    /// One of 10,000.
    ManyServices,
}

/// What was dialled while the kernel counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialled {
    FewBackends,
    ManyBackends,
    FewServices,
    ManyServices,
}

pub(super) struct Results {
    /// Microseconds of a connect.
    pub(super) connects: BTreeMap<(Wait, Way), Samples>,
    pub(super) throughput: Throughput,
    pub(super) programs: Vec<(Dialled, RunTimes)>,
}

/// The figures, by the names that programs know; those of a connect are of [`HEADLINE`].
#[derive(Serialize)]
pub(super) struct Figures {
    connect_vs_straight_p50: f64,
    connect_vs_iptables_p50: f64,
    backends_1000_vs_10: f64,
    services_10000_vs_10: f64,
    bytes_vs_straight: f64,
    connect_program_ns: f64,
}

/// A connection is steered to an idle backend, and that sleeps. Against one that polls, the same
/// addition is a larger share of less; those ratios are printed beside.
const HEADLINE: Wait = Wait::Asleep;

/// Rounds apart by more than this are of two kinds: in some, others kept the servers' CPU awake.
const UNSTEADY: f64 = 1.3;

const COMPARISONS: [(&str, Way, Way, Target); 4] = [
    (
        "connect_vs_straight_p50",
        Way::Limited,
        Way::Straight,
        Target::AtMost(1.05),
    ),
    (
        "connect_vs_iptables_p50",
        Way::BesideIptables,
        Way::Iptables,
        Target::AtMost(1.0),
    ),
    (
        "backends_1000_vs_10",
        Way::Wide,
        Way::Limited,
        Target::AtMost(1.2),
    ),
    (
        "services_10000_vs_10",
        Way::ManyServices,
        Way::FewServices,
        Target::AtMost(1.2),
    ),
];

const BYTES_TARGET: Target = Target::AtLeast(0.99);

impl Results {
    pub(super) fn figures(&self) -> Figures {
        let [straight, iptables, backends, services] =
            COMPARISONS.map(|(_, way, base, _)| self.ratio(HEADLINE, way, base).value);
        Figures {
            connect_vs_straight_p50: straight,
            connect_vs_iptables_p50: iptables,
            backends_1000_vs_10: backends,
            services_10000_vs_10: services,
            bytes_vs_straight: self.bytes_ratio().value,
            connect_program_ns: self.program(Dialled::FewBackends, CONNECT).ns(),
        }
    }

    fn ratio(&self, wait: Wait, way: Way, base: Way) -> Ratio {
        self.connects[&(wait, way)].over(&self.connects[&(wait, base)])
    }

    fn bytes_ratio(&self) -> Ratio {
        self.throughput.balanced.over(&self.throughput.straight)
    }

    fn program(&self, dialled: Dialled, program: &str) -> RunTime {
        let of = self.programs.iter().find(|(what, _)| *what == dialled);
        of.and_then(|(_, times)| times.get(program).copied())
            .unwrap_or_default()
    }

    fn write_connects(&self, f: &mut fmt::Formatter<'_>, wait: Wait) -> fmt::Result {
        writeln!(
            f,
            "\nconnect() to {wait}, p50 in µs: median of the rounds [quartiles]"
        )?;
        let connects = self.connects.iter();
        for ((_, way), samples) in connects.filter(|((of, _), _)| *of == wait) {
            let (low, high) = samples.quartiles();
            let median = samples.median();
            writeln!(f, "  {way:<58} {median:>6.2} [{low:.2}–{high:.2}]")?;
        }
        Ok(())
    }

    fn write_programs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nprograms, ns a run (runs for one connection)")?;
        for (dialled, times) in &self.programs {
            write!(f, "  {dialled:<18}")?;
            let connects = self.program(*dialled, CONNECT).runs;
            for program in [CONNECT, TRACK, RELEASE] {
                let time = times.get(program).copied().unwrap_or_default();
                let share = time.runs / connects;
                write!(f, "  {program} {:>4.0} ({share:.0})", time.ns())?;
            }
            writeln!(f)?;
        }
        Ok(())
    }

    fn write_ratios(&self, f: &mut fmt::Formatter<'_>, wait: Wait) -> fmt::Result {
        writeln!(
            f,
            "\nto {wait}: ratio of medians [quartiles of the rounds' own ratios]"
        )?;
        let (low, high) = self.connects[&(wait, Way::Straight)].quartiles();
        if high > low * UNSTEADY {
            writeln!(
                f,
                "  unsteady: other processes keep the servers' CPU busy at times; measure again"
            )?;
        }
        for (name, way, base, target) in COMPARISONS {
            let ratio = self.ratio(wait, way, base);
            let verdict = target.verdict(ratio.value);
            let [own, other] = [way, base].map(|way| self.connects[&(wait, way)].median());
            writeln!(
                f,
                "  {name:<24} {:<20}  {verdict:<14} {own:.2} µs vs {other:.2} µs",
                ratio.to_string()
            )?;
        }
        Ok(())
    }

    fn write_others(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nany server")?;
        let ratio = self.bytes_ratio();
        let verdict = BYTES_TARGET.verdict(ratio.value);
        let gigabytes = |samples: &Samples| samples.median() / 1e9;
        let (own, other) = (
            gigabytes(&self.throughput.balanced),
            gigabytes(&self.throughput.straight),
        );
        writeln!(
            f,
            "  {:<24} {:<20}  {verdict:<14} {own:.2} GB/s vs {other:.2} GB/s",
            "bytes_vs_straight",
            ratio.to_string()
        )?;
        let ns = self.program(Dialled::FewBackends, CONNECT).ns();
        writeln!(f, "  {:<24} {ns:.0}", "connect_program_ns")
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for wait in [Wait::Awake, Wait::Asleep] {
            self.write_connects(f, wait)?;
        }
        self.write_programs(f)?;
        for wait in [Wait::Awake, Wait::Asleep] {
            self.write_ratios(f, wait)?;
        }
        self.write_others(f)
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Straight => "straight to a backend, from the balanced cgroup",
            Self::StraightOutside => "straight to a backend, from outside",
            Self::StraightWide => "straight to 1,000 backends in turn",
            Self::StraightMany => "straight to one of the 10,000 services' 20,000 backends",
            Self::Limited => "balanced over 10 backends of one slot each",
            Self::Unlimited => "balanced over 10 backends without a limit",
            Self::Wide => "balanced over 1,000 backends of one slot each",
            Self::Iptables => "iptables over 10 backends (same cgroup, no frontend)",
            Self::BesideIptables => "balanced over 10 backends, in iptables' namespace",
            Self::FewServices => "balanced, one of 10 services",
            Self::ManyServices => "balanced, one of 10,000 services",
        })
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Asleep => "a server that sleeps",
            Self::Awake => "a server that is awake",
        })
    }
}

impl fmt::Display for Dialled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::FewBackends => "10 backends",
            Self::ManyBackends => "1,000 backends",
            Self::FewServices => "10 services",
            Self::ManyServices => "10,000 services",
        })
    }
}

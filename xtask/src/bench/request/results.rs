//! What the bench came to: tables for people, and the figures that programs know by name.
//! Called by `request`.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    super::report::{Ratio, Samples, Target},
    CASES, Case,
    peer::Kind,
};

const RPS_TARGET: Target = Target::AtLeast(1.0);
const P99_TARGET: Target = Target::AtMost(1.0);

/// A share of requests.
const FEW_REFUSED: f64 = 0.01;

const PEERS: [Kind; 3] = [Kind::Nginx, Kind::HaProxy, Kind::Envoy];

/// Who is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name {
    Ours,
    Peer(Kind),
}

/// One proxy's turn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// Requests that were answered with 200.
    pub(super) ok: u64,
    /// Those that were refused.
    pub(super) refused: u64,
    pub(super) lasted: Duration,
    /// What the proxy used.
    pub(super) cpu: Duration,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
}

/// A sample a round.
#[derive(Default)]
struct Series {
    /// Requests for each second of CPU time.
    per_cpu_second: Samples,
    per_second: Samples,
    cpu_share: Samples,
    refused_share: Samples,
    p50_us: Samples,
    p99_us: Samples,
}

#[derive(Default)]
pub(super) struct Results(BTreeMap<(Case, Name), Series>);

impl Results {
    pub(super) fn push(&mut self, case: Case, name: Name, slice: Slice) {
        let series = self.0.entry((case, name)).or_default();
        let (ok, refused) = (slice.ok as f64, slice.refused as f64);
        let (lasted, cpu) = (slice.lasted.as_secs_f64(), slice.cpu.as_secs_f64());
        series.per_cpu_second.push(ok / cpu);
        series.per_second.push(ok / lasted);
        series.cpu_share.push(cpu / lasted);
        series.refused_share.push(refused / (ok + refused).max(1.0));
        series.p50_us.push(slice.p50_us);
        series.p99_us.push(slice.p99_us);
    }

    /// By the names that programs know, all of the load that slots can carry.
    pub(super) fn figures(&self) -> BTreeMap<&'static str, f64> {
        let ratios = self.ratios(Case::Carried).into_iter();
        ratios.map(|(name, ratio, _)| (name, ratio.value)).collect()
    }

    fn ratios(&self, case: Case) -> [(&'static str, Ratio, Target); 4] {
        let per_cpu_second = |kind| {
            let own = &self.of(case, Name::Ours).per_cpu_second;
            own.over_by_round(&self.of(case, Name::Peer(kind)).per_cpu_second)
        };
        let p99 = &self.of(case, Name::Ours).p99_us;
        let best = self.best_p99(case);
        [
            (
                "request_rps_vs_nginx",
                per_cpu_second(Kind::Nginx),
                RPS_TARGET,
            ),
            (
                "request_rps_vs_haproxy",
                per_cpu_second(Kind::HaProxy),
                RPS_TARGET,
            ),
            (
                "request_rps_vs_envoy",
                per_cpu_second(Kind::Envoy),
                RPS_TARGET,
            ),
            ("request_p99_vs_best", p99.over_by_round(best), P99_TARGET),
        ]
    }

    /// Of the peers that serve everybody: whoever refuses most has little to wait for.
    fn best_p99(&self, case: Case) -> &Samples {
        let peers = PEERS.map(|kind| self.of(case, Name::Peer(kind)));
        let refuses = |series: &Series| series.refused_share.median() > FEW_REFUSED;
        let by = |series: &Series| (refuses(series), series.p99_us.median());
        let best = peers.into_iter().min_by(|one, other| {
            let ((one_refuses, one), (other_refuses, other)) = (by(one), by(other));
            one_refuses.cmp(&other_refuses).then(one.total_cmp(&other))
        });
        &best.expect("there are peers").p99_us
    }

    fn of(&self, case: Case, name: Name) -> &Series {
        &self.0[&(case, name)]
    }

    fn write_case(&self, f: &mut fmt::Formatter<'_>, case: Case) -> fmt::Result {
        writeln!(f, "\n{case}")?;
        writeln!(
            f,
            "  {:<10} {:>12} {:>12} {:>8} {:>10} {:>10} {:>9}",
            "", "req/CPU-s", "req/s", "CPU", "p50", "p99", "refused"
        )?;
        for ((of, name), series) in &self.0 {
            if *of == case {
                writeln!(
                    f,
                    "  {name:<10} {:>12.0} {:>12.0} {:>6.0} % {:>7.0} µs {:>7.0} µs {:>7.2} %",
                    series.per_cpu_second.median(),
                    series.per_second.median(),
                    series.cpu_share.median() * 100.0,
                    series.p50_us.median(),
                    series.p99_us.median(),
                    series.refused_share.median() * 100.0,
                )?;
            }
        }
        for (figure, ratio, target) in self.ratios(case) {
            let verdict = target.verdict(ratio.value);
            let figure = match case {
                Case::Carried => figure.to_owned(),
                Case::Overload => figure.replace("request", "overload"),
            };
            writeln!(f, "  {figure:<24} {:<20}  {verdict}", ratio.to_string())?;
        }
        Ok(())
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        CASES.iter().try_for_each(|case| self.write_case(f, *case))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Carried => {
                "10 kept connections, 10 one-slot backends that answer at once: the figures"
            }
            Self::Overload => "40 kept connections, the same backends with 1 ms of work",
        })
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ours => f.pad("Idlefirst"),
            Self::Peer(kind) => kind.fmt(f),
        }
    }
}

//! What the bench came to: tables for people, and the figures that programs know by name.
//! Called by `queue`.

use std::{collections::BTreeMap, fmt};

use super::{
    super::report::Target,
    poisson::Case,
    wake::{WakeTimes, Wakes},
};
use crate::load::Outcome;

const WAKE_TARGET: Target = Target::AtMost(200.0);

pub(super) struct Results {
    pub(super) wakes: Wakes,
    pub(super) cases: Vec<Case>,
}

impl Results {
    /// By the names that programs know; shares are fractions of 1.
    pub(super) fn figures(&self) -> BTreeMap<String, f64> {
        let mut figures =
            BTreeMap::from([("wake_p50_us".to_owned(), self.wakes.by_kernel().p50_us)]);
        for case in &self.cases {
            let load = format!("rho_{:02.0}", case.utilisation * 10.0);
            let shares = [
                ("", &case.balanced),
                ("central_", &case.central),
                ("random_", &case.random),
            ];
            for (whose, outcome) in shares {
                let name = format!("{whose}refused_share_{load}");
                figures.insert(name, outcome.refused_share());
            }
        }
        figures
    }

    fn write_wakes(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nfrom the freeing of a slot to the first byte of the next waiter, at the backend"
        )?;
        let kernel = self.wakes.by_kernel();
        let verdict = WAKE_TARGET.verdict(kernel.p50_us);
        let line = |times: WakeTimes| {
            let WakeTimes {
                samples,
                p50_us,
                p99_us,
            } = times;
            format!("p50 {p50_us:>6.0} µs   p99 {p99_us:>6.0} µs   ({samples} times)")
        };
        writeln!(
            f,
            "  wake_p50_us: freed in the kernel  {}   {verdict}",
            line(kernel)
        )?;
        writeln!(
            f,
            "  freed by the agent                {}",
            line(self.wakes.by_agent())
        )
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_wakes(f)?;
        writeln!(
            f,
            "\nPoisson arrivals, 10 one-slot backends, exponential work of 50 ms, 100 ms wait"
        )?;
        self.cases.iter().try_for_each(|case| case.fmt(f))
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = match (self.excess.is_within(), self.excess.is_certain()) {
            (true, _) => "met",
            (false, false) => "MISSED, perhaps by chance",
            (false, true) => "MISSED",
        };
        writeln!(
            f,
            "\n  ρ = {:.1}, {} requests: refused at most {:.2} % (1.1 × the central queue's and 0.2 points): {verdict}",
            self.utilisation,
            self.balanced.tally.requests,
            self.excess.allowed * 100.0,
        )?;
        let rows = [
            ("Idlefirst", &self.balanced),
            ("one central queue, simulated", &self.central),
            ("random, refused by busy backends", &self.random),
        ];
        for (name, outcome) in rows {
            write_row(f, name, outcome)?;
        }
        Ok(())
    }
}

fn write_row(f: &mut fmt::Formatter<'_>, name: &str, outcome: &Outcome) -> fmt::Result {
    writeln!(
        f,
        "    {name:<34} refused {:>6.2} %   p50 {:>6.1} ms   p99 {:>6.1} ms{}",
        outcome.refused_share() * 100.0,
        outcome.response_ms.p50,
        outcome.response_ms.p99,
        if outcome.was_in_time() {
            ""
        } else {
            "   (the machine was too busy: more than 1 % left late)"
        }
    )
}

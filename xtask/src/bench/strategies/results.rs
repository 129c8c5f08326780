//! What the bench came to: a table for people, and the figures that programs know by name.
//! Called by `strategies`.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

use super::{
    super::report::{Ratio, Samples, Target},
    stage::{FILLED, STRATEGIES, State},
};

/// Nanoseconds of a run of the connect program, a sample a round.
#[derive(Default)]
pub(super) struct Results(BTreeMap<State, Samples>);

/// Of one strategy, by the names that programs know; of backends with one slot, all idle.
#[derive(Serialize)]
pub(super) struct Figures {
    #[serde(rename = "1000_vs_10")]
    thousand_vs_ten: f64,
    ns_10: f64,
    ns_100: f64,
    ns_1000: f64,
}

/// A state of the backends of a service of some strategy and size.
type Kind = fn(&'static str, u16) -> State;

/// For these the number of backends must not matter.
const CONSTANT: [&str; 6] = [
    "idle-first",
    "round-robin",
    "random",
    "p2c",
    "consistent-hash",
    "leader",
];
const TARGET: Target = Target::AtMost(1.2);

impl Results {
    /// Those of a state.
    pub(super) fn of(&mut self, state: State) -> &mut Samples {
        self.0.entry(state).or_default()
    }

    /// By strategy.
    pub(super) fn figures(&self) -> BTreeMap<&'static str, Figures> {
        let figures = |strategy| {
            let ns = |size| self.0[&State::OneSlot(strategy, size)].median();
            Figures {
                thousand_vs_ten: self.growth(State::OneSlot, strategy).value,
                ns_10: ns(10),
                ns_100: ns(100),
                ns_1000: ns(1_000),
            }
        };
        STRATEGIES
            .map(|strategy| (strategy, figures(strategy)))
            .into()
    }

    fn growth(&self, kind: Kind, strategy: &'static str) -> Ratio {
        self.0[&kind(strategy, 1_000)].over(&self.0[&kind(strategy, 10)])
    }

    fn write_rows(
        &self,
        f: &mut fmt::Formatter<'_>,
        title: &str,
        kind: Kind,
        strategies: &[&'static str],
    ) -> fmt::Result {
        writeln!(f, "\n{title}")?;
        writeln!(
            f,
            "  {:<22}{:>17}{:>17}{:>17}   1,000 vs 10",
            "", "10 backends", "100", "1,000"
        )?;
        for strategy in strategies {
            write!(f, "  {strategy:<22}")?;
            for size in [10, 100, 1_000] {
                let samples = &self.0[&kind(strategy, size)];
                write!(f, "{:>17}", summed_up(samples))?;
            }
            let growth = self.growth(kind, strategy);
            write!(f, "   {growth}")?;
            if CONSTANT.contains(strategy) {
                write!(f, "  {}", TARGET.verdict(growth.value))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nthe connect program, ns a run: median of the rounds [quartiles]"
        )?;
        let untouched = summed_up(&self.0[&State::Untouched]);
        let single = summed_up(&self.0[&State::Single]);
        writeln!(f, "  {untouched:>17}  to an address that is no frontend")?;
        writeln!(f, "  {single:>17}  one backend, nothing to choose")?;
        let all = &STRATEGIES;
        self.write_rows(f, "all idle, one slot each", State::OneSlot, all)?;
        self.write_rows(f, "all idle, without a limit", State::Unlimited, all)?;
        let title = "none idle (one connection at each), without a limit";
        self.write_rows(f, title, State::NoneIdle, &FILLED)
    }
}

/// `812 [805–830]`.
fn summed_up(samples: &Samples) -> String {
    let (low, high) = samples.quartiles();
    format!("{:.0} [{low:.0}–{high:.0}]", samples.median())
}

//! What the bench came to: tables for people, and everything for programs. Called by `sim`.

use std::fmt;

use anyhow::Result;
use serde::Serialize;

use super::{
    cases::{Case, Setting, UTILISATIONS, Way},
    figures::Figures,
    formulas,
    load::{MEAN_WORK_S, Work},
};

pub(super) struct Results {
    simulated: Vec<(Case, Figures)>,
}

#[derive(Serialize)]
struct Json<'r> {
    seed: u64,
    simulated: Vec<JsonCase<'r>>,
    formulas: Vec<JsonFormula>,
}

#[derive(Serialize)]
struct JsonCase<'r> {
    setting: &'static str,
    backends: u32,
    work: &'static str,
    utilisation: f64,
    strategy: &'static str,
    is_overloaded: bool,
    #[serde(flatten)]
    figures: &'r Figures,
}

#[derive(Serialize)]
struct JsonFormula {
    setting: &'static str,
    work: &'static str,
    utilisation: f64,
    formula: &'static str,
    #[serde(flatten)]
    cells: Cells,
}

/// One load's part of a line. What is not known, or goes without saying, is left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Cells {
    #[serde(skip_serializing_if = "Option::is_none")]
    mean_wait_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_wait_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    p99_response_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refused_share: Option<f64>,
    #[serde(skip)]
    is_overloaded: bool,
}

/// A formula that has something to say about a setting.
#[derive(Clone, Copy, Debug)]
enum Formula {
    /// Lost without a queue.
    ErlangB { slots: u32 },
    /// One queue before all slots, exponential service times.
    ErlangC { slots: u32 },
    /// One backend that gets its share by chance.
    One,
}

impl Results {
    pub(super) fn new(cases: Vec<Case>, figures: Vec<Figures>) -> Self {
        Self {
            simulated: cases.into_iter().zip(figures).collect(),
        }
    }

    pub(super) fn json(&self, seed: u64) -> Result<String> {
        let simulated = self.simulated.iter().map(|(case, figures)| JsonCase {
            setting: case.setting.name(),
            backends: case.setting.backends(),
            work: case.work.name(),
            utilisation: case.utilisation,
            strategy: case.way.name(),
            is_overloaded: case.is_overloaded(figures),
            figures,
        });
        let mut formulas = Vec::new();
        for (setting, work) in tables() {
            for formula in Formula::of(setting, work) {
                formulas.extend(UTILISATIONS.map(|utilisation| JsonFormula {
                    setting: setting.name(),
                    work: work.name(),
                    utilisation,
                    formula: formula.name(),
                    cells: formula.cells(work, utilisation),
                }));
            }
        }
        let json = Json {
            seed,
            simulated: simulated.collect(),
            formulas,
        };
        Ok(serde_json::to_string(&json)?)
    }

    /// The lines of one table: each strategy's, with a part for each load.
    fn lines(&self, setting: Setting, work: Work) -> Vec<(&'static str, Vec<Cells>)> {
        let mut lines: Vec<(Way, Vec<Cells>)> = Vec::new();
        for (case, figures) in &self.simulated {
            if case.setting != setting || case.work != work {
                continue;
            }
            match lines.iter_mut().find(|(way, _)| *way == case.way) {
                Some((_, cells)) => cells.push(Cells::of(case, figures)),
                None => lines.push((case.way, vec![Cells::of(case, figures)])),
            }
        }
        let simulated = lines.into_iter().map(|(way, cells)| (way.name(), cells));
        let formulas = Formula::of(setting, work).into_iter().map(|formula| {
            let cells = UTILISATIONS.map(|utilisation| formula.cells(work, utilisation));
            (formula.name(), cells.to_vec())
        });
        simulated.chain(formulas).collect()
    }
}

fn tables() -> impl Iterator<Item = (Setting, Work)> {
    let settings = Setting::ALL.into_iter();
    settings.flat_map(|setting| Work::ALL.map(|work| (setting, work)))
}

impl Formula {
    fn of(setting: Setting, work: Work) -> Vec<Self> {
        let slots = setting.backends();
        match (setting, work) {
            (Setting::Queue | Setting::Mixed, _) => Vec::new(),
            (Setting::NoQueue, _) => vec![Self::ErlangB { slots }, Self::ErlangB { slots: 1 }],
            (_, Work::Exponential) => vec![Self::One, Self::ErlangC { slots }],
            _ => vec![Self::One],
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::ErlangB { slots: 1 } => "= Erlang B, leader",
            Self::ErlangB { .. } => "= Erlang B",
            Self::ErlangC { .. } => "= M/M/c, central queue",
            Self::One => "= M/G/1, random",
        }
    }

    fn cells(self, work: Work, utilisation: f64) -> Cells {
        let ms = |means: f64| Some(means * MEAN_WORK_S * 1000.0);
        let only_exponential = |means: f64| ms(means).filter(|_| work == Work::Exponential);
        match self {
            Self::ErlangB { slots } => Cells {
                refused_share: Some(formulas::lost(slots, utilisation)),
                ..Cells::default()
            },
            Self::ErlangC { slots } => Cells {
                mean_wait_ms: ms(formulas::mean_wait(slots, utilisation)),
                p99_wait_ms: ms(formulas::p99_wait(slots, utilisation)),
                ..Cells::default()
            },
            Self::One => Cells {
                mean_wait_ms: ms(formulas::mean_wait_of_one(
                    utilisation,
                    work.second_moment(),
                )),
                // Of one backend M/M/1 is the same as M/M/c with c = 1.
                p99_wait_ms: only_exponential(formulas::p99_wait(1, utilisation)),
                p99_response_ms: only_exponential(formulas::p99_response_of_one(utilisation)),
                ..Cells::default()
            },
        }
    }
}

impl Cells {
    fn of(case: &Case, figures: &Figures) -> Self {
        Self {
            mean_wait_ms: Some(figures.mean_wait_ms),
            p99_wait_ms: Some(figures.p99_wait_ms),
            p99_response_ms: Some(figures.p99_response_ms),
            refused_share: Some(figures.refused_share),
            is_overloaded: case.is_overloaded(figures),
        }
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "\nPoisson arrivals, service times of {:.0} ms on average; milliseconds from arrival.\n\
             The leader gets a tenth or a hundredth of the load: the same share of what it can do.",
            MEAN_WORK_S * 1000.0
        )?;
        for (setting, work) in tables() {
            write_table(f, setting, work, &self.lines(setting, work))?;
        }
        let missed: u64 = self.simulated.iter().map(|(_, f)| f.missed).sum();
        writeln!(
            f,
            "\nrefused by selection although a slot was left: {missed} times"
        )
    }
}

fn write_table(
    f: &mut fmt::Formatter<'_>,
    setting: Setting,
    work: Work,
    lines: &[(&str, Vec<Cells>)],
) -> fmt::Result {
    writeln!(f, "\n{}, {} service times", setting.title(), work.name())?;
    write!(f, "  {:<23}", "")?;
    for utilisation in UTILISATIONS {
        write!(f, "  {:<35}", format!("ρ = {utilisation}"))?;
    }
    write!(f, "\n  {:<23}", "")?;
    for _ in UTILISATIONS {
        write!(f, "{}", setting.heading())?;
    }
    writeln!(f)?;
    for (name, parts) in lines {
        write!(f, "  {name:<23}")?;
        for cells in parts {
            cells.write(f, setting)?;
        }
        writeln!(f)?;
    }
    Ok(())
}

impl Setting {
    const fn title(self) -> &'static str {
        match self {
            Self::Queue => "10 one-slot backends, 10 may wait for 100 ms",
            Self::NoQueue => "10 one-slot backends, no queue",
            Self::Unlimited10 => "10 backends without a limit",
            Self::Unlimited100 => "100 backends without a limit",
            Self::Mixed => {
                "10 backends without a limit, 3 of them five times slower and of weight 1 to 5"
            }
        }
    }

    const fn refuses(self) -> bool {
        matches!(self, Self::Queue | Self::NoQueue)
    }

    const fn heading(self) -> &'static str {
        if self.refuses() {
            "  wait     p99  resp p99   refused   "
        } else {
            "  wait      p99  resp p99            "
        }
    }
}

impl Cells {
    fn write(&self, f: &mut fmt::Formatter<'_>, setting: Setting) -> fmt::Result {
        if self.is_overloaded {
            return write!(f, "  {:<35}", "overloaded: grows without end");
        }
        let ms = |ms: Option<f64>| ms.map_or(String::new(), |ms| format!("{ms:.1}"));
        let refused = self.refused_share.filter(|_| setting.refuses());
        let refused = refused.map_or(String::new(), |share| format!("{:.2} %", share * 100.0));
        write!(
            f,
            "{:>8}{:>9}{:>9}{refused:>9}  ",
            ms(self.mean_wait_ms),
            ms(self.p99_wait_ms),
            ms(self.p99_response_ms),
        )
    }
}

//! The table that moves while the load runs: redrawn in place on a terminal, a line a second
//! elsewhere.

use std::{
    collections::HashMap,
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::Result;
use tests::{agent::Agent, function::Function};

use super::waiting::Watch;
use crate::load::Tally;

/// Servers shown; more would not fit a screen.
const ROWS_AT_MOST: usize = 20;

/// What there is to see of a balanced run besides its servers.
#[derive(Clone, Copy)]
pub(super) struct Inside<'i> {
    pub(super) agent: &'i Agent,
    pub(super) watch: &'i Watch,
}

/// The moving view.
pub(super) struct Live {
    to_stderr: bool,
    terminal: bool,
    begun: Instant,
    /// Lines of the table that stands on the screen.
    drawn_lines: usize,
    last_line: Option<Instant>,
}

impl Live {
    /// On standard error if standard output is for programs.
    pub(super) fn new(to_stderr: bool) -> Self {
        let terminal = if to_stderr {
            io::stderr().is_terminal()
        } else {
            io::stdout().is_terminal()
        };
        Self {
            to_stderr,
            terminal,
            begun: Instant::now(),
            drawn_lines: 0,
            last_line: None,
        }
    }

    /// How long to wait before showing again.
    pub(super) fn pause(&self) -> Duration {
        if self.terminal {
            Duration::from_millis(150)
        } else {
            Duration::from_millis(50)
        }
    }

    /// Shows the state of affairs.
    pub(super) fn show(
        &mut self,
        functions: &[Function],
        inside: Option<Inside<'_>>,
        tally: &Tally,
    ) -> Result<()> {
        if self.terminal {
            return self.redraw(functions, inside, tally);
        }
        let due = self
            .last_line
            .is_none_or(|last| last.elapsed() >= Duration::from_secs(1));
        if due && self.begun.elapsed() >= Duration::from_secs(1) {
            self.last_line = Some(Instant::now());
            self.line(functions, inside, tally)?;
        }
        Ok(())
    }

    /// Shows the end.
    pub(super) fn show_last(
        &mut self,
        functions: &[Function],
        inside: Option<Inside<'_>>,
        tally: &Tally,
    ) -> Result<()> {
        if self.terminal {
            self.redraw(functions, inside, tally)
        } else {
            self.line(functions, inside, tally)
        }
    }

    /// Says what has happened; the table goes on below.
    pub(super) fn note(&mut self, text: &str) -> Result<()> {
        self.drawn_lines = 0;
        self.write(&format!("{text}\n"))
    }

    fn line(
        &self,
        functions: &[Function],
        inside: Option<Inside<'_>>,
        tally: &Tally,
    ) -> Result<()> {
        let serving: u32 = functions
            .iter()
            .map(|function| function.seen().current)
            .sum();
        let peak = functions
            .iter()
            .map(|function| function.seen().peak)
            .max()
            .unwrap_or(0);
        let mut line = format!(
            "{:>4} s  {}  serving {serving:>3}",
            self.begun.elapsed().as_secs(),
            totals(tally)
        );
        if let Some(inside) = inside {
            let (queue, _) = inside.watch.latest();
            let inflight = inside.agent.inflight()?;
            let waiters = queue.waiters;
            write!(line, "  inflight {inflight:>3}  waiters {waiters:>3}")?;
        }
        writeln!(line, "  highest peak {peak}")?;
        self.write(&line)
    }

    fn redraw(
        &mut self,
        functions: &[Function],
        inside: Option<Inside<'_>>,
        tally: &Tally,
    ) -> Result<()> {
        let table = table(functions, inside, tally)?;
        let mut screen = String::new();
        if self.drawn_lines > 0 {
            // Up to where the old table begins, and clear from there.
            write!(screen, "\x1b[{}A\x1b[J", self.drawn_lines)?;
        }
        self.drawn_lines = table.lines().count();
        screen += &table;
        self.write(&screen)
    }

    fn write(&self, text: &str) -> Result<()> {
        let mut out: Box<dyn Write> = if self.to_stderr {
            Box::new(io::stderr())
        } else {
            Box::new(io::stdout())
        };
        out.write_all(text.as_bytes())?;
        out.flush()?;
        Ok(())
    }
}

fn table(functions: &[Function], inside: Option<Inside<'_>>, tally: &Tally) -> Result<String> {
    let inflight: Option<HashMap<String, u64>> = inside
        .map(|inside| -> Result<_> {
            let backends = inside.agent.backends()?.into_iter();
            Ok(backends
                .map(|backend| (backend.address, backend.inflight))
                .collect())
        })
        .transpose()?;
    let mut table = format!(
        "{:<24}{:>10}{:>10}{:>10}{:>8}\n",
        "pod", "inflight", "serving", "served", "peak"
    );
    for function in functions.iter().take(ROWS_AT_MOST) {
        let address = function.address().to_string();
        let seen = function.seen();
        let inflight = match &inflight {
            Some(counts) => counts.get(&address).map_or("?".to_owned(), u64::to_string),
            None => "-".to_owned(),
        };
        writeln!(
            table,
            "{address:<24}{inflight:>10}{:>10}{:>10}{:>8}",
            seen.current, seen.served, seen.peak
        )?;
    }
    if functions.len() > ROWS_AT_MOST {
        writeln!(table, "… and {} more", functions.len() - ROWS_AT_MOST)?;
    }
    if let Some(inside) = inside {
        table += &queue_line(inside.watch);
    }
    writeln!(table, "{}", totals(tally))?;
    Ok(table)
}

fn queue_line(watch: &Watch) -> String {
    let (queue, peak) = watch.latest();
    let (waiters, queued) = (queue.waiters, queue.queued);
    let mut line = format!("waiters {waiters:>4} (peak {peak})  queued so far {queued:>6}");
    for (reason, count) in queue.refused.iter().filter(|(_, count)| **count > 0) {
        line += &format!("  {reason} {count}");
    }
    line + "\n"
}

fn totals(tally: &Tally) -> String {
    let Tally {
        requests,
        ok,
        refused,
        errors,
    } = tally;
    format!("requests {requests:>6}  ok {ok:>6}  refused {refused:>5}  errors {errors:>3}")
}

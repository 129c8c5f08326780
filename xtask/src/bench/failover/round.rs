//! One failover as the clients see it. Called by `failover` and `k8s_failover`.

use std::{
    collections::BTreeMap,
    sync::mpsc::RecvTimeoutError,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::client::{Clients, Seen};
use crate::preflight::Interrupt;

/// Answers in a row by one and the same, after which it leads beyond doubt.
const STEADY: u32 = 100;
const DEADLINE: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// What one failover came to.
pub(in crate::bench) struct Failover {
    pub(in crate::bench) took: Duration,
    /// Requests that failed, from the leader's going to its successor's steady work.
    pub(in crate::bench) failed: u32,
    /// Why, and how many.
    pub(in crate::bench) complaints: BTreeMap<String, u32>,
    /// Answers by a third backend: neither the former leader nor its first successor.
    pub(in crate::bench) astray: u32,
}

/// What it happens on.
pub(in crate::bench) trait Ground {
    /// Makes this backend go. Tells when that began.
    fn remove(&mut self, number: u8) -> Result<Instant>;
    /// Lets it, or another in its place, come back, and waits until the agent has taken it in.
    fn restore(&mut self, number: u8) -> Result<()>;
}

/// Listens to the clients.
pub(in crate::bench) struct Watcher<'w> {
    clients: &'w Clients,
    interrupt: &'w Interrupt,
}

impl<'w> Watcher<'w> {
    pub(in crate::bench) fn new(clients: &'w Clients, interrupt: &'w Interrupt) -> Self {
        Self { clients, interrupt }
    }

    /// Makes the leader go, and looks what comes of it. `None` if it was interrupted.
    pub(in crate::bench) fn failover(&self, ground: &mut impl Ground) -> Result<Option<Failover>> {
        let Some(former) = self.steady(&mut |_| {})? else {
            return Ok(None);
        };
        let gone = ground.remove(former)?;
        let mut failover = Failover {
            took: Duration::ZERO,
            failed: 0,
            complaints: BTreeMap::new(),
            astray: 0,
        };
        let successor = loop {
            let Some(seen) = self.next(gone)? else {
                return Ok(None);
            };
            match seen.answer {
                Ok(number) if number != former && seen.at > gone => {
                    failover.took = seen.at - gone;
                    break number;
                }
                Ok(_) => {}
                Err(error) => failover.complain(&error),
            }
        };
        ground.restore(former)?;
        let next = self.steady(&mut |seen| match &seen.answer {
            Ok(number) if ![former, successor].contains(number) => failover.astray += 1,
            Ok(_) => {}
            Err(error) => failover.complain(error),
        })?;
        match next {
            None => Ok(None),
            Some(next) if next == successor => Ok(Some(failover)),
            Some(next) => bail!(
                "backend {successor} followed {former}, but {next} leads now: a leader was replaced that had not gone"
            ),
        }
    }

    /// Who leads, once that is beyond doubt.
    fn steady(&self, look: &mut dyn FnMut(&Seen)) -> Result<Option<u8>> {
        let begun = Instant::now();
        let (mut leader, mut answers) = (None, 0);
        while answers < STEADY {
            let Some(seen) = self.next(begun)? else {
                return Ok(None);
            };
            look(&seen);
            let number = seen.answer.ok();
            answers = if number.is_some() && number == leader {
                answers + 1
            } else {
                0
            };
            leader = number;
        }
        Ok(leader)
    }

    /// What a client sees next. `None` if it was interrupted.
    fn next(&self, since: Instant) -> Result<Option<Seen>> {
        loop {
            if self.interrupt.came() {
                return Ok(None);
            }
            if since.elapsed() > DEADLINE {
                bail!("no leader serves for {DEADLINE:?}");
            }
            match self.clients.seen.recv_timeout(LOOK_INTERVAL) {
                Ok(seen) => return Ok(Some(seen)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => bail!("all clients have ended"),
            }
        }
    }
}

impl Failover {
    fn complain(&mut self, error: &std::io::Error) {
        self.failed += 1;
        *self.complaints.entry(error.kind().to_string()).or_default() += 1;
    }
}

//! Poisson load on one-slot backends: through the balancer, at random, and in the simulation.
//!
//! The two that are real go on side by side, on servers of their own. Called by `queue`.

use std::{thread, time::Duration};

use anyhow::{Result, anyhow, ensure};
use tests::{place::Place, wait::within};

use super::{
    Options,
    stage::{BACKENDS, POISSON, QUEUE_SIZE, QUEUE_TIMEOUT_MS, Stage, random_addresses},
};
use crate::load::{Aim, CentralQueue, Connections, Excess, Load, Outcome, Sender};

const MEAN_WORK: Duration = Duration::from_millis(50);

const SETTLE_DEADLINE: Duration = Duration::from_secs(5);

/// What one load came to.
pub(super) struct Case {
    pub(super) utilisation: f64,
    pub(super) balanced: Outcome,
    pub(super) central: Outcome,
    pub(super) random: Outcome,
    pub(super) excess: Excess,
}

/// A load that asks for this share of what the backends can do.
pub(super) fn load(utilisation: f64, options: &Options) -> Load {
    Load {
        seed: options.seed,
        rate: utilisation * f64::from(BACKENDS) / MEAN_WORK.as_secs_f64(),
        duration: Duration::from_secs(options.seconds),
        mean_work: MEAN_WORK,
    }
}

/// Sends it both ways at once. `stop_if_asked` fails if the user wants it to stop.
pub(super) fn measure(
    stage: &Stage,
    utilisation: f64,
    load: &Load,
    stop_if_asked: &(impl Fn() -> Result<()> + Sync),
) -> Result<Case> {
    let send = |targets| {
        let aim = Aim::new(targets, load.seed);
        let sender = Sender::new(Connections::OnePerRequest)?;
        sender.send(load, aim, |_| stop_if_asked())
    };
    let inside = Place::new(&stage.netns, &stage.cgroup);
    let (balanced, random) = thread::scope(|scope| {
        let balanced = scope.spawn(|| inside.run(|| send(vec![POISSON])));
        let random = scope.spawn(|| stage.netns.run(|| send(random_addresses())));
        (balanced.join(), random.join())
    });
    let panicked = |_| anyhow!("the thread that sends the load panicked");
    let balanced = checked(balanced.map_err(panicked)??)?;
    let random = checked(random.map_err(panicked)??)?;
    settle(stage)?;
    let timeout = Duration::from_millis(QUEUE_TIMEOUT_MS);
    let central = CentralQueue::new(BACKENDS.into(), QUEUE_SIZE, timeout).simulate(load)?;
    Ok(Case {
        utilisation,
        excess: Excess::of(&balanced, &central, load.duration),
        balanced,
        central,
        random,
    })
}

/// A figure of requests that failed would be of something else.
fn checked(outcome: Outcome) -> Result<Outcome> {
    let errors = outcome.tally.errors;
    ensure!(
        errors == 0,
        "{errors} requests failed: {:?}",
        outcome.complaints
    );
    Ok(outcome)
}

/// All slots are back, and no server ever had more than one request.
fn settle(stage: &Stage) -> Result<()> {
    let turned_away = stage.balanced.turned_away();
    ensure!(
        turned_away == 0,
        "{turned_away} requests were sent to a server that was serving another"
    );
    let settled = within(SETTLE_DEADLINE, || match stage.agent.inflight()? {
        0 => Ok(()),
        inflight => Err(anyhow!("{inflight} slots are taken")),
    });
    settled.map_err(|late| anyhow!("all requests have ended, but {}", late.last))
}

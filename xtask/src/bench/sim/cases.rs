//! The cases: every setting, distribution, load and strategy, and the one central queue. Simulates
//! them on all CPUs. Called by `sim`.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use anyhow::{Context, Result, anyhow};
use balancer_common::service::Strategy;

use super::{
    figures::Figures,
    ground::{Backend, Ground, Limit, Queue},
    load::{Load, MEAN_WORK_S, Work},
    run,
};

/// Shares of what the backends can do.
pub(super) const UTILISATIONS: [f64; 3] = [0.5, 0.7, 0.9];

/// The product's defaults.
pub(super) const QUEUE: Queue = Queue {
    size: 10,
    patience_ns: 100_000_000,
};

const ENDLESS: Queue = Queue {
    size: usize::MAX,
    patience_ns: u64::MAX,
};

/// How much slower the slow ones of [`Setting::Mixed`] are.
const SLOWNESS: u32 = 5;

/// What backends there are, and what happens when they are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Setting {
    /// 10 backends with one slot each, and the overflow queue.
    Queue,
    /// The same, without a queue.
    NoQueue,
    /// 10 backends without a limit, each with a line of its own.
    Unlimited10,
    /// 100 of them.
    Unlimited100,
    /// 10 of them, three of which are slow, and weights that say so.
    Mixed,
}

/// Who distributes requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Strategy(Strategy),
    /// One queue before as many slots as all backends have.
    Central,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) setting: Setting,
    pub(super) work: Work,
    pub(super) utilisation: f64,
    pub(super) way: Way,
}

impl Setting {
    pub(super) const ALL: [Self; 5] = [
        Self::Queue,
        Self::NoQueue,
        Self::Unlimited10,
        Self::Unlimited100,
        Self::Mixed,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::NoQueue => "no-queue",
            Self::Unlimited10 => "unlimited-10",
            Self::Unlimited100 => "unlimited-100",
            Self::Mixed => "unlimited-mixed",
        }
    }

    pub(super) const fn backends(self) -> u32 {
        match self {
            Self::Unlimited100 => 100,
            _ => 10,
        }
    }

    /// Relaxing takes as long whatever the number of backends, so more of them need more requests.
    const fn requests(self, requests: u64) -> u64 {
        match self {
            Self::Unlimited100 => requests * 4,
            _ => requests,
        }
    }

    fn ground(self, strategy: Strategy) -> Ground {
        let is_limited = matches!(self, Self::Queue | Self::NoQueue);
        Ground {
            strategy,
            backends: (0..self.backends()).map(|n| self.backend(n)).collect(),
            limit: if is_limited {
                Limit::Lanes
            } else {
                Limit::Unlimited
            },
            queue: (self == Self::Queue).then_some(QUEUE),
        }
    }

    fn backend(self, number: u32) -> Backend {
        if self != Self::Mixed {
            return Backend::ORDINARY;
        }
        let is_slow = number % 4 == 1;
        Backend {
            slowness: if is_slow { SLOWNESS } else { 1 },
            weight: if is_slow { 1 } else { SLOWNESS },
            ..Backend::ORDINARY
        }
    }

    /// All slots behind one queue; which strategy would choose among one does not matter.
    fn central(self) -> Option<Ground> {
        if self == Self::Mixed {
            return None;
        }
        let everything = Backend {
            lanes: self.backends(),
            ..Backend::ORDINARY
        };
        Some(Ground {
            strategy: Strategy::IdleFirst,
            backends: vec![everything],
            limit: Limit::Lanes,
            queue: match self {
                Self::Queue => Some(QUEUE),
                Self::NoQueue => None,
                _ => Some(ENDLESS),
            },
        })
    }
}

impl Way {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Central => "central-queue",
            Self::Strategy(strategy) => match strategy {
                Strategy::IdleFirst => "idle-first",
                Strategy::LeastConnections => "least-connections",
                Strategy::RoundRobin => "round-robin",
                Strategy::WeightedRoundRobin => "weighted-round-robin",
                Strategy::Random => "random",
                Strategy::TwoChoices => "p2c",
                Strategy::LeastResponseTime => "least-response-time",
                Strategy::ConsistentHash => "consistent-hash",
                Strategy::Leader => "leader",
            },
        }
    }
}

impl Way {
    /// Whether it goes on sending to a backend that cannot keep up.
    const fn ignores_load(self) -> bool {
        matches!(
            self,
            Self::Strategy(
                Strategy::RoundRobin
                    | Strategy::WeightedRoundRobin
                    | Strategy::Random
                    | Strategy::ConsistentHash
                    | Strategy::Leader
            )
        )
    }
}

impl Case {
    /// Whether a backend gets more than it can do, so that its line grows without end, and times
    /// say only how long the simulation was.
    pub(super) fn is_overloaded(&self, figures: &Figures) -> bool {
        self.way.ignores_load() && figures.busiest_utilisation >= 1.0
    }

    pub(super) fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for setting in Setting::ALL {
            let central = setting.central().map(|_| Way::Central);
            let strategies = Strategy::ALL.into_iter().map(Way::Strategy);
            let ways: Vec<_> = strategies.chain(central).collect();
            for work in Work::ALL {
                for way in &ways {
                    cases.extend(UTILISATIONS.map(|utilisation| Self {
                        setting,
                        work,
                        utilisation,
                        way: *way,
                    }));
                }
            }
        }
        cases
    }

    pub(super) fn simulate(&self, seed: u64, requests: u64) -> Result<Figures> {
        let ground = match self.way {
            Way::Strategy(strategy) => Some(self.setting.ground(strategy)),
            Way::Central => self.setting.central(),
        };
        let ground = ground.context("backends of several speeds have no one central queue")?;
        let load = Load {
            seed,
            rate: self.utilisation * ground.capacity() / MEAN_WORK_S,
            requests: self.setting.requests(requests),
            work: self.work,
        };
        run::simulate(&ground, &load).with_context(|| format!("simulating {self:?}"))
    }
}

/// Simulates the cases; the results are in their order, whoever was faster.
pub(super) fn simulate_all(cases: &[Case], seed: u64, requests: u64) -> Result<Vec<Figures>> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(case) = cases.get(place) else {
                return Ok(done);
            };
            done.push((place, case.simulate(seed, requests)?));
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let mut done = Vec::with_capacity(cases.len());
    thread::scope(|scope| -> Result<()> {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            let part: Result<Vec<_>> = worker
                .join()
                .map_err(|_| anyhow!("a thread that simulates panicked"))?;
            done.extend(part?);
        }
        Ok(())
    })?;
    done.sort_unstable_by_key(|(place, _)| *place);
    Ok(done.into_iter().map(|(_, figures)| figures).collect())
}

//! Whether the overflow threads are alive: each beats for itself, and the heartbeat that the
//! programs go by depends on all of them. A data path that is stuck must not be sent more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::time::{MissedTickBehavior, interval};

/// How often a worker beats.
const EVERY: Duration = Duration::from_millis(200);
/// A worker whose last beat is older than this is stuck. With the programs' own patience for the
/// heartbeat, of 2 s, the whole still takes about that long.
const STUCK_AFTER: Duration = Duration::from_millis(700);

/// The beats of all workers.
#[derive(Clone, Debug)]
pub struct Pulses {
    began: Instant,
    /// Of each worker, its last beat in milliseconds after `began`.
    beats: Arc<[AtomicU64]>,
}

impl Pulses {
    pub(super) fn new(workers: usize) -> Self {
        Self {
            began: Instant::now(),
            beats: (0..workers).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Beats for a worker, for as long as its runtime lives.
    pub(super) async fn beat(self, worker: usize) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.beats[worker].store(self.now_ms(), Relaxed);
        }
    }

    /// The number of a worker that is stuck, if any is.
    pub fn stuck(&self) -> Option<usize> {
        let oldest = self.now_ms().saturating_sub(STUCK_AFTER.as_millis() as u64);
        self.beats
            .iter()
            .position(|beat| beat.load(Relaxed) < oldest)
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_that_does_not_beat_is_found() {
        let pulses = Pulses::new(2);
        assert_eq!(pulses.stuck(), None, "they have just begun");
        let mut beating = tokio::spawn(pulses.clone().beat(0));
        let found = async {
            while pulses.stuck() != Some(1) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            () = found => {}
            _ = &mut beating => panic!("it goes on for ever"),
        }
        beating.abort();
    }
}

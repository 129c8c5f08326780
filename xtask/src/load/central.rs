//! One central queue before all slots, simulated: what no balancer can do better than without
//! knowing how long requests will take. Pure.
//!
//! First come, first served; who would wait longer than allowed, or finds too many waiting, is
//! refused. Used by `demo` and `bench`.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
    time::Duration,
};

use anyhow::Result;

use super::{Arrival, End, Load, Measured, Outcome};

/// A queue and the slots behind it, at the time of the last arrival.
#[derive(Clone, Debug)]
pub(crate) struct CentralQueue {
    size: usize,
    timeout: Duration,
    /// When each slot is free.
    free_at: BinaryHeap<Reverse<Duration>>,
    /// When each of those who had to wait leaves the queue, served or not. In order: whoever came
    /// first is served first, and gives up first.
    leave_at: VecDeque<Duration>,
}

/// Why a request is refused, in the words of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Full,
    Timeout,
}

impl CentralQueue {
    /// With nobody in it. At least one slot.
    pub(crate) fn new(slots: usize, size: usize, timeout: Duration) -> Self {
        Self {
            size,
            timeout,
            free_at: (0..slots.max(1)).map(|_| Reverse(Duration::ZERO)).collect(),
            leave_at: VecDeque::new(),
        }
    }

    /// Sends a whole load through it.
    pub(crate) fn simulate(mut self, load: &Load) -> Result<Outcome> {
        let mut measured = Measured::new()?;
        for arrival in load.arrivals() {
            let (end, took) = match self.take(arrival) {
                Ok(wait) => (End::Ok, wait + arrival.work),
                Err(refusal) => (End::Refused(refusal.as_str().to_owned()), Duration::ZERO),
            };
            measured.record(arrival, end, took, false);
        }
        Ok(measured.outcome())
    }

    /// Takes the next arrival in, and tells how long it waits. Arrivals come in order of time.
    fn take(&mut self, arrival: Arrival) -> Result<Duration, Refusal> {
        while self.leave_at.front().is_some_and(|at| *at <= arrival.at) {
            self.leave_at.pop_front();
        }
        let Reverse(free) = *self.free_at.peek().expect("there is a slot");
        let begins = free.max(arrival.at);
        let wait = begins - arrival.at;
        if !wait.is_zero() {
            if self.leave_at.len() >= self.size {
                return Err(Refusal::Full);
            }
            self.leave_at
                .push_back(begins.min(arrival.at + self.timeout));
            if wait > self.timeout {
                return Err(Refusal::Timeout);
            }
        }
        self.free_at.pop();
        self.free_at.push(Reverse(begins + arrival.work));
        Ok(wait)
    }
}

impl Refusal {
    fn as_str(self) -> &'static str {
        match self {
            Self::Full => "queue-full",
            Self::Timeout => "queue-timeout",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOTS: usize = 10;
    const MEAN_WORK: Duration = Duration::from_millis(50);
    const PATIENCE: Duration = Duration::from_millis(100);
    const FOR_EVER: Duration = Duration::from_secs(1 << 30);

    /// A million requests or so: shares are exact to a few hundredths of themselves.
    fn load(utilisation: f64) -> Load {
        let rate = utilisation * SLOTS as f64 / MEAN_WORK.as_secs_f64();
        Load {
            seed: 3,
            rate,
            duration: Duration::from_secs_f64(1e6 / rate),
            mean_work: MEAN_WORK,
        }
    }

    fn refused(utilisation: f64, size: usize, timeout: Duration) -> f64 {
        let queue = CentralQueue::new(SLOTS, size, timeout);
        let outcome = queue.simulate(&load(utilisation)).expect("simulates");
        outcome.refused_share()
    }

    /// The sum over n < `slots` of a^n/n!, and its last term.
    fn erlang_terms(offered: f64) -> (f64, f64) {
        let terms = (1..SLOTS).scan(1.0, |term, n| {
            *term *= offered / n as f64;
            Some(*term)
        });
        terms.fold((1.0, 1.0), |(sum, _), term| (sum + term, term))
    }

    /// Erlang's B: what is lost without any queue.
    fn lost(utilisation: f64) -> f64 {
        let offered = utilisation * SLOTS as f64;
        let (sum, last) = erlang_terms(offered);
        let all_busy = last * offered / SLOTS as f64;
        all_busy / (sum + all_busy)
    }

    /// Erlang's C: who has to wait in an unlimited queue.
    fn delayed(utilisation: f64) -> f64 {
        let (sum, last) = erlang_terms(utilisation * SLOTS as f64);
        let waiting = last * utilisation / (1.0 - utilisation);
        waiting / (sum + waiting)
    }

    /// Who finds that the wait would be longer than `timeout`, all others being served: by level
    /// crossings, the wait's density is λ·p(all but one busy)·e^-(cμ-λ)x up to the timeout, and
    /// falls with e^-cμx beyond.
    fn impatient(utilisation: f64, timeout: Duration) -> f64 {
        let capacity = SLOTS as f64 / MEAN_WORK.as_secs_f64();
        let arrivals = utilisation * capacity;
        let (sum, last) = erlang_terms(utilisation * SLOTS as f64);
        let drift = capacity - arrivals;
        let decayed = (-drift * timeout.as_secs_f64()).exp();
        let waiting = arrivals * last * (1.0 - decayed) / drift;
        let beyond = arrivals * last * decayed / capacity;
        beyond / (sum + waiting + beyond)
    }

    #[track_caller]
    fn assert_near(seen: f64, expected: f64) {
        let tolerance = 0.08 * expected + 1e-4;
        assert!(
            (seen - expected).abs() < tolerance,
            "{seen}, expected {expected}"
        );
    }

    #[test]
    fn without_a_queue_it_loses_what_erlang_says() {
        for utilisation in [0.5, 0.7, 0.9, 1.5] {
            assert_near(refused(utilisation, 0, FOR_EVER), lost(utilisation));
        }
    }

    #[test]
    fn a_queue_without_limits_refuses_nobody_and_delays_whom_erlang_says() {
        for utilisation in [0.5, 0.7, 0.9] {
            let mut queue = CentralQueue::new(SLOTS, usize::MAX, FOR_EVER);
            let (mut arrived, mut waited) = (0u32, 0u32);
            for arrival in load(utilisation).arrivals() {
                let wait = queue.take(arrival).expect("nobody is refused");
                arrived += 1;
                waited += u32::from(!wait.is_zero());
            }
            assert_near(f64::from(waited) / f64::from(arrived), delayed(utilisation));
        }
    }

    #[test]
    fn patience_runs_out_as_often_as_the_formula_says() {
        for utilisation in [0.7, 0.9, 1.2] {
            let expected = impatient(utilisation, PATIENCE);
            assert_near(refused(utilisation, usize::MAX, PATIENCE), expected);
        }
        let share = impatient(0.9, PATIENCE);
        assert!(
            (0.009..0.011).contains(&share),
            "{share}: the contract says 1.0 %"
        );
    }

    #[test]
    fn a_place_in_the_queue_is_free_when_its_waiter_begins_or_gives_up() {
        let ms = Duration::from_millis;
        let arrival = |at, work| Arrival {
            at: ms(at),
            work: ms(work),
        };
        let mut queue = CentralQueue::new(1, 1, ms(10));
        assert_eq!(queue.take(arrival(0, 15)), Ok(ms(0)));
        assert_eq!(
            queue.take(arrival(1, 5)),
            Err(Refusal::Timeout),
            "its turn would be at 15"
        );
        assert_eq!(
            queue.take(arrival(2, 5)),
            Err(Refusal::Full),
            "the other waits until 11"
        );
        assert_eq!(queue.take(arrival(11, 5)), Ok(ms(4)));
        assert_eq!(queue.take(arrival(12, 5)), Err(Refusal::Full));
        assert_eq!(
            queue.take(arrival(15, 5)),
            Ok(ms(5)),
            "the one before it begins now"
        );
    }
}

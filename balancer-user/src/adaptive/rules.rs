//! Which strategy fits what was measured.
//!
//! In this order:
//!
//! 1. **Too little to go by, or nothing to choose from: idle-first.** It is the default, and it
//!    needs no measurement to be good: sending to an idle server comes close to the shortest queue
//!    (Lu et al., "Join-Idle-Queue", Performance Evaluation 68, 2011).
//! 2. **Backends unlike in speed: least-response-time.** Counting connections alone loads slow
//!    backends like fast ones. Mukhopadhyay and Mazumdar ("Analysis of Randomized
//!    Join-the-Shortest-Queue (JSQ) Schemes in Large Heterogeneous Processor-Sharing Systems", IEEE
//!    Transactions on Control of Network Systems, 2016) show that two choices that ignore speed even
//!    lose capacity then.
//! 3. **Limited backends: idle-first.** Nothing ever queues at a backend; what finds no slot waits
//!    in the service's one queue. That is M/G/k, of which it matters only that no slot stays free
//!    while somebody waits (Harchol-Balter, "Performance Modeling and Design of Computer Systems",
//!    2013, chapter 24). Neither variance nor utilisation argues for anything else.
//! 4. **Unlimited, busy, and of high variance: the least loaded.** Requests share backends, and
//!    some are far longer than others, so turns pile up behind long ones. Joining the shortest queue
//!    is nearly optimal where requests share a server, and nearly insensitive to the variance of
//!    their sizes (Gupta, Harchol-Balter, Sigman and Whitt, "Analysis of join-the-shortest-queue
//!    routing for web server farms", Performance Evaluation 64, 2007). `least-connections` looks at
//!    every backend; with many, the better of two random ones has most of the gain at a constant
//!    cost (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE
//!    Transactions on Parallel and Distributed Systems 12, 2001).
//! 5. **Unlimited, quiet, and of low variance: round-robin.** Among policies that do not look at
//!    load, taking turns over like backends is optimal where a request that has run for long is
//!    about to end (increasing hazard rate: Liu and Towsley, "Optimality of the Round-Robin Routing
//!    Policy", Journal of Applied Probability 31, 1994), and in a quiet service there is little load
//!    to look at.
//! 6. **Anything between: idle-first.** Quiet and variable, an idle backend is nearly always to be
//!    had; busy and steady, its best of four does no worse than two choices.
//!
//! Whatever is in force is left at another threshold than it is entered at.

use super::{Measured, Reason};
use crate::model::Strategy;

/// Completions since the last look from which figures are taken for more than chance. The standard
/// error of a mean of 30 exponential times is 18 %.
pub const ENOUGH_COMPLETIONS: u64 = 30;

/// Ratio of slow to fast mean response times above which backends count as unlike.
pub const UNEVEN_ABOVE_SPREAD: f64 = 2.0;
/// The ratio below which they count as alike again.
pub const EVEN_BELOW_SPREAD: f64 = 1.5;

/// Squared coefficient of variation above which hold times count as variable; exponential ones
/// have 1.
pub const VARIABLE_ABOVE_CV2: f64 = 1.5;
/// The one below which they count as steady.
pub const STEADY_BELOW_CV2: f64 = 1.0;

/// Slots taken on a backend, on average, from which an unlimited service counts as busy: a newcomer
/// then finds company more often than not.
pub const BUSY_FROM_INFLIGHT: f64 = 1.0;
/// The average below which it counts as quiet.
pub const QUIET_BELOW_INFLIGHT: f64 = 0.5;

/// Backends above which looking at each of them costs more than it gains.
pub const MANY_ABOVE_BACKENDS: u32 = 64;
/// Backends up to which, with `p2c` in force, each is looked at again.
pub const FEW_UP_TO_BACKENDS: u32 = 48;

/// What should be in force now that `in_force` is, were this the only look.
pub(super) fn advise(measured: &Measured, in_force: Strategy) -> (Strategy, Reason) {
    let Measured {
        backends,
        completions,
        ..
    } = *measured;
    if backends < 2 {
        return (Strategy::IdleFirst, Reason::NoChoice { backends });
    }
    if completions < ENOUGH_COMPLETIONS {
        return (Strategy::IdleFirst, Reason::TooLittle { completions });
    }
    if let Some(spread) = uneven(measured, in_force) {
        let why = Reason::Uneven { spread };
        return (Strategy::LeastResponseTime, why);
    }
    if measured.is_limited {
        let why = Reason::Limited {
            utilisation: measured.utilisation,
        };
        return (Strategy::IdleFirst, why);
    }
    let Some(cv2) = figure(measured.hold_cv2) else {
        return (Strategy::IdleFirst, Reason::Unmeasured { completions });
    };
    unlimited(measured, cv2, in_force)
}

/// The spread of response times, if it is a reason to go by them.
fn uneven(measured: &Measured, in_force: Strategy) -> Option<f64> {
    let spread = figure(measured.response_spread)?;
    let is_uneven = match in_force {
        Strategy::LeastResponseTime => spread >= EVEN_BELOW_SPREAD,
        _ => spread > UNEVEN_ABOVE_SPREAD,
    };
    is_uneven.then_some(spread)
}

/// What fits a service without limits whose backends are alike.
fn unlimited(measured: &Measured, cv2: f64, in_force: Strategy) -> (Strategy, Reason) {
    let Measured {
        backends,
        inflight_per_backend: inflight,
        ..
    } = *measured;
    let by_load = match in_force {
        Strategy::LeastConnections | Strategy::P2c => {
            cv2 >= STEADY_BELOW_CV2 && inflight >= QUIET_BELOW_INFLIGHT
        }
        _ => cv2 > VARIABLE_ABOVE_CV2 && inflight >= BUSY_FROM_INFLIGHT,
    };
    if by_load {
        return by_load_of(backends, cv2, inflight, in_force);
    }
    let by_turn = match in_force {
        Strategy::RoundRobin => cv2 <= VARIABLE_ABOVE_CV2 && inflight < BUSY_FROM_INFLIGHT,
        _ => cv2 < STEADY_BELOW_CV2 && inflight < QUIET_BELOW_INFLIGHT,
    };
    if by_turn {
        return (Strategy::RoundRobin, Reason::Quiet { cv2, inflight });
    }
    (Strategy::IdleFirst, Reason::Between { cv2, inflight })
}

fn by_load_of(backends: u32, cv2: f64, inflight: f64, in_force: Strategy) -> (Strategy, Reason) {
    let few = match in_force {
        Strategy::P2c => FEW_UP_TO_BACKENDS,
        _ => MANY_ABOVE_BACKENDS,
    };
    let why = Reason::Variable {
        cv2,
        inflight,
        backends,
    };
    if backends <= few {
        (Strategy::LeastConnections, why)
    } else {
        (Strategy::P2c, why)
    }
}

/// What was measured, if it is a number.
fn figure(value: Option<f64>) -> Option<f64> {
    value.filter(|value| value.is_finite())
}

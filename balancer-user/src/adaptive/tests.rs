//! The judge: every rule, its figures in the sentence, and that nothing makes it flap.

use proptest::{prelude::*, strategy::Strategy as Generator};

use super::*;
use crate::model::Strategy;

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(5);

/// An unlimited service of ten like backends, neither busy nor quiet.
fn between() -> Measured {
    Measured {
        backends: 10,
        inflight_per_backend: 0.7,
        completions: 1_000,
        hold_mean: Some(Duration::from_millis(50)),
        hold_cv2: Some(1.2),
        response_spread: Some(1.1),
        ..Measured::default()
    }
}

fn limited() -> Measured {
    Measured {
        is_limited: true,
        utilisation: 0.83,
        hold_cv2: Some(8.0),
        ..between()
    }
}

fn uneven() -> Measured {
    Measured {
        response_spread: Some(3.456),
        ..between()
    }
}

fn variable() -> Measured {
    Measured {
        hold_cv2: Some(4.32),
        inflight_per_backend: 2.5,
        ..between()
    }
}

fn quiet() -> Measured {
    Measured {
        hold_cv2: Some(0.25),
        inflight_per_backend: 0.11,
        ..between()
    }
}

/// A judge and its clock.
struct Bench {
    judge: Judge,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let now = Instant::now();
        let judge = Judge::new(now);
        Self { judge, now }
    }

    fn look(&mut self, measured: Measured) -> Verdict {
        self.now += PERIOD;
        self.judge.look(&measured, self.now)
    }

    /// Looks until whatever is going to change has changed.
    fn settle(&mut self, measured: Measured) -> Verdict {
        let periods = DWELL.as_secs() / PERIOD.as_secs() + u64::from(LOOKS_TO_CHANGE);
        for _ in 0..periods {
            self.look(measured);
        }
        self.look(measured)
    }
}

fn settled(measured: Measured) -> Verdict {
    Bench::new().settle(measured)
}

/// That `measured` leads to `strategy`, and that the sentence says all of `figures`.
fn check(measured: Measured, strategy: Strategy, word: &str, figures: &[&str]) {
    let verdict = settled(measured);
    let sentence = verdict.why.to_string();
    assert_eq!((verdict.in_force, verdict.why.as_str()), (strategy, word));
    assert_eq!(verdict.next, None);
    for figure in figures {
        assert!(sentence.contains(figure), "{figure}: {sentence}");
    }
}

#[test]
fn every_rule_is_reached_and_names_its_figures() {
    let alone = Measured {
        backends: 1,
        ..uneven()
    };
    let slack = Measured {
        completions: 29,
        ..uneven()
    };
    let unmeasured = Measured {
        hold_cv2: None,
        ..variable()
    };
    let many = Measured {
        backends: 65,
        ..variable()
    };
    let limited_uneven = Measured {
        response_spread: Some(2.1),
        ..limited()
    };
    check(alone, Strategy::IdleFirst, "no-choice", &["1 backend "]);
    check(slack, Strategy::IdleFirst, "too-little", &["29", "30"]);
    check(unmeasured, Strategy::IdleFirst, "unmeasured", &["1000"]);
    check(limited(), Strategy::IdleFirst, "limited", &["83 %"]);
    check(between(), Strategy::IdleFirst, "between", &["1.20", "0.70"]);
    check(
        uneven(),
        Strategy::LeastResponseTime,
        "uneven",
        &["3.46", "2.0", "1.5"],
    );
    check(
        limited_uneven,
        Strategy::LeastResponseTime,
        "uneven",
        &["2.10"],
    );
    check(
        variable(),
        Strategy::LeastConnections,
        "variable",
        &["4.32", "2.50", "of 10"],
    );
    check(many, Strategy::P2c, "variable", &["of 65"]);
    check(quiet(), Strategy::RoundRobin, "quiet", &["0.25", "0.11"]);
}

#[test]
fn before_the_first_look_the_default_is_in_force() {
    let bench = Bench::new();
    assert_eq!(bench.judge.in_force, Strategy::IdleFirst);
    assert!(bench.judge.why.to_string().contains("nothing"));
}

#[test]
fn a_change_takes_agreeing_looks_and_the_dwell() {
    let mut bench = Bench::new();
    let start = bench.now;
    let asked: Vec<_> = (0..5).map(|_| bench.look(quiet())).collect();
    assert!(
        asked
            .iter()
            .all(|verdict| verdict.in_force == Strategy::IdleFirst)
    );
    let next = asked[4].next.unwrap();
    assert_eq!((next.strategy, next.looks), (Strategy::RoundRobin, 5));

    let changed = bench.look(quiet());
    assert!(changed.changed);
    assert_eq!(changed.in_force, Strategy::RoundRobin);
    assert_eq!(changed.since, start + DWELL);
    assert_eq!(changed.next, None);
    assert!(!bench.look(quiet()).changed);

    // Long after the dwell, three looks are still needed.
    bench.now += 10 * DWELL;
    let since = bench.judge.since;
    assert!(!bench.look(variable()).changed);
    assert_eq!(bench.look(variable()).since, since);
    let changed = bench.look(variable());
    assert_eq!(
        (changed.changed, changed.in_force, changed.since),
        (true, Strategy::LeastConnections, bench.now)
    );
}

#[test]
fn while_something_else_is_asked_for_the_reason_in_force_stays() {
    let mut bench = Bench::new();
    bench.settle(quiet());
    let verdict = bench.look(uneven());
    assert_eq!(verdict.why.as_str(), "quiet");
    assert_eq!(verdict.next.unwrap().why, Reason::Uneven { spread: 3.456 });
    assert_eq!(verdict.measured, uneven());
}

#[test]
fn looks_that_disagree_do_not_add_up() {
    let mut bench = Bench::new();
    bench.now += DWELL;
    for _ in 0..20 {
        for measured in [quiet(), quiet(), uneven(), uneven(), variable(), between()] {
            assert!(!bench.look(measured).changed);
        }
    }
}

#[test]
fn a_clock_that_stands_still_or_goes_back_changes_nothing() {
    let start = Instant::now() + DWELL;
    let mut judge = Judge::new(start);
    for _ in 0..20 {
        assert!(!judge.look(&quiet(), start).changed);
        assert!(!judge.look(&quiet(), start - DWELL).changed);
    }
}

/// Settles on `entered`, then goes on with `middle`, which lies between where that is entered and
/// left, then with `left`.
fn check_band(entered: Measured, middle: Measured, left: Measured) {
    let mut bench = Bench::new();
    let strategy = bench.settle(entered).in_force;
    assert_ne!(settled(middle).in_force, strategy, "{middle:?} enters it");
    assert_eq!(bench.settle(middle).in_force, strategy);
    assert_ne!(bench.settle(left).in_force, strategy);
}

#[test]
fn what_is_in_force_is_left_at_another_threshold_than_it_is_entered_at() {
    let spread = |spread| Measured {
        response_spread: Some(spread),
        ..between()
    };
    check_band(spread(2.1), spread(1.6), spread(1.4));
    let load = |cv2, inflight_per_backend| Measured {
        hold_cv2: Some(cv2),
        inflight_per_backend,
        ..between()
    };
    check_band(load(1.6, 1.0), load(1.1, 1.0), load(0.9, 1.0));
    check_band(load(1.6, 1.0), load(1.6, 0.6), load(1.6, 0.4));
    check_band(load(0.9, 0.4), load(1.4, 0.4), load(1.6, 0.4));
    check_band(load(0.9, 0.4), load(0.9, 0.9), load(0.9, 1.1));
    let backends = |backends| Measured {
        backends,
        ..variable()
    };
    check_band(backends(65), backends(60), backends(48));
}

/// Around one threshold each, on one side or the other as chance has it.
fn noisy(which: usize, high: bool) -> Measured {
    let pick = |low, above| if high { above } else { low };
    match which {
        0 => Measured {
            response_spread: Some(pick(1.95, 2.05)),
            ..between()
        },
        1 => Measured {
            response_spread: Some(pick(1.45, 1.55)),
            ..between()
        },
        2 => Measured {
            hold_cv2: Some(pick(1.45, 1.55)),
            ..variable()
        },
        3 => Measured {
            inflight_per_backend: pick(0.95, 1.05),
            ..variable()
        },
        4 => Measured {
            hold_cv2: Some(pick(0.95, 1.05)),
            ..quiet()
        },
        _ => Measured {
            backends: if high { 65 } else { 64 },
            ..variable()
        },
    }
}

fn anything() -> impl Generator<Value = Measured> {
    let figure = || {
        prop_oneof![
            0.0..4.0_f64,
            Just(f64::NAN),
            Just(f64::INFINITY),
            any::<f64>()
        ]
    };
    let backends = prop_oneof![0..200_u32, any::<u32>()];
    let completions = prop_oneof![0..60_u64, any::<u64>()];
    (
        (backends, any::<bool>(), figure(), figure(), completions),
        (prop::option::of(figure()), prop::option::of(figure())),
    )
        .prop_map(
            |((backends, is_limited, utilisation, inflight, completions), (cv2, spread))| {
                Measured {
                    backends,
                    is_limited,
                    utilisation,
                    inflight_per_backend: inflight,
                    completions,
                    hold_mean: None,
                    hold_cv2: cv2,
                    response_spread: spread,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn changes_are_never_closer_than_the_dwell(
        steps in prop::collection::vec((anything(), 1..6_usize, 0..40_000_u64), 1..80),
    ) {
        let start = Instant::now();
        let (mut judge, mut now, mut last) = (Judge::new(start), start, start);
        for (measured, times, apart_ms) in steps {
            for _ in 0..times {
                now += Duration::from_millis(apart_ms);
                let before = judge.in_force;
                let verdict = judge.look(&measured, now);
                prop_assert_ne!(verdict.in_force, Strategy::Adaptive);
                prop_assert_eq!(verdict.changed, verdict.in_force != before);
                prop_assert!(!verdict.why.to_string().is_empty());
                if verdict.changed {
                    prop_assert!(now - last >= DWELL);
                    prop_assert_eq!(verdict.since, now);
                    last = now;
                }
            }
        }
    }

    #[test]
    fn noise_around_a_threshold_does_not_flap(
        which in 0..6_usize,
        sides in prop::collection::vec(any::<bool>(), 1..200),
    ) {
        let mut bench = Bench::new();
        let changes = sides.into_iter().filter(|high| bench.look(noisy(which, *high)).changed);
        prop_assert!(changes.count() <= 2);
    }

    /// Even if all of it were as bad as can be.
    #[test]
    fn one_look_or_two_change_nothing(odd in anything(), times in 1..LOOKS_TO_CHANGE) {
        let mut bench = Bench::new();
        let usual = bench.settle(quiet()).in_force;
        bench.now += DWELL;
        for _ in 0..times {
            prop_assert_eq!(bench.look(odd).in_force, usual);
        }
        prop_assert_eq!(bench.look(quiet()).next, None);
    }

    #[test]
    fn what_lasts_is_followed(measured in anything()) {
        let verdict = settled(measured);
        let again = Bench { judge: Judge::new(verdict.since), now: verdict.since }.settle(measured);
        prop_assert_eq!(verdict.in_force, again.in_force);
        prop_assert_eq!(verdict.next, None);
    }
}

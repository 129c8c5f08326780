//! What each setting of a service may be: its words, its lowest and its highest value.
//!
//! Owns the bounds and nothing of the keys: every check here takes what is written, what the
//! setting is called in messages, and gives the value if it is good. Called by `settings`.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::problem::Findings;
use super::raw::{At, RawRateLimit, Text};
use super::shape::WordOr;
use super::supported;
use super::value::{self, Written};
use crate::model::{
    Admission, Intercept, Locality, MAX_INFLIGHT, MAX_QUEUE_SIZE, MAX_RATE_BURST,
    MAX_RATE_PER_SECOND, OnAgentLoss, Probe, Protocol, QueueTimeout, RateLimit, Refuse, Strategy,
};

const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

const SLOW_STARTS: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
const QUEUE_TIMEOUTS: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
const TICKS: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(1);
const HEALTH_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;
const HEALTH_TIMEOUTS: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(60);
const BREAKER_TIMES: RangeInclusive<Duration> = MILLISECOND..=HOUR;

/// Declares the checks that differ only in their words or their range.
macro_rules! bounds {
    (
        word { $($word:ident: $type:ty = $words:expr,)* }
        $($kind:ident -> $value:ty { $($name:ident = $range:expr,)* })*
    ) => {
        $(
            pub(crate) fn $word(
                written: Written<'_>,
                _: &str,
                findings: &mut Findings,
            ) -> Option<$type> {
                value::word(written, $words, findings)
            }
        )*
        $($(
            pub(crate) fn $name(
                written: Written<'_>,
                what: &str,
                findings: &mut Findings,
            ) -> Option<$value> {
                value::$kind(written, what, $range, findings)
            }
        )*)*
    };
}

bounds! {
    word {
        protocol: Protocol = Protocol::ALL,
        admission: Admission = supported::ADMISSIONS,
        strategy: Strategy = supported::STRATEGIES,
        locality: Locality = Locality::ALL,
        intercept: Intercept = Intercept::ALL,
        on_agent_loss: OnAgentLoss = OnAgentLoss::ALL,
        refuse: Refuse = Refuse::ALL,
        probe: Probe = Probe::ALL,
    }
    count -> u32 {
        max_inflight = 0..=MAX_INFLIGHT,
        queue_size = 0..=MAX_QUEUE_SIZE,
        attempts = 1..=1000,
        health_failures = 1..=100,
        breaker_failures = 0..=1000,
    }
    duration -> Duration {
        slow_start = SLOW_STARTS,
        tick = TICKS,
        health_interval = HEALTH_INTERVALS,
        health_timeout = HEALTH_TIMEOUTS,
        breaker_open = BREAKER_TIMES,
    }
    milliseconds -> Duration {
        tick_ms = TICKS,
        health_interval_ms = HEALTH_INTERVALS,
        health_timeout_ms = HEALTH_TIMEOUTS,
    }
}

pub(crate) fn queue_timeout(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<QueueTimeout> {
    if written.text == "auto" {
        return Some(QueueTimeout::Auto);
    }
    value::duration_or(written, what, QUEUE_TIMEOUTS, ", or auto", findings)
        .map(QueueTimeout::Fixed)
}

pub(crate) fn queue_timeout_ms(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<QueueTimeout> {
    if written.text == "auto" {
        return Some(QueueTimeout::Auto);
    }
    value::milliseconds(written, what, QUEUE_TIMEOUTS, findings).map(QueueTimeout::Fixed)
}

/// `none`, or tokens a second and how many can be saved up.
pub(crate) fn rate_limit(
    raw: &At<WordOr<RawRateLimit>>,
    findings: &mut Findings,
) -> Option<Option<RateLimit>> {
    const HINT: &str = "write none, or {per_second: 100, burst: 20}";
    let raw = match &raw.value {
        WordOr::Word(word) if &**word == "none" => return Some(None),
        WordOr::Word(word) => {
            let wrong = format!("rate_limit {word:?} is neither none nor a mapping");
            findings.reject(raw.spot, wrong, HINT);
            return None;
        }
        WordOr::Other(limit) => At {
            value: limit,
            spot: raw.spot,
        },
    };
    let mut tokens = |text: &Option<Text>, what, most| {
        let number = |text: &Text| value::count(text.into(), what, 1..=most, findings);
        text.as_ref().map(number)
    };
    let per_second = tokens(
        &raw.value.per_second,
        "rate_limit.per_second",
        MAX_RATE_PER_SECOND,
    );
    let burst = tokens(&raw.value.burst, "rate_limit.burst", MAX_RATE_BURST);
    let Some(per_second) = per_second else {
        findings.reject(raw.spot, "rate_limit has no per_second", HINT);
        return None;
    };
    let per_second = per_second?;
    let burst = burst.unwrap_or(Some(per_second.min(MAX_RATE_BURST)))?;
    Some(Some(RateLimit { per_second, burst }))
}

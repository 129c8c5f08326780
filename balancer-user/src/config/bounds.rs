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
    Admission, MAX_INFLIGHT, MAX_QUEUE_SIZE, MAX_RATE_BURST, MAX_RATE_PER_SECOND, OnAgentLoss,
    Probe, Protocol, QueueTimeout, RateLimit, Refuse, Strategy,
};

const HOUR: Duration = Duration::from_secs(3600);
const MILLISECOND: Duration = Duration::from_millis(1);

const QUEUE_TIMEOUTS: RangeInclusive<Duration> = Duration::ZERO..=HOUR;
const TICKS: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(1);
const HEALTH_INTERVALS: RangeInclusive<Duration> = Duration::from_millis(10)..=HOUR;
const HEALTH_TIMEOUTS: RangeInclusive<Duration> = MILLISECOND..=Duration::from_secs(60);
const BREAKER_TIMES: RangeInclusive<Duration> = MILLISECOND..=HOUR;

pub(crate) fn protocol(written: Written<'_>, _: &str, findings: &mut Findings) -> Option<Protocol> {
    value::word(written, Protocol::ALL, findings)
}

pub(crate) fn admission(
    written: Written<'_>,
    _: &str,
    findings: &mut Findings,
) -> Option<Admission> {
    value::word(written, supported::ADMISSIONS, findings)
}

pub(crate) fn strategy(written: Written<'_>, _: &str, findings: &mut Findings) -> Option<Strategy> {
    value::word(written, supported::STRATEGIES, findings)
}

pub(crate) fn on_agent_loss(
    written: Written<'_>,
    _: &str,
    findings: &mut Findings,
) -> Option<OnAgentLoss> {
    value::word(written, OnAgentLoss::ALL, findings)
}

pub(crate) fn refuse(written: Written<'_>, _: &str, findings: &mut Findings) -> Option<Refuse> {
    value::word(written, Refuse::ALL, findings)
}

pub(crate) fn probe(written: Written<'_>, _: &str, findings: &mut Findings) -> Option<Probe> {
    value::word(written, Probe::ALL, findings)
}

pub(crate) fn max_inflight(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<u32> {
    value::number(written, what, "", 0..=MAX_INFLIGHT, findings)
}

pub(crate) fn queue_size(written: Written<'_>, what: &str, findings: &mut Findings) -> Option<u32> {
    value::number(written, what, "", 0..=MAX_QUEUE_SIZE, findings)
}

pub(crate) fn attempts(written: Written<'_>, what: &str, findings: &mut Findings) -> Option<u32> {
    value::number(written, what, "", 1..=1000, findings)
}

pub(crate) fn health_failures(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<u32> {
    value::number(written, what, "", 1..=100, findings)
}

pub(crate) fn breaker_failures(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<u32> {
    value::number(written, what, "", 0..=1000, findings)
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

pub(crate) fn tick(written: Written<'_>, what: &str, findings: &mut Findings) -> Option<Duration> {
    value::duration(written, what, TICKS, findings)
}

pub(crate) fn tick_ms(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    value::milliseconds(written, what, TICKS, findings)
}

pub(crate) fn health_interval(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    value::duration(written, what, HEALTH_INTERVALS, findings)
}

pub(crate) fn health_interval_ms(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    value::milliseconds(written, what, HEALTH_INTERVALS, findings)
}

pub(crate) fn health_timeout(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    value::duration(written, what, HEALTH_TIMEOUTS, findings)
}

pub(crate) fn health_timeout_ms(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    value::milliseconds(written, what, HEALTH_TIMEOUTS, findings)
}

pub(crate) fn breaker_open(
    written: Written<'_>,
    what: &str,
    findings: &mut Findings,
) -> Option<Duration> {
    value::duration(written, what, BREAKER_TIMES, findings)
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
        let number = |text: &Text| value::number(text.into(), what, "", 1..=most, findings);
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

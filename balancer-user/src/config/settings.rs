//! The settings of a service as one place gives them: a mapping of the file, or the environment.
//!
//! Owns their keys and their short names; what they may be is in `bounds`. Refuses two names of one setting in one
//! mapping. `functions` and `services` read their layers here and lay them on one another;
//! `agreement` sees to what the settings say together.

use super::bounds;
use super::client;
use super::environment::{self, Lookup, Variable};
use super::problem::{Findings, Place};
use super::raw::{RawBreaker, RawHealth, RawQueue, RawSettings, Text};
use super::value::{self, Written};
use crate::model::{Origin, Setting, Settings};

/// What one place gives, or what several give that were laid on one another.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Layer {
    pub(crate) settings: Settings,
    pub(crate) places: Places,
}

/// Where those settings stand that another may contradict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Places {
    pub(crate) protocol: Option<Place>,
    pub(crate) admission: Option<Place>,
    pub(crate) strategy: Option<Place>,
    pub(crate) hash: Option<Place>,
    pub(crate) affinity: Option<Place>,
    pub(crate) locality: Option<Place>,
    pub(crate) slow_start: Option<Place>,
    pub(crate) queue_size: Option<Place>,
    pub(crate) queue_adaptive: Option<Place>,
    pub(crate) health_path: Option<Place>,
    pub(crate) health_interval: Option<Place>,
    pub(crate) health_timeout: Option<Place>,
    pub(crate) health_failures: Option<Place>,
}

impl Layer {
    /// This layer, and `below` where this one is silent.
    pub(crate) fn over(&self, below: &Self) -> Self {
        Self {
            settings: self.settings.over(&below.settings),
            places: self.places.over(below.places),
        }
    }
}

impl Places {
    fn over(self, below: Self) -> Self {
        Self {
            protocol: self.protocol.or(below.protocol),
            admission: self.admission.or(below.admission),
            strategy: self.strategy.or(below.strategy),
            hash: self.hash.or(below.hash),
            affinity: self.affinity.or(below.affinity),
            locality: self.locality.or(below.locality),
            slow_start: self.slow_start.or(below.slow_start),
            queue_size: self.queue_size.or(below.queue_size),
            queue_adaptive: self.queue_adaptive.or(below.queue_adaptive),
            health_path: self.health_path.or(below.health_path),
            health_interval: self.health_interval.or(below.health_interval),
            health_timeout: self.health_timeout.or(below.health_timeout),
            health_failures: self.health_failures.or(below.health_failures),
        }
    }
}

/// Reads the settings that stand in one mapping of the file.
pub(crate) fn read(raw: &RawSettings, origin: Origin, findings: &mut Findings) -> Layer {
    let mut layer = Layer::default();
    let Layer { settings, places } = &mut layer;
    let mut reader = Reader { origin, findings };
    places.protocol = reader.read(
        &mut settings.protocol,
        "protocol",
        &raw.protocol,
        bounds::protocol,
    );
    places.admission = reader.read(
        &mut settings.admission,
        "admission",
        &raw.admission,
        bounds::admission,
    );
    reader.read(
        &mut settings.max_inflight,
        "max_inflight",
        &raw.max_inflight,
        bounds::max_inflight,
    );
    reader.read(
        &mut settings.on_agent_loss,
        "on_agent_loss",
        &raw.on_agent_loss,
        bounds::on_agent_loss,
    );
    reader.read(
        &mut settings.intercept,
        "intercept",
        &raw.intercept,
        bounds::intercept,
    );
    selection(raw, &mut layer, &mut reader);
    queue(raw, &mut layer, &mut reader);
    health(raw, &mut layer, &mut reader);
    if let Some(raw) = &raw.breaker {
        breaker(raw, &mut layer, &mut reader);
    }
    if let Some(raw) = &raw.rate_limit {
        let limit = bounds::rate_limit(raw, reader.findings);
        layer.settings.rate_limit.put(limit, origin);
    }
    layer
}

/// Reads the variables that stand in for keys under `defaults:`.
pub(crate) fn of_environment(lookup: Lookup<'_>, findings: &mut Findings) -> Layer {
    let mut layer = Layer::default();
    let Layer { settings, places } = &mut layer;
    let (queue, health) = (&mut settings.queue, &mut settings.health);
    let mut reader = VariableReader { lookup, findings };
    places.strategy = reader.read(
        &mut settings.strategy,
        environment::STRATEGY,
        bounds::strategy,
    );
    places.queue_size = reader.read(&mut queue.size, environment::QUEUE_SIZE, bounds::queue_size);
    reader.read(
        &mut queue.timeout,
        environment::QUEUE_TIMEOUT,
        bounds::queue_timeout_ms,
    );
    reader.read(
        &mut queue.attempts,
        environment::QUEUE_ATTEMPTS,
        bounds::attempts,
    );
    reader.read(&mut queue.tick, environment::QUEUE_TICK, bounds::tick_ms);
    places.health_timeout = reader.read(
        &mut health.timeout,
        environment::HEALTH_TIMEOUT,
        bounds::health_timeout_ms,
    );
    places.health_failures = reader.read(
        &mut health.failures,
        environment::HEALTH_FAILURES,
        bounds::health_failures,
    );
    layer
}

fn selection(raw: &RawSettings, layer: &mut Layer, reader: &mut Reader<'_>) {
    let Layer { settings, places } = layer;
    places.strategy = reader.read(
        &mut settings.strategy,
        "strategy",
        &raw.strategy,
        bounds::strategy,
    );
    places.locality = reader.read(
        &mut settings.locality,
        "locality",
        &raw.locality,
        bounds::locality,
    );
    places.slow_start = reader.read(
        &mut settings.slow_start,
        "slow_start",
        &raw.slow_start,
        bounds::slow_start,
    );
    if let Some(raw) = &raw.hash {
        let hash = client::hash(raw, reader.findings);
        settings.hash.put(hash, reader.origin);
        places.hash = Some(raw.spot.into());
    }
    if let Some(raw) = &raw.affinity {
        let affinity = client::affinity(raw, reader.findings);
        settings.affinity.put(affinity, reader.origin);
        places.affinity = Some(raw.spot.into());
    }
}

fn queue(raw: &RawSettings, layer: &mut Layer, reader: &mut Reader<'_>) {
    let silent = RawQueue::default();
    let written = raw.queue.as_deref().unwrap_or(&silent);
    let Layer { settings, places } = layer;
    let queue = &mut settings.queue;
    places.queue_size = reader.read_any(
        &mut queue.size,
        [
            ("queue.size", &written.size, bounds::queue_size),
            (
                "queue_buffer_size",
                &raw.queue_buffer_size,
                bounds::queue_size,
            ),
        ],
    );
    reader.read_any(
        &mut queue.timeout,
        [
            ("queue.timeout", &written.timeout, bounds::queue_timeout),
            (
                "queue_timeout_ms",
                &raw.queue_timeout_ms,
                bounds::queue_timeout_ms,
            ),
        ],
    );
    reader.read_any(
        &mut queue.attempts,
        [
            ("queue.attempts", &written.attempts, bounds::attempts),
            ("queue.retries", &written.retries, bounds::attempts),
            ("max_retries", &raw.max_retries, bounds::attempts),
        ],
    );
    reader.read(&mut queue.tick, "queue.tick", &written.tick, bounds::tick);
    reader.read(
        &mut queue.overtaking,
        "queue.overtaking",
        &written.overtaking,
        value::switch,
    );
    reader.read(
        &mut queue.refuse,
        "queue.refuse",
        &written.refuse,
        bounds::refuse,
    );
    places.queue_adaptive = reader.read(
        &mut queue.adaptive,
        "queue.adaptive",
        &written.adaptive,
        value::switch,
    );
}

fn health(raw: &RawSettings, layer: &mut Layer, reader: &mut Reader<'_>) {
    let silent = RawHealth::default();
    let written = raw.health.as_deref().unwrap_or(&silent);
    let Layer { settings, places } = layer;
    let health = &mut settings.health;
    let mut chosen = Setting::default();
    if reader
        .read(&mut chosen, "health.probe", &written.probe, bounds::probe)
        .is_some()
    {
        health.probe = Some(chosen);
    }
    places.health_path = reader.read(
        &mut health.path,
        "health.path",
        &written.path,
        value::request_target,
    );
    let short = &raw.health_check_interval_ms;
    places.health_interval = reader.read_any(
        &mut health.interval,
        [
            (
                "health.interval",
                &written.interval,
                bounds::health_interval,
            ),
            (
                "health_check_interval_ms",
                short,
                bounds::health_interval_ms,
            ),
        ],
    );
    places.health_timeout = reader.read(
        &mut health.timeout,
        "health.timeout",
        &written.timeout,
        bounds::health_timeout,
    );
    places.health_failures = reader.read(
        &mut health.failures,
        "health.failures",
        &written.failures,
        bounds::health_failures,
    );
}

fn breaker(raw: &RawBreaker, layer: &mut Layer, reader: &mut Reader<'_>) {
    let breaker = &mut layer.settings.breaker;
    reader.read(
        &mut breaker.failures,
        "breaker.failures",
        &raw.failures,
        bounds::breaker_failures,
    );
    reader.read(
        &mut breaker.open,
        "breaker.open",
        &raw.open,
        bounds::breaker_open,
    );
}

/// Checks one value; the word is what the setting is called in messages.
type Check<T> = fn(Written<'_>, &str, &mut Findings) -> Option<T>;

/// One name of a setting, what the file has under it, and how that is read.
type Name<'a, T> = (&'static str, &'a Option<Text>, Check<T>);

/// Reads settings of one mapping. Each reading gives where the setting stands, if it does.
struct Reader<'a> {
    origin: Origin,
    findings: &'a mut Findings,
}

impl Reader<'_> {
    fn read<T>(
        &mut self,
        setting: &mut Setting<T>,
        name: &'static str,
        text: &Option<Text>,
        check: Check<T>,
    ) -> Option<Place> {
        self.read_any(setting, [(name, text, check)])
    }

    /// Reads a setting that has several names, of which one may be used.
    fn read_any<T, const NAMES: usize>(
        &mut self,
        setting: &mut Setting<T>,
        names: [Name<'_, T>; NAMES],
    ) -> Option<Place> {
        let mut used: Option<(&str, &Text)> = None;
        for (name, text, check) in names {
            let Some(text) = text else { continue };
            if let Some((other, first)) = used {
                self.findings.reject(
                    text.spot,
                    format!("{name} is the same setting as {other}, at {}", first.spot),
                    "keep one of them",
                );
                continue;
            }
            used = Some((name, text));
            setting.put(check(text.into(), name, self.findings), self.origin);
        }
        used.map(|(_, text)| text.spot.into())
    }
}

/// Reads settings of the environment.
struct VariableReader<'a> {
    lookup: Lookup<'a>,
    findings: &'a mut Findings,
}

impl VariableReader<'_> {
    fn read<T>(
        &mut self,
        setting: &mut Setting<T>,
        name: &'static str,
        check: Check<T>,
    ) -> Option<Place> {
        let variable = Variable::look_up(self.lookup, name)?;
        let written = variable.written();
        let value = check(written, environment::VALUE, self.findings);
        setting.put(value, Origin::Environment);
        Some(written.place)
    }
}

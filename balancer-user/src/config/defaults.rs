//! The settings that a service has before it says anything itself, and those that override it.
//!
//! Owns `defaults:`, the variable that stands in for one of its keys, and `functions:`. Together
//! with the service's own keys they are the layers that `services` lays on one another.

use std::collections::HashMap;

use super::environment::{self, Lookup, Variable};
use super::problem::{Findings, Spot};
use super::raw::{RawDefaults, RawFunction, RawFunctions, Text};
use super::supported;
use super::value::{self, Written};
use crate::model::{
    Admission, MAX_INFLIGHT, Origin, Protocol, ServiceName, Setting, Strategy, check_label,
};

/// What holds for a service that says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// What is spoken over its connections.
    pub protocol: Setting<Protocol>,
    /// What takes a slot.
    pub admission: Setting<Admission>,
    /// How a backend is picked.
    pub strategy: Setting<Strategy>,
    /// Slots of each backend; 0 is unlimited.
    pub max_inflight: Setting<u32>,
}

impl Default for Defaults {
    fn default() -> Self {
        Self {
            protocol: Setting::built_in(Protocol::default()),
            admission: Setting::built_in(Admission::default()),
            strategy: Setting::built_in(Strategy::default()),
            max_inflight: Setting::built_in(0),
        }
    }
}

/// Checks `defaults:` and the environment over it.
pub(crate) fn check_defaults(
    raw: &RawDefaults,
    lookup: Lookup<'_>,
    findings: &mut Findings,
) -> Defaults {
    let built_in = Defaults::default();
    let layer = Layer::check(
        raw.protocol.as_ref(),
        raw.admission.as_ref(),
        raw.strategy.as_ref(),
        raw.max_inflight.as_ref(),
        findings,
    );
    let mut defaults = layer.over(built_in, Origin::Defaults);
    if let Some(variable) = Variable::look_up(lookup, environment::STRATEGY) {
        let strategy = strategy(variable.written(), findings);
        defaults.strategy = defaults.strategy.overridden(strategy, Origin::Environment);
    }
    defaults
}

/// The settings of a service that one place gives; none where that place is silent.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Layer {
    protocol: Option<Protocol>,
    admission: Option<Admission>,
    strategy: Option<Strategy>,
    max_inflight: Option<u32>,
}

impl Layer {
    pub(crate) fn check(
        protocol: Option<&Text>,
        admission: Option<&Text>,
        strategy_text: Option<&Text>,
        max_inflight_text: Option<&Text>,
        findings: &mut Findings,
    ) -> Self {
        Self {
            protocol: protocol.and_then(|text| value::word(text.into(), Protocol::ALL, findings)),
            admission: admission
                .and_then(|text| value::word(text.into(), supported::ADMISSIONS, findings)),
            strategy: strategy_text.and_then(|text| strategy(text.into(), findings)),
            max_inflight: max_inflight_text.and_then(|text| max_inflight(text, findings)),
        }
    }

    /// Lays this layer over `below`.
    pub(crate) fn over(self, below: Defaults, origin: Origin) -> Defaults {
        Defaults {
            protocol: below.protocol.overridden(self.protocol, origin),
            admission: below.admission.overridden(self.admission, origin),
            strategy: below.strategy.overridden(self.strategy, origin),
            max_inflight: below.max_inflight.overridden(self.max_inflight, origin),
        }
    }
}

fn strategy(written: Written<'_>, findings: &mut Findings) -> Option<Strategy> {
    value::word(written, supported::STRATEGIES, findings)
}

fn max_inflight(text: &Text, findings: &mut Findings) -> Option<u32> {
    value::number(text.into(), "max_inflight", "", 0..=MAX_INFLIGHT, findings)
}

/// The overrides under `functions:`.
///
/// A key is a service's name, in any namespace, or `namespace/name`; the more exact one wins,
/// setting by setting.
#[derive(Debug, Default)]
pub(crate) struct Functions {
    by_name: HashMap<Box<str>, Entry>,
    by_full_name: HashMap<ServiceName, Entry>,
}

#[derive(Debug)]
struct Entry {
    layer: Layer,
    spot: Spot,
    used: bool,
}

impl Functions {
    pub(crate) fn check(raw: RawFunctions, findings: &mut Findings) -> Self {
        let mut functions = Self::default();
        for (key, settings) in raw.0 {
            let settings = settings.unwrap_or_default();
            let layer = Layer::check(
                None,
                None,
                settings.strategy.as_ref(),
                settings.max_inflight.as_ref(),
                findings,
            );
            check_settings_without_effect(&settings, findings);
            functions.add(key, layer, findings);
        }
        functions
    }

    fn add(&mut self, key: Text, layer: Layer, findings: &mut Findings) {
        let entry = Entry {
            layer,
            spot: key.spot,
            used: false,
        };
        let added = if key.value.contains('/') {
            let name = key.value.parse::<ServiceName>();
            name.map(|name| self.by_full_name.insert(name, entry))
        } else {
            let checked = check_label(&key.value);
            checked.map(|()| self.by_name.insert(key.value.clone(), entry))
        };
        if let Err(fault) = added {
            findings.reject(
                key.spot,
                format!("{:?} cannot be a function's name: {fault}", key.value),
                "write the name of a service, or NAMESPACE/NAME",
            );
        }
    }

    /// Lays the overrides for `name` over `below`.
    pub(crate) fn over(&mut self, below: Defaults, name: &ServiceName) -> Defaults {
        let loose = self.by_name.get_mut(name.name.as_str());
        let exact = self.by_full_name.get_mut(name);
        let entries = loose.into_iter().chain(exact);
        entries.fold(below, |below, entry| {
            entry.used = true;
            entry.layer.over(below, Origin::Function)
        })
    }

    /// Warns of overrides that no service has asked for.
    pub(crate) fn warn_of_unused(&self, findings: &mut Findings) {
        let loose = self
            .by_name
            .iter()
            .map(|(name, entry)| (name.to_string(), entry));
        let exact = self
            .by_full_name
            .iter()
            .map(|(name, entry)| (name.to_string(), entry));
        for (name, entry) in loose.chain(exact).filter(|(_, entry)| !entry.used) {
            findings.warn(
                entry.spot,
                format!("no service is named {name:?}, so these settings have no effect"),
                "correct the name, or remove the entry",
            );
        }
    }
}

/// The longest time that a setting in milliseconds may be: an hour.
const MAX_MS: u32 = 3_600_000;

fn check_settings_without_effect(raw: &RawFunction, findings: &mut Findings) {
    let settings = [
        (
            &raw.queue_timeout_ms,
            "queue_timeout_ms",
            "milliseconds",
            0..=MAX_MS,
        ),
        (&raw.queue_buffer_size, "queue_buffer_size", "", 0..=100_000),
        (&raw.max_retries, "max_retries", "", 0..=1000),
        (
            &raw.health_check_interval_ms,
            "health_check_interval_ms",
            "milliseconds",
            10..=MAX_MS,
        ),
    ];
    for (text, key, unit, range) in settings {
        let Some(text) = text else { continue };
        if value::number(text.into(), key, unit, range, findings).is_some() {
            findings.warn(
                text.spot,
                format!("{key} has no effect in this version"),
                "remove it, or leave it for a later version",
            );
        }
    }
}

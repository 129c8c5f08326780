//! The overrides under `functions:`, by the names of the services that they are for.
//!
//! Owns the names and which of them wins. Refuses what cannot be a service's name, and warns of
//! what is no service's. `services` asks for each service's in turn.

use std::collections::HashMap;

use super::problem::{Findings, Spot};
use super::raw::{RawFunctions, Text};
use super::settings::{self, Layer};
use crate::model::{Origin, ServiceName, check_label};

/// The overrides under `functions:`.
///
/// A key is a service's name, in any namespace, or `namespace/name`; the more exact one wins,
/// setting by setting.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Functions {
    by_name: HashMap<Box<str>, Entry>,
    by_full_name: HashMap<ServiceName, Entry>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
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
            let layer = settings::read(&settings, Origin::Function, findings);
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
    pub(crate) fn over(&mut self, below: Layer, name: &ServiceName) -> Layer {
        let loose = self.by_name.get_mut(name.name.as_ref());
        let exact = self.by_full_name.get_mut(name);
        let entries = loose.into_iter().chain(exact);
        entries.fold(below, |below, entry| {
            entry.used = true;
            entry.layer.over(&below)
        })
    }

    /// The overrides for `name` over `below`, for services that are none of the file's.
    pub(crate) fn of(&self, name: &ServiceName, below: Layer) -> Layer {
        let loose = self.by_name.get(name.name.as_ref());
        let exact = self.by_full_name.get(name);
        let entries = loose.into_iter().chain(exact);
        entries.fold(below, |below, entry| entry.layer.over(&below))
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

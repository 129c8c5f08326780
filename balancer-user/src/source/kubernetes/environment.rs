//! Where the environment of a Deployment's containers has `max_inflight` from.
//!
//! Pure. `kinds` keeps what is found here with the Deployment; `limit` looks there.

use serde::Deserialize;

/// The variable that the watchdog of a function reads.
const MAX_INFLIGHT: &str = "max_inflight";

/// What is read of a container.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Container {
    env: Vec<Variable>,
    env_from: Vec<VariablesFrom>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Variable {
    name: String,
    value: Option<String>,
    value_from: Option<ValueFrom>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ValueFrom {
    config_map_key_ref: Option<KeyRef>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct KeyRef {
    name: String,
    key: String,
    optional: bool,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct VariablesFrom {
    prefix: String,
    config_map_ref: Option<MapRef>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct MapRef {
    name: String,
    optional: bool,
}

/// A place where a limit is written, or may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the Deployment.
    Literal(Box<str>),
    /// In a ConfigMap.
    ConfigMap(Entry),
    /// Somewhere that is not looked at, such as a Secret or a field of the pod.
    Elsewhere,
}

/// A key of a ConfigMap in the Deployment's namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: Box<str>,
    pub(super) key: Box<str>,
    /// Whether no pod starts without the ConfigMap.
    pub(super) needs_map: bool,
    /// Whether no pod starts without the key.
    pub(super) needs_key: bool,
}

/// Where the limit may be written: the first of these that has one counts.
pub(super) fn places(containers: &[Container]) -> Box<[Place]> {
    let mut places = Vec::new();
    for container in containers {
        if container.add_places(&mut places) {
            break;
        }
    }
    places.into()
}

impl Container {
    /// Adds where this container has it from. As in the container, `env` goes before `envFrom`,
    /// and the last of the same name before those above it. Gives whether the limit is sure to be
    /// there.
    fn add_places(&self, places: &mut Vec<Place>) -> bool {
        let variables = self.env.iter().rev();
        for variable in variables.filter(|variable| variable.name == MAX_INFLIGHT) {
            if let Some(literal) = variable.value.as_ref().filter(|value| !value.is_empty()) {
                places.push(Place::Literal(literal.as_str().into()));
                return true;
            }
            let Some(reference) = &variable.value_from else {
                return false;
            };
            let Some(at) = &reference.config_map_key_ref else {
                places.push(Place::Elsewhere);
                return true;
            };
            places.push(Place::ConfigMap(Entry {
                name: at.name.as_str().into(),
                key: at.key.as_str().into(),
                needs_map: !at.optional,
                needs_key: !at.optional,
            }));
            if !at.optional {
                return true;
            }
        }
        let entries = self.env_from.iter().rev().filter_map(VariablesFrom::entry);
        places.extend(entries.map(Place::ConfigMap));
        false
    }
}

impl VariablesFrom {
    fn entry(&self) -> Option<Entry> {
        let key = MAX_INFLIGHT.strip_prefix(self.prefix.as_str())?;
        let map = self.config_map_ref.as_ref()?;
        Some(Entry {
            name: map.name.as_str().into(),
            key: key.into(),
            needs_map: !map.optional,
            needs_key: false,
        })
    }
}

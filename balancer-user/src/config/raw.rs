//! The configuration file as it is written: keys known, shapes right, values still text.
//!
//! Owns the YAML: which keys exist, how large and how deep a file may be. Refuses syntax errors,
//! unknown and duplicate keys, and lists where values belong. Every value stays text with its
//! position, so that the checks can report all bad values at once instead of stopping at the
//! first. Only `config` uses it; only this file and `syntax` name the YAML library.

use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use super::problem::{Problem, Spot};
use super::syntax;
use crate::model::{MAX_BACKENDS_PER_SERVICE, MAX_FRONTENDS_PER_SERVICE, MAX_SERVICES};

/// Bytes in a configuration file: five times what the largest desired state needs.
pub(crate) const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;

/// Values, lists and mappings in a file, those that aliases repeat included: about three times
/// what the largest desired state needs.
const MAX_NODES: usize = 3_000_000;

/// Lists and mappings within each other. The deepest key of all needs six.
const MAX_DEPTH: usize = 32;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(crate) struct At<T> {
    pub(crate) value: T,
    pub(crate) spot: Spot,
}

/// A value that nothing is known of yet.
pub(crate) type Text = At<Box<str>>;

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawConfig {
    pub(crate) source: Option<Text>,
    pub(crate) agent: Option<RawAgent>,
    pub(crate) defaults: Option<RawDefaults>,
    pub(crate) functions: Option<RawFunctions>,
    pub(crate) services: Option<Bounded<At<RawService>, MAX_SERVICES>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAgent {
    pub(crate) cgroup: Option<Text>,
    pub(crate) pin_path: Option<Text>,
    pub(crate) admin: Option<Vec<Text>>,
    pub(crate) metrics: Option<Text>,
    pub(crate) overflow: Option<Text>,
    pub(crate) log: Option<RawLog>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLog {
    pub(crate) level: Option<Text>,
    pub(crate) format: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawDefaults {
    pub(crate) strategy: Option<Text>,
    pub(crate) max_inflight: Option<Text>,
    pub(crate) admission: Option<Text>,
    pub(crate) protocol: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawFunction {
    pub(crate) strategy: Option<Text>,
    pub(crate) max_inflight: Option<Text>,
    pub(crate) queue_timeout_ms: Option<Text>,
    pub(crate) queue_buffer_size: Option<Text>,
    pub(crate) max_retries: Option<Text>,
    pub(crate) health_check_interval_ms: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawService {
    pub(crate) name: Option<Text>,
    pub(crate) namespace: Option<Text>,
    pub(crate) protocol: Option<Text>,
    pub(crate) admission: Option<Text>,
    pub(crate) strategy: Option<Text>,
    pub(crate) max_inflight: Option<Text>,
    pub(crate) frontends: Option<Bounded<Text, MAX_FRONTENDS_PER_SERVICE>>,
    pub(crate) backends: Option<At<Bounded<At<RawBackend>, MAX_BACKENDS_PER_SERVICE>>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawBackend {
    pub(crate) address: Option<Text>,
    pub(crate) weight: Option<Text>,
}

/// A list of which at most `MOST` entries are kept, however long it is in the file.
#[derive(Debug)]
pub(crate) struct Bounded<T, const MOST: usize> {
    /// The first entries.
    pub(crate) items: Vec<T>,
    /// How many entries there are in the file.
    pub(crate) total: usize,
}

impl<T, const MOST: usize> Default for Bounded<T, MOST> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            total: 0,
        }
    }
}

/// The mapping under `functions:`, in the order written and with the places of its keys.
#[derive(Debug, Default)]
pub(crate) struct RawFunctions(pub(crate) Vec<(Text, Option<RawFunction>)>);

/// Reads the text of a configuration file.
pub(crate) fn read(text: &str) -> Result<RawConfig, Problem> {
    read_within(text, MAX_NODES)
}

/// Reads the text of a configuration file of at most so many values, lists and mappings.
pub(crate) fn read_within(text: &str, max_nodes: usize) -> Result<RawConfig, Problem> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: 2 * max_nodes,
            max_nodes: max_nodes,
            max_depth: MAX_DEPTH,
            max_documents: 1,
            max_merge_keys: max_nodes,
            max_aliases: max_nodes,
            // A list that thousands of services repeat by alias is no attack: the limits on
            // nodes and on what aliases replay are what bounds the work.
            enforce_alias_anchor_ratio: false,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: max_nodes,
            max_replay_stack_depth: MAX_DEPTH,
        },
        reject_unsupported_tags: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|error| syntax::problem_of(&error, text))
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for At<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<T>::deserialize(deserializer)?;
        // Where an alias or a merge brought the value here, what is to be mended is its definition.
        let spot = Spot::new(spanned.defined.line(), spanned.defined.column());
        Ok(Self {
            value: spanned.value,
            spot,
        })
    }
}

impl<'de, T: Deserialize<'de>, const MOST: usize> Deserialize<'de> for Bounded<T, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<T, const MOST: usize>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>, const MOST: usize> Visitor<'de> for Entries<T, MOST> {
            type Value = Bounded<T, MOST>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a list")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let mut bounded = Bounded::default();
                while bounded.items.len() < MOST {
                    let Some(item) = list.next_element()? else {
                        break;
                    };
                    bounded.items.push(item);
                }
                bounded.total = bounded.items.len();
                while list.next_element::<IgnoredAny>()?.is_some() {
                    bounded.total += 1;
                }
                Ok(bounded)
            }
        }

        deserializer.deserialize_seq(Entries(PhantomData))
    }
}

impl<'de> Deserialize<'de> for RawFunctions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = RawFunctions;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a mapping from functions to their settings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawFunctions, A::Error> {
                let mut functions = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    functions.push(entry);
                }
                Ok(RawFunctions(functions))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

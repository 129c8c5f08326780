//! The configuration file as it is written: keys known, shapes right, values still text.
//!
//! Owns the YAML: which keys exist, how large and how deep a file may be. Refuses syntax errors,
//! unknown and duplicate keys, and lists where values belong. Every value stays text with its
//! position, so that the checks can report all bad values at once instead of stopping at the
//! first. Only `config` uses it; only this file and `syntax` name the YAML library.

use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, MapAccess, Visitor};
use serde_saphyr::Spanned;

use super::problem::{Problem, Spot};
use super::shape::{Bounded, Other, WordOr};
use super::syntax;
use crate::model::{MAX_BACKENDS_PER_SERVICE, MAX_FRONTENDS_PER_SERVICE, MAX_SERVICES};

/// Bytes in a configuration file: five times what the largest desired state needs.
pub(crate) const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;

/// Values, lists and mappings in a file, those that aliases repeat included: about three times
/// what the largest desired state needs.
const MAX_NODES: usize = 3_000_000;

/// The same in a mapping of settings alone.
const MAX_SETTINGS: usize = 1_000;

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
    pub(crate) defaults: Option<RawSettings>,
    pub(crate) functions: Option<RawFunctions>,
    pub(crate) services: Option<Bounded<At<RawService>, MAX_SERVICES>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAgent {
    pub(crate) node: Option<Text>,
    pub(crate) zone: Option<Text>,
    pub(crate) cgroup: Option<Text>,
    pub(crate) pods_cgroup: Option<Text>,
    pub(crate) bypass_cgroups: Option<Vec<Text>>,
    pub(crate) pin_path: Option<Text>,
    pub(crate) admin: Option<Vec<Text>>,
    pub(crate) admin_token_file: Option<Text>,
    pub(crate) metrics: Option<Text>,
    pub(crate) overflow: Option<At<WordOr<Vec<Text>>>>,
    pub(crate) workers: Option<Text>,
    pub(crate) health_checks: Option<RawProbes>,
    pub(crate) cache_max_size: Option<Text>,
    pub(crate) metrics_collection: Option<Text>,
    pub(crate) resync: Option<Text>,
    pub(crate) shutdown_timeout: Option<Text>,
    pub(crate) log: Option<RawLog>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawProbes {
    pub(crate) enabled: Option<Text>,
    pub(crate) at_once: Option<Text>,
    pub(crate) cache_ttl: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawLog {
    pub(crate) level: Option<Text>,
    pub(crate) format: Option<Text>,
}

/// Declares the settings of a service once, for both mappings that may hold them: with nothing
/// else, and among the other keys of a service.
macro_rules! settings {
    ($($key:ident: $value:ty,)*) => {
        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct RawSettings {
            $(pub(crate) $key: Option<$value>,)*
        }

        #[derive(Debug, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(crate) struct RawService {
            pub(crate) name: Option<Text>,
            pub(crate) namespace: Option<Text>,
            pub(crate) frontends: Option<Bounded<Text, MAX_FRONTENDS_PER_SERVICE>>,
            pub(crate) backends: Option<At<Bounded<At<RawBackend>, MAX_BACKENDS_PER_SERVICE>>>,
            $($key: Option<$value>,)*
        }

        impl RawService {
            /// The settings, which are none of the service's afterwards.
            pub(crate) fn take_settings(&mut self) -> RawSettings {
                RawSettings {
                    $($key: self.$key.take(),)*
                }
            }
        }
    };
}

settings! {
    protocol: Text,
    admission: Text,
    strategy: Text,
    hash: At<WordOr<RawHash>>,
    affinity: At<WordOr<RawAffinity>>,
    locality: Text,
    slow_start: Text,
    intercept: Text,
    max_inflight: Text,
    queue: Box<RawQueue>,
    rate_limit: At<WordOr<RawRateLimit>>,
    on_agent_loss: Text,
    health: Box<RawHealth>,
    breaker: RawBreaker,
    queue_timeout_ms: Text,
    queue_buffer_size: Text,
    max_retries: Text,
    health_check_interval_ms: Text,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawHash {
    pub(crate) header: Option<Text>,
    pub(crate) cookie: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAffinity {
    pub(crate) client: Option<Text>,
    pub(crate) timeout: Option<Text>,
    pub(crate) cookie: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawQueue {
    pub(crate) size: Option<Text>,
    pub(crate) timeout: Option<Text>,
    pub(crate) attempts: Option<Text>,
    pub(crate) retries: Option<Text>,
    pub(crate) tick: Option<Text>,
    pub(crate) overtaking: Option<Text>,
    pub(crate) refuse: Option<Text>,
    pub(crate) adaptive: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRateLimit {
    pub(crate) per_second: Option<Text>,
    pub(crate) burst: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawHealth {
    pub(crate) probe: Option<Text>,
    pub(crate) path: Option<Text>,
    pub(crate) interval: Option<Text>,
    pub(crate) timeout: Option<Text>,
    pub(crate) failures: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawBreaker {
    pub(crate) failures: Option<Text>,
    pub(crate) open: Option<Text>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawBackend {
    pub(crate) address: Option<Text>,
    pub(crate) weight: Option<Text>,
    pub(crate) node: Option<Text>,
    pub(crate) zone: Option<Text>,
}

impl Other<'_> for Vec<Text> {
    const SHAPE: &'static str = "a list";
    const IS_LIST: bool = true;
}

impl Other<'_> for RawHash {
    const SHAPE: &'static str = "a mapping: {header: x-user} or {cookie: session}";
    const IS_LIST: bool = false;
}

impl Other<'_> for RawAffinity {
    const SHAPE: &'static str = "a mapping: {client: true, timeout: 10m}";
    const IS_LIST: bool = false;
}

impl Other<'_> for RawRateLimit {
    const SHAPE: &'static str = "a mapping: {per_second: 100, burst: 20}";
    const IS_LIST: bool = false;
}

/// The mapping under `functions:`, in the order written and with the places of its keys.
#[derive(Debug, Default)]
pub(crate) struct RawFunctions(pub(crate) Vec<(Text, Option<RawSettings>)>);

/// Reads the text of a configuration file.
pub(crate) fn read(text: &str) -> Result<RawConfig, Problem> {
    read_within(text, MAX_NODES)
}

/// Reads the text of a configuration file of at most so many values, lists and mappings.
pub(crate) fn read_within(text: &str, max_nodes: usize) -> Result<RawConfig, Problem> {
    parse(text, max_nodes)
}

/// Reads a mapping of settings alone.
pub(crate) fn read_settings(text: &str) -> Result<RawSettings, Problem> {
    parse(text, MAX_SETTINGS)
}

fn parse<T: DeserializeOwned>(text: &str, max_nodes: usize) -> Result<T, Problem> {
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

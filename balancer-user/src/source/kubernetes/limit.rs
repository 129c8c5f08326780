//! What the environment of a Deployment's containers says of `max_inflight`, and what has to be
//! known of ConfigMaps for it.
//!
//! Pure; called by `resolve`. A ConfigMap that is not known yet is named, to be asked for. A limit
//! that cannot be known is not guessed: what has one keeps it, what never had one waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::about::About;
use super::environment::{Entry, Place};
use super::keys::Keys;
use super::kinds::{Deployment, DeploymentBody};
use super::object::{Body as _, Key};
use super::resolve::{Resolved, Resolver, Waits};
use crate::model::MAX_INFLIGHT;
use crate::state::ObjectProblem;

/// What a ConfigMap says, as far as it is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ConfigMap {
    /// The values of the keys that it was asked for; `None`: it has no such key.
    Holds(BTreeMap<Box<str>, Option<Box<str>>>),
    /// There is none.
    Missing,
    /// Why it cannot be read.
    Unreadable(String),
    /// Why there is no answer; what was known before stays.
    Unanswered(String),
}

/// What services need to know of a ConfigMap.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// The values of these keys.
    pub(super) keys: BTreeSet<Box<str>>,
    /// Whether one of them has no limit for want of it.
    pub(super) is_awaited: bool,
}

/// ConfigMaps and their keys.
pub(super) type Entries = Box<[(Key, Box<str>)]>;

/// What is remembered of one Deployment's variable.
#[derive(Debug, Default)]
pub(super) struct LimitMemory {
    /// The last good limit.
    pub(super) last: Option<u32>,
    /// Where in ConfigMaps it is, or may be.
    pub(super) entries: Entries,
    /// That of these for want of which it is not known.
    lacking: Option<Key>,
}

/// Services by the ConfigMaps that they go by.
#[derive(Debug, Default)]
pub(super) struct Readers(HashMap<Key, Option<Keys>>);

impl Readers {
    /// Notes that a service has come to go by other ConfigMaps than before.
    pub(super) fn change(&mut self, service: &Key, before: &Entries, now: &Entries) {
        if before == now {
            return;
        }
        for (map, _) in before {
            let services = self.0.get_mut(map).and_then(Option::as_mut);
            if services.is_some_and(|services| services.remove(service)) {
                self.0.remove(map);
            }
        }
        for (map, _) in now {
            Keys::add(self.0.entry(map.clone()).or_default(), service.clone());
        }
    }

    fn of(&self, map: &Key) -> impl Iterator<Item = &Key> {
        let services = self.0.get(map).into_iter().flatten();
        services.flat_map(Keys::iter)
    }
}

/// What one place says.
enum Says<'a> {
    Value(&'a str),
    Nothing,
    /// It has to be asked for first.
    Unknown,
    /// Why it cannot be known for now, and what to do about it.
    Unknowable(String, &'static str),
}

impl Resolver {
    /// What a Deployment's environment says of `max_inflight`.
    pub(super) fn limit(
        &self,
        (key, deployment): (&Key, &Deployment),
        memory: &mut LimitMemory,
        resolved: &mut Resolved,
        problems: &mut Vec<ObjectProblem>,
    ) -> Result<Option<u32>, Waits> {
        self.name_entries(key, deployment, memory, resolved);
        let kind = DeploymentBody::KIND;
        let mut wrong = |message: String, hint: &str| {
            problems.push(About { kind, key }.problem(message, hint));
        };
        for place in &deployment.max_inflight {
            let text = match place {
                Place::Literal(text) => text,
                Place::Elsewhere => {
                    wrong(
                        "the variable max_inflight comes from neither a literal nor a ConfigMap"
                            .to_owned(),
                        "write it as a literal or in a ConfigMap, or set the annotation idlefirst.dev/max-inflight",
                    );
                    return Ok(memory.last);
                }
                Place::ConfigMap(entry) => match self.entry(key, entry) {
                    Says::Value(text) => text,
                    Says::Nothing => continue,
                    Says::Unknown => {
                        memory.lacking = Some(key.beside(&entry.name));
                        return Err(Waits::Asked);
                    }
                    Says::Unknowable(message, hint) => {
                        wrong(message, hint);
                        memory.lacking = Some(key.beside(&entry.name));
                        return Err(Waits::Refused);
                    }
                },
            };
            match text.trim().parse::<u32>() {
                Ok(limit) if limit <= MAX_INFLIGHT => memory.last = Some(limit),
                _ => wrong(
                    format!(
                        "the variable max_inflight is {text:?}, which is no number from 0 to {MAX_INFLIGHT}"
                    ),
                    "write digits only; 0 is unlimited",
                ),
            }
            return Ok(memory.last);
        }
        memory.last = None;
        Ok(None)
    }

    /// Notes which ConfigMaps a Deployment goes by, and names those that are not known.
    fn name_entries(
        &self,
        key: &Key,
        deployment: &Deployment,
        memory: &mut LimitMemory,
        resolved: &mut Resolved,
    ) {
        memory.forget_entries();
        let mut entries = Vec::new();
        for place in &deployment.max_inflight {
            let Place::ConfigMap(entry) = place else {
                continue;
            };
            let map = key.beside(&entry.name);
            if matches!(self.entry(key, entry), Says::Unknown) {
                resolved.unknown_config_maps.insert(map.clone());
            }
            entries.push((map, entry.key.clone()));
        }
        memory.entries = entries.into();
    }

    /// What is known of an entry.
    fn entry(&self, key: &Key, entry: &Entry) -> Says<'_> {
        let name = &entry.name;
        let unknowable = |why: &str, hint| {
            let message = format!("ConfigMap {name}, which holds max_inflight, {why}");
            Says::Unknowable(message, hint)
        };
        match self.config_maps.get(&key.beside(name)) {
            None => Says::Unknown,
            Some(ConfigMap::Holds(entries)) => match entries.get(&entry.key) {
                None => Says::Unknown,
                Some(Some(text)) => Says::Value(text),
                Some(None) if entry.needs_key => unknowable(
                    &format!("has no key {}", entry.key),
                    "add the key; no pod starts without it",
                ),
                Some(None) => Says::Nothing,
            },
            Some(ConfigMap::Missing) if entry.needs_map => {
                unknowable("does not exist", "create it; no pod starts without it")
            }
            Some(ConfigMap::Missing) => Says::Nothing,
            Some(ConfigMap::Unreadable(why)) => unknowable(
                &format!("cannot be read: {why}"),
                "let the agent read ConfigMaps",
            ),
            Some(ConfigMap::Unanswered(why)) => unknowable(
                &format!("cannot be read: {why}"),
                "see what keeps the API from answering; it is asked again",
            ),
        }
    }

    /// What services need to know of a ConfigMap; `None`: none goes by it.
    pub(super) fn needs(&self, map: &Key) -> Option<Needs> {
        let mut needs = Needs::default();
        for service in self.readers.of(map) {
            let Some(limit) = self.limit_memory(service) else {
                continue;
            };
            let entries = limit.entries.iter().filter(|(at, _)| at == map);
            needs.keys.extend(entries.map(|(_, key)| key.clone()));
            needs.is_awaited |= limit.last.is_none() && limit.lacking.as_ref() == Some(map);
        }
        (!needs.keys.is_empty()).then_some(needs)
    }

    /// Takes in what a ConfigMap says.
    pub(super) fn hear_config_map(&mut self, map: Key, says: ConfigMap) {
        let known = self.config_maps.get_mut(&map);
        match (known, says) {
            (Some(_), ConfigMap::Unanswered(_)) => return,
            (Some(ConfigMap::Holds(known)), ConfigMap::Holds(entries)) => {
                let before = known.clone();
                known.extend(entries);
                if *known == before {
                    return;
                }
            }
            (Some(known), says) if *known == says => return,
            (_, says) => {
                self.config_maps.insert(map.clone(), says);
            }
        }
        for service in self.readers.of(&map) {
            self.store.note(service.clone());
        }
    }
}

impl LimitMemory {
    /// No ConfigMap is gone by any more.
    pub(super) fn forget_entries(&mut self) {
        self.entries = Box::default();
        self.lacking = None;
    }
}

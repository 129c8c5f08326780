//! What the environment of a Deployment's containers says of `max_inflight`.
//!
//! Pure; called by `resolve`. A ConfigMap that is not known yet is named, to be asked for.

use super::about::About;
use super::kinds::{Deployment, DeploymentBody, Limit};
use super::object::{Body as _, Key};
use super::resolve::{ConfigMap, Resolved, Resolver, Waits};
use crate::model::MAX_INFLIGHT;
use crate::state::ObjectProblem;

/// What is remembered of one Deployment's variable.
#[derive(Debug, Default)]
pub(super) struct LimitMemory {
    /// The last good limit.
    pub(super) last: Option<u32>,
    /// The ConfigMap that it is in.
    pub(super) config_map: Option<Key>,
}

impl Resolver {
    /// What a Deployment's environment says of `max_inflight`.
    pub(super) fn limit(
        &self,
        deployment: Option<(&Key, &Deployment)>,
        memory: &mut LimitMemory,
        resolved: &mut Resolved,
        problems: &mut Vec<ObjectProblem>,
    ) -> Result<Option<u32>, Waits> {
        memory.config_map = None;
        let Some((key, limit)) =
            deployment.and_then(|(key, it)| Some((key, it.max_inflight.as_ref()?)))
        else {
            memory.last = None;
            return Ok(None);
        };
        let kind = DeploymentBody::KIND;
        let mut wrong = |message: String, hint: &str| {
            problems.push(About { kind, key }.problem(message, hint));
        };
        let text = match limit {
            Limit::Literal(text) => Some(text.to_string()),
            Limit::Elsewhere => {
                wrong(
                    "the variable max_inflight comes from neither a literal nor a ConfigMap"
                        .to_owned(),
                    "write it as a literal or in a ConfigMap, or set the annotation idlefirst.dev/max-inflight",
                );
                return Ok(memory.last);
            }
            Limit::ConfigMap { name, key: entry } => {
                let at = key.beside(name);
                memory.config_map = Some(at.clone());
                match self.config_maps.get(&at) {
                    None => {
                        resolved.unknown_config_maps.insert(at);
                        return Err(Waits);
                    }
                    Some(ConfigMap::Unreadable(why) | ConfigMap::Unanswered(why)) => {
                        wrong(
                            format!(
                                "ConfigMap {name}, which holds max_inflight, cannot be read: {why}"
                            ),
                            "create it, and let the agent read ConfigMaps",
                        );
                        return Ok(memory.last);
                    }
                    Some(ConfigMap::Holds(entries)) => entries.get(&**entry).cloned(),
                }
            }
        };
        let Some(text) = text else {
            memory.last = None;
            return Ok(None);
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
        Ok(memory.last)
    }
}

//! Which leader services are to be published, and why one cannot be.
//!
//! Pure. What the API says to a publication comes back here, and is a problem of its service as
//! long as it lasts.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::super::publish::{Family, Publication, Refusals, too_long};
use super::{About, Key, Memory, ObjectProblem, Resolver, Service, Switch, main_port, model};
use crate::config::ANNOTATION_PREFIX;
use crate::model::ServiceName;
use crate::source::kubernetes::kinds::{Annotations, Deployment, DeploymentBody};
use crate::source::kubernetes::object::Body as _;

/// The annotation that has the leader of a service published.
const PUBLISH: &str = "publish-leader";

impl Resolver {
    /// What is to be published of a leader service; none if it does not ask for it.
    pub(in crate::source::kubernetes) fn publication(&self, key: &Key) -> Option<Publication> {
        let service = self.store.services.get(key)?;
        let memory = self.memories.get(key)?;
        if !memory.asks_to_publish() || too_long(key).is_some() {
            return None;
        }
        let name = ServiceName::new(&key.namespace, &key.name).ok()?;
        let made = memory.made.get(&name)?.service.as_ref()?;
        let pod = |backend: &model::Backend| {
            let pod = backend.ready.as_ref().map(|ready| ready.pod.to_string());
            (
                backend.address,
                (pod, backend.node.as_ref().map(ToString::to_string)),
            )
        };
        Some(Publication {
            uid: service.uid.to_string(),
            port: main_port(service)
                .map(|port| port.name.to_string())
                .unwrap_or_default(),
            family: family(service),
            pods: made.backends.iter().map(pod).collect(),
            name,
        })
    }

    /// Services of which it is not known yet whether they are to be published.
    pub(in crate::source::kubernetes) fn undecided(&self) -> BTreeSet<Key> {
        let memories = self.memories.iter();
        let undecided = memories.filter(|(_, memory)| memory.waits && !memory.made.has_services());
        undecided.map(|(key, _)| key.clone()).collect()
    }

    /// Takes in what the API refuses to have published.
    pub(in crate::source::kubernetes) fn hear_refusals(&mut self, refusals: Refusals) {
        let before = std::mem::replace(&mut self.refusals, refusals);
        let keys: BTreeSet<_> = before.keys().chain(self.refusals.keys()).cloned().collect();
        for key in keys {
            if before.get(&key) != self.refusals.get(&key) {
                self.store.note(key);
            }
        }
    }

    /// Why a service that asks for it is not published, or may not be.
    pub(super) fn say_unpublished(
        &self,
        key: &Key,
        memory: &Memory,
        is_leader: bool,
        problems: &mut Vec<ObjectProblem>,
    ) {
        if !memory.asks_to_publish() {
            return;
        }
        let (message, hint) = if !is_leader {
            (
                "its strategy is not leader, so there is no leader to publish".to_owned(),
                "set idlefirst.dev/strategy: leader, or take the annotation away",
            )
        } else if let Some(name) = too_long(key) {
            (
                format!(
                    "no Service can be called {name}, which is {} bytes long, so its leader \
                     cannot be published",
                    name.len()
                ),
                "give the Service a name of at most 56 bytes",
            )
        } else if let Some(refusal) = self.refusals.get(key) {
            (
                format!("the API refuses that its leader is published: {refusal}"),
                "install the component publish-leader, which permits it",
            )
        } else {
            return;
        };
        problems.push(ObjectProblem {
            annotation: Some(format!("{ANNOTATION_PREFIX}{PUBLISH}")),
            ..About::service(key).problem(message, hint)
        });
    }
}

impl Memory {
    /// Reads the switches of a Service and its Deployment; `below_stays`: what the Deployment said
    /// counts though it is gone.
    pub(super) fn read_publish(
        &mut self,
        about: &About<'_>,
        service: &Service,
        deployment: Option<(&Key, &Deployment)>,
        below_stays: bool,
        problems: &mut Vec<ObjectProblem>,
    ) {
        let own = switch(&service.annotations);
        self.publish = own.or_last(self.publish);
        if own == Switch::Bad {
            problems.push(about.no_switch(PUBLISH));
        }
        let Some((key, deployment)) = deployment else {
            if !below_stays {
                self.publish_below = Switch::Absent;
            }
            return;
        };
        let below = switch(&deployment.annotations);
        self.publish_below = below.or_last(self.publish_below);
        if below == Switch::Bad {
            let kind = DeploymentBody::KIND;
            problems.push(About { kind, key }.no_switch(PUBLISH));
        }
    }

    fn asks_to_publish(&self) -> bool {
        let turned = self.publish.turned().or(self.publish_below.turned());
        turned.unwrap_or(false)
    }
}

fn switch(annotations: &Annotations) -> Switch {
    let found = annotations.iter().find(|(name, _)| **name == *PUBLISH);
    Switch::read(found.map(|(_, value)| &**value))
}

/// The family of the pods' addresses: IPv4 where that is dialled.
fn family(service: &Service) -> Option<Family> {
    let addresses = service
        .cluster_ips
        .iter()
        .filter_map(|text| text.parse().ok());
    let mut families = addresses.map(|address: IpAddr| Family::of(&SocketAddr::new(address, 0)));
    let first = families.next()?;
    Some(families.fold(first, Family::min))
}

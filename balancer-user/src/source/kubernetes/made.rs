//! What was made of one Service, as `resolve` remembers it.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::model::{self, ServiceName};
use crate::state::ObjectProblem;

/// One service, and what is wrong with the objects that it is made of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Made {
    pub(super) service: Option<Arc<model::Service>>,
    pub(super) problems: Vec<ObjectProblem>,
}

/// The services that a Service makes, in the order of its ports. Nearly always it is one, which is
/// kept in place.
#[derive(Debug, Default)]
pub(super) struct AllMade(SmallVec<[(ServiceName, Made); 1]>);

impl AllMade {
    pub(super) fn get(&self, name: &ServiceName) -> Option<&Made> {
        self.iter()
            .find(|(other, _)| *other == name)
            .map(|(_, made)| made)
    }

    pub(super) fn get_mut(&mut self, name: &ServiceName) -> Option<&mut Made> {
        let mut all = self.0.iter_mut();
        all.find(|(other, _)| other == name).map(|(_, made)| made)
    }

    /// Adds one, in place of an earlier one by this name.
    pub(super) fn put(&mut self, name: ServiceName, made: Made) {
        match self.get_mut(&name) {
            Some(earlier) => *earlier = made,
            None => self.0.push((name, made)),
        }
    }

    /// Whether any of them has a backend.
    pub(super) fn has_backends(&self) -> bool {
        let mut services = self.iter().filter_map(|(_, made)| made.service.as_ref());
        services.any(|service| !service.backends.is_empty())
    }

    /// Whether anything is balanced.
    pub(super) fn has_services(&self) -> bool {
        self.iter().any(|(_, made)| made.service.is_some())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&ServiceName, &Made)> {
        self.0.iter().map(|(name, made)| (name, made))
    }
}

//! Words about objects: what is wrong with one, and what to do about it.
//!
//! Pure; called by `resolve`, `limit`, `endpoints` and `claims`.

use std::net::SocketAddr;

use super::kinds::{Service, ServiceBody};
use super::object::{Body as _, Key};
use super::store::Unreadable;
use crate::config::{ANNOTATION_PREFIX, AnnotationProblem};
use crate::model::{MAX_BACKENDS_PER_SERVICE, MAX_SERVICES_PER_BACKEND};
use crate::state::ObjectProblem;

/// Words about one object.
pub(super) struct About<'a> {
    pub(super) kind: &'static str,
    pub(super) key: &'a Key,
}

impl<'a> About<'a> {
    /// About a Service.
    pub(super) fn service(key: &'a Key) -> Self {
        Self {
            kind: ServiceBody::KIND,
            key,
        }
    }

    pub(super) fn problem(
        &self,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> ObjectProblem {
        ObjectProblem {
            kind: self.kind.to_owned(),
            namespace: self.key.namespace.to_string(),
            name: self.key.name.to_string(),
            annotation: None,
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub(super) fn annotation(&self, problem: AnnotationProblem) -> ObjectProblem {
        ObjectProblem {
            annotation: Some(problem.annotation),
            ..self.problem(problem.message, problem.hint)
        }
    }

    /// About an annotation that is neither `true` nor `false`.
    pub(super) fn no_switch(&self, annotation: &str) -> ObjectProblem {
        ObjectProblem {
            annotation: Some(format!("{ANNOTATION_PREFIX}{annotation}")),
            ..self.problem(
                "it is neither true nor false",
                "write \"true\" or \"false\"; what it said before stays in force",
            )
        }
    }

    pub(super) fn unreadable(&self, unreadable: &Unreadable) -> ObjectProblem {
        self.problem(
            format!("it cannot be read: {}", unreadable.why),
            "correct it; what was read of it before stays in force",
        )
    }

    /// Why nothing can be made of this Service at all.
    pub(super) fn unfit(&self, service: &Service, by_pods: bool) -> Option<ObjectProblem> {
        if service.is_external_name {
            let message =
                "it is an ExternalName, which is a name and no address that could be steered";
            return Some(self.problem(message, "balance the Service that the name stands for"));
        }
        if service.ports.is_empty() {
            return Some(self.problem(
                "it has no TCP port",
                "add one; UDP and SCTP are not balanced",
            ));
        }
        if service.cluster_ips.is_empty() && !by_pods {
            let message = "it is headless, so there is no cluster IP to steer from";
            let hint = "set idlefirst.dev/intercept: pods to steer what dials its pods, or give it a cluster IP";
            return Some(self.problem(message, hint));
        }
        None
    }

    pub(super) fn crowded(&self, backend: SocketAddr) -> ObjectProblem {
        self.problem(
            format!(
                "its endpoint {backend} is in {MAX_SERVICES_PER_BACKEND} services already, and no \
                 more fit; kube-proxy serves it"
            ),
            "balance fewer of the Services that select this pod",
        )
    }

    pub(super) fn too_many(&self, backends: usize) -> ObjectProblem {
        self.problem(
            format!(
                "it has {backends} endpoints, and a service has at most \
                 {MAX_BACKENDS_PER_SERVICE}; those of before stay as far as they are still there"
            ),
            "split the Service",
        )
    }
}

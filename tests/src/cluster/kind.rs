//! The kinds that the API server knows, and the paths that lead to them.
//!
//! Kinds are built in, as in a cluster without custom resources: an object of any other kind is
//! refused, and a path to one is a 404. Called by everything in this module.

use std::{fmt, iter};

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// `v1` ConfigMap.
    ConfigMap,
    /// `v1` Event, the old kind.
    CoreEvent,
    /// `apps/v1` Deployment.
    Deployment,
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice,
    /// `events.k8s.io/v1` Event.
    Event,
    /// `coordination.k8s.io/v1` Lease.
    Lease,
    /// `v1` Namespace.
    Namespace,
    /// `v1` Node.
    Node,
    /// `v1` Pod.
    Pod,
    /// `v1` Service.
    Service,
}

impl Kind {
    /// All of them; [`Kind::index`] is the place in it.
    pub const ALL: [Self; 10] = [
        Self::ConfigMap,
        Self::CoreEvent,
        Self::Deployment,
        Self::EndpointSlice,
        Self::Event,
        Self::Lease,
        Self::Namespace,
        Self::Node,
        Self::Pod,
        Self::Service,
    ];

    /// The kind of an object with these two fields.
    pub fn of(api_version: &str, name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.api_version() == api_version && kind.name() == name)
    }

    /// What objects have as `kind`.
    pub fn name(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::CoreEvent | Self::Event => "Event",
            Self::Deployment => "Deployment",
            Self::EndpointSlice => "EndpointSlice",
            Self::Lease => "Lease",
            Self::Namespace => "Namespace",
            Self::Node => "Node",
            Self::Pod => "Pod",
            Self::Service => "Service",
        }
    }

    /// What paths call it.
    pub fn plural(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmaps",
            Self::CoreEvent | Self::Event => "events",
            Self::Deployment => "deployments",
            Self::EndpointSlice => "endpointslices",
            Self::Lease => "leases",
            Self::Namespace => "namespaces",
            Self::Node => "nodes",
            Self::Pod => "pods",
            Self::Service => "services",
        }
    }

    /// What objects have as `apiVersion`.
    pub fn api_version(self) -> &'static str {
        match self {
            Self::Deployment => "apps/v1",
            Self::EndpointSlice => "discovery.k8s.io/v1",
            Self::Event => "events.k8s.io/v1",
            Self::Lease => "coordination.k8s.io/v1",
            _ => "v1",
        }
    }

    /// The API group; empty for the core one.
    pub fn group(self) -> &'static str {
        self.api_version()
            .split_once('/')
            .map_or("", |(group, _)| group)
    }

    /// Whether its objects are in namespaces.
    pub fn is_namespaced(self) -> bool {
        !matches!(self, Self::Namespace | Self::Node)
    }

    /// Its place in [`Kind::ALL`].
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl IntoIterator for Kind {
    type Item = Self;
    type IntoIter = iter::Once<Self>;

    /// Just it, for what takes several.
    fn into_iter(self) -> Self::IntoIter {
        iter::once(self)
    }
}

impl fmt::Display for Kind {
    /// As in messages of an API server: `endpointslices.discovery.k8s.io`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural())?;
        match self.group() {
            "" => Ok(()),
            group => write!(f, ".{group}"),
        }
    }
}

/// Where a path to objects leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) kind: Kind,
    /// `None`: all of them, or a kind without.
    pub(super) namespace: Option<String>,
    /// `None`: the collection.
    pub(super) name: Option<String>,
}

impl Target {
    /// Takes a path apart; `None` if it leads to no objects.
    pub(super) fn of(path: &str) -> Option<Self> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (api_version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ((*version).to_owned(), rest),
            ["apis", group, version, rest @ ..] => (format!("{group}/{version}"), rest),
            _ => return None,
        };
        let kind = |plural: &str| {
            Kind::ALL
                .into_iter()
                .find(|kind| kind.api_version() == api_version && kind.plural() == plural)
        };
        let (kind, namespace, name) = match *rest {
            ["namespaces", namespace, plural] => (kind(plural)?, Some(namespace), None),
            ["namespaces", namespace, plural, name] => (kind(plural)?, Some(namespace), Some(name)),
            [plural] => (kind(plural)?, None, None),
            [plural, name] => (kind(plural)?, None, Some(name)),
            _ => return None,
        };
        // One object of a namespaced kind has no path without its namespace, nor the reverse.
        let agrees = if kind.is_namespaced() {
            namespace.is_some() || name.is_none()
        } else {
            namespace.is_none()
        };
        agrees.then(|| Self {
            kind,
            namespace: namespace.map(str::to_owned),
            name: name.map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_place() {
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind.index(), place, "{kind}");
            assert_eq!(Kind::of(kind.api_version(), kind.name()), Some(kind));
        }
    }

    #[test]
    fn paths_lead_to_objects_and_collections() {
        let target = |kind, namespace: Option<&str>, name: Option<&str>| {
            Some(Target {
                kind,
                namespace: namespace.map(str::to_owned),
                name: name.map(str::to_owned),
            })
        };
        for (path, expected) in [
            ("/api/v1/pods", target(Kind::Pod, None, None)),
            (
                "/api/v1/namespaces/a/pods",
                target(Kind::Pod, Some("a"), None),
            ),
            ("/api/v1/namespaces", target(Kind::Namespace, None, None)),
            (
                "/api/v1/namespaces/a",
                target(Kind::Namespace, None, Some("a")),
            ),
            ("/api/v1/nodes/n", target(Kind::Node, None, Some("n"))),
            (
                "/apis/coordination.k8s.io/v1/namespaces/a/leases/l",
                target(Kind::Lease, Some("a"), Some("l")),
            ),
            ("/api/v1/namespaces/a/nodes", None),
            ("/api/v1/pods/p", None),
            ("/apis/v1/pods", None),
            ("/api/v1/namespaces/a/pods/p/log", None),
            ("/version", None),
        ] {
            assert_eq!(Target::of(path), expected, "{path}");
        }
    }
}

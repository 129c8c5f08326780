//! Which backends are near: on the agent's own node, or in its zone.

use std::sync::Arc;

use balancer_common::service::CIRCLES;

use crate::model::{Backend, Locality};

/// Where the agent is, and with it the clients that it serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Here {
    /// Its node.
    pub node: Option<Arc<str>>,
    /// The node's zone.
    pub zone: Option<Arc<str>>,
}

/// How near a backend is: 0 on the node, 1 in the zone, [`FAR`] elsewhere.
pub type Circle = usize;

/// The circle of everything that is not near, and of all backends of a service without locality.
pub const FAR: Circle = CIRCLES;

impl Here {
    /// The circle in which a backend of a service with this locality stands.
    pub fn circle(&self, backend: &Backend, locality: Locality) -> Circle {
        let is_same =
            |ours: &Option<Arc<str>>, its: &Option<Arc<str>>| ours.is_some() && ours == its;
        if locality == Locality::None {
            return FAR;
        }
        if locality == Locality::PreferNode && is_same(&self.node, &backend.node) {
            return 0;
        }
        if is_same(&self.zone, &backend.zone)
            || locality == Locality::PreferZone && is_same(&self.node, &backend.node)
        {
            return 1;
        }
        FAR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_comes_before_the_zone_only_if_it_is_preferred() {
        let here = Here {
            node: Some("n1".into()),
            zone: Some("z1".into()),
        };
        let backend = |node: Option<&str>, zone: Option<&str>| Backend {
            node: node.map(Into::into),
            zone: zone.map(Into::into),
            ..Backend::at("10.1.0.2:80".parse().unwrap())
        };
        let same_node = backend(Some("n1"), Some("z1"));
        let same_zone = backend(Some("n2"), Some("z1"));
        let elsewhere = backend(Some("n2"), Some("z2"));
        let unknown = backend(None, None);
        let circles = |locality| {
            [&same_node, &same_zone, &elsewhere, &unknown]
                .map(|backend| here.circle(backend, locality))
        };
        assert_eq!(circles(Locality::PreferNode), [0, 1, FAR, FAR]);
        assert_eq!(circles(Locality::PreferZone), [1, 1, FAR, FAR]);
        assert_eq!(circles(Locality::None), [FAR; 4]);
        // Who does not know where it is, is near to nobody.
        assert_eq!(Here::default().circle(&unknown, Locality::PreferZone), FAR);
    }
}

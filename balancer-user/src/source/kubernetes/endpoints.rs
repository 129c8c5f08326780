//! From EndpointSlices to backends: which pods may be used now, and where they are.
//!
//! Pure; called by `resolve`. A pod that is in two slices is one backend; of a pod with addresses
//! of both families only one counts, so that its slots are counted once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::kinds::{Endpoint, Phase, Pod, Slice};
use super::object::Key;
use super::resolve::About;
use super::store::Table;
use crate::model::{Backend, Readiness, canonical, check_backend};
use crate::state::ObjectProblem;

/// The Pods of a leader service.
#[derive(Debug)]
pub(super) enum Pods {
    /// What their watch has told.
    Followed(Table<Pod>),
    /// The API does not give them; endpoints have to do.
    Refused,
}

impl Pods {
    /// Whether they have not all been told yet.
    pub(super) fn are_awaited(&self) -> bool {
        matches!(self, Self::Followed(pods) if !pods.is_synced)
    }
}

/// What backends are looked for.
pub(super) struct Wanted<'a> {
    /// The name of the port.
    pub(super) port: &'a str,
    /// Whether clients dial IPv4, and whether they dial IPv6.
    pub(super) families: (bool, bool),
    /// The agent's own zone.
    pub(super) zone: Option<&'a Arc<str>>,
    /// For a leader service, its Pods.
    pub(super) pods: Option<&'a Pods>,
}

/// An endpoint as it may be used.
struct Found<'a> {
    endpoint: &'a Endpoint,
    phase: Phase,
    ready: Option<Arc<Readiness>>,
}

impl Wanted<'_> {
    /// The backends in these slices, by address.
    pub(super) fn backends<'a>(
        &self,
        slices: impl Iterator<Item = (&'a Key, &'a Arc<Slice>)>,
        problems: &mut Vec<ObjectProblem>,
    ) -> Vec<Backend> {
        let mut found: BTreeMap<SocketAddr, Found<'a>> = BTreeMap::new();
        for (key, slice) in slices {
            self.complain(key, slice, problems);
            let port = slice.ports.iter().find(|port| &*port.name == self.port);
            let Some(port) = port else { continue };
            for endpoint in &slice.endpoints {
                let address = canonical(SocketAddr::new(endpoint.address, port.number));
                if let Err(fault) = check_backend(address) {
                    problems.push(ObjectProblem {
                        kind: "EndpointSlice".to_owned(),
                        ..About { key }.problem(
                            format!("{address} cannot be a backend: {fault}"),
                            "an endpoint is a pod's own address",
                        )
                    });
                    continue;
                }
                let (phase, ready) = self.judge(key, endpoint);
                let better = found.get(&address).is_none_or(|other| phase < other.phase);
                if better {
                    found.insert(
                        address,
                        Found {
                            endpoint,
                            phase,
                            ready,
                        },
                    );
                }
            }
        }
        self.choose_family(&mut found);
        let best = found.values().map(|found| found.phase).min();
        let best = best.filter(|phase| *phase != Phase::Unusable);
        let usable = found
            .into_iter()
            .filter(|(_, found)| Some(found.phase) == best);
        usable
            .map(|(address, found)| self.backend(address, found))
            .collect()
    }

    fn complain(&self, key: &Key, slice: &Slice, problems: &mut Vec<ObjectProblem>) {
        if slice.bad_addresses > 0 {
            problems.push(ObjectProblem {
                kind: "EndpointSlice".to_owned(),
                ..About { key }.problem(
                    format!(
                        "{} of its endpoints have no IP address",
                        slice.bad_addresses
                    ),
                    "give each endpoint the pod's IP address; the others are used",
                )
            });
        }
    }

    /// How usable an endpoint is, by its slice and by its Pod, of which the worse holds: whichever
    /// watch is the first to tell that it goes is believed.
    fn judge(&self, key: &Key, endpoint: &Endpoint) -> (Phase, Option<Arc<Readiness>>) {
        let (Some(Pods::Followed(pods)), Some(name)) = (self.pods, &endpoint.pod) else {
            return (endpoint.phase, None);
        };
        let Some(pod) = pods.get(&key.beside(name)) else {
            return (Phase::Unusable, None);
        };
        match pod.ready_since {
            Some(since_unix_seconds) => {
                let pod = Arc::from(&**name);
                (
                    endpoint.phase,
                    Some(Arc::new(Readiness {
                        since_unix_seconds,
                        pod,
                    })),
                )
            }
            None if pod.is_leaving => (endpoint.phase.max(Phase::ServingTerminating), None),
            None => (Phase::Unusable, None),
        }
    }

    /// IPv4 where IPv4 clients dial: an IPv6 client reaches it by its mapped address, the other way
    /// round there is none.
    fn choose_family(&self, found: &mut BTreeMap<SocketAddr, Found<'_>>) {
        let (dials_v4, dials_v6) = self.families;
        let has_v4 = found.keys().any(SocketAddr::is_ipv4);
        let has_v6 = found.keys().any(SocketAddr::is_ipv6);
        let takes_v4 = dials_v4 || !has_v6 || (!dials_v6 && has_v4);
        found.retain(|address, _| address.is_ipv4() == takes_v4);
    }

    fn backend(&self, address: SocketAddr, found: Found<'_>) -> Backend {
        let endpoint = found.endpoint;
        // Whom the control plane has allotted an endpoint to goes before where it is.
        let zone = match (&endpoint.for_zones, self.zone) {
            (Some(zones), Some(own)) if zones.contains(own) => Some(own.clone()),
            (Some(zones), _) => zones.first().cloned(),
            (None, _) => endpoint.zone.clone(),
        };
        Backend {
            node: endpoint.node.clone(),
            zone,
            ready: found.ready,
            ..Backend::at(address)
        }
    }
}

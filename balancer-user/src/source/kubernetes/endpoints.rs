//! From EndpointSlices to backends: which pods may be used now, and where they are.
//!
//! Pure; called by `resolve`. A pod that is in two slices is one backend; of a pod with addresses
//! of both families only one counts, so that its slots are counted once.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::about::About;
use super::kinds::{Endpoint, Phase, Pod, Slice, SliceBody};
use super::object::{Body as _, Key};
use super::store::{Table, Told, Unreadable};
use crate::model::{Backend, Readiness, canonical, check_backend};
use crate::state::ObjectProblem;

/// The Pods of a leader service.
#[derive(Debug, Default)]
pub(super) struct Pods {
    /// What their watch has told.
    table: Table<Pod>,
    /// The API does not give them; until it does, endpoints have to do.
    is_refused: bool,
}

impl Pods {
    /// Those that nobody can ask for.
    pub(super) fn refused() -> Self {
        Self {
            is_refused: true,
            ..Self::default()
        }
    }

    /// Whether they have not all been told yet.
    pub(super) fn are_awaited(&self) -> bool {
        !self.table.is_synced && !self.is_refused
    }

    /// Notes that they cannot be had for now. Gives whether that changes anything.
    pub(super) fn refuse(&mut self) -> bool {
        let was_awaited = self.are_awaited();
        self.is_refused = true;
        was_awaited
    }

    /// Takes in what their watch tells. Gives whether it changes anything.
    pub(super) fn hear(&mut self, told: Told<Pod>) -> bool {
        let was_synced = self.table.is_synced;
        let differences = self.table.hear(told);
        self.table.is_synced && !(was_synced && differences.is_empty())
    }

    /// Those that cannot be read now.
    pub(super) fn unreadable(&self) -> &BTreeMap<Key, Unreadable> {
        self.table.unreadable()
    }
}

/// What backends are looked for.
pub(super) struct Wanted<'a> {
    /// The name of the port.
    pub(super) port: &'a str,
    /// Whether clients dial IPv4, and whether they dial IPv6.
    pub(super) families: (bool, bool),
    /// Whether clients dial the pods' own addresses.
    pub(super) by_pods: bool,
    /// The agent's own zone.
    pub(super) zone: Option<&'a Arc<str>>,
    /// The only node whose pods may be used; `None`: those of any.
    pub(super) node: Option<&'a str>,
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
            let kind = SliceBody::KIND;
            let about = About { kind, key };
            if slice.bad_addresses > 0 {
                problems.push(about.no_address(slice.bad_addresses));
            }
            let port = slice.ports.iter().find(|port| &*port.name == self.port);
            let Some(port) = port else { continue };
            for endpoint in &slice.endpoints {
                if self.node.is_some() && endpoint.node.as_deref() != self.node {
                    continue;
                }
                let address = canonical(SocketAddr::new(endpoint.address, port.number));
                if let Some(fault) = unfit(address) {
                    problems.push(about.problem(
                        format!("{address} cannot be a backend: {fault}"),
                        "an endpoint is a pod's own address",
                    ));
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
        let others = self.choose_family(&mut found);
        let best = found.values().map(|found| found.phase).min();
        let best = best.filter(|phase| *phase != Phase::Unusable);
        let usable = found
            .into_iter()
            .filter(|(_, found)| Some(found.phase) == best);
        let backends = usable.map(|(address, found)| {
            let also = found
                .endpoint
                .pod
                .as_ref()
                .and_then(|pod| others.get(&**pod));
            self.backend(address, found, also.copied())
        });
        let mut backends: Vec<_> = backends.collect();
        backends.shrink_to_fit();
        backends
    }

    /// How usable an endpoint is, by its slice and by its Pod, of which the worse holds: whichever
    /// watch is the first to tell that it goes is believed.
    fn judge(&self, key: &Key, endpoint: &Endpoint) -> (Phase, Option<Arc<Readiness>>) {
        let followed = self.pods.filter(|pods| pods.table.is_synced);
        let (Some(pods), Some(name)) = (followed, &endpoint.pod) else {
            return (endpoint.phase, None);
        };
        let Some(pod) = pods.table.get(&key.beside(name)) else {
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
    /// round there is none. Gives the addresses of the other family where they may be dialled, by
    /// their pods.
    fn choose_family<'a>(
        &self,
        found: &mut BTreeMap<SocketAddr, Found<'a>>,
    ) -> HashMap<&'a str, SocketAddr> {
        let (dials_v4, dials_v6) = self.families;
        let has_v4 = found.keys().any(SocketAddr::is_ipv4);
        let has_v6 = found.keys().any(SocketAddr::is_ipv6);
        let takes_v4 = dials_v4 || !has_v6 || (!dials_v6 && has_v4);
        let is_chosen = |address: &SocketAddr| address.is_ipv4() == takes_v4;
        let all = std::mem::take(found).into_iter();
        let (chosen, others) =
            all.partition::<BTreeMap<_, _>, _>(|(address, _)| is_chosen(address));
        *found = chosen;
        let dialled = others.into_iter().filter(|_| self.by_pods);
        dialled
            .filter_map(|(address, found)| Some((&**found.endpoint.pod.as_ref()?, address)))
            .collect()
    }

    fn backend(&self, address: SocketAddr, found: Found<'_>, also: Option<SocketAddr>) -> Backend {
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
            also: also.map(Box::new),
            ..Backend::at(address)
        }
    }
}

impl About<'_> {
    fn no_address(&self, endpoints: u32) -> ObjectProblem {
        self.problem(
            format!("{endpoints} of its endpoints have no IP address"),
            "give each endpoint the pod's IP address; the others are used",
        )
    }
}

/// Why no pod can have this address. The API refuses such endpoints too; what gets past it must
/// not lead to the node itself, or nowhere.
fn unfit(address: SocketAddr) -> Option<String> {
    if let Err(fault) = check_backend(address) {
        return Some(fault.to_string());
    }
    let is_link_local = match address.ip() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    match address.ip() {
        ip if ip.is_loopback() => Some("a loopback address is the client's own".to_owned()),
        _ if is_link_local => {
            Some("a link-local address means another host on each link".to_owned())
        }
        _ => None,
    }
}

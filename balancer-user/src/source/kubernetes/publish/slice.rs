//! The slice that names a leader: what it should say, and whether one that is there says it.
//!
//! Pure. Called by the publisher, and by whoever says what is to be published.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::model::ServiceName;
use crate::source::kubernetes::FIELD_MANAGER_DOMAIN;
use crate::source::kubernetes::kinds::{Endpoint, Phase, Slice};
use crate::source::kubernetes::object::Key;

/// What the slice is called, after the Service.
const SLICE_SUFFIX: &str = "-idlefirst-leader";

/// The Service that the slice is for, after the one that is led.
const SERVICE_SUFFIX: &str = "-leader";

/// Bytes in a label's value at most, as the API has it.
const MAX_LABEL_BYTES: usize = 63;

/// The slice of a Service.
pub(super) fn slice_of(service: &Key) -> Key {
    service.beside(&format!("{}{SLICE_SUFFIX}", service.name))
}

/// The Service whose slice this is by its name.
pub(super) fn service_of(slice: &Key) -> Option<Key> {
    let service = slice.name.strip_suffix(SLICE_SUFFIX)?;
    Some(slice.beside(service))
}

/// The Service that a slice would be for, if there can be none by that name.
pub(in crate::source::kubernetes) fn too_long(service: &Key) -> Option<String> {
    let name = led_by(service);
    (name.len() > MAX_LABEL_BYTES).then_some(name)
}

fn led_by(service: &Key) -> String {
    format!("{}{SERVICE_SUFFIX}", service.name)
}

/// What kind of addresses a slice has. That of one that is there cannot be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::source::kubernetes) enum Family {
    V4,
    V6,
}

impl Family {
    pub(in crate::source::kubernetes) fn of(address: &SocketAddr) -> Self {
        match address.is_ipv6() {
            true => Self::V6,
            false => Self::V4,
        }
    }
}

/// One leader service to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source::kubernetes) struct Publication {
    pub(in crate::source::kubernetes) name: ServiceName,
    pub(in crate::source::kubernetes) uid: String,
    /// The name of the port that is led; empty: it has none.
    pub(in crate::source::kubernetes) port: String,
    /// That of its pods' addresses, by its cluster IPs; `None`: it has none.
    pub(in crate::source::kubernetes) family: Option<Family>,
    /// What pods its addresses are of, and on what nodes.
    pub(in crate::source::kubernetes) pods: BTreeMap<SocketAddr, (Option<String>, Option<String>)>,
}

/// What a slice says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts {
    uid: String,
    port: String,
    family: Family,
    /// `None`: nobody leads.
    pub(super) leader: Option<SocketAddr>,
    pod: Option<String>,
    node: Option<String>,
    /// The port of the leader, or of any other pod; `None`: there is none.
    number: Option<u16>,
}

impl Facts {
    /// `None`: it is not known yet what kind of addresses the slice will have.
    pub(super) fn of(publication: &Publication, leader: Option<SocketAddr>) -> Option<Self> {
        let known = leader.or_else(|| publication.pods.keys().next().copied());
        let pod = leader.and_then(|leader| publication.pods.get(&leader));
        let (pod, node) = pod.cloned().unwrap_or_default();
        Some(Self {
            uid: publication.uid.clone(),
            port: publication.port.clone(),
            family: known.as_ref().map(Family::of).or(publication.family)?,
            leader,
            pod,
            node,
            number: known.map(|address| address.port()),
        })
    }

    /// The slice of a service as it should be.
    pub(super) fn body(&self, key: &Key, slice: &Key) -> Value {
        let family = match self.family {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        };
        let port = |number: u16| json!({"name": self.port, "port": number, "protocol": "TCP"});
        let endpoint = |address: SocketAddr| {
            let mut endpoint = json!({
                "addresses": [address.ip().to_string()],
                "conditions": {"ready": true, "serving": true, "terminating": false},
            });
            if let Some(node) = &self.node {
                endpoint["nodeName"] = node.as_str().into();
            }
            if let Some(pod) = &self.pod {
                endpoint["targetRef"] =
                    json!({"kind": "Pod", "namespace": &*key.namespace, "name": pod});
            }
            endpoint
        };
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": &*slice.name,
                "namespace": &*slice.namespace,
                "labels": {
                    "kubernetes.io/service-name": led_by(key),
                    "endpointslice.kubernetes.io/managed-by": FIELD_MANAGER_DOMAIN,
                },
                "ownerReferences": [{
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": &*key.name,
                    "uid": self.uid,
                }],
            },
            "addressType": family,
            "endpoints": self.leader.map(endpoint).into_iter().collect::<Vec<_>>(),
            "ports": self.number.map(port).into_iter().collect::<Vec<_>>(),
        })
    }

    /// Whether the slice of a service, as it was found, says this.
    pub(super) fn are_said(&self, key: &Key, found: &Slice) -> bool {
        let is_port =
            |(name, number): (&str, u16)| name == self.port && Some(number) == self.number;
        let mut ports = found.ports.iter().map(|port| (&*port.name, port.number));
        let is_leader = |endpoint: &Endpoint| {
            Some(endpoint.address) == self.leader.map(|leader| leader.ip())
                && endpoint.phase == Phase::Ready
                && endpoint.node.as_deref() == self.node.as_deref()
                && endpoint.pod.as_deref() == self.pod.as_deref()
        };
        *found.service == *led_by(key)
            && found.bad_addresses == 0
            && found.endpoints.len() == usize::from(self.leader.is_some())
            && found.endpoints.iter().all(is_leader)
            && found.ports.len() == usize::from(self.number.is_some())
            && ports.all(is_port)
    }
}

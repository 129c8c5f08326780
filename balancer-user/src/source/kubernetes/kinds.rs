//! What is read of each kind, and the compact shape in which it is kept: of a hundred thousand
//! endpoints a few megabytes remain.
//!
//! Pure. `watch` turns what it reads into these; `store` keeps them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

use super::environment::{Container, Place, places};
use super::object::Body;
use super::texts::Texts;
use crate::config::ANNOTATION_PREFIX;

/// The label by which faas-netes marks what belongs to a function.
const FUNCTION_LABEL: &str = "faas_function";

/// The annotation that has a service balanced that is no function.
pub(super) const ENABLED: &str = "enabled";

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Labelled {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

impl Labelled {
    fn own_annotations(&self) -> Annotations {
        let own = |(name, value): (&String, &String)| {
            Some((
                name.strip_prefix(ANNOTATION_PREFIX)?.into(),
                value.as_str().into(),
            ))
        };
        self.annotations.iter().filter_map(own).collect()
    }

    fn asks(&self) -> Asks {
        let enabled = self
            .annotations
            .get(&format!("{ANNOTATION_PREFIX}{ENABLED}"));
        Asks {
            is_function: self.labels.contains_key(FUNCTION_LABEL),
            enabled: Switch::read(enabled.map(String::as_str)),
        }
    }
}

/// Annotations of ours, without their prefix.
pub(super) type Annotations = Box<[(Box<str>, Box<str>)]>;

/// Pairs of a label's name and value.
pub(super) type Labels = Box<[(Arc<str>, Arc<str>)]>;

/// Whether an object asks to be balanced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Asks {
    pub(super) is_function: bool,
    /// What the annotation says.
    pub(super) enabled: Switch,
}

/// An annotation that is `true` or `false`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Switch {
    /// There is none.
    #[default]
    Absent,
    On,
    Off,
    /// It says something else.
    Bad,
}

impl Switch {
    pub(super) fn read(value: Option<&str>) -> Self {
        match value {
            None => Self::Absent,
            Some("true") => Self::On,
            Some("false") => Self::Off,
            Some(_) => Self::Bad,
        }
    }

    /// What it says now, or if that is bad, what it said last.
    pub(super) fn or_last(self, last: Self) -> Self {
        match self {
            Self::Bad => last,
            good => good,
        }
    }

    /// Which way it is turned, if it is.
    pub(super) fn turned(self) -> Option<bool> {
        match self {
            Self::Absent | Self::Bad => None,
            Self::On => Some(true),
            Self::Off => Some(false),
        }
    }
}

/// `Service`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceBody {
    metadata: Labelled,
    spec: ServiceSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ServiceSpec {
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(rename = "clusterIP")]
    cluster_ip: Option<String>,
    #[serde(rename = "clusterIPs")]
    cluster_ips: Vec<String>,
    internal_traffic_policy: Option<String>,
    ports: Vec<ServicePort>,
    selector: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ServicePort {
    name: Option<String>,
    port: i64,
    protocol: Option<String>,
}

impl Body for ServiceBody {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Service";
    const PLURAL: &'static str = "services";
}

/// A Service as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) asks: Asks,
    pub(super) annotations: Annotations,
    pub(super) uid: Box<str>,
    pub(super) is_external_name: bool,
    /// Whether only pods of the client's own node serve it (`internalTrafficPolicy: Local`).
    pub(super) is_local: bool,
    /// As they are written, without `None` and empty ones.
    pub(super) cluster_ips: Box<[Box<str>]>,
    /// The TCP ports.
    pub(super) ports: Box<[Port]>,
    pub(super) selector: Labels,
}

/// A port of a Service or of a slice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Port {
    /// Empty: it has none.
    pub(super) name: Arc<str>,
    pub(super) number: u16,
}

impl ServiceBody {
    pub(super) fn kept(self, uid: Option<String>, texts: &mut Texts) -> Service {
        let spec = self.spec;
        let mut cluster_ips = spec.cluster_ips;
        if cluster_ips.is_empty() {
            cluster_ips.extend(spec.cluster_ip);
        }
        cluster_ips.retain(|text| !text.is_empty() && text != "None");
        let ports = spec.ports.into_iter().filter(|port| is_tcp(&port.protocol));
        Service {
            asks: self.metadata.asks(),
            annotations: self.metadata.own_annotations(),
            uid: uid.unwrap_or_default().into(),
            is_external_name: spec.kind.as_deref() == Some("ExternalName"),
            is_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
            cluster_ips: cluster_ips.into_iter().map(Into::into).collect(),
            ports: ports
                .filter_map(|port| texts.port(port.name, port.port))
                .collect(),
            selector: texts.labels(&spec.selector),
        }
    }
}

impl Texts {
    fn port(&mut self, name: Option<String>, number: i64) -> Option<Port> {
        let number = u16::try_from(number).ok().filter(|number| *number > 0)?;
        Some(Port {
            name: self.get(&name.unwrap_or_default()),
            number,
        })
    }

    fn labels(&mut self, labels: &BTreeMap<String, String>) -> Labels {
        let pair = |(name, value): (&String, &String)| (self.get(name), value.as_str().into());
        labels.iter().map(pair).collect()
    }
}

fn is_tcp(protocol: &Option<String>) -> bool {
    protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}

/// `EndpointSlice`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct SliceBody {
    metadata: Labelled,
    endpoints: Option<Vec<EndpointBody>>,
    ports: Option<Vec<SlicePort>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct EndpointBody {
    addresses: Vec<String>,
    conditions: Option<Conditions>,
    node_name: Option<String>,
    zone: Option<String>,
    hints: Option<Hints>,
    target_ref: Option<TargetRef>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Conditions {
    ready: Option<bool>,
    serving: Option<bool>,
    terminating: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Hints {
    for_zones: Option<Vec<Named>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct TargetRef {
    kind: Option<String>,
    name: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SlicePort {
    name: Option<String>,
    port: Option<i64>,
    protocol: Option<String>,
}

impl Body for SliceBody {
    const GROUP: &'static str = "discovery.k8s.io";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "EndpointSlice";
    const PLURAL: &'static str = "endpointslices";
}

/// An EndpointSlice as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Slice {
    /// The name of the Service that it belongs to; empty: none.
    pub(super) service: Box<str>,
    /// Whether an agent published it, to name a leader.
    pub(super) is_ours: bool,
    pub(super) ports: Box<[Port]>,
    pub(super) endpoints: Box<[Endpoint]>,
    /// Endpoints whose address is none.
    pub(super) bad_addresses: u32,
}

/// One pod's address, and whether it may be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) address: IpAddr,
    pub(super) phase: Phase,
    pub(super) node: Option<Arc<str>>,
    pub(super) zone: Option<Arc<str>>,
    /// The zones whose clients it is meant for; `None`: anyone's.
    pub(super) for_zones: Option<Box<[Arc<str>]>>,
    pub(super) pod: Option<Box<str>>,
}

/// Where a pod stands in its life, as far as traffic is concerned; the more usable, the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// It may be used.
    Ready,
    /// It is on its way out, but still serves.
    ServingTerminating,
    /// It may not be used.
    Unusable,
}

impl From<Option<Conditions>> for Phase {
    /// What is not said counts as the API's documentation has it: ready unless told otherwise.
    fn from(conditions: Option<Conditions>) -> Self {
        let conditions = conditions.unwrap_or_default();
        let is_terminating = conditions.terminating.unwrap_or(false);
        let is_ready = conditions.ready.unwrap_or(true);
        if !is_terminating {
            return if is_ready {
                Self::Ready
            } else {
                Self::Unusable
            };
        }
        if conditions.serving.unwrap_or(is_ready) {
            Self::ServingTerminating
        } else {
            Self::Unusable
        }
    }
}

impl SliceBody {
    pub(super) fn kept(self, texts: &mut Texts) -> Slice {
        let label = |name: &str| self.metadata.labels.get(name).map(String::as_str);
        let service = label("kubernetes.io/service-name")
            .unwrap_or_default()
            .into();
        let managed_by = label("endpointslice.kubernetes.io/managed-by");
        let is_ours = managed_by == Some(super::FIELD_MANAGER_DOMAIN);
        let ports = self.ports.unwrap_or_default().into_iter();
        let ports = ports.filter(|port| is_tcp(&port.protocol));
        let mut slice = Slice {
            service,
            is_ours,
            ports: ports
                .filter_map(|port| texts.port(port.name, port.port?))
                .collect(),
            ..Slice::default()
        };
        let mut endpoints = Vec::new();
        for endpoint in self.endpoints.unwrap_or_default() {
            // All addresses of one endpoint are the same pod; consumers take the first.
            match endpoint.addresses.first().map(|text| text.parse()) {
                Some(Ok(address)) => endpoints.push(texts.endpoint(address, endpoint)),
                _ => slice.bad_addresses += 1,
            }
        }
        slice.endpoints = endpoints.into();
        slice
    }
}

impl Texts {
    fn endpoint(&mut self, address: IpAddr, body: EndpointBody) -> Endpoint {
        let mut known = |text: Option<String>| text.map(|text| self.get(&text));
        let (node, zone) = (known(body.node_name), known(body.zone));
        let zones = body.hints.and_then(|hints| hints.for_zones);
        let zones = zones.filter(|zones| !zones.is_empty());
        let pod = body
            .target_ref
            .filter(|target| target.kind.as_deref() == Some("Pod"));
        Endpoint {
            address,
            phase: body.conditions.into(),
            node,
            zone,
            for_zones: zones.map(|zones| zones.iter().map(|zone| self.get(&zone.name)).collect()),
            pod: pod.and_then(|target| target.name).map(Into::into),
        }
    }
}

/// `Deployment`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct DeploymentBody {
    metadata: Labelled,
    spec: DeploymentSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct DeploymentSpec {
    template: Template,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Template {
    metadata: Labelled,
    spec: PodSpec,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodSpec {
    containers: Vec<Container>,
}

impl Body for DeploymentBody {
    const GROUP: &'static str = "apps";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Deployment";
    const PLURAL: &'static str = "deployments";
}

/// A Deployment as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Deployment {
    pub(super) asks: Asks,
    pub(super) annotations: Annotations,
    /// What its pods are labelled with.
    pub(super) labels: Labels,
    /// Where its containers may have `max_inflight` from.
    pub(super) max_inflight: Box<[Place]>,
}

impl DeploymentBody {
    pub(super) fn kept(self, texts: &mut Texts) -> Deployment {
        let template = self.spec.template;
        let asks = self.metadata.asks();
        Deployment {
            asks,
            annotations: self.metadata.own_annotations(),
            labels: texts.labels(&template.metadata.labels),
            max_inflight: places(&template.spec.containers),
        }
    }
}

/// `Pod`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct PodBody {
    metadata: Labelled,
    status: PodStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodStatus {
    phase: Option<String>,
    conditions: Option<Vec<Condition>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    last_transition_time: Option<String>,
}

impl Body for PodBody {
    const GROUP: &'static str = "";
    const VERSION: &'static str = "v1";
    const KIND: &'static str = "Pod";
    const PLURAL: &'static str = "pods";
}

/// A Pod as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Pod {
    /// What the kubelet names its cgroup after.
    pub(super) uid: Box<str>,
    /// Since when it has been ready, in seconds since 1970; `None`: it is not, or it is being
    /// deleted.
    pub(super) ready_since: Option<i64>,
    /// Whether it is being deleted.
    pub(super) is_leaving: bool,
    /// Whether its containers have ended, and none will start.
    pub(super) has_ended: bool,
}

/// What the kubelet calls a Pod that it made of a file: the API's own uid of it is another
/// (`ConfigMirrorAnnotationKey`, v1.34).
const MIRRORED: &str = "kubernetes.io/config.mirror";

impl PodBody {
    pub(super) fn kept(self, uid: Option<String>) -> Pod {
        let conditions = self.status.conditions.unwrap_or_default();
        let ready = conditions
            .iter()
            .find(|condition| condition.kind == "Ready" && condition.status == "True");
        let since = ready.map(|condition| {
            let since = condition.last_transition_time.as_ref();
            // What cannot be read goes behind all others.
            let seconds = |since: &String| Some(since.parse::<Timestamp>().ok()?.as_second());
            since.map_or(0, |since| seconds(since).unwrap_or(i64::MAX))
        });
        let is_leaving = self.metadata.deletion_timestamp.is_some();
        let mirrored = self.metadata.annotations.get(MIRRORED).cloned();
        Pod {
            uid: mirrored.or(uid).unwrap_or_default().into(),
            ready_since: since.filter(|_| !is_leaving),
            is_leaving,
            has_ended: matches!(self.status.phase.as_deref(), Some("Succeeded" | "Failed")),
        }
    }
}

#[cfg(test)]
mod tests;

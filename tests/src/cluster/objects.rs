//! Objects as a cluster with OpenFaaS has them: the Deployment, Service, EndpointSlices and Pods of
//! a function, and of services that are none.
//!
//! They are values to be put into a [`super::Cluster`]; nothing here follows from anything else by
//! itself: when a pod is not ready, its slice has to be put again. Uids follow from names, so that
//! objects can refer to each other before they are put.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    net::IpAddr,
    time::Duration,
};

use serde_json::{Value, json};

use super::store::rfc3339;

/// The label that faas-netes gives to all that belongs to a function.
pub const FUNCTION_LABEL: &str = "faas_function";

type Texts = BTreeMap<String, String>;

/// A function's, or a plain service's, objects. As it begins: one port `http` 8080, no
/// annotations, no `max_inflight`, one replica wished for.
#[derive(Clone, Debug)]
pub struct Function {
    namespace: String,
    name: String,
    /// Empty: headless.
    cluster_ips: Vec<String>,
    ports: Vec<Port>,
    max_inflight: Option<MaxInflight>,
    is_function: bool,
    replicas: u32,
    labels: Texts,
    annotations: Texts,
    deployment_annotations: Texts,
}

#[derive(Clone, Debug)]
struct Port {
    name: String,
    port: u16,
    target_port: u16,
}

#[derive(Clone, Debug)]
enum MaxInflight {
    Literal(String),
    ConfigMap { name: String, key: String },
}

impl Function {
    /// A function with a ClusterIP.
    pub fn new(namespace: &str, name: &str, cluster_ip: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            cluster_ips: vec![cluster_ip.to_owned()],
            ports: vec![Port {
                name: "http".to_owned(),
                port: 8080,
                target_port: 8080,
            }],
            max_inflight: None,
            is_function: true,
            replicas: 1,
            labels: Texts::new(),
            annotations: Texts::new(),
            deployment_annotations: Texts::new(),
        }
    }

    /// A service that OpenFaaS knows nothing of: the label is `app`.
    pub fn plain(namespace: &str, name: &str, cluster_ip: &str) -> Self {
        Self {
            is_function: false,
            ..Self::new(namespace, name, cluster_ip)
        }
    }

    /// Sets `max_inflight` in the container's environment.
    pub fn max_inflight(self, value: impl ToString) -> Self {
        Self {
            max_inflight: Some(MaxInflight::Literal(value.to_string())),
            ..self
        }
    }

    /// Takes `max_inflight` in the container's environment from a ConfigMap.
    pub fn max_inflight_from(self, config_map: &str, key: &str) -> Self {
        Self {
            max_inflight: Some(MaxInflight::ConfigMap {
                name: config_map.to_owned(),
                key: key.to_owned(),
            }),
            ..self
        }
    }

    /// Annotates the Service.
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Annotates the Deployment.
    pub fn deployment_annotation(mut self, key: &str, value: &str) -> Self {
        self.deployment_annotations
            .insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a label to the Service and the Deployment.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Adds a ClusterIP: with one of the other family, the service is dual-stack.
    pub fn and_cluster_ip(mut self, cluster_ip: &str) -> Self {
        self.cluster_ips.push(cluster_ip.to_owned());
        self
    }

    /// Takes the ClusterIPs away.
    pub fn headless(self) -> Self {
        Self {
            cluster_ips: Vec::new(),
            ..self
        }
    }

    /// Replaces the port; `target_port` is the pods'.
    pub fn port(self, name: &str, port: u16, target_port: u16) -> Self {
        Self {
            ports: Vec::new(),
            ..self
        }
        .and_port(name, port, target_port)
    }

    /// Adds a port.
    pub fn and_port(mut self, name: &str, port: u16, target_port: u16) -> Self {
        self.ports.push(Port {
            name: name.to_owned(),
            port,
            target_port,
        });
        self
    }

    /// Sets the number of replicas wished for.
    pub fn replicas(self, replicas: u32) -> Self {
        Self { replicas, ..self }
    }

    /// The Deployment and the Service.
    pub fn objects(&self) -> [Value; 2] {
        [self.deployment(), self.service()]
    }

    /// The Service.
    pub fn service(&self) -> Value {
        let first = self.cluster_ips.first().map_or("None", String::as_str);
        let all = match self.cluster_ips.as_slice() {
            [] => vec!["None".to_owned()],
            some => some.to_vec(),
        };
        let mut families: Vec<&str> = self.cluster_ips.iter().map(|ip| family(ip)).collect();
        if families.is_empty() {
            families.push("IPv4");
        }
        let policy = match families.len() {
            1 => "SingleStack",
            _ => "RequireDualStack",
        };
        let ports = |port: &Port| {
            json!({
                "name": port.name,
                "port": port.port,
                "protocol": "TCP",
                "targetPort": port.target_port,
            })
        };
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid("Service"),
                "labels": self.all_labels(),
                "annotations": self.annotations,
            },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": first,
                "clusterIPs": all,
                "ipFamilies": families,
                "ipFamilyPolicy": policy,
                "internalTrafficPolicy": "Cluster",
                "sessionAffinity": "None",
                "ports": self.ports.iter().map(ports).collect::<Vec<_>>(),
                "selector": self.selector(),
            },
            "status": {"loadBalancer": {}},
        })
    }

    /// The Deployment.
    pub fn deployment(&self) -> Value {
        let mut env = vec![json!({"name": "fprocess", "value": "node index.js"})];
        match &self.max_inflight {
            Some(MaxInflight::Literal(value)) => {
                env.push(json!({"name": "max_inflight", "value": value}));
            }
            Some(MaxInflight::ConfigMap { name, key }) => env.push(json!({
                "name": "max_inflight",
                "valueFrom": {"configMapKeyRef": {"name": name, "key": key}},
            })),
            None => {}
        }
        let ports = |port: &Port| json!({"name": port.name, "containerPort": port.target_port, "protocol": "TCP"});
        json!({
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid("Deployment"),
                "labels": self.all_labels(),
                "annotations": self.deployment_annotations,
            },
            "spec": {
                "replicas": self.replicas,
                "selector": {"matchLabels": self.selector()},
                "template": {
                    "metadata": {"labels": self.selector()},
                    "spec": {"containers": [{
                        "name": self.name,
                        "image": format!("registry.example/{}:latest", self.name),
                        "env": env,
                        "ports": self.ports.iter().map(ports).collect::<Vec<_>>(),
                    }]},
                },
            },
            "status": {"replicas": self.replicas, "readyReplicas": self.replicas},
        })
    }

    /// A pod of it, ready since it was made. `number` tells its pods apart and orders their names.
    pub fn pod(&self, number: u32, ip: &str, node: &str) -> Pod {
        let name = format!("{}-7c9d4f6b5-{number:05}", self.name);
        Pod {
            uid: uid("Pod", &self.namespace, &name),
            namespace: self.namespace.clone(),
            name,
            labels: self.selector(),
            ips: vec![ip.to_owned()],
            node: node.to_owned(),
            zone: None,
            hint: None,
            ready: true,
            serving: true,
            terminating: false,
            ready_since: jiff::Timestamp::now(),
        }
    }

    /// The EndpointSlice `NAME-SUFFIX` with the IPv4 addresses of pods.
    pub fn slice<'a>(&self, suffix: &str, pods: impl IntoIterator<Item = &'a Pod>) -> Value {
        self.slice_of("IPv4", suffix, pods)
    }

    /// The EndpointSlice `NAME-SUFFIX` with the IPv6 addresses of pods.
    pub fn slice6<'a>(&self, suffix: &str, pods: impl IntoIterator<Item = &'a Pod>) -> Value {
        self.slice_of("IPv6", suffix, pods)
    }

    /// What a slice made here is called.
    pub fn slice_name(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.name)
    }

    fn slice_of<'a>(
        &self,
        address_type: &str,
        suffix: &str,
        pods: impl IntoIterator<Item = &'a Pod>,
    ) -> Value {
        let mut labels = self.all_labels();
        for (key, value) in [
            ("kubernetes.io/service-name", self.name.as_str()),
            (
                "endpointslice.kubernetes.io/managed-by",
                "endpointslice-controller.k8s.io",
            ),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        let endpoints: Vec<Value> = pods
            .into_iter()
            .filter_map(|pod| pod.endpoint(address_type))
            .collect();
        let ports =
            |port: &Port| json!({"name": port.name, "port": port.target_port, "protocol": "TCP"});
        json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": self.slice_name(suffix),
                "namespace": self.namespace,
                "labels": labels,
                "ownerReferences": [{
                    "apiVersion": "v1",
                    "kind": "Service",
                    "name": self.name,
                    "uid": self.uid("Service"),
                    "controller": true,
                    "blockOwnerDeletion": true,
                }],
            },
            "addressType": address_type,
            "endpoints": endpoints,
            "ports": self.ports.iter().map(ports).collect::<Vec<_>>(),
        })
    }

    /// The uid of its Service or Deployment.
    pub fn uid(&self, kind: &str) -> String {
        uid(kind, &self.namespace, &self.name)
    }

    fn selector(&self) -> Texts {
        let key = if self.is_function {
            FUNCTION_LABEL
        } else {
            "app"
        };
        Texts::from([(key.to_owned(), self.name.clone())])
    }

    fn all_labels(&self) -> Texts {
        let mut labels = self.selector();
        labels.extend(self.labels.clone());
        labels
    }
}

/// A pod: an endpoint in slices, and an object of its own.
#[derive(Clone, Debug)]
pub struct Pod {
    namespace: String,
    name: String,
    uid: String,
    labels: Texts,
    ips: Vec<String>,
    node: String,
    zone: Option<String>,
    hint: Option<String>,
    ready: bool,
    serving: bool,
    terminating: bool,
    ready_since: jiff::Timestamp,
}

impl Pod {
    /// A pod that belongs to no function: a client.
    pub fn alone(namespace: &str, name: &str, ip: &str, node: &str) -> Self {
        let pod = Function::plain(namespace, name, "").pod(0, ip, node);
        Self {
            name: name.to_owned(),
            uid: uid("Pod", namespace, name),
            ..pod
        }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its uid.
    pub fn uid(&self) -> &str {
        &self.uid
    }

    /// Gives it another uid, as a pod that is made anew under the same name has.
    pub fn with_uid(self, uid: &str) -> Self {
        Self {
            uid: uid.to_owned(),
            ..self
        }
    }

    /// Adds an address, of the other family usually.
    pub fn and_ip(mut self, ip: &str) -> Self {
        self.ips.push(ip.to_owned());
        self
    }

    /// Adds a label.
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Puts it into a zone.
    pub fn zone(self, zone: &str) -> Self {
        Self {
            zone: Some(zone.to_owned()),
            ..self
        }
    }

    /// Hints that clients of a zone should prefer it.
    pub fn hint(self, zone: &str) -> Self {
        Self {
            hint: Some(zone.to_owned()),
            ..self
        }
    }

    /// Makes it ready and serving, or neither.
    pub fn ready(self, ready: bool) -> Self {
        Self {
            ready,
            serving: ready,
            ..self
        }
    }

    /// Lets it terminate: no longer ready, but serving or not.
    pub fn terminating(self, serving: bool) -> Self {
        Self {
            ready: false,
            serving,
            terminating: true,
            ..self
        }
    }

    /// Sets when its Ready condition last changed, as a time before now. Objects have whole
    /// seconds.
    pub fn ready_for(self, age: Duration) -> Self {
        Self {
            ready_since: jiff::Timestamp::now() - age,
            ..self
        }
    }

    /// The Pod.
    pub fn object(&self) -> Value {
        let truth = |is: bool| if is { "True" } else { "False" };
        let since = rfc3339(self.ready_since);
        let condition = |name: &str, is: bool| json!({"type": name, "status": truth(is), "lastTransitionTime": since});
        let ips: Vec<Value> = self.ips.iter().map(|ip| json!({"ip": ip})).collect();
        let mut pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": self.name,
                "namespace": self.namespace,
                "uid": self.uid,
                "labels": self.labels,
            },
            "spec": {
                "nodeName": self.node,
                "containers": [{"name": "main", "image": "registry.example/main:latest"}],
            },
            "status": {
                "phase": "Running",
                "podIP": self.ips.first(),
                "podIPs": ips,
                "conditions": [
                    condition("Initialized", true),
                    condition("PodScheduled", true),
                    condition("ContainersReady", self.serving),
                    condition("Ready", self.ready || self.serving),
                ],
            },
        });
        if self.terminating {
            pod["metadata"]["deletionTimestamp"] = rfc3339(jiff::Timestamp::now()).into();
            pod["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        }
        pod
    }

    /// What slices say of it; `None` if it has no address of this type.
    fn endpoint(&self, address_type: &str) -> Option<Value> {
        let ip = self.ips.iter().find(|ip| family(ip) == address_type)?;
        let mut endpoint = json!({
            "addresses": [ip],
            "conditions": {
                "ready": self.ready,
                "serving": self.serving,
                "terminating": self.terminating,
            },
            "nodeName": self.node,
            "targetRef": {
                "kind": "Pod",
                "namespace": self.namespace,
                "name": self.name,
                "uid": self.uid,
            },
        });
        if let Some(zone) = &self.zone {
            endpoint["zone"] = zone.as_str().into();
        }
        if let Some(hint) = &self.hint {
            endpoint["hints"] = json!({"forZones": [{"name": hint}]});
        }
        Some(endpoint)
    }
}

/// A Node, in a zone if there is one.
pub fn node(name: &str, zone: Option<&str>) -> Value {
    let mut labels = Texts::from([("kubernetes.io/hostname".to_owned(), name.to_owned())]);
    if let Some(zone) = zone {
        labels.insert("topology.kubernetes.io/zone".to_owned(), zone.to_owned());
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}})
}

/// A Namespace.
pub fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

/// A ConfigMap with one key.
pub fn config_map(namespace: &str, name: &str, key: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {key: value},
    })
}

fn family(ip: &str) -> &'static str {
    match ip.parse() {
        Ok(IpAddr::V6(_)) => "IPv6",
        // What is no address at all is for tests of bad objects.
        _ => "IPv4",
    }
}

/// The same for the same object, another for any other.
fn uid(kind: &str, namespace: &str, name: &str) -> String {
    let mut hasher = DefaultHasher::new();
    (kind, namespace, name).hash(&mut hasher);
    let hash = hasher.finish();
    format!(
        "{:08x}-{:04x}-4000-8000-{:012x}",
        hash >> 32,
        hash >> 16 & 0xffff,
        hash & 0xffff
    )
}

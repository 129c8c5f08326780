//! What is made of objects, as the API would have them.

mod bad;
mod limits;
mod moves;
mod publishing;
mod shapes;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::source::kubernetes::kinds::SliceBody as SliceOf;
use crate::source::kubernetes::object::{Body, Seen};
use crate::source::kubernetes::store::{Told, Unreadable};
use crate::source::kubernetes::texts::Texts;

const IP: &str = "10.96.0.10";

/// A cluster, and what has been told of it.
struct Scene {
    resolver: Resolver,
    texts: Texts,
    told: BTreeMap<ServiceName, Change>,
    /// What the last look told.
    news: BTreeMap<ServiceName, Change>,
    resolved: Resolved,
}

impl Scene {
    fn new(config: &str) -> Self {
        let text = format!("source: kubernetes\n{config}");
        let loaded = Config::parse(&text, "config.yaml", &|_| None).unwrap();
        let mut resolver = Resolver::new(Arc::new(loaded.config), Some("zone-1".into()));
        resolver.store.hear_service(Told::End);
        resolver.store.hear_slice(Told::End);
        resolver.store.hear_deployment(Told::End);
        Self {
            resolver,
            texts: Texts::default(),
            told: BTreeMap::new(),
            news: BTreeMap::new(),
            resolved: Resolved::default(),
        }
    }

    /// Hears that objects are new or changed, all at once.
    fn put<const N: usize>(&mut self, objects: [Value; N]) -> &mut Self {
        for object in objects {
            self.hear(object);
        }
        self.look()
    }

    fn hear(&mut self, object: Value) {
        let texts = &mut self.texts;
        let store = &mut self.resolver.store;
        match object["kind"].as_str().unwrap() {
            "Service" => {
                store.hear_service(told(object, |body: ServiceBody, uid| body.kept(uid, texts)))
            }
            "EndpointSlice" => {
                store.hear_slice(told(object, |body: SliceOf, _| body.kept(texts)));
            }
            "Deployment" => {
                store.hear_deployment(told(object, |body: DeploymentBody, _| body.kept(texts)))
            }
            kind => panic!("no table of {kind}"),
        }
    }

    fn remove(&mut self, kind: &str, name: &str) -> &mut Self {
        self.hear_gone(kind, name);
        self.look()
    }

    fn hear_gone(&mut self, kind: &str, name: &str) {
        let store = &mut self.resolver.store;
        match kind {
            "Service" => store.hear_service(Told::Gone(key(name))),
            "EndpointSlice" => store.hear_slice(Told::Gone(key(name))),
            _ => store.hear_deployment(Told::Gone(key(name))),
        }
    }

    fn config_maps_in_use(&self) -> usize {
        let maps = ["limits", "more"].iter();
        maps.filter(|map| self.resolver.needs(&key(map)).is_some())
            .count()
    }

    fn config_map(&mut self, name: &str, says: ConfigMap) -> &mut Self {
        self.resolver.hear_config_map(key(name), says);
        self.look()
    }

    fn look(&mut self) -> &mut Self {
        self.resolved = self.resolver.resolve();
        self.news = std::mem::take(&mut self.resolved.changes);
        self.told.extend(self.news.clone());
        self.told
            .retain(|_, change| change.service.is_some() || !change.problems.is_empty());
        self
    }

    fn service(&self, name: &str) -> Option<Arc<model::Service>> {
        self.told.get(&service_name(name))?.service.clone()
    }

    fn limit(&self, name: &str) -> u32 {
        let service = self.service(name).expect("it is balanced");
        service.max_inflight.value
    }

    fn frontends(&self, name: &str) -> Vec<String> {
        let service = self.service(name).expect("it is balanced");
        service.frontends.iter().map(ToString::to_string).collect()
    }

    fn backends(&self, name: &str) -> Vec<String> {
        let service = self.service(name).expect("it is balanced");
        let backends = service.backends.iter();
        backends.map(|it| it.address.to_string()).collect()
    }

    /// What is wrong, as `kind name: message`, of all services.
    fn problems(&self) -> Vec<String> {
        let all = self.told.values().flat_map(|change| &change.problems);
        all.map(|it| format!("{} {}: {}", it.kind, it.name, it.message))
            .collect()
    }

    #[track_caller]
    fn assert_problem(&self, text: &str) {
        let problems = self.problems();
        let found = problems.iter().filter(|it| it.contains(text)).count();
        assert_eq!(found, 1, "{text}: {problems:?}");
    }
}

fn told<B: Body, T>(object: Value, kept: impl FnOnce(B, Option<String>) -> T) -> Told<T> {
    let seen: Seen<B> = serde_json::from_value(object).unwrap();
    let (key, uid) = (seen.key(), seen.meta.uid.clone());
    match seen.body {
        Ok(body) => Told::Put(key, kept(body, uid)),
        Err(error) => {
            let why = error.to_string();
            Told::PutUnreadable(key, Unreadable { uid, why })
        }
    }
}

fn key(name: &str) -> Key {
    Key {
        namespace: "fn".into(),
        name: name.into(),
    }
}

fn service_name(name: &str) -> ServiceName {
    ServiceName::new("fn", name).unwrap()
}

/// A Service of a function.
fn service(name: &str, ip: &str) -> Value {
    json!({
        "kind": "Service",
        "metadata": {
            "name": name, "namespace": "fn", "uid": format!("uid-{name}"),
            "labels": {"faas_function": name},
        },
        "spec": {
            "type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
            "selector": {"faas_function": name},
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP", "targetPort": 8080}],
        },
    })
}

fn annotated(mut object: Value, name: &str, value: &str) -> Value {
    object["metadata"]["annotations"][format!("idlefirst.dev/{name}")] = value.into();
    object
}

/// Its Deployment, with these variables.
fn deployment(name: &str, env: Value) -> Value {
    json!({
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "fn", "labels": {"faas_function": name}},
        "spec": {"template": {
            "metadata": {"labels": {"faas_function": name}},
            "spec": {"containers": [{"name": name, "env": env}]},
        }},
    })
}

fn literal(limit: &str) -> Value {
    json!([{"name": "max_inflight", "value": limit}])
}

/// A slice of it.
fn slice(of: &str, name: &str, endpoints: Value) -> Value {
    json!({
        "kind": "EndpointSlice",
        "metadata": {
            "name": name, "namespace": "fn",
            "labels": {"kubernetes.io/service-name": of},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    })
}

fn ready(address: &str) -> Value {
    json!({"addresses": [address], "conditions": {"ready": true}})
}

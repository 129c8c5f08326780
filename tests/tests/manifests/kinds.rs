//! Whether objects are what the API server takes: each becomes its type and must come back as it
//! was, so that a misspelt key, which types leave out, is noticed; and names refer to something.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::api::{
    apps::v1::{DaemonSet, Deployment},
    core::v1::{ConfigMap, Namespace, Pod, Service, ServiceAccount},
    rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

/// Checks every object, and that no two have the same name.
pub fn check_all(objects: &[Value]) -> Result<()> {
    let mut names = BTreeSet::new();
    for object in objects {
        let name = name_of(object)?;
        check(object).with_context(|| name.clone())?;
        ensure!(names.insert(name.clone()), "{name} is there twice");
    }
    for object in objects {
        refers_to_something(object, &names).with_context(|| name_of(object).unwrap_or_default())?;
    }
    Ok(())
}

/// `Kind namespace/name`, by which others refer to it.
pub fn name_of(object: &Value) -> Result<String> {
    let kind = object["kind"].as_str().context("an object has no kind")?;
    let name = object["metadata"]["name"]
        .as_str()
        .with_context(|| format!("a {kind} has no name"))?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("");
    Ok(format!("{kind} {namespace}/{name}"))
}

fn check(object: &Value) -> Result<()> {
    let version = object["apiVersion"].as_str().context("no apiVersion")?;
    let kind = object["kind"].as_str().context("no kind")?;
    let namespaced = object["metadata"]["namespace"].is_string();
    let cluster_wide = matches!(kind, "Namespace" | "ClusterRole" | "ClusterRoleBinding");
    ensure!(
        namespaced != cluster_wide,
        "it should {}have a namespace",
        if cluster_wide { "not " } else { "" }
    );
    match (version, kind) {
        ("v1", "Namespace") => comes_back::<Namespace>(object),
        ("v1", "ServiceAccount") => comes_back::<ServiceAccount>(object),
        ("v1", "ConfigMap") => comes_back::<ConfigMap>(object),
        ("v1", "Service") => comes_back::<Service>(object),
        ("v1", "Pod") => comes_back::<Pod>(object),
        ("apps/v1", "DaemonSet") => comes_back::<DaemonSet>(object),
        ("apps/v1", "Deployment") => comes_back::<Deployment>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRole") => comes_back::<ClusterRole>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => {
            comes_back::<ClusterRoleBinding>(object)
        }
        ("rbac.authorization.k8s.io/v1", "Role") => comes_back::<Role>(object),
        ("rbac.authorization.k8s.io/v1", "RoleBinding") => comes_back::<RoleBinding>(object),
        ("monitoring.coreos.com/v1", "ServiceMonitor") => comes_back::<ServiceMonitor>(object),
        ("monitoring.coreos.com/v1", "PrometheusRule") => comes_back::<PrometheusRule>(object),
        _ => bail!("{version} {kind} is not expected here"),
    }
}

fn comes_back<T: DeserializeOwned + Serialize>(object: &Value) -> Result<()> {
    let typed: T = serde_json::from_value(object.clone())?;
    let back = serde_json::to_value(typed)?;
    if let Some(path) = difference(object, &back) {
        bail!("{path} is lost when it is read as its type: a misspelt key?");
    }
    Ok(())
}

/// The first path at which two values differ.
fn difference(left: &Value, right: &Value) -> Option<String> {
    match (left, right) {
        (Value::Object(one), Value::Object(other)) => {
            one.keys().chain(other.keys()).find_map(|key| {
                let (one, other) = (&left[key], &right[key]);
                difference(one, other).map(|path| format!("/{key}{path}"))
            })
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => one
            .iter()
            .zip(other)
            .enumerate()
            .find_map(|(at, (one, other))| {
                difference(one, other).map(|path| format!("/{at}{path}"))
            }),
        _ => (left != right).then(|| format!(" ({left})")),
    }
}

fn refers_to_something(object: &Value, names: &BTreeSet<String>) -> Result<()> {
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("");
    let exists = |kind: &str, namespace: &str, name: &Value| {
        let name = name.as_str().unwrap_or("");
        let wanted = format!("{kind} {namespace}/{name}");
        ensure!(names.contains(&wanted), "there is no {wanted}");
        Ok(())
    };
    match object["kind"].as_str().unwrap_or("") {
        kind @ ("ClusterRoleBinding" | "RoleBinding") => {
            let role = kind.trim_end_matches("Binding");
            exists(role, namespace, &object["roleRef"]["name"])?;
            for subject in object["subjects"].as_array().context("no subjects")? {
                let home = subject["namespace"].as_str().unwrap_or("");
                exists("ServiceAccount", home, &subject["name"])?;
            }
        }
        "DaemonSet" => {
            let pod = &object["spec"]["template"]["spec"];
            exists("ServiceAccount", namespace, &pod["serviceAccountName"])?;
            mounts_exist(pod)?;
            for volume in pod["volumes"].as_array().context("no volumes")? {
                if let Some(map) = volume.get("configMap") {
                    exists("ConfigMap", namespace, &map["name"])?;
                }
            }
            selects_itself(object)?;
        }
        "Deployment" => selects_itself(object)?,
        // It selects Services by labels that the agent's own has, which has the agent's name.
        "ServiceMonitor" => exists("Service", namespace, &object["metadata"]["name"])?,
        _ => {}
    }
    Ok(())
}

fn mounts_exist(pod: &Value) -> Result<()> {
    let names = |list: &Value| -> BTreeSet<String> {
        let entries = list.as_array().into_iter().flatten();
        entries.map(|entry| entry["name"].to_string()).collect()
    };
    let mounted = names(&pod["containers"][0]["volumeMounts"]);
    ensure!(
        mounted == names(&pod["volumes"]),
        "volumes and mounts differ"
    );
    Ok(())
}

fn selects_itself(object: &Value) -> Result<()> {
    let labels = &object["spec"]["template"]["metadata"]["labels"];
    let selector = object["spec"]["selector"]["matchLabels"].as_object();
    for (key, value) in selector.context("no selector")? {
        ensure!(
            &labels[key] == value,
            "its pods lack the label {key}: {value}"
        );
    }
    Ok(())
}

/// Of the Prometheus operator's kinds, what is used here: they are in no crate.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Custom<S> {
    api_version: String,
    kind: String,
    metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta,
    spec: S,
}

type ServiceMonitor = Custom<ServiceMonitorSpec>;
type PrometheusRule = Custom<PrometheusRuleSpec>;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ServiceMonitorSpec {
    selector: k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector,
    endpoints: Vec<Endpoint>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Endpoint {
    port: String,
    path: String,
    interval: String,
    relabelings: Vec<Relabeling>,
    honor_labels: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Relabeling {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    source_labels: Vec<String>,
    target_label: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replacement: Option<String>,
}

/// The same as a file of rules.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrometheusRuleSpec {
    pub groups: Vec<Group>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    pub rules: Vec<Rule>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    pub alert: String,
    pub expr: String,
    #[serde(default, rename = "for", skip_serializing_if = "Option::is_none")]
    pub lasting: Option<String>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub annotations: std::collections::BTreeMap<String, String>,
}

#[test]
fn a_misspelt_key_is_found() {
    let account = serde_json::json!({
        "apiVersion": "v1", "kind": "ServiceAccount",
        "metadata": {"name": "a", "namespace": "b", "label": {"c": "d"}},
    });
    let error = check(&account).unwrap_err().to_string();
    assert!(error.contains("/metadata/label"), "{error}");
}

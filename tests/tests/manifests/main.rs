//! What lies in `deploy/`: every manifest is what it says it is, and everything that is written
//! down twice is the same twice.
//!
//! Needs no root and no cluster. Copies are made anew, instead of compared, with
//! `UPDATE_DOCS=1 cargo test -p tests --test manifests`; that one needs `helm`, or the Python
//! package `helm-python-sdk`, to render the chart.

mod build;
mod chart;
mod kinds;
mod watching;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn deploy() -> PathBuf {
    repository().join("deploy")
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The documents of a YAML file, without empty ones.
fn documents(text: &str) -> Result<Vec<Value>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)?;
    Ok(documents.into_iter().filter(|it| !it.is_null()).collect())
}

fn objects(path: &Path) -> Result<Vec<Value>> {
    documents(&read(path)?).with_context(|| format!("in {}", path.display()))
}

/// Whether copies are to be made anew.
fn updating() -> bool {
    std::env::var_os("UPDATE_DOCS").is_some()
}

/// Compares a copy with what it is a copy of, or makes it anew.
fn expect_copy(path: &Path, text: &str) -> Result<()> {
    if updating() {
        replace(path, text)?;
    }
    ensure!(
        read(path)? == text,
        "{} is out of date; run: UPDATE_DOCS=1 cargo test -p tests --test manifests",
        path.display()
    );
    Ok(())
}

/// Writes a file at once, for tests that run beside this one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text)
        .and_then(|()| fs::rename(&new, path))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// What the agent's own binary prints.
fn idlefirst(arguments: &[&str]) -> Result<String> {
    let output = Command::new(tests::agent::binary()?)
        .args(arguments)
        .env_clear()
        .output()?;
    ensure!(
        output.status.success(),
        "idlefirst {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

const OVERLAYS: [&str; 5] = [
    "privileged",
    "publish-leader",
    "monitoring",
    "admin-token",
    "uninstall",
];

#[test]
fn what_kustomize_builds_is_valid() -> Result<()> {
    let base = build::base()?;
    assert_eq!(base.len(), 6, "objects of the base");
    kinds::check_all(&base)?;
    for name in OVERLAYS {
        let overlay = build::kustomize(&deploy().join("kustomize/overlays").join(name))?;
        kinds::check_all(&overlay).with_context(|| format!("overlay {name}"))?;
        assert_ne!(overlay, base, "overlay {name} changes nothing");
    }
    Ok(())
}

#[test]
fn examples_are_valid() -> Result<()> {
    let mut seen = 0;
    for entry in fs::read_dir(deploy().join("examples"))? {
        let path = entry?.path();
        kinds::check_all(&objects(&path)?).with_context(|| path.display().to_string())?;
        seen += 1;
    }
    ensure!(seen > 0, "there are no examples");
    Ok(())
}

#[test]
fn the_annotations_of_the_examples_are_settings() -> Result<()> {
    const NO_SETTINGS: [&str; 2] = ["enabled", "publish-leader"];
    let (mut functions, mut seen) = (serde_json::Map::new(), 0);
    for entry in fs::read_dir(deploy().join("examples"))? {
        for object in objects(&entry?.path())? {
            let mut settings = json!({});
            let annotations = object["metadata"]["annotations"].as_object();
            for (name, value) in annotations.into_iter().flatten() {
                let name = name.strip_prefix("idlefirst.dev/").context("not ours")?;
                if NO_SETTINGS.contains(&name) {
                    continue;
                }
                let pointer = name.replace('-', "_");
                let place = pointer
                    .split('.')
                    .fold(&mut settings, |at, key| &mut at[key]);
                *place = serde_saphyr::from_str(value.as_str().context("no text")?)?;
                seen += 1;
            }
            let name = object["metadata"]["name"].as_str().context("no name")?;
            functions.insert(name.to_owned(), settings);
        }
    }
    ensure!(seen > 5, "only {seen} annotations");
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("annotations.yaml");
    let config = json!({"source": "kubernetes", "functions": functions});
    fs::write(&file, config.to_string())?;
    idlefirst(&["config", "check", file.to_str().context("path")?]).map(drop)
}

#[test]
fn the_agent_gets_no_more_than_it_needs() -> Result<()> {
    let base = build::base()?;
    let agent = build::one(&base, "DaemonSet")?["spec"]["template"]["spec"].clone();
    let context = &agent["containers"][0]["securityContext"];
    assert_eq!(context["privileged"], false);
    assert_eq!(context["allowPrivilegeEscalation"], false);
    assert_eq!(context["readOnlyRootFilesystem"], true);
    assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
    assert_eq!(
        context["capabilities"]["add"],
        json!(["BPF", "NET_ADMIN", "PERFMON"])
    );
    assert!(agent["hostPID"].is_null() && agent["hostIPC"].is_null());

    // The base changes nothing in the cluster but Events, and sees no secret.
    let rules = build::one(&base, "ClusterRole")?["rules"].clone();
    let mut allowed = BTreeMap::new();
    for rule in rules.as_array().context("rules")? {
        for resource in rule["resources"].as_array().context("resources")? {
            let resource = resource.as_str().context("a name")?;
            allowed.insert(resource, rule["verbs"].to_string());
        }
    }
    // What is watched is never asked for by itself.
    for followed in ["services", "endpointslices", "deployments", "pods"] {
        assert_eq!(allowed[followed], r#"["list","watch"]"#, "{followed}");
    }
    for rule in rules.as_array().context("rules")? {
        let words = |key: &str| rule[key].as_array().cloned().unwrap_or_default();
        let writes = words("verbs")
            .iter()
            .any(|verb| !["get", "list", "watch"].contains(&verb.as_str().unwrap_or("")));
        assert!(!writes || words("resources") == ["events"], "{rule}");
        let all = words("resources").into_iter().chain(words("apiGroups"));
        for word in all {
            assert!(word != "*" && word != "secrets", "{rule}");
        }
    }
    Ok(())
}

/// The values in which the cluster's file differs from what the agent has without a file.
const DIFFERENCES: [(&str, &str); 4] = [
    ("source: file", "source: kubernetes"),
    ("  cgroup: null", "  cgroup: /host/sys/fs/cgroup"),
    (
        "  pin_path: /sys/fs/bpf/idlefirst",
        "  pin_path: /host/sys/fs/bpf/idlefirst",
    ),
    ("    format: text", "    format: json"),
];

/// Every key at its default, without comments and what is unset, made fit for a cluster.
fn cluster_config() -> Result<String> {
    let defaults = idlefirst(&["config", "defaults"])?;
    let mut config = String::new();
    for line in defaults.lines() {
        let changed = DIFFERENCES.iter().find(|(from, _)| line == *from);
        let line = changed.map_or(line, |(_, to)| to);
        let is_comment = line.trim_start().starts_with('#');
        let is_unset = line.ends_with(": null") || line == "services: []";
        if !line.is_empty() && !is_comment && !is_unset {
            config.push_str(line);
            config.push('\n');
        }
    }
    for (_, to) in DIFFERENCES {
        ensure!(config.lines().any(|line| line == to), "no line {to:?}");
    }
    Ok(config)
}

/// In this order: what the chart renders to holds the copies before it.
#[test]
fn what_is_written_twice_is_the_same_twice() -> Result<()> {
    config_copies()?;
    watching::copies()?;
    chart::copies()
}

fn config_copies() -> Result<()> {
    let config = cluster_config()?;
    let indented: String = config.lines().map(|line| format!("    {line}\n")).collect();
    let map = format!(
        "# Made from `idlefirst config defaults` by: UPDATE_DOCS=1 cargo test -p tests --test manifests\n\
         apiVersion: v1\n\
         kind: ConfigMap\n\
         metadata:\n  name: idlefirst\n  namespace: idlefirst-system\n  \
           labels:\n    app.kubernetes.io/name: idlefirst\n\
         data:\n  config.yaml: |\n{indented}"
    );
    expect_copy(&deploy().join("kustomize/base/config-map.yaml"), &map)?;
    expect_copy(&deploy().join("helm/idlefirst/files/config.yaml"), &config)
}

#[test]
fn the_agent_takes_the_configuration() -> Result<()> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cluster-config.yaml");
    let held = build::one(&build::base()?, "ConfigMap")?["data"]["config.yaml"].clone();
    fs::write(&file, held.as_str().context("config.yaml")?)?;
    idlefirst(&["config", "check", file.to_str().context("path")?])?;
    Ok(())
}

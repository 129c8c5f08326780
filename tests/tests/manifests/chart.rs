//! The Helm chart: rendered, it is what kustomize builds.
//!
//! What it renders to is kept beside it, with a mark of the chart that was rendered, so that the
//! comparison needs no `helm`, and a chart that was changed without being rendered is noticed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{build, deploy, idlefirst, kinds, objects, read, replace, updating};

/// The chart with its own values.
const DEFAULT: &str = "rendered.yaml";
/// The chart with [`everything`].
const FULL: &str = "rendered-full.yaml";

/// The chart when steering is to end.
const UNINSTALL: &str = "rendered-uninstall.yaml";

/// Everything on, as on the overlays; the dashboard is compared by `watching`.
fn everything() -> Value {
    json!({
        "privileged": true,
        "adminToken": {"secretName": "idlefirst-admin-token"},
        "publishLeader": {"enabled": true},
        "monitoring": {"serviceMonitor": {"enabled": true}, "prometheusRule": {"enabled": true}},
    })
}

fn directory() -> PathBuf {
    deploy().join("helm/idlefirst")
}

#[test]
fn the_chart_renders_to_what_kustomize_builds() -> Result<()> {
    const ALL: [&str; 4] = ["privileged", "admin-token", "publish-leader", "monitoring"];
    for (name, components) in [
        (DEFAULT, [].as_slice()),
        (FULL, &ALL),
        (UNINSTALL, &["uninstall"]),
    ] {
        let kustomized = build::with_components(components)?;
        let rendered = objects(&deploy().join("helm").join(name))?;
        kinds::check_all(&rendered).with_context(|| name.to_owned())?;
        let (rendered, kustomized) = (comparable(rendered)?, comparable(kustomized)?);
        for name in rendered.keys().chain(kustomized.keys()) {
            assert_eq!(rendered.get(name), kustomized.get(name), "{name}");
        }
    }
    Ok(())
}

#[test]
fn the_schema_knows_every_value_and_no_other() -> Result<()> {
    let values: Value = serde_saphyr::from_str(&read(&directory().join("values.yaml"))?)?;
    let schema: Value = serde_json::from_str(&read(&directory().join("values.schema.json"))?)?;
    let keys = |value: &Value| -> Vec<String> {
        let keys = value.as_object().into_iter().flat_map(|map| map.keys());
        keys.filter(|key| *key != "global").cloned().collect()
    };
    let sorted = |mut keys: Vec<String>| {
        keys.sort();
        keys
    };
    assert_eq!(
        sorted(keys(&values)),
        sorted(keys(&schema["properties"])),
        "values.yaml and values.schema.json"
    );
    for section in ["image", "host", "monitoring", "publishLeader", "adminToken"] {
        assert_eq!(
            sorted(keys(&values[section])),
            sorted(keys(&schema["properties"][section]["properties"])),
            "{section}"
        );
    }
    assert_eq!(schema["additionalProperties"], false);
    Ok(())
}

/// Names under `defaults` and `functions` that stand for others there.
const SHORT: [&str; 5] = [
    "queue_timeout_ms",
    "queue_buffer_size",
    "max_retries",
    "health_check_interval_ms",
    "queue.retries",
];

#[test]
fn the_schema_knows_every_key_of_the_configuration_and_no_other() -> Result<()> {
    let defaults: Value = serde_saphyr::from_str(&idlefirst(&["config", "defaults"])?)?;
    let text = read(&directory().join("values.schema.json"))?;
    let schema: Value = serde_json::from_str(&text)?;
    for (section, definition) in [("agent", "agent"), ("defaults", "settings")] {
        let mut expected = paths(&defaults[section], |value| value);
        if section == "defaults" {
            expected.extend(SHORT.map(str::to_owned));
        }
        let known = paths(
            &schema["$defs"][definition]["properties"],
            |value| &value["properties"],
        );
        assert_eq!(known, expected, "{section}");
    }
    Ok(())
}

/// The keys of a mapping, and of the mappings in it; `inner` leads into those.
fn paths(mapping: &Value, inner: impl Fn(&Value) -> &Value) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for (key, value) in mapping.as_object().into_iter().flatten() {
        let within = inner(value).as_object().into_iter().flatten();
        paths.extend(within.map(|(name, _)| format!("{key}.{name}")));
        paths.insert(key.clone());
    }
    paths
}

/// Objects by name, without what only one of the two has: Helm makes no namespace of its own, and
/// adds labels; the file in the ConfigMap may be laid out in another way.
fn comparable(objects: Vec<Value>) -> Result<BTreeMap<String, Value>> {
    let mut map = BTreeMap::new();
    for mut object in objects {
        if object["kind"] == "Namespace" {
            continue;
        }
        if let Some(labels) = object["metadata"]["labels"].as_object_mut() {
            labels.retain(|key, _| key != "helm.sh/chart" && key != "app.kubernetes.io/managed-by");
        }
        if let Some(file) = object["data"]["config.yaml"].as_str() {
            object["data"]["config.yaml"] = serde_saphyr::from_str(file)?;
        }
        map.insert(kinds::name_of(&object)?, object);
    }
    Ok(map)
}

/// What the chart renders to is kept for the chart as it is now.
pub fn copies() -> Result<()> {
    kept(DEFAULT, &json!({}))?;
    kept(FULL, &everything())?;
    kept(UNINSTALL, &json!({"uninstall": true}))
}

fn kept(name: &str, values: &Value) -> Result<()> {
    let path = deploy().join("helm").join(name);
    let mark = format!("# chart {:016x}", digest(&directory())?);
    if updating() {
        let text = format!(
            "# What the chart renders to; made by: UPDATE_DOCS=1 cargo test -p tests --test manifests\n\
             {mark}\n{}",
            render(values)?
        );
        replace(&path, &text)?;
    }
    ensure!(
        read(&path)?.lines().nth(1) == Some(&mark),
        "{} is not of this chart; with helm on PATH, run: UPDATE_DOCS=1 cargo test -p tests --test manifests",
        path.display()
    );
    Ok(())
}

const RELEASE: &str = "idlefirst";
const NAMESPACE: &str = "idlefirst-system";

/// Renders with Helm itself, or with the Python package that holds Helm as a library.
fn render(values: &Value) -> Result<String> {
    const LIBRARY: &str = "import json, sys, helm_python\n\
        files = helm_python.Chart.load(sys.argv[1]).render(\
            json.loads(sys.argv[2]), name=sys.argv[3], namespace=sys.argv[4])\n\
        print('\\n---\\n'.join(text.strip() for path, text in sorted(files.items())\
            if path.endswith('.yaml') and text.strip()))\n";
    let chart = directory();
    let values = values.to_string();
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("values.json");
    fs::write(&file, &values)?;
    let mut helm = Command::new("helm");
    helm.args(["template", RELEASE, "--namespace", NAMESPACE, "--values"])
        .args([&file, &chart]);
    let mut library = Command::new("python3");
    library
        .args(["-c", LIBRARY])
        .arg(&chart)
        .args([&values, RELEASE, NAMESPACE]);
    let mut said = String::new();
    for mut command in [helm, library] {
        match command.output() {
            Ok(output) if output.status.success() => return Ok(String::from_utf8(output.stdout)?),
            Ok(output) => said.push_str(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => said.push_str(&format!("{:?}: {error}\n", command.get_program())),
        }
    }
    bail!("the chart was not rendered; install helm, or pip install helm-python-sdk:\n{said}")
}

/// A mark of everything in a directory (FNV-1a, 64 bits): it tells apart, it does not protect.
fn digest(directory: &Path) -> Result<u64> {
    let mut files = Vec::new();
    collect(directory, &mut files)?;
    files.sort();
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for file in files {
        let name = file.strip_prefix(directory)?.display().to_string();
        let bytes = fs::read(&file)?;
        for byte in name.bytes().chain([0]).chain(bytes).chain([0]) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
    Ok(hash)
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}

//! What `kustomize build` makes of a directory, for the part of kustomize that `deploy/` uses:
//! resources, components, and JSON patches that replace, remove, and add to mappings and at the end
//! of lists. Anything else is refused, so that nothing is built here in another way than kustomize
//! would.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::Value;

use super::{deploy, objects, read};

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Kustomization {
    api_version: String,
    kind: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    components: Vec<String>,
    #[serde(default)]
    patches: Vec<Patch>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    target: Target,
    path: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    group: String,
    version: String,
    kind: String,
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Operation {
    op: String,
    path: String,
    value: Option<Value>,
}

/// The objects of the base.
pub fn base() -> Result<Vec<Value>> {
    kustomize(&deploy().join("kustomize/base"))
}

/// The objects of a directory with a kustomization.
pub fn kustomize(directory: &Path) -> Result<Vec<Value>> {
    let mut built = Vec::new();
    add(directory, "Kustomization", &mut built)?;
    Ok(built)
}

/// The base with these components.
pub fn with_components(names: &[&str]) -> Result<Vec<Value>> {
    let mut built = base()?;
    for name in names {
        let directory = deploy().join("kustomize/components").join(name);
        add(&directory, "Component", &mut built)?;
    }
    Ok(built)
}

/// The only object of a kind.
pub fn one<'o>(objects: &'o [Value], kind: &str) -> Result<&'o Value> {
    let mut found = objects.iter().filter(|object| object["kind"] == kind);
    match (found.next(), found.next()) {
        (Some(object), None) => Ok(object),
        (None, _) => bail!("there is no {kind}"),
        _ => bail!("there is more than one {kind}"),
    }
}

/// Adds what `directory` holds to what is built, and changes that as it says.
fn add(directory: &Path, kind: &str, built: &mut Vec<Value>) -> Result<()> {
    let file = directory.join("kustomization.yaml");
    let whole: Kustomization =
        serde_saphyr::from_str(&read(&file)?).with_context(|| format!("in {}", file.display()))?;
    let version = match kind {
        "Component" => "kustomize.config.k8s.io/v1alpha1",
        _ => "kustomize.config.k8s.io/v1beta1",
    };
    ensure!(
        whole.kind == kind && whole.api_version == version,
        "{} is no {kind}",
        file.display()
    );
    for resource in &whole.resources {
        let path = directory.join(resource);
        if path.is_dir() {
            add(&path, "Kustomization", built)?;
        } else {
            built.extend(objects(&path)?);
        }
    }
    for component in &whole.components {
        add(&directory.join(component), "Component", built)?;
    }
    for patch in &whole.patches {
        apply(patch, directory, built).with_context(|| format!("{}: a patch", file.display()))?;
    }
    Ok(())
}

fn apply(patch: &Patch, directory: &Path, built: &mut [Value]) -> Result<()> {
    let target = &patch.target;
    let version = format!("{}/{}", target.group, target.version);
    let object = built
        .iter_mut()
        .find(|object| {
            object["kind"] == target.kind.as_str()
                && object["apiVersion"] == version.as_str()
                && object["metadata"]["name"] == target.name.as_str()
        })
        .context("its target does not exist")?;
    let operations: Vec<Operation> = serde_saphyr::from_str(&read(&directory.join(&patch.path))?)?;
    for operation in operations {
        perform(operation, object)?;
    }
    Ok(())
}

fn perform(operation: Operation, object: &mut Value) -> Result<()> {
    let Operation { op, path, value } = operation;
    let (parent, key) = path.rsplit_once('/').context("a path")?;
    let parent = object.pointer_mut(parent);
    let parent = parent.with_context(|| format!("there is nothing to hold {path}"))?;
    match (&*op, value, parent) {
        ("add", Some(value), Value::Array(list)) if key == "-" => list.push(value),
        ("add", Some(value), Value::Object(map)) => {
            map.insert(key.to_owned(), value);
        }
        ("replace", Some(value), parent) => {
            let place = parent.pointer_mut(&format!("/{key}"));
            *place.with_context(|| format!("there is no {path}"))? = value;
        }
        ("remove", None, Value::Object(map)) => {
            let removed = map.remove(key);
            removed.with_context(|| format!("there is no {path}"))?;
        }
        _ => bail!("operation {op:?} on {path}"),
    }
    Ok(())
}

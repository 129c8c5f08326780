//! Patches: merge patches, and server-side apply with owners of fields.
//!
//! Server-side apply is kept simple: lists belong to one manager as a whole, except owner
//! references, which are told apart by uid, and only managers who apply own fields. Called by
//! `answer`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    Kind,
    refused::{BadRequest, Refused},
    store::{Fields, rfc3339},
};

/// A path to a field that has no fields of its own.
type Leaf = Vec<String>;
/// What is not owned: the object's identity.
const IDENTITY: [&[&str]; 8] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "creationTimestamp"],
    &["metadata", "managedFields"],
];

/// Merges a patch into a value: nulls take away, objects go in deep, all else replaces.
pub(super) fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Value::Object(target) = target else {
        return;
    };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(&key);
        } else {
            merge(target.entry(key).or_insert(Value::Null), value);
        }
    }
}

/// Applies a configuration for a manager; gives what the object shall be.
pub(super) fn apply(
    kind: Kind,
    present: Option<Fields>,
    applied: Fields,
    manager: &str,
    force: bool,
) -> Result<Fields, Refused> {
    if applied
        .get("metadata")
        .is_some_and(|metadata| metadata.get("managedFields").is_some_and(|f| !f.is_null()))
    {
        return Err(BadRequest::ManagedFields.into());
    }
    let mut object = Value::Object(present.unwrap_or_default());
    let mut owners = owners(&object);
    let applied = Value::Object(applied);
    let wanted = owned(&applied);
    settle_conflicts(&mut owners, &object, &applied, &wanted, manager, force)?;
    let given_up: Vec<Leaf> = owners
        .get(manager)
        .into_iter()
        .flatten()
        .filter(|leaf| !wanted.contains(*leaf))
        .cloned()
        .collect();
    owners.insert(manager.to_owned(), wanted);
    for leaf in given_up {
        let shared = owners.values().any(|leaves| leaves.contains(&leaf));
        if !shared {
            remove(&mut object, &leaf);
        }
    }
    lay_over(&mut object, &applied);
    owners.retain(|_, leaves| !leaves.is_empty());
    object["metadata"]["managedFields"] = managed_fields(kind, &owners);
    match object {
        Value::Object(fields) => Ok(fields),
        _ => unreachable!("an object stays one"),
    }
}

/// Takes fields with other values from their owners, or refuses that.
fn settle_conflicts(
    owners: &mut BTreeMap<String, BTreeSet<Leaf>>,
    object: &Value,
    applied: &Value,
    wanted: &BTreeSet<Leaf>,
    manager: &str,
    force: bool,
) -> Result<(), Refused> {
    for (owner, leaves) in owners {
        if owner == manager {
            continue;
        }
        let (fought_over, kept): (BTreeSet<Leaf>, BTreeSet<Leaf>) = leaves
            .iter()
            .cloned()
            .partition(|leaf| wanted.contains(leaf) && find(object, leaf) != find(applied, leaf));
        if fought_over.is_empty() {
            continue;
        }
        if !force {
            return Err(Refused::FieldConflict {
                manager: owner.clone(),
                fields: fought_over
                    .iter()
                    .map(|leaf| format!(".{}", leaf.join(".")))
                    .collect(),
            });
        }
        *leaves = kept;
    }
    Ok(())
}

/// Lays a configuration over an object.
fn lay_over(object: &mut Value, applied: &Value) {
    match applied {
        Value::Object(applied) => {
            if !object.is_object() {
                *object = Value::Object(Map::new());
            }
            for (key, value) in applied {
                let field = &mut object[key.as_str()];
                match (key.as_str(), field.as_array_mut(), value.as_array()) {
                    ("ownerReferences", Some(present), Some(new)) => {
                        present.retain(|at| new.iter().all(|owner| owner["uid"] != at["uid"]));
                        present.extend(new.iter().cloned());
                    }
                    _ => lay_over(field, value),
                }
            }
        }
        other => *object = other.clone(),
    }
}

/// Leaves that a configuration makes its manager's.
fn owned(applied: &Value) -> BTreeSet<Leaf> {
    let mut leaves = BTreeSet::new();
    walk(applied, &mut Vec::new(), &mut |path, value| {
        let leaf = !value.is_object() || value.as_object().is_some_and(Map::is_empty);
        let identity = IDENTITY.iter().any(|identity| path == *identity);
        if leaf && !identity && !path.is_empty() {
            leaves.insert(path.to_vec());
        }
    });
    leaves
}

fn walk(value: &Value, path: &mut Vec<String>, visit: &mut impl FnMut(&[String], &Value)) {
    visit(path, value);
    for (key, value) in value.as_object().into_iter().flatten() {
        path.push(key.clone());
        walk(value, path, visit);
        path.pop();
    }
}

fn find<'a>(value: &'a Value, leaf: &[String]) -> Option<&'a Value> {
    leaf.iter().try_fold(value, |at, key| at.get(key))
}

fn remove(value: &mut Value, leaf: &[String]) {
    let [parents @ .., last] = leaf else { return };
    let parent = parents
        .iter()
        .try_fold(value, |at, key| at.as_object_mut()?.get_mut(key));
    if let Some(Value::Object(parent)) = parent {
        parent.remove(last);
    }
}

/// Who owns what, as an object says.
fn owners(object: &Value) -> BTreeMap<String, BTreeSet<Leaf>> {
    object["metadata"]["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["operation"] == "Apply")
        .filter_map(|entry| {
            let mut leaves = BTreeSet::new();
            walk(&entry["fieldsV1"], &mut Vec::new(), &mut |path, value| {
                if !path.is_empty() && value.as_object().is_some_and(Map::is_empty) {
                    let leaf = path.iter().map(|key| key.trim_start_matches("f:"));
                    leaves.insert(leaf.map(str::to_owned).collect());
                }
            });
            Some((entry["manager"].as_str()?.to_owned(), leaves))
        })
        .collect()
}

fn managed_fields(kind: Kind, owners: &BTreeMap<String, BTreeSet<Leaf>>) -> Value {
    let entry = |(manager, leaves): (&String, &BTreeSet<Leaf>)| {
        let mut fields = json!({});
        for leaf in leaves {
            let mut at = &mut fields;
            for key in leaf {
                at = &mut at[format!("f:{key}")];
                if at.is_null() {
                    *at = json!({});
                }
            }
        }
        json!({
            "manager": manager,
            "operation": "Apply",
            "apiVersion": kind.api_version(),
            "time": rfc3339(jiff::Timestamp::now()),
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        })
    };
    owners.iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(value: Value) -> Fields {
        let Value::Object(fields) = value else {
            panic!("an object")
        };
        fields
    }

    fn applied(present: Option<Fields>, config: Value, manager: &str) -> Result<Fields, Refused> {
        apply(Kind::ConfigMap, present, fields(config), manager, false)
    }

    #[test]
    fn a_merge_patch_takes_away_what_is_null() {
        let mut value = json!({"a": {"b": 1, "c": 2}, "d": [1, 2]});
        merge(
            &mut value,
            json!({"a": {"b": null, "e": {"f": 3}}, "d": [4]}),
        );
        assert_eq!(value, json!({"a": {"c": 2, "e": {"f": 3}}, "d": [4]}));
    }

    #[test]
    fn what_a_manager_no_longer_applies_goes_unless_another_does() -> Result<(), Refused> {
        let object = applied(None, json!({"data": {"a": "1", "b": "2", "c": "3"}}), "one")?;
        let object = applied(Some(object), json!({"data": {"b": "2"}}), "two")?;
        let object = applied(Some(object), json!({"data": {"a": "1"}}), "one")?;
        assert_eq!(object["data"], json!({"a": "1", "b": "2"}));
        Ok(())
    }

    #[test]
    fn another_managers_value_is_a_conflict_unless_forced() -> Result<(), Refused> {
        let object = applied(None, json!({"data": {"a": "1"}}), "one")?;
        let refused = applied(Some(object.clone()), json!({"data": {"a": "2"}}), "two");
        assert_eq!(
            refused,
            Err(Refused::FieldConflict {
                manager: "one".to_owned(),
                fields: vec![".data.a".to_owned()]
            })
        );
        let config = fields(json!({"data": {"a": "2"}}));
        let object = apply(Kind::ConfigMap, Some(object), config, "two", true)?;
        assert_eq!(object["data"]["a"], "2");
        let managers = object["metadata"]["managedFields"].as_array();
        assert_eq!(managers.map(Vec::len), Some(1), "the first owns nothing");
        Ok(())
    }
}

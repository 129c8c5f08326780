//! Requests that change objects: create, replace, patch, delete. Called by `answer`.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Value, json};

use super::{
    Kind, apply,
    kind::Target,
    object::Object,
    refused::{BadRequest, Refused},
    requests::Request,
    store::{Decision, Fields, Outcome, Store},
};

/// What the client gets: the object, and how it came about.
pub(super) type Edited = Result<(StatusCode, Arc<Object>), Refused>;

pub(super) fn create(store: &Store, target: &Target, body: &[u8]) -> Edited {
    let kind = target.kind;
    let mut fields = read(target, body)?;
    let generated = text(&fields, "generateName");
    let mut name = text(&fields, "name");
    if name.is_empty() && !generated.is_empty() {
        // Names are told apart by the version: it is never the same again.
        name = format!("{generated}{:05x}", store.revision() + 1);
    }
    if name.is_empty() {
        return Err(Refused::Invalid {
            kind,
            name,
            field: "metadata.name",
            problem: "name or generateName is required",
        });
    }
    if !text(&fields, "resourceVersion").is_empty() {
        return Err(Refused::Invalid {
            kind,
            name,
            field: "metadata.resourceVersion",
            problem: "must not be set on objects to be created",
        });
    }
    server_sets(&mut fields);
    let outcome = store.change(kind, namespace(target), &name, |present| match present {
        Some(_) => Err(Refused::AlreadyExists {
            kind,
            name: name.clone(),
        }),
        None => Ok(Decision::Put(fields)),
    })?;
    Ok((StatusCode::CREATED, outcome.object))
}

pub(super) fn replace(store: &Store, target: &Target, body: &[u8]) -> Edited {
    let (kind, name) = (target.kind, name(target));
    let mut fields = read(target, body)?;
    let asked = text(&fields, "resourceVersion");
    let uid = text(&fields, "uid");
    server_sets(&mut fields);
    let outcome = store.change(kind, namespace(target), name, |present| {
        let Some(present) = present else {
            return Err(Refused::NotFound {
                kind,
                name: name.to_owned(),
            });
        };
        meets(present, &uid, &asked)?;
        if kind == Kind::Lease && asked.is_empty() {
            return Err(Refused::Invalid {
                kind,
                name: name.to_owned(),
                field: "metadata.resourceVersion",
                problem: "must be specified for an update",
            });
        }
        check_immutable(present, &fields)?;
        Ok(Decision::PutIfOther(fields))
    })?;
    Ok((StatusCode::OK, outcome.object))
}

pub(super) fn patch(
    store: &Store,
    target: &Target,
    request: &Request,
    content_type: &str,
    body: &[u8],
) -> Edited {
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/merge-patch+json" => merge(store, target, body),
        "application/apply-patch+yaml" | "application/apply-patch+json" => {
            apply(store, target, request, body)
        }
        _ => Err(Refused::UnsupportedMediaType {
            content_type: content_type.to_owned(),
        }),
    }
}

pub(super) fn delete(store: &Store, target: &Target, body: &[u8]) -> Edited {
    let (kind, name) = (target.kind, name(target));
    let options: Value = if body.is_empty() {
        Value::Null
    } else {
        parse(body)?
    };
    let wish = |field: &str| {
        let wish = options["preconditions"][field].as_str();
        wish.unwrap_or_default().to_owned()
    };
    let (uid, asked) = (wish("uid"), wish("resourceVersion"));
    let outcome = store.change(kind, namespace(target), name, |present| {
        if let Some(present) = present {
            meets(present, &uid, &asked)?;
        }
        Ok(Decision::Delete)
    })?;
    Ok((StatusCode::OK, outcome.object))
}

pub(super) fn delete_object(store: &Store, object: &Object) -> Result<Outcome, Refused> {
    store.change(object.kind, &object.namespace, &object.name, |_| {
        Ok(Decision::Delete)
    })
}

fn merge(store: &Store, target: &Target, body: &[u8]) -> Edited {
    let (kind, name) = (target.kind, name(target));
    let patch: Value = parse(body)?;
    let asked = patch["metadata"]["resourceVersion"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    let outcome = store.change(kind, namespace(target), name, |present| {
        let Some(present) = present else {
            return Err(Refused::NotFound {
                kind,
                name: name.to_owned(),
            });
        };
        meets(present, "", &asked)?;
        let mut value = Value::Object(present.value());
        apply::merge(&mut value, patch);
        match value {
            Value::Object(fields) => {
                check_immutable(present, &fields)?;
                Ok(Decision::PutIfOther(fields))
            }
            _ => Err(BadRequest::Body {
                problem: "a patch must be an object".to_owned(),
            }
            .into()),
        }
    })?;
    Ok((StatusCode::OK, outcome.object))
}

fn apply(store: &Store, target: &Target, request: &Request, body: &[u8]) -> Edited {
    let manager = request.parameter("fieldManager");
    if manager.is_empty() {
        return Err(BadRequest::NoFieldManager.into());
    }
    let force = matches!(request.parameter("force"), "true" | "1");
    let mut fields = read(target, body)?;
    let (uid, asked) = (text(&fields, "uid"), text(&fields, "resourceVersion"));
    server_sets(&mut fields);
    let outcome = store.change(target.kind, namespace(target), name(target), |present| {
        if let Some(present) = present {
            meets(present, &uid, &asked)?;
        }
        let before = present.map(|present| present.value());
        let fields = apply::apply(target.kind, before, fields, manager, force)?;
        if let Some(present) = present {
            check_immutable(present, &fields)?;
        }
        Ok(Decision::PutIfOther(fields))
    })?;
    let status = if outcome.created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    Ok((status, outcome.object))
}

/// Reads an object, and checks that it is what the path says.
fn read(target: &Target, body: &[u8]) -> Result<Fields, Refused> {
    let fields: Fields = parse(body)?;
    let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (field("apiVersion"), field("kind"));
    let absent = api_version.is_empty() && kind.is_empty();
    if !absent && Kind::of(api_version, kind) != Some(target.kind) {
        return Err(BadRequest::Kind {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
        }
        .into());
    }
    for (field, in_path) in [("name", &target.name), ("namespace", &target.namespace)] {
        let in_object = text(&fields, field);
        let differs = in_path
            .as_ref()
            .is_some_and(|in_path| *in_path != in_object);
        if !in_object.is_empty() && differs {
            return Err(BadRequest::Differs {
                field: if field == "name" {
                    "metadata.name"
                } else {
                    "metadata.namespace"
                },
                in_object,
                in_path: in_path.clone().unwrap_or_default(),
            }
            .into());
        }
    }
    Ok(fields)
}

/// Reads JSON or YAML.
fn parse<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, Refused> {
    match serde_json::from_slice(body) {
        Ok(value) => Ok(value),
        Err(_) => serde_saphyr::from_slice(body).map_err(|error| {
            BadRequest::Body {
                problem: error.to_string(),
            }
            .into()
        }),
    }
}

/// Refuses unless the object is the one, and at the version, that the client means.
fn meets(present: &Object, uid: &str, asked: &str) -> Result<(), Refused> {
    let conflict = |asked: &str| {
        Err(Refused::Conflict {
            kind: present.kind,
            name: present.name.clone(),
            now: present.revision,
            asked: asked.to_owned(),
        })
    };
    if !uid.is_empty() && uid != present.uid {
        return conflict(uid);
    }
    if !asked.is_empty() && asked != present.revision.to_string() {
        return conflict(asked);
    }
    Ok(())
}

/// Refuses another family of addresses for a slice that is there.
fn check_immutable(present: &Object, fields: &Fields) -> Result<(), Refused> {
    let before = present.value();
    let field = "addressType";
    if present.kind == Kind::EndpointSlice && before.get(field) != fields.get(field) {
        return Err(Refused::Invalid {
            kind: present.kind,
            name: present.name.clone(),
            field,
            problem: "field is immutable",
        });
    }
    Ok(())
}

/// Leaves to the server what is the server's to say.
fn server_sets(fields: &mut Fields) {
    if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation"] {
            metadata.remove(field);
        }
    } else {
        fields.insert("metadata".to_owned(), json!({}));
    }
}

fn namespace(target: &Target) -> &str {
    target.namespace.as_deref().unwrap_or_default()
}

fn name(target: &Target) -> &str {
    target.name.as_deref().unwrap_or_default()
}

fn text(fields: &Fields, field: &str) -> String {
    fields
        .get("metadata")
        .and_then(|metadata| metadata[field].as_str())
        .unwrap_or_default()
        .to_owned()
}
